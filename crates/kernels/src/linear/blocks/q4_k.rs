//! `Q4_K`: 256 weights of 4 bits; every run of 32 has a scale and a minimum of 6 bits, which the
//! block's two scales multiply. Bytes: scale, scale of the minima (f16), 12 of 6-bit pairs, 128 of
//! levels (of each 64 weights the first 32 in the low halves, the others in the high halves).

use super::{Block, Format, half_at, put_half, search};

/// The format.
#[derive(Debug)]
pub struct Q4K;

impl Format for Q4K {
    const LENGTH: usize = 256;
    const BYTES: usize = 144;
    const BITS: u32 = 4;

    fn decode(bytes: &[u8]) -> Block {
        let mut block = decode_head(bytes);
        get_low_bits(&bytes[16..144], &mut block.levels);
        block
    }

    fn encode(block: &Block, bytes: &mut [u8]) {
        encode_head(block, bytes);
        put_low_bits(&block.levels, &mut bytes[16..144]);
    }

    #[inline(always)]
    fn quantize(weights: &[f32]) -> Block {
        let search = search::Steps { top: 15, first: -1.0, step: 0.1, count: 21 };
        search::with_minima(weights, &search)
    }

    fn values(block: &Block, out: &mut [f32]) {
        values(block, out);
    }
}

/// The weights of a block with minima (`Q4_K` and `Q5_K`).
pub(super) fn values(block: &Block, out: &mut [f32]) {
    let (scale, min_scale) = (block.scale.to_f32(), block.min_scale.to_f32());
    for (run, out) in out.chunks_exact_mut(32).enumerate() {
        let scale = scale * f32::from(block.scales[run]);
        let min = min_scale * f32::from(block.mins[run]);
        for (out, &level) in out.iter_mut().zip(&block.levels[run * 32..]) {
            *out = scale * f32::from(level) - min;
        }
    }
}

/// Reads the 16 bytes of scales and minima with which `Q4_K` and `Q5_K` begin.
pub(super) fn decode_head(bytes: &[u8]) -> Block {
    let mut block = Block { scale: half_at(bytes, 0), min_scale: half_at(bytes, 2), ..Block::default() };
    let packed = &bytes[4..16];
    for run in 0..4 {
        let (scale, min, last) = (packed[run], packed[run + 4], packed[run + 8]);
        block.scales[run] = scale & 63;
        block.mins[run] = min & 63;
        block.scales[run + 4] = last & 15 | scale >> 2 & 48;
        block.mins[run + 4] = last >> 4 | min >> 2 & 48;
    }
    block
}

/// Writes what [`decode_head`] reads.
pub(super) fn encode_head(block: &Block, bytes: &mut [u8]) {
    put_half(bytes, 0, block.scale);
    put_half(bytes, 2, block.min_scale);
    for run in 0..4 {
        let (scale, min) = (block.scales[run + 4], block.mins[run + 4]);
        bytes[4 + run] = block.scales[run] | (scale & 48) << 2;
        bytes[8 + run] = block.mins[run] | (min & 48) << 2;
        bytes[12 + run] = scale & 15 | min << 4;
    }
}

/// The low four bits of 256 levels from 128 bytes.
pub(super) fn get_low_bits(bytes: &[u8], levels: &mut [u8; 256]) {
    for (bytes, levels) in bytes.chunks_exact(32).zip(levels.chunks_exact_mut(64)) {
        for (i, byte) in bytes.iter().enumerate() {
            levels[i] = byte & 15;
            levels[i + 32] = byte >> 4;
        }
    }
}

/// Writes what [`get_low_bits`] reads.
pub(super) fn put_low_bits(levels: &[u8; 256], bytes: &mut [u8]) {
    for (bytes, levels) in bytes.chunks_exact_mut(32).zip(levels.chunks_exact(64)) {
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = levels[i] & 15 | levels[i + 32] << 4;
        }
    }
}
