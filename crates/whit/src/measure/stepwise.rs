//! What a method that acts on decode steps loses: a text's beginning is read at once, and every token behind
//! it in a step of its own, as if it were being generated.

use whit_kernels::cross_entropy::token_losses;
use whit_kernels::op;

use crate::generate::GenerateError;
use crate::generate::cache::{CacheShape, KvCache};
use crate::generate::forward::{Span, forward};
use crate::methods::{AttnPolicy, Plan};
use crate::nn::decoder::Decoder;

/// Tokens of the beginning that one pass reads.
const CHUNK: usize = 512;

/// A text on its way through a model, with the owner of the attention pattern of a plan. Other stages of the
/// plan are not called.
#[derive(Debug)]
pub struct Steps<'m> {
    model: &'m Decoder,
    cache: KvCache,
    policy: Option<Box<dyn AttnPolicy>>,
}

impl<'m> Steps<'m> {
    /// Reads the beginning of a text.
    ///
    /// # Errors
    /// If the beginning is empty, or longer than the model reads.
    pub fn new(model: &'m Decoder, plan: &Plan, beginning: &[u32]) -> Result<Self, GenerateError> {
        let config = model.config();
        let (tokens, limit) = (beginning.len(), config.max_positions);
        if tokens == 0 {
            return Err(GenerateError::EmptyPrompt);
        }
        if tokens > limit {
            return Err(GenerateError::PromptTooLong { tokens, limit });
        }
        let shape =
            CacheShape { layers: config.layers, kv_heads: config.kv_heads, head_dim: config.head_dim };
        let mut cache = KvCache::new(shape, tokens);
        for chunk in beginning.chunks(CHUNK) {
            forward(model, vec![Span::causal(&mut cache, chunk.to_vec(), tokens as u32)])?;
        }
        Ok(Self { model, cache, policy: plan.begin().attention })
    }

    /// Reads one more token; gives the scores of what may follow it. `[vocabulary]`
    ///
    /// # Errors
    /// If the text is longer than the model reads, or a method fails.
    pub fn feed(&mut self, token: u32) -> Result<Vec<f32>, GenerateError> {
        let (tokens, limit) = (self.cache.position() + 1, self.model.config().max_positions);
        if tokens > limit {
            return Err(GenerateError::PromptTooLong { tokens, limit });
        }
        let length = tokens as u32;
        let span = Span {
            policy: self.policy.as_deref_mut().map(|policy| policy as _),
            ..Span::causal(&mut self.cache, vec![token], length)
        };
        let hidden = forward(self.model, vec![span])?;
        Ok(op::host(self.model.logits(hidden)).into_vec())
    }

    /// What the method says it did.
    pub fn report(&self) -> Option<String> {
        self.policy.as_ref().map(|policy| policy.report())
    }
}

/// The losses in nats of the tokens of `text` from `first` on.
///
/// # Errors
/// If the text does not fit the model, or a method fails.
pub fn losses(model: &Decoder, plan: &Plan, text: &[u32], first: usize) -> Result<Vec<f32>, GenerateError> {
    let mut steps = Steps::new(model, plan, &text[..first.max(2) - 1])?;
    let pairs = text[first.max(2) - 1..].windows(2);
    pairs.map(|pair| Ok(token_losses(&steps.feed(pair[0])?, &pair[1..])[0])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::quality;
    use crate::methods::{ModelFacts, Selection};
    use crate::models;
    use crate::nn::vars::{Precision, Random, Storage, Vars};

    #[test]
    fn step_by_step_the_losses_are_those_of_one_pass() {
        let config = serde_json::json!({
            "model_type": "llama", "vocab_size": 64, "hidden_size": 64, "intermediate_size": 96,
            "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 40,
        });
        let decoder = (models::architecture(&config).unwrap().config)(&config).unwrap();
        let storage = Storage::Packed(Precision::Native);
        let model = Decoder::new(decoder, &Vars::new(&Random { seed: 3 }, &storage)).unwrap();
        let plan = |methods: &[&str]| {
            Plan::new(&Selection::parse(methods).unwrap(), &ModelFacts::example()).unwrap()
        };
        let text: Vec<u32> = (0..40).map(|index| index * index % 61).collect();
        let whole = quality::token_losses(&model, &text, 40);
        let close = |found: &[f32]| found.iter().zip(&whole[19..]).all(|(a, b)| (a - b).abs() < 1e-4);
        let dense = losses(&model, &plan(&[]), &text, 20).unwrap();
        assert!(dense.len() == 20 && close(&dense), "{dense:?}");
        let sparse = losses(&model, &plan(&["tidaldecode:budget=2,start=0"]), &text, 20).unwrap();
        assert!(!close(&sparse), "some keys are not read");
        let mut steps = Steps::new(&model, &plan(&[]), &text).unwrap();
        assert!(matches!(steps.feed(1), Err(GenerateError::PromptTooLong { tokens: 41, limit: 40 })));
        assert!(Steps::new(&model, &plan(&[]), &[]).is_err());
    }
}
