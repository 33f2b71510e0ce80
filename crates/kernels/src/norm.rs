//! Root-mean-square, layer and group normalisation, with their derivatives, and the sum of a
//! residual with the norm that follows it in one pass.
//!
//! A row with NaN or infinity becomes NaN (root-mean-square: infinity alone becomes NaN, the finite
//! values beside it zero); other rows are not touched by it.

use std::ops::Range;

use burn::tensor::Tensor;

use crate::op::{self, Host, Kernel, Pass};
use crate::parallel::{self, Shared};
use crate::vector::{self, Each, Map, Program, Sweep, Vector, fold, sweep_raw};

mod group;

pub use group::{GroupNorm, group_norm, group_norm_reference, group_norm_silu};

/// Partial sums of the weight's gradient, at most: fixed, so that the result does not depend on the
/// number of threads.
const PARTIALS: usize = 16;

/// A norm over rows: what is the same for every row.
#[derive(Clone, Copy, Debug)]
pub struct RowNorm<'a> {
    /// Factors, [width].
    pub weight: &'a [f32],
    /// Summands, [width].
    pub bias: Option<&'a [f32]>,
    /// Added to the mean square (variance), against division by zero.
    pub epsilon: f32,
    /// Whether the mean is taken off first: layer norm; root-mean-square norm otherwise.
    pub centred: bool,
}

impl RowNorm<'_> {
    /// Normalises each row of `x` ([rows, width]) into `out`.
    ///
    /// # Panics
    /// If lengths do not fit.
    pub fn forward(&self, x: &[f32], out: &mut [f32]) {
        assert_eq!(x.len(), out.len(), "input and output differ in length");
        // SAFETY: `out` has the length of `x` and is borrowed alone.
        unsafe { self.rows(x, None, &Shared(out.as_mut_ptr()), None) }
    }

    /// Adds `residual` to `x` in place, and normalises each row of the sum into `out`.
    ///
    /// # Panics
    /// If lengths do not fit.
    pub fn add_forward(&self, x: &mut [f32], residual: &[f32], out: &mut [f32]) {
        assert!(x.len() == out.len() && x.len() == residual.len(), "inputs and output differ in length");
        let sum = Shared(x.as_mut_ptr());
        // SAFETY: all have the length of `x`; `x` and `out` are borrowed alone, and `rows` reads each
        // row of `x` through the same pointer that it is written through.
        unsafe { self.rows(residual, Some(&sum), &Shared(out.as_mut_ptr()), None) }
    }

    /// The plain norm of one row, which the kernel is held against.
    pub fn reference(&self, row: &[f32]) -> Vec<f64> {
        let width = row.len() as f64;
        let mean = if self.centred { row.iter().map(|&x| f64::from(x)).sum::<f64>() / width } else { 0.0 };
        let variance = row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / width;
        let inverse = 1.0 / (variance + f64::from(self.epsilon)).sqrt();
        let bias = |index: usize| self.bias.map_or(0.0, |bias| f64::from(bias[index]));
        let value = |(index, &x): (usize, &f32)| {
            (f64::from(x) - mean) * inverse * f64::from(self.weight[index]) + bias(index)
        };
        row.iter().enumerate().map(value).collect()
    }

    /// Normalises rows; with `sum`, adds them to it first and normalises that.
    ///
    /// # Safety
    /// `out` and `sum` must be writable for the length of `x` and `moments` for one value a row.
    unsafe fn rows(
        &self,
        x: &[f32],
        sum: Option<&Shared<f32>>,
        out: &Shared<f32>,
        moments: Option<&Shared<Moments>>,
    ) {
        let width = self.weight.len();
        assert!(x.is_empty() || (width > 0 && x.len().is_multiple_of(width)), "no rows of {width}");
        assert!(self.bias.is_none_or(|bias| bias.len() == width), "bias and weight differ in length");
        vector::rows(x.len() / width.max(1), width, |range| {
            vector::run(Forward { norm: self, x, sum, out, moments, range });
        });
    }

    /// The mean and the inverse deviation of a row.
    #[inline(always)]
    fn moments<V: Vector>(&self, row: &[f32]) -> Moments {
        let width = row.len() as f32;
        let mean = if self.centred {
            let [sum] = fold::<V, 1, 1>(vector::Sum, [row], [0.0], [0.0]);
            sum.sum() / width
        } else {
            0.0
        };
        let [squares] = fold::<V, 1, 1>(Squares { mean }, [row], [mean], [0.0]);
        Moments { mean, inverse: 1.0 / (squares.sum() / width + self.epsilon).sqrt() }
    }
}

/// The mean of a row and one over its deviation.
#[derive(Clone, Copy, Debug)]
struct Moments {
    mean: f32,
    inverse: f32,
}

struct Forward<'a> {
    norm: &'a RowNorm<'a>,
    x: &'a [f32],
    sum: Option<&'a Shared<f32>>,
    out: &'a Shared<f32>,
    moments: Option<&'a Shared<Moments>>,
    range: Range<usize>,
}

impl Program for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let width = self.norm.weight.len();
        for row in self.range {
            let start = row * width;
            let mut x = &self.x[start..start + width];
            if let Some(sum) = self.sum {
                let sum = sum.at(start);
                // SAFETY: the caller of `rows` vouches for `sum`; rows are disjoint.
                x = unsafe {
                    let inputs = [x.as_ptr(), sum.cast_const()];
                    sweep_raw::<V, _, 2, 1, 0>(Each(Plus), inputs, [sum], width, [0.0; 2], []);
                    std::slice::from_raw_parts(sum, width)
                };
            }
            let moments = self.norm.moments::<V>(x);
            // SAFETY: the caller of `rows` vouches for `out` and `moments`.
            unsafe {
                scale_row::<V>(self.norm, moments, x, self.out.at(start));
                if let Some(all) = self.moments {
                    all.at(row).write(moments);
                }
            }
        }
    }
}

/// Writes `(x - mean) inverse weight + bias` to `out`.
///
/// # Safety
/// `out` must be writable for the length of `x`.
#[inline(always)]
unsafe fn scale_row<V: Vector>(norm: &RowNorm, moments: Moments, x: &[f32], out: *mut f32) {
    let weight = norm.weight.as_ptr();
    // SAFETY: the weight and the bias have the length of `x`, and the caller vouches for `out`.
    unsafe {
        match norm.bias {
            None => {
                let inputs = [x.as_ptr(), weight];
                sweep_raw::<V, _, 2, 1, 0>(Each(Scale(moments)), inputs, [out], x.len(), [0.0; 2], []);
            }
            Some(bias) => {
                let inputs = [x.as_ptr(), weight, bias.as_ptr()];
                sweep_raw::<V, _, 3, 1, 0>(Each(ScaleShift(moments)), inputs, [out], x.len(), [0.0; 3], []);
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Plus;

impl Map<2, 1> for Plus {
    #[inline(always)]
    fn call<V: Vector>(self, [a, b]: [V; 2]) -> [V; 1] {
        [a + b]
    }
}

/// The sum of `(x - mean)^2`.
#[derive(Clone, Copy)]
struct Squares {
    mean: f32,
}

impl Sweep<1, 0, 1> for Squares {
    #[inline(always)]
    fn step<V: Vector>(self, [x]: [V; 1], [sum]: &mut [V; 1]) -> [V; 0] {
        let centred = x - V::splat(self.mean);
        *sum = centred.mul_add(centred, *sum);
        []
    }
}

#[derive(Clone, Copy)]
struct Scale(Moments);

impl Map<2, 1> for Scale {
    #[inline(always)]
    fn call<V: Vector>(self, [x, weight]: [V; 2]) -> [V; 1] {
        [self.0.normal(x) * weight]
    }
}

#[derive(Clone, Copy)]
struct ScaleShift(Moments);

impl Map<3, 1> for ScaleShift {
    #[inline(always)]
    fn call<V: Vector>(self, [x, weight, bias]: [V; 3]) -> [V; 1] {
        [self.0.normal(x).mul_add(weight, bias)]
    }
}

impl Moments {
    #[inline(always)]
    fn normal<V: Vector>(self, x: V) -> V {
        (x - V::splat(self.mean)) * V::splat(self.inverse)
    }
}

/// `(x, weight, gradient) -> (sum of g w, sum of g w normal)`.
#[derive(Clone, Copy)]
struct Projections(Moments);

impl Sweep<3, 0, 2> for Projections {
    #[inline(always)]
    fn step<V: Vector>(self, [x, weight, gradient]: [V; 3], [plain, along]: &mut [V; 2]) -> [V; 0] {
        let scaled = gradient * weight;
        *plain = *plain + scaled;
        *along = scaled.mul_add(self.0.normal(x), *along);
        []
    }
}

/// `(x, weight, gradient, weight gradient, bias gradient)` to the gradients of all three.
#[derive(Clone, Copy)]
struct Slope {
    moments: Moments,
    /// Mean of `g w` (zero for the root-mean-square norm).
    plain: f32,
    /// Mean of `g w normal`.
    along: f32,
}

impl Map<5, 3> for Slope {
    #[inline(always)]
    fn call<V: Vector>(self, [x, weight, gradient, of_weight, of_bias]: [V; 5]) -> [V; 3] {
        let normal = self.moments.normal(x);
        let centred = gradient * weight - V::splat(self.plain) - normal * V::splat(self.along);
        [centred * V::splat(self.moments.inverse), gradient.mul_add(normal, of_weight), of_bias + gradient]
    }
}

struct Backward<'a> {
    norm: &'a RowNorm<'a>,
    x: &'a [f32],
    gradient: &'a [f32],
    moments: &'a [Moments],
    out: &'a Shared<f32>,
    range: Range<usize>,
    /// Gradients of the weight and of the bias, summed up.
    sums: &'a mut [f32],
}

impl Program for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let width = self.norm.weight.len();
        let weight = self.norm.weight;
        let (of_weight, of_bias) = self.sums.split_at_mut(width);
        let sums = [of_weight.as_mut_ptr(), of_bias.as_mut_ptr()];
        for row in self.range {
            let place = row * width..(row + 1) * width;
            let (x, gradient) = (&self.x[place.clone()], &self.gradient[place.clone()]);
            let moments = self.moments[row];
            let [plain, along] =
                fold::<V, 3, 2>(Projections(moments), [x, weight, gradient], [0.0; 3], [0.0; 2]);
            let plain = if self.norm.centred { plain.sum() / width as f32 } else { 0.0 };
            let slope = Each(Slope { moments, plain, along: along.sum() / width as f32 });
            let inputs =
                [x.as_ptr(), weight.as_ptr(), gradient.as_ptr(), sums[0].cast_const(), sums[1].cast_const()];
            let outputs = [self.out.at(place.start), sums[0], sums[1]];
            // SAFETY: every row is of `width` values; rows of `out` are disjoint, the sums are this
            // program's own.
            unsafe { sweep_raw::<V, _, 5, 3, 0>(slope, inputs, outputs, width, [0.0; 5], []) };
        }
    }
}

/// The norm as an operation on `[x, weight]` or `[x, weight, bias]`.
#[derive(Clone, Copy, Debug)]
struct Norm {
    epsilon: f32,
    centred: bool,
}

impl Norm {
    fn with<'a, const N: usize>(self, inputs: [&'a Host; N]) -> RowNorm<'a> {
        let bias = inputs.get(2).map(|bias| bias.data());
        RowNorm { weight: inputs[1].data(), bias, epsilon: self.epsilon, centred: self.centred }
    }
}

impl<const N: usize> Kernel<N> for Norm {
    type Saved = Vec<Moments>;

    fn forward(&self, inputs: [&Host; N]) -> (Host, Vec<Moments>) {
        let (x, norm) = (inputs[0], self.with(inputs));
        let mut moments =
            vec![Moments { mean: 0.0, inverse: 0.0 }; x.data().len() / norm.weight.len().max(1)];
        let saved = Shared(moments.as_mut_ptr());
        // SAFETY: the output has the length of `x`, `moments` a value for each row; all are written.
        let out = unsafe {
            vector::filled(x.data().len(), |out| norm.rows(x.data(), None, &Shared(out), Some(&saved)))
        };
        (Host::new(x.shape(), out), moments)
    }

    fn backward(&self, pass: Pass<'_, Vec<Moments>, N>) -> [Option<Host>; N] {
        let (x, norm) = (pass.inputs[0], self.with(pass.inputs));
        let (width, count) = (norm.weight.len(), pass.saved.len());
        let size = count.div_ceil(PARTIALS).max(1);
        let mut sums = vec![0.0f32; count.div_ceil(size) * 2 * width];
        let task = |out| {
            let out = Shared(out);
            parallel::pieces(&mut sums, 2 * width, |part, sums| {
                let range = part * size..count.min((part + 1) * size);
                let (x, gradient, moments) = (x.data(), pass.gradient.data(), pass.saved);
                vector::run(Backward { norm: &norm, x, gradient, moments, out: &out, range, sums });
            });
        };
        // SAFETY: the parts cover all rows.
        let of_x = unsafe { vector::filled(x.data().len(), task) };
        let total = add_up(&sums, 2 * width);
        let shape = pass.inputs[1].shape();
        let mut of_x = Some(Host::new(x.shape(), of_x));
        std::array::from_fn(|index| match index {
            0 => of_x.take(),
            1 => Some(Host::new(shape.clone(), total[..width].to_vec())),
            _ => Some(Host::new(shape.clone(), total[width..].to_vec())),
        })
    }
}

/// The sum of all rows of `width`, in their order.
fn add_up(rows: &[f32], width: usize) -> Vec<f32> {
    let mut total = vec![0.0; width];
    for row in rows.chunks_exact(width.max(1)) {
        total.iter_mut().zip(row).for_each(|(total, x)| *total += x);
    }
    total
}

/// `x / sqrt(mean(x^2) + epsilon) * weight` over the last dimension (Zhang and Sennrich,
/// arXiv:1910.07467); `weight` is [width]. Differentiable.
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, epsilon: f32) -> Tensor<D> {
    if op::on_host(&x) && op::on_host(&weight) {
        let norm = Norm { epsilon, centred: false };
        return Tensor::from_dispatch(op::apply(norm, [x.into_dispatch(), weight.into_dispatch()]));
    }
    portable(x, weight, None, Norm { epsilon, centred: false })
}

/// `(x - mean) / sqrt(variance + epsilon) * weight + bias` over the last dimension (Ba, Kiros and
/// Hinton, arXiv:1607.06450); `weight` and `bias` are [width]. Differentiable.
pub fn layer_norm<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<1>,
    bias: Option<Tensor<1>>,
    epsilon: f32,
) -> Tensor<D> {
    let norm = Norm { epsilon, centred: true };
    let near = op::on_host(&x) && op::on_host(&weight) && bias.as_ref().is_none_or(op::on_host);
    if !near {
        return portable(x, weight, bias, norm);
    }
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(match bias {
        None => op::apply(norm, [x, weight]),
        Some(bias) => op::apply(norm, [x, weight, bias.into_dispatch()]),
    })
}

/// `(x + residual, rms_norm(x + residual))`, in one pass where no gradient is asked for.
/// Differentiable.
pub fn add_rms_norm<const D: usize>(
    x: Tensor<D>,
    residual: Tensor<D>,
    weight: Tensor<1>,
    epsilon: f32,
) -> (Tensor<D>, Tensor<D>) {
    if fusible(&x, &residual, &[&weight]) {
        return add_norm(x, residual, weight, None, Norm { epsilon, centred: false });
    }
    let sum = x + residual;
    (sum.clone(), rms_norm(sum, weight, epsilon))
}

/// `(x + residual, layer_norm(x + residual))`, in one pass where no gradient is asked for.
/// Differentiable.
pub fn add_layer_norm<const D: usize>(
    x: Tensor<D>,
    residual: Tensor<D>,
    weight: Tensor<1>,
    bias: Option<Tensor<1>>,
    epsilon: f32,
) -> (Tensor<D>, Tensor<D>) {
    let parameters: Vec<&Tensor<1>> = std::iter::once(&weight).chain(&bias).collect();
    if fusible(&x, &residual, &parameters) {
        return add_norm(x, residual, weight, bias, Norm { epsilon, centred: true });
    }
    let sum = x + residual;
    (sum.clone(), layer_norm(sum, weight, bias, epsilon))
}

fn fusible<const D: usize>(x: &Tensor<D>, residual: &Tensor<D>, parameters: &[&Tensor<1>]) -> bool {
    fn plain<const D: usize>(x: &Tensor<D>) -> bool {
        op::on_host(x) && !x.device().is_autodiff()
    }
    plain(x) && plain(residual) && x.dims() == residual.dims() && parameters.iter().all(|one| plain(one))
}

fn add_norm<const D: usize>(
    x: Tensor<D>,
    residual: Tensor<D>,
    weight: Tensor<1>,
    bias: Option<Tensor<1>>,
    norm: Norm,
) -> (Tensor<D>, Tensor<D>) {
    let shape = x.dims();
    let (weight, bias) = (op::host(weight), bias.map(op::host));
    let bias = bias.as_ref().map(Host::data);
    let norm = RowNorm { weight: weight.data(), bias, epsilon: norm.epsilon, centred: norm.centred };
    let mut sum = op::host(x).into_vec();
    let residual = op::host(residual);
    let total = Shared(sum.as_mut_ptr());
    // SAFETY: all have the length of `sum`, which is this function's own; the output is written whole.
    let out = unsafe {
        vector::filled(residual.data().len(), |out| {
            norm.rows(residual.data(), Some(&total), &Shared(out), None)
        })
    };
    (op::tensor(Host::new(shape, sum)), op::tensor(Host::new(shape, out)))
}

fn portable<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<1>,
    bias: Option<Tensor<1>>,
    norm: Norm,
) -> Tensor<D> {
    let x = if norm.centred { x.clone() - x.mean_dim(D - 1) } else { x };
    let deviation = (x.clone() * x.clone()).mean_dim(D - 1).add_scalar(norm.epsilon).sqrt();
    let scaled = x / deviation * weight.unsqueeze();
    match bias {
        Some(bias) => scaled + bias.unsqueeze(),
        None => scaled,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_near, noise, tracked, values};
    use burn::tensor::{Device, TensorData};

    fn close(ours: Vec<f32>, theirs: Vec<f32>, tolerance: f64) {
        let theirs: Vec<f64> = theirs.into_iter().map(f64::from).collect();
        let scale = theirs.iter().fold(1e-3, |most: f64, x| most.max(x.abs()));
        assert_near(&ours, &theirs, tolerance, scale);
    }

    #[test]
    fn a_case_by_hand() {
        let (weight, bias) = ([1.0, 2.0], [10.0, 20.0]);
        let rms = RowNorm { weight: &weight, bias: None, epsilon: 0.0, centred: false };
        let mut out = [0.0; 2];
        rms.forward(&[3.0, 4.0], &mut out);
        let root = 12.5f64.sqrt();
        assert_near(&out, &[3.0 / root, 8.0 / root], 1e-6, 1.0);
        let layer = RowNorm { bias: Some(&bias), centred: true, ..rms };
        layer.forward(&[3.0, 5.0], &mut out);
        assert_near(&out, &[9.0, 22.0], 1e-6, 1.0);
    }

    #[test]
    fn rows_are_within_2e_6_of_the_reference() {
        for width in [1, 3, 16, 17, 65, 512, 3001] {
            let x: Vec<f32> = noise(4 * width, 3, 2.0).iter().map(|x| x + 1.0).collect();
            let (weight, bias) = (noise(width, 4, 1.0), noise(width, 5, 1.0));
            for (centred, bias) in [(false, None), (true, None), (true, Some(&bias[..]))] {
                let norm = RowNorm { weight: &weight, bias, epsilon: 1e-5, centred };
                let mut out = vec![0.0; x.len()];
                norm.forward(&x, &mut out);
                let wanted: Vec<f64> = x.chunks(width).flat_map(|row| norm.reference(row)).collect();
                assert_near(&out, &wanted, 2e-6, 1.0);
            }
        }
    }

    #[test]
    fn a_row_has_the_same_bits_in_any_company_and_fused() {
        let width = 131;
        let (x, residual, weight) =
            (noise(300 * width, 1, 1.0), noise(300 * width, 2, 1.0), noise(width, 3, 1.0));
        let norm = RowNorm { weight: &weight, bias: None, epsilon: 1e-6, centred: false };
        let (mut sum, mut fused) = (x.clone(), vec![0.0; x.len()]);
        norm.add_forward(&mut sum, &residual, &mut fused);
        assert!(sum.iter().zip(&x).zip(&residual).all(|((sum, x), residual)| *sum == x + residual));
        for row in [0, 150, 299] {
            let mut alone = vec![0.0; width];
            norm.forward(&sum[row * width..][..width], &mut alone);
            assert_eq!(alone, fused[row * width..][..width]);
        }
    }

    #[test]
    fn nan_stays_in_its_row() {
        let norm = RowNorm { weight: &[1.0; 2], bias: None, epsilon: 1e-6, centred: false };
        let mut out = [0.0; 6];
        norm.forward(&[f32::NAN, 1.0, f32::INFINITY, 1.0, 1.0, 1.0], &mut out);
        assert!(out[0].is_nan() && out[1].is_nan() && out[2].is_nan());
        assert_eq!(out[3], 0.0);
        assert_near(&out[4..], &[1.0, 1.0], 1e-6, 1.0);
    }

    fn parameters(width: usize) -> [Tensor<1>; 2] {
        [7, 8].map(|seed| tracked(&noise(width, seed, 1.0), [width]))
    }

    /// Value and gradients of a function of x, weight and bias.
    fn run(function: impl Fn(Tensor<3>, Tensor<1>, Tensor<1>) -> Tensor<3>) -> Vec<Vec<f32>> {
        let shape = [5, 9, 33];
        let x = tracked(&noise(5 * 9 * 33, 6, 2.0), shape);
        let [weight, bias] = parameters(33);
        let result = function(x.clone(), weight.clone(), bias.clone());
        let factor = TensorData::new(noise(5 * 9 * 33, 9, 1.0), shape);
        let gradients = (result.clone() * Tensor::from_data(factor, &Device::flex())).sum().backward();
        let of_bias = bias.grad(&gradients).map(values).unwrap_or_default();
        let of_weight = weight.grad(&gradients).map(values).unwrap_or_default();
        vec![values(result), x.grad(&gradients).map(values).unwrap_or_default(), of_weight, of_bias]
    }

    fn same(
        ours: impl Fn(Tensor<3>, Tensor<1>, Tensor<1>) -> Tensor<3>,
        theirs: impl Fn(Tensor<3>, Tensor<1>, Tensor<1>) -> Tensor<3>,
    ) {
        run(ours).into_iter().zip(run(theirs)).for_each(|(ours, theirs)| close(ours, theirs, 4e-6));
    }

    #[test]
    fn gradients_equal_the_portable_path() {
        let (rms, layer) = (Norm { epsilon: 1e-5, centred: false }, Norm { epsilon: 1e-5, centred: true });
        same(|x, w, _| rms_norm(x, w, 1e-5), |x, w, _| portable(x, w, None, rms));
        same(|x, w, _| layer_norm(x, w, None, 1e-5), |x, w, _| portable(x, w, None, layer));
        same(|x, w, b| layer_norm(x, w, Some(b), 1e-5), |x, w, b| portable(x, w, Some(b), layer));
        same(
            |x, w, b| {
                let (sum, normed) = add_layer_norm(x.clone(), x, w, Some(b), 1e-5);
                sum + normed
            },
            |x, w, b| {
                let sum = x.clone() + x;
                sum.clone() + portable(sum, w, Some(b), layer)
            },
        );
    }

    #[test]
    fn the_fused_sum_equals_the_parts() {
        let device = Device::flex();
        let tensor =
            |seed| Tensor::<2>::from_data(TensorData::new(noise(6 * 40, seed, 1.0), [6, 40]), &device);
        let weight = Tensor::<1>::from_data(TensorData::new(noise(40, 3, 1.0), [40]), &device);
        let (sum, normed) = add_rms_norm(tensor(1), tensor(2), weight.clone(), 1e-6);
        sum.clone().into_data().assert_eq(&(tensor(1) + tensor(2)).into_data(), true);
        normed.into_data().assert_eq(&rms_norm(sum, weight, 1e-6).into_data(), true);
    }
}
