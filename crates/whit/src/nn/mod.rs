//! The blocks that all architectures are made of.
