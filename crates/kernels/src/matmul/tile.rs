//! The innermost loop of every dense product: one tile of the output in registers.
//!
//! Both operands arrive packed in panels of 32-bit *words*, depth-major: the left one as
//! `[depth][rows of the tile]`, the right one as `[depth][32 columns]`. A word is one `f32`, or two
//! bf16 neighbours along the depth, the first in the low half. Every level adds the depth in order,
//! so an element of the output has the same bits whatever tile it falls in.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use crate::simd::{Features, Level};

/// Columns of a tile, and of a panel of the right operand.
pub(crate) const COLUMNS: usize = 32;

/// The most rows that a tile of any level has.
pub(crate) const MOST_ROWS: usize = 14;

/// What the words of the operands hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// One `f32`.
    F32,
    /// Two bf16 along the depth; products and sums in `f32`.
    Bf16,
}

impl Format {
    /// How many words hold `depth` values.
    pub(crate) fn words(self, depth: usize) -> usize {
        match self {
            Self::F32 => depth,
            Self::Bf16 => depth.div_ceil(2),
        }
    }
}

/// One call: `out = left . right`, or `out += left . right` where `accumulate` is set.
pub(crate) struct Tile {
    /// In words.
    pub(crate) depth: usize,
    pub(crate) left: *const u32,
    pub(crate) right: *const u32,
    pub(crate) out: *mut f32,
    /// Values from one row of the output to the next.
    pub(crate) stride: usize,
    pub(crate) accumulate: bool,
}

type Run = unsafe fn(&Tile);

/// The tiles of one format at one level.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tiles {
    /// The tile of `index + 1` rows at `index`.
    runs: &'static [Run],
}

impl Tiles {
    /// The fastest tiles for a format on a processor with `features`.
    pub(crate) fn new(format: Format, features: Features) -> Self {
        let runs: &'static [Run] = match (format, features.level) {
            #[cfg(target_arch = "x86_64")]
            (Format::F32, Level::Avx512) => &x86::WIDE,
            #[cfg(target_arch = "x86_64")]
            (Format::Bf16, Level::Avx512) if features.bf16 => &x86::WIDE_PAIRS,
            #[cfg(target_arch = "x86_64")]
            (Format::F32, Level::Avx2) => &x86::NARROW,
            #[cfg(target_arch = "x86_64")]
            (Format::Bf16, Level::Avx512 | Level::Avx2) => &x86::NARROW_PAIRS,
            (Format::F32, _) => &PLAIN,
            (Format::Bf16, _) => &PLAIN_PAIRS,
        };
        Self { runs }
    }

    /// The most rows of a tile.
    pub(crate) fn rows(self) -> usize {
        self.runs.len()
    }

    /// Computes a tile of `rows` rows and [`COLUMNS`] columns.
    ///
    /// # Safety
    /// `left` holds `depth * rows` words, `right` `depth * COLUMNS`; `out` is valid for reads and
    /// writes of `rows` rows of [`COLUMNS`] values, and nobody else uses them meanwhile. The features
    /// given to [`Tiles::new`] are those of this processor, or fewer.
    pub(crate) unsafe fn run(self, rows: usize, tile: &Tile) {
        // SAFETY: the caller's promise.
        unsafe { self.runs[rows - 1](tile) }
    }
}

/// A vector of sums, and how words are multiplied into it.
trait Lanes: Copy {
    const WIDTH: usize;
    type Words: Copy;
    unsafe fn zero() -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// The next `WIDTH` words.
    unsafe fn words(from: *const u32) -> Self::Words;
    /// One word in every lane.
    unsafe fn spread(from: *const u32) -> Self::Words;
    unsafe fn multiply_add(self, a: Self::Words, b: Self::Words) -> Self;
}

#[inline(always)]
unsafe fn tile<V: Lanes, const ROWS: usize, const VECTORS: usize>(tile: &Tile) {
    const { assert!(V::WIDTH * VECTORS == COLUMNS) };
    // SAFETY: the promise of `Tiles::run`; the target features are the caller's.
    unsafe {
        let mut sums = [[V::zero(); VECTORS]; ROWS];
        if tile.accumulate {
            for (row, sums) in sums.iter_mut().enumerate() {
                for (vector, sum) in sums.iter_mut().enumerate() {
                    *sum = V::load(tile.out.add(row * tile.stride + vector * V::WIDTH));
                }
            }
        }
        let (mut left, mut right) = (tile.left, tile.right);
        for _ in 0..tile.depth {
            let mut words = [V::words(right); VECTORS];
            for (vector, word) in words.iter_mut().enumerate() {
                *word = V::words(right.add(vector * V::WIDTH));
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                let factor = V::spread(left.add(row));
                for (sum, &word) in sums.iter_mut().zip(&words) {
                    *sum = sum.multiply_add(factor, word);
                }
            }
            left = left.add(ROWS);
            right = right.add(COLUMNS);
        }
        for (row, sums) in sums.iter().enumerate() {
            for (vector, sum) in sums.iter().enumerate() {
                sum.store(tile.out.add(row * tile.stride + vector * V::WIDTH));
            }
        }
    }
}

/// Eight lanes in portable Rust.
#[derive(Clone, Copy)]
struct Portable([f32; 8]);

impl Lanes for Portable {
    const WIDTH: usize = 8;
    type Words = [f32; 8];

    #[inline(always)]
    unsafe fn zero() -> Self {
        Self([0.0; 8])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { from.cast::<[f32; 8]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn words(from: *const u32) -> [f32; 8] {
        // SAFETY: the caller's promise.
        unsafe { from.cast::<[f32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn spread(from: *const u32) -> [f32; 8] {
        // SAFETY: the caller's promise.
        [f32::from_bits(unsafe { *from }); 8]
    }
    #[inline(always)]
    unsafe fn multiply_add(self, a: [f32; 8], b: [f32; 8]) -> Self {
        Self(std::array::from_fn(|lane| self.0[lane] + a[lane] * b[lane]))
    }
}

/// Eight lanes of bf16 pairs in portable Rust.
#[derive(Clone, Copy)]
struct PortablePairs(Portable);

impl Lanes for PortablePairs {
    const WIDTH: usize = 8;
    type Words = [u32; 8];

    #[inline(always)]
    unsafe fn zero() -> Self {
        Self(Portable([0.0; 8]))
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { Portable::load(from) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { self.0.store(to) }
    }
    #[inline(always)]
    unsafe fn words(from: *const u32) -> [u32; 8] {
        // SAFETY: the caller's promise.
        unsafe { from.cast::<[u32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn spread(from: *const u32) -> [u32; 8] {
        // SAFETY: the caller's promise.
        [unsafe { *from }; 8]
    }
    #[inline(always)]
    unsafe fn multiply_add(self, a: [u32; 8], b: [u32; 8]) -> Self {
        let low = |word: u32| f32::from_bits(word << 16);
        let high = |word: u32| f32::from_bits(word & 0xffff_0000);
        // SAFETY: `Portable` needs no target feature.
        Self(unsafe { self.0.multiply_add(a.map(low), b.map(low)).multiply_add(a.map(high), b.map(high)) })
    }
}

unsafe fn plain<const ROWS: usize>(call: &Tile) {
    // SAFETY: the promise of `Tiles::run`.
    unsafe { tile::<Portable, ROWS, 4>(call) }
}

unsafe fn plain_pairs<const ROWS: usize>(call: &Tile) {
    // SAFETY: the promise of `Tiles::run`.
    unsafe { tile::<PortablePairs, ROWS, 4>(call) }
}

const PLAIN: [Run; 3] = [plain::<1>, plain::<2>, plain::<3>];
const PLAIN_PAIRS: [Run; 3] = [plain_pairs::<1>, plain_pairs::<2>, plain_pairs::<3>];

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::*;

    /// All rows from 1 to 14 of a tile function.
    macro_rules! fourteen {
        ($run:ident) => {
            [
                $run::<1>, $run::<2>, $run::<3>, $run::<4>, $run::<5>, $run::<6>, $run::<7>, $run::<8>,
                $run::<9>, $run::<10>, $run::<11>, $run::<12>, $run::<13>, $run::<14>,
            ]
        };
    }

    pub(super) const WIDE: [Run; MOST_ROWS] = fourteen!(wide);
    pub(super) const WIDE_PAIRS: [Run; MOST_ROWS] = fourteen!(wide_pairs);
    pub(super) const NARROW: [Run; 3] = [narrow::<1>, narrow::<2>, narrow::<3>];
    pub(super) const NARROW_PAIRS: [Run; 3] = [narrow_pairs::<1>, narrow_pairs::<2>, narrow_pairs::<3>];

    #[target_feature(enable = "avx512f")]
    unsafe fn wide<const ROWS: usize>(call: &Tile) {
        // SAFETY: the promise of `Tiles::run`.
        unsafe { tile::<Wide, ROWS, 2>(call) }
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn wide_pairs<const ROWS: usize>(call: &Tile) {
        // SAFETY: the promise of `Tiles::run`.
        unsafe { tile::<WidePairs, ROWS, 2>(call) }
    }

    #[target_feature(enable = "avx2,fma")]
    unsafe fn narrow<const ROWS: usize>(call: &Tile) {
        // SAFETY: the promise of `Tiles::run`.
        unsafe { tile::<Narrow, ROWS, 4>(call) }
    }

    #[target_feature(enable = "avx2,fma")]
    unsafe fn narrow_pairs<const ROWS: usize>(call: &Tile) {
        // SAFETY: the promise of `Tiles::run`.
        unsafe { tile::<NarrowPairs, ROWS, 4>(call) }
    }

    /// Implements [`Lanes`] for a newtype of a vector of `f32`, by the named intrinsics.
    macro_rules! lanes {
        ($name:ident($vector:ty), $width:literal, $words:ty, zero: $zero:ident, load: $load:ident,
         store: $store:ident, words: |$words_at:ident| $load_words:expr, spread: |$one_at:ident| $spread:expr,
         multiply_add: |$sum:ident, $a:ident, $b:ident| $multiply_add:expr) => {
            #[derive(Clone, Copy)]
            struct $name($vector);

            // SAFETY (all): the promise of `Tiles::run`, and the target features of the tile function
            // that these are inlined in.
            #[allow(clippy::undocumented_unsafe_blocks)]
            impl Lanes for $name {
                const WIDTH: usize = $width;
                type Words = $words;

                #[inline(always)]
                unsafe fn zero() -> Self {
                    Self(unsafe { $zero() })
                }
                #[inline(always)]
                unsafe fn load(from: *const f32) -> Self {
                    Self(unsafe { $load(from) })
                }
                #[inline(always)]
                unsafe fn store(self, to: *mut f32) {
                    unsafe { $store(to, self.0) }
                }
                #[inline(always)]
                unsafe fn words($words_at: *const u32) -> $words {
                    unsafe { $load_words }
                }
                #[inline(always)]
                unsafe fn spread($one_at: *const u32) -> $words {
                    unsafe { $spread }
                }
                #[inline(always)]
                unsafe fn multiply_add(self, $a: $words, $b: $words) -> Self {
                    let $sum = self.0;
                    Self(unsafe { $multiply_add })
                }
            }
        };
    }

    lanes!(Wide(__m512), 16, __m512, zero: _mm512_setzero_ps, load: _mm512_loadu_ps, store: _mm512_storeu_ps,
        words: |from| _mm512_loadu_ps(from.cast()),
        spread: |from| _mm512_set1_ps(f32::from_bits(*from)),
        multiply_add: |sum, a, b| _mm512_fmadd_ps(a, b, sum));

    lanes!(WidePairs(__m512), 16, __m512i, zero: _mm512_setzero_ps, load: _mm512_loadu_ps,
        store: _mm512_storeu_ps,
        words: |from| _mm512_loadu_si512(from.cast()),
        spread: |from| _mm512_set1_epi32(*from as i32),
        multiply_add: |sum, a, b| _mm512_dpbf16_ps(sum, as_pairs(a), as_pairs(b)));

    lanes!(Narrow(__m256), 8, __m256, zero: _mm256_setzero_ps, load: _mm256_loadu_ps, store: _mm256_storeu_ps,
        words: |from| _mm256_loadu_ps(from.cast()),
        spread: |from| _mm256_set1_ps(f32::from_bits(*from)),
        multiply_add: |sum, a, b| _mm256_fmadd_ps(a, b, sum));

    lanes!(NarrowPairs(__m256), 8, __m256i, zero: _mm256_setzero_ps, load: _mm256_loadu_ps,
    store: _mm256_storeu_ps,
    words: |from| _mm256_loadu_si256(from.cast()),
    spread: |from| _mm256_set1_epi32(*from as i32),
    multiply_add: |sum, a, b| {
        let sum = _mm256_fmadd_ps(first(a), first(b), sum);
        _mm256_fmadd_ps(second(a), second(b), sum)
    });

    #[inline(always)]
    unsafe fn as_pairs(words: __m512i) -> __m512bh {
        // SAFETY: both are 64 bytes of plain data.
        unsafe { std::mem::transmute(words) }
    }

    /// The first bf16 of every pair, widened.
    #[inline(always)]
    unsafe fn first(pairs: __m256i) -> __m256 {
        // SAFETY: only called where AVX2 is on.
        unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs)) }
    }

    /// The second bf16 of every pair, widened.
    #[inline(always)]
    unsafe fn second(pairs: __m256i) -> __m256 {
        // SAFETY: only called where AVX2 is on.
        unsafe { _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(0xffff_0000u32 as i32))) }
    }
}
