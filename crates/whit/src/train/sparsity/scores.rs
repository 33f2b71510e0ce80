//! What the routers said in a pass over a batch.

use burn::tensor::Tensor;
use whit_kernels::block_ffn::Reach;
use whit_kernels::op;

use super::{Usage, load_balance, no_routers};
use crate::nn::attention::{Attend, Batched, Site};
use crate::nn::block_ffn::Routing;
use crate::train::TrainError;

/// Attention of a training batch that keeps the routers' scores and gates, layer after layer.
#[derive(Debug)]
pub struct Scores {
    inner: Batched,
    /// Raw scores, `[tokens, experts]` each.
    pub layers: Vec<Tensor<2>>,
    /// Gates, zero where an expert is not open; `[tokens, experts]` each.
    pub gates: Vec<Tensor<2>>,
}

impl Scores {
    /// For `batch` sequences.
    pub fn of(batch: usize) -> Self {
        Self { inner: Batched::causal(batch), layers: Vec::new(), gates: Vec::new() }
    }

    /// The mean of [`load_balance`] over the layers.
    ///
    /// # Errors
    /// If there are no scores, because the model has no such experts.
    pub fn balance(&self) -> Result<Tensor<1>, TrainError> {
        let layers = self.layers.iter().zip(&self.gates);
        let sum = layers.map(|(scores, gates)| load_balance(scores.clone(), gates.clone()));
        let sum = sum.reduce(|sum, next| sum + next).ok_or_else(no_routers)?;
        Ok(sum / self.layers.len() as f32)
    }

    /// How many experts stay closed, for each layer; the batch is one sequence.
    pub fn usage(&self) -> Vec<Usage> {
        let layer = |gates: &Tensor<2>| {
            let gates = op::host(gates.clone());
            let open: Vec<bool> = gates.data().iter().map(|&gate| gate != 0.0).collect();
            Usage::of(&open, gates.width())
        };
        self.gates.iter().map(layer).collect()
    }
}

impl Attend for Scores {
    fn attend(&mut self, site: &Site, queries: Tensor<3>, keys: Tensor<3>, values: Tensor<3>) -> Tensor<2> {
        self.inner.attend(site, queries, keys, values)
    }

    fn route(&mut self, routing: &Routing<'_>) -> Reach {
        self.layers.push(routing.scores.clone());
        self.gates.push(routing.gates.clone());
        Reach::Active
    }
}
