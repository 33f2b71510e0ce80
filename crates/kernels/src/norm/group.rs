//! Group normalisation (Wu and He, arXiv:1803.08494), with SiLU after it on demand.

use std::ops::Range;

use burn::tensor::{Tensor, activation};

use super::{Moments, Squares, add_up};
use crate::op::{self, Host, Kernel, Pass};
use crate::parallel::{self, Shared};
use crate::vector::{self, Each, Map, Program, Sweep, Vector, fold, sweep_raw};

/// Values that are summed in `f32` before the sum moves on to `f64`: a group of an image is long.
const BLOCK: usize = 8192;

/// What a group norm is, besides its weight and bias.
#[derive(Clone, Copy, Debug)]
pub struct GroupNorm {
    /// Groups of channels; divides the number of channels.
    pub groups: usize,
    /// Added to the variance.
    pub epsilon: f32,
    /// Whether SiLU follows.
    pub silu: bool,
}

impl GroupNorm {
    /// Group norm of `x` ([batch, channels, area]); `weight` and `bias` are [channels].
    ///
    /// # Panics
    /// If lengths do not fit, or the groups do not divide the channels.
    pub fn forward(&self, x: &[f32], area: usize, weight: &[f32], bias: &[f32]) -> Vec<f32> {
        let channels = weight.len();
        let image = channels * area;
        assert!(image > 0 && x.len().is_multiple_of(image), "no images of {channels} channels of {area}");
        assert_eq!(bias.len(), channels, "bias and weight differ in length");
        assert!(channels.is_multiple_of(self.groups), "{} groups of {channels} channels", self.groups);
        self.run(Layout::new(self, &[x.len() / image, channels, area, 1]), [x, weight, bias]).0
    }

    fn run(&self, layout: Layout, [x, weight, bias]: [&[f32]; 3]) -> (Vec<f32>, Vec<Moments>) {
        let mut moments = vec![Moments { mean: 0.0, inverse: 0.0 }; layout.groups];
        let saved = Shared(moments.as_mut_ptr());
        let task = |out| {
            let out = Shared(out);
            vector::rows(layout.groups, layout.size(), |range| {
                for group in range {
                    let (norm, out, moments) = (self, &out, &saved);
                    vector::run(Forward { norm, layout, x, weight, bias, out, moments, group });
                }
            });
        };
        // SAFETY: the groups cover all of `x`.
        (unsafe { vector::filled(x.len(), task) }, moments)
    }
}

/// Group norm of `x` ([batch, channels, height, width]); `weight` and `bias` are [channels].
/// Differentiable.
///
/// # Panics
/// If `groups` does not divide the channels.
pub fn group_norm(
    x: Tensor<4>,
    groups: usize,
    weight: Tensor<1>,
    bias: Tensor<1>,
    epsilon: f32,
) -> Tensor<4> {
    apply(x, weight, bias, GroupNorm { groups, epsilon, silu: false })
}

/// SiLU of the group norm, in one pass; see [`group_norm`].
///
/// # Panics
/// If `groups` does not divide the channels.
pub fn group_norm_silu(
    x: Tensor<4>,
    groups: usize,
    weight: Tensor<1>,
    bias: Tensor<1>,
    epsilon: f32,
) -> Tensor<4> {
    apply(x, weight, bias, GroupNorm { groups, epsilon, silu: true })
}

fn apply(x: Tensor<4>, weight: Tensor<1>, bias: Tensor<1>, norm: GroupNorm) -> Tensor<4> {
    let channels = x.dims()[1];
    assert!(
        norm.groups > 0 && channels.is_multiple_of(norm.groups),
        "{} groups of {channels} channels",
        norm.groups
    );
    assert!(
        weight.dims() == [channels] && bias.dims() == [channels],
        "weight and bias are for other channels"
    );
    if op::on_host(&x) && op::on_host(&weight) && op::on_host(&bias) {
        let inputs = [x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch()];
        return Tensor::from_dispatch(op::apply(Grouped(norm), inputs));
    }
    portable(x, weight, bias, norm)
}

fn portable(x: Tensor<4>, weight: Tensor<1>, bias: Tensor<1>, norm: GroupNorm) -> Tensor<4> {
    let [batch, channels, height, width] = x.dims();
    let groups = x.reshape([batch as i64, norm.groups as i64, -1]);
    let centred = groups.clone() - groups.mean_dim(2);
    let deviation = (centred.clone() * centred.clone()).mean_dim(2).add_scalar(norm.epsilon).sqrt();
    let normal = (centred / deviation).reshape([batch, channels, height, width]);
    let scaled = normal * weight.reshape([1, channels, 1, 1]) + bias.reshape([1, channels, 1, 1]);
    if norm.silu { activation::silu(scaled) } else { scaled }
}

/// The plain group norm in `f64`: `x` is [batch, channels, area].
pub fn group_norm_reference(
    norm: GroupNorm,
    x: &[f32],
    area: usize,
    weight: &[f32],
    bias: &[f32],
) -> Vec<f64> {
    let per_group = weight.len() / norm.groups * area;
    let mut out = Vec::with_capacity(x.len());
    for (index, &value) in x.iter().enumerate() {
        let group = &x[index / per_group * per_group..][..per_group];
        let mean = group.iter().map(|&x| f64::from(x)).sum::<f64>() / per_group as f64;
        let variance = group.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / per_group as f64;
        let normal = (f64::from(value) - mean) / (variance + f64::from(norm.epsilon)).sqrt();
        let channel = index / area % weight.len();
        let scaled = normal * f64::from(weight[channel]) + f64::from(bias[channel]);
        out.push(if norm.silu { scaled / (1.0 + (-scaled).exp()) } else { scaled });
    }
    out
}

/// The sizes that the loops need.
#[derive(Clone, Copy)]
struct Layout {
    channels: usize,
    /// Channels of one group.
    per_group: usize,
    /// Height times width.
    area: usize,
    /// Groups in the whole batch.
    groups: usize,
}

impl Layout {
    fn new(norm: &GroupNorm, shape: &[usize]) -> Self {
        let [batch, channels, height, width] = shape.try_into().expect("group norm takes four dimensions");
        let per_group = channels / norm.groups;
        Self { channels, per_group, area: height * width, groups: batch * norm.groups }
    }

    /// Values in a group.
    #[inline(always)]
    fn size(&self) -> usize {
        self.per_group * self.area
    }

    /// The channels of a group, each with its place in the data.
    #[inline(always)]
    fn channels(self, group: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
        let first = group * self.per_group;
        (first..first + self.per_group).map(move |c| (c % self.channels, c * self.area..(c + 1) * self.area))
    }
}

/// `(x - mean) scale + shift`, and SiLU of it.
#[derive(Clone, Copy)]
struct Channel<const SILU: bool> {
    mean: f32,
    scale: f32,
    shift: f32,
}

impl<const SILU: bool> Map<1, 1> for Channel<SILU> {
    #[inline(always)]
    fn call<V: Vector>(self, [x]: [V; 1]) -> [V; 1] {
        let scaled = (x - V::splat(self.mean)).mul_add(V::splat(self.scale), V::splat(self.shift));
        [if SILU { scaled * vector::sigmoid(scaled) } else { scaled }]
    }
}

struct Forward<'a> {
    norm: &'a GroupNorm,
    layout: Layout,
    x: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    out: &'a Shared<f32>,
    moments: &'a Shared<Moments>,
    group: usize,
}

impl Program for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let size = self.layout.size();
        let moments = moments::<V>(&self.x[self.group * size..][..size], self.norm.epsilon);
        for (channel, place) in self.layout.channels(self.group) {
            let x = &self.x[place.clone()];
            let (scale, shift) = (moments.inverse * self.weight[channel], self.bias[channel]);
            let out = self.out.at(place.start);
            // SAFETY: channels are disjoint, and `out` has the length of `x`.
            unsafe {
                if self.norm.silu {
                    let map = Channel::<true> { mean: moments.mean, scale, shift };
                    sweep_raw::<V, _, 1, 1, 0>(Each(map), [x.as_ptr()], [out], x.len(), [0.0], []);
                } else {
                    let map = Channel::<false> { mean: moments.mean, scale, shift };
                    sweep_raw::<V, _, 1, 1, 0>(Each(map), [x.as_ptr()], [out], x.len(), [0.0], []);
                }
            }
        }
        // SAFETY: there is a place for every group.
        unsafe { self.moments.at(self.group).write(moments) };
    }
}

#[inline(always)]
fn moments<V: Vector>(group: &[f32], epsilon: f32) -> Moments {
    let count = group.len() as f64;
    let (mut sum, mut squares) = (0.0f64, 0.0f64);
    for block in group.chunks(BLOCK) {
        let [part] = fold::<V, 1, 1>(vector::Sum, [block], [0.0], [0.0]);
        sum += f64::from(part.sum());
    }
    let mean = (sum / count) as f32;
    for block in group.chunks(BLOCK) {
        let [part] = fold::<V, 1, 1>(Squares { mean }, [block], [mean], [0.0]);
        squares += f64::from(part.sum());
    }
    Moments { mean, inverse: 1.0 / ((squares / count) as f32 + epsilon).sqrt() }
}

/// One channel of one image, for the backward pass.
#[derive(Clone, Copy)]
struct Slope<const SILU: bool> {
    moments: Moments,
    weight: f32,
    bias: f32,
}

impl<const SILU: bool> Slope<SILU> {
    /// The normalised value and the gradient before SiLU.
    #[inline(always)]
    fn parts<V: Vector>(self, x: V, gradient: V) -> (V, V) {
        let normal = self.moments.normal(x);
        if !SILU {
            return (normal, gradient);
        }
        let scaled = normal.mul_add(V::splat(self.weight), V::splat(self.bias));
        let gate = vector::sigmoid(scaled);
        let slope = (scaled * gate).mul_add(V::splat(1.0) - gate, gate);
        (normal, gradient * slope)
    }
}

/// `(x, gradient)` to the channel's gradients of weight and bias.
impl<const SILU: bool> Sweep<2, 0, 2> for Slope<SILU> {
    #[inline(always)]
    fn step<V: Vector>(self, [x, gradient]: [V; 2], [of_weight, of_bias]: &mut [V; 2]) -> [V; 0] {
        let (normal, gradient) = self.parts(x, gradient);
        *of_weight = normal.mul_add(gradient, *of_weight);
        *of_bias = *of_bias + gradient;
        []
    }
}

/// `(x, gradient)` to the gradient of x.
#[derive(Clone, Copy)]
struct Input<const SILU: bool> {
    slope: Slope<SILU>,
    plain: f32,
    along: f32,
}

impl<const SILU: bool> Map<2, 1> for Input<SILU> {
    #[inline(always)]
    fn call<V: Vector>(self, [x, gradient]: [V; 2]) -> [V; 1] {
        let (normal, gradient) = self.slope.parts(x, gradient);
        let scaled = gradient * V::splat(self.slope.weight);
        let centred = scaled - V::splat(self.plain) - normal * V::splat(self.along);
        [centred * V::splat(self.slope.moments.inverse)]
    }
}

struct Backward<'a, const SILU: bool> {
    layout: Layout,
    inputs: [&'a [f32]; 3],
    gradient: &'a [f32],
    moments: Moments,
    out: &'a Shared<f32>,
    /// Gradients of weight and bias of every channel of the batch, in turn.
    sums: &'a mut [f32],
    group: usize,
}

impl<const SILU: bool> Program for Backward<'_, SILU> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let [x, weight, bias] = self.inputs;
        let slope =
            |channel: usize| Slope { moments: self.moments, weight: weight[channel], bias: bias[channel] };
        let (mut plain, mut along) = (0.0f64, 0.0f64);
        for (index, (channel, place)) in self.layout.channels(self.group).enumerate() {
            let (mut of_weight, mut of_bias) = (0.0f64, 0.0f64);
            let blocks = x[place.clone()].chunks(BLOCK).zip(self.gradient[place].chunks(BLOCK));
            for (x, gradient) in blocks {
                let parts = fold::<V, 2, 2>(slope(channel), [x, gradient], [0.0; 2], [0.0; 2]);
                of_weight += f64::from(parts[0].sum());
                of_bias += f64::from(parts[1].sum());
            }
            self.sums[2 * index] = of_weight as f32;
            self.sums[2 * index + 1] = of_bias as f32;
            plain += of_bias * f64::from(weight[channel]);
            along += of_weight * f64::from(weight[channel]);
        }
        let count = self.layout.size() as f64;
        let (plain, along) = ((plain / count) as f32, (along / count) as f32);
        for (channel, place) in self.layout.channels(self.group) {
            let map = Each(Input::<SILU> { slope: slope(channel), plain, along });
            let inputs = [x[place.clone()].as_ptr(), self.gradient[place.clone()].as_ptr()];
            // SAFETY: channels are disjoint, and inputs and output have the same length.
            unsafe {
                sweep_raw::<V, _, 2, 1, 0>(map, inputs, [self.out.at(place.start)], place.len(), [0.0; 2], [])
            };
        }
    }
}

/// The norm as an operation on `[x, weight, bias]`.
#[derive(Clone, Copy, Debug)]
struct Grouped(GroupNorm);

impl Kernel<3> for Grouped {
    type Saved = Vec<Moments>;

    fn forward(&self, [x, weight, bias]: [&Host; 3]) -> (Host, Vec<Moments>) {
        let layout = Layout::new(&self.0, &x.shape());
        let (out, moments) = self.0.run(layout, [x.data(), weight.data(), bias.data()]);
        (Host::new(x.shape(), out), moments)
    }

    fn backward(&self, pass: Pass<'_, Vec<Moments>, 3>) -> [Option<Host>; 3] {
        let layout = Layout::new(&self.0, &pass.inputs[0].shape());
        let inputs = pass.inputs.map(Host::data);
        let gradient = pass.gradient.data();
        let mut sums = vec![0.0f32; 2 * layout.groups * layout.per_group];
        let task = |out| {
            let out = &Shared(out);
            parallel::pieces(&mut sums, 2 * layout.per_group, |group, sums| {
                let moments = pass.saved[group];
                if self.0.silu {
                    vector::run(Backward::<true> { layout, inputs, gradient, moments, out, sums, group });
                } else {
                    vector::run(Backward::<false> { layout, inputs, gradient, moments, out, sums, group });
                }
            });
        };
        // SAFETY: the groups cover all of `x`.
        let of_x = unsafe { vector::filled(inputs[0].len(), task) };
        let total = add_up(&sums, 2 * layout.channels);
        let every_other = |first| total.iter().skip(first).step_by(2).copied().collect();
        let [x, weight, bias] = pass.inputs.map(Host::shape);
        [Host::new(x, of_x), Host::new(weight, every_other(0)), Host::new(bias, every_other(1))].map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_near, noise, tracked, values};
    use burn::tensor::{Device, TensorData};

    const SHAPE: [usize; 4] = [2, 6, 5, 7];

    fn run(function: impl Fn(Tensor<4>, Tensor<1>, Tensor<1>) -> Tensor<4>) -> Vec<Vec<f32>> {
        let count = SHAPE.iter().product();
        let x = tracked(&noise(count, 1, 2.0), SHAPE);
        let [weight, bias] = [2, 3].map(|seed| tracked(&noise(6, seed, 1.0), [6]));
        let result = function(x.clone(), weight.clone(), bias.clone());
        let factor = TensorData::new(noise(count, 4, 1.0), SHAPE);
        let gradients = (result.clone() * Tensor::from_data(factor, &Device::flex())).sum().backward();
        let parameters = [weight, bias].map(|one| one.grad(&gradients).map(values).unwrap_or_default());
        let of_x = x.grad(&gradients).map(values).unwrap_or_default();
        [values(result), of_x].into_iter().chain(parameters).collect()
    }

    #[test]
    fn values_and_gradients_equal_the_portable_path() {
        for silu in [false, true] {
            for groups in [1, 2, 6] {
                let norm = GroupNorm { groups, epsilon: 1e-5, silu };
                let ours = run(|x, weight, bias| apply(x, weight, bias, norm));
                let theirs = run(|x, weight, bias| portable(x, weight, bias, norm));
                for (ours, theirs) in ours.iter().zip(theirs) {
                    let theirs: Vec<f64> = theirs.into_iter().map(f64::from).collect();
                    assert_near(ours, &theirs, 1e-5, 1.0);
                }
            }
        }
    }

    #[test]
    fn a_long_group_far_from_zero_stays_exact() {
        let norm = GroupNorm { groups: 2, epsilon: 1e-5, silu: true };
        let (shape, area) = ([1, 4, 120, 121], 120 * 121);
        let data: Vec<f32> = noise(4 * area, 1, 1.0).iter().map(|x| x + 30.0).collect();
        let (weight, bias) = ([1.0, -2.0, 0.5, 3.0], [0.1, 0.2, 0.3, 0.4]);
        let tensor = |data: &[f32]| {
            Tensor::<1>::from_data(TensorData::new(data.to_vec(), [data.len()]), &Device::flex())
        };
        let x = tensor(&data).reshape(shape);
        let ours = values(group_norm_silu(x, 2, tensor(&weight), tensor(&bias), 1e-5));
        assert_near(&ours, &group_norm_reference(norm, &data, area, &weight, &bias), 1e-5, 1.0);
        assert_eq!(ours, norm.forward(&data, area, &weight, &bias));
    }

    #[test]
    #[should_panic(expected = "4 groups of 6 channels")]
    fn groups_must_divide_the_channels() {
        run(|x, weight, bias| group_norm(x, 4, weight, bias, 1e-5));
    }
}
