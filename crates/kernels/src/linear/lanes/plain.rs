//! Portable lanes: arrays, which the compiler turns into what vector instructions there are.

// Every function is a few instructions with the contract of `Lanes`; blocks inside would say it again.
#![allow(unsafe_op_in_unsafe_fn)]

use std::array::from_fn;

use half::f16;

use super::Lanes;
use crate::linear::tile::{Body, Call};

/// The portable level.
#[derive(Clone, Copy, Debug)]
pub struct Plain;

#[inline(always)]
fn dot(sums: [i32; 16], levels: [i16; 64], quad: [i8; 4]) -> [i32; 16] {
    from_fn(|lane| {
        let products = (0..4).map(|i| i32::from(levels[lane * 4 + i]) * i32::from(quad[i]));
        sums[lane] + products.sum::<i32>()
    })
}

/// The next values, one for each set bit.
#[inline(always)]
pub(super) fn spread(mask: u16, value: impl Fn(usize) -> f32) -> [f32; 16] {
    let (mut values, mut rest, mut next) = ([0.0; 16], mask, 0);
    while rest != 0 {
        values[rest.trailing_zeros() as usize] = value(next);
        (rest, next) = (rest & (rest - 1), next + 1);
    }
    values
}

#[inline(always)]
fn words(bytes: [u8; 64]) -> [u32; 16] {
    from_fn(|lane| u32::from_le_bytes(from_fn(|i| bytes[lane * 4 + i])))
}

#[inline(always)]
fn bytes(words: [u32; 16]) -> [u8; 64] {
    from_fn(|i| words[i / 4].to_le_bytes()[i % 4])
}

impl Lanes for Plain {
    type Bytes = [u8; 64];
    type Quad = [i8; 4];
    type Ints = [i32; 16];
    type Floats = [f32; 16];

    const ROWS: usize = 2;

    unsafe fn enter<B: Body>(rows: usize, call: &Call) {
        match rows {
            1 => B::run::<Self, 1>(call),
            _ => B::run::<Self, 2>(call),
        }
    }

    #[inline(always)]
    unsafe fn prefetch(_: *const u8) {}

    #[inline(always)]
    unsafe fn load(from: *const u8) -> [u8; 64] {
        from.cast::<[u8; 64]>().read()
    }

    #[inline(always)]
    unsafe fn store(to: *mut u8, bytes: [u8; 64]) {
        to.cast::<[u8; 64]>().write(bytes)
    }

    #[inline(always)]
    unsafe fn field<const SHIFT: u32>(bytes: [u8; 64], mask: u8) -> [u8; 64] {
        bytes.map(|byte| (byte >> SHIFT) & mask)
    }

    #[inline(always)]
    unsafe fn raised<const SHIFT: u32>(bytes: [u8; 64], mask: u8) -> [u8; 64] {
        bytes.map(|byte| (byte << SHIFT) & mask)
    }

    #[inline(always)]
    unsafe fn or(a: [u8; 64], b: [u8; 64]) -> [u8; 64] {
        from_fn(|i| a[i] | b[i])
    }

    #[inline(always)]
    unsafe fn quad(from: *const i8) -> [i8; 4] {
        from.cast::<[i8; 4]>().read()
    }

    #[inline(always)]
    unsafe fn dot(sums: [i32; 16], levels: [u8; 64], quad: [i8; 4]) -> [i32; 16] {
        dot(sums, levels.map(i16::from), quad)
    }

    #[inline(always)]
    unsafe fn start<const SHIFT: u32>(negative_sum: *const i32) -> [i32; 16] {
        [*negative_sum << SHIFT; 16]
    }

    #[inline(always)]
    unsafe fn dot_wide(sums: [i32; 16], levels: [u8; 64], quad: [i8; 4]) -> [i32; 16] {
        dot(sums, levels.map(|level| i16::from(level) - 128), quad)
    }

    #[inline(always)]
    unsafe fn start_wide(_: *const i32) -> [i32; 16] {
        [0; 16]
    }

    #[inline(always)]
    unsafe fn no_ints() -> [i32; 16] {
        [0; 16]
    }

    #[inline(always)]
    unsafe fn zero() -> [f32; 16] {
        [0.0; 16]
    }

    #[inline(always)]
    unsafe fn splat(from: *const f32) -> [f32; 16] {
        [*from; 16]
    }

    #[inline(always)]
    unsafe fn floats(from: *const f32) -> [f32; 16] {
        from.cast::<[f32; 16]>().read_unaligned()
    }

    #[inline(always)]
    unsafe fn halves(from: *const u8) -> [f32; 16] {
        let bytes = from.cast::<[[u8; 2]; 16]>().read();
        bytes.map(|pair| f16::from_le_bytes(pair).to_f32())
    }

    #[inline(always)]
    unsafe fn unsigned(from: *const u8) -> [f32; 16] {
        from.cast::<[u8; 16]>().read().map(f32::from)
    }

    #[inline(always)]
    unsafe fn signed(from: *const u8) -> [f32; 16] {
        from.cast::<[i8; 16]>().read().map(f32::from)
    }

    #[inline(always)]
    unsafe fn float(ints: [i32; 16]) -> [f32; 16] {
        ints.map(|int| int as f32)
    }

    #[inline(always)]
    unsafe fn times(a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        from_fn(|i| a[i] * b[i])
    }

    #[inline(always)]
    unsafe fn plus(sum: [f32; 16], a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        from_fn(|i| sum[i] + a[i] * b[i])
    }

    #[inline(always)]
    unsafe fn minus(sum: [f32; 16], a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        from_fn(|i| sum[i] - a[i] * b[i])
    }

    #[inline(always)]
    unsafe fn put(to: *mut f32, values: [f32; 16]) {
        to.cast::<[f32; 16]>().write_unaligned(values)
    }

    #[inline(always)]
    unsafe fn four(from: *const f32) -> [f32; 16] {
        let four = from.cast::<[f32; 4]>().read_unaligned();
        from_fn(|lane| four[lane % 4])
    }

    #[inline(always)]
    unsafe fn pick(four: [f32; 16], fields: [u8; 64]) -> [f32; 16] {
        from_fn(|lane| four[lane / 4 * 4 + usize::from(fields[lane * 4] & 3)])
    }

    #[inline(always)]
    unsafe fn next_fields(fields: [u8; 64]) -> [u8; 64] {
        bytes(words(fields).map(|word| word >> 2))
    }

    #[inline(always)]
    unsafe fn lower(brains: [u8; 64]) -> [f32; 16] {
        words(brains).map(|word| f32::from_bits(word << 16))
    }

    #[inline(always)]
    unsafe fn upper(brains: [u8; 64]) -> [f32; 16] {
        words(brains).map(|word| f32::from_bits(word & 0xffff_0000))
    }

    #[inline(always)]
    unsafe fn sixteen(from: *const i8) -> [u8; 64] {
        let sixteen = from.cast::<[u8; 16]>().read();
        from_fn(|i| sixteen[i % 16])
    }

    #[inline(always)]
    unsafe fn pick_dot<const STEP: u32>(
        sums: [i32; 16],
        levels: [u8; 64],
        sixteen: [u8; 64],
        fields: [u8; 64],
    ) -> [i32; 16] {
        let product = |at: usize| {
            let field = usize::from(fields[at] >> (2 * STEP) & 3);
            let picked = sixteen[STEP as usize % 2 * 8 + at % 4 / 2 * 4 + field];
            i32::from(levels[at] as i8) * i32::from(picked as i8)
        };
        from_fn(|lane| sums[lane] + (0..4).map(|i| product(lane * 4 + i)).sum::<i32>())
    }

    #[inline(always)]
    unsafe fn start_picked(_: *const i32) -> [i32; 16] {
        [0; 16]
    }

    #[inline(always)]
    unsafe fn spread(mask: u16, from: *const f32) -> [f32; 16] {
        spread(mask, |index| from.add(index).read_unaligned())
    }

    #[inline(always)]
    unsafe fn spread_bf16(mask: u16, from: *const u16) -> [f32; 16] {
        spread(mask, |index| f32::from_bits(u32::from(from.add(index).read_unaligned()) << 16))
    }
}
