//! Softmax and its logarithm over the last dimension, with their derivatives.
//!
//! Probabilities are within 2e-6 of `f64`, relative. A row with NaN or plus infinity is NaN
//! throughout, and so is a row of minus infinities alone, which has no distribution.

use std::fmt::Debug;
use std::marker::PhantomData;
use std::ops::Range;

use burn::tensor::{Tensor, activation};

use crate::op::{self, Host, Kernel, Pass};
use crate::parallel::Shared;
use crate::vector::{self, Affine, Dot, Each, Map, Program, Sum, Sweep, Vector, fold, sweep_raw};

/// Softmax of each row of `x` ([rows, width]) into `out`.
///
/// # Panics
/// If the lengths differ or are no multiple of `width`.
pub fn softmax_rows(x: &[f32], width: usize, out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "input and output differ in length");
    // SAFETY: `out` has the length of `x` and is borrowed alone.
    unsafe { forward::<Softmax>(x, width, out.as_mut_ptr()) }
}

/// The logarithm of softmax of each row of `x` ([rows, width]) into `out`.
///
/// # Panics
/// If the lengths differ or are no multiple of `width`.
pub fn log_softmax_rows(x: &[f32], width: usize, out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "input and output differ in length");
    // SAFETY: `out` has the length of `x` and is borrowed alone.
    unsafe { forward::<LogSoftmax>(x, width, out.as_mut_ptr()) }
}

/// The plain softmax of one row, which the kernel is held against.
pub fn reference(row: &[f32]) -> Vec<f64> {
    let most = row.iter().fold(f64::NEG_INFINITY, |most, &x| most.max(f64::from(x)));
    let powers: Vec<f64> = row.iter().map(|&x| (f64::from(x) - most).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|power| power / sum).collect()
}

/// Softmax over the last dimension; differentiable.
pub fn softmax<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if op::on_host(&x) {
        return Tensor::from_dispatch(op::apply(Rows::<Softmax>(PhantomData), [x.into_dispatch()]));
    }
    activation::softmax(x, D - 1)
}

/// The logarithm of softmax over the last dimension; differentiable.
pub fn log_softmax<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if op::on_host(&x) {
        return Tensor::from_dispatch(op::apply(Rows::<LogSoftmax>(PhantomData), [x.into_dispatch()]));
    }
    activation::log_softmax(x, D - 1)
}

/// What distinguishes softmax from its logarithm.
trait Form: Copy + Debug + Send + Sync + 'static {
    /// Writes the result for `row` to `out`.
    ///
    /// # Safety
    /// `out` must be writable for the length of `row`.
    unsafe fn forward<V: Vector>(row: &[f32], out: *mut f32);

    /// Writes the gradient of a row to `out`, from its result and the result's gradient.
    ///
    /// # Safety
    /// `out` must be writable for the length of `result`.
    unsafe fn backward<V: Vector>(result: &[f32], gradient: &[f32], out: *mut f32);
}

#[derive(Clone, Copy, Debug)]
struct Softmax;

impl Form for Softmax {
    #[inline(always)]
    unsafe fn forward<V: Vector>(row: &[f32], out: *mut f32) {
        let most = greatest::<V>(row);
        // SAFETY: the caller vouches for `out`; the second sweep reads what the first has written.
        unsafe {
            let powers = Powers { most };
            let [sum] = sweep_raw::<V, _, 1, 1, 1>(
                powers,
                [row.as_ptr()],
                [out],
                row.len(),
                [f32::NEG_INFINITY],
                [0.0],
            );
            let scale = Each(Affine { scale: 1.0 / sum.sum(), shift: 0.0 });
            sweep_raw::<V, _, 1, 1, 0>(scale, [out.cast_const()], [out], row.len(), [0.0], []);
        }
    }

    #[inline(always)]
    unsafe fn backward<V: Vector>(result: &[f32], gradient: &[f32], out: *mut f32) {
        let [dot] = fold::<V, 2, 1>(Dot, [result, gradient], [0.0; 2], [0.0]);
        let map = Each(SoftmaxSlope { dot: dot.sum() });
        // SAFETY: the caller vouches for `out`.
        unsafe {
            sweep_raw::<V, _, 2, 1, 0>(
                map,
                [result.as_ptr(), gradient.as_ptr()],
                [out],
                result.len(),
                [0.0; 2],
                [],
            )
        };
    }
}

#[derive(Clone, Copy, Debug)]
struct LogSoftmax;

impl Form for LogSoftmax {
    #[inline(always)]
    unsafe fn forward<V: Vector>(row: &[f32], out: *mut f32) {
        let (most, log_sum) = log_sum_exp::<V>(row);
        let map = Each(Below { most, log_sum });
        // SAFETY: the caller vouches for `out`.
        unsafe { sweep_raw::<V, _, 1, 1, 0>(map, [row.as_ptr()], [out], row.len(), [0.0], []) };
    }

    #[inline(always)]
    unsafe fn backward<V: Vector>(result: &[f32], gradient: &[f32], out: *mut f32) {
        let [sum] = fold::<V, 1, 1>(Sum, [gradient], [0.0], [0.0]);
        let map = Each(LogSoftmaxSlope { sum: sum.sum() });
        // SAFETY: the caller vouches for `out`.
        unsafe {
            sweep_raw::<V, _, 2, 1, 0>(
                map,
                [result.as_ptr(), gradient.as_ptr()],
                [out],
                result.len(),
                [0.0; 2],
                [],
            )
        };
    }
}

/// The greatest value of a row, and the logarithm of the sum of `exp(x - greatest)`.
#[inline(always)]
pub(crate) fn log_sum_exp<V: Vector>(row: &[f32]) -> (f32, f32) {
    let most = greatest::<V>(row);
    let [sum] = fold::<V, 1, 1>(PowerSum { most }, [row], [f32::NEG_INFINITY], [0.0]);
    (most, sum.sum().ln())
}

#[inline(always)]
fn greatest<V: Vector>(row: &[f32]) -> f32 {
    let [most] = fold::<V, 1, 1>(Most, [row], [f32::NEG_INFINITY], [f32::NEG_INFINITY]);
    most.greatest()
}

#[derive(Clone, Copy)]
struct Most;

impl Sweep<1, 0, 1> for Most {
    #[inline(always)]
    fn step<V: Vector>(self, [x]: [V; 1], [most]: &mut [V; 1]) -> [V; 0] {
        *most = most.max(x);
        []
    }

    #[inline(always)]
    fn join<V: Vector>(self, a: V, b: V) -> V {
        a.max(b)
    }
}

/// `exp(x - most)`, summed.
#[derive(Clone, Copy)]
struct Powers {
    most: f32,
}

impl Sweep<1, 1, 1> for Powers {
    #[inline(always)]
    fn step<V: Vector>(self, [x]: [V; 1], [sum]: &mut [V; 1]) -> [V; 1] {
        let power = vector::exp(x - V::splat(self.most));
        *sum = *sum + power;
        [power]
    }
}

/// The sum of `exp(x - most)`.
#[derive(Clone, Copy)]
struct PowerSum {
    most: f32,
}

impl Sweep<1, 0, 1> for PowerSum {
    #[inline(always)]
    fn step<V: Vector>(self, [x]: [V; 1], [sum]: &mut [V; 1]) -> [V; 0] {
        *sum = *sum + vector::exp(x - V::splat(self.most));
        []
    }
}

#[derive(Clone, Copy)]
struct Below {
    most: f32,
    log_sum: f32,
}

impl Map<1, 1> for Below {
    #[inline(always)]
    fn call<V: Vector>(self, [x]: [V; 1]) -> [V; 1] {
        [(x - V::splat(self.most)) - V::splat(self.log_sum)]
    }
}

/// `y (g - y . g)`.
#[derive(Clone, Copy)]
struct SoftmaxSlope {
    dot: f32,
}

impl Map<2, 1> for SoftmaxSlope {
    #[inline(always)]
    fn call<V: Vector>(self, [result, gradient]: [V; 2]) -> [V; 1] {
        [result * (gradient - V::splat(self.dot))]
    }
}

/// `g - exp(y) sum(g)`.
#[derive(Clone, Copy)]
struct LogSoftmaxSlope {
    sum: f32,
}

impl Map<2, 1> for LogSoftmaxSlope {
    #[inline(always)]
    fn call<V: Vector>(self, [result, gradient]: [V; 2]) -> [V; 1] {
        [gradient - vector::exp(result) * V::splat(self.sum)]
    }
}

/// Runs a form on rows of `width`.
///
/// # Safety
/// `out` must be writable for the length of `x`.
unsafe fn forward<F: Form>(x: &[f32], width: usize, out: *mut f32) {
    let out = Shared(out);
    vector::rows(count(x.len(), width), width, |range| {
        vector::run(Forward::<F> { x, width, out: &out, range, form: PhantomData });
    });
}

struct Forward<'a, F> {
    x: &'a [f32],
    width: usize,
    out: &'a Shared<f32>,
    range: Range<usize>,
    form: PhantomData<F>,
}

impl<F: Form> Program for Forward<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        for row in self.range {
            let start = row * self.width;
            // SAFETY: rows are disjoint, and the caller of `forward` vouches for `out`.
            unsafe { F::forward::<V>(&self.x[start..start + self.width], self.out.at(start)) };
        }
    }
}

struct Backward<'a, F> {
    result: &'a [f32],
    gradient: &'a [f32],
    width: usize,
    out: &'a Shared<f32>,
    range: Range<usize>,
    form: PhantomData<F>,
}

impl<F: Form> Program for Backward<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        for row in self.range {
            let place = row * self.width..(row + 1) * self.width;
            let out = self.out.at(place.start);
            // SAFETY: rows are disjoint, and `out` has the length of `result`.
            unsafe { F::backward::<V>(&self.result[place.clone()], &self.gradient[place], out) };
        }
    }
}

/// Rows of `width` values in `length`.
fn count(length: usize, width: usize) -> usize {
    assert!(
        length == 0 || (width > 0 && length.is_multiple_of(width)),
        "{length} values are no rows of {width}"
    );
    if length == 0 { 0 } else { length / width }
}

#[derive(Clone, Debug)]
struct Rows<F>(PhantomData<F>);

impl<F: Form> Kernel<1> for Rows<F> {
    type Saved = ();

    fn forward(&self, [x]: [&Host; 1]) -> (Host, ()) {
        let data = x.data();
        // SAFETY: the vector has room for as many values as `data`, and `forward` fills it.
        let out = unsafe { vector::filled(data.len(), |out| forward::<F>(data, x.width(), out)) };
        (Host::new(x.shape(), out), ())
    }

    fn backward(&self, pass: Pass<'_, (), 1>) -> [Option<Host>; 1] {
        let (result, gradient, width) = (pass.output.data(), pass.gradient.data(), pass.output.width());
        let task = |out| {
            let out = Shared(out);
            vector::rows(count(result.len(), width), width, |range| {
                vector::run(Backward::<F> { result, gradient, width, out: &out, range, form: PhantomData });
            });
        };
        // SAFETY: the rows cover the whole result.
        let out = unsafe { vector::filled(result.len(), task) };
        [Some(Host::new(pass.output.shape(), out))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_near, assert_same_slopes, noise, tracked};

    #[test]
    fn a_case_by_hand() {
        let mut out = [0.0; 3];
        softmax_rows(&[0.0, 2f32.ln(), f32::NEG_INFINITY], 3, &mut out);
        assert_near(&out, &[1.0 / 3.0, 2.0 / 3.0, 0.0], 1e-7, 1e-6);
        log_softmax_rows(&[0.0, 3f32.ln(), f32::NEG_INFINITY], 3, &mut out);
        assert_near(&out, &[0.25f64.ln(), 0.75f64.ln(), f64::NEG_INFINITY], 1e-6, 1e-6);
    }

    #[test]
    fn rows_are_within_2e_6_of_the_reference() {
        for width in [1, 2, 15, 16, 17, 63, 100, 512, 3073] {
            let x = noise(3 * width, width as u64, 5.0);
            let (mut out, mut logs) = (vec![0.0; x.len()], vec![0.0; x.len()]);
            softmax_rows(&x, width, &mut out);
            log_softmax_rows(&x, width, &mut logs);
            let wanted: Vec<f64> = x.chunks(width).flat_map(reference).collect();
            assert_near(&out, &wanted, 2e-6, 1e-30);
            let wanted: Vec<f64> = wanted.iter().map(|p| p.ln()).collect();
            assert_near(&logs, &wanted, 2e-6, 1.0);
        }
    }

    #[test]
    fn a_row_has_the_same_bits_in_any_company() {
        let width = 333;
        let x = noise(200 * width, 1, 3.0);
        let mut all = vec![0.0; x.len()];
        softmax_rows(&x, width, &mut all);
        for row in [0, 1, 77, 199] {
            let mut alone = vec![0.0; width];
            softmax_rows(&x[row * width..][..width], width, &mut alone);
            assert_eq!(alone, all[row * width..][..width]);
        }
    }

    #[test]
    fn bad_rows_are_nan_and_leave_the_others_alone() {
        let x = [1.0, f32::NAN, f32::INFINITY, 1.0, f32::NEG_INFINITY, f32::NEG_INFINITY, 5.0, 5.0];
        let mut out = [0.0; 8];
        softmax_rows(&x, 2, &mut out);
        assert!(out[..6].iter().all(|x| x.is_nan()));
        assert_eq!(out[6..], [0.5, 0.5]);
    }

    #[test]
    fn empty_tensors_stay_empty() {
        softmax_rows(&[], 5, &mut []);
    }

    #[test]
    #[should_panic(expected = "no rows of 3")]
    fn ragged_rows_are_refused() {
        softmax_rows(&[0.0; 4], 3, &mut [0.0; 4]);
    }

    #[test]
    fn gradients_equal_burns() {
        let x = || [tracked(&noise(4 * 37, 5, 2.0), [2, 2, 37])];
        assert_same_slopes(x(), |[x]| softmax(x), |[x]| activation::softmax(x, 2), 3e-6);
        assert_same_slopes(x(), |[x]| log_softmax(x), |[x]| activation::log_softmax(x, 2), 3e-6);
    }
}
