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
}
