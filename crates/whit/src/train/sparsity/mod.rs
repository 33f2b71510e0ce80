//! BlockFFN's training (arXiv 2507.08771, section 3.2): losses on the router's scores that make
//! neighbouring tokens open the same few experts, and the figures that tell how far that came. For the
//! router that it is compared with, which chooses a fixed number of experts, the usual loss on their load.

mod figures;
mod losses;
mod scores;
mod weight;

pub use figures::{Usage, chunk_sparsity, reuse, token_sparsity};
pub use losses::{activation_locality, chunk_sparsification, load_balance};
pub use scores::Scores;
pub use weight::ChunkWeight;

use std::sync::{Mutex, MutexGuard, PoisonError};

use burn::tensor::Tensor;
use serde::Serialize;
use serde_json::Value;
use whit_kernels::op;

use super::TrainError;
use super::windows::Shape;

/// How much the losses weigh.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Sparsity {
    /// What scores are multiplied with before their sigmoid.
    pub sharpness: f32,
    /// The weight of activation locality.
    pub locality: f32,
    /// The weight of chunk sparsification in the beginning.
    pub chunks: f32,
    /// Tokens of a chunk.
    pub chunk: usize,
    /// Steps in which the weight of chunk sparsification stays.
    pub hold: u64,
    /// Steps between its changes after that.
    pub period: u64,
}

impl Default for Sparsity {
    /// The paper's settings for its small model.
    fn default() -> Self {
        Self { sharpness: 100.0, locality: 2e-3, chunks: 5e-2, chunk: 64, hold: 1000, period: 100 }
    }
}

/// The losses of a run, with the weight that follows one of them.
#[derive(Debug)]
pub struct Guide {
    settings: Sparsity,
    weight: Mutex<ChunkWeight>,
}

impl Guide {
    /// The losses before the first step.
    pub fn new(settings: Sparsity) -> Self {
        let Sparsity { chunks, hold, period, .. } = settings;
        Self { settings, weight: Mutex::new(ChunkWeight::new(chunks, hold, period)) }
    }

    /// The weighted losses for the scores of all layers; `ids` are the tokens of the batch, of which `end`
    /// closes a document.
    ///
    /// # Errors
    /// If there are no scores, because the model has no such experts.
    pub fn loss(
        &self,
        scores: &[Tensor<2>],
        ids: &[u32],
        end: u32,
        at: (Shape, u64),
    ) -> Result<Tensor<1>, TrainError> {
        let ((shape, step), settings) = (at, &self.settings);
        let joined: Vec<bool> =
            (1..ids.len()).map(|t| t % shape.sequence != 0 && ids[t - 1] != end).collect();
        let mean = |one: &dyn Fn(&Tensor<2>) -> Tensor<1>| {
            let sum = scores.iter().map(one).reduce(|sum, next| sum + next);
            sum.map(|sum| sum / scores.len() as f32)
        };
        let locality = mean(&|scores| activation_locality(scores.clone(), &joined, settings.sharpness));
        let chunks = mean(&|scores| chunk_sparsification(scores.clone(), shape, settings.chunk));
        let (Some(locality), Some(chunks)) = (locality, chunks) else { return Err(no_routers()) };
        let weight = self.weight().at(step, op::host(chunks.clone()).data()[0]);
        Ok(locality * settings.locality + chunks * weight)
    }

    /// What must be kept for a run to go on as if it had not stopped.
    pub fn memory(&self) -> Value {
        serde_json::json!(*self.weight())
    }

    /// Goes on from what [`memory`](Self::memory) gave.
    ///
    /// # Errors
    /// If it is something else.
    pub fn recall(&self, memory: &Value) -> Result<(), TrainError> {
        let failed =
            |error| TrainError::Setting(format!("the checkpoint's state of the losses is damaged: {error}"));
        *self.weight() = serde_json::from_value(memory.clone()).map_err(failed)?;
        Ok(())
    }

    fn weight(&self) -> MutexGuard<'_, ChunkWeight> {
        self.weight.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn no_routers() -> TrainError {
    let text = "the recipe has losses for the routers of experts, but its model has none: set `ffn_type`";
    TrainError::Setting(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models;
    use crate::nn::decoder::Decoder;
    use crate::nn::vars::{Random, Storage, Vars};
    use crate::train::language::logits_through;
    use crate::train::parameters::{Named, add_gradients};
    use burn::tensor::Device;
    use serde_json::json;

    const SHAPE: Shape = Shape { rows: 2, sequence: 16 };

    /// Experts that a router of [`top_k`] chooses.
    const CHOSEN: usize = 2;

    fn model(feed_forward: &str) -> Decoder {
        build(json!({ "ffn_type": feed_forward, "norm_after_router": "rms" }))
    }

    fn top_k() -> Decoder {
        build(json!({ "ffn_type": "block", "router_act": "topk", "num_experts_per_tok": CHOSEN }))
    }

    fn build(feed_forward: Value) -> Decoder {
        let mut config = json!({
            "model_type": "minicpm", "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24,
            "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_gated": false, "num_experts": 6,
            "expert_size": 4, "scale_emb": 12.0,
        });
        config.as_object_mut().unwrap().extend(feed_forward.as_object().unwrap().clone());
        let config = (models::architecture(&config).unwrap().config)(&config).unwrap();
        let storage = Storage::Dense(Device::flex().autodiff());
        Decoder::new(config, &Vars::new(&Random { seed: 3 }, &storage)).unwrap()
    }

    /// The scores of a batch, and its tokens.
    fn scores(model: &Decoder) -> (Scores, Vec<u32>) {
        let ids: Vec<u32> = (0..32).map(|at| at * 7 % 40).collect();
        let mut scores = Scores::of(SHAPE.rows);
        logits_through(model, &ids, SHAPE, &mut scores);
        (scores, ids)
    }

    /// The loss has a slope in every router of the model.
    fn assert_reaches_routers(model: &Decoder, loss: Tensor<1>) {
        let mut gradients = Named::new();
        add_gradients(model, &mut loss.backward(), &mut gradients);
        for layer in 0..2 {
            let router = &gradients[&format!("layers.{layer}.mlp.router_proj.weight")];
            assert!(router.iter().all(|slope| slope.is_finite()) && router.iter().any(|slope| *slope != 0.0));
        }
    }

    #[test]
    fn the_losses_reach_every_router() {
        let model = model("block");
        let (Scores { layers, .. }, ids) = scores(&model);
        assert_eq!(layers.iter().map(Tensor::dims).collect::<Vec<_>>(), [[32, 6]; 2]);
        let guide = Guide::new(Sparsity { chunk: 8, ..Sparsity::default() });
        let loss = guide.loss(&layers, &ids, 0, (SHAPE, 0)).unwrap();
        assert_reaches_routers(&model, loss);
        let other = Guide::new(Sparsity::default());
        other.recall(&guide.memory()).unwrap();
        assert_eq!(*other.weight(), *guide.weight());
        assert!(other.recall(&json!("nothing")).is_err());
    }

    #[test]
    fn a_model_without_routers_is_refused() {
        let (scores, ids) = scores(&model("vanilla"));
        let refusal = Guide::new(Sparsity::default()).loss(&scores.layers, &ids, 0, (SHAPE, 0)).unwrap_err();
        assert!(refusal.to_string().contains("ffn_type"), "{refusal}");
        let refusal = scores.balance().unwrap_err();
        assert!(refusal.to_string().contains("ffn_type"), "{refusal}");
    }

    #[test]
    fn the_balance_of_chosen_experts_reaches_every_router() {
        let model = top_k();
        let (scores, _) = scores(&model);
        for usage in scores.usage() {
            assert!((usage.tls - 1.0 + CHOSEN as f64 / 6.0).abs() < 1e-12, "{}", usage.tls);
        }
        assert_reaches_routers(&model, scores.balance().unwrap());
    }
}
