//! One panel of a layer at a time, for kernels that read only a part of the weights: rows are made
//! ready once, then multiplied with whatever panels are wanted, by the thread that asks.
//!
//! A row has the same bits as in [`PackedLinear::forward`]'s sum over the same inputs, whatever the
//! other rows are.

use std::ops::Range;

use super::activations::{Activations, Sharing};
use super::blocks::GROUP;
use super::multiply::sharing;
use super::panels::WIDTH;
use super::quantized::Quantized;
use super::tile::{AHEAD, Call};
use super::{PackedLinear, Weights, lanes};
use crate::matmul::pack::{Matrix, Words};
use crate::matmul::product::{pack_left, share};
use crate::matmul::tile::{COLUMNS, Format, Tile, Tiles};
use crate::simd;

/// Outputs of a panel, whatever the type.
pub(crate) const PANEL: usize = 32;

const _: () = assert!(PANEL == COLUMNS && PANEL == WIDTH);

/// What a product with a panel is added to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// Nothing.
    Zero,
    /// What is there.
    There,
}

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

    /// Asks for the beginning of panel `panel`, which will be read soon but not behind the one before it.
    pub(crate) fn prefetch_panel(&self, panel: usize) {
        match &self.weights {
            Weights::Quantized(weights) => {
                let bytes = &weights.panels.bytes()[panel * weights.panels.panel..];
                simd::prefetch(&bytes[..bytes.len().min(AHEAD)]);
            }
            Weights::Sparse(_) => {}
            _ => {
                let words = self.words(panel);
                simd::prefetch(&words[..words.len().min(AHEAD / size_of::<u32>())]);
            }
        }
    }

    /// Multiplies the rows with panels from `first` on, as many as `out` has room for (`[panels, rows, 32]`), or
    /// adds to what is there; outputs beyond the last are zero, or left.
    ///
    /// # Panics
    /// If `rows` were made ready for another type or width, or there are fewer panels.
    pub(crate) fn multiply_panels(&self, first: usize, rows: &Ready, out: &mut [f32], start: Start) {
        match (&self.weights, &rows.0) {
            (Weights::Quantized(weights), Form::Quantized(rows)) => {
                quantized(weights, first, rows, out, start);
            }
            (_, Form::Words { rows: count, .. }) => {
                for (index, out) in out.chunks_exact_mut(count * PANEL).enumerate() {
                    tiles(self.words(first + index), rows, out, start);
                }
            }
            _ => panic!("the rows were made ready for another type than {}", self.kind),
        }
    }

    /// A panel that tiles of words take.
    fn words(&self, panel: usize) -> &[u32] {
        match &self.weights {
            Weights::F32(weights) => weights.panel(panel),
            Weights::Bf16(weights) => weights.panel(panel),
            _ => panic!("the rows were made ready for another type than {}", self.kind),
        }
    }
}

fn tiles(panel: &[u32], ready: &Ready, out: &mut [f32], start: Start) {
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
            accumulate: start == Start::There,
        };
        // SAFETY: `words` holds `depth` words for each of the rows, `panel` and `out` have the lengths
        // checked above, and `tiles` are those of this processor.
        unsafe { tiles.run(lines.len(), &tile) };
    }
}

fn quantized(weights: &Quantized, first: usize, rows: &Activations, out: &mut [f32], start: Start) {
    assert!(rows.groups == weights.panels.groups, "rows of another width");
    let (level, body) = (lanes::level(simd::features()), weights.body());
    let calls: Vec<(Range<usize>, Call)> =
        rows.tiles().map(|tile| (tile.clone(), call(weights, rows, tile.start, start))).collect();
    let panels = weights.panels.bytes().chunks_exact(weights.panels.panel).skip(first);
    let outs = out.chunks_exact_mut(rows.rows * PANEL);
    assert!(panels.len() >= outs.len(), "a layer of fewer panels");
    for (panel, out) in panels.zip(outs) {
        for (tile, call) in &calls {
            let call = Call { panel: panel.as_ptr(), out: out[tile.start * PANEL..].as_mut_ptr(), ..*call };
            // SAFETY: the processor has the level; the pointers are those of the tile's first element of arrays
            // that hold all rows, of a panel of the same number of groups, and of `rows` results of a panel.
            unsafe { body(level, tile.len(), &call) };
        }
    }
}

/// The multiplication of the tile whose first row is `first`, without the panel and the results.
fn call(weights: &Quantized, rows: &Activations, first: usize, start: Start) -> Call {
    let element = first * rows.groups;
    let scale = if sharing(weights) == Sharing::Row { first } else { element };
    Call {
        groups: rows.groups,
        levels: rows.levels[element * GROUP..].as_ptr(),
        scales: rows.scales[scale..].as_ptr(),
        sums: rows.sums.get(element..).map_or(std::ptr::null(), <[f32]>::as_ptr),
        negative_sums: rows.negative_sums[scale..].as_ptr(),
        negative_halves: rows
            .negative_halves
            .get(element..)
            .map_or(std::ptr::null(), |halves| halves.as_ptr().cast()),
        outputs: PANEL,
        width: PANEL,
        accumulate: start == Start::There,
        ..Call::default()
    }
}
