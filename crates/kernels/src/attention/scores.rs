//! The scores themselves, for methods that choose keys by them.

use std::f32::consts::LN_2;

use super::KEY_BLOCK;
use super::forward::Job;
use crate::parallel::Shared;

/// Where scores go: `[query heads, queries, keys]`, filled with `-inf` beforehand.
pub(super) struct RawScores {
    target: Shared<f32>,
    queries: usize,
    keys: usize,
}

impl RawScores {
    /// Scores of the `queries` first queries over `keys` keys; none where that is nothing.
    pub fn new(target: &mut [f32], queries: usize, keys: usize) -> Option<Self> {
        (!target.is_empty()).then_some(Self { target: Shared(target.as_mut_ptr()), queries, keys })
    }

    /// Writes a block `[rows, KEY_BLOCK]` of products of the head `index`, from row `first` and the key
    /// `start` on; `words` says which keys each row sees.
    pub fn write(
        &self,
        job: &Job<'_>,
        index: usize,
        first: usize,
        start: usize,
        (words, products): (&[u64], &[f32]),
    ) {
        let bias = job.heads[index].bias.map(|bias| bias.block(start));
        for (row, (&word, products)) in (first..).zip(words.iter().zip(products.chunks_exact(KEY_BLOCK))) {
            let (query, member) = (row / job.group, row % job.group);
            if query >= self.queries {
                return;
            }
            let place = ((index * job.group + member) * self.queries + query) * self.keys + start;
            for key in (0..KEY_BLOCK).filter(|key| word >> key & 1 == 1) {
                let capped = job.score.cap.map_or(products[key], |cap| cap * products[key].tanh());
                let score = LN_2 * (capped + bias.map_or(0.0, |bias| bias[key]));
                // SAFETY: a row's keys in a block belong to one task, and `words` has none beyond the last.
                unsafe { *self.target.at(place + key) = score };
            }
        }
    }
}
