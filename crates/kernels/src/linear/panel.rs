//! One panel of a layer at a time, for kernels that read only a part of the weights: rows are made
//! ready once, then multiplied with whatever panels are wanted, by the thread that asks.
//!
//! A row has the same bits as in [`PackedLinear::forward`]'s sum over the same inputs, whatever the
//! other rows are.

use super::activations::{Activations, Sharing};
use super::blocks::GROUP;
use super::multiply::sharing;
use super::panels::WIDTH;
use super::quantized::Quantized;
use super::tile::Call;
use super::{PackedLinear, Weights, lanes};
use crate::matmul::pack::{Matrix, Words};
use crate::matmul::product::{pack_left, share};
use crate::matmul::tile::{COLUMNS, Format, Tile, Tiles};
use crate::simd;

/// Outputs of a panel, whatever the type.
pub(crate) const PANEL: usize = 32;

const _: () = assert!(PANEL == COLUMNS && PANEL == WIDTH);

/// Rows of activations, made ready for the layers of one type and width.
#[derive(Debug)]
pub(crate) struct Ready(Form);

#[derive(Debug)]
enum Form {
    /// Packed for tiles of words; `depth` words a row.
    Words { words: Words, rows: usize, depth: usize, tiles: Tiles },
    /// Quantised.
    Quantized(Activations),
}

impl PackedLinear {
    /// The number of panels.
    pub(crate) fn panel_count(&self) -> usize {
        self.outputs.div_ceil(PANEL)
    }

    /// Makes `x` (`[rows, inputs]`) ready for this layer and all others of its type and width.
    ///
    /// # Panics
    /// If `x` has another size, or the weights are sparse: a caller's bug.
    pub(crate) fn ready(&self, x: &[f32], rows: usize) -> Ready {
        assert_eq!(x.len(), rows * self.inputs, "activations of {rows} rows of {}", self.inputs);
        let format = match &self.weights {
            Weights::F32(_) => Format::F32,
            Weights::Bf16(_) => Format::Bf16,
            Weights::Quantized(weights) => {
                let tile = lanes::rows(lanes::level(simd::features()));
                let form = Activations::new(x, rows, self.inputs, sharing(weights), tile);
                return Ready(Form::Quantized(form));
            }
            Weights::Sparse(_) => panic!("sparse weights are not multiplied panel by panel"),
        };
        let (tiles, depth) = (Tiles::new(format, simd::features()), format.words(self.inputs));
        let source =
            Matrix { data: x, depth: self.inputs, line_stride: self.inputs, depth_stride: 1, format };
        let mut words = Words::zeros(rows * depth);
        pack_left(&source, tiles, rows, depth, &mut words);
        Ready(Form::Words { words, rows, depth, tiles })
    }

    /// Multiplies the rows with panel `panel` into `out` (`[rows, 32]`); outputs beyond the last are zero.
    ///
    /// # Panics
    /// If `rows` were made ready for another type or width, or `out` is too short.
    pub(crate) fn multiply_panel(&self, panel: usize, rows: &Ready, out: &mut [f32]) {
        match (&self.weights, &rows.0) {
            (Weights::Quantized(weights), Form::Quantized(rows)) => quantized(weights, panel, rows, out),
            (Weights::F32(weights), Form::Words { .. }) => tiles(weights.panel(panel), rows, out),
            (Weights::Bf16(weights), Form::Words { .. }) => tiles(weights.panel(panel), rows, out),
            _ => panic!("the rows were made ready for another type than {}", self.kind),
        }
    }
}

fn tiles(panel: &[u32], ready: &Ready, out: &mut [f32]) {
    let Form::Words { words, rows, depth, tiles } = &ready.0 else { return };
    let (rows, depth) = (*rows, *depth);
    assert!(panel.len() == depth * PANEL && out.len() >= rows * PANEL, "a panel does not fit its rows");
    let count = rows.div_ceil(tiles.rows());
    for lines in (0..count).map(|index| share(rows, count, index)) {
        let tile = Tile {
            depth,
            left: words[lines.start * depth..].as_ptr(),
            right: panel.as_ptr(),
            out: out[lines.start * PANEL..].as_mut_ptr(),
            stride: PANEL,
            accumulate: false,
        };
        // SAFETY: `words` holds `depth` words for each of the rows, `panel` and `out` have the lengths
        // checked above, and `tiles` are those of this processor.
        unsafe { tiles.run(lines.len(), &tile) };
    }
}

fn quantized(weights: &Quantized, panel: usize, rows: &Activations, out: &mut [f32]) {
    assert!(rows.groups == weights.panels.groups && out.len() >= rows.rows * PANEL, "rows of another width");
    let (level, body) = (lanes::level(simd::features()), weights.body());
    let by_row = sharing(weights) == Sharing::Row;
    for tile in rows.tiles() {
        let element = tile.start * rows.groups;
        let scale = if by_row { tile.start } else { element };
        let call = Call {
            panel: weights.panels.bytes()[panel * weights.panels.panel..].as_ptr(),
            groups: rows.groups,
            levels: rows.levels[element * GROUP..].as_ptr(),
            scales: rows.scales[scale..].as_ptr(),
            sums: rows.sums.get(element..).map_or(std::ptr::null(), <[f32]>::as_ptr),
            negative_sums: rows.negative_sums[scale..].as_ptr(),
            negative_halves: rows
                .negative_halves
                .get(element..)
                .map_or(std::ptr::null(), |x| x.as_ptr().cast()),
            out: out[tile.start * PANEL..].as_mut_ptr(),
            outputs: PANEL,
            width: PANEL,
            bias: std::ptr::null(),
            ..Call::default()
        };
        // SAFETY: the processor has the level; the pointers are those of element `element` of arrays that
        // hold all rows, of a panel of the same number of groups, and of `rows` whole panels' results.
        unsafe { body(level, tile.len(), &call) };
    }
}
