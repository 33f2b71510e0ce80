//! The feed-forward block of BlockFFN (arXiv 2507.08771): many small experts, of which a token uses
//! those whose gate is not zero. Every expert is packed on its own, so that a pass reads the weights
//! of the experts that some token uses, and of each token only the experts that it uses.
//!
//! `y = sum over experts i of (a_i SiLU(x U_i^T)) D_i^T`, where `a` `[experts]` are the gates, `U_i`
//! is `[size, width]` and `D_i` `[width, size]`.
//!
//! The sum runs over the experts in order, and goes on from what is there. An expert whose gate is zero
//! adds zero, so leaving it out changes no bit, and neither does the company that a token is in.

mod gated;
mod packed;
#[cfg(test)]
mod tests;

pub use gated::{gated, gated_in_place};
pub use packed::{Packed, Reach, Touched};

use thiserror::Error;

use crate::linear::LinearError;

/// The sizes of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Experts.
    pub experts: usize,
    /// Inner values of an expert.
    pub size: usize,
    /// Values of a token's state.
    pub width: usize,
}

impl Sizes {
    /// The number of weights in the up-projections, which is that of the down-projections; `None` if
    /// it does not fit the address space.
    fn weights(self) -> Option<usize> {
        self.experts.checked_mul(self.size)?.checked_mul(self.width)
    }
}

/// Why a block cannot be.
#[derive(Debug, Error, PartialEq)]
pub enum BlockFfnError {
    /// A weight does not have the stated sizes.
    #[error("{which} has {found} weights, but {} experts of {} x {} need {wanted}", sizes.experts, sizes.size, sizes.width)]
    Shape {
        /// `up_proj` or `down_proj`.
        which: &'static str,
        /// The sizes.
        sizes: Sizes,
        /// What they need.
        wanted: usize,
        /// What was given.
        found: usize,
    },
    /// A size is zero, or the block does not fit the address space.
    #[error("a block of {} experts of {} x {} cannot be", .0.experts, .0.size, .0.width)]
    Sizes(Sizes),
    /// The weight type cannot hold an expert.
    #[error(transparent)]
    Pack(#[from] LinearError),
    /// A gate is not a number.
    #[error("the gate of expert {expert} for token {row} is {value}; the router or its input is not finite")]
    Gate {
        /// The token.
        row: usize,
        /// The expert.
        expert: usize,
        /// The gate.
        value: f32,
    },
}

/// The block by its formula, in double precision; `gates` are `[rows, experts]`.
pub fn reference(sizes: Sizes, [up, down]: [&[f32]; 2], x: &[f32], gates: &[f32]) -> Vec<f64> {
    let Sizes { experts, size, width } = sizes;
    let dot =
        |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum() };
    let mut out = vec![0.0; x.len()];
    for ((x, gates), out) in
        x.chunks_exact(width).zip(gates.chunks_exact(experts)).zip(out.chunks_exact_mut(width))
    {
        for inner in 0..experts * size {
            let u = dot(x, &up[inner * width..][..width]);
            let h = u / (1.0 + (-u).exp()) * f64::from(gates[inner / size]);
            for (column, out) in out.iter_mut().enumerate() {
                *out += h * f64::from(down[column * experts * size + inner]);
            }
        }
    }
    out
}
