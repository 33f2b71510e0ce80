//! Packing an operand into panels, and the memory for it.

use std::cell::Cell;
use std::ops::{Deref, DerefMut, Range};

use super::tile::Format;

/// A cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u32; 16]);

/// A growable array of words that starts on a cache line.
#[derive(Clone, Default)]
pub(crate) struct Words(Vec<Line>);

impl Words {
    /// At least `count` zeros.
    pub(crate) fn zeros(count: usize) -> Self {
        Self(vec![Line([0; 16]); count.div_ceil(16)])
    }

    /// Makes room for `count` words; what they hold is arbitrary.
    fn grow(&mut self, count: usize) {
        if self.len() < count {
            self.0.resize(count.div_ceil(16), Line([0; 16]));
        }
    }

    /// The memory they take.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&**self)
    }
}

impl Deref for Words {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        // SAFETY: a `Line` is 16 words without padding.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * 16) }
    }
}

impl DerefMut for Words {
    fn deref_mut(&mut self) -> &mut [u32] {
        // SAFETY: a `Line` is 16 words without padding.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.0.len() * 16) }
    }
}

impl std::fmt::Debug for Words {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Words({})", self.len())
    }
}

/// Which of a thread's scratch arrays; a product's tasks use the first two while its caller holds the third.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Scratch {
    Left,
    Right,
    Whole,
}

/// Calls `work` with `count` words of this thread's scratch memory, whose contents are arbitrary.
/// It is kept from call to call, because fresh pages cost as much as filling them.
pub(crate) fn scratch<T>(which: Scratch, count: usize, work: impl FnOnce(&mut [u32]) -> T) -> T {
    thread_local! {
        static KEPT: [Cell<Words>; 3] = const { [const { Cell::new(Words(Vec::new())) }; 3] };
    }
    let mut words = KEPT.with(|kept| kept[which as usize].take());
    words.grow(count);
    let result = work(&mut words[..count]);
    KEPT.with(|kept| kept[which as usize].set(words));
    result
}

/// An operand that can be packed: it has *lines* (rows of the left operand, columns of the right
/// one) of `depth` values.
pub(crate) trait Source: Sync {
    /// Writes the words `words` of the lines `lines` to `panel`, as `[words][width]`; the lines that
    /// `width` has beyond those are zeros.
    fn pack(&self, lines: Range<usize>, words: Range<usize>, width: usize, panel: &mut [u32]);
}

/// A matrix of `f32` in memory: value `(line, k)` lies at `line * line_stride + k * depth_stride`.
/// One of the strides is 1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) depth: usize,
    pub(crate) line_stride: usize,
    pub(crate) depth_stride: usize,
    pub(crate) format: Format,
}

impl Source for Matrix<'_> {
    fn pack(&self, lines: Range<usize>, words: Range<usize>, width: usize, panel: &mut [u32]) {
        if lines.len() < width {
            panel.fill(0);
        }
        match self.format {
            Format::F32 if self.line_stride == 1 => self.copy_rows(lines, words, width, panel),
            Format::F32 => self.transpose(lines, words, width, panel),
            Format::Bf16 => self.round_pairs(lines, words, width, panel),
        }
    }
}

impl Matrix<'_> {
    /// Lines are neighbours in memory: every word row of the panel is a copy.
    fn copy_rows(&self, lines: Range<usize>, words: Range<usize>, width: usize, panel: &mut [u32]) {
        for (k, row) in words.zip(panel.chunks_exact_mut(width)) {
            let start = k * self.depth_stride;
            let values = &self.data[start + lines.start..start + lines.end];
            for (word, value) in row.iter_mut().zip(values) {
                *word = value.to_bits();
            }
        }
    }

    /// The depth is contiguous in memory: a transposition.
    fn transpose(&self, lines: Range<usize>, words: Range<usize>, width: usize, panel: &mut [u32]) {
        for (lane, line) in lines.enumerate() {
            let start = line * self.line_stride;
            let values = &self.data[start + words.start..start + words.end];
            for (value, row) in values.iter().zip(panel.chunks_exact_mut(width)) {
                row[lane] = value.to_bits();
            }
        }
    }

    fn round_pairs(&self, lines: Range<usize>, words: Range<usize>, width: usize, panel: &mut [u32]) {
        for (lane, line) in lines.enumerate() {
            let value = |k: usize| {
                let inside = k < self.depth;
                if inside { self.data[line * self.line_stride + k * self.depth_stride] } else { 0.0 }
            };
            for (k, row) in words.clone().zip(panel.chunks_exact_mut(width)) {
                row[lane] = pair(value(2 * k), value(2 * k + 1));
            }
        }
    }
}

/// Two values rounded to bf16, the first in the low half.
#[inline(always)]
pub(crate) fn pair(first: f32, second: f32) -> u32 {
    round_to_bf16(first) | round_to_bf16(second) << 16
}

/// The bits of the nearest bf16, ties to even; NaN stays NaN.
#[inline(always)]
pub(crate) fn round_to_bf16(value: f32) -> u32 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    if value.is_nan() { bits >> 16 | 0x40 } else { rounded }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_that_of_half() {
        let special =
            [0.0, -0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN_POSITIVE, 1.0e-42];
        let ties = (0..1000u32).map(|i| f32::from_bits(0x3f80_0000 + i * 0x4000));
        for value in special.into_iter().chain(ties) {
            assert_eq!(round_to_bf16(value), u32::from(half::bf16::from_f32(value).to_bits()), "{value}");
        }
    }

    #[test]
    fn a_panel_is_depth_major_and_padded() {
        let data = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let matrix = Matrix { data: &data, depth: 3, line_stride: 3, depth_stride: 1, format: Format::F32 };
        let mut panel = vec![7; 9];
        matrix.pack(0..2, 0..3, 3, &mut panel);
        let values: Vec<f32> = panel.into_iter().map(f32::from_bits).collect();
        assert_eq!(values, [1.0, 4.0, 0.0, 2.0, 5.0, 0.0, 3.0, 6.0, 0.0]);
        let pairs = Matrix { format: Format::Bf16, ..matrix };
        let mut panel = vec![7; 2];
        pairs.pack(1..2, 0..2, 1, &mut panel);
        assert_eq!(panel, [pair(4.0, 5.0), pair(6.0, 0.0)]);
    }
}
