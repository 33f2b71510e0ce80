//! What a reduction of tokens is decided on.

use whit_kernels::matmul::{Side, Sizes, multiply};

/// What a reduction is decided on, besides the states.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Looks {
    /// [`Tokens::keys`].
    pub keys: bool,
    /// [`Tokens::attention`].
    pub attention: bool,
}

/// The tokens of one image between the attention of a block and its feed-forward part. None of them is padding.
#[derive(Clone, Copy, Debug)]
pub struct Tokens<'a> {
    /// The index of the block.
    pub layer: usize,
    /// First tokens that stay as they are: the class token, and those that come with it.
    pub protected: usize,
    /// The states after the attention. `[tokens, width]`
    pub states: &'a [f32],
    /// The keys of the attention, averaged over its heads; empty where nobody looks at them. `[tokens, head_dim]`
    pub keys: &'a [f32],
    /// The attention that each token got: from the class token, or where there is none from all tokens, averaged
    /// over the heads; empty where nobody looks at it. `[tokens]`
    pub attention: &'a [f32],
    /// How many patches each token stands for. `[tokens]`
    pub sizes: &'a [f32],
}

impl Tokens<'_> {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.sizes.len()
    }

    /// How many of them may go: all that are not protected.
    pub fn patches(&self) -> usize {
        self.count().saturating_sub(self.protected)
    }

    /// The patches by the attention that they got, most first; of equal ones the earlier.
    pub fn ranked(&self) -> Vec<usize> {
        let patches = self.attention.get(self.protected..).unwrap_or_default();
        let best = crate::methods::importance::best(patches, patches.len());
        best.into_iter().map(|index| index + self.protected).collect()
    }
}

/// Rows of unit length.
#[derive(Clone, Debug)]
pub struct Directions {
    rows: Vec<f32>,
    width: usize,
}

/// What a zero row is divided by.
const SMALL: f32 = 1e-6;

impl Directions {
    /// The directions of `count` rows.
    pub fn of(rows: &[f32], count: usize) -> Self {
        let width = rows.len() / count.max(1);
        let mut rows = rows.to_vec();
        for row in rows.chunks_exact_mut(width.max(1)) {
            let norm = row.iter().map(|value| value * value).sum::<f32>().sqrt().max(SMALL);
            row.iter_mut().for_each(|value| *value /= norm);
        }
        Self { rows, width }
    }

    fn gather(&self, chosen: &[usize]) -> Vec<f32> {
        chosen.iter().flat_map(|&row| &self.rows[row * self.width..][..self.width]).copied().collect()
    }

    /// The cosine of each of `rows` with each of `columns`. `[rows, columns]`
    pub fn cosines(&self, rows: &[usize], columns: &[usize]) -> Vec<f32> {
        let sizes = Sizes { rows: rows.len(), depth: self.width, columns: columns.len() };
        let mut cosines = vec![0.0; rows.len() * columns.len()];
        if cosines.is_empty() {
            return cosines;
        }
        let [left, right] = [self.gather(rows), self.gather(columns)];
        multiply(sizes, Side::Straight(&left), Side::Transposed(&right), false, &mut cosines);
        cosines
    }
}

/// The greatest value and where it is; of equal ones the first.
pub(super) fn greatest(row: &[f32]) -> (usize, f32) {
    let start = (0, f32::NEG_INFINITY);
    row.iter().enumerate().fold(start, |best, (at, &value)| if value > best.1 { (at, value) } else { best })
}

#[cfg(test)]
pub(crate) mod testing {
    use super::Tokens;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    /// Random tokens that own their numbers.
    #[derive(Clone, Debug)]
    pub(crate) struct Owned {
        pub(crate) protected: usize,
        pub(crate) width: usize,
        pub(crate) states: Vec<f32>,
        pub(crate) keys: Vec<f32>,
        pub(crate) attention: Vec<f32>,
        pub(crate) sizes: Vec<f32>,
    }

    impl Owned {
        pub(crate) fn random(count: usize, protected: usize, seed: u64) -> Self {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            let mut values =
                |count: usize| -> Vec<f32> { (0..count).map(|_| random.random_range(-1.0..1.0)).collect() };
            Self {
                protected,
                width: 8,
                states: values(8 * count),
                keys: values(4 * count),
                attention: values(count).into_iter().map(|value| value * value + 0.01).collect(),
                sizes: values(count).into_iter().map(|value| (4.0 * value).abs().ceil().max(1.0)).collect(),
            }
        }

        pub(crate) fn view(&self) -> Tokens<'_> {
            let Self { protected, states, keys, attention, sizes, .. } = self;
            Tokens { layer: 0, protected: *protected, states, keys, attention, sizes }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosines_are_of_directions_and_a_zero_row_is_like_none() {
        let directions = Directions::of(&[3.0, 4.0, 0.0, 2.0, 0.0, 0.0], 3);
        for (found, wanted) in directions.cosines(&[0, 2], &[0, 1]).into_iter().zip([1.0, 0.8, 0.0, 0.0]) {
            assert!((found - wanted).abs() < 1e-6f32, "{found} {wanted}");
        }
        assert!(directions.cosines(&[], &[0]).is_empty());
    }

    #[test]
    fn patches_are_ranked_by_attention_without_the_class_token() {
        let tokens = Tokens {
            layer: 0,
            protected: 1,
            states: &[],
            keys: &[],
            attention: &[0.9, 0.1, 0.3, 0.3],
            sizes: &[1.0; 4],
        };
        assert_eq!(tokens.ranked(), [2, 3, 1]);
        assert_eq!(tokens.patches(), 3);
    }
}
