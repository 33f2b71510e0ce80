//! Dequantisation of the GGUF blocks that may turn up in files: those of the kernels, and the older ones that
//! llama.cpp falls back to where a row is no multiple of 256.

use half::f16;
use whit_kernels::linear::{WeightType, blocks};

use super::Dtype;

/// The values of whole blocks, or `None` if the type has no conversion here.
pub(crate) fn dequantize(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    let block: fn(&[u8], &mut Vec<f32>) = match dtype {
        Dtype::Q4_1 => q4_1,
        Dtype::Q5_0 => q5_0,
        Dtype::Q5_1 => q5_1,
        other => return blocks::dequantize(kernel_type(other)?, bytes).ok(),
    };
    let (elements, size) = dtype.block();
    let mut values = Vec::with_capacity(bytes.len() / size * elements);
    for chunk in bytes.chunks_exact(size) {
        block(chunk, &mut values);
    }
    Some(values)
}

/// Blocks of these values, in the types that the kernels quantise to.
pub(crate) fn quantize(dtype: Dtype, values: &[f32]) -> Result<Vec<u8>, String> {
    let kind = kernel_type(dtype).ok_or("this type is not made here; use q4_0, q8_0, q4_k, q5_k or q6_k")?;
    blocks::quantize(kind, values).map_err(|e| e.to_string())
}

fn kernel_type(dtype: Dtype) -> Option<WeightType> {
    Some(match dtype {
        Dtype::Q4_0 => WeightType::Q4_0,
        Dtype::Q8_0 => WeightType::Q8_0,
        Dtype::Q4K => WeightType::Q4K,
        Dtype::Q5K => WeightType::Q5K,
        Dtype::Q6K => WeightType::Q6K,
        _ => return None,
    })
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// The 32 four-bit codes of a block: low halves first, then high halves.
fn nibbles(codes: &[u8]) -> impl Iterator<Item = u8> {
    codes.iter().map(|c| c & 15).chain(codes.iter().map(|c| c >> 4))
}

/// The 32 five-bit codes: nibbles with their fifth bit from a little-endian mask.
fn five_bits(block: &[u8], at: usize) -> impl Iterator<Item = u8> {
    let mask = u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
    nibbles(&block[at + 4..]).enumerate().map(move |(i, code)| code | (((mask >> i) & 1) as u8) << 4)
}

fn q4_1(block: &[u8], values: &mut Vec<f32>) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    values.extend(nibbles(&block[4..]).map(|code| scale * f32::from(code) + minimum));
}

fn q5_0(block: &[u8], values: &mut Vec<f32>) {
    let scale = half_at(block, 0);
    values.extend(five_bits(block, 2).map(|code| scale * (f32::from(code) - 16.0)));
}

fn q5_1(block: &[u8], values: &mut Vec<f32>) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    values.extend(five_bits(block, 4).map(|code| scale * f32::from(code) + minimum));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_scale(head: &[f32], rest: &[u8]) -> Vec<u8> {
        head.iter().flat_map(|&h| f16::from_f32(h).to_le_bytes()).chain(rest.iter().copied()).collect()
    }

    #[test]
    fn blocks_worked_by_hand() {
        let mut codes = [0x88u8; 16];
        codes[0] = 0xf0; // element 0 has code 0, element 16 has code 15
        let q4 = dequantize(Dtype::Q4_0, &with_scale(&[0.5], &codes)).unwrap();
        assert_eq!((q4[0], q4[1], q4[16], q4.len()), (-4.0, 0.0, 3.5, 32));
        let q4 = dequantize(Dtype::Q4_1, &with_scale(&[0.5, 1.0], &codes)).unwrap();
        assert_eq!((q4[0], q4[1], q4[16]), (1.0, 5.0, 8.5));
        let mut fives = vec![0x01, 0, 0, 0];
        fives.extend(codes);
        let q5 = dequantize(Dtype::Q5_0, &with_scale(&[0.5], &fives)).unwrap();
        assert_eq!((q5[0], q5[1], q5[16]), (0.0, -4.0, -0.5));
        let q5 = dequantize(Dtype::Q5_1, &with_scale(&[0.5, 1.0], &fives)).unwrap();
        assert_eq!((q5[0], q5[1], q5[16]), (9.0, 5.0, 8.5));
        assert_eq!(dequantize(Dtype::I32, &[0; 4]), None);
    }
}
