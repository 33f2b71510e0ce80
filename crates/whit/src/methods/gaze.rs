//! Where queries look: what draft-based approximation (arXiv 2506.08373) reads off attention weights,
//! the draft's on a prompt and the model's own in one layer.

use whit_kernels::attention::{self, Call, HeadView, Mask, Wanted};

use super::importance::greatest;
use super::{Look, MethodError};
use crate::nn::attention::Site;

/// Where a draft model looks: for each token of a prompt, the most attention that it gets.
#[derive(Clone, Debug)]
pub struct Gaze {
    /// Last tokens of the prompt that look.
    pub window: usize,
    /// The first layer whose attention counts.
    pub first_layer: usize,
    /// Over layers, heads and queries, the greatest. `[prompt]`
    pub scores: Vec<f32>,
}

impl Gaze {
    /// No attention yet for any token of a prompt of `length`.
    pub fn new(window: usize, first_layer: usize, length: usize) -> Self {
        Self { window, first_layer, scores: vec![0.0; length] }
    }
}

impl Look for Gaze {
    /// The window's queries count the more the later they are, from nothing to all (the paper's linear
    /// weights); a single one counts whole.
    fn attend(&mut self, site: &Site, call: &Call<'_>) -> Result<Vec<f32>, MethodError> {
        if site.layer < self.first_layer {
            return Ok(attention::attend(call).output);
        }
        let queries = call.query_count;
        let wanted = Wanted { last_rows: queries, ..Wanted::default() };
        let seen = attention::attend(&Call { wanted, ..*call });
        for (index, row) in seen.last_rows.chunks_exact(call.keys()).enumerate() {
            let weight = if queries > 1 { (index % queries) as f32 / (queries - 1) as f32 } else { 1.0 };
            for (most, score) in self.scores.iter_mut().zip(row) {
                *most = most.max(weight * score);
            }
        }
        Ok(seen.output)
    }
}

/// Queries whose weights are held at a time.
const BLOCK: usize = 128;

/// For each key of kv head `head` before the last `voters`, the greatest weight that one of the last `voters`
/// queries of its group gives it.
pub fn votes(call: &Call<'_>, head: usize, voters: usize) -> Vec<f32> {
    let (view, queries) = (call.kv[head], call.query_count);
    let width = call.group() * call.head_dim;
    let mut scores = vec![0.0_f32; view.len - voters];
    for start in (queries - voters..queries).step_by(BLOCK) {
        let block = start..queries.min(start + BLOCK);
        let rows =
            call.queries[block.start * call.heads * call.head_dim..].chunks(call.heads * call.head_dim);
        let own: Vec<f32> =
            rows.take(block.len()).flat_map(|row| &row[head * width..][..width]).copied().collect();
        let view = [HeadView { len: view.len - (queries - block.end), ..view }];
        let seen = attention::attend(&Call {
            queries: &own,
            query_count: block.len(),
            heads: call.group(),
            kv: &view,
            mask: Mask::Causal,
            wanted: Wanted { last_rows: block.len(), ..Wanted::default() },
            ..*call
        });
        let most = greatest(&seen.last_rows, view[0].len);
        scores.iter_mut().zip(most).for_each(|(score, most)| *score = score.max(most));
    }
    scores
}
