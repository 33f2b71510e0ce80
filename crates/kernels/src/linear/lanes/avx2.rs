//! AVX2 with FMA and F16C: `vpmaddubsw` multiplies 32 levels and activations, in two halves.

// Every function is a few instructions with the contract of `Lanes`; blocks inside would say it again.
#![allow(unsafe_op_in_unsafe_fn)]

use std::arch::x86_64::*;

use super::Lanes;
use crate::linear::tile::{Body, Call};

/// The AVX2 level.
#[derive(Clone, Copy, Debug)]
pub struct Avx2;

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn run<B: Body, const R: usize>(call: &Call) {
    B::run::<Avx2, R>(call)
}

/// Sums of four products in each of eight lanes; no pair of products leaves 16 bits.
#[inline(always)]
unsafe fn products(sums: __m256i, levels: __m256i, quad: __m256i) -> __m256i {
    let pairs = _mm256_maddubs_epi16(levels, quad);
    _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
}

/// [`products`] of signed levels: the sign moves to the activations.
#[inline(always)]
unsafe fn signed_products(sums: __m256i, levels: __m256i, quad: __m256i) -> __m256i {
    let levels = _mm256_xor_si256(levels, _mm256_set1_epi8(-128));
    products(sums, _mm256_abs_epi8(levels), _mm256_sign_epi8(quad, levels))
}

impl Lanes for Avx2 {
    type Bytes = [__m256i; 2];
    type Quad = __m256i;
    type Ints = [__m256i; 2];
    type Floats = [__m256; 2];

    const ROWS: usize = 2;

    unsafe fn enter<B: Body>(rows: usize, call: &Call) {
        match rows {
            1 => run::<B, 1>(call),
            _ => run::<B, 2>(call),
        }
    }

    #[inline(always)]
    unsafe fn prefetch(address: *const u8) {
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> [__m256i; 2] {
        [_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(32).cast())]
    }

    #[inline(always)]
    unsafe fn store(to: *mut u8, bytes: [__m256i; 2]) {
        _mm256_storeu_si256(to.cast(), bytes[0]);
        _mm256_storeu_si256(to.add(32).cast(), bytes[1]);
    }

    #[inline(always)]
    unsafe fn field<const SHIFT: u32>(bytes: [__m256i; 2], mask: u8) -> [__m256i; 2] {
        let (mask, shift) = (_mm256_set1_epi8(mask as i8), _mm_cvtsi32_si128(SHIFT as i32));
        [
            _mm256_and_si256(_mm256_srl_epi16(bytes[0], shift), mask),
            _mm256_and_si256(_mm256_srl_epi16(bytes[1], shift), mask),
        ]
    }

    #[inline(always)]
    unsafe fn raised<const SHIFT: u32>(bytes: [__m256i; 2], mask: u8) -> [__m256i; 2] {
        let (mask, shift) = (_mm256_set1_epi8(mask as i8), _mm_cvtsi32_si128(SHIFT as i32));
        [
            _mm256_and_si256(_mm256_sll_epi16(bytes[0], shift), mask),
            _mm256_and_si256(_mm256_sll_epi16(bytes[1], shift), mask),
        ]
    }

    #[inline(always)]
    unsafe fn or(a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
        [_mm256_or_si256(a[0], b[0]), _mm256_or_si256(a[1], b[1])]
    }

    #[inline(always)]
    unsafe fn quad(from: *const i8) -> __m256i {
        _mm256_set1_epi32(from.cast::<i32>().read_unaligned())
    }

    #[inline(always)]
    unsafe fn dot(sums: [__m256i; 2], levels: [__m256i; 2], quad: __m256i) -> [__m256i; 2] {
        [products(sums[0], levels[0], quad), products(sums[1], levels[1], quad)]
    }

    #[inline(always)]
    unsafe fn start<const SHIFT: u32>(negative_sum: *const i32) -> [__m256i; 2] {
        [_mm256_set1_epi32(*negative_sum << SHIFT); 2]
    }

    #[inline(always)]
    unsafe fn dot_wide(sums: [__m256i; 2], levels: [__m256i; 2], quad: __m256i) -> [__m256i; 2] {
        [signed_products(sums[0], levels[0], quad), signed_products(sums[1], levels[1], quad)]
    }

    #[inline(always)]
    unsafe fn start_wide(_: *const i32) -> [__m256i; 2] {
        Self::no_ints()
    }

    #[inline(always)]
    unsafe fn no_ints() -> [__m256i; 2] {
        [_mm256_setzero_si256(); 2]
    }

    #[inline(always)]
    unsafe fn zero() -> [__m256; 2] {
        [_mm256_setzero_ps(); 2]
    }

    #[inline(always)]
    unsafe fn splat(from: *const f32) -> [__m256; 2] {
        [_mm256_set1_ps(*from); 2]
    }

    #[inline(always)]
    unsafe fn floats(from: *const f32) -> [__m256; 2] {
        [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))]
    }

    #[inline(always)]
    unsafe fn halves(from: *const u8) -> [__m256; 2] {
        [_mm256_cvtph_ps(_mm_loadu_si128(from.cast())), _mm256_cvtph_ps(_mm_loadu_si128(from.add(16).cast()))]
    }

    #[inline(always)]
    unsafe fn unsigned(from: *const u8) -> [__m256; 2] {
        [
            _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast()))),
            _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(from.add(8).cast()))),
        ]
    }

    #[inline(always)]
    unsafe fn signed(from: *const u8) -> [__m256; 2] {
        [
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast()))),
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.add(8).cast()))),
        ]
    }

    #[inline(always)]
    unsafe fn float(ints: [__m256i; 2]) -> [__m256; 2] {
        [_mm256_cvtepi32_ps(ints[0]), _mm256_cvtepi32_ps(ints[1])]
    }

    #[inline(always)]
    unsafe fn times(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])]
    }

    #[inline(always)]
    unsafe fn plus(sum: [__m256; 2], a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        [_mm256_fmadd_ps(a[0], b[0], sum[0]), _mm256_fmadd_ps(a[1], b[1], sum[1])]
    }

    #[inline(always)]
    unsafe fn minus(sum: [__m256; 2], a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        [_mm256_fnmadd_ps(a[0], b[0], sum[0]), _mm256_fnmadd_ps(a[1], b[1], sum[1])]
    }

    #[inline(always)]
    unsafe fn put(to: *mut f32, values: [__m256; 2]) {
        _mm256_storeu_ps(to, values[0]);
        _mm256_storeu_ps(to.add(8), values[1]);
    }

    #[inline(always)]
    unsafe fn four(from: *const f32) -> [__m256; 2] {
        [_mm256_broadcast_ps(&*from.cast::<__m128>()); 2]
    }

    #[inline(always)]
    unsafe fn pick(four: [__m256; 2], fields: [__m256i; 2]) -> [__m256; 2] {
        [_mm256_permutevar_ps(four[0], fields[0]), _mm256_permutevar_ps(four[1], fields[1])]
    }

    #[inline(always)]
    unsafe fn next_fields(fields: [__m256i; 2]) -> [__m256i; 2] {
        [_mm256_srli_epi32::<2>(fields[0]), _mm256_srli_epi32::<2>(fields[1])]
    }

    #[inline(always)]
    unsafe fn lower(words: [__m256i; 2]) -> [__m256; 2] {
        words.map(|words| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(words)))
    }

    #[inline(always)]
    unsafe fn upper(words: [__m256i; 2]) -> [__m256; 2] {
        let mask = _mm256_set1_epi32(0xffff_0000_u32 as i32);
        words.map(|words| _mm256_castsi256_ps(_mm256_and_si256(words, mask)))
    }

    #[inline(always)]
    unsafe fn sixteen(from: *const i8) -> [__m256i; 2] {
        [_mm256_broadcastsi128_si256(_mm_loadu_si128(from.cast())); 2]
    }

    #[inline(always)]
    unsafe fn pick_dot<const STEP: u32>(
        sums: [__m256i; 2],
        levels: [__m256i; 2],
        sixteen: [__m256i; 2],
        fields: [__m256i; 2],
    ) -> [__m256i; 2] {
        let shift = _mm_cvtsi32_si128(2 * STEP as i32);
        let base = _mm256_set1_epi32(if STEP.is_multiple_of(2) { 0x0404_0000 } else { 0x0c0c_0808 });
        let mut sums = sums;
        for half in 0..2 {
            let fields = _mm256_and_si256(_mm256_srl_epi32(fields[half], shift), _mm256_set1_epi8(3));
            let picked = _mm256_shuffle_epi8(sixteen[half], _mm256_or_si256(fields, base));
            let (size, signed) = (_mm256_abs_epi8(levels[half]), _mm256_sign_epi8(picked, levels[half]));
            sums[half] = products(sums[half], size, signed);
        }
        sums
    }

    #[inline(always)]
    unsafe fn start_picked(_: *const i32) -> [__m256i; 2] {
        Self::no_ints()
    }

    #[inline(always)]
    unsafe fn spread(mask: u16, from: *const f32) -> [__m256; 2] {
        let values = super::plain::spread(mask, |index| from.add(index).read_unaligned());
        Self::floats(values.as_ptr())
    }

    #[inline(always)]
    unsafe fn spread_bf16(mask: u16, from: *const u16) -> [__m256; 2] {
        let value = |index| f32::from_bits(u32::from(from.add(index).read_unaligned()) << 16);
        let values = super::plain::spread(mask, value);
        Self::floats(values.as_ptr())
    }
}
