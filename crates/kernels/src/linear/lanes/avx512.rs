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

    #[inline(always)]
    unsafe fn four(from: *const f32) -> __m512 {
        _mm512_broadcast_f32x4(_mm_loadu_ps(from))
    }

    #[inline(always)]
    unsafe fn pick(four: __m512, fields: __m512i) -> __m512 {
        _mm512_permutevar_ps(four, fields)
    }

    #[inline(always)]
    unsafe fn next_fields(fields: __m512i) -> __m512i {
        _mm512_srli_epi32::<2>(fields)
    }

    #[inline(always)]
    unsafe fn lower(words: __m512i) -> __m512 {
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words))
    }

    #[inline(always)]
    unsafe fn upper(words: __m512i) -> __m512 {
        _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32(0xffff_0000_u32 as i32)))
    }

    #[inline(always)]
    unsafe fn sixteen(from: *const i8) -> __m512i {
        // The instruction wants one unsigned side: activations count from 128.
        let biased = _mm_xor_si128(_mm_loadu_si128(from.cast()), _mm_set1_epi8(-128));
        _mm512_broadcast_i32x4(biased)
    }

    #[inline(always)]
    unsafe fn pick_dot<const STEP: u32>(
        sums: __m512i,
        levels: __m512i,
        sixteen: __m512i,
        fields: __m512i,
    ) -> __m512i {
        let fields = _mm512_srl_epi32(fields, _mm_cvtsi32_si128(2 * STEP as i32));
        let fields = _mm512_and_si512(fields, _mm512_set1_epi8(3));
        let base = _mm512_set1_epi32(if STEP.is_multiple_of(2) { 0x0404_0000 } else { 0x0c0c_0808 });
        _mm512_dpbusd_epi32(sums, _mm512_shuffle_epi8(sixteen, _mm512_or_si512(fields, base)), levels)
    }

    #[inline(always)]
    unsafe fn start_picked(negative_sums: *const i32) -> __m512i {
        _mm512_slli_epi32::<7>(_mm512_loadu_si512(negative_sums.cast()))
    }

    #[inline(always)]
    unsafe fn spread(mask: u16, from: *const f32) -> __m512 {
        _mm512_maskz_expandloadu_ps(mask, from)
    }

    #[inline(always)]
    unsafe fn spread_bf16(mask: u16, from: *const u16) -> __m512 {
        let words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
        Self::lower(_mm512_maskz_expand_epi32(mask, words))
    }
}
