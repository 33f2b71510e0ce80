//! The loops around the tile: cutting a product into tasks for the threads and blocks for the caches.

use std::ops::Range;

use super::pack::{Scratch, Source, scratch};
use super::tile::{COLUMNS, MOST_ROWS, Tile, Tiles};
use crate::activation::Activation;
use crate::parallel::{self, Shared};

/// Words of depth that tiles take together: a right panel of them stays in the first-level cache.
const DEPTH_BLOCK: usize = 256;

/// Rows of the left operand that are taken together.
const ROW_BLOCK: usize = 256;

/// Words of the left operand that are packed together: half of a second-level cache. The fewer rows,
/// the more depth, so that few rows read the right operand in the order in which it lies in memory.
const LEFT_BLOCK: usize = 1 << 17;

/// Panels of the right operand that are packed together, where a task has to pack it.
const RIGHT_BLOCK: usize = 8;

/// Products below this many multiply-adds are not worth waking another thread.
const SMALL: usize = 1 << 17;

/// One side of a product.
#[derive(Clone, Copy)]
pub(crate) enum Operand<'a> {
    /// Panels as [`pack_whole`] and [`left_panels`] lay them out: panel after panel, of the whole depth.
    Packed(&'a [u32]),
    /// To be packed block by block where it is used.
    Source(&'a dyn Source),
}

/// What the output holds before the products are added.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Start<'a> {
    /// Nothing.
    Zero,
    /// One value for each column, the same in every row.
    Columns(&'a [f32]),
    /// One value for each row, the same in every column.
    Rows(&'a [f32]),
    /// What it held.
    Existing,
}

/// What is done to a row of results before it leaves the cache.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Finish<'a> {
    /// Added: one value for each column.
    pub(crate) bias: Option<&'a [f32]>,
    /// Applied after that.
    pub(crate) activation: Option<Activation>,
}

impl Finish<'_> {
    fn is_nothing(self) -> bool {
        self.bias.is_none() && self.activation.is_none()
    }

    /// Finishes the columns `columns` of a row.
    pub(crate) fn apply(self, columns: Range<usize>, row: &mut [f32]) {
        if let Some(bias) = self.bias {
            row.iter_mut().zip(&bias[columns]).for_each(|(value, bias)| *value += bias);
        }
        if let Some(activation) = self.activation {
            activation.in_place(row);
        }
    }
}

/// `out = start + left . right`, with `out` `[rows, columns]` in row-major order.
#[derive(Clone, Copy)]
pub(crate) struct Product<'a> {
    pub(crate) tiles: Tiles,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// In words.
    pub(crate) depth: usize,
    pub(crate) left: Operand<'a>,
    pub(crate) right: Operand<'a>,
    pub(crate) start: Start<'a>,
    pub(crate) finish: Finish<'a>,
}

/// How many tasks a product is cut into, along its rows and its columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Grid {
    rows: usize,
    columns: usize,
}

/// The `index`-th of `parts` ranges that share `0..total` as evenly as possible.
pub(crate) fn share(total: usize, parts: usize, index: usize) -> Range<usize> {
    index * total / parts..(index + 1) * total / parts
}

/// The rows of each left panel: as even as possible, so that no tile is much slower than another.
fn left_panels(tiles: Tiles, rows: usize) -> impl Fn(usize) -> Range<usize> {
    let panels = rows.div_ceil(tiles.rows());
    move |panel| share(rows, panels, panel)
}

/// Packs all `columns` lines of a right operand.
pub(crate) fn pack_right(source: &dyn Source, columns: usize, depth: usize, out: &mut [u32]) {
    parallel::pieces(out, depth * COLUMNS, |panel, piece| {
        let lines = panel * COLUMNS..columns.min((panel + 1) * COLUMNS);
        source.pack(lines, 0..depth, COLUMNS, piece);
    });
}

/// The words that [`pack_right`] fills.
pub(crate) fn right_words(columns: usize, depth: usize) -> usize {
    columns.next_multiple_of(COLUMNS) * depth
}

/// Packs all `rows` lines of a left operand, `rows * depth` words.
pub(crate) fn pack_left(source: &dyn Source, tiles: Tiles, rows: usize, depth: usize, out: &mut [u32]) {
    let lines = left_panels(tiles, rows);
    let base = Shared(out.as_mut_ptr());
    assert!(out.len() >= rows * depth);
    parallel::run(rows.div_ceil(tiles.rows()), |panel| {
        let lines = lines(panel);
        // SAFETY: panels are disjoint ranges of `out`, which is long enough.
        let piece =
            unsafe { std::slice::from_raw_parts_mut(base.at(lines.start * depth), lines.len() * depth) };
        source.pack(lines.clone(), 0..depth, lines.len(), piece);
    });
}

impl Product<'_> {
    /// Computes the product over all threads.
    pub(crate) fn run(&self, out: &mut [f32]) {
        assert_eq!(out.len(), self.rows * self.columns, "the output does not fit the product");
        self.check(self.left, self.rows * self.depth);
        self.check(self.right, right_words(self.columns, self.depth));
        if out.is_empty() {
            return;
        }
        let grid = self.grid();
        let out = Shared(out.as_mut_ptr());
        parallel::run(grid.rows * grid.columns, |task| {
            let row_panels = share(self.row_panels(), grid.rows, task / grid.columns);
            let column_panels = share(self.column_panels(), grid.columns, task % grid.columns);
            Task { product: self, row_panels, column_panels, out: &out }.run();
        });
    }

    fn check(&self, operand: Operand<'_>, words: usize) {
        if let Operand::Packed(panels) = operand {
            assert!(panels.len() >= words, "a packed operand is shorter than its product");
        }
    }

    fn row_panels(&self) -> usize {
        self.rows.div_ceil(self.tiles.rows())
    }

    fn column_panels(&self) -> usize {
        self.columns.div_ceil(COLUMNS)
    }

    /// Tasks small enough for the caches, and a multiple of the threads' number.
    fn grid(&self) -> Grid {
        let threads = parallel::threads();
        let (row_panels, column_panels) = (self.row_panels(), self.column_panels());
        let mut rows = self.rows.div_ceil(ROW_BLOCK);
        let mut columns = match self.right {
            Operand::Packed(_) => 1,
            Operand::Source(_) => column_panels.div_ceil(RIGHT_BLOCK),
        };
        if self.rows * self.columns * self.depth < SMALL || threads == 1 {
            return Grid { rows, columns };
        }
        if rows * columns < 2 * threads {
            columns = (2 * threads).div_ceil(rows).min(column_panels);
        }
        if !(rows * columns).is_multiple_of(threads) {
            rows = rows.next_multiple_of(threads).min(row_panels);
        }
        Grid { rows, columns }
    }
}

/// The part of a product that one thread computes: nobody else touches its part of the output.
struct Task<'a> {
    product: &'a Product<'a>,
    row_panels: Range<usize>,
    column_panels: Range<usize>,
    out: &'a Shared<f32>,
}

/// Packed panels of the words from `first_word` on of the lines from `first_line` on.
struct Panels<'a> {
    words: &'a [u32],
    first_line: usize,
    first_word: usize,
    depth: usize,
}

impl Panels<'_> {
    /// The words `words` of the panel of `width` lines that begins with `line`.
    fn at(&self, line: usize, width: usize, words: &Range<usize>) -> &[u32] {
        let start = (line - self.first_line) * self.depth + (words.start - self.first_word) * width;
        &self.words[start..start + words.len() * width]
    }
}

impl Task<'_> {
    fn run(&self) {
        let product = self.product;
        let (rows, columns) = (self.rows(), self.column_panels.len() * COLUMNS);
        let block = self.pack_depth(rows.len());
        let accumulate = self.prepare();
        let size = |operand, lines: usize| match operand {
            Operand::Packed(_) => 0,
            Operand::Source(_) => lines * block.min(product.depth),
        };
        scratch(Scratch::Left, size(product.left, rows.len()), |left| {
            scratch(Scratch::Right, size(product.right, columns), |right| {
                for start in (0..product.depth).step_by(block) {
                    let words = start..product.depth.min(start + block);
                    self.block(words, left, right, accumulate || start > 0);
                }
            });
        });
        self.finish();
    }

    /// Finishes this task's part of the output.
    fn finish(&self) {
        let product = self.product;
        if product.finish.is_nothing() {
            return;
        }
        let columns = self.column_panels.start * COLUMNS..self.columns(self.column_panels.end - 1).end;
        for row in self.rows() {
            let start = self.out.at(row * product.columns + columns.start);
            // SAFETY: this part of the output is this task's own.
            let values = unsafe { std::slice::from_raw_parts_mut(start, columns.len()) };
            product.finish.apply(columns.clone(), values);
        }
    }

    fn rows(&self) -> Range<usize> {
        let lines = left_panels(self.product.tiles, self.product.rows);
        lines(self.row_panels.start).start..lines(self.row_panels.end - 1).end
    }

    /// The columns of a panel.
    fn columns(&self, panel: usize) -> Range<usize> {
        panel * COLUMNS..self.product.columns.min((panel + 1) * COLUMNS)
    }

    /// The words of depth that are packed together for a task of `rows` rows.
    fn pack_depth(&self, rows: usize) -> usize {
        match self.product.right {
            Operand::Packed(_) => (LEFT_BLOCK / rows).max(1).next_multiple_of(DEPTH_BLOCK),
            Operand::Source(_) => DEPTH_BLOCK,
        }
    }

    /// Writes the start values where there are some; whether the tiles shall add to the output.
    fn prepare(&self) -> bool {
        let columns = self.column_panels.start * COLUMNS..self.columns(self.column_panels.end - 1).end;
        for row in self.rows() {
            let start = self.out.at(row * self.product.columns + columns.start);
            // SAFETY: this part of the output is this task's own.
            let values = unsafe { std::slice::from_raw_parts_mut(start, columns.len()) };
            match self.product.start {
                Start::Columns(start) => values.copy_from_slice(&start[columns.clone()]),
                Start::Rows(start) => values.fill(start[row]),
                Start::Zero if self.product.depth == 0 => values.fill(0.0),
                Start::Zero => return false,
                Start::Existing => return true,
            }
        }
        true
    }

    /// Packs the words `block` of the operands that are not, and multiplies them.
    fn block(&self, block: Range<usize>, left: &mut [u32], right: &mut [u32], accumulate: bool) {
        let (product, depth) = (self.product, block.len());
        let whole = |words| Panels { words, first_line: 0, first_word: 0, depth: product.depth };
        let packed = |words, first_line| Panels { words, first_line, first_word: block.start, depth };
        let left = match product.left {
            Operand::Packed(panels) => whole(panels),
            Operand::Source(source) => packed(self.pack_left(source, &block, left), self.rows().start),
        };
        let right = match product.right {
            Operand::Packed(panels) => whole(panels),
            Operand::Source(source) => {
                packed(self.pack_right(source, &block, right), self.column_panels.start * COLUMNS)
            }
        };
        self.multiply(block, [left, right], accumulate);
    }

    fn pack_left<'b>(&self, source: &dyn Source, block: &Range<usize>, panels: &'b mut [u32]) -> &'b [u32] {
        let lines = left_panels(self.product.tiles, self.product.rows);
        let first = self.rows().start;
        for rows in self.row_panels.clone().map(lines) {
            let piece = &mut panels[(rows.start - first) * block.len()..][..rows.len() * block.len()];
            let width = rows.len();
            source.pack(rows, block.clone(), width, piece);
        }
        panels
    }

    fn pack_right<'b>(&self, source: &dyn Source, block: &Range<usize>, panels: &'b mut [u32]) -> &'b [u32] {
        let pieces = panels.chunks_exact_mut(block.len() * COLUMNS);
        for (panel, piece) in self.column_panels.clone().zip(pieces) {
            source.pack(self.columns(panel), block.clone(), COLUMNS, piece);
        }
        panels
    }

    fn multiply(&self, block: Range<usize>, [left, right]: [Panels<'_>; 2], accumulate: bool) {
        let lines = left_panels(self.product.tiles, self.product.rows);
        for panel in self.column_panels.clone() {
            for start in block.clone().step_by(DEPTH_BLOCK) {
                let words = start..block.end.min(start + DEPTH_BLOCK);
                let right = right.at(panel * COLUMNS, COLUMNS, &words);
                let accumulate = accumulate || start > block.start;
                for rows in self.row_panels.clone().map(&lines) {
                    let left = left.at(rows.start, rows.len(), &words);
                    self.tile(rows, self.columns(panel), [left, right], accumulate);
                }
            }
        }
    }

    /// Computes one tile; where it has fewer columns than a tile must, by way of a whole one.
    fn tile(&self, rows: Range<usize>, columns: Range<usize>, [left, right]: [&[u32]; 2], accumulate: bool) {
        let (tiles, stride) = (self.product.tiles, self.product.columns);
        let depth = right.len() / COLUMNS;
        let out = self.out.at(rows.start * stride + columns.start);
        let tile = Tile { depth, left: left.as_ptr(), right: right.as_ptr(), out, stride, accumulate };
        if columns.len() == COLUMNS {
            // SAFETY: `Panels::at` gave the operands these lengths; this part of the output is this task's own.
            unsafe { tiles.run(rows.len(), &tile) };
            return;
        }
        let mut whole = [0.0f32; MOST_ROWS * COLUMNS];
        let each_row = |copy: &dyn Fn(*mut f32, *mut f32), whole: *mut f32| {
            (0..rows.len())
                .for_each(|row| copy(out.wrapping_add(row * stride), whole.wrapping_add(row * COLUMNS)));
        };
        let width = columns.len();
        if accumulate {
            // SAFETY: every row has `width` values in the output, which is this task's own, and in `whole`.
            each_row(&|out, whole| unsafe { out.copy_to_nonoverlapping(whole, width) }, whole.as_mut_ptr());
        }
        // SAFETY: as above; `whole` has room for every tile.
        unsafe { tiles.run(rows.len(), &Tile { out: whole.as_mut_ptr(), stride: COLUMNS, ..tile }) };
        // SAFETY: as above.
        each_row(&|out, whole| unsafe { out.copy_from_nonoverlapping(whole, width) }, whole.as_mut_ptr());
    }
}
