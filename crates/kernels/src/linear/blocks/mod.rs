//! Blocks of quantised weights in the byte layouts of GGUF files: [`quantize`] writes them,
//! [`dequantize`] reads them.
//!
//! A block holds 32 weights (`Q4_0`, `Q8_0`) or 256 (the K types). Every weight is an unsigned
//! *level* of a few bits; runs of 16 or 32 levels share a scale and, in `Q4_K` and `Q5_K`, a minimum.

mod q4_0;
mod q4_k;
mod q5_k;
mod q6_k;
mod q8_0;
mod search;

use half::f16;

pub(super) use q4_0::Q4_0;
pub(super) use q4_k::Q4K;
pub(super) use q5_k::Q5K;
pub(super) use q6_k::Q6K;
pub(super) use q8_0::Q8_0;

use super::{LinearError, WeightType};
use crate::parallel;
#[cfg(target_arch = "x86_64")]
use crate::simd::Level;

/// Weights that share one integer scale product: the inner width of every block is a multiple.
pub(super) const GROUP: usize = 32;

/// The content of one block, whatever its format. Formats leave what they lack at zero.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Block {
    /// The levels, first weight first; formats of 32 weights use the first 32.
    pub levels: [u8; 256],
    /// The block's scale.
    pub scale: f16,
    /// The scale of the minima (`Q4_K`, `Q5_K`).
    pub min_scale: f16,
    /// Scales of the runs: eight of 6 bits (`Q4_K`, `Q5_K`) or sixteen signed ones (`Q6_K`).
    pub scales: [u8; 16],
    /// Minima of the runs, 6 bits (`Q4_K`, `Q5_K`).
    pub mins: [u8; 8],
}

impl Default for Block {
    fn default() -> Self {
        Self { levels: [0; 256], scale: f16::ZERO, min_scale: f16::ZERO, scales: [0; 16], mins: [0; 8] }
    }
}

/// A block type of GGUF.
pub(super) trait Format: 'static {
    /// Weights in a block.
    const LENGTH: usize;
    /// Bytes of a block in a file.
    const BYTES: usize;
    /// Bits of a level.
    const BITS: u32;

    /// Reads a block from its [`Self::BYTES`] bytes.
    fn decode(bytes: &[u8]) -> Block;
    /// Writes a block's bytes.
    fn encode(block: &Block, bytes: &mut [u8]);
    /// Finds the block nearest to [`Self::LENGTH`] weights.
    fn quantize(weights: &[f32]) -> Block;
    /// The weights that a block stands for.
    fn values(block: &Block, out: &mut [f32]);
}

/// Calls a function that is generic over the [`Format`] of a block type.
macro_rules! with_format {
    ($kind:expr, $function:ident ( $($argument:expr),* ), else $other:expr) => {
        match $kind {
            WeightType::Q4_0 => $function::<Q4_0>($($argument),*),
            WeightType::Q8_0 => $function::<Q8_0>($($argument),*),
            WeightType::Q4K => $function::<Q4K>($($argument),*),
            WeightType::Q5K => $function::<Q5K>($($argument),*),
            WeightType::Q6K => $function::<Q6K>($($argument),*),
            WeightType::F32 | WeightType::Bf16 | WeightType::Int8 => $other,
        }
    };
}
pub(super) use with_format;

/// The size of a block of `kind`: weights and bytes; none for the types that are not blocks.
pub fn size(kind: WeightType) -> Option<(usize, usize)> {
    fn of<F: Format>() -> Option<(usize, usize)> {
        Some((F::LENGTH, F::BYTES))
    }
    with_format!(kind, of(), else None)
}

/// Quantises `weights` (whole rows, one after the other) to the bytes of a GGUF tensor.
///
/// `Q4_K`, `Q5_K` and `Q6_K` search for the scales that make the weighted square error small.
///
/// # Errors
/// [`LinearError::NotBlocks`] for the types that GGUF does not store as blocks, and
/// [`LinearError::Width`] if `weights` do not fill whole blocks.
pub fn quantize(kind: WeightType, weights: &[f32]) -> Result<Vec<u8>, LinearError> {
    fn all<F: Format>(weights: &[f32]) -> Result<Vec<u8>, LinearError> {
        let mut bytes = vec![0; weights.len() / F::LENGTH * F::BYTES];
        parallel::pieces(&mut bytes, F::BYTES * 64, |piece, bytes| {
            let weights = weights[piece * 64 * F::LENGTH..].chunks_exact(F::LENGTH);
            for (bytes, weights) in bytes.chunks_exact_mut(F::BYTES).zip(weights) {
                F::encode(&nearest::<F>(weights), bytes);
            }
        });
        Ok(bytes)
    }
    kind.check_width(weights.len())?;
    with_format!(kind, all(weights), else Err(LinearError::NotBlocks { kind }))
}

/// Reads the bytes of a GGUF tensor of `kind` back to weights, exactly as `ggml` does.
///
/// # Errors
/// [`LinearError::NotBlocks`] for the types that GGUF does not store as blocks, and
/// [`LinearError::Bytes`] if `bytes` is not a whole number of blocks.
pub fn dequantize(kind: WeightType, bytes: &[u8]) -> Result<Vec<f32>, LinearError> {
    fn all<F: Format>(bytes: &[u8]) -> Result<Vec<f32>, LinearError> {
        let count = bytes.len() / F::BYTES;
        if count * F::BYTES != bytes.len() {
            return Err(LinearError::Bytes { expected: count * F::BYTES, found: bytes.len() });
        }
        let mut weights = vec![0.0; count * F::LENGTH];
        parallel::pieces(&mut weights, F::LENGTH * 64, |piece, weights| {
            let blocks = bytes[piece * 64 * F::BYTES..].chunks_exact(F::BYTES);
            for (weights, block) in weights.chunks_exact_mut(F::LENGTH).zip(blocks) {
                F::values(&F::decode(block), weights);
            }
        });
        Ok(weights)
    }
    with_format!(kind, all(bytes), else Err(LinearError::NotBlocks { kind }))
}

/// [`Format::quantize`], compiled for this processor.
pub(super) fn nearest<F: Format>(weights: &[f32]) -> Block {
    #[cfg(target_arch = "x86_64")]
    match crate::simd::level() {
        // SAFETY: the level says that the instructions are there.
        Level::Avx512 => return unsafe { nearest_avx512::<F>(weights) },
        // SAFETY: as above.
        Level::Avx2 => return unsafe { nearest_avx2::<F>(weights) },
        Level::Plain => {}
    }
    F::quantize(weights)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
fn nearest_avx512<F: Format>(weights: &[f32]) -> Block {
    F::quantize(weights)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,f16c")]
fn nearest_avx2<F: Format>(weights: &[f32]) -> Block {
    F::quantize(weights)
}

fn half_at(bytes: &[u8], at: usize) -> f16 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn put_half(bytes: &mut [u8], at: usize, value: f16) {
    bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
}
