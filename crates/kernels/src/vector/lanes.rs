//! Vectors in portable Rust: [`Lanes`], and [`Pair`]s of any vectors.

use std::ops::{Add, Div, Mul, Sub};

use super::Vector;

/// 1.5 * 2^23: a sum with it has no room for a fraction, and the integer in its low bits.
const SHIFT: f32 = 12_582_912.0;

/// Eight lanes in portable Rust, for the compiler to vectorise.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lanes([f32; 8]);

impl Lanes {
    #[inline(always)]
    fn zip(self, other: Self, combine: impl Fn(f32, f32) -> f32) -> Self {
        let mut result = self.0;
        result.iter_mut().zip(other.0).for_each(|(lane, other)| *lane = combine(*lane, other));
        Self(result)
    }
}

macro_rules! lane_operator {
    ($trait:ident, $name:ident, $operator:tt) => {
        impl $trait for Lanes {
            type Output = Self;

            #[inline(always)]
            fn $name(self, other: Self) -> Self {
                self.zip(other, |a, b| a $operator b)
            }
        }
    };
}

lane_operator!(Add, add, +);
lane_operator!(Sub, sub, -);
lane_operator!(Mul, mul, *);
lane_operator!(Div, div, /);

impl Vector for Lanes {
    const LANES: usize = 8;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self([value; 8])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller vouches for eight values; arrays of f32 need no more alignment than f32.
        Self(unsafe { from.cast::<[f32; 8]>().read() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as in `load`.
        unsafe { to.cast::<[f32; 8]>().write(self.0) }
    }

    #[inline(always)]
    fn mul_add(self, by: Self, plus: Self) -> Self {
        self * by + plus
    }

    #[inline(always)]
    fn negative_mul_add(self, by: Self, plus: Self) -> Self {
        plus - self * by
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn round(self) -> Self {
        (self + Self::splat(SHIFT)) - Self::splat(SHIFT)
    }

    #[inline(always)]
    fn scale(self, power: Self) -> Self {
        self.zip(power, |value, power| {
            // The integer is read off the bits: a cast's saturation would not vectorise.
            let power = ((power + SHIFT).to_bits() as i32).wrapping_sub(SHIFT.to_bits() as i32);
            let half = power >> 1;
            value * power_of_two(half) * power_of_two(power.wrapping_sub(half))
        })
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        Self(self.0.map(f32::sqrt))
    }

    #[inline(always)]
    fn abs(self) -> Self {
        Self(self.0.map(f32::abs))
    }

    #[inline(always)]
    fn where_negative(self, yes: Self, no: Self) -> Self {
        let mut result = no.0;
        for (lane, (value, yes)) in result.iter_mut().zip(self.0.into_iter().zip(yes.0)) {
            *lane = if value < 0.0 { yes } else { *lane };
        }
        Self(result)
    }
}

#[inline(always)]
fn power_of_two(power: i32) -> f32 {
    f32::from_bits((power.wrapping_add(127) as u32) << 23)
}

/// Two vectors as one of twice the lanes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair<V>(V, V);

macro_rules! pair_operator {
    ($trait:ident, $name:ident, $operator:tt) => {
        impl<V: Vector> $trait for Pair<V> {
            type Output = Self;

            #[inline(always)]
            fn $name(self, other: Self) -> Self {
                Self(self.0 $operator other.0, self.1 $operator other.1)
            }
        }
    };
}

pair_operator!(Add, add, +);
pair_operator!(Sub, sub, -);
pair_operator!(Mul, mul, *);
pair_operator!(Div, div, /);

impl<V: Vector> Pair<V> {
    /// Both vectors combined.
    #[inline(always)]
    pub(super) fn halve(self, combine: impl Fn(V, V) -> V) -> V {
        combine(self.0, self.1)
    }
}

impl<V: Vector> Vector for Pair<V> {
    const LANES: usize = 2 * V::LANES;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self(V::splat(value), V::splat(value))
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller vouches for the values of both.
        unsafe { Self(V::load(from), V::load(from.add(V::LANES))) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as in `load`.
        unsafe {
            self.0.store(to);
            self.1.store(to.add(V::LANES));
        }
    }

    #[inline(always)]
    fn mul_add(self, by: Self, plus: Self) -> Self {
        Self(self.0.mul_add(by.0, plus.0), self.1.mul_add(by.1, plus.1))
    }

    #[inline(always)]
    fn negative_mul_add(self, by: Self, plus: Self) -> Self {
        Self(self.0.negative_mul_add(by.0, plus.0), self.1.negative_mul_add(by.1, plus.1))
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        Self(self.0.max(other.0), self.1.max(other.1))
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        Self(self.0.min(other.0), self.1.min(other.1))
    }

    #[inline(always)]
    fn round(self) -> Self {
        Self(self.0.round(), self.1.round())
    }

    #[inline(always)]
    fn scale(self, power: Self) -> Self {
        Self(self.0.scale(power.0), self.1.scale(power.1))
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        Self(self.0.sqrt(), self.1.sqrt())
    }

    #[inline(always)]
    fn abs(self) -> Self {
        Self(self.0.abs(), self.1.abs())
    }

    #[inline(always)]
    fn where_negative(self, yes: Self, no: Self) -> Self {
        Self(self.0.where_negative(yes.0, no.0), self.1.where_negative(yes.1, no.1))
    }
}
