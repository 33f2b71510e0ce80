//! Activation functions, alone and as gates of a feed-forward layer, with their derivatives.
//!
//! Results are within 2e-6 of `f64`, relative to the result, down to magnitudes of 1e-6; below that
//! the error is under 1e-8 for GELU and 2e-12 for the others. NaN gives NaN and infinity gives
//! infinity; minus infinity gives NaN in those that multiply by a sigmoid (as in PyTorch), otherwise
//! the limit.

use std::fmt::Debug;

use burn::tensor::{Tensor, activation};

use crate::op::{self, Host, Kernel, Pass};
use crate::vector::{self, Map, Vector};

/// An activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x P(X <= x)` for a standard normal `X` (Hendrycks and Gimpel, arXiv:1606.08415).
    Gelu,
    /// GELU by its approximation with the hyperbolic tangent.
    GeluTanh,
    /// `x sigmoid(x)`, also called swish.
    Silu,
    /// `x sigmoid(1.702 x)`.
    QuickGelu,
    /// `max(x, 0)`.
    Relu,
    /// `1 / (1 + e^-x)`.
    Sigmoid,
    /// The hyperbolic tangent.
    Tanh,
}

/// A function and its derivative on vectors.
trait Curve: Copy + Sync {
    fn value<V: Vector>(x: V) -> V;

    /// The value and the derivative.
    fn slope<V: Vector>(x: V) -> (V, V);
}

#[derive(Clone, Copy)]
struct Gelu;

impl Curve for Gelu {
    /// `max(x, 0) - |x| P(X <= -|x|)`, which is the definition on either side of zero.
    #[inline(always)]
    fn value<V: Vector>(x: V) -> V {
        // Where the bound cuts in, the tail is next to nothing; and infinity times zero is kept out.
        let size = V::splat(vector::TAIL_END).min(x.abs());
        size.negative_mul_add(vector::normal_tail(x), V::splat(0.0).max(x))
    }

    #[inline(always)]
    fn slope<V: Vector>(x: V) -> (V, V) {
        const INVERSE_ROOT_TAU: f32 = 0.398_942_3;
        let tail = vector::normal_tail(x);
        let below = x.where_negative(tail, V::splat(1.0) - tail);
        let density = vector::exp(x * x * V::splat(-0.5)) * V::splat(INVERSE_ROOT_TAU);
        (x * below, x.mul_add(density, below))
    }
}

#[derive(Clone, Copy)]
struct GeluTanh;

/// `0.5 (1 + tanh(u))` is `sigmoid(2u)`; `2u = x (LINEAR + CUBIC x^2)`.
const LINEAR: f32 = 1.595_769;
const CUBIC: f32 = 0.071_354_814;

impl Curve for GeluTanh {
    #[inline(always)]
    fn value<V: Vector>(x: V) -> V {
        let factor = (x * x).mul_add(V::splat(CUBIC), V::splat(LINEAR));
        x * vector::sigmoid(x * factor)
    }

    #[inline(always)]
    fn slope<V: Vector>(x: V) -> (V, V) {
        let square = x * x;
        let gate = vector::sigmoid(x * square.mul_add(V::splat(CUBIC), V::splat(LINEAR)));
        let inner = square.mul_add(V::splat(3.0 * CUBIC), V::splat(LINEAR));
        let value = x * gate;
        (value, (value * (V::splat(1.0) - gate)).mul_add(inner, gate))
    }
}

/// `x sigmoid(SCALE x)` for SiLU and QuickGELU.
#[derive(Clone, Copy)]
struct Swish<const THOUSANDTHS: u32>;

impl<const THOUSANDTHS: u32> Curve for Swish<THOUSANDTHS> {
    #[inline(always)]
    fn value<V: Vector>(x: V) -> V {
        let scale = V::splat(THOUSANDTHS as f32 / 1000.0);
        let one = V::splat(1.0);
        x / (one + vector::exp(V::splat(0.0) - x * scale))
    }

    #[inline(always)]
    fn slope<V: Vector>(x: V) -> (V, V) {
        let scale = V::splat(THOUSANDTHS as f32 / 1000.0);
        let gate = vector::sigmoid(x * scale);
        let value = x * gate;
        (value, (value * scale).mul_add(V::splat(1.0) - gate, gate))
    }
}

#[derive(Clone, Copy)]
struct Relu;

impl Curve for Relu {
    #[inline(always)]
    fn value<V: Vector>(x: V) -> V {
        V::splat(0.0).max(x)
    }

    #[inline(always)]
    fn slope<V: Vector>(x: V) -> (V, V) {
        let (zero, one) = (V::splat(0.0), V::splat(1.0));
        (zero.max(x), (zero - x).where_negative(one, zero))
    }
}

#[derive(Clone, Copy)]
struct Sigmoid;

impl Curve for Sigmoid {
    #[inline(always)]
    fn value<V: Vector>(x: V) -> V {
        vector::sigmoid(x)
    }

    #[inline(always)]
    fn slope<V: Vector>(x: V) -> (V, V) {
        let value = vector::sigmoid(x);
        (value, value * (V::splat(1.0) - value))
    }
}

#[derive(Clone, Copy)]
struct Tanh;

impl Curve for Tanh {
    #[inline(always)]
    fn value<V: Vector>(x: V) -> V {
        vector::tanh(x)
    }

    #[inline(always)]
    fn slope<V: Vector>(x: V) -> (V, V) {
        let value = vector::tanh(x);
        (value, V::splat(1.0) - value * value)
    }
}

/// `x -> f(x)`.
#[derive(Clone, Copy)]
struct Value<C>(C);

impl<C: Curve> Map<1, 1> for Value<C> {
    #[inline(always)]
    fn call<V: Vector>(self, [x]: [V; 1]) -> [V; 1] {
        [C::value(x)]
    }
}

/// `(x, gradient of f(x)) -> gradient of x`.
#[derive(Clone, Copy)]
struct Slope<C>(C);

impl<C: Curve> Map<2, 1> for Slope<C> {
    #[inline(always)]
    fn call<V: Vector>(self, [x, gradient]: [V; 2]) -> [V; 1] {
        [C::slope(x).1 * gradient]
    }
}

/// `(gate, up) -> f(gate) up`.
#[derive(Clone, Copy)]
struct Gate<C>(C);

impl<C: Curve> Map<2, 1> for Gate<C> {
    #[inline(always)]
    fn call<V: Vector>(self, [gate, up]: [V; 2]) -> [V; 1] {
        [C::value(gate) * up]
    }
}

/// `(gate, up, gradient of f(gate) up) -> (gradient of gate, gradient of up)`.
#[derive(Clone, Copy)]
struct GateSlope<C>(C);

impl<C: Curve> Map<3, 2> for GateSlope<C> {
    #[inline(always)]
    fn call<V: Vector>(self, [gate, up, gradient]: [V; 3]) -> [V; 2] {
        let (value, slope) = C::slope(gate);
        [slope * up * gradient, value * gradient]
    }
}

/// Evaluates an expression with `$curve` bound to the curve of an [`Activation`].
macro_rules! with_curve {
    ($activation:expr, $curve:ident => $result:expr) => {
        match $activation {
            Activation::Gelu => {
                let $curve = Gelu;
                $result
            }
            Activation::GeluTanh => {
                let $curve = GeluTanh;
                $result
            }
            Activation::Silu => {
                let $curve = Swish::<1000>;
                $result
            }
            Activation::QuickGelu => {
                let $curve = Swish::<1702>;
                $result
            }
            Activation::Relu => {
                let $curve = Relu;
                $result
            }
            Activation::Sigmoid => {
                let $curve = Sigmoid;
                $result
            }
            Activation::Tanh => {
                let $curve = Tanh;
                $result
            }
        }
    };
}

impl Activation {
    /// The function in `f64`, which the kernels are held against.
    pub fn reference(self, x: f64) -> f64 {
        let swish = |scale: f64| x / (1.0 + (-scale * x).exp());
        match self {
            Self::Gelu => x * normal_reference(x),
            Self::GeluTanh => swish((8.0 / std::f64::consts::PI).sqrt() * (1.0 + 0.044715 * x * x)),
            Self::Silu => swish(1.0),
            Self::QuickGelu => swish(1.702),
            Self::Relu => {
                if x > 0.0 || x.is_nan() {
                    x
                } else {
                    0.0
                }
            }
            Self::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Self::Tanh => x.tanh(),
        }
    }

    /// Writes `f(x)` of each value to `out`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn forward(self, x: &[f32], out: &mut [f32]) {
        with_curve!(self, curve => vector::fill(Value(curve), [x], [out]));
    }

    /// Replaces each value by `f` of it.
    pub fn in_place(self, x: &mut [f32]) {
        let data = x.as_mut_ptr();
        // SAFETY: `x` is borrowed alone; the output is the input.
        with_curve!(self, curve => unsafe { vector::apply(Value(curve), x.len(), [data.cast_const()], [data]) });
    }

    /// The gradient of `x`, from the gradient of `f(x)`.
    pub fn backward(self, x: &[f32], gradient: &[f32]) -> Vec<f32> {
        let [result] = with_curve!(self, curve => vector::collect(Slope(curve), [x, gradient]));
        result
    }

    /// Replaces `gate` by `f(gate) up`, element by element.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn gate_in_place(self, gate: &mut [f32], up: &[f32]) {
        assert_eq!(gate.len(), up.len(), "gate and up differ in length");
        let data = gate.as_mut_ptr();
        let inputs = [data.cast_const(), up.as_ptr()];
        // SAFETY: both have the same length and `gate` is borrowed alone; the output is the first input.
        with_curve!(self, curve => unsafe { vector::apply(Gate(curve), up.len(), inputs, [data]) });
    }

    /// The function on a tensor of any shape; differentiable.
    pub fn apply<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        if op::on_host(&x) {
            return Tensor::from_dispatch(op::apply(Single(self), [x.into_dispatch()]));
        }
        self.portable(x)
    }

    /// `f(gate) up`, element by element, as in SwiGLU and GEGLU (arXiv:2002.05202); differentiable.
    pub fn gated<const D: usize>(self, gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
        if op::on_host(&gate) && op::on_host(&up) {
            assert_eq!(gate.dims(), up.dims(), "gate and up differ in shape");
            return Tensor::from_dispatch(op::apply(Gated(self), [gate.into_dispatch(), up.into_dispatch()]));
        }
        self.portable(gate) * up
    }

    fn portable<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Gelu => activation::gelu(x),
            Self::GeluTanh => activation::gelu_approximate(x),
            Self::Silu => activation::silu(x),
            Self::QuickGelu => activation::sigmoid(x.clone() * 1.702) * x,
            Self::Relu => activation::relu(x),
            Self::Sigmoid => activation::sigmoid(x),
            Self::Tanh => activation::tanh(x),
        }
    }
}

/// `P(X <= x)` of a standard normal in `f64`: a power series in the middle, a continued fraction in
/// the tails (Abramowitz and Stegun 26.2.11 and 26.2.14).
pub(crate) fn normal_reference(x: f64) -> f64 {
    let density = (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt();
    if x.abs() < 3.0 {
        let (mut term, mut sum) = (x, x);
        for odd in (3..120).step_by(2) {
            term *= x * x / f64::from(odd);
            sum += term;
        }
        return 0.5 + density * sum;
    }
    let fraction = (1..200).rev().fold(x.abs(), |rest, k| x.abs() + f64::from(k) / rest);
    let tail = if x.is_infinite() { 0.0 } else { density / fraction };
    if x < 0.0 { tail } else { 1.0 - tail }
}

/// GELU with the error function; see [`Activation::Gelu`].
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Activation::Gelu.apply(x)
}

/// GELU by the hyperbolic tangent; see [`Activation::GeluTanh`].
pub fn gelu_tanh<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Activation::GeluTanh.apply(x)
}

/// SiLU; see [`Activation::Silu`].
pub fn silu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Activation::Silu.apply(x)
}

/// QuickGELU; see [`Activation::QuickGelu`].
pub fn quick_gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Activation::QuickGelu.apply(x)
}

/// ReLU; see [`Activation::Relu`].
pub fn relu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Activation::Relu.apply(x)
}

/// The logistic function; see [`Activation::Sigmoid`].
pub fn sigmoid<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Activation::Sigmoid.apply(x)
}

/// The hyperbolic tangent.
pub fn tanh<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Activation::Tanh.apply(x)
}

/// `silu(gate) up`; see [`Activation::gated`].
pub fn silu_mul<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    Activation::Silu.gated(gate, up)
}

/// `gelu_tanh(gate) up`; see [`Activation::gated`].
pub fn gelu_tanh_mul<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    Activation::GeluTanh.gated(gate, up)
}

#[derive(Clone, Copy, Debug)]
struct Single(Activation);

impl Kernel<1> for Single {
    type Saved = ();

    fn forward(&self, [x]: [&Host; 1]) -> (Host, ()) {
        let [value] = with_curve!(self.0, curve => vector::collect(Value(curve), [x.data()]));
        (Host::new(x.shape(), value), ())
    }

    fn backward(&self, pass: Pass<'_, (), 1>) -> [Option<Host>; 1] {
        let [x] = pass.inputs;
        [Some(Host::new(x.shape(), self.0.backward(x.data(), pass.gradient.data())))]
    }
}

#[derive(Clone, Copy, Debug)]
struct Gated(Activation);

impl Kernel<2> for Gated {
    type Saved = ();

    fn forward(&self, [gate, up]: [&Host; 2]) -> (Host, ()) {
        let inputs = [gate.data(), up.data()];
        let [value] = with_curve!(self.0, curve => vector::collect(Gate(curve), inputs));
        (Host::new(gate.shape(), value), ())
    }

    fn backward(&self, pass: Pass<'_, (), 2>) -> [Option<Host>; 2] {
        let [gate, up] = pass.inputs;
        let inputs = [gate.data(), up.data(), pass.gradient.data()];
        let gradients = with_curve!(self.0, curve => vector::collect(GateSlope(curve), inputs));
        gradients.map(|gradient| Some(Host::new(gate.shape(), gradient)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_near, assert_same_slopes, noise, tracked};
    use proptest::prelude::*;

    const ALL: [Activation; 7] = [
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::Silu,
        Activation::QuickGelu,
        Activation::Relu,
        Activation::Sigmoid,
        Activation::Tanh,
    ];

    fn reference(activation: Activation, x: &[f32]) -> Vec<f64> {
        x.iter().map(|&x| activation.reference(f64::from(x))).collect()
    }

    #[test]
    fn values_known_from_pytorch() {
        let cases = [
            (Activation::Gelu, [-0.158_655_26, 1.954_499_7]),
            (Activation::GeluTanh, [-0.158_808_02, 1.954_597_7]),
            (Activation::Silu, [-0.268_941_43, 1.761_594_2]),
            (Activation::QuickGelu, [-0.154_204_23, 1.935_658_6]),
            (Activation::Relu, [0.0, 2.0]),
            (Activation::Sigmoid, [0.268_941_43, 0.880_797_1]),
            (Activation::Tanh, [-0.761_594_2, 0.964_027_6]),
        ];
        for (activation, wanted) in cases {
            let mut out = [0.0; 2];
            activation.forward(&[-1.0, 2.0], &mut out);
            assert_near(&out, &wanted.map(f64::from), 3e-7, 1e-6);
        }
    }

    #[test]
    fn values_are_within_2e_6_of_the_reference() {
        let x: Vec<f32> = (-20_000..20_000).map(|i| i as f32 * 1e-3).chain(noise(1001, 2, 1e-3)).collect();
        for activation in ALL {
            let mut out = vec![0.0; x.len()];
            activation.forward(&x, &mut out);
            let floor = if activation == Activation::Gelu { 5e-3 } else { 1e-6 };
            assert_near(&out, &reference(activation, &x), 2e-6, floor);
            let large: Vec<f32> = x.iter().copied().filter(|&x| x > -4.9).collect();
            activation.forward(&large, &mut out[..large.len()]);
            assert_near(&out[..large.len()], &reference(activation, &large), 2e-6, 1e-6);
        }
    }

    #[test]
    fn slopes_are_the_references_differences() {
        let x: Vec<f32> = (-999..999).map(|i| i as f32 * 0.01 + 0.003).collect();
        for activation in ALL {
            let step = 1e-5;
            let slope =
                |x: f64| (activation.reference(x + step) - activation.reference(x - step)) / (2.0 * step);
            let wanted: Vec<f64> = x.iter().map(|&x| 0.5 * slope(f64::from(x))).collect();
            let got = activation.backward(&x, &vec![0.5; x.len()]);
            assert_near(&got, &wanted, 2e-6, 0.3);
        }
    }

    #[test]
    fn tensors_and_gradients_equal_the_portable_path() {
        let data = |seed| tracked(&noise(3 * 5 * 7, seed, 2.0), [3, 5, 7]);
        for activation in ALL {
            assert_same_slopes([data(1)], |[x]| activation.apply(x), |[x]| activation.portable(x), 3e-6);
            assert_same_slopes(
                [data(1), data(2)],
                |[gate, up]| activation.gated(gate, up),
                |[gate, up]| activation.portable(gate) * up,
                3e-6,
            );
        }
    }

    #[test]
    fn ends_are_as_documented() {
        let x = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
        for activation in ALL {
            let mut out = [0.0; 3];
            activation.forward(&x, &mut out);
            let bounded = matches!(activation, Activation::Sigmoid | Activation::Tanh);
            assert!(out[0].is_nan());
            assert_eq!(out[1], if bounded { 1.0 } else { f32::INFINITY }, "{activation:?}");
            match activation {
                Activation::Gelu | Activation::Relu | Activation::Sigmoid => assert_eq!(out[2], 0.0),
                Activation::Tanh => assert_eq!(out[2], -1.0),
                _ => assert!(out[2].is_nan(), "{activation:?}"),
            }
        }
    }

    proptest! {
        #[test]
        fn in_place_and_alone_give_the_same_bits(x in prop::collection::vec(-30.0f32..30.0, 1..200), at in 0usize..200) {
            let at = at % x.len();
            for activation in ALL {
                let mut whole = x.clone();
                activation.in_place(&mut whole);
                let mut alone = [0.0];
                activation.forward(&x[at..=at], &mut alone);
                prop_assert_eq!(whole[at].to_bits(), alone[0].to_bits());
                let mut gated = x.clone();
                activation.gate_in_place(&mut gated, &x);
                prop_assert_eq!(gated[at], whole[at] * x[at]);
            }
        }
    }
}
