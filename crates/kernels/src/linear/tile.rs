//! The multiplication of a tile of activations with a panel of weights: the inner loops, for every
//! layout and every instruction set.
//!
//! The sums of a row run over the inputs in the same order whatever the other rows are, so a row's
//! result never depends on how many there are.

use std::marker::PhantomData;

use super::blocks::GROUP;
use super::int8;
use super::lanes::Lanes;
use super::panels::{LANES, Layout, SLICES, WIDTH, group_bytes, levels};

/// What a tile's multiplication reads and writes. The activation pointers are those of the tile's
/// first element.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    /// The panel.
    pub panel: *const u8,
    /// Groups in a row.
    pub groups: usize,
    /// The first row of activations that are not quantised, or null.
    pub x: *const f32,
    /// Values in such a row, filled up to whole groups.
    pub x_stride: usize,
    /// The values of a panel that keeps them apart, or null.
    pub values: *const u8,
    /// See [`super::activations::Activations`].
    pub levels: *const i8,
    /// As above.
    pub scales: *const f32,
    /// As above.
    pub sums: *const f32,
    /// As above.
    pub negative_sums: *const i32,
    /// As above, two an element.
    pub negative_halves: *const i32,
    /// The first result.
    pub out: *mut f32,
    /// Results in a row.
    pub outputs: usize,
    /// How many outputs of the panel exist.
    pub width: usize,
    /// The first output's bias, or null.
    pub bias: *const f32,
    /// Whether the results are added to what is there: of whole panels without a bias.
    pub accumulate: bool,
}

impl Default for Call {
    fn default() -> Self {
        use std::ptr::{null, null_mut};
        Self {
            panel: null(),
            groups: 0,
            x: null(),
            x_stride: 0,
            values: null(),
            levels: null(),
            scales: null(),
            sums: null(),
            negative_sums: null(),
            negative_halves: null(),
            out: null_mut(),
            outputs: 0,
            width: 0,
            bias: null(),
            accumulate: false,
        }
    }
}

/// A multiplication of one panel.
pub(super) trait Body {
    /// Multiplies the panel with `R` rows.
    ///
    /// # Safety
    /// The processor has the level of `L`, and `call` describes memory of the sizes that it says.
    unsafe fn run<L: Lanes, const R: usize>(call: &Call);
}

pub(super) type Sums<L, const R: usize> = [[<L as Lanes>::Ints; SLICES]; R];
pub(super) type Totals<L, const R: usize> = [[<L as Lanes>::Floats; SLICES]; R];

/// The multiplication of a block type.
#[derive(Debug)]
pub(super) struct Blocks<F>(PhantomData<F>);

impl<F: Layout> Body for Blocks<F> {
    #[inline(always)]
    unsafe fn run<L: Lanes, const R: usize>(call: &Call) {
        // SAFETY: as the caller promises.
        unsafe {
            let mut totals = [[L::zero(); SLICES]; R];
            let mut block = call.panel;
            for index in 0..call.groups / F::GROUPS {
                let heads = [block, block.add(F::HEAD)];
                prefetch::<L>(block, SLICES * F::HEAD);
                let scales = [F::scales::<L>(heads[0]), F::scales::<L>(heads[1])];
                let mut levels = block.add(SLICES * F::HEAD);
                for group in 0..F::GROUPS {
                    let at = Group { element: (index * F::GROUPS + group) * R, group, levels };
                    if F::RUNS == 1 {
                        whole_group::<L, F, R>(call, at, &heads, &scales, &mut totals);
                    } else {
                        half_group::<L, F, R, 0>(call, at, &heads, &scales, &mut totals);
                        half_group::<L, F, R, 1>(call, at, &heads, &scales, &mut totals);
                    }
                    prefetch::<L>(levels, SLICES * group_bytes(F::BITS));
                    levels = levels.add(SLICES * group_bytes(F::BITS));
                }
                block = block.add(F::BLOCK);
            }
            store::<L, R>(call, &totals);
        }
    }
}

/// How far ahead of the multiplication the weights are fetched, in bytes: enough to hide the memory's
/// latency behind the arithmetic of several rows.
pub(super) const AHEAD: usize = 8192;

/// Fetches what lies [`AHEAD`] of `bytes` bytes. A panel is one forward stream, and so is a run of
/// panels.
#[inline(always)]
pub(super) unsafe fn prefetch<L: Lanes>(from: *const u8, bytes: usize) {
    let mut line = 0;
    while line < bytes {
        // SAFETY: fetching touches no memory that the program sees, whatever the address.
        unsafe { L::prefetch(from.wrapping_add(AHEAD + line)) };
        line += 64;
    }
}

/// A group: its first activation element, its place in its block, and its levels.
#[derive(Clone, Copy)]
struct Group {
    element: usize,
    group: usize,
    levels: *const u8,
}

/// Adds a group of 32 inputs with one scale.
#[inline(always)]
unsafe fn whole_group<L: Lanes, F: Layout, const R: usize>(
    call: &Call,
    at: Group,
    heads: &[*const u8; SLICES],
    scales: &[F::Scales<L>; SLICES],
    totals: &mut Totals<L, R>,
) {
    // SAFETY: as the caller promises.
    unsafe {
        let element = at.element;
        let mut sums = [[L::no_ints(); SLICES]; R];
        if !F::MINIMA {
            for (row, sums) in sums.iter_mut().enumerate() {
                *sums = [start::<L, F>(call.negative_sums.add(element + row)); SLICES];
            }
        }
        let group = [at.levels, at.levels.add(group_bytes(F::BITS))];
        let quads = call.levels.add(element * GROUP);
        step::<L, R, 0>(&mut sums, &group, F::BITS, quads);
        step::<L, R, 1>(&mut sums, &group, F::BITS, quads);
        step::<L, R, 2>(&mut sums, &group, F::BITS, quads);
        step::<L, R, 3>(&mut sums, &group, F::BITS, quads);
        step::<L, R, 4>(&mut sums, &group, F::BITS, quads);
        step::<L, R, 5>(&mut sums, &group, F::BITS, quads);
        step::<L, R, 6>(&mut sums, &group, F::BITS, quads);
        step::<L, R, 7>(&mut sums, &group, F::BITS, quads);
        for slice in 0..SLICES {
            let scale = F::scale::<L>(heads[slice], &scales[slice], at.group);
            fold::<L, R>(totals, &sums, slice, scale, call.scales.add(element));
            if F::MINIMA {
                let min = F::min::<L>(heads[slice], &scales[slice], at.group);
                for (row, totals) in totals.iter_mut().enumerate() {
                    totals[slice] = L::minus(totals[slice], min, L::splat(call.sums.add(element + row)));
                }
            }
        }
    }
}

/// Adds half `HALF` of a group whose halves have a scale each.
#[inline(always)]
unsafe fn half_group<L: Lanes, F: Layout, const R: usize, const HALF: usize>(
    call: &Call,
    at: Group,
    heads: &[*const u8; SLICES],
    scales: &[F::Scales<L>; SLICES],
    totals: &mut Totals<L, R>,
) {
    // SAFETY: as the caller promises.
    unsafe {
        let element = at.element;
        let mut sums = [[L::no_ints(); SLICES]; R];
        for (row, sums) in sums.iter_mut().enumerate() {
            *sums = [start::<L, F>(call.negative_halves.add((element + row) * 2 + HALF)); SLICES];
        }
        let group = [at.levels, at.levels.add(group_bytes(F::BITS))];
        let quads = call.levels.add(element * GROUP);
        if HALF == 0 {
            step::<L, R, 0>(&mut sums, &group, F::BITS, quads);
            step::<L, R, 1>(&mut sums, &group, F::BITS, quads);
            step::<L, R, 2>(&mut sums, &group, F::BITS, quads);
            step::<L, R, 3>(&mut sums, &group, F::BITS, quads);
        } else {
            step::<L, R, 4>(&mut sums, &group, F::BITS, quads);
            step::<L, R, 5>(&mut sums, &group, F::BITS, quads);
            step::<L, R, 6>(&mut sums, &group, F::BITS, quads);
            step::<L, R, 7>(&mut sums, &group, F::BITS, quads);
        }
        for slice in 0..SLICES {
            let scale = F::scale::<L>(heads[slice], &scales[slice], at.group * 2 + HALF);
            fold::<L, R>(totals, &sums, slice, scale, call.scales.add(element));
        }
    }
}

#[inline(always)]
unsafe fn start<L: Lanes, F: Layout>(negative_sum: *const i32) -> L::Ints {
    // SAFETY: as the caller promises.
    unsafe {
        match F::MIDDLE {
            3 => L::start::<3>(negative_sum),
            5 => L::start::<5>(negative_sum),
            _ => L::start_wide(negative_sum),
        }
    }
}

/// Adds four inputs of each row.
#[inline(always)]
unsafe fn step<L: Lanes, const R: usize, const STEP: usize>(
    sums: &mut Sums<L, R>,
    group: &[*const u8; SLICES],
    bits: u32,
    quads: *const i8,
) {
    // SAFETY: as the caller promises.
    unsafe {
        let weights = [levels::<L, STEP>(group[0], bits), levels::<L, STEP>(group[1], bits)];
        for (row, sums) in sums.iter_mut().enumerate() {
            let quad = L::quad(quads.add(row * GROUP + STEP * 4));
            for slice in 0..SLICES {
                sums[slice] = if bits == 8 {
                    L::dot_wide(sums[slice], weights[slice], quad)
                } else {
                    L::dot(sums[slice], weights[slice], quad)
                };
            }
        }
    }
}

#[inline(always)]
pub(super) unsafe fn fold<L: Lanes, const R: usize>(
    totals: &mut Totals<L, R>,
    sums: &Sums<L, R>,
    slice: usize,
    scale: L::Floats,
    factors: *const f32,
) {
    // SAFETY: as the caller promises.
    unsafe {
        for row in 0..R {
            let factor = L::times(scale, L::splat(factors.add(row)));
            totals[row][slice] = L::plus(totals[row][slice], L::float(sums[row][slice]), factor);
        }
    }
}

/// Inputs whose products with 8-bit levels surely fit 32 bits, in groups.
pub(super) const SAFE_GROUPS: usize = 512;

/// The multiplication of `int8` weights: a scale for each output and each row.
#[derive(Debug)]
pub(super) struct Rows;

impl Body for Rows {
    #[inline(always)]
    unsafe fn run<L: Lanes, const R: usize>(call: &Call) {
        // SAFETY: as the caller promises.
        unsafe {
            let mut totals = [[L::zero(); SLICES]; R];
            let mut sums = [[L::no_ints(); SLICES]; R];
            let mut ones = [0.0f32; R];
            ones.fill(1.0);
            for (row, sums) in sums.iter_mut().enumerate() {
                *sums = [L::start_wide(call.negative_sums.add(row)); SLICES];
            }
            let mut first = 0;
            while first < call.groups {
                let last = call.groups.min(first + SAFE_GROUPS);
                for index in first..last {
                    let levels = call.panel.add(int8::HEAD + index * int8::UNIT);
                    let group = [levels, levels.add(group_bytes(8))];
                    prefetch::<L>(levels, int8::UNIT);
                    let quads = call.levels.add(index * R * GROUP);
                    step::<L, R, 0>(&mut sums, &group, 8, quads);
                    step::<L, R, 1>(&mut sums, &group, 8, quads);
                    step::<L, R, 2>(&mut sums, &group, 8, quads);
                    step::<L, R, 3>(&mut sums, &group, 8, quads);
                    step::<L, R, 4>(&mut sums, &group, 8, quads);
                    step::<L, R, 5>(&mut sums, &group, 8, quads);
                    step::<L, R, 6>(&mut sums, &group, 8, quads);
                    step::<L, R, 7>(&mut sums, &group, 8, quads);
                }
                for slice in 0..SLICES {
                    fold::<L, R>(&mut totals, &sums, slice, L::splat(&1.0), ones.as_ptr());
                }
                sums = [[L::no_ints(); SLICES]; R];
                first = last;
            }
            scale_rows::<L, R>(call, &mut totals);
            store::<L, R>(call, &totals);
        }
    }
}

/// Multiplies the totals with the scales at the head of the panel and those of the rows.
#[inline(always)]
pub(super) unsafe fn scale_rows<L: Lanes, const R: usize>(call: &Call, totals: &mut Totals<L, R>) {
    // SAFETY: as the caller promises.
    unsafe {
        for slice in 0..SLICES {
            let scale = L::floats(call.panel.cast::<f32>().add(slice * LANES));
            for (row, totals) in totals.iter_mut().enumerate() {
                let factor = L::times(scale, L::splat(call.scales.add(row)));
                totals[slice] = L::times(totals[slice], factor);
            }
        }
    }
}

/// Writes the totals, plus the bias.
#[inline(always)]
pub(super) unsafe fn store<L: Lanes, const R: usize>(call: &Call, totals: &Totals<L, R>) {
    // SAFETY: as the caller promises; only `width` of the panel's outputs are written.
    unsafe {
        if call.accumulate {
            return add::<L, R>(call, totals);
        }
        for (row, totals) in totals.iter().enumerate() {
            let out = call.out.add(row * call.outputs);
            let mut values = [0.0f32; WIDTH];
            for (slice, total) in totals.iter().enumerate() {
                L::put(values.as_mut_ptr().add(slice * LANES), *total);
            }
            if !call.bias.is_null() {
                for (i, value) in values.iter_mut().enumerate().take(call.width) {
                    *value += *call.bias.add(i);
                }
            }
            if call.width == WIDTH {
                out.cast::<[f32; WIDTH]>().write(values);
            } else {
                std::ptr::copy_nonoverlapping(values.as_ptr(), out, call.width);
            }
        }
    }
}

/// Adds the totals to what is there, of a whole panel.
#[inline(always)]
unsafe fn add<L: Lanes, const R: usize>(call: &Call, totals: &Totals<L, R>) {
    // SAFETY: as the caller promises; a call that accumulates is for all outputs of the panel.
    unsafe {
        for (row, totals) in totals.iter().enumerate() {
            for (slice, total) in totals.iter().enumerate() {
                let out = call.out.add(row * call.outputs + slice * LANES);
                L::put(out, L::plus(L::floats(out), *total, L::splat(&1.0)));
            }
        }
    }
}
