//! `Q8_0`: 32 weights of 8 bits and a scale. Bytes: scale (f16), 32 signed levels.

use half::f16;

use super::{Block, Format, half_at, put_half, search};

/// The format; levels are kept with 128 added.
#[derive(Debug)]
pub struct Q8_0;

impl Format for Q8_0 {
    const LENGTH: usize = 32;
    const BYTES: usize = 34;
    const BITS: u32 = 8;

    fn decode(bytes: &[u8]) -> Block {
        let mut block = Block { scale: half_at(bytes, 0), ..Block::default() };
        for (level, byte) in block.levels.iter_mut().zip(&bytes[2..34]) {
            *level = byte ^ 0x80;
        }
        block
    }

    fn encode(block: &Block, bytes: &mut [u8]) {
        put_half(bytes, 0, block.scale);
        for (byte, level) in bytes[2..34].iter_mut().zip(&block.levels) {
            *byte = level ^ 0x80;
        }
    }

    #[inline(always)]
    fn quantize(weights: &[f32]) -> Block {
        let largest = weights.iter().fold(0.0f32, |largest, weight| largest.max(weight.abs()));
        let scale = largest / 127.0;
        let inverse = search::inverse(scale);
        let mut block = Block { scale: f16::from_f32(scale), ..Block::default() };
        for (level, weight) in block.levels.iter_mut().zip(weights) {
            let level_signed = weight * inverse + 0.5f32.copysign(*weight * inverse);
            *level = (level_signed as i32 as u8) ^ 0x80;
        }
        block
    }

    fn values(block: &Block, out: &mut [f32]) {
        let scale = block.scale.to_f32();
        for (out, &level) in out.iter_mut().zip(&block.levels[..32]) {
            *out = (f32::from(level) - 128.0) * scale;
        }
    }
}
