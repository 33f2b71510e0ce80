//! BlockFFN's training (arXiv 2507.08771, section 3.2): losses on the router's scores that make
//! neighbouring tokens open the same few experts, and the figures that tell how far that came.

mod figures;
mod losses;
mod weight;

pub use figures::{Usage, chunk_sparsity, reuse, token_sparsity};
pub use losses::{activation_locality, chunk_sparsification};
pub use weight::ChunkWeight;

use std::sync::{Mutex, MutexGuard, PoisonError};

use burn::tensor::Tensor;
use serde::Serialize;
use serde_json::Value;
use whit_kernels::block_ffn::Reach;
use whit_kernels::op;

use super::TrainError;
use super::windows::Shape;
use crate::nn::attention::{Attend, Batched, Site};
use crate::nn::block_ffn::Routing;

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
        let (Some(locality), Some(chunks)) = (locality, chunks) else {
            let text = "the recipe has losses for BlockFFN's routers, but its model has none: set `ffn_type`";
            return Err(TrainError::Setting(text.into()));
        };
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

/// Attention of a training batch that keeps the routers' scores, layer after layer.
#[derive(Debug)]
pub struct Scores {
    inner: Batched,
    /// `[tokens, experts]` each.
    pub layers: Vec<Tensor<2>>,
}

impl Scores {
    /// For `batch` sequences.
    pub fn of(batch: usize) -> Self {
        Self { inner: Batched::causal(batch), layers: Vec::new() }
    }
}

impl Attend for Scores {
    fn attend(&mut self, site: &Site, queries: Tensor<3>, keys: Tensor<3>, values: Tensor<3>) -> Tensor<2> {
        self.inner.attend(site, queries, keys, values)
    }

    fn route(&mut self, routing: &Routing<'_>) -> Reach {
        self.layers.push(routing.scores.clone());
        Reach::Active
    }
}
