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
    /// Factors, `[width]`.
    pub weight: &'a [f32],
    /// Summands, `[width]`.
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
        let data = x.as_mut_ptr();
        let sum = Addition { from: Shared(data), to: Shared(data) };
        // SAFETY: all have the length of `x`; `x` and `out` are borrowed alone, and each row of `x` is
        // read through the pointer that it is written through.
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

    /// Normalises rows; with `sum`, adds to them first.
    ///
    /// # Safety
    /// `out` and the pointers of `sum` must be good for the length of `x`, `moments` for one value a row.
    unsafe fn rows(
        &self,
        x: &[f32],
        sum: Option<&Addition>,
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

/// What is added to rows before they are normalised, and where the sum goes: elsewhere or in its place.
struct Addition {
    from: Shared<f32>,
    to: Shared<f32>,
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
    sum: Option<&'a Addition>,
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
                let to = sum.to.at(start);
                // SAFETY: the caller of `rows` vouches for `sum`; rows are disjoint.
                x = unsafe {
                    let inputs = [x.as_ptr(), sum.from.at(start).cast_const()];
                    sweep_raw::<V, _, 2, 1, 0>(Each(Plus), inputs, [to], width, [0.0; 2], []);
                    std::slice::from_raw_parts(to, width)
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

/// `(x, weight, gradient)` to the gradient of x.
#[derive(Clone, Copy)]
struct Slope {
    moments: Moments,
    /// Mean of `g w` (zero for the root-mean-square norm).
    plain: f32,
    /// Mean of `g w normal`.
    along: f32,
}

impl Map<3, 1> for Slope {
    #[inline(always)]
    fn call<V: Vector>(self, [x, weight, gradient]: [V; 3]) -> [V; 1] {
        let normal = self.moments.normal(x);
        let centred = gradient * weight - V::splat(self.plain) - normal * V::splat(self.along);
        [centred * V::splat(self.moments.inverse)]
    }
}

/// `(x, gradient, weight gradient, bias gradient)` to the last two with this row added.
#[derive(Clone, Copy)]
struct ParameterSlope(Moments);

impl Map<4, 2> for ParameterSlope {
    #[inline(always)]
    fn call<V: Vector>(self, [x, gradient, of_weight, of_bias]: [V; 4]) -> [V; 2] {
        [gradient.mul_add(self.0.normal(x), of_weight), of_bias + gradient]
    }
}

struct Backward<'a> {
    norm: &'a RowNorm<'a>,
    x: &'a [f32],
    gradient: &'a [f32],
    moments: &'a [Moments],
    out: &'a Shared<f32>,
    range: Range<usize>,
    /// Gradients of the weight and of the bias, summed up; empty where nobody wants them.
    sums: &'a mut [f32],
}

impl Program for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let width = self.norm.weight.len();
        let weight = self.norm.weight;
        let middle = self.sums.len() / 2;
        let (of_weight, of_bias) = self.sums.split_at_mut(middle);
        let sums = (middle > 0).then_some([of_weight.as_mut_ptr(), of_bias.as_mut_ptr()]);
        for row in self.range {
            let place = row * width..(row + 1) * width;
            let (x, gradient) = (&self.x[place.clone()], &self.gradient[place.clone()]);
            let moments = self.moments[row];
            let [plain, along] =
                fold::<V, 3, 2>(Projections(moments), [x, weight, gradient], [0.0; 3], [0.0; 2]);
            let plain = if self.norm.centred { plain.sum() / width as f32 } else { 0.0 };
            let slope = Slope { moments, plain, along: along.sum() / width as f32 };
            let inputs = [x.as_ptr(), weight.as_ptr(), gradient.as_ptr()];
            let out = self.out.at(place.start);
            // SAFETY: every row is of `width` values; rows of `out` are disjoint, the sums are this
            // program's own.
            unsafe {
                sweep_raw::<V, _, 3, 1, 0>(Each(slope), inputs, [out], width, [0.0; 3], []);
                if let Some(sums) = sums {
                    let inputs = [inputs[0], inputs[2], sums[0].cast_const(), sums[1].cast_const()];
                    sweep_raw::<V, _, 4, 2, 0>(
                        Each(ParameterSlope(moments)),
                        inputs,
                        sums,
                        width,
                        [0.0; 4],
                        [],
                    );
                }
            }
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
        assert_eq!(inputs[0].width(), inputs[1].width(), "the weight is for rows of another width");
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
        let parameters = pass.wanted[1..].contains(&true);
        let mut sums = vec![0.0f32; if parameters { count.div_ceil(size) * 2 * width } else { 0 }];
        let own = Shared(sums.as_mut_ptr());
        let task = |out| {
            let out = Shared(out);
            parallel::run(count.div_ceil(size), |part| {
                let range = part * size..count.min((part + 1) * size);
                let (x, gradient, moments) = (x.data(), pass.gradient.data(), pass.saved);
                let length = if parameters { 2 * width } else { 0 };
                // SAFETY: each part has its own `length` values of `sums`.
                let sums = unsafe { std::slice::from_raw_parts_mut(own.at(part * length), length) };
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
            _ if !pass.wanted[index] => None,
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
/// arXiv:1910.07467); `weight` is `[width]`. Differentiable.
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, epsilon: f32) -> Tensor<D> {
    if op::on_host(&x) && op::on_host(&weight) {
        let norm = Norm { epsilon, centred: false };
        return Tensor::from_dispatch(op::apply(norm, [x.into_dispatch(), weight.into_dispatch()]));
    }
    portable(x, weight, None, Norm { epsilon, centred: false })
}

/// `(x - mean) / sqrt(variance + epsilon) * weight + bias` over the last dimension (Ba, Kiros and
/// Hinton, arXiv:1607.06450); `weight` and `bias` are `[width]`. Differentiable.
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
    assert_eq!(shape[D - 1], weight.dims()[0], "the weight is for rows of another width");
    let (weight, bias) = (op::host(weight), bias.map(op::host));
    let bias = bias.as_ref().map(Host::data);
    let norm = RowNorm { weight: weight.data(), bias, epsilon: norm.epsilon, centred: norm.centred };
    let (x, residual) = (op::host(x), op::host(residual));
    let count = x.data().len();
    let (mut sum, mut out) = (Vec::<f32>::with_capacity(count), Vec::<f32>::with_capacity(count));
    let from = Shared(x.data().as_ptr().cast_mut());
    let addition = Addition { from, to: Shared(sum.as_mut_ptr()) };
    // SAFETY: `x` and the residual have `count` values, the sum and the output room for as many; `x` is
    // only read, and the others are written whole.
    unsafe {
        norm.rows(residual.data(), Some(&addition), &Shared(out.as_mut_ptr()), None);
        sum.set_len(count);
        out.set_len(count);
    }
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
mod tests;
