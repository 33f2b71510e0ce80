//! `Q5_K`: as `Q4_K`, with 32 bytes of fifth bits before the low bits: bit `r` of byte `i` belongs to
//! weight `i` of run `r`.

use super::q4_k::{decode_head, encode_head, get_low_bits, put_low_bits, values};
use super::{Block, Format, search};

/// The format.
#[derive(Debug)]
pub struct Q5K;

impl Format for Q5K {
    const LENGTH: usize = 256;
    const BYTES: usize = 176;
    const BITS: u32 = 5;

    fn decode(bytes: &[u8]) -> Block {
        let mut block = decode_head(bytes);
        get_low_bits(&bytes[48..176], &mut block.levels);
        for (run, levels) in block.levels.chunks_exact_mut(32).enumerate() {
            for (level, high) in levels.iter_mut().zip(&bytes[16..48]) {
                *level |= (high >> run & 1) << 4;
            }
        }
        block
    }

    fn encode(block: &Block, bytes: &mut [u8]) {
        encode_head(block, bytes);
        put_low_bits(&block.levels, &mut bytes[48..176]);
        for (i, byte) in bytes[16..48].iter_mut().enumerate() {
            *byte = (0..8).map(|run| (block.levels[run * 32 + i] >> 4 & 1) << run).sum();
        }
    }

    #[inline(always)]
    fn quantize(weights: &[f32]) -> Block {
        let search = search::Steps { top: 31, first: -0.5, step: 0.1, count: 16 };
        search::with_minima(weights, &search)
    }

    fn values(block: &Block, out: &mut [f32]) {
        values(block, out);
    }
}
