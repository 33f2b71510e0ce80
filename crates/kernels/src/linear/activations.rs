//! Rows of activations, quantised to 8 bits on the way into a multiplication.
//!
//! The block types take a scale for each group of 32 inputs, `int8` weights one for the row. Rows
//! that one pass over the weights serves make a *tile*; a tile is stored group by group and in a
//! group row by row, so that the pass reads forward.

use std::ops::Range;

use super::blocks::GROUP;
use crate::parallel::{self, Shared};
#[cfg(target_arch = "x86_64")]
use crate::simd::{self, Level};

/// How many inputs share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sharing {
    /// Groups of 32.
    Group,
    /// The whole row.
    Row,
}

/// Quantised rows. Of a tile that starts at row `first` and has `n` rows, group `g` of row `r` is
/// element `first * groups + g * n + r`; with [`Sharing::Row`] the scale and sum of a row are
/// element `first + r`.
#[derive(Debug)]
pub(super) struct Activations {
    /// Signed levels, 32 an element.
    pub levels: Vec<i8>,
    /// What a level stands for. NaN where an activation is not finite: so is every result.
    pub scales: Vec<f32>,
    /// Scale times the sum of the levels.
    pub sums: Vec<f32>,
    /// Minus the sum of the levels.
    pub negative_sums: Vec<i32>,
    /// Minus the sums of the two halves of the levels of a group.
    pub negative_halves: Vec<[i32; 2]>,
    /// Groups in a row.
    pub groups: usize,
    /// The rows.
    pub rows: usize,
    /// The most rows in a tile.
    tile: usize,
}

/// Adding this to a number of at most 2^22 rounds it to the nearest integer, ties to even, which
/// then stands in the low bits.
const ROUNDER: f32 = 12_582_912.0;

impl Activations {
    /// Quantises `x` (`[rows, inputs]`) for tiles of at most `tile` rows.
    pub fn new(x: &[f32], rows: usize, inputs: usize, sharing: Sharing, tile: usize) -> Self {
        let groups = inputs.div_ceil(GROUP);
        let (elements, scales) = match sharing {
            Sharing::Group => (rows * groups, rows * groups),
            Sharing::Row => (rows * groups, rows),
        };
        let grouped = if sharing == Sharing::Group { elements } else { 0 };
        let mut all = Self {
            levels: vec![0; elements * GROUP],
            scales: vec![0.0; scales],
            sums: vec![0.0; grouped],
            negative_sums: vec![0; scales],
            negative_halves: vec![[0; 2]; grouped],
            groups,
            rows,
            tile,
        };
        all.fill(x, inputs, sharing);
        all
    }

    /// The tiles, as equal as they can be.
    pub fn tiles(&self) -> impl Iterator<Item = Range<usize>> + Clone {
        tiles(self.rows, self.tile)
    }

    fn fill(&mut self, x: &[f32], inputs: usize, sharing: Sharing) {
        let (groups, rows) = (self.groups, self.rows);
        let tiles: Vec<Range<usize>> = self.tiles().collect();
        let writer = Writer {
            levels: Shared(self.levels.as_mut_ptr()),
            scales: Shared(self.scales.as_mut_ptr()),
            sums: Shared(self.sums.as_mut_ptr()),
            negative_sums: Shared(self.negative_sums.as_mut_ptr()),
            negative_halves: Shared(self.negative_halves.as_mut_ptr()),
        };
        let one = |index: usize| {
            let tile = &tiles[index];
            for row in tile.clone() {
                let x = &x[row * inputs..(row + 1) * inputs];
                let place = Place { first: tile.start * groups + row - tile.start, stride: tile.len(), row, rest: !inputs.is_multiple_of(GROUP) };
                // SAFETY: every element is written by the one task of its tile, and the vectors have
                // `rows * groups` elements (or `rows`, of those with one for each row).
                unsafe { writer.row(x, place, sharing) };
            }
        };
        if rows * inputs < 1 << 15 { (0..tiles.len()).for_each(one) } else { parallel::run(tiles.len(), one) }
    }
}

/// Splits rows into tiles of at most `tile`, as equal as they can be.
pub(super) fn tiles(rows: usize, tile: usize) -> impl Iterator<Item = Range<usize>> + Clone {
    let count = rows.div_ceil(tile).max(1);
    let (size, more) = (rows / count, rows % count);
    let start = move |index: usize| index * size + index.min(more);
    (0..count).map(move |index| start(index)..start(index + 1)).filter(|tile| !tile.is_empty())
}

/// Where a row's elements are.
#[derive(Clone, Copy)]
struct Place {
    first: usize,
    stride: usize,
    row: usize,
    /// Whether the inputs end within a group.
    rest: bool,
}

struct Writer {
    levels: Shared<i8>,
    scales: Shared<f32>,
    sums: Shared<f32>,
    negative_sums: Shared<i32>,
    negative_halves: Shared<[i32; 2]>,
}

impl Writer {
    /// # Safety
    /// The elements of `place` exist, and nobody else uses them.
    unsafe fn row(&self, x: &[f32], place: Place, sharing: Sharing) {
        #[cfg(target_arch = "x86_64")]
        match simd::level() {
            // SAFETY: the level is there; the rest as the caller promises.
            Level::Avx512 => return unsafe { self.row_avx512(x, place, sharing) },
            // SAFETY: as above.
            Level::Avx2 => return unsafe { self.row_avx2(x, place, sharing) },
            Level::Plain => {}
        }
        // SAFETY: as the caller promises.
        unsafe { self.row_plain(x, place, sharing) }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn row_avx512(&self, x: &[f32], place: Place, sharing: Sharing) {
        // SAFETY: as the caller promises.
        unsafe { self.row_plain(x, place, sharing) }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    unsafe fn row_avx2(&self, x: &[f32], place: Place, sharing: Sharing) {
        // SAFETY: as the caller promises.
        unsafe { self.row_plain(x, place, sharing) }
    }

    #[inline(always)]
    unsafe fn row_plain(&self, x: &[f32], place: Place, sharing: Sharing) {
        let (groups, rest) = x.as_chunks::<GROUP>();
        let mut last = [0.0; GROUP];
        last[..rest.len()].copy_from_slice(rest);
        // SAFETY: as the caller promises.
        unsafe {
            match sharing {
                Sharing::Group => {
                    for (index, x) in groups.iter().enumerate() {
                        self.group(x, place.first + index * place.stride);
                    }
                }
                Sharing::Row => self.whole_row(groups, &last, place),
            }
        }
    }

    /// A row with one scale: its whole groups, and the last, which counts if the place has room.
    #[inline(always)]
    unsafe fn whole_row(&self, groups: &[[f32; GROUP]], last: &[f32; GROUP], place: Place) {
        let mut most = largest(last);
        for x in groups {
            most = most.max(largest(x));
        }
        let (scale, inverse) = scale(most);
        let mut sum = 0;
        // SAFETY: as the caller promises.
        unsafe {
            for (index, x) in groups.iter().chain(place.rest.then_some(last)).enumerate() {
                let levels = round(x, inverse);
                sum += add(&levels, 0..GROUP);
                self.put_levels(place.first + index * place.stride, &levels);
            }
            self.scales.at(place.row).write(scale);
            self.negative_sums.at(place.row).write(-sum);
        }
    }

    #[inline(always)]
    unsafe fn group(&self, x: &[f32; GROUP], element: usize) {
        let (scale, inverse) = scale(largest(x));
        let levels = round(x, inverse);
        let halves = [add(&levels, 0..16), add(&levels, 16..32)];
        let sum = halves[0] + halves[1];
        // SAFETY: as the caller promises.
        unsafe {
            self.put_levels(element, &levels);
            self.scales.at(element).write(scale);
            self.sums.at(element).write(scale * sum as f32);
            self.negative_sums.at(element).write(-sum);
            self.negative_halves.at(element).write([-halves[0], -halves[1]]);
        }
    }

    #[inline(always)]
    unsafe fn put_levels(&self, element: usize, levels: &[i32; GROUP]) {
        let mut bytes = [0i8; GROUP];
        for (byte, level) in bytes.iter_mut().zip(levels) {
            *byte = *level as i8;
        }
        // SAFETY: as the caller promises.
        unsafe { self.levels.at(element * GROUP).cast::<[i8; GROUP]>().write(bytes) };
    }
}

#[inline(always)]
fn add(levels: &[i32; GROUP], range: Range<usize>) -> i32 {
    let mut sum = 0;
    for level in &levels[range] {
        sum += level;
    }
    sum
}

/// The largest magnitude, as bits: these order numbers as their values do, and put NaN on top.
#[inline(always)]
fn largest(x: &[f32; GROUP]) -> u32 {
    let mut most = 0;
    for x in x {
        most = most.max(x.to_bits() & 0x7fff_ffff);
    }
    most
}

/// The scale for a largest magnitude, and its inverse.
#[inline(always)]
fn scale(largest: u32) -> (f32, f32) {
    let largest = f32::from_bits(largest);
    match largest {
        0.0 => (0.0, 0.0),
        _ if !largest.is_finite() => (f32::NAN, 0.0),
        // The inverse of a tiny number is infinite: such a group is as good as zero.
        _ if largest < 1e-36 => (0.0, 0.0),
        _ => (largest / 127.0, 127.0 / largest),
    }
}

#[inline(always)]
fn round(x: &[f32; GROUP], inverse: f32) -> [i32; GROUP] {
    let mut levels = [0; GROUP];
    if inverse != 0.0 {
        for (level, x) in levels.iter_mut().zip(x) {
            *level = (x * inverse + ROUNDER).to_bits().wrapping_sub(ROUNDER.to_bits()) as i32;
        }
    }
    levels
}
