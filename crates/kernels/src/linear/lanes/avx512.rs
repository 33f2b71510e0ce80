//! AVX-512 with VNNI: `vpdpbusd` multiplies 64 levels and activations at once.

// Every function is a few instructions with the contract of `Lanes`; blocks inside would say it again.
#![allow(unsafe_op_in_unsafe_fn)]

use std::arch::x86_64::*;

use super::Lanes;
use crate::linear::tile::{Body, Call};

/// The AVX-512 VNNI level.
#[derive(Clone, Copy, Debug)]
pub struct Avx512;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn run<B: Body, const R: usize>(call: &Call) {
    B::run::<Avx512, R>(call)
}

impl Lanes for Avx512 {
    type Bytes = __m512i;
    type Quad = __m512i;
    type Ints = __m512i;
    type Floats = __m512;

    const ROWS: usize = 8;

    unsafe fn enter<B: Body>(rows: usize, call: &Call) {
        match rows {
            1 => run::<B, 1>(call),
            2 => run::<B, 2>(call),
            3 => run::<B, 3>(call),
            4 => run::<B, 4>(call),
            5 => run::<B, 5>(call),
            6 => run::<B, 6>(call),
            7 => run::<B, 7>(call),
            _ => run::<B, 8>(call),
        }
    }

    #[inline(always)]
    unsafe fn prefetch(address: *const u8) {
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> __m512i {
        _mm512_loadu_si512(from.cast())
    }

    #[inline(always)]
    unsafe fn store(to: *mut u8, bytes: __m512i) {
        _mm512_storeu_si512(to.cast(), bytes)
    }

    #[inline(always)]
    unsafe fn field<const SHIFT: u32>(bytes: __m512i, mask: u8) -> __m512i {
        _mm512_and_si512(_mm512_srli_epi16::<SHIFT>(bytes), _mm512_set1_epi8(mask as i8))
    }

    #[inline(always)]
    unsafe fn raised<const SHIFT: u32>(bytes: __m512i, mask: u8) -> __m512i {
        _mm512_and_si512(_mm512_slli_epi16::<SHIFT>(bytes), _mm512_set1_epi8(mask as i8))
    }

    #[inline(always)]
    unsafe fn or(a: __m512i, b: __m512i) -> __m512i {
        _mm512_or_si512(a, b)
    }

    #[inline(always)]
    unsafe fn quad(from: *const i8) -> __m512i {
        _mm512_set1_epi32(from.cast::<i32>().read_unaligned())
    }

    #[inline(always)]
    unsafe fn dot(sums: __m512i, levels: __m512i, quad: __m512i) -> __m512i {
        _mm512_dpbusd_epi32(sums, levels, quad)
    }

    #[inline(always)]
    unsafe fn start<const SHIFT: u32>(negative_sum: *const i32) -> __m512i {
        _mm512_slli_epi32::<SHIFT>(_mm512_set1_epi32(*negative_sum))
    }

    #[inline(always)]
    unsafe fn dot_wide(sums: __m512i, levels: __m512i, quad: __m512i) -> __m512i {
        _mm512_dpbusd_epi32(sums, levels, quad)
    }

    #[inline(always)]
    unsafe fn start_wide(negative_sum: *const i32) -> __m512i {
        Self::start::<7>(negative_sum)
    }

    #[inline(always)]
    unsafe fn no_ints() -> __m512i {
        _mm512_setzero_si512()
    }

    #[inline(always)]
    unsafe fn zero() -> __m512 {
        _mm512_setzero_ps()
    }

    #[inline(always)]
    unsafe fn splat(from: *const f32) -> __m512 {
        _mm512_set1_ps(*from)
    }

    #[inline(always)]
    unsafe fn floats(from: *const f32) -> __m512 {
        _mm512_loadu_ps(from)
    }

    #[inline(always)]
    unsafe fn halves(from: *const u8) -> __m512 {
        _mm512_cvtph_ps(_mm256_loadu_si256(from.cast()))
    }

    #[inline(always)]
    unsafe fn unsigned(from: *const u8) -> __m512 {
        _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast())))
    }

    #[inline(always)]
    unsafe fn signed(from: *const u8) -> __m512 {
        _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast())))
    }

    #[inline(always)]
    unsafe fn float(ints: __m512i) -> __m512 {
        _mm512_cvtepi32_ps(ints)
    }

    #[inline(always)]
    unsafe fn times(a: __m512, b: __m512) -> __m512 {
        _mm512_mul_ps(a, b)
    }

    #[inline(always)]
    unsafe fn plus(sum: __m512, a: __m512, b: __m512) -> __m512 {
        _mm512_fmadd_ps(a, b, sum)
    }

    #[inline(always)]
    unsafe fn minus(sum: __m512, a: __m512, b: __m512) -> __m512 {
        _mm512_fnmadd_ps(a, b, sum)
    }

    #[inline(always)]
    unsafe fn put(to: *mut f32, values: __m512) {
        _mm512_storeu_ps(to, values)
    }
}
