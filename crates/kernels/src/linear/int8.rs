//! `int8` weights: 8-bit levels with one scale for each output.
//!
//! The layout is that of [`super::panels`] with the scales of a panel (`f32`) before its groups; rows
//! are filled up with zeros to whole groups. Levels are kept with 128 added.

use std::ops::Range;

use super::LinearError;
use super::blocks::GROUP;
use super::panels::{self, LANES, Panels, SLICES, WIDTH, group_bytes};
use crate::parallel;

/// The most inputs of a layer: more could leave the 32 bits of the sums.
pub(super) const MOST_INPUTS: usize = 1 << 16;

/// Bytes of scales at the start of a panel.
pub(super) const HEAD: usize = WIDTH * size_of::<f32>();

/// Bytes of a group of a panel.
pub(super) const UNIT: usize = SLICES * group_bytes(8);

/// Panels of zeros.
pub(super) fn zeros(outputs: usize, inputs: usize) -> Result<Panels, LinearError> {
    let groups = inputs.div_ceil(GROUP);
    Panels::new(outputs, groups, HEAD, (groups, UNIT))
}

/// Quantises and packs some rows, whole panels of them or the last.
pub(super) fn pack(panels: &mut Panels, rows: Range<usize>, weight: &[f32], inputs: usize) {
    let size = panels.panel;
    parallel::pieces(panels.rows_mut(&rows), size, |index, panel| {
        let first = index * WIDTH;
        let (head, groups) = panel.split_at_mut(HEAD);
        groups.fill(128);
        for column in 0..WIDTH.min(rows.len().saturating_sub(first)) {
            let scale = put_row(groups, column, &weight[(first + column) * inputs..][..inputs]);
            head[column * 4..][..4].copy_from_slice(&scale.to_le_bytes());
        }
    });
}

/// Writes the levels of a row and returns its scale.
fn put_row(groups: &mut [u8], column: usize, row: &[f32]) -> f32 {
    let largest = row.iter().fold(0.0f32, |largest, weight| largest.max(weight.abs()));
    let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    for (group, row) in groups.chunks_exact_mut(UNIT).zip(row.chunks(GROUP)) {
        let mut levels = [128u8; GROUP];
        for (level, weight) in levels.iter_mut().zip(row) {
            *level = (weight * inverse).round_ties_even() as i8 as u8 ^ 0x80;
        }
        panels::put_levels(&mut group[column / LANES * group_bytes(8)..], 8, column % LANES, &levels);
    }
    largest / 127.0
}

/// The weights of output `index`.
pub(super) fn row(panels: &Panels, index: usize, out: &mut [f32]) {
    let (panel, column) = (index / WIDTH, index % WIDTH);
    let (head, groups) = panels.bytes()[panel * panels.panel..][..panels.panel].split_at(HEAD);
    let scale = f32::from_le_bytes([0, 1, 2, 3].map(|byte| head[column * 4 + byte]));
    for (group, out) in groups.chunks_exact(UNIT).zip(out.chunks_mut(GROUP)) {
        let mut levels = [0u8; GROUP];
        panels::get_levels(&group[column / LANES * group_bytes(8)..], 8, column % LANES, &mut levels);
        for (out, level) in out.iter_mut().zip(levels) {
            *out = (f32::from(level) - 128.0) * scale;
        }
    }
}
