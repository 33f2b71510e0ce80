//! Weights of a convolution, packed.

use std::ops::Range;

use burn::tensor::Tensor;

use super::Options;
use super::patches::{Direction, Geometry, Patches};
use crate::matmul::pack::{Source, Words, pair, round_to_bf16};
use crate::matmul::product::{Finish, Operand, Product, Start, pack_left};
use crate::matmul::tile::{Format, Tiles};
use crate::op::{self, Host};
use crate::{parallel, simd};

/// The number format that a [`PackedConv`] multiplies in. Sums, input and output are `f32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// `f32`.
    F32,
    /// Weights and pixels rounded to bf16, to nearest with ties to even.
    Bf16,
}

impl Precision {
    fn format(self) -> Format {
        match self {
            Self::F32 => Format::F32,
            Self::Bf16 => Format::Bf16,
        }
    }
}

/// A convolution with weights packed once, for inference.
#[derive(Clone, Debug)]
pub struct PackedConv {
    weights: Weights,
    kernel: [usize; 2],
    bias: Option<Vec<f32>>,
    options: Options,
}

impl PackedConv {
    /// Packs `weight`, `[outputs, channels / groups, kernel_height, kernel_width]` of the sizes `shape`,
    /// with `bias` `[outputs]`.
    ///
    /// # Panics
    /// If the sizes do not agree.
    pub fn new(
        weight: &[f32],
        shape: [usize; 4],
        bias: Option<&[f32]>,
        options: Options,
        precision: Precision,
    ) -> Self {
        let [outputs, channels, height, width] = shape;
        let groups = options.groups;
        assert_eq!(weight.len(), shape.iter().product::<usize>(), "the weight is not {shape:?}");
        assert!(groups > 0 && outputs.is_multiple_of(groups), "{outputs} outputs in {groups} groups");
        assert!(bias.is_none_or(|bias| bias.len() == outputs), "one bias for each of {outputs} outputs");
        let tiles = Tiles::new(precision.format(), simd::features());
        let sizes = [groups, outputs / groups, channels, height * width];
        let weights = Weights::pack(tiles, precision.format(), Side::Outputs, sizes, weight);
        Self { weights, kernel: [height, width], bias: bias.map(<[f32]>::to_vec), options }
    }

    /// The memory that the weights take.
    pub fn bytes(&self) -> usize {
        self.weights.panels.bytes() + self.bias.as_ref().map_or(0, |bias| size_of_val(&bias[..]))
    }

    /// The shape of the output for an input of `shape`, `[batch, channels, height, width]`.
    ///
    /// # Panics
    /// If the kernel is larger than the padded image.
    pub fn output_shape(&self, [batch, _, height, width]: [usize; 4]) -> [usize; 4] {
        let [out_height, out_width] = Geometry::new([height, width], self.kernel, self.options).output;
        [batch, self.weights.rows * self.weights.groups, out_height, out_width]
    }

    /// Convolves `x` of `shape` `[batch, channels, height, width]` into `out`, of [`Self::output_shape`].
    ///
    /// # Panics
    /// If the sizes do not agree.
    pub fn forward(&self, x: &[f32], shape: [usize; 4], out: &mut [f32]) {
        let channels = self.weights.channels * self.weights.groups;
        assert!(
            shape[1] == channels && x.len() == shape.iter().product::<usize>(),
            "x is not {shape:?} of {channels} channels"
        );
        assert_eq!(
            out.len(),
            self.output_shape(shape).iter().product::<usize>(),
            "the output has the wrong size"
        );
        let geometry = Geometry::new([shape[2], shape[3]], self.kernel, self.options);
        self.weights.apply(geometry, x, self.bias.as_deref(), out);
    }

    /// [`Self::forward`] on tensors; the result lies in main memory and is not tracked.
    ///
    /// # Panics
    /// If the sizes do not agree.
    pub fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        let shape = x.dims();
        let x = op::host(x);
        let mut out = vec![0.0; self.output_shape(shape).iter().product()];
        self.forward(x.data(), shape, &mut out);
        op::tensor(Host::new(self.output_shape(shape), out))
    }
}

/// Which dimension of a weight the rows of the packed matrix are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// The outputs: for the convolution.
    Outputs,
    /// The channels: for the gradient of the image.
    Channels,
}

/// The left operand: for each group `[rows, taps, channels]`, where the channels are those of the
/// images that it is applied to.
#[derive(Clone, Debug)]
pub(super) struct Weights {
    tiles: Tiles,
    format: Format,
    side: Side,
    panels: Words,
    groups: usize,
    /// Of one group.
    rows: usize,
    /// Of one group.
    channels: usize,
    taps: usize,
}

impl Weights {
    /// Packs `weight` of `[groups, outputs, channels, taps]`.
    pub(super) fn pack(tiles: Tiles, format: Format, side: Side, sizes: [usize; 4], weight: &[f32]) -> Self {
        let [groups, outputs, channels, taps] = sizes;
        let (rows, channels) = if side == Side::Outputs { (outputs, channels) } else { (channels, outputs) };
        let mut packed = Self { tiles, format, side, panels: Words::default(), groups, rows, channels, taps };
        packed.panels = Words::zeros(groups * rows * packed.depth());
        for group in 0..groups {
            let weight = &weight[group * rows * channels * taps..][..rows * channels * taps];
            let size = rows * packed.depth();
            packed.pack_group(weight, group * size..(group + 1) * size);
        }
        packed
    }

    fn pack_group(&mut self, weight: &[f32], panels: Range<usize>) {
        let strides = match self.side {
            Side::Outputs => [self.channels * self.taps, self.taps],
            Side::Channels => [self.taps, self.rows * self.taps],
        };
        let source = ByTap { weight, strides, channels: self.channels, format: self.format };
        let (tiles, rows, depth) = (self.tiles, self.rows, self.depth());
        pack_left(&source, tiles, rows, depth, &mut self.panels[panels]);
    }

    /// In words.
    fn depth(&self) -> usize {
        self.taps * self.format.words(self.channels)
    }

    /// Applies the weights to `images`, `[batch, groups, channels, pixels]`, and writes `out`,
    /// `[batch, groups, rows, pixels]`.
    pub(super) fn apply(&self, geometry: Geometry, images: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
        let (direction, from, to) = match self.side {
            Side::Outputs => (Direction::Forward, geometry.image_pixels(), geometry.output_pixels()),
            Side::Channels => (Direction::Backward, geometry.output_pixels(), geometry.image_pixels()),
        };
        let one = |index: usize, out: &mut [f32]| {
            let group = index % self.groups;
            let data = &images[index * self.channels * from..][..self.channels * from];
            let right = Patches { data, channels: self.channels, geometry, direction, format: self.format };
            let size = self.rows * self.depth();
            let start = bias.map_or(Start::Zero, |bias| Start::Rows(&bias[group * self.rows..]));
            let product = Product {
                tiles: self.tiles,
                rows: self.rows,
                columns: to,
                depth: self.depth(),
                left: Operand::Packed(&self.panels[group * size..][..size]),
                right: Operand::Source(&right),
                start,
                finish: Finish::default(),
            };
            product.run(out);
        };
        let size = self.rows * to;
        if size == 0 || out.len() / size >= 2 * parallel::threads() {
            parallel::pieces(out, size, one);
        } else {
            out.chunks_exact_mut(size).enumerate().for_each(|(index, out)| one(index, out));
        }
    }
}

/// The weight of a group as `[rows, taps, channels]`: value `(row, tap, channel)` lies at
/// `row * strides[0] + channel * strides[1] + tap`.
struct ByTap<'a> {
    weight: &'a [f32],
    strides: [usize; 2],
    channels: usize,
    format: Format,
}

impl Source for ByTap<'_> {
    fn pack(&self, lines: Range<usize>, words: Range<usize>, width: usize, panel: &mut [u32]) {
        let each_tap = self.format.words(self.channels);
        let [row_stride, channel_stride] = self.strides;
        for (word, panel) in words.zip(panel.chunks_exact_mut(width)) {
            let (tap, at) = (word / each_tap, word % each_tap);
            let values = |channel: usize| {
                let start = channel * channel_stride + tap;
                lines.clone().map(move |line| self.weight[line * row_stride + start])
            };
            match self.format {
                Format::F32 => {
                    panel.iter_mut().zip(values(at)).for_each(|(word, value)| *word = value.to_bits())
                }
                Format::Bf16 if 2 * at + 1 < self.channels => {
                    let pairs = values(2 * at).zip(values(2 * at + 1));
                    panel
                        .iter_mut()
                        .zip(pairs)
                        .for_each(|(word, (first, second))| *word = pair(first, second));
                }
                Format::Bf16 => {
                    panel
                        .iter_mut()
                        .zip(values(2 * at))
                        .for_each(|(word, value)| *word = round_to_bf16(value));
                }
            }
        }
    }
}
