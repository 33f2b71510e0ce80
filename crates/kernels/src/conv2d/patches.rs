//! Convolution as a dense product: the patches of an image as an operand that is only ever packed in
//! blocks, never written out whole. The depth runs over the taps of the kernel and, within a tap, over
//! the channels, so that what a tap sees of a row of pixels is worked out once for all channels.

use std::ops::Range;

use super::Options;
use crate::matmul::pack::{Source, round_to_bf16};
use crate::matmul::tile::{COLUMNS, Format};

/// Sizes of a convolution; pairs are `[vertical, horizontal]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    pub(super) image: [usize; 2],
    pub(super) output: [usize; 2],
    pub(super) kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
}

impl Geometry {
    pub(super) fn new(image: [usize; 2], kernel: [usize; 2], options: Options) -> Self {
        let Options { stride, padding, .. } = options;
        let size = |axis: usize| {
            let padded = image[axis] + 2 * padding[axis];
            assert!(
                kernel[axis] > 0 && stride[axis] > 0 && padded >= kernel[axis],
                "conv2d: a kernel of {kernel:?} with stride {stride:?} does not fit {image:?} padded by {padding:?}"
            );
            (padded - kernel[axis]) / stride[axis] + 1
        };
        Self { image, output: [size(0), size(1)], kernel, stride, padding }
    }

    pub(super) fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    pub(super) fn image_pixels(&self) -> usize {
        self.image[0] * self.image[1]
    }

    pub(super) fn output_pixels(&self) -> usize {
        self.output[0] * self.output[1]
    }

    /// The row or column of the image that the tap sees for output position `at`.
    fn forward(&self, axis: usize, at: usize, tap: usize) -> Option<usize> {
        let padded = at * self.stride[axis] + tap;
        padded.checked_sub(self.padding[axis]).filter(|&position| position < self.image[axis])
    }

    /// The inverse of [`Self::forward`]: the output position for which the tap sees `at`.
    fn backward(&self, axis: usize, at: usize, tap: usize) -> Option<usize> {
        let padded = (at + self.padding[axis]).checked_sub(tap)?;
        let position = padded / self.stride[axis];
        (position * self.stride[axis] == padded && position < self.output[axis]).then_some(position)
    }
}

/// Which way the taps are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// Lines are output pixels and `data` is the image.
    Forward,
    /// Lines are image pixels and `data` is the gradient of the output.
    Backward,
}

/// The right operand: a line for each pixel.
#[derive(Clone, Copy)]
pub(super) struct Patches<'a> {
    /// `[channels, pixels]`
    pub(super) data: &'a [f32],
    pub(super) channels: usize,
    pub(super) geometry: Geometry,
    pub(super) direction: Direction,
    pub(super) format: Format,
}

/// What one tap sees for the pixels of a panel.
struct Window {
    /// Positions within a plane; 0 where the tap sees the padding.
    offsets: [u32; COLUMNS],
    /// All ones, or zero where the tap sees the padding.
    mask: [u32; COLUMNS],
    /// The position of the first pixel, where all pixels are neighbours in memory; it may be below
    /// zero when the first pixels are masked.
    start: Option<isize>,
}

impl Patches<'_> {
    /// The size of the plane that lines are pixels of, and of the planes of `data`.
    fn planes(&self) -> [[usize; 2]; 2] {
        let Geometry { image, output, .. } = self.geometry;
        if self.direction == Direction::Forward { [output, image] } else { [image, output] }
    }

    fn window(&self, lines: Range<usize>, tap: usize) -> Window {
        let [[_, width], [_, data_width]] = self.planes();
        let taps = [tap / self.geometry.kernel[1], tap % self.geometry.kernel[1]];
        let seen = |axis: usize, at: usize| match self.direction {
            Direction::Forward => self.geometry.forward(axis, at, taps[axis]),
            Direction::Backward => self.geometry.backward(axis, at, taps[axis]),
        };
        let mut window = Window { offsets: [0; COLUMNS], mask: [0; COLUMNS], start: None };
        let (mut y, mut x) = (lines.start / width, lines.start % width);
        for lane in 0..lines.len() {
            if let (Some(row), Some(column)) = (seen(0, y), seen(1, x)) {
                window.offsets[lane] = (row * data_width + column) as u32;
                window.mask[lane] = u32::MAX;
            }
            (y, x) = if x + 1 == width { (y + 1, 0) } else { (y, x + 1) };
        }
        window.find_start();
        window
    }

    /// Writes the words `words` of one tap, `[words, COLUMNS]`.
    #[inline(always)]
    fn fill(&self, window: &Window, words: Range<usize>, out: &mut [u32]) {
        match self.format {
            Format::F32 => {
                for (channel, row) in words.zip(out.chunks_exact_mut(COLUMNS)) {
                    let values = self.values(window, channel);
                    for lane in 0..COLUMNS {
                        row[lane] = values[lane].to_bits() & window.mask[lane];
                    }
                }
            }
            Format::Bf16 => {
                for (pair, row) in words.zip(out.chunks_exact_mut(COLUMNS)) {
                    let first = self.values(window, 2 * pair);
                    let second = self.values(window, 2 * pair + 1);
                    for lane in 0..COLUMNS {
                        let word = round_to_bf16(first[lane]) | round_to_bf16(second[lane]) << 16;
                        row[lane] = word & window.mask[lane];
                    }
                }
            }
        }
    }

    /// What the tap sees of a channel, arbitrary where it is masked; zeros beyond the last channel.
    #[inline(always)]
    fn values(&self, window: &Window, channel: usize) -> [f32; COLUMNS] {
        if channel >= self.channels {
            return [0.0; COLUMNS];
        }
        let [_, [height, width]] = self.planes();
        let base = channel * height * width;
        let whole = window.start.and_then(|start| base.checked_add_signed(start));
        if let Some(values) = whole.and_then(|start| self.data.get(start..)?.first_chunk()) {
            return *values;
        }
        let plane = &self.data[base..base + height * width];
        window.offsets.map(|offset| plane[offset as usize])
    }

    #[inline(always)]
    fn pack_with(&self, lines: Range<usize>, words: Range<usize>, panel: &mut [u32]) {
        let each_tap = self.format.words(self.channels);
        let mut word = words.start;
        while word < words.end {
            let tap = word / each_tap;
            let end = words.end.min((tap + 1) * each_tap);
            let window = self.window(lines.clone(), tap);
            let out = &mut panel[(word - words.start) * COLUMNS..(end - words.start) * COLUMNS];
            self.fill(&window, word - tap * each_tap..end - tap * each_tap, out);
            word = end;
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn pack_wide(&self, lines: Range<usize>, words: Range<usize>, panel: &mut [u32]) {
        self.pack_with(lines, words, panel);
    }
}

impl Window {
    fn find_start(&mut self) {
        let lanes = self.offsets.iter().zip(&self.mask).enumerate();
        let mut starts =
            lanes.filter(|(_, (_, mask))| **mask != 0).map(|(lane, (&at, _))| at as isize - lane as isize);
        self.start = starts.next().filter(|&first| starts.all(|start| start == first));
    }
}

impl Source for Patches<'_> {
    fn pack(&self, lines: Range<usize>, words: Range<usize>, width: usize, panel: &mut [u32]) {
        assert_eq!(width, COLUMNS, "patches are a right operand");
        #[cfg(target_arch = "x86_64")]
        if crate::simd::level() == crate::simd::Level::Avx512 {
            // SAFETY: the level says that the processor has these features.
            unsafe { self.pack_wide(lines, words, panel) };
            return;
        }
        self.pack_with(lines, words, panel);
    }
}

/// The right operand of the weight's gradient: a line for each tap and channel, the depth runs over
/// output pixels.
#[derive(Clone, Copy)]
pub(super) struct TransposedPatches<'a> {
    /// `[pixels, channels]`
    pub(super) data: &'a [f32],
    pub(super) channels: usize,
    pub(super) geometry: Geometry,
    /// The output pixel that the depth begins with.
    pub(super) first_pixel: usize,
}

impl TransposedPatches<'_> {
    /// Writes the channels `channels` of one tap to the lanes from `lane` on.
    fn fill(&self, tap: usize, channels: Range<usize>, words: Range<usize>, lane: usize, panel: &mut [u32]) {
        let Geometry { image, output, kernel, .. } = self.geometry;
        let first = self.first_pixel + words.start;
        let (mut y, mut x) = (first / output[1], first % output[1]);
        let mut row = self.geometry.forward(0, y, tap / kernel[1]);
        for words in panel.chunks_exact_mut(COLUMNS).take(words.len()) {
            let words = &mut words[lane..lane + channels.len()];
            match (row, self.geometry.forward(1, x, tap % kernel[1])) {
                (Some(row), Some(column)) => {
                    let start = (row * image[1] + column) * self.channels;
                    copy(&self.data[start + channels.start..start + channels.end], words);
                }
                _ => words.fill(0),
            }
            x += 1;
            if x == output[1] {
                (y, x) = (y + 1, 0);
                row = self.geometry.forward(0, y, tap / kernel[1]);
            }
        }
    }
}

/// A copy that is a few instructions where a whole panel row is copied.
#[inline(always)]
fn copy(values: &[f32], words: &mut [u32]) {
    match (values.first_chunk::<COLUMNS>(), words.first_chunk_mut::<COLUMNS>()) {
        (Some(values), Some(words)) => *words = values.map(f32::to_bits),
        _ => words.iter_mut().zip(values).for_each(|(word, value)| *word = value.to_bits()),
    }
}

impl Source for TransposedPatches<'_> {
    fn pack(&self, lines: Range<usize>, words: Range<usize>, width: usize, panel: &mut [u32]) {
        assert_eq!(width, COLUMNS, "patches are a right operand");
        if lines.len() < width {
            panel.fill(0);
        }
        let mut line = lines.start;
        while line < lines.end {
            let tap = line / self.channels;
            let end = lines.end.min((tap + 1) * self.channels);
            let channels = line - tap * self.channels..end - tap * self.channels;
            self.fill(tap, channels, words.clone(), line - lines.start, panel);
            line = end;
        }
    }
}
