//! Linear layers whose weights are packed once, at load, in every type that Whit knows.

pub mod bfloat16;
pub mod float32;
