//! `Q6_K`: 256 weights of 6 bits; every run of 16 has a signed scale of 8 bits, which the block's
//! scale multiplies; a level of 32 means zero. Bytes: 128 of low bits, 64 of high bits, 16 scales,
//! scale (f16). Of each 128 weights, weight `32 q + i` has its low bits in byte `32 (q % 2) + i`
//! (low half for `q < 2`) and its high bits at bit `2 q` of byte `i`.

use super::{Block, Format, half_at, put_half, search};

/// The format.
#[derive(Debug)]
pub struct Q6K;

impl Format for Q6K {
    const LENGTH: usize = 256;
    const BYTES: usize = 210;
    const BITS: u32 = 6;

    fn decode(bytes: &[u8]) -> Block {
        let mut block = Block { scale: half_at(bytes, 208), ..Block::default() };
        block.scales.copy_from_slice(&bytes[192..208]);
        let (low, high) = (bytes[..128].chunks_exact(64), bytes[128..192].chunks_exact(32));
        for ((low, high), levels) in low.zip(high).zip(block.levels.chunks_exact_mut(128)) {
            for (index, level) in levels.iter_mut().enumerate() {
                let (quarter, i) = (index / 32, index % 32);
                let low = low[quarter % 2 * 32 + i] >> (quarter / 2 * 4) & 15;
                *level = low | (high[i] >> (2 * quarter) & 3) << 4;
            }
        }
        block
    }

    fn encode(block: &Block, bytes: &mut [u8]) {
        put_half(bytes, 208, block.scale);
        bytes[192..208].copy_from_slice(&block.scales);
        let (low, high) = bytes.split_at_mut(128);
        for (part, levels) in block.levels.chunks_exact(128).enumerate() {
            for i in 0..64 {
                low[part * 64 + i] = levels[i] & 15 | levels[i + 64] << 4;
            }
            for i in 0..32 {
                high[part * 32 + i] =
                    (0..4).map(|quarter| (levels[quarter * 32 + i] >> 4) << (2 * quarter)).sum();
            }
        }
    }

    #[inline(always)]
    fn quantize(weights: &[f32]) -> Block {
        search::signed_scales(weights)
    }

    fn values(block: &Block, out: &mut [f32]) {
        let scale = block.scale.to_f32();
        for (run, out) in out.chunks_exact_mut(16).enumerate() {
            let scale = scale * f32::from(block.scales[run] as i8);
            for (out, &level) in out.iter_mut().zip(&block.levels[run * 16..]) {
                *out = scale * (f32::from(level) - 32.0);
            }
        }
    }
}
