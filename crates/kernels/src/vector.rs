//! Vector arithmetic written once: [`Vector`] is a register of `f32` lanes, a [`Program`] is code over
//! any of them, and [`run`] compiles it for every instruction set and picks one at run time.
//!
//! The mathematics here ([`exp`], [`tanh`], [`sigmoid`], [`normal`]) is within 2e-6 of `f64`, relative
//! to the result. A NaN lane stays NaN and no lane sees another. A lane's result does not depend on
//! its place, so that a kernel's result for one row is the same whatever else is in the call.

use std::ops::{Add, Div, Mul, Range, Sub};

use crate::parallel;
use crate::simd::{Level, level};

#[cfg(target_arch = "x86_64")]
mod x86;

/// The most lanes that a vector has.
pub(crate) const MOST_LANES: usize = 16;

/// Values that one thread works through before another may help: less is not worth the hand-over.
const GRAIN: usize = 16 * 1024;

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

/// 1.5 * 2^23: a sum with it has no room for a fraction, and the integer in its low bits.
const SHIFT: f32 = 12_582_912.0;

/// Eight lanes in portable Rust, for the compiler to vectorise.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lanes([f32; 8]);

impl Lanes {
    #[inline(always)]
    fn zip(self, other: Self, combine: impl Fn(f32, f32) -> f32) -> Self {
        let mut result = [0.0; 8];
        for lane in 0..8 {
            result[lane] = combine(self.0[lane], other.0[lane]);
        }
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
    fn where_negative(self, yes: Self, no: Self) -> Self {
        let mut result = no.0;
        for lane in 0..8 {
            if self.0[lane] < 0.0 {
                result[lane] = yes.0[lane];
            }
        }
        Self(result)
    }
}

#[inline(always)]
fn power_of_two(power: i32) -> f32 {
    f32::from_bits((power.wrapping_add(127) as u32) << 23)
}

/// The polynomial `sum(coefficients[i] * x^i)`, by Horner's rule.
#[inline(always)]
fn polynomial<V: Vector, const N: usize>(x: V, coefficients: [f32; N]) -> V {
    let mut value = V::splat(coefficients[N - 1]);
    for index in (0..N - 1).rev() {
        value = value.mul_add(x, V::splat(coefficients[index]));
    }
    value
}

/// `(n, r)` with `x = n ln 2 + r`, `|r| <= ln 2 / 2`.
#[inline(always)]
fn reduce<V: Vector>(x: V) -> (V, V) {
    // ln 2 in two parts; `n` times the first, of ten bits, is exact.
    const HIGH: f32 = 0.693_359_375;
    const LOW: f32 = -2.121_944_4e-4;
    let n = (x * V::splat(std::f32::consts::LOG2_E)).round();
    (n, n.mul_add(V::splat(-LOW), n.mul_add(V::splat(-HIGH), x)))
}

/// `exp(r) - 1` for `|r| <= 0.39`; minimax, 7e-9.
#[inline(always)]
fn small_expm1<V: Vector>(r: V) -> V {
    let tail = polynomial(r, [0.5, 0.166_664_3, 0.041_665_927, 0.008_378_373, 0.001_396_691_9]);
    (r * r).mul_add(tail, r)
}

/// `e^x`: 0 below -105 and infinity above 88.73; NaN stays NaN.
#[inline(always)]
pub(crate) fn exp<V: Vector>(x: V) -> V {
    let x = V::splat(90.0).min(V::splat(-105.0).max(x));
    let (n, r) = reduce(x);
    (V::splat(1.0) + small_expm1(r)).scale(n)
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

/// The polynomial of [`normal`].
const TAIL: [f32; 9] = [
    0.107_720_66, 0.107_542_865, 0.101_810_694, 0.072_049_275, 0.107_826_434, -0.069_211_95, 0.169_787_21,
    -0.126_486_38, 0.028_961_21,
];

/// The standard normal distribution at `x`: `(P(X <= x), density)`.
///
/// `P(X <= -|x|) = exp(-x^2/2) t p(t)` with `t = 1 / (1 + 0.27 |x|)` and a minimax polynomial `p` of
/// degree 8, 2.4e-8 relative. The square is taken in two parts: in the tail its rounding would show.
#[inline(always)]
pub(crate) fn normal<V: Vector>(x: V) -> (V, V) {
    const INVERSE_ROOT_TAU: f32 = 0.398_942_28;
    let zero = V::splat(0.0);
    let size = V::splat(14.5).min((zero - x).max(x));
    let high = {
        let shifted = size * V::splat(4097.0);
        shifted - (shifted - size)
    };
    let low = (size - high) * (size + high) * V::splat(-0.5);
    let (n, r) = reduce(high * high * V::splat(-0.5));
    let bell = (V::splat(1.0) + small_expm1(r + low)).scale(n);
    let t = V::splat(1.0) / size.mul_add(V::splat(0.27), V::splat(1.0));
    let tail = bell * t * polynomial(t, TAIL);
    (x.where_negative(tail, V::splat(1.0) - tail), bell * V::splat(INVERSE_ROOT_TAU))
}

/// A function of each element: `N` inputs, `M` outputs.
pub(crate) trait Map<const N: usize, const M: usize>: Copy + Sync {
    /// The function on vectors; must be `#[inline(always)]`.
    fn call<V: Vector>(self, inputs: [V; N]) -> [V; M];
}

/// Applies a map to whole slices, over all threads, into new vectors.
pub(crate) fn collect<const N: usize, const M: usize>(map: impl Map<N, M>, inputs: [&[f32]; N]) -> [Vec<f32>; M] {
    let length = inputs[0].len();
    let mut outputs = [const { Vec::new() }; M];
    for output in &mut outputs {
        *output = Vec::with_capacity(length);
    }
    assert!(inputs.iter().all(|input| input.len() == length), "inputs differ in length");
    let pointers = outputs.each_mut().map(|output| output.as_mut_ptr());
    // SAFETY: the inputs have `length` values, the outputs room for as many, and nothing overlaps;
    // `apply` fills them all before the lengths are set.
    unsafe {
        apply(map, length, inputs.map(<[f32]>::as_ptr), pointers);
        outputs.iter_mut().for_each(|output| output.set_len(length));
    }
    outputs
}

/// Applies a map to whole slices, over all threads.
pub(crate) fn fill<const N: usize, const M: usize>(
    map: impl Map<N, M>,
    inputs: [&[f32]; N],
    outputs: [&mut [f32]; M],
) {
    let length = inputs[0].len();
    assert!(inputs.iter().all(|input| input.len() == length), "inputs differ in length");
    assert!(outputs.iter().all(|output| output.len() == length), "outputs differ in length");
    // SAFETY: all slices have `length` values, and the outputs are borrowed alone.
    unsafe { apply(map, length, inputs.map(<[f32]>::as_ptr), outputs.map(<[f32]>::as_mut_ptr)) }
}

/// Applies a map to `length` elements, over all threads.
///
/// # Safety
/// Inputs must be readable and outputs writable for `length` values. An output may be one of the
/// inputs, but must not overlap one otherwise, nor another output.
pub(crate) unsafe fn apply<const N: usize, const M: usize>(
    map: impl Map<N, M>,
    length: usize,
    inputs: [*const f32; N],
    outputs: [*mut f32; M],
) {
    let inputs = inputs.map(|input| parallel::Shared(input.cast_mut()));
    let outputs = outputs.map(parallel::Shared);
    parallel::ranges(length, GRAIN, |range| {
        run(Loop { map, inputs: &inputs, outputs: &outputs, range });
    });
}

struct Loop<'a, F, const N: usize, const M: usize> {
    map: F,
    inputs: &'a [parallel::Shared<f32>; N],
    outputs: &'a [parallel::Shared<f32>; M],
    range: Range<usize>,
}

impl<F: Map<N, M>, const N: usize, const M: usize> Program for Loop<'_, F, N, M> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let start = self.range.start;
        let inputs = self.inputs.each_ref().map(|input| input.at(start).cast_const());
        let outputs = self.outputs.each_ref().map(|output| output.at(start));
        // SAFETY: the caller of `apply` vouches for the pointers; ranges are disjoint.
        unsafe { sweep_raw::<V, _, N, M, 0>(Each(self.map), inputs, outputs, self.range.len(), [0.0; N], []) };
    }
}

/// One pass over `N` equally long inputs that writes `M` outputs and carries `K` running values.
pub(crate) trait Sweep<const N: usize, const M: usize, const K: usize>: Copy {
    /// The step; must be `#[inline(always)]`. Each lane carries its own state.
    fn step<V: Vector>(self, inputs: [V; N], state: &mut [V; K]) -> [V; M];

    /// Joins the states of two lanes.
    fn join<V: Vector>(self, a: V, b: V) -> V {
        a + b
    }
}

/// A map as a sweep without state.
#[derive(Clone, Copy)]
pub(crate) struct Each<F>(pub(crate) F);

impl<F: Map<N, M>, const N: usize, const M: usize> Sweep<N, M, 0> for Each<F> {
    #[inline(always)]
    fn step<V: Vector>(self, inputs: [V; N], _: &mut [V; 0]) -> [V; M] {
        self.0.call(inputs)
    }
}

/// Sweeps over a row that is only read; `fill` stands in for the inputs behind its end.
#[inline(always)]
pub(crate) fn fold<V: Vector, const N: usize, const K: usize>(
    sweep: impl Sweep<N, 0, K>,
    inputs: [&[f32]; N],
    fill: [f32; N],
    start: [f32; K],
) -> [V; K] {
    let length = inputs[0].len();
    assert!(inputs.iter().all(|input| input.len() == length), "inputs differ in length");
    // SAFETY: every input has `length` values; there is no output.
    unsafe { sweep_raw(sweep, inputs.map(<[f32]>::as_ptr), [], length, fill, start) }
}

/// Sweeps over `length` elements; `fill` stands in for the inputs behind the end.
///
/// # Safety
/// Inputs must be readable and outputs writable for `length` values. An output may be one of the
/// inputs, but must not overlap one otherwise, nor another output.
#[inline(always)]
pub(crate) unsafe fn sweep_raw<V: Vector, S: Sweep<N, M, K>, const N: usize, const M: usize, const K: usize>(
    sweep: S,
    inputs: [*const f32; N],
    outputs: [*mut f32; M],
    length: usize,
    fill: [f32; N],
    start: [f32; K],
) -> [V; K] {
    // Independent states hide the latency of additions; a map has enough to do in each vector.
    let strands = if M == 0 { STRANDS } else { 2 };
    let mut states = [start.map(V::splat); STRANDS];
    let mut at = 0;
    while at + strands * V::LANES <= length {
        for state in &mut states[..strands] {
            // SAFETY: `at + LANES <= length`, and the caller vouches for `length` values.
            unsafe { whole::<V, S, N, M, K>(sweep, &inputs, &outputs, at, state) };
            at += V::LANES;
        }
    }
    while at + V::LANES <= length {
        // SAFETY: likewise.
        unsafe { whole::<V, S, N, M, K>(sweep, &inputs, &outputs, at, &mut states[0]) };
        at += V::LANES;
    }
    if at < length {
        let rest = length - at;
        let mut values = [V::splat(0.0); N];
        for index in 0..N {
            // SAFETY: `rest` values are left.
            let input = unsafe { std::slice::from_raw_parts(inputs[index].add(at), rest) };
            values[index] = V::load_part(input, fill[index]);
        }
        let results = sweep.step(values, &mut states[0]);
        for index in 0..M {
            // SAFETY: likewise.
            unsafe { results[index].store_part(outputs[index].add(at), rest) };
        }
    }
    let [mut result, others @ ..] = states;
    for other in others {
        for index in 0..K {
            result[index] = sweep.join(result[index], other[index]);
        }
    }
    result
}

/// States that a fold carries side by side.
const STRANDS: usize = 4;

/// One step of a sweep on whole vectors at `at`.
///
/// # Safety
/// Inputs must be readable and outputs writable for `V::LANES` values from `at`.
#[inline(always)]
unsafe fn whole<V: Vector, S: Sweep<N, M, K>, const N: usize, const M: usize, const K: usize>(
    sweep: S,
    inputs: &[*const f32; N],
    outputs: &[*mut f32; M],
    at: usize,
    state: &mut [V; K],
) {
    let mut values = [V::splat(0.0); N];
    for index in 0..N {
        // SAFETY: the caller vouches for the values.
        values[index] = unsafe { V::load(inputs[index].add(at)) };
    }
    let results = sweep.step(values, state);
    for index in 0..M {
        // SAFETY: likewise.
        unsafe { results[index].store(outputs[index].add(at)) };
    }
}

/// Calls `task` on ranges of the rows `0..count`, each of `width` values, over all threads.
pub(crate) fn rows(count: usize, width: usize, task: impl Fn(Range<usize>) + Sync) {
    parallel::ranges(count, GRAIN.div_ceil(width.max(1)), task);
}

/// A new vector of `length` values that `task` writes through the pointer it is given.
///
/// # Safety
/// `task` must write them all.
pub(crate) unsafe fn filled(length: usize, task: impl FnOnce(*mut f32)) -> Vec<f32> {
    let mut values = Vec::with_capacity(length);
    task(values.as_mut_ptr());
    // SAFETY: the capacity is `length`, and the caller vouches for the values.
    unsafe { values.set_len(length) };
    values
}

/// `scale x + shift`.
#[derive(Clone, Copy)]
pub(crate) struct Affine {
    pub(crate) scale: f32,
    pub(crate) shift: f32,
}

impl Map<1, 1> for Affine {
    #[inline(always)]
    fn call<V: Vector>(self, [x]: [V; 1]) -> [V; 1] {
        [x.mul_add(V::splat(self.scale), V::splat(self.shift))]
    }
}

/// The sum of a row.
#[derive(Clone, Copy)]
pub(crate) struct Sum;

impl Sweep<1, 0, 1> for Sum {
    #[inline(always)]
    fn step<V: Vector>(self, [x]: [V; 1], [sum]: &mut [V; 1]) -> [V; 0] {
        *sum = *sum + x;
        []
    }
}

/// The scalar product of two rows.
#[derive(Clone, Copy)]
pub(crate) struct Dot;

impl Sweep<2, 0, 1> for Dot {
    #[inline(always)]
    fn step<V: Vector>(self, [a, b]: [V; 2], [sum]: &mut [V; 1]) -> [V; 0] {
        *sum = a.mul_add(b, *sum);
        []
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_near, noise};

    #[derive(Clone, Copy)]
    enum Function {
        Exp,
        Tanh,
        Sigmoid,
        Normal,
        Density,
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
                    Function::Normal => normal(x).0,
                    Function::Density => normal(x).1,
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
        let cases: [(Function, fn(f64) -> f64, f32, f32); 5] = [
            (Function::Exp, f64::exp, -87.0, 88.7),
            (Function::Tanh, f64::tanh, -30.0, 30.0),
            (Function::Sigmoid, |x| 1.0 / (1.0 + (-x).exp()), -87.0, 100.0),
            (Function::Normal, crate::activation::normal_reference, -12.9, 20.0),
            (Function::Density, |x| (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt(), -12.9, 12.9),
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
        let half = f64::from(run_at(Level::Plain, Evaluate(Function::Normal, &[0.0]))[0]);
        assert!((half - 0.5).abs() < 1e-7);
    }

    struct Total<'a>(&'a [f32]);

    impl Program for Total<'_> {
        type Output = (f32, f32);

        #[inline(always)]
        fn run<V: Vector>(self) -> (f32, f32) {
            let [sum] = fold::<V, 1, 1>(Sum, [self.0], [0.0], [0.0]);
            let [dot] = fold::<V, 2, 1>(Dot, [self.0, self.0], [0.0; 2], [0.0]);
            (sum.sum(), dot.sum())
        }
    }

    #[test]
    fn folds_count_every_value_once() {
        for length in [0, 1, 7, 8, 15, 16, 17, 63, 64, 65, 129, 1000] {
            let x: Vec<f32> = (0..length).map(|i| (i % 5) as f32).collect();
            let wanted = (x.iter().sum(), x.iter().map(|x| x * x).sum());
            for level in [Level::Plain, Level::Avx2, Level::Avx512] {
                assert_eq!(run_at(level, Total(&x)), wanted, "{length} values");
            }
        }
    }

    #[test]
    fn maps_of_any_length_and_thread_share_give_the_same() {
        let x = noise(100_001, 1, 3.0);
        let map = Affine { scale: 1.7, shift: 0.3 };
        let [whole] = collect(map, [&x[..]]);
        for start in [0, 1, 5, 40_000] {
            for length in [0, 1, 33, 60_001] {
                let [part] = collect(map, [&x[start..start + length]]);
                assert_eq!(part, whole[start..start + length]);
            }
        }
    }
}
