//! What is lost where only some keys are read: how far the predictions of a text's last tokens move from those
//! of dense decoding, token by token, in one reading of the prompt for many policies.

use burn::tensor::Tensor;
use whit_kernels::attention::select::top_rows;
use whit_kernels::{op, softmax};

use super::recall::Question;
use crate::generate::GenerateError;
use crate::generate::cache::{CacheShape, KvCache};
use crate::generate::forward::{Span, forward};
use crate::methods::{AttnPolicy, Looking, MethodError, Reading};
use crate::nn::decoder::Decoder;

/// A text whose beginning was read densely, and what dense decoding predicts behind it.
#[derive(Clone, Debug)]
pub struct Passage {
    cache: KvCache,
    /// What is read step by step.
    steps: Vec<u32>,
    /// Behind so many of the last steps predictions are compared.
    judged: usize,
    /// Their logarithms. `[judged, vocabulary]`
    dense: Vec<f32>,
}

impl Passage {
    /// Reads `beginning` at once, and `steps` step by step with all keys.
    ///
    /// # Errors
    /// If one of the two is empty, or both are longer than the model reads.
    pub fn read(
        model: &Decoder,
        beginning: &[u32],
        steps: &[u32],
        judged: usize,
    ) -> Result<Self, GenerateError> {
        let (config, tokens) = (model.config(), beginning.len() + steps.len());
        if beginning.is_empty() || steps.is_empty() {
            return Err(GenerateError::EmptyPrompt);
        }
        if tokens > config.max_positions {
            return Err(GenerateError::PromptTooLong { tokens, limit: config.max_positions });
        }
        let shape =
            CacheShape { layers: config.layers, kv_heads: config.kv_heads, head_dim: config.head_dim };
        let mut cache = KvCache::new(shape, tokens);
        forward(model, vec![Span::causal(&mut cache, beginning.to_vec(), tokens as u32)])?;
        let mut passage = Self { cache, steps: steps.to_vec(), judged, dense: Vec::new() };
        passage.dense = passage.walk(model, |cache, token| step(model, cache, token, None))?;
        Ok(passage)
    }

    /// A text of which the last `steps` tokens are judged.
    ///
    /// # Errors
    /// As [`Passage::read`].
    pub fn text(model: &Decoder, text: &[u32], steps: usize) -> Result<Self, GenerateError> {
        let (beginning, rest) = text.split_at(text.len().saturating_sub(steps));
        Self::read(model, beginning, rest, steps)
    }

    /// A question behind its text, of which the answer is judged.
    ///
    /// # Errors
    /// As [`Passage::read`].
    pub fn question(model: &Decoder, question: &Question) -> Result<Self, GenerateError> {
        let steps = [&question.question[..], &question.answer].concat();
        let read = steps.len().saturating_sub(1);
        Self::read(model, &question.text, &steps[..read], question.answer.len())
    }

    /// The mean divergence, in nats a judged token, of what is predicted where `policy` chooses the keys.
    ///
    /// # Errors
    /// If the model's attention fails.
    pub fn lost(&mut self, model: &Decoder, policy: &mut dyn AttnPolicy) -> Result<f64, GenerateError> {
        let found = self.walk(model, |cache, token| step(model, cache, token, Some(policy)))?;
        Ok(self.divergence(&found))
    }

    /// The same where every head of every layer reads the `budget` keys that are its best: what any
    /// reuse of a choice can hope for.
    ///
    /// # Errors
    /// If the model's attention fails.
    pub fn lost_to_budget(&mut self, model: &Decoder, budget: usize) -> Result<f64, GenerateError> {
        let found = self.walk(model, |cache, token| {
            let (mut best, position) = (Best { budget, lists: Vec::new(), noting: true }, cache.position());
            step(model, cache, token, Some(&mut best))?;
            cache.truncate(position);
            best.noting = false;
            step(model, cache, token, Some(&mut best))
        })?;
        Ok(self.divergence(&found))
    }

    /// The logarithms of the judged predictions, each behind one call of `step`. `[judged, vocabulary]`
    fn walk(
        &mut self,
        model: &Decoder,
        mut step: impl FnMut(&mut KvCache, u32) -> Result<Tensor<2>, MethodError>,
    ) -> Result<Vec<f32>, GenerateError> {
        let (start, skipped) = (self.cache.position(), self.steps.len().saturating_sub(self.judged));
        let mut logits = Vec::new();
        for (index, &token) in self.steps.iter().enumerate() {
            let hidden = step(&mut self.cache, token)?;
            if index >= skipped {
                logits.extend_from_slice(op::host(model.logits(hidden)).data());
            }
        }
        self.cache.truncate(start);
        let mut logarithms = vec![0.0; logits.len()];
        softmax::log_softmax_rows(&logits, model.config().vocab_size, &mut logarithms);
        Ok(logarithms)
    }

    /// `sum p (ln p - ln q)` of the dense predictions p and those found, over the judged tokens.
    fn divergence(&self, found: &[f32]) -> f64 {
        let term = |(&dense, &found): (&f32, &f32)| {
            if dense == f32::NEG_INFINITY { 0.0 } else { f64::from(dense).exp() * f64::from(dense - found) }
        };
        self.dense.iter().zip(found).map(term).sum::<f64>() / self.judged.max(1) as f64
    }
}

/// The hidden state behind one token. `[1, width]`
fn step(
    model: &Decoder,
    cache: &mut KvCache,
    token: u32,
    policy: Option<&mut dyn AttnPolicy>,
) -> Result<Tensor<2>, MethodError> {
    let length = cache.position() as u32 + 1;
    let mut span = Span::causal(cache, vec![token], length);
    span.policy = policy.map(|policy| policy as _);
    forward(model, vec![span])
}

/// Notes the best keys of every head in one pass, and reads no others in the next.
#[derive(Debug)]
struct Best {
    budget: usize,
    /// For each layer, the rows of each query head.
    lists: Vec<Vec<Option<Vec<u32>>>>,
    noting: bool,
}

impl AttnPolicy for Best {
    fn read(&mut self, looking: &Looking) -> Reading<'_> {
        match self.lists.get(looking.layer).filter(|lists| !self.noting && !lists.is_empty()) {
            None if self.noting => Reading::AllScored,
            None => Reading::All,
            Some(lists) => Reading::Rows(lists),
        }
    }

    fn scored(&mut self, looking: &Looking, scores: &[f32]) {
        let heads: Vec<&[f32]> = scores.chunks_exact(looking.rows).collect();
        self.lists.resize(looking.layer, Vec::new());
        self.lists.push(top_rows(&heads, self.budget).into_iter().map(Some).collect());
    }

    fn report(&self) -> String {
        format!("the best {} keys of every head", self.budget)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::{Plan, Selection};
    use crate::models;
    use crate::nn::vars::{Precision, Random, Storage, Vars};

    /// A model with random weights, and a policy for it.
    fn model() -> (Decoder, impl Fn(&str) -> Box<dyn AttnPolicy>) {
        let config = serde_json::json!({
            "model_type": "llama", "vocab_size": 96, "hidden_size": 64, "intermediate_size": 96,
            "num_hidden_layers": 5, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 256,
        });
        let facts = models::facts(&config).unwrap();
        let config = (models::architecture(&config).unwrap().config)(&config).unwrap();
        let model =
            Decoder::new(config, &Vars::new(&Random { seed: 3 }, &Storage::Packed(Precision::Native)))
                .unwrap();
        let begin = move |knobs: &str| {
            let selection = Selection::parse(&[format!("tidaldecode:{knobs}")]).unwrap();
            Plan::new(&selection, &facts).unwrap().begin().attention.unwrap()
        };
        (model, begin)
    }

    fn text(tokens: usize) -> Vec<u32> {
        (0..tokens as u32).map(|index| index * index % 96).collect()
    }

    #[test]
    fn nothing_is_lost_where_all_is_read_and_something_where_not() {
        let (model, begin) = model();
        let mut passage = Passage::text(&model, &text(100), 4).unwrap();
        assert_eq!(passage.lost(&model, &mut *begin("budget=200")).unwrap(), 0.0);
        assert_eq!(passage.lost_to_budget(&model, 200).unwrap(), 0.0);
        let few = passage.lost(&model, &mut *begin("budget=2,start=0")).unwrap();
        let own = passage.lost_to_budget(&model, 2).unwrap();
        assert!(few > 0.0 && own > 0.0, "{few} {own}");
        // The cache is as it was: the same again.
        assert_eq!(passage.lost(&model, &mut *begin("budget=2,start=0")).unwrap(), few);
    }

    #[test]
    fn a_question_is_judged_by_its_answer() {
        let (model, begin) = model();
        let question = Question { text: text(60), question: vec![5, 6, 7], answer: vec![8, 9] };
        let mut passage = Passage::question(&model, &question).unwrap();
        assert_eq!((passage.steps.len(), passage.judged, passage.dense.len()), (4, 2, 2 * 96));
        assert!(passage.lost(&model, &mut *begin("budget=3,start=0")).unwrap() > 1e-5);
    }

    #[test]
    fn divergence_by_hand() {
        let shape = CacheShape { layers: 1, kv_heads: 1, head_dim: 1 };
        let logarithms = |shares: [f32; 4]| shares.map(f32::ln).to_vec();
        let dense = logarithms([0.5, 0.5, 0.0, 1.0]);
        let passage = Passage { cache: KvCache::new(shape, 1), steps: vec![1, 2], judged: 2, dense };
        let found = passage.divergence(&logarithms([0.25, 0.75, 0.5, 0.5]));
        let expected = (0.5 * 2f64.ln() + 0.5 * (2.0 / 3.0f64).ln() + 2f64.ln()) / 2.0;
        assert!((found - expected).abs() < 1e-6, "{found} {expected}");
    }

    #[test]
    fn texts_that_do_not_fit_are_refused() {
        let (model, _) = model();
        assert!(Passage::text(&model, &text(300), 4).is_err());
        assert!(Passage::text(&model, &text(4), 4).is_err());
        assert!(Passage::text(&model, &text(4), 0).is_err());
    }
}
