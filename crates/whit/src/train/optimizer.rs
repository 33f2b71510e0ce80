//! AdamW (Loshchilov & Hutter, arXiv:1711.05101) with clipping by the global norm and a moving
//! average of the weights.

use std::collections::BTreeMap;

use burn::module::Module;
use serde::{Deserialize, Serialize};
use whit_kernels::adamw::{self, Slices};

use super::parameters::{self, Named};

/// The optimiser's settings.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdamW {
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub epsilon: f32,
    /// Decoupled decay of matrices; norms, biases and embeddings are not decayed.
    pub weight_decay: f32,
    /// Gradients are scaled down to this norm over all parameters.
    pub clip: f32,
    /// Decay of the moving average of the weights; it is shorter in the first steps.
    pub average: f32,
}

impl Default for AdamW {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1, clip: 1.0, average: 0.995 }
    }
}

/// What the optimiser remembers of one parameter. All have the parameter's length.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    /// The sizes of the parameter's dimensions.
    pub shape: Vec<usize>,
    /// Moving average of the gradient.
    pub first: Vec<f32>,
    /// Moving average of its square.
    pub second: Vec<f32>,
    /// Moving average of the values.
    pub average: Vec<f32>,
}

/// The optimiser's memory by the parameter's name.
pub type Memories = BTreeMap<String, Memory>;

impl AdamW {
    /// Returns `module` after one step; `norm` is the norm of the update's gradients.
    pub fn step<M: Module>(&self, module: M, memories: &mut Memories, update: Update, norm: f32) -> M {
        let scale = if norm > self.clip { self.clip / norm } else { 1.0 };
        parameters::change(module, |slot| {
            let Some(gradient) = update.gradients.get(slot.name) else { return };
            let memory = memories.entry(slot.name.to_owned()).or_insert_with(|| Memory::new(&slot));
            let step = adamw::Step {
                learning_rate: update.learning_rate,
                beta1: self.beta1,
                beta2: self.beta2,
                epsilon: self.epsilon,
                weight_decay: if decays(slot.name, slot.shape) { self.weight_decay } else { 0.0 },
                count: u32::try_from(update.count).unwrap_or(u32::MAX),
            };
            let Memory { first: m, second: v, .. } = memory;
            adamw::step_scaled(Slices { parameter: slot.values, gradient, m, v }, &step, scale);
            memory.follow(slot.values, self.decay(update.count));
        })
    }

    /// The average's decay at step `count`: early steps are soon forgotten.
    fn decay(&self, count: u64) -> f32 {
        self.average.min((1 + count) as f32 / (10 + count) as f32)
    }
}

/// One step's input.
#[derive(Debug)]
pub struct Update {
    /// The mean gradient of each parameter.
    pub gradients: Named,
    /// The step's learning rate.
    pub learning_rate: f32,
    /// The step's number, from 1.
    pub count: u64,
}

impl Update {
    /// The Euclidean norm over all gradients.
    pub fn norm(&self) -> f32 {
        let square = |values: &Vec<f32>| values.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>();
        self.gradients.values().map(square).sum::<f64>().sqrt() as f32
    }
}

impl Memory {
    fn new(slot: &parameters::Slot<'_>) -> Self {
        let zeros = vec![0.0; slot.values.len()];
        Self { shape: slot.shape.to_vec(), first: zeros.clone(), second: zeros, average: slot.values.clone() }
    }

    fn follow(&mut self, values: &[f32], decay: f32) {
        for (average, value) in self.average.iter_mut().zip(values) {
            *average += (1.0 - decay) * (value - *average);
        }
    }
}

fn decays(name: &str, shape: &[usize]) -> bool {
    shape.len() >= 2 && !name.contains("embed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_matrices_decay() {
        assert!(decays("layers.0.mlp.up.weight", &[4, 4]));
        assert!(!decays("layers.0.norm.weight", &[4]));
        assert!(!decays("embedding.weight", &[4, 4]));
    }

    #[test]
    fn the_norm_is_over_all_gradients() {
        let gradients = Named::from([("a".into(), vec![3.0, 0.0]), ("b".into(), vec![4.0])]);
        assert_eq!(Update { gradients, learning_rate: 0.1, count: 1 }.norm(), 5.0);
    }
}
