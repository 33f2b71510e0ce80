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
    /// If a method fails.
    pub fn feed(&mut self, token: u32) -> Result<Vec<f32>, GenerateError> {
        let length = self.cache.position() as u32 + 1;
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
