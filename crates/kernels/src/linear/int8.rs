//! `int8` weights: 8-bit levels with one scale for each output, for any number of inputs.
//!
//! The layout is that of [`super::panels`] with the 16 scales of a slice (`f32`) as its head; rows
//! are filled up with zeros to groups of 32. Levels are kept with 128 added.

use super::LinearError;
use super::blocks::GROUP;
use super::panels::{self, LANES, Panels, group_bytes};
use crate::parallel;

/// The most inputs of a layer: more could leave the 32 bits of the sums.
pub(super) const MOST_INPUTS: usize = 1 << 16;

/// Quantises and packs rows.
pub(super) fn pack(weight: &[f32], outputs: usize, inputs: usize) -> Result<Panels, LinearError> {
    let mut panels = Panels::new(outputs, inputs.div_ceil(GROUP), LANES * 4, group_bytes(8))?;
    let slice = panels.slice;
    parallel::pieces(panels.bytes_mut(), slice.max(1), |index, bytes| {
        let first = index * LANES;
        let (head, groups) = bytes.split_at_mut(LANES * 4);
        groups.fill(128);
        for lane in 0..LANES.min(outputs.saturating_sub(first)) {
            let scale = put_row(groups, lane, &weight[(first + lane) * inputs..][..inputs]);
            head[lane * 4..][..4].copy_from_slice(&scale.to_le_bytes());
        }
    });
    Ok(panels)
}

/// Writes the levels of a row and returns its scale.
fn put_row(groups: &mut [u8], lane: usize, row: &[f32]) -> f32 {
    let largest = row.iter().fold(0.0f32, |largest, weight| largest.max(weight.abs()));
    let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    for (group, row) in groups.chunks_exact_mut(group_bytes(8)).zip(row.chunks(GROUP)) {
        let mut levels = [128u8; GROUP];
        for (level, weight) in levels.iter_mut().zip(row) {
            *level = (weight * inverse).round_ties_even() as i8 as u8 ^ 0x80;
        }
        panels::put_levels(group, 8, lane, &levels);
    }
    largest / 127.0
}

/// The weights of output `index`.
pub(super) fn row(panels: &Panels, index: usize, out: &mut [f32]) {
    let slice = &panels.bytes()[index / LANES * panels.slice..][..panels.slice];
    let (head, groups) = slice.split_at(LANES * 4);
    let lane = index % LANES;
    let scale = f32::from_le_bytes([0, 1, 2, 3].map(|byte| head[lane * 4 + byte]));
    for (group, out) in groups.chunks_exact(group_bytes(8)).zip(out.chunks_mut(GROUP)) {
        let mut levels = [0u8; GROUP];
        panels::get_levels(group, 8, lane, &mut levels);
        for (out, level) in out.iter_mut().zip(levels) {
            *out = (f32::from(level) - 128.0) * scale;
        }
    }
}
