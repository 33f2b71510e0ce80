//! The transcendental functions on vectors.

use super::Vector;

/// The polynomial `sum(coefficients[i] * x^i)`, by Horner's rule.
#[inline(always)]
fn polynomial<V: Vector, const N: usize>(x: V, coefficients: [f32; N]) -> V {
    let mut value = V::splat(coefficients[N - 1]);
    for index in (0..N - 1).rev() {
        value = value.mul_add(x, V::splat(coefficients[index]));
    }
    value
}

/// ln 2 in two parts; a small integer times the first, of ten bits, is exact.
const LN2_HIGH: f32 = 710.0 / 1024.0;
const LN2_LOW: f32 = -2.121_944_4e-4;

/// `(n, r)` with `x = n ln 2 + r`, `|r| <= ln 2 / 2`.
#[inline(always)]
fn reduce<V: Vector>(x: V) -> (V, V) {
    let n = (x * V::splat(std::f32::consts::LOG2_E)).round();
    (n, n.mul_add(V::splat(-LN2_LOW), n.mul_add(V::splat(-LN2_HIGH), x)))
}

/// `exp(r) - 1` for `|r| <= 0.39`; minimax, 7e-9.
#[inline(always)]
fn small_expm1<V: Vector>(r: V) -> V {
    let tail = polynomial(r, [0.5, 0.166_664_3, 0.041_665_927, 0.008_378_373, 0.001_396_691_9]);
    (r * r).mul_add(tail, r)
}

/// `e^x`: 0 below -105 and infinity above 88.73; NaN stays NaN. Minimax, 9e-8.
#[inline(always)]
pub(crate) fn exp<V: Vector>(x: V) -> V {
    let (n, r) = reduce(V::splat(90.0).min(V::splat(-105.0).max(x)));
    small_exp(r).scale(n)
}

/// `exp(r)` for `|r| <= ln 2 / 2`.
#[inline(always)]
fn small_exp<V: Vector>(r: V) -> V {
    polynomial(r, [1.0, 0.999_999_7, 0.499_991_48, 0.166_676_37, 0.041_898_1, 0.008_290_282])
}

/// The hyperbolic tangent.
#[inline(always)]
pub(crate) fn tanh<V: Vector>(x: V) -> V {
    let twice = V::splat(20.0).min(V::splat(-20.0).max(x + x));
    let (n, r) = reduce(twice);
    let one = V::splat(1.0);
    let expm1 = small_expm1(r).scale(n) + (one.scale(n) - one);
    expm1 / (expm1 + V::splat(2.0))
}

/// `1 / (1 + e^-x)`; results below 1e-38 are 0.
#[inline(always)]
pub(crate) fn sigmoid<V: Vector>(x: V) -> V {
    let one = V::splat(1.0);
    one / (one + exp(V::splat(0.0) - x))
}

/// Where the polynomial of [`normal_tail`] ends.
pub(crate) const TAIL_END: f32 = 5.1;

/// The standard normal distribution's tail, `P(X <= -|x|)`: within 2e-6 as far as [`TAIL_END`],
/// beyond it within 3e-9 of zero, where it goes.
///
/// It is `2^(g(|x|) - C x^2)` for a `g` so smooth that a minimax polynomial of degree 9 does (4e-7): one
/// exponential and no division.
#[inline(always)]
pub(crate) fn normal_tail<V: Vector>(x: V) -> V {
    const C: f32 = 0.721_347_5;
    const SMOOTH: [f32; 10] = [
        -0.999_999_46,
        -1.151_127,
        0.262_281_48,
        -0.052_846_175,
        7.479_279_3e-3,
        -3.978_224e-4,
        -1.005_158_3e-4,
        2.697_091_8e-5,
        -2.768_182_2e-6,
        1.112_482_2e-7,
    ];
    const POWER: [f32; 6] = [1.0, 0.693_146_94, 0.240_221_74, 0.055_507_883, 9.675_848e-3, 1.325_916_7e-3];
    let square = V::splat(200.0).min(x * x);
    let smooth = polynomial(V::splat(TAIL_END).min(x.abs()), SMOOTH);
    let n = square.negative_mul_add(V::splat(C), smooth).round();
    polynomial(square.negative_mul_add(V::splat(C), V::splat(0.0) - n) + smooth, POWER).scale(n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Level;
    use crate::testing::{assert_near, noise};
    use crate::vector::{Program, run_at};

    #[derive(Clone, Copy)]
    enum Function {
        Exp,
        Tanh,
        Sigmoid,
        Tail,
    }

    struct Evaluate<'a>(Function, &'a [f32]);

    impl Program for Evaluate<'_> {
        type Output = Vec<f32>;

        #[inline(always)]
        fn run<V: Vector>(self) -> Vec<f32> {
            let mut out = vec![0.0; self.1.len()];
            for (x, out) in self.1.chunks(V::LANES).zip(out.chunks_mut(V::LANES)) {
                let x = V::load_part(x, 0.0);
                let y = match self.0 {
                    Function::Exp => exp(x),
                    Function::Tanh => tanh(x),
                    Function::Sigmoid => sigmoid(x),
                    Function::Tail => normal_tail(x),
                };
                // SAFETY: `out` has the length of `x`.
                unsafe { y.store_part(out.as_mut_ptr(), out.len()) };
            }
            out
        }
    }

    fn at_every_level(function: Function, x: &[f32], check: impl Fn(&[f32])) {
        for level in [Level::Plain, Level::Avx2, Level::Avx512] {
            check(&run_at(level, Evaluate(function, x)));
        }
    }

    fn sweep(low: f32, high: f32) -> Vec<f32> {
        let count = 100_003;
        (0..count).map(|i| low + (high - low) * i as f32 / count as f32).chain(noise(1000, 3, 1e-3)).collect()
    }

    #[test]
    fn functions_are_within_2e_6_of_f64() {
        type Case = (Function, fn(f64) -> f64, f32, f32);
        let cases: [Case; 4] = [
            (Function::Exp, f64::exp, -87.0, 88.7),
            (Function::Tanh, f64::tanh, -30.0, 30.0),
            (Function::Sigmoid, |x| 1.0 / (1.0 + (-x).exp()), -87.0, 100.0),
            (Function::Tail, |x| crate::activation::normal_reference(-x.abs()), -5.0, 5.0),
        ];
        for (function, reference, low, high) in cases {
            let x = sweep(low, high);
            let wanted: Vec<f64> = x.iter().map(|&x| reference(f64::from(x))).collect();
            at_every_level(function, &x, |got| assert_near(got, &wanted, 2e-6, 1e-38));
        }
    }

    #[test]
    fn ends_are_limits_and_nan_stays() {
        let x = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 89.0, -120.0, 0.0];
        let wanted = |values: [f64; 6]| move |got: &[f32]| assert_near(got, &values, 0.0, 1.0);
        let (nan, infinity) = (f64::NAN, f64::INFINITY);
        at_every_level(Function::Exp, &x, wanted([nan, infinity, 0.0, infinity, 0.0, 1.0]));
        at_every_level(Function::Tanh, &x, wanted([nan, 1.0, -1.0, 1.0, -1.0, 0.0]));
        at_every_level(Function::Sigmoid, &x, wanted([nan, 1.0, 0.0, 1.0, 0.0, 0.5]));
        at_every_level(Function::Tail, &x[..5], |got| {
            assert!(got[0].is_nan());
            assert_eq!(got[1..], [0.0; 4]);
        });
    }
}
