//! Weights of which two in every four neighbouring inputs are kept: their values, and for each of
//! them two bits that say which of the four it belongs to.
//!
//! The layout is that of [`panels`](crate::linear::panels): panels of 32 outputs, read from front to
//! end, a group of 32 inputs after the other, each in two slices of 16 outputs. A slice of a group is
//! 64 bytes of fields, then its values. The fields of a lane are 16 pairs of bits.
//!
//! - Floats: pair `2 q + i` is that of value `i` of quad `q`. A quad's values are two vectors of `f32`,
//!   or one with a pair of bf16 in each lane.
//! - `int8`: the values of two quads make a 64-byte vector with four bytes a lane, a *step*; bits
//!   `2 s` and `2 s + 1` of byte `i` of a lane's fields are those of value `i` in step `s`. The panel
//!   begins with the scales of its outputs and minus the sums of their levels.

use std::array::from_fn;
use std::marker::PhantomData;

use crate::linear::LinearError;
use crate::linear::blocks::GROUP;
use crate::linear::lanes::Lanes;
use crate::linear::panels::{LANES, Panels, SLICES, WIDTH};
use crate::linear::tile::{Body, Call, SAFE_GROUPS, Sums, Totals, fold, prefetch, scale_rows, store};
use crate::parallel;

/// Neighbouring inputs of which two are kept.
pub(super) const QUAD: usize = 4;
/// Quads of a group.
const QUADS: usize = GROUP / QUAD;
/// Bytes of a vector.
const VECTOR: usize = 64;

/// What is kept of four neighbouring weights: two values, and which of the four they are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Pair {
    values: [f32; 2],
    places: [u8; 2],
}

/// The number of weights that are not zero, where there are more than two.
pub(super) fn excess(quad: &[f32]) -> Option<usize> {
    let count = quad.iter().filter(|&&weight| weight != 0.0).count();
    (count > 2).then_some(count)
}

/// The weights of a quad that are not zero; at most two are.
fn pair(quad: &[f32]) -> Pair {
    let mut pair = Pair { values: [0.0; 2], places: [0, 1] };
    let kept = quad.iter().enumerate().filter(|(_, weight)| **weight != 0.0);
    for (at, (place, &weight)) in kept.take(2).enumerate() {
        (pair.values[at], pair.places[at]) = (weight, place as u8);
    }
    pair
}

/// The pairs of a row, filled up to whole groups.
fn pairs(row: &[f32]) -> impl Iterator<Item = [Pair; QUADS]> {
    row.chunks(GROUP).map(|group| {
        let mut quads = group.chunks(QUAD);
        from_fn(|_| quads.next().map_or(Pair { places: [0, 1], ..Pair::default() }, pair))
    })
}

/// How the two values of a quad are stored.
pub(super) trait Values: 'static {
    /// Vectors that the values of a quad take in a slice.
    const VECTORS: usize;

    /// Writes the values of a lane.
    fn put(vectors: &mut [u8], lane: usize, values: [f32; 2]);
    /// Reads what [`Self::put`] wrote.
    fn get(vectors: &[u8], lane: usize) -> [f32; 2];
    /// The first and the second values of all lanes.
    ///
    /// # Safety
    /// `vectors` points to [`Self::VECTORS`] vectors, and the processor has the level of `L`.
    unsafe fn load<L: Lanes>(vectors: *const u8) -> [L::Floats; 2];
}

/// Values of 32 bits.
#[derive(Debug)]
pub(super) struct Single;

impl Values for Single {
    const VECTORS: usize = 2;

    fn put(vectors: &mut [u8], lane: usize, values: [f32; 2]) {
        for (vector, value) in vectors.chunks_exact_mut(VECTOR).zip(values) {
            vector[lane * 4..][..4].copy_from_slice(&value.to_le_bytes());
        }
    }

    fn get(vectors: &[u8], lane: usize) -> [f32; 2] {
        from_fn(|i| f32::from_le_bytes(from_fn(|byte| vectors[i * VECTOR + lane * 4 + byte])))
    }

    #[inline(always)]
    unsafe fn load<L: Lanes>(vectors: *const u8) -> [L::Floats; 2] {
        // SAFETY: as the caller promises.
        unsafe { [L::floats(vectors.cast()), L::floats(vectors.add(VECTOR).cast())] }
    }
}

/// Values of 16 bits: the upper halves of `f32`, rounded.
#[derive(Debug)]
pub(super) struct Brain;

impl Values for Brain {
    const VECTORS: usize = 1;

    fn put(vectors: &mut [u8], lane: usize, values: [f32; 2]) {
        for (i, value) in values.into_iter().enumerate() {
            let bytes = half::bf16::from_f32(value).to_le_bytes();
            vectors[lane * 4 + i * 2..][..2].copy_from_slice(&bytes);
        }
    }

    fn get(vectors: &[u8], lane: usize) -> [f32; 2] {
        from_fn(|i| half::bf16::from_le_bytes(from_fn(|byte| vectors[lane * 4 + i * 2 + byte])).to_f32())
    }

    #[inline(always)]
    unsafe fn load<L: Lanes>(vectors: *const u8) -> [L::Floats; 2] {
        // SAFETY: as the caller promises.
        unsafe {
            let words = L::load(vectors);
            [L::lower(words), L::upper(words)]
        }
    }
}

/// Bytes of a slice of a group.
const fn slice_bytes<V: Values>() -> usize {
    VECTOR * (1 + QUADS * V::VECTORS)
}

/// Packs rows that have the pattern.
pub(super) fn pack<V: Values>(weight: &[f32], outputs: usize, inputs: usize) -> Result<Panels, LinearError> {
    let (groups, unit) = (inputs.div_ceil(GROUP), SLICES * slice_bytes::<V>());
    let mut panels = Panels::new(outputs, groups, 0, (groups, unit))?;
    let size = panels.panel.max(1);
    parallel::pieces(panels.rows_mut(&(0..outputs)), size, |index, panel| {
        let first = index * WIDTH;
        for column in 0..WIDTH.min(outputs - first) {
            let row = pairs(&weight[(first + column) * inputs..][..inputs]);
            for (unit, pairs) in panel.chunks_exact_mut(unit).zip(row) {
                let slice = &mut unit[column / LANES * slice_bytes::<V>()..][..slice_bytes::<V>()];
                put_pairs::<V>(slice, column % LANES, &pairs);
            }
        }
    });
    Ok(panels)
}

fn put_pairs<V: Values>(slice: &mut [u8], lane: usize, pairs: &[Pair; QUADS]) {
    let (fields, values) = slice.split_at_mut(VECTOR);
    let mut bits = 0u32;
    let vectors = values.chunks_exact_mut(VECTOR * V::VECTORS);
    for (quad, (pair, vectors)) in pairs.iter().zip(vectors).enumerate() {
        V::put(vectors, lane, pair.values);
        let [first, second] = pair.places.map(u32::from);
        bits |= (first | second << 2) << (4 * quad);
    }
    fields[lane * 4..][..4].copy_from_slice(&bits.to_le_bytes());
}

/// The weights of output `index`.
pub(super) fn row<V: Values>(panels: &Panels, index: usize, out: &mut [f32]) {
    let unit = SLICES * slice_bytes::<V>();
    let panel = &panels.bytes()[index / WIDTH * panels.panel..][..panels.panel];
    let (slice, lane) = (index % WIDTH / LANES, index % LANES);
    out.fill(0.0);
    for (unit, out) in panel.chunks_exact(unit).zip(out.chunks_mut(GROUP)) {
        let slice = &unit[slice * slice_bytes::<V>()..];
        let bits = u32::from_le_bytes(from_fn(|byte| slice[lane * 4 + byte]));
        let vectors = slice[VECTOR..].chunks_exact(VECTOR * V::VECTORS);
        for (quad, (out, vectors)) in out.chunks_mut(QUAD).zip(vectors).enumerate() {
            put_back(out, V::get(vectors, lane), bits >> (4 * quad));
        }
    }
}

/// Writes the values that are not zero to their places.
fn put_back(quad: &mut [f32], values: [f32; 2], bits: u32) {
    for (value, place) in values.into_iter().zip([bits & 3, bits >> 2 & 3]) {
        if value != 0.0 {
            quad[place as usize] = value;
        }
    }
}

/// The multiplication with floats. The activations stay `f32`, filled up to whole groups.
#[derive(Debug)]
pub(super) struct Floats<V>(PhantomData<V>);

impl<V: Values> Body for Floats<V> {
    #[inline(always)]
    unsafe fn run<L: Lanes, const R: usize>(call: &Call) {
        // SAFETY: as the caller promises.
        unsafe {
            let mut totals = [[L::zero(); SLICES]; R];
            for group in 0..call.groups {
                let unit = call.panel.add(group * SLICES * slice_bytes::<V>());
                prefetch::<L>(unit, SLICES * slice_bytes::<V>());
                let slices = [unit, unit.add(slice_bytes::<V>())];
                let mut fields = slices.map(|slice| L::load(slice));
                for quad in 0..QUADS {
                    let at = VECTOR * (1 + quad * V::VECTORS);
                    let values = slices.map(|slice| V::load::<L>(slice.add(at)));
                    add_quad::<L, R>(call, group * GROUP + quad * QUAD, &values, &mut fields, &mut totals);
                }
            }
            store::<L, R>(call, &totals);
        }
    }
}

/// Adds the four inputs from `input` on, and moves on to the next fields.
#[inline(always)]
unsafe fn add_quad<L: Lanes, const R: usize>(
    call: &Call,
    input: usize,
    values: &[[L::Floats; 2]; SLICES],
    fields: &mut [L::Bytes; SLICES],
    totals: &mut Totals<L, R>,
) {
    // SAFETY: as the caller promises; a row of activations has whole groups.
    unsafe {
        let seconds = fields.map(|fields| L::next_fields(fields));
        for (row, totals) in totals.iter_mut().enumerate() {
            let four = L::four(call.x.add(row * call.x_stride + input));
            for slice in 0..SLICES {
                let [first, second] = values[slice];
                let total = L::plus(totals[slice], first, L::pick(four, fields[slice]));
                totals[slice] = L::plus(total, second, L::pick(four, seconds[slice]));
            }
        }
        *fields = seconds.map(|fields| L::next_fields(fields));
    }
}

/// Bytes at the start of a panel of levels: scales, and minus the sums of the levels.
const HEAD: usize = 2 * WIDTH * 4;
/// Steps of a group of levels.
const STEPS: usize = QUADS / 2;
/// Bytes of a slice of a group of levels.
const LEVELS: usize = VECTOR * (1 + STEPS);

/// Quantises rows that have the pattern as `int8` does, and packs them.
pub(in crate::linear) fn pack_levels(
    weight: &[f32],
    outputs: usize,
    inputs: usize,
) -> Result<Panels, LinearError> {
    let groups = inputs.div_ceil(GROUP);
    let mut panels = Panels::new(outputs, groups, HEAD, (groups, SLICES * LEVELS))?;
    let size = panels.panel.max(1);
    parallel::pieces(panels.rows_mut(&(0..outputs)), size, |index, panel| {
        let first = index * WIDTH;
        let (head, units) = panel.split_at_mut(HEAD);
        for column in 0..WIDTH.min(outputs - first) {
            let (scale, sum) = put_levels(units, column, &weight[(first + column) * inputs..][..inputs]);
            head[column * 4..][..4].copy_from_slice(&scale.to_le_bytes());
            head[HEAD / 2 + column * 4..][..4].copy_from_slice(&(-sum).to_le_bytes());
        }
    });
    Ok(panels)
}

/// Writes the levels of a row; returns its scale and the sum of its levels.
fn put_levels(units: &mut [u8], column: usize, row: &[f32]) -> (f32, i32) {
    let largest = row.iter().fold(0.0f32, |largest, weight| largest.max(weight.abs()));
    let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    let (slice, lane, mut sum) = (column / LANES, column % LANES, 0);
    for (unit, pairs) in units.chunks_exact_mut(SLICES * LEVELS).zip(pairs(row)) {
        let (fields, steps) = unit[slice * LEVELS..][..LEVELS].split_at_mut(VECTOR);
        for (quad, pair) in pairs.iter().enumerate() {
            for i in 0..2 {
                let level = (pair.values[i] * inverse).round_ties_even() as i8;
                let at = lane * 4 + quad % 2 * 2 + i;
                steps[quad / 2 * VECTOR + at] = level as u8;
                fields[at] |= pair.places[i] << (quad / 2 * 2);
                sum += i32::from(level);
            }
        }
    }
    (largest / 127.0, sum)
}

/// The weights of output `index`, packed by [`pack_levels`].
pub(in crate::linear) fn row_of_levels(panels: &Panels, index: usize, out: &mut [f32]) {
    let (head, units) = panels.bytes()[index / WIDTH * panels.panel..][..panels.panel].split_at(HEAD);
    let scale = f32::from_le_bytes(from_fn(|byte| head[index % WIDTH * 4 + byte]));
    let (slice, lane) = (index % WIDTH / LANES, index % LANES);
    out.fill(0.0);
    for (unit, out) in units.chunks_exact(SLICES * LEVELS).zip(out.chunks_mut(GROUP)) {
        let (fields, steps) = unit[slice * LEVELS..][..LEVELS].split_at(VECTOR);
        for (quad, out) in out.chunks_mut(QUAD).enumerate() {
            let at = lane * 4 + quad % 2 * 2;
            let level = |i: usize| f32::from(steps[quad / 2 * VECTOR + at + i] as i8) * scale;
            let place = |i: usize| u32::from(fields[at + i] >> (quad / 2 * 2) & 3);
            put_back(out, [level(0), level(1)], place(0) | place(1) << 2);
        }
    }
}

/// The multiplication with levels: a scale for each output and each row.
#[derive(Debug)]
pub(in crate::linear) struct Levels;

impl Body for Levels {
    #[inline(always)]
    unsafe fn run<L: Lanes, const R: usize>(call: &Call) {
        // SAFETY: as the caller promises.
        unsafe {
            let mut totals = [[L::zero(); SLICES]; R];
            let start = call.panel.add(HEAD / 2).cast::<i32>();
            let mut sums = [[L::start_picked(start), L::start_picked(start.add(LANES))]; R];
            let mut first = 0;
            while first < call.groups {
                let last = call.groups.min(first + SAFE_GROUPS);
                for group in first..last {
                    let unit = call.panel.add(HEAD + group * SLICES * LEVELS);
                    prefetch::<L>(unit, SLICES * LEVELS);
                    add_group::<L, R>(call, group, unit, &mut sums);
                }
                for slice in 0..SLICES {
                    fold::<L, R>(&mut totals, &sums, slice, L::splat(&1.0), [1.0f32; R].as_ptr());
                }
                sums = [[L::no_ints(); SLICES]; R];
                first = last;
            }
            scale_rows::<L, R>(call, &mut totals);
            store::<L, R>(call, &totals);
        }
    }
}

#[inline(always)]
unsafe fn add_group<L: Lanes, const R: usize>(
    call: &Call,
    group: usize,
    unit: *const u8,
    sums: &mut Sums<L, R>,
) {
    // SAFETY: as the caller promises.
    unsafe {
        for slice in 0..SLICES {
            let levels = unit.add(slice * LEVELS);
            let fields = L::load(levels);
            let steps: [L::Bytes; STEPS] = from_fn(|step| L::load(levels.add(VECTOR * (1 + step))));
            for (row, sums) in sums.iter_mut().enumerate() {
                let x = call.levels.add((group * R + row) * GROUP);
                let [low, high] = [L::sixteen(x), L::sixteen(x.add(16))];
                let sum = L::pick_dot::<0>(sums[slice], steps[0], low, fields);
                let sum = L::pick_dot::<1>(sum, steps[1], low, fields);
                let sum = L::pick_dot::<2>(sum, steps[2], high, fields);
                sums[slice] = L::pick_dot::<3>(sum, steps[3], high, fields);
            }
        }
    }
}
