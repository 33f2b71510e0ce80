//! Two-dimensional convolution: [`conv2d`] on tensors, differentiable, and [`PackedConv`] with weights
//! packed once, in `f32` or bf16, for inference.
//!
//! Everything is a dense product with patches of the image that are packed where they are used (see
//! `patches`): the output is `weight . patches`, the gradient of the image the same with the taps
//! followed backwards, the gradient of the weight `gradient . patches^T`.

mod packed;
mod patches;

use burn::tensor::Tensor;
use burn::tensor::module;
use burn::tensor::ops::ConvOptions;

use crate::matmul::pack::{Matrix, Scratch, scratch};
use crate::matmul::product::{Finish, Operand, Product, Start, pack_left};
use crate::matmul::tile::{Format, Tiles};
use crate::op::{self, Host, Kernel, Pass};
use crate::{parallel, simd};
use patches::{Geometry, TransposedPatches};

pub use packed::{PackedConv, Precision};
use packed::{Side, Weights};

/// Output pixels that the gradient of the weight takes together, to bound its memory.
const PIXEL_BLOCK: usize = 8192;

/// How a kernel moves over an image; pairs are `[vertical, horizontal]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Pixels from one position of the kernel to the next, at least 1.
    pub stride: [usize; 2],
    /// Zeros around the image, on both sides.
    pub padding: [usize; 2],
    /// Groups of channels that do not see each other; divides the channels and the outputs.
    pub groups: usize,
}

impl Default for Options {
    /// Every position, no padding, one group.
    fn default() -> Self {
        Self { stride: [1, 1], padding: [0, 0], groups: 1 }
    }
}

impl Options {
    /// The same stride and padding in both directions, one group.
    pub fn square(stride: usize, padding: usize) -> Self {
        Self { stride: [stride; 2], padding: [padding; 2], groups: 1 }
    }
}

/// Cross-correlates `x` `[batch, channels, height, width]` with `weight`
/// `[outputs, channels / groups, kernel_height, kernel_width]` and adds `bias` `[outputs]`.
/// Differentiable in all three.
///
/// # Panics
/// If the sizes do not agree, or the kernel is larger than the padded image.
pub fn conv2d(x: Tensor<4>, weight: Tensor<4>, bias: Option<Tensor<1>>, options: Options) -> Tensor<4> {
    let host = op::on_host(&x) && op::on_host(&weight) && bias.as_ref().is_none_or(op::on_host);
    if !host {
        return portable(x, weight, bias, options);
    }
    let [x, weight] = [x.into_dispatch(), weight.into_dispatch()];
    Tensor::from_dispatch(match bias {
        Some(bias) => op::apply(Conv2d(options), [x, weight, bias.into_dispatch()]),
        None => op::apply(Conv2d(options), [x, weight]),
    })
}

fn portable(x: Tensor<4>, weight: Tensor<4>, bias: Option<Tensor<1>>, options: Options) -> Tensor<4> {
    let Options { stride, padding, groups } = options;
    module::conv2d(x, weight, bias, ConvOptions::new(stride, padding, [1, 1], groups))
}

#[derive(Clone, Debug)]
struct Conv2d(Options);

/// The sizes of one call.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    batch: usize,
    groups: usize,
    /// Of one group.
    channels: usize,
    /// Of one group.
    outputs: usize,
    geometry: Geometry,
}

impl Sizes {
    fn new(x: &Host, weight: &Host, options: Options) -> Self {
        let (image, kernel) = ([x.dim(2), x.dim(3)], [weight.dim(2), weight.dim(3)]);
        let (groups, channels) = (options.groups, weight.dim(1));
        let agree = groups > 0 && x.dim(1) == channels * groups && weight.dim(0).is_multiple_of(groups);
        assert!(agree, "conv2d: x is {:?}, the weight {:?}, {groups} groups", x.shape(), weight.shape());
        let (batch, outputs) = (x.dim(0), weight.dim(0) / groups);
        Self { batch, groups, channels, outputs, geometry: Geometry::new(image, kernel, options) }
    }

    fn weights(&self, side: Side, weight: &[f32]) -> Weights {
        let tiles = Tiles::new(Format::F32, simd::features());
        Weights::pack(
            tiles,
            Format::F32,
            side,
            [self.groups, self.outputs, self.channels, self.geometry.taps()],
            weight,
        )
    }
}

impl Conv2d {
    fn output(&self, x: &Host, weight: &Host, bias: Option<&[f32]>) -> Host {
        let sizes = Sizes::new(x, weight, self.0);
        let weights = sizes.weights(Side::Outputs, weight.data());
        let mut out = vec![0.0; sizes.batch * weight.dim(0) * sizes.geometry.output_pixels()];
        weights.apply(sizes.geometry, x.data(), bias, &mut out);
        let [height, width] = sizes.geometry.output;
        Host::new([sizes.batch, weight.dim(0), height, width], out)
    }

    fn of_image(&self, x: &Host, weight: &Host, gradient: &Host) -> Host {
        let sizes = Sizes::new(x, weight, self.0);
        let weights = sizes.weights(Side::Channels, weight.data());
        let mut out = vec![0.0; x.data().len()];
        weights.apply(sizes.geometry, gradient.data(), None, &mut out);
        Host::new(x.shape(), out)
    }

    fn of_weight(&self, x: &Host, weight: &Host, gradient: &Host) -> Host {
        let sizes = Sizes::new(x, weight, self.0);
        let (taps, channels) = (sizes.geometry.taps(), sizes.channels);
        let mut by_tap = vec![0.0; weight.data().len()];
        let group_size = sizes.outputs * channels * taps;
        let images = x.data().chunks_exact(channels * sizes.geometry.image_pixels());
        let gradients = gradient.data().chunks_exact(sizes.outputs * sizes.geometry.output_pixels());
        for (index, (image, gradient)) in images.zip(gradients).enumerate() {
            let group = index % sizes.groups;
            let pixels = transpose(image, channels, sizes.geometry.image_pixels());
            sizes.add_of_weight(&pixels, gradient, &mut by_tap[group * group_size..][..group_size]);
        }
        let mut out = vec![0.0; by_tap.len()];
        parallel::pieces(&mut out, channels * taps, |output, out| {
            let by_tap = &by_tap[output * channels * taps..][..channels * taps];
            for (channel, out) in out.chunks_exact_mut(taps).enumerate() {
                for (tap, value) in out.iter_mut().enumerate() {
                    *value = by_tap[tap * channels + channel];
                }
            }
        });
        Host::new(weight.shape(), out)
    }
}

impl Sizes {
    /// Adds one image's part of the gradient of a group's weight, `[outputs, taps, channels]`, from
    /// `pixels` `[image pixels, channels]` and `gradient` `[outputs, output pixels]`.
    fn add_of_weight(&self, pixels: &[f32], gradient: &[f32], out: &mut [f32]) {
        let tiles = Tiles::new(Format::F32, simd::features());
        let (rows, columns) = (self.outputs, self.geometry.taps() * self.channels);
        let count = self.geometry.output_pixels();
        for first_pixel in (0..count).step_by(PIXEL_BLOCK) {
            let depth = PIXEL_BLOCK.min(count - first_pixel);
            let data = &gradient[first_pixel..];
            let left = Matrix { data, depth, line_stride: count, depth_stride: 1, format: Format::F32 };
            let (channels, geometry) = (self.channels, self.geometry);
            let right = TransposedPatches { data: pixels, channels, geometry, first_pixel };
            scratch(Scratch::Whole, rows * depth, |panels| {
                pack_left(&left, tiles, rows, depth, panels);
                let (left, right) = (Operand::Packed(panels), Operand::Source(&right));
                Product {
                    tiles,
                    rows,
                    columns,
                    depth,
                    left,
                    right,
                    start: Start::Existing,
                    finish: Finish::default(),
                }
                .run(out);
            });
        }
    }
}

/// `[rows, columns]` to `[columns, rows]`.
fn transpose(data: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    const BLOCK: usize = 16;
    let mut out = vec![0.0; data.len()];
    parallel::pieces(&mut out, rows * BLOCK, |block, out| {
        let first = block * BLOCK;
        for row in 0..rows {
            let values = &data[row * columns + first..][..out.len() / rows];
            for (value, out) in values.iter().zip(out.chunks_exact_mut(rows)) {
                out[row] = *value;
            }
        }
    });
    out
}

/// The gradient of the bias: sums over images and pixels.
fn of_bias(bias: &Host, gradient: &Host) -> Host {
    let pixels = gradient.dim(2) * gradient.dim(3);
    let mut sums = vec![0.0; bias.data().len()];
    for (index, plane) in gradient.data().chunks_exact(pixels).enumerate() {
        sums[index % bias.data().len()] += plane_sum(plane);
    }
    Host::new(bias.shape(), sums)
}

fn plane_sum(plane: &[f32]) -> f32 {
    let (chunks, rest) = plane.as_chunks::<16>();
    let mut sums = [0.0; 16];
    for chunk in chunks {
        sums.iter_mut().zip(chunk).for_each(|(sum, value)| *sum += value);
    }
    sums.iter().chain(rest).sum()
}

impl Kernel<2> for Conv2d {
    type Saved = ();

    fn forward(&self, [x, weight]: [&Host; 2]) -> (Host, ()) {
        (self.output(x, weight, None), ())
    }

    fn backward(&self, pass: Pass<'_, (), 2>) -> [Option<Host>; 2] {
        let ([x, weight], gradient) = (pass.inputs, pass.gradient);
        [
            pass.wanted[0].then(|| self.of_image(x, weight, gradient)),
            pass.wanted[1].then(|| self.of_weight(x, weight, gradient)),
        ]
    }
}

impl Kernel<3> for Conv2d {
    type Saved = ();

    fn forward(&self, [x, weight, bias]: [&Host; 3]) -> (Host, ()) {
        assert_eq!(bias.width(), weight.dim(0), "conv2d: one bias for each output");
        (self.output(x, weight, Some(bias.data())), ())
    }

    fn backward(&self, pass: Pass<'_, (), 3>) -> [Option<Host>; 3] {
        let ([x, weight, bias], gradient) = (pass.inputs, pass.gradient);
        [
            pass.wanted[0].then(|| self.of_image(x, weight, gradient)),
            pass.wanted[1].then(|| self.of_weight(x, weight, gradient)),
            pass.wanted[2].then(|| of_bias(bias, gradient)),
        ]
    }
}

/// The sum of products as the definition has it, `[batch, outputs, height, width]`; what the fast paths
/// are tested against. Shapes as in [`conv2d`].
///
/// # Panics
/// If the sizes do not agree.
pub fn reference(x: &Host, weight: &Host, bias: Option<&[f32]>, options: Options) -> Host {
    let sizes = Sizes::new(x, weight, options);
    let Options { stride, padding, .. } = options;
    let ([height, width], [image_height, image_width]) = (sizes.geometry.output, sizes.geometry.image);
    let outputs = weight.dim(0);
    let mut out = vec![0.0; sizes.batch * outputs * height * width];
    for (index, value) in out.iter_mut().enumerate() {
        let (column, row) = (index % width, index / width % height);
        let (output, image) = (index / (width * height) % outputs, index / (width * height * outputs));
        *value = bias.map_or(0.0, |bias| bias[output]);
        let first_channel = output / sizes.outputs * sizes.channels;
        for tap in 0..sizes.channels * sizes.geometry.taps() {
            let kernel = sizes.geometry.kernel;
            let (tap_column, tap_row) = (tap % kernel[1], tap / kernel[1] % kernel[0]);
            let channel = image * x.dim(1) + first_channel + tap / sizes.geometry.taps();
            let y = (row * stride[0] + tap_row).wrapping_sub(padding[0]);
            let x_at = (column * stride[1] + tap_column).wrapping_sub(padding[1]);
            if y < image_height && x_at < image_width {
                *value += x.data()[(channel * image_height + y) * image_width + x_at]
                    * weight.data()[output * sizes.channels * sizes.geometry.taps() + tap];
            }
        }
    }
    Host::new([sizes.batch, outputs, height, width], out)
}

#[cfg(test)]
mod tests;
