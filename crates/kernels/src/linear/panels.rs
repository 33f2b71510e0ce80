//! Weights as the multiplication reads them: *panels* of [`WIDTH`] outputs, each a contiguous run of
//! memory with no more bytes than the file has, which is read from front to end.
//!
//! A panel is a row of blocks. A block holds the scales of 32 outputs, then its groups of 32 inputs;
//! both in two *slices* of 16 outputs, so that one 64-byte load brings four neighbouring inputs of
//! each of 16 outputs, the form that the dot-product instructions want. In a slice, a group has
//! eight *steps* of four inputs. With levels of four bits, the low half of a byte belongs to step
//! `s < 4`, the high half to step `s + 4`; the fifth and sixth bits follow in the same order.
//! Outputs are filled up with zeros to whole panels.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};

use super::LinearError;
use super::blocks::{Block, Format, GROUP, Q4_0, Q4K, Q5K, Q6K, Q8_0};
use super::lanes::Lanes;
use crate::parallel;

/// Outputs of a slice: the lanes of the arithmetic.
pub(super) const LANES: usize = 16;
/// Slices of a panel, which are multiplied together.
pub(super) const SLICES: usize = 2;
/// Outputs of a panel.
pub(super) const WIDTH: usize = LANES * SLICES;

/// A cache line: panels start on one.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub(super) struct Line([u8; 64]);

/// A packed weight matrix.
#[derive(Debug)]
pub(super) struct Panels {
    memory: Vec<Line>,
    /// Groups of 32 inputs in a row.
    pub groups: usize,
    /// Bytes of a panel.
    pub panel: usize,
}

impl Panels {
    /// Zeros for `outputs` rows, in panels of `count` units of `size` bytes after `head` bytes.
    pub fn new(
        outputs: usize,
        groups: usize,
        head: usize,
        (count, size): (usize, usize),
    ) -> Result<Self, LinearError> {
        let panel = count.checked_mul(size).and_then(|units| units.checked_add(head));
        let total = panel.and_then(|panel| panel.checked_mul(outputs.div_ceil(WIDTH)));
        let (Some(panel), Some(total)) = (panel, total) else {
            return Err(LinearError::TooLarge { outputs, inputs: groups.saturating_mul(GROUP) });
        };
        debug_assert!(panel.is_multiple_of(64), "panels are whole cache lines");
        Ok(Self { memory: vec![Line::zeroed(); total / 64], groups, panel })
    }

    /// All the bytes, panel after panel.
    pub fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.memory)
    }

    /// The bytes of the panels of `rows`, to fill.
    pub fn rows_mut(&mut self, rows: &Range<usize>) -> &mut [u8] {
        let panels = rows.start / WIDTH..rows.end.div_ceil(WIDTH);
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut self.memory);
        &mut bytes[panels.start * self.panel..panels.end * self.panel]
    }

    /// The number of panels.
    pub fn count(&self) -> usize {
        self.memory.len() * 64 / self.panel.max(1)
    }
}

/// A block type as the panels hold it.
pub(super) trait Layout: Format {
    /// Groups in a block.
    const GROUPS: usize = Self::LENGTH / GROUP;
    /// Bytes of the scales in a slice of a block.
    const HEAD: usize;
    /// Bytes of a block in a panel.
    const BLOCK: usize = SLICES * (Self::HEAD + Self::GROUPS * group_bytes(Self::BITS));
    /// Runs with a scale of their own in a group.
    const RUNS: usize = 1;
    /// Whether runs have a minimum.
    const MINIMA: bool = false;
    /// The level that means zero, as a power of two (without minima, and below 8 bits).
    const MIDDLE: u32 = 0;
    /// The scales of a block of 16 outputs, made ready.
    type Scales<L: Lanes>: Copy;

    /// Writes the scales of output `lane`.
    fn put_scales(head: &mut [u8], lane: usize, block: &Block);
    /// Reads what [`Self::put_scales`] wrote.
    fn get_scales(head: &[u8], lane: usize, block: &mut Block);
    /// Makes the scales of a block ready.
    ///
    /// # Safety
    /// `head` points to [`Self::HEAD`] bytes, and the processor has the level of `L`.
    unsafe fn scales<L: Lanes>(head: *const u8) -> Self::Scales<L>;
    /// The scales of a run of the block.
    ///
    /// # Safety
    /// As for [`Self::scales`].
    unsafe fn scale<L: Lanes>(head: *const u8, scales: &Self::Scales<L>, run: usize) -> L::Floats;
    /// The minima of a run of the block.
    ///
    /// # Safety
    /// As for [`Self::scales`].
    unsafe fn min<L: Lanes>(_head: *const u8, _scales: &Self::Scales<L>, _run: usize) -> L::Floats {
        // SAFETY: as the caller promises.
        unsafe { L::zero() }
    }
}

/// Bytes of the levels of a group in a slice.
pub(super) const fn group_bytes(bits: u32) -> usize {
    LANES * GROUP * bits as usize / 8
}

/// The levels of step `STEP` (0 to 7) of a group.
///
/// # Safety
/// `group` points to [`group_bytes`] of `bits` bytes, and the processor has the level of `L`.
#[inline(always)]
pub(super) unsafe fn levels<L: Lanes, const STEP: usize>(group: *const u8, bits: u32) -> L::Bytes {
    // SAFETY: as the caller promises; the offsets stay within the group's bytes.
    unsafe {
        if bits == 8 {
            return L::load(group.add(STEP * 64));
        }
        let low = L::load(group.add(STEP % 4 * 64));
        let low = if STEP < 4 { L::field::<0>(low, 15) } else { L::field::<4>(low, 15) };
        match bits {
            5 => {
                let high = L::load(group.add(256));
                L::or(low, high_bits::<L>(high, STEP as i32 - 4, 16))
            }
            6 => {
                let high = L::load(group.add(256 + STEP / 4 * 64));
                L::or(low, high_bits::<L>(high, STEP as i32 % 4 * 2 - 4, 48))
            }
            _ => low,
        }
    }
}

/// Moves the masked bits down by `down` (up, if negative).
#[inline(always)]
unsafe fn high_bits<L: Lanes>(bytes: L::Bytes, down: i32, mask: u8) -> L::Bytes {
    // SAFETY: as the caller promises.
    unsafe {
        match down {
            -4 => L::raised::<4>(bytes, mask),
            -3 => L::raised::<3>(bytes, mask),
            -2 => L::raised::<2>(bytes, mask),
            -1 => L::raised::<1>(bytes, mask),
            0 => L::field::<0>(bytes, mask),
            1 => L::field::<1>(bytes, mask),
            2 => L::field::<2>(bytes, mask),
            _ => L::field::<3>(bytes, mask),
        }
    }
}

/// Writes 32 levels of output `lane` to a group that holds zeros there.
pub(super) fn put_levels(group: &mut [u8], bits: u32, lane: usize, levels: &[u8]) {
    let extra = bits as usize - 4;
    for (step, four) in levels.chunks_exact(4).enumerate() {
        for (i, &level) in four.iter().enumerate() {
            let column = lane * 4 + i;
            if bits == 8 {
                group[step * 64 + column] = level;
                continue;
            }
            group[step % 4 * 64 + column] |= (level & 15) << (step / 4 * 4);
            if extra > 0 {
                group[256 + step * extra / 8 * 64 + column] |= (level >> 4) << (step * extra % 8);
            }
        }
    }
}

/// Reads what [`put_levels`] wrote.
pub(super) fn get_levels(group: &[u8], bits: u32, lane: usize, levels: &mut [u8]) {
    let extra = bits as usize - 4;
    for (step, four) in levels.chunks_exact_mut(4).enumerate() {
        for (i, level) in four.iter_mut().enumerate() {
            let column = lane * 4 + i;
            if bits == 8 {
                *level = group[step * 64 + column];
                continue;
            }
            *level = group[step % 4 * 64 + column] >> (step / 4 * 4) & 15;
            if extra > 0 {
                let high = group[256 + step * extra / 8 * 64 + column] >> (step * extra % 8);
                *level |= (high & ((1 << extra) - 1)) << 4;
            }
        }
    }
}

/// Panels of zeros for rows of blocks.
pub(super) fn zeros<F: Layout>(outputs: usize, inputs: usize) -> Result<Panels, LinearError> {
    Panels::new(outputs, inputs / GROUP, 0, (inputs / F::LENGTH, F::BLOCK))
}

/// Packs some rows of blocks, whole panels of them or the last; `fill(row, index)` gives block `index` of
/// the `row`-th of these rows.
pub(super) fn pack<F: Layout>(
    panels: &mut Panels,
    rows: Range<usize>,
    fill: impl Fn(usize, usize) -> Block + Sync,
) {
    let size = panels.panel.max(1);
    parallel::pieces(panels.rows_mut(&rows), size, |index, panel| {
        let first = index * WIDTH;
        for (index, bytes) in panel.chunks_exact_mut(F::BLOCK).enumerate() {
            for column in 0..WIDTH.min(rows.len().saturating_sub(first)) {
                put_block::<F>(bytes, column, &fill(first + column, index));
            }
        }
    });
}

/// Writes the block of output `column` of the panel.
fn put_block<F: Layout>(bytes: &mut [u8], column: usize, block: &Block) {
    let (slice, lane) = (column / LANES, column % LANES);
    let (heads, groups) = bytes.split_at_mut(SLICES * F::HEAD);
    F::put_scales(&mut heads[slice * F::HEAD..][..F::HEAD], lane, block);
    let size = group_bytes(F::BITS);
    let groups = groups.chunks_exact_mut(SLICES * size);
    for (group, levels) in groups.zip(block.levels.chunks_exact(GROUP)) {
        put_levels(&mut group[slice * size..][..size], F::BITS, lane, levels);
    }
}

/// Block `index` of row `output`.
pub(super) fn block<F: Layout>(panels: &Panels, output: usize, index: usize) -> Block {
    let at = output / WIDTH * panels.panel + index * F::BLOCK;
    let (slice, lane) = (output % WIDTH / LANES, output % LANES);
    let (heads, groups) = panels.bytes()[at..at + F::BLOCK].split_at(SLICES * F::HEAD);
    let mut block = Block::default();
    F::get_scales(&heads[slice * F::HEAD..][..F::HEAD], lane, &mut block);
    let size = group_bytes(F::BITS);
    let groups = groups.chunks_exact(SLICES * size);
    for (group, levels) in groups.zip(block.levels.chunks_exact_mut(GROUP)) {
        get_levels(&group[slice * size..][..size], F::BITS, lane, levels);
    }
    block
}

fn put_half(head: &mut [u8], index: usize, value: half::f16) {
    head[index * 2..][..2].copy_from_slice(&value.to_le_bytes());
}

fn get_half(head: &[u8], index: usize) -> half::f16 {
    half::f16::from_le_bytes([head[index * 2], head[index * 2 + 1]])
}

/// The layout of a format whose only scale is the block's.
macro_rules! one_scale {
    ($format:ty, $middle:expr) => {
        impl Layout for $format {
            const HEAD: usize = LANES * 2;
            const MIDDLE: u32 = $middle;
            type Scales<L: Lanes> = L::Floats;

            fn put_scales(head: &mut [u8], lane: usize, block: &Block) {
                put_half(head, lane, block.scale);
            }

            fn get_scales(head: &[u8], lane: usize, block: &mut Block) {
                block.scale = get_half(head, lane);
            }

            #[inline(always)]
            unsafe fn scales<L: Lanes>(head: *const u8) -> L::Floats {
                // SAFETY: as the caller promises.
                unsafe { L::halves(head) }
            }

            #[inline(always)]
            unsafe fn scale<L: Lanes>(_: *const u8, scales: &L::Floats, _: usize) -> L::Floats {
                *scales
            }
        }
    };
}

one_scale!(Q4_0, 3);
one_scale!(Q8_0, 7);

/// Block scales, then 16 signed bytes for each run.
impl Layout for Q6K {
    const HEAD: usize = LANES * 18;
    const RUNS: usize = 2;
    const MIDDLE: u32 = 5;
    type Scales<L: Lanes> = L::Floats;

    fn put_scales(head: &mut [u8], lane: usize, block: &Block) {
        put_half(head, lane, block.scale);
        for (run, scale) in block.scales.iter().enumerate() {
            head[32 + run * LANES + lane] = *scale;
        }
    }

    fn get_scales(head: &[u8], lane: usize, block: &mut Block) {
        block.scale = get_half(head, lane);
        for (run, scale) in block.scales.iter_mut().enumerate() {
            *scale = head[32 + run * LANES + lane];
        }
    }

    #[inline(always)]
    unsafe fn scales<L: Lanes>(head: *const u8) -> L::Floats {
        // SAFETY: as the caller promises.
        unsafe { L::halves(head) }
    }

    #[inline(always)]
    unsafe fn scale<L: Lanes>(head: *const u8, scales: &L::Floats, run: usize) -> L::Floats {
        // SAFETY: as the caller promises; a block has 16 runs.
        unsafe { L::times(*scales, L::signed(head.add(32 + run * LANES))) }
    }
}

/// The scales of a block with minima, made ready: those of the block, and for each run the 6-bit
/// numbers of 16 outputs.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Pairs<L: Lanes> {
    scales: [[u8; LANES]; 8],
    mins: [[u8; LANES]; 8],
    scale: L::Floats,
    min_scale: L::Floats,
}

/// 64 bytes of block scales, then 192 of 6-bit numbers: bytes `16 r + lane` of the first 64 hold the
/// scale of run `r < 4` and above it two bits of the scale of run `r + 4`; the second 64 the same for
/// minima; the third 64 the low bits of scale and minimum of run `r + 4`.
macro_rules! with_minima {
    ($format:ty) => {
        impl Layout for $format {
            const HEAD: usize = LANES * 16;
            const MINIMA: bool = true;
            type Scales<L: Lanes> = Pairs<L>;

            fn put_scales(head: &mut [u8], lane: usize, block: &Block) {
                put_half(head, lane, block.scale);
                put_half(head, LANES + lane, block.min_scale);
                for run in 0..4 {
                    let at = 64 + run * LANES + lane;
                    let (scale, min) = (block.scales[run + 4], block.mins[run + 4]);
                    head[at] = block.scales[run] | (scale & 48) << 2;
                    head[at + 64] = block.mins[run] | (min & 48) << 2;
                    head[at + 128] = scale & 15 | min << 4;
                }
            }

            fn get_scales(head: &[u8], lane: usize, block: &mut Block) {
                block.scale = get_half(head, lane);
                block.min_scale = get_half(head, LANES + lane);
                for run in 0..4 {
                    let at = 64 + run * LANES + lane;
                    let (scale, min, last) = (head[at], head[at + 64], head[at + 128]);
                    block.scales[run] = scale & 63;
                    block.mins[run] = min & 63;
                    block.scales[run + 4] = last & 15 | scale >> 2 & 48;
                    block.mins[run + 4] = last >> 4 | min >> 2 & 48;
                }
            }

            #[inline(always)]
            unsafe fn scales<L: Lanes>(head: *const u8) -> Pairs<L> {
                // SAFETY: as the caller promises; four runs of 16 bytes fill the 64 that are stored.
                unsafe {
                    let [a, b, c] = [L::load(head.add(64)), L::load(head.add(128)), L::load(head.add(192))];
                    let mut pairs = Pairs {
                        scales: [[0; LANES]; 8],
                        mins: [[0; LANES]; 8],
                        scale: L::halves(head),
                        min_scale: L::halves(head.add(2 * LANES)),
                    };
                    let scales = pairs.scales.as_mut_ptr().cast::<u8>();
                    L::store(scales, L::field::<0>(a, 63));
                    L::store(scales.add(64), L::or(L::field::<0>(c, 15), L::field::<2>(a, 48)));
                    let mins = pairs.mins.as_mut_ptr().cast::<u8>();
                    L::store(mins, L::field::<0>(b, 63));
                    L::store(mins.add(64), L::or(L::field::<4>(c, 15), L::field::<2>(b, 48)));
                    pairs
                }
            }

            #[inline(always)]
            unsafe fn scale<L: Lanes>(_: *const u8, pairs: &Pairs<L>, run: usize) -> L::Floats {
                // SAFETY: as the caller promises; the index is checked.
                unsafe { L::times(pairs.scale, L::unsigned(pairs.scales[run].as_ptr())) }
            }

            #[inline(always)]
            unsafe fn min<L: Lanes>(_: *const u8, pairs: &Pairs<L>, run: usize) -> L::Floats {
                // SAFETY: as the caller promises; the index is checked.
                unsafe { L::times(pairs.min_scale, L::unsigned(pairs.mins[run].as_ptr())) }
            }
        }
    };
}

with_minima!(Q4K);
with_minima!(Q5K);
