//! `Q4_0`: 32 weights of 4 bits and a scale. Bytes: scale (f16), 16 bytes whose low halves are the
//! first 16 levels and whose high halves are the others; a level of 8 means zero.

use half::f16;

use super::{Block, Format, half_at, put_half, search};

/// The format.
#[derive(Debug)]
pub struct Q4_0;

impl Format for Q4_0 {
    const LENGTH: usize = 32;
    const BYTES: usize = 18;
    const BITS: u32 = 4;

    fn decode(bytes: &[u8]) -> Block {
        let mut block = Block { scale: half_at(bytes, 0), ..Block::default() };
        for (i, byte) in bytes[2..18].iter().enumerate() {
            block.levels[i] = byte & 15;
            block.levels[i + 16] = byte >> 4;
        }
        block
    }

    fn encode(block: &Block, bytes: &mut [u8]) {
        put_half(bytes, 0, block.scale);
        for (i, byte) in bytes[2..18].iter_mut().enumerate() {
            *byte = block.levels[i] | block.levels[i + 16] << 4;
        }
    }

    /// The weight of the largest magnitude, with its sign, becomes level 0 (that is -8).
    #[inline(always)]
    fn quantize(weights: &[f32]) -> Block {
        let scale = search::signed_largest(weights) / -8.0;
        let inverse = search::inverse(scale);
        let mut block = Block { scale: f16::from_f32(scale), ..Block::default() };
        for (level, weight) in block.levels.iter_mut().zip(weights) {
            *level = ((weight * inverse + 8.5) as u8).min(15);
        }
        block
    }

    fn values(block: &Block, out: &mut [f32]) {
        let scale = block.scale.to_f32();
        for (out, &level) in out.iter_mut().zip(&block.levels[..32]) {
            *out = (f32::from(level) - 8.0) * scale;
        }
    }
}
