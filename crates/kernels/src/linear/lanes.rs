//! Sixteen lanes of arithmetic on 8-bit levels, once for each set of vector instructions, so that
//! the layout of the weights ([`super::panels`]) and the multiplication ([`super::tile`]) are
//! written once.
//!
//! Every level computes the same integers; their sums in `f32` may differ in rounding, because only
//! the vector levels fuse the multiplication with the addition.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod plain;

use super::tile::{Body, Call};
use crate::simd::{Features, Level};

#[cfg(target_arch = "x86_64")]
pub(super) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(super) use avx512::Avx512;
pub(super) use plain::Plain;

/// The arithmetic of one instruction set.
///
/// # Safety
/// Every function needs the instructions of its level; those that take a pointer read or write the
/// number of values that they name, without any alignment.
pub(super) trait Lanes: Copy + 'static {
    /// 64 bytes: for each of 16 lanes four neighbouring levels.
    type Bytes: Copy;
    /// Four 8-bit activations, the same in every lane.
    type Quad: Copy;
    /// 16 values of `i32`.
    type Ints: Copy;
    /// 16 values of `f32`.
    type Floats: Copy;

    /// Rows of activations that one pass over the weights serves.
    const ROWS: usize;

    /// Runs `B` for `rows` (1 to [`Self::ROWS`]) rows, compiled for this level.
    unsafe fn enter<B: Body>(rows: usize, call: &Call);

    /// Asks the processor to fetch the cache line at `address`, which need not exist.
    unsafe fn prefetch(address: *const u8);
    /// Loads 64 bytes.
    unsafe fn load(from: *const u8) -> Self::Bytes;
    /// Stores 64 bytes.
    unsafe fn store(to: *mut u8, bytes: Self::Bytes);
    /// `(bytes >> SHIFT) & mask`, byte for byte.
    unsafe fn field<const SHIFT: u32>(bytes: Self::Bytes, mask: u8) -> Self::Bytes;
    /// `(bytes << SHIFT) & mask`, byte for byte.
    unsafe fn raised<const SHIFT: u32>(bytes: Self::Bytes, mask: u8) -> Self::Bytes;
    /// `a | b`.
    unsafe fn or(a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;

    /// Four activations for every lane.
    unsafe fn quad(from: *const i8) -> Self::Quad;
    /// Adds to each lane the product of its four levels (below 128) with the activations.
    unsafe fn dot(sums: Self::Ints, levels: Self::Bytes, quad: Self::Quad) -> Self::Ints;
    /// What [`Self::dot`] starts from, so that levels count from `1 << SHIFT`: the shifted value at
    /// `negative_sum`, minus the sum of the activations.
    unsafe fn start<const SHIFT: u32>(negative_sum: *const i32) -> Self::Ints;
    /// As [`Self::dot`] for levels of the whole range, where 128 means zero.
    unsafe fn dot_wide(sums: Self::Ints, levels: Self::Bytes, quad: Self::Quad) -> Self::Ints;
    /// What [`Self::dot_wide`] starts from.
    unsafe fn start_wide(negative_sum: *const i32) -> Self::Ints;
    /// Zeros.
    unsafe fn no_ints() -> Self::Ints;

    /// Zeros.
    unsafe fn zero() -> Self::Floats;
    /// The value at `from` in every lane.
    unsafe fn splat(from: *const f32) -> Self::Floats;
    /// 16 values.
    unsafe fn floats(from: *const f32) -> Self::Floats;
    /// 16 values in half precision, widened.
    unsafe fn halves(from: *const u8) -> Self::Floats;
    /// 16 bytes as numbers from 0 to 255.
    unsafe fn unsigned(from: *const u8) -> Self::Floats;
    /// 16 bytes as numbers from -128 to 127.
    unsafe fn signed(from: *const u8) -> Self::Floats;
    /// The integers as floats.
    unsafe fn float(ints: Self::Ints) -> Self::Floats;
    /// `a * b`.
    unsafe fn times(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `sum + a * b`.
    unsafe fn plus(sum: Self::Floats, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `sum - a * b`.
    unsafe fn minus(sum: Self::Floats, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// Stores 16 values.
    unsafe fn put(to: *mut f32, values: Self::Floats);

    /// Four activations for every lane to pick from.
    unsafe fn four(from: *const f32) -> Self::Floats;
    /// In each lane that of [`Self::four`]'s activations which the lowest two bits of its 32 name.
    unsafe fn pick(four: Self::Floats, fields: Self::Bytes) -> Self::Floats;
    /// Moves the 32 bits of each lane down by two.
    unsafe fn next_fields(fields: Self::Bytes) -> Self::Bytes;
    /// The bf16 in the lower half of each lane, widened.
    unsafe fn lower(words: Self::Bytes) -> Self::Floats;
    /// The bf16 in the upper half of each lane, widened.
    unsafe fn upper(words: Self::Bytes) -> Self::Floats;
    /// Sixteen activations for every lane to pick from.
    unsafe fn sixteen(from: *const i8) -> Self::Bytes;
    /// Adds to each lane the product of its four signed levels (above -128) with the activations that
    /// they are for: two of four neighbours, then two of the next four, as bits `2 STEP` and `2 STEP + 1`
    /// of the fields' bytes say. Odd steps pick from the second half of the sixteen.
    unsafe fn pick_dot<const STEP: u32>(
        sums: Self::Ints,
        levels: Self::Bytes,
        sixteen: Self::Bytes,
        fields: Self::Bytes,
    ) -> Self::Ints;
    /// What [`Self::pick_dot`] starts from: `negative_sums` are minus the sums of each lane's levels.
    unsafe fn start_picked(negative_sums: *const i32) -> Self::Ints;

    /// The next values at `from`, one for each lane whose bit is set in `mask`; zero elsewhere.
    unsafe fn spread(mask: u16, from: *const f32) -> Self::Floats;
    /// As [`Self::spread`] for bf16. May read 32 bytes, however few bits are set.
    unsafe fn spread_bf16(mask: u16, from: *const u16) -> Self::Floats;
}

/// The level that the block kernels take: AVX-512 only counts with VNNI.
pub(super) fn level(features: Features) -> Level {
    match features.level {
        Level::Avx512 if !features.vnni => Level::Avx2,
        level => level,
    }
}

/// Rows of activations that one pass over the weights serves at `level`.
pub(super) fn rows(level: Level) -> usize {
    match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => Avx512::ROWS,
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => Avx2::ROWS,
        _ => Plain::ROWS,
    }
}

/// Runs `B` at `level` for `rows` rows.
///
/// # Safety
/// The processor must have the level, and `call` must describe memory as [`Call`] says.
pub(super) unsafe fn enter<B: Body>(level: Level, rows: usize, call: &Call) {
    // SAFETY: as the caller promises.
    unsafe {
        match level {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => Avx512::enter::<B>(rows, call),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => Avx2::enter::<B>(rows, call),
            _ => Plain::enter::<B>(rows, call),
        }
    }
}
