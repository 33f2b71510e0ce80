//! One vector of floats, for every instruction set. The kernels are written once over [`Lanes`] and
//! compiled for each level inside a function that turns the instructions on.

/// Coefficients of `2^x - 1` over `x`, `0 <= x < 1`: relative error of `2^x` below 9e-8.
const EXP2: [f32; 5] = [6.931_513e-1, 2.401_644_5e-1, 5.579_991_4e-2, 9.017_029e-3, 1.867_130_7e-3];

/// Coefficients of `tanh(x) / x` in `x²`, `|x| < TANH_BOUND`: relative error below 8e-8.
const TANH: [f32; 5] = [9.999_999_3e-1, -3.333_231e-1, 1.331_017_4e-1, -5.210_148e-2, 1.547_542_7e-2];

/// Above it `1 - 2 / (1 + e^2x)` loses nothing.
const TANH_BOUND: f32 = 0.6;

/// A vector of floats.
///
/// # Safety
/// All functions: the processor has the instructions of the type, and pointers are good for
/// `WIDTH` floats (as are the rows of the square in [`Lanes::transpose`]).
pub(super) trait Lanes: Copy {
    /// Floats in a vector.
    const WIDTH: usize;
    /// Vectors in a row of a product's tile, so that six rows of sums fill the registers.
    const COLUMNS: usize;

    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    unsafe fn splat(value: f32) -> Self;
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn div(self, other: Self) -> Self;
    /// `self * factor + term`.
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self;
    /// The larger; `other` where either is NaN.
    unsafe fn max(self, other: Self) -> Self;
    /// `self` where the low bits are set, else `other`.
    unsafe fn choose(self, bits: u64, other: Self) -> Self;
    /// `self` where `|measure| < bound`, else `other`.
    unsafe fn where_small(self, measure: Self, bound: f32, other: Self) -> Self;
    /// `self - floor(self)`; anything finite for an infinity.
    unsafe fn fraction(self) -> Self;
    /// `self * 2^floor(power)`.
    unsafe fn times_power(self, power: Self) -> Self;
    unsafe fn largest(self) -> f32;
    /// `to[j][i] = row(i)[j]` for a square of `WIDTH` rows, those of `to` being `to_row` apart.
    unsafe fn transpose(row: impl Fn(usize) -> *const f32, to: *mut f32, to_row: usize);

    /// `2^self`, relative error below 2e-7; exact at 0, zero at `-inf`.
    #[inline(always)]
    unsafe fn exp2(self) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            let fraction = self.fraction();
            let mut sum = Self::splat(EXP2[4]);
            for coefficient in [EXP2[3], EXP2[2], EXP2[1], EXP2[0], 1.0] {
                sum = sum.mul_add(fraction, Self::splat(coefficient));
            }
            sum.times_power(self)
        }
    }

    /// Hyperbolic tangent, relative error below 4e-7.
    #[inline(always)]
    unsafe fn tanh(self) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            let square = self.mul(self);
            let mut small = Self::splat(TANH[4]);
            for coefficient in [TANH[3], TANH[2], TANH[1], TANH[0]] {
                small = small.mul_add(square, Self::splat(coefficient));
            }
            let one = Self::splat(1.0);
            let power = self.mul(Self::splat(2.0 * std::f32::consts::LOG2_E)).exp2();
            let large = one.sub(Self::splat(2.0).div(power.add(one)));
            small.mul(self).where_small(self, TANH_BOUND, large)
        }
    }
}

/// Four floats in plain Rust: SSE2 on x86-64, NEON on 64-bit Arm.
#[derive(Clone, Copy)]
#[repr(align(16))]
pub(super) struct Plain([f32; 4]);

impl Plain {
    #[inline(always)]
    fn zip(self, other: Self, function: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|i| function(self.0[i], other.0[i])))
    }
}

impl Lanes for Plain {
    const WIDTH: usize = 4;
    const COLUMNS: usize = if cfg!(target_arch = "aarch64") { 4 } else { 2 };

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { from.cast::<[f32; 4]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<[f32; 4]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; 4])
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| a / b)
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self {
        // One instruction on Arm; on x86-64 without FMA a call, so two instructions there.
        let fused =
            |a: f32, b: f32, c: f32| if cfg!(target_arch = "aarch64") { a.mul_add(b, c) } else { a * b + c };
        Self(std::array::from_fn(|i| fused(self.0[i], factor.0[i], term.0[i])))
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    unsafe fn choose(self, bits: u64, other: Self) -> Self {
        Self(std::array::from_fn(|i| if bits >> i & 1 == 1 { self.0[i] } else { other.0[i] }))
    }

    #[inline(always)]
    unsafe fn where_small(self, measure: Self, bound: f32, other: Self) -> Self {
        Self(std::array::from_fn(|i| if measure.0[i].abs() < bound { self.0[i] } else { other.0[i] }))
    }

    #[inline(always)]
    unsafe fn fraction(self) -> Self {
        Self(self.0.map(|x| x.clamp(-127.0, 128.0) - floor(x)))
    }

    #[inline(always)]
    unsafe fn times_power(self, power: Self) -> Self {
        self.zip(power, |x, power| {
            if power.is_nan() {
                power
            } else {
                x * f32::from_bits(((floor(power) as i32 + 127) << 23) as u32)
            }
        })
    }

    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        self.0.into_iter().fold(f32::NEG_INFINITY, |a, b| if b > a || b.is_nan() { b } else { a })
    }

    #[inline(always)]
    unsafe fn transpose(row: impl Fn(usize) -> *const f32, to: *mut f32, to_row: usize) {
        for i in 0..4 {
            for j in 0..4 {
                // SAFETY: the caller's promise.
                unsafe { *to.add(j * to_row + i) = *row(i).add(j) };
            }
        }
    }
}

/// The largest integer not above `x`, for `x` within the powers of a float; without a library call.
#[inline(always)]
fn floor(x: f32) -> f32 {
    let x = x.clamp(-127.0, 128.0);
    let truncated = (x as i32) as f32;
    truncated - f32::from(truncated > x)
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Wide, Wider};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Lanes;
    use std::arch::x86_64::*;

    /// Eight floats: AVX2 with FMA.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Wide(__m256);

    /// Sixteen floats: AVX-512 with F, BW, DQ and VL.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Wider(__m512);

    // SAFETY of every block below: the caller's promise that the instructions are there and the
    // pointers good.
    impl Lanes for Wide {
        const WIDTH: usize = 8;
        const COLUMNS: usize = 2;

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm256_loadu_ps(from) })
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: see above.
            unsafe { _mm256_storeu_ps(to, self.0) }
        }

        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm256_set1_ps(value) })
        }

        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm256_add_ps(self.0, other.0) })
        }

        #[inline(always)]
        unsafe fn sub(self, other: Self) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm256_sub_ps(self.0, other.0) })
        }

        #[inline(always)]
        unsafe fn mul(self, other: Self) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm256_mul_ps(self.0, other.0) })
        }

        #[inline(always)]
        unsafe fn div(self, other: Self) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm256_div_ps(self.0, other.0) })
        }

        #[inline(always)]
        unsafe fn mul_add(self, factor: Self, term: Self) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm256_fmadd_ps(self.0, factor.0, term.0) })
        }

        #[inline(always)]
        unsafe fn max(self, other: Self) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm256_max_ps(self.0, other.0) })
        }

        #[inline(always)]
        unsafe fn choose(self, bits: u64, other: Self) -> Self {
            // SAFETY: see above.
            unsafe {
                let each = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
                let set = _mm256_and_si256(_mm256_set1_epi32(bits as i32), each);
                let set = _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, each));
                Self(_mm256_blendv_ps(other.0, self.0, set))
            }
        }

        #[inline(always)]
        unsafe fn where_small(self, measure: Self, bound: f32, other: Self) -> Self {
            // SAFETY: see above.
            unsafe {
                let size = _mm256_andnot_ps(_mm256_set1_ps(-0.0), measure.0);
                let small = _mm256_cmp_ps::<_CMP_LT_OQ>(size, _mm256_set1_ps(bound));
                Self(_mm256_blendv_ps(other.0, self.0, small))
            }
        }

        #[inline(always)]
        unsafe fn fraction(self) -> Self {
            // SAFETY: see above. The operand order keeps a NaN.
            unsafe {
                let x = _mm256_max_ps(_mm256_set1_ps(-127.0), self.0);
                let x = _mm256_min_ps(_mm256_set1_ps(128.0), x);
                Self(_mm256_sub_ps(x, _mm256_floor_ps(x)))
            }
        }

        #[inline(always)]
        unsafe fn times_power(self, power: Self) -> Self {
            // SAFETY: see above. The exponent's bits: -127 makes zero, 128 infinity.
            unsafe {
                let x = _mm256_max_ps(_mm256_set1_ps(-127.0), power.0);
                let x = _mm256_floor_ps(_mm256_min_ps(_mm256_set1_ps(128.0), x));
                let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(x), _mm256_set1_epi32(127));
                Self(_mm256_mul_ps(self.0, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent))))
            }
        }

        #[inline(always)]
        unsafe fn largest(self) -> f32 {
            // SAFETY: see above.
            unsafe {
                let half = _mm_max_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
                let pair = _mm_max_ps(half, _mm_movehl_ps(half, half));
                _mm_cvtss_f32(_mm_max_ss(pair, _mm_movehdup_ps(pair)))
            }
        }

        #[inline(always)]
        unsafe fn transpose(row: impl Fn(usize) -> *const f32, to: *mut f32, to_row: usize) {
            // SAFETY: see above.
            unsafe {
                let rows: [__m256; 8] = std::array::from_fn(|i| _mm256_loadu_ps(row(i)));
                // Pairs of rows, then fours, then eights: bit by bit the row index becomes the column's.
                let mut pairs = rows;
                for i in 0..4 {
                    pairs[2 * i] = _mm256_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
                    pairs[2 * i + 1] = _mm256_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
                }
                let mut fours = pairs;
                for i in 0..2 {
                    let [a, b, c, d] = [pairs[4 * i], pairs[4 * i + 1], pairs[4 * i + 2], pairs[4 * i + 3]];
                    fours[4 * i] = _mm256_shuffle_ps::<0x44>(a, c);
                    fours[4 * i + 1] = _mm256_shuffle_ps::<0xee>(a, c);
                    fours[4 * i + 2] = _mm256_shuffle_ps::<0x44>(b, d);
                    fours[4 * i + 3] = _mm256_shuffle_ps::<0xee>(b, d);
                }
                for i in 0..4 {
                    let low = _mm256_permute2f128_ps::<0x20>(fours[i], fours[i + 4]);
                    let high = _mm256_permute2f128_ps::<0x31>(fours[i], fours[i + 4]);
                    _mm256_storeu_ps(to.add(i * to_row), low);
                    _mm256_storeu_ps(to.add((i + 4) * to_row), high);
                }
            }
        }
    }

    impl Lanes for Wider {
        const WIDTH: usize = 16;
        const COLUMNS: usize = 4;

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_loadu_ps(from) })
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: see above.
            unsafe { _mm512_storeu_ps(to, self.0) }
        }

        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_set1_ps(value) })
        }

        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_add_ps(self.0, other.0) })
        }

        #[inline(always)]
        unsafe fn sub(self, other: Self) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_sub_ps(self.0, other.0) })
        }

        #[inline(always)]
        unsafe fn mul(self, other: Self) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_mul_ps(self.0, other.0) })
        }

        #[inline(always)]
        unsafe fn div(self, other: Self) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_div_ps(self.0, other.0) })
        }

        #[inline(always)]
        unsafe fn mul_add(self, factor: Self, term: Self) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_fmadd_ps(self.0, factor.0, term.0) })
        }

        #[inline(always)]
        unsafe fn max(self, other: Self) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_max_ps(self.0, other.0) })
        }

        #[inline(always)]
        unsafe fn choose(self, bits: u64, other: Self) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_mask_blend_ps(bits as u16, other.0, self.0) })
        }

        #[inline(always)]
        unsafe fn where_small(self, measure: Self, bound: f32, other: Self) -> Self {
            // SAFETY: see above.
            unsafe {
                let small = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(_mm512_abs_ps(measure.0), _mm512_set1_ps(bound));
                Self(_mm512_mask_blend_ps(small, other.0, self.0))
            }
        }

        #[inline(always)]
        unsafe fn fraction(self) -> Self {
            // SAFETY: see above. Immediate 1: to a multiple of 1, rounding down; 0 for an infinity.
            Self(unsafe { _mm512_reduce_ps::<1>(self.0) })
        }

        #[inline(always)]
        unsafe fn times_power(self, power: Self) -> Self {
            // SAFETY: see above. The instruction takes the floor itself.
            Self(unsafe { _mm512_scalef_ps(self.0, power.0) })
        }

        #[inline(always)]
        unsafe fn largest(self) -> f32 {
            // SAFETY: see above.
            unsafe {
                Wide(_mm512_castps512_ps256(self.0)).max(Wide(_mm512_extractf32x8_ps::<1>(self.0))).largest()
            }
        }

        #[inline(always)]
        unsafe fn transpose(row: impl Fn(usize) -> *const f32, to: *mut f32, to_row: usize) {
            // SAFETY: see above.
            unsafe {
                let rows: [__m512; 16] = std::array::from_fn(|i| _mm512_loadu_ps(row(i)));
                let mut pairs = rows;
                for i in 0..8 {
                    pairs[2 * i] = _mm512_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
                    pairs[2 * i + 1] = _mm512_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
                }
                // fours[4 i + j] holds columns j, j + 4, j + 8, j + 12 of rows 4 i .. 4 i + 4, a quarter each.
                let mut fours = pairs;
                for i in 0..4 {
                    let [a, b, c, d] = [pairs[4 * i], pairs[4 * i + 1], pairs[4 * i + 2], pairs[4 * i + 3]];
                    fours[4 * i] = _mm512_shuffle_ps::<0x44>(a, c);
                    fours[4 * i + 1] = _mm512_shuffle_ps::<0xee>(a, c);
                    fours[4 * i + 2] = _mm512_shuffle_ps::<0x44>(b, d);
                    fours[4 * i + 3] = _mm512_shuffle_ps::<0xee>(b, d);
                }
                for j in 0..4 {
                    let [a, b, c, d] = [fours[j], fours[j + 4], fours[j + 8], fours[j + 12]];
                    let (left_even, left_odd) =
                        (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b));
                    let (right_even, right_odd) =
                        (_mm512_shuffle_f32x4::<0x88>(c, d), _mm512_shuffle_f32x4::<0xdd>(c, d));
                    _mm512_storeu_ps(to.add(j * to_row), _mm512_shuffle_f32x4::<0x88>(left_even, right_even));
                    _mm512_storeu_ps(
                        to.add((j + 4) * to_row),
                        _mm512_shuffle_f32x4::<0x88>(left_odd, right_odd),
                    );
                    _mm512_storeu_ps(
                        to.add((j + 8) * to_row),
                        _mm512_shuffle_f32x4::<0xdd>(left_even, right_even),
                    );
                    _mm512_storeu_ps(
                        to.add((j + 12) * to_row),
                        _mm512_shuffle_f32x4::<0xdd>(left_odd, right_odd),
                    );
                }
            }
        }
    }
}
