//! Masks as bits: for each row and each block of 64 keys, one word.

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
    fn set_and_count() {
        let mut matrix = BitMatrix::new(2, 65);
        matrix.set(1, 64, true);
        matrix.set(1, 3, true);
        assert_eq!((matrix.count(0), matrix.count(1)), (0, 2));
        matrix.set(1, 64, false);
        assert!(!matrix.get(1, 64) && matrix.get(1, 3));
    }
}
