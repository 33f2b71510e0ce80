//! The loops around the tile: cutting a product into tasks for the threads and blocks for the caches.

use std::ops::Range;

use super::pack::{Scratch, Source, scratch};
use super::tile::{COLUMNS, MOST_ROWS, Tile, Tiles};
use crate::parallel::{self, Shared};

/// Words of depth that are taken together: a right panel of them stays in the first-level cache.
const DEPTH_BLOCK: usize = 256;

/// Rows of the left operand that are taken together: `DEPTH_BLOCK` words of them fill half of the
/// second-level cache, with room for the output.
const ROW_BLOCK: usize = 256;

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
            let rows = share(self.row_panels(), grid.rows, task / grid.columns);
            let columns = share(self.column_panels(), grid.columns, task % grid.columns);
            self.task(rows, columns, &out);
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
        if rows * columns % threads != 0 {
            rows = rows.next_multiple_of(threads).min(row_panels);
        }
        Grid { rows, columns }
    }

    /// Computes the tiles of the given panels.
    fn task(&self, row_panels: Range<usize>, column_panels: Range<usize>, out: &Shared<f32>) {
        let lines = left_panels(self.tiles, self.rows);
        let rows = lines(row_panels.start).start..lines(row_panels.end - 1).end;
        let block = if row_panels.len() == 1 { self.depth.max(1) } else { DEPTH_BLOCK };
        let accumulate = self.prepare(&rows, &column_panels, out);
        let left_words = self.scratch_words(self.left, rows.len() * block.min(self.depth));
        let right_words =
            self.scratch_words(self.right, column_panels.len() * COLUMNS * block.min(self.depth));
        scratch(Scratch::Left, left_words, |left| {
            scratch(Scratch::Right, right_words, |right| {
                for start in (0..self.depth).step_by(block) {
                    let words = start..self.depth.min(start + block);
                    let call = Block { row_panels: &row_panels, column_panels: &column_panels, words, out };
                    self.block(&call, left, right, accumulate || start > 0);
                }
            });
        });
    }

    fn scratch_words(&self, operand: Operand<'_>, words: usize) -> usize {
        if matches!(operand, Operand::Source(_)) { words } else { 0 }
    }

    /// Writes the start values where there are some; whether the tiles shall add to the output.
    fn prepare(&self, rows: &Range<usize>, column_panels: &Range<usize>, out: &Shared<f32>) -> bool {
        let columns = column_panels.start * COLUMNS..self.columns.min(column_panels.end * COLUMNS);
        for row in rows.clone() {
            // SAFETY: this part of the output is this task's own.
            let values = unsafe {
                std::slice::from_raw_parts_mut(out.at(row * self.columns + columns.start), columns.len())
            };
            match self.start {
                Start::Columns(start) => values.copy_from_slice(&start[columns.clone()]),
                Start::Rows(start) => values.fill(start[row]),
                Start::Zero if self.depth == 0 => values.fill(0.0),
                Start::Zero => return false,
                Start::Existing => return true,
            }
        }
        true
    }

    /// One block of the depth of one task.
    fn block(&self, block: &Block<'_>, left: &mut [u32], right: &mut [u32], accumulate: bool) {
        let lines = left_panels(self.tiles, self.rows);
        let first_row = lines(block.row_panels.start).start;
        let depth = block.words.len();
        if let Operand::Source(source) = self.left {
            for panel in block.row_panels.clone() {
                let rows = lines(panel);
                let at = (rows.start - first_row) * depth;
                let piece = &mut left[at..at + rows.len() * depth];
                source.pack(rows.clone(), block.words.clone(), rows.len(), piece);
            }
        }
        if let Operand::Source(source) = self.right {
            let panels = right.chunks_exact_mut(depth * COLUMNS);
            for (panel, piece) in block.column_panels.clone().zip(panels) {
                let columns = panel * COLUMNS..self.columns.min((panel + 1) * COLUMNS);
                source.pack(columns, block.words.clone(), COLUMNS, piece);
            }
        }
        for panel in block.column_panels.clone() {
            let right: &[u32] = match self.right {
                Operand::Packed(panels) => &panels[(panel * self.depth + block.words.start) * COLUMNS..],
                Operand::Source(_) => &right[(panel - block.column_panels.start) * depth * COLUMNS..],
            };
            for row_panel in block.row_panels.clone() {
                let rows = lines(row_panel);
                let left: &[u32] = match self.left {
                    Operand::Packed(panels) => {
                        &panels[rows.start * self.depth + block.words.start * rows.len()..]
                    }
                    Operand::Source(_) => &left[(rows.start - first_row) * depth..],
                };
                self.tile(block, rows, panel, [left, right], accumulate);
            }
        }
    }

    fn tile(
        &self,
        block: &Block<'_>,
        rows: Range<usize>,
        panel: usize,
        [left, right]: [&[u32]; 2],
        accumulate: bool,
    ) {
        let depth = block.words.len();
        debug_assert!(left.len() >= rows.len() * depth && right.len() >= COLUMNS * depth);
        let width = COLUMNS.min(self.columns - panel * COLUMNS);
        let out = block.out.at(rows.start * self.columns + panel * COLUMNS);
        let tile =
            Tile { depth, left: left.as_ptr(), right: right.as_ptr(), out, stride: self.columns, accumulate };
        if width == COLUMNS {
            // SAFETY: the operands' lengths are as above, and this part of the output is this task's own.
            unsafe { self.tiles.run(rows.len(), &tile) };
            return;
        }
        let mut whole = [0.0; MOST_ROWS * COLUMNS];
        for row in 0..rows.len() {
            // SAFETY: `out` holds `width` values in each of the tile's rows, and `whole` has room.
            unsafe {
                let (from, to) = (out.add(row * self.columns), whole.as_mut_ptr().add(row * COLUMNS));
                if accumulate {
                    std::ptr::copy_nonoverlapping(from, to, width);
                }
            }
        }
        // SAFETY: as above; `whole` has room for every tile.
        unsafe { self.tiles.run(rows.len(), &Tile { out: whole.as_mut_ptr(), stride: COLUMNS, ..tile }) };
        for row in 0..rows.len() {
            // SAFETY: as above.
            unsafe {
                let (from, to) = (whole.as_ptr().add(row * COLUMNS), out.add(row * self.columns));
                std::ptr::copy_nonoverlapping(from, to, width);
            }
        }
    }
}

/// The part of a product that is computed with one packing.
struct Block<'a> {
    row_panels: &'a Range<usize>,
    column_panels: &'a Range<usize>,
    words: Range<usize>,
    out: &'a Shared<f32>,
}
