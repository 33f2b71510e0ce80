//! Masks as bits: for each row and each block of 64 keys, one word.

use std::ops::Range;

/// A matrix of bits, rows padded to whole words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BitMatrix {
    rows: usize,
    columns: usize,
    words: Vec<u64>,
}

impl BitMatrix {
    /// All bits unset.
    pub fn new(rows: usize, columns: usize) -> Self {
        Self { rows, columns, words: vec![0; rows * columns.div_ceil(64)] }
    }

    /// Bit `(row, column)` is `value(row, column)`.
    pub fn from_fn(rows: usize, columns: usize, value: impl Fn(usize, usize) -> bool) -> Self {
        let mut matrix = Self::new(rows, columns);
        for row in 0..rows {
            (0..columns)
                .filter(|&column| value(row, column))
                .for_each(|column| matrix.set(row, column, true));
        }
        matrix
    }

    /// The bits of `values` in row-major order.
    ///
    /// # Panics
    /// If `values` does not fill the matrix.
    pub fn from_bools(rows: usize, columns: usize, values: &[bool]) -> Self {
        assert_eq!(values.len(), rows * columns, "values fill the matrix");
        let pack =
            |bits: &[bool]| bits.iter().enumerate().fold(0, |word, (bit, &set)| word | u64::from(set) << bit);
        let words = values.chunks(columns.max(1)).flat_map(|row| row.chunks(64).map(pack)).collect();
        Self { rows, columns, words }
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Bit `(row, column)`.
    ///
    /// # Panics
    /// If it lies outside the matrix.
    pub fn get(&self, row: usize, column: usize) -> bool {
        let (word, bit) = self.place(row, column);
        self.words[word] >> bit & 1 == 1
    }

    /// Sets bit `(row, column)` to `value`.
    ///
    /// # Panics
    /// If it lies outside the matrix.
    pub fn set(&mut self, row: usize, column: usize, value: bool) {
        let (word, bit) = self.place(row, column);
        self.words[word] = self.words[word] & !(1 << bit) | u64::from(value) << bit;
    }

    /// The number of set bits in `row`.
    pub fn count(&self, row: usize) -> usize {
        self.row(row).iter().map(|word| word.count_ones() as usize).sum()
    }

    /// The 64 bits of `row` from column `start` on; columns outside the matrix are unset.
    pub fn word(&self, row: usize, start: isize) -> u64 {
        let words = self.row(row);
        let at = |index: isize| {
            usize::try_from(index).ok().and_then(|index| words.get(index)).copied().unwrap_or(0)
        };
        let (index, shift) = (start.div_euclid(64), start.rem_euclid(64));
        let upper = if shift == 0 { 0 } else { at(index + 1) << (64 - shift) };
        at(index) >> shift | upper
    }

    fn row(&self, row: usize) -> &[u64] {
        let stride = self.columns.div_ceil(64);
        &self.words[row * stride..][..stride]
    }

    fn place(&self, row: usize, column: usize) -> (usize, usize) {
        assert!(
            row < self.rows && column < self.columns,
            "bit ({row}, {column}) of {} x {}",
            self.rows,
            self.columns
        );
        (row * self.columns.div_ceil(64) + column / 64, column % 64)
    }
}

/// Which keys of one kv head its queries see: [`super::Mask`], window and bias in one.
#[derive(Clone, Debug)]
pub(super) struct Visible<'a> {
    /// The number of keys.
    pub len: usize,
    /// The number of queries.
    pub queries: usize,
    /// Rows for each query.
    pub group: usize,
    pub causal: bool,
    /// `usize::MAX` if there is none.
    pub window: usize,
    /// `[queries, keys]`.
    pub allowed: Option<Allowed<'a>>,
    /// `[queries, queries]` for the last keys.
    pub tree: Option<&'a BitMatrix>,
    /// For each query, how many of the first keys it sees.
    pub ends: Option<&'a [usize]>,
    /// For each block, the keys whose bias is not `-inf`.
    pub unbarred: Option<&'a [u64]>,
}

/// A mask with one row for each query, or one for each row.
#[derive(Clone, Debug)]
pub(super) struct Allowed<'a> {
    pub bits: &'a BitMatrix,
    pub each_row: bool,
}

/// Where a set of rows looks: the keys that some row may see, and those that every row sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub some: Range<usize>,
    pub all: Range<usize>,
}

impl Visible<'_> {
    /// The span of `rows`.
    pub fn span(&self, rows: Range<usize>) -> Span {
        let mut span = Span { some: self.len..0, all: 0..self.len };
        for query in rows.start / self.group..rows.end.div_ceil(self.group) {
            let range = self.range(query);
            span.some = span.some.start.min(range.start)..span.some.end.max(range.end);
            span.all = span.all.start.max(range.start)..span.all.end.min(range.end);
        }
        if self.tree.is_some() {
            span.all.end = span.all.end.min(self.len.saturating_sub(self.queries));
        }
        if self.allowed.is_some() || self.unbarred.is_some() {
            span.all = 0..0;
        }
        span
    }

    /// The keys that `row` sees among the 64 from `start` on, a multiple of 64.
    pub fn word(&self, row: usize, start: usize) -> u64 {
        let query = row / self.group;
        let range = self.range(query);
        let mut word = ones(range.start.saturating_sub(start)..range.end.saturating_sub(start));
        if let Some(allowed) = &self.allowed {
            word &= allowed.bits.word(if allowed.each_row { row } else { query }, start as isize);
        }
        if let Some(tree) = self.tree {
            word &= self.tree_word(tree, query, start);
        }
        self.unbarred.map_or(word, |words| word & words[start / 64])
    }

    /// The keys of `query` by causal order and window.
    fn range(&self, query: usize) -> Range<usize> {
        let position = self.position(query);
        let end = match self.ends {
            Some(ends) => ends[query] as isize,
            None if self.causal => (position + 1).clamp(0, self.len as isize),
            None => self.len as isize,
        };
        let window = isize::try_from(self.window).unwrap_or(isize::MAX);
        let start = position.saturating_sub(window).saturating_add(1).clamp(0, end);
        start as usize..end as usize
    }

    fn position(&self, query: usize) -> isize {
        let first = self.len as isize - self.queries as isize;
        first + self.tree.map_or(query as isize, |tree| tree.count(query) as isize - 1)
    }

    fn tree_word(&self, tree: &BitMatrix, query: usize, start: usize) -> u64 {
        let first = self.len as isize - self.queries as isize;
        let older = ones(0..usize::try_from(first - start as isize).unwrap_or(0));
        let mut nodes = tree.word(query, start as isize - first);
        if self.window < self.queries {
            let near = |node: usize| self.position(query) - self.position(node) < self.window as isize;
            let node = |bit: usize| (start as isize + bit as isize - first) as usize;
            nodes = (0..64)
                .filter(|bit| nodes >> bit & 1 == 1 && near(node(*bit)))
                .fold(0, |word, bit| word | 1 << bit);
        }
        older | nodes
    }
}

/// A word with the bits of `range` set, as far as they are in a word.
pub(super) fn ones(range: Range<usize>) -> u64 {
    let below = |end: usize| if end >= 64 { u64::MAX } else { (1 << end) - 1 };
    below(range.end) & !below(range.start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_at_any_start() {
        let matrix = BitMatrix::from_fn(3, 150, |row, column| (row * 7 + column * column) % 5 < 2);
        for row in 0..3 {
            for start in [-70isize, -64, -3, 0, 1, 63, 64, 100, 149, 150, 300] {
                let word = matrix.word(row, start);
                for bit in 0..64 {
                    let column = start + bit;
                    let expected = (0..150).contains(&column) && matrix.get(row, column as usize);
                    assert_eq!(word >> bit & 1 == 1, expected, "row {row}, column {column}");
                }
            }
        }
    }

    #[test]
    fn from_bools_equals_from_fn() {
        let value = |row: usize, column: usize| (row + column * 3) % 4 == 1;
        let bools: Vec<bool> = (0..5 * 70).map(|place| value(place / 70, place % 70)).collect();
        assert_eq!(BitMatrix::from_bools(5, 70, &bools), BitMatrix::from_fn(5, 70, value));
    }

    #[test]
    fn set_and_count() {
        let mut matrix = BitMatrix::new(2, 65);
        matrix.set(1, 64, true);
        matrix.set(1, 3, true);
        assert_eq!((matrix.count(0), matrix.count(1)), (0, 2));
        matrix.set(1, 64, false);
        assert!(!matrix.get(1, 64) && matrix.get(1, 3));
    }
}
