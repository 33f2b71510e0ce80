//! How far the best keys of one layer are those of later ones within a decode step: what a method can count
//! on that lets some layers choose keys for others.

use serde::Serialize;
use whit_kernels::attention::select::top_rows;

use crate::generate::GenerateError;
use crate::generate::cache::{CacheShape, KvCache};
use crate::generate::forward::{Span, forward};
use crate::methods::{AttnPolicy, Looking, Reading};
use crate::nn::decoder::Decoder;

/// For each pair of layers, the share of the later one's best keys that are among the earlier one's.
#[derive(Clone, Debug, PartialEq)]
pub struct Overlap {
    layers: usize,
    /// Sums over heads and steps, and how many they are: `[layers, layers]`, the earlier layer's row.
    sums: Vec<(f64, u32)>,
}

/// A layer that may choose a second time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Candidate {
    /// The layer.
    pub layer: usize,
    /// The mean share of the later layers' best keys that are among its own.
    pub behind: f64,
    /// The mean share over all layers that do not choose, each by the last choice before it.
    pub overall: f64,
}

impl Overlap {
    /// Measures the last `steps` tokens of each text, read step by step with all keys; `budget` keys of each
    /// query head count as its best.
    ///
    /// # Errors
    /// If the model cannot read a text.
    pub fn measure(
        model: &Decoder,
        texts: &[Vec<u32>],
        steps: usize,
        budget: usize,
    ) -> Result<Self, GenerateError> {
        let layers = model.config().layers;
        let mut watcher = Watcher {
            budget,
            chosen: vec![Vec::new(); layers],
            overlap: Self { layers, sums: vec![(0.0, 0); layers * layers] },
        };
        for text in texts {
            watcher.text(model, text, steps)?;
        }
        Ok(watcher.overlap)
    }

    /// The share of the best keys of layer `to` that are among those of layer `from`; none where one of them
    /// has no full attention, or nothing was measured.
    pub fn recall(&self, from: usize, to: usize) -> Option<f64> {
        let (sum, count) = self.sums[from * self.layers + to];
        (count > 0).then(|| sum / f64::from(count))
    }

    /// The mean recall over the layers behind `start` that do not choose: by the choice of `start`, and from
    /// `correction` on by that of `correction`.
    pub fn overall(&self, start: usize, correction: Option<usize>) -> f64 {
        let correction = correction.unwrap_or(self.layers);
        let sparse = (start + 1..self.layers).filter(|&layer| layer != correction);
        mean(
            sparse
                .filter_map(|layer| self.recall(if layer > correction { correction } else { start }, layer)),
        )
    }

    /// What each layer behind `start` would do as the second to choose.
    pub fn candidates(&self, start: usize) -> Vec<Candidate> {
        let candidate = |layer| Candidate {
            layer,
            behind: mean((layer + 1..self.layers).filter_map(|later| self.recall(layer, later))),
            overall: self.overall(start, Some(layer)),
        };
        (start + 1..self.layers).map(candidate).collect()
    }
}

/// The candidate with the best recall overall.
pub fn best(candidates: &[Candidate]) -> Option<Candidate> {
    candidates.iter().copied().max_by(|a, b| a.overall.total_cmp(&b.overall))
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0), |(sum, count), value| (sum + value, count + 1));
    if count == 0 { 0.0 } else { sum / f64::from(count) }
}

/// Looks at the scores of every layer.
#[derive(Debug)]
struct Watcher {
    budget: usize,
    /// The best keys of each layer and head in this step; nothing of layers that were not asked about.
    chosen: Vec<Vec<Vec<u32>>>,
    overlap: Overlap,
}

impl Watcher {
    fn text(&mut self, model: &Decoder, text: &[u32], steps: usize) -> Result<(), GenerateError> {
        let (config, limit) = (model.config(), model.config().max_positions);
        if text.len() <= steps || text.len() > limit {
            let tokens = text.len();
            return Err(if tokens > limit {
                GenerateError::PromptTooLong { tokens, limit }
            } else {
                GenerateError::EmptyPrompt
            });
        }
        let shape =
            CacheShape { layers: config.layers, kv_heads: config.kv_heads, head_dim: config.head_dim };
        let mut cache = KvCache::new(shape, text.len());
        let (beginning, rest) = text.split_at(text.len() - steps);
        let length = text.len() as u32;
        forward(model, vec![Span::causal(&mut cache, beginning.to_vec(), length)])?;
        for &token in rest {
            let span = Span { policy: Some(self), ..Span::causal(&mut cache, vec![token], length) };
            forward(model, vec![span])?;
            self.count();
        }
        Ok(())
    }

    /// Adds up what the layers of a step have in common.
    fn count(&mut self) {
        let Overlap { layers, sums } = &mut self.overlap;
        for from in 0..*layers {
            for to in from + 1..*layers {
                let sum = &mut sums[from * *layers + to];
                for (earlier, later) in self.chosen[from].iter().zip(&self.chosen[to]) {
                    let found = later.iter().filter(|row| earlier.binary_search(row).is_ok()).count();
                    *sum = (sum.0 + found as f64 / later.len().max(1) as f64, sum.1 + 1);
                }
            }
        }
        self.chosen.iter_mut().for_each(Vec::clear);
    }
}

impl AttnPolicy for Watcher {
    fn read(&mut self, _looking: &Looking) -> Reading<'_> {
        Reading::AllScored
    }

    fn scored(&mut self, looking: &Looking, scores: &[f32]) {
        let heads: Vec<&[f32]> = scores.chunks_exact(looking.rows).collect();
        self.chosen[looking.layer] = top_rows(&heads, self.budget);
    }

    fn report(&self) -> String {
        format!("the best {} keys of every head", self.budget)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models;
    use crate::nn::vars::{Precision, Random, Storage, Vars};

    fn model() -> Decoder {
        let config = serde_json::json!({
            "model_type": "llama", "vocab_size": 96, "hidden_size": 64, "intermediate_size": 96,
            "num_hidden_layers": 5, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 256,
        });
        let config = (models::architecture(&config).unwrap().config)(&config).unwrap();
        let storage = Storage::Packed(Precision::Native);
        Decoder::new(config, &Vars::new(&Random { seed: 3 }, &storage)).unwrap()
    }

    /// Recalls of four layers: 0.1 times the number of the later layer, plus that of the earlier.
    fn by_hand() -> Overlap {
        let sum = |place: usize| (0.1 * (place % 4) as f64 + (place / 4) as f64, 1);
        Overlap { layers: 4, sums: (0..16).map(sum).collect() }
    }

    #[test]
    fn layers_follow_the_last_choice_before_them() {
        let overlap = by_hand();
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{a} {b}");
        close(overlap.overall(0, None), 0.2); // 0.1, 0.2, 0.3
        close(overlap.overall(0, Some(2)), (0.1 + 2.3) / 2.0);
        let candidates = overlap.candidates(0);
        assert_eq!(candidates.iter().map(|one| one.layer).collect::<Vec<_>>(), [1, 2, 3]);
        close(candidates[0].behind, (1.2 + 1.3) / 2.0);
        assert_eq!(best(&candidates).unwrap().layer, 1);
    }

    #[test]
    fn all_keys_are_the_best_of_any_layer_and_few_are_shared_by_chance() {
        let model = model();
        let texts: Vec<Vec<u32>> =
            (0..2).map(|seed| (0..90).map(|i| (i * i + seed) % 96).collect()).collect();
        let all = Overlap::measure(&model, &texts, 3, 90).unwrap();
        assert_eq!(all.recall(0, 4), Some(1.0));
        let few = Overlap::measure(&model, &texts, 3, 9).unwrap();
        let recall = few.recall(1, 3).unwrap();
        assert!(recall > 0.0 && recall < 1.0, "{recall}");
        assert!(few.recall(3, 1).is_none());
    }

    #[test]
    fn texts_that_do_not_fit_are_refused() {
        for tokens in [3, 300] {
            assert!(Overlap::measure(&model(), &[vec![1; tokens]], 3, 9).is_err());
        }
    }
}
