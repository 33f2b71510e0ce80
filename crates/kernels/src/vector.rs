//! Vector arithmetic written once: [`Vector`] is a register of `f32` lanes, a [`Program`] is code over
//! any of them, and [`run`] compiles it for every instruction set and picks one at run time.
//!
//! The mathematics here ([`exp`], [`tanh`], [`sigmoid`], [`normal_tail`]) is within 2e-6 of `f64`, relative
//! to the result. A NaN lane stays NaN and no lane sees another. A lane's result does not depend on
//! its place, so that a kernel's result for one row is the same whatever else is in the call.

use std::ops::{Add, Div, Mul, Sub};

use crate::simd::{Level, level};

mod functions;
mod lanes;
mod sweep;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(crate) use functions::{TAIL_END, exp, normal_tail, sigmoid, tanh};
use lanes::Lanes;
pub(crate) use sweep::{
    Affine, Dot, Each, Map, Sum, Sweep, apply, collect, fill, filled, fold, rows, sweep_raw,
};

/// The most lanes that a vector has.
pub(crate) const MOST_LANES: usize = 64;

/// A register of `f32` lanes. Values may only be made inside [`Program::run`], where the processor is
/// known to have the instructions.
pub(crate) trait Vector:
    Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self>
{
    /// Lanes.
    const LANES: usize;

    /// `value` in every lane.
    fn splat(value: f32) -> Self;

    /// Reads [`Self::LANES`] values.
    ///
    /// # Safety
    /// They must be readable.
    unsafe fn load(from: *const f32) -> Self;

    /// Writes [`Self::LANES`] values.
    ///
    /// # Safety
    /// They must be writable.
    unsafe fn store(self, to: *mut f32);

    /// `self * by + plus`, rounded once where the processor can.
    fn mul_add(self, by: Self, plus: Self) -> Self;

    /// `plus - self * by`, rounded once where the processor can.
    fn negative_mul_add(self, by: Self, plus: Self) -> Self;

    /// The greater of both; `other` where either is NaN.
    fn max(self, other: Self) -> Self;

    /// The lesser of both; `other` where either is NaN.
    fn min(self, other: Self) -> Self;

    /// The nearest integer, for magnitudes below 2^22.
    fn round(self) -> Self;

    /// `self * 2^power` for integral powers within ±250, with overflow to infinity.
    fn scale(self, power: Self) -> Self;

    /// The square root.
    fn sqrt(self) -> Self;

    /// The magnitude.
    fn abs(self) -> Self;

    /// `yes` where the lane is below zero, else `no`.
    fn where_negative(self, yes: Self, no: Self) -> Self;

    /// The sum of all lanes, by halves.
    fn sum(self) -> f32 {
        self.fold(|a, b| a + b)
    }

    /// The greatest lane.
    fn greatest(self) -> f32 {
        self.fold(|a, b| if a > b { a } else { b })
    }

    /// Combines the lanes by halves: lane `i` with lane `i + half`.
    #[inline(always)]
    fn fold(self, combine: impl Fn(f32, f32) -> f32) -> f32 {
        let mut lanes = [0.0f32; MOST_LANES];
        // SAFETY: there is room for the widest vector.
        unsafe { self.store(lanes.as_mut_ptr()) };
        let mut half = Self::LANES / 2;
        while half > 0 {
            for lane in 0..half {
                lanes[lane] = combine(lanes[lane], lanes[lane + half]);
            }
            half /= 2;
        }
        lanes[0]
    }

    /// Reads up to [`Self::LANES`] values; the other lanes are `fill`.
    #[inline(always)]
    fn load_part(from: &[f32], fill: f32) -> Self {
        let mut lanes = [fill; MOST_LANES];
        lanes[..from.len()].copy_from_slice(from);
        // SAFETY: there is room for the widest vector.
        unsafe { Self::load(lanes.as_ptr()) }
    }

    /// Writes the first `count` lanes, at most [`Self::LANES`].
    ///
    /// # Safety
    /// They must be writable.
    #[inline(always)]
    unsafe fn store_part(self, to: *mut f32, count: usize) {
        let mut lanes = [0.0f32; MOST_LANES];
        // SAFETY: there is room for the widest vector, and the caller vouches for `to`.
        unsafe {
            self.store(lanes.as_mut_ptr());
            to.copy_from_nonoverlapping(lanes.as_ptr(), count);
        }
    }
}

/// Code over any [`Vector`]. `run` and what it calls must be `#[inline(always)]`, so that they are
/// compiled with the instructions of the vector.
pub(crate) trait Program {
    /// What it computes.
    type Output;

    /// The code.
    fn run<V: Vector>(self) -> Self::Output;
}

/// Runs a program with this processor's widest vectors.
pub(crate) fn run<P: Program>(program: P) -> P::Output {
    run_at(level(), program)
}

/// Runs a program at a level that the processor has.
pub(crate) fn run_at<P: Program>(wanted: Level, program: P) -> P::Output {
    match wanted.min(level()) {
        Level::Plain => program.run::<Lanes>(),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `level()` found the instructions.
        Level::Avx2 => unsafe { x86::avx2(program) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `level()` found the instructions.
        Level::Avx512 => unsafe { x86::avx512(program) },
        #[cfg(not(target_arch = "x86_64"))]
        _ => program.run::<Lanes>(),
    }
}
