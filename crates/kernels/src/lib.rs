//! The CPU kernels of Whit: attention, linear layers of every weight type, norms, activations,
//! convolution, and their derivatives.
//!
//! Every kernel is one file: a plain `reference`, the fast version on slices, the function on Burn
//! tensors, and a test that compares them. The vector instructions are chosen at run time
//! ([`simd`]); threads share the work through [`parallel`]; [`op`] joins the kernels to Burn.

pub mod activation;
pub mod adamw;
pub mod arithmetic;
pub mod attention;
pub mod block_ffn;
pub mod conv2d;
pub mod cross_entropy;
pub mod embedding;
pub mod linear;
pub mod matmul;
pub mod memory;
pub mod norm;
pub mod op;
pub mod parallel;
pub mod rotary;
pub mod simd;
pub mod softmax;
#[cfg(test)]
mod testing;
mod vector;
