//! Architectures: one file each, made of the shared blocks in [`nn`](crate::nn).
