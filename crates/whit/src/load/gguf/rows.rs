//! The order of the rows of query and key projections.
//!
//! Hugging Face rotates dimension `i` of a head with dimension `i + half`; llama.cpp's `llama` rotates `2i` with
//! `2i + 1`. Converters therefore interleave the two halves of each head. Rows are moved whole, so this works on
//! quantised blocks too, which run along a row.

use super::GgufError;
use crate::load::TensorInfo;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// As in Hugging Face checkpoints.
    Plain,
    /// The two halves of each of so many heads interleaved.
    Interleaved { heads: usize },
}

impl Order {
    /// Whether the rows of this tensor can be divided so.
    pub fn check(self, name: &str, info: &TensorInfo) -> Result<(), GgufError> {
        let Self::Interleaved { heads } = self else { return Ok(()) };
        let rows = info.shape.first().copied().unwrap_or(0);
        let fits = heads > 0 && rows % heads == 0 && (rows / heads).is_multiple_of(2);
        // A vector of quantised blocks could not be taken apart.
        if fits && (info.shape.len() == 2 || !info.dtype.is_quantized()) {
            return Ok(());
        }
        Err(GgufError::Heads { name: name.to_owned(), rows, heads })
    }

    /// From the file's order to Hugging Face's, for `rows` equally long rows.
    pub fn restore(self, bytes: Vec<u8>, rows: usize) -> Vec<u8> {
        self.apply(bytes, rows, |half, row| row / half + row % half * 2)
    }

    /// From Hugging Face's order to the file's.
    pub fn arrange(self, bytes: Vec<u8>, rows: usize) -> Vec<u8> {
        self.apply(bytes, rows, |half, row| row / 2 + row % 2 * half)
    }

    /// `origin(half, row)` is the row of a head that comes to `row`.
    fn apply(self, bytes: Vec<u8>, rows: usize, origin: impl Fn(usize, usize) -> usize) -> Vec<u8> {
        let Self::Interleaved { heads } = self else { return bytes };
        let (per_head, size) = (rows / heads, bytes.len() / rows);
        let mut result = Vec::with_capacity(bytes.len());
        for head in 0..heads {
            for row in 0..per_head {
                let start = (head * per_head + origin(per_head / 2, row)) * size;
                result.extend_from_slice(&bytes[start..start + size]);
            }
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Dtype;

    #[test]
    fn two_heads_worked_by_hand() {
        let order = Order::Interleaved { heads: 2 };
        // Rows of two bytes; the head has the halves (0, 1) and (2, 3), interleaved 0 2 1 3.
        let plain: Vec<u8> = (0..16).collect();
        let stored = order.arrange(plain.clone(), 8);
        assert_eq!(stored, [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]);
        assert_eq!(order.restore(stored, 8), plain);
        assert_eq!(Order::Plain.restore(plain.clone(), 8), plain);
    }

    #[test]
    fn rows_must_divide_among_heads() {
        let info = |rows| TensorInfo { dtype: Dtype::F32, shape: vec![rows, 4] };
        let order = Order::Interleaved { heads: 4 };
        assert!(order.check("q", &info(16)).is_ok());
        assert!(order.check("q", &info(12)).is_err() && order.check("q", &info(10)).is_err());
        let vector = TensorInfo { dtype: Dtype::Q8_0, shape: vec![64] };
        assert!(order.check("q", &vector).is_err());
    }

    proptest::proptest! {
        #[test]
        fn restoring_undoes_arranging(heads in 1usize..5, half in 1usize..6, size in 1usize..4) {
            let rows = heads * half * 2;
            let bytes: Vec<u8> = (0..rows * size).map(|i| i as u8).collect();
            let order = Order::Interleaved { heads };
            assert_eq!(order.restore(order.arrange(bytes.clone(), rows), rows), bytes);
        }
    }
}
