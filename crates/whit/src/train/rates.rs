//! DiffRate's learning (arXiv 2305.17997): how many tokens each block prunes and merges, by gradients, on a model whose
//! weights stay as they are.
//!
//! Each block has two counts, and each count is the expectation of a softmax over candidates, rounded up. The forward
//! pass keeps all tokens and masks those that are gone. A mask's value is 0 or 1; its gradient goes to the probability
//! that the token at a rank survives. The cost is the formula of [`VisionCost`] with the counts in it, so it has a
//! gradient too. Nothing but the candidates' logits is learnt.

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use whit_kernels::{op, softmax};

use super::TrainError;
use crate::measure::macs::VisionCost;
use crate::methods::reducers::rates::Rates;
use crate::nn::attention::Batched;
use crate::nn::vision::Vision;

mod counts;
mod masked;
#[cfg(test)]
mod tests;

pub use counts::Counts;
use masked::Masked;

/// What is wanted, and how it is searched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Search {
    /// The wanted cost as a share of the dense one.
    pub keep: f64,
    /// Steps.
    pub steps: u64,
    /// Patches between two candidates.
    pub granularity: usize,
    /// The learning rate at the start; a cosine takes it to a tenth.
    pub learning_rate: f32,
    /// First blocks in which no token goes.
    pub spared: usize,
    /// Whether tokens are merged and none pruned, as the paper has it for models without a class token.
    pub merge_only: bool,
}

impl Default for Search {
    fn default() -> Self {
        Self { keep: 0.6, steps: 300, granularity: 4, learning_rate: 0.03, spared: 1, merge_only: false }
    }
}

/// Images with what is to be said of them.
#[derive(Clone, Debug)]
pub struct Examples {
    /// `[images, channels, height, width]`
    pub pixels: Tensor<4>,
    /// The class of each image; where there is none, the model's own answer with all its tokens is learnt from.
    pub labels: Option<Vec<u32>>,
}

/// One step of a search.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Step {
    /// Its number, from 0.
    pub step: u64,
    /// The loss of the model.
    pub loss: f32,
    /// The cost as a share of the dense one.
    pub cost: f64,
}

/// The weight of the squared distance from the wanted cost, both as shares of the dense cost: the paper's 5, where the
/// costs are in G operations, at the 4.6 G of DeiT-S.
const PRESSURE: f64 = 5.0 * 4.6 * 4.6;

/// Learns the counts of `model`, which lies on an autodiff device; `examples` gives the batch of a step.
///
/// # Errors
/// If the wanted cost cannot be reached, the model sorts nothing, or a batch cannot be made.
pub fn learn(
    model: Vision,
    search: Search,
    examples: &mut dyn FnMut(u64) -> Result<Examples, TrainError>,
    report: &mut dyn FnMut(&Step),
) -> Result<Rates, TrainError> {
    let mut counts = Counts::new(VisionCost::of(model.config()), search)?;
    let model = model.no_grad();
    for step in 0..search.steps {
        let Examples { pixels, labels } = examples(step)?;
        let device = pixels.device();
        let leaves = counts.begin(&device);
        let mut pass = Masked::new(&leaves, search.spared, model.config().specials());
        let targets = targets(&model, &pixels, labels)?;
        let loss = -(softmax::log_softmax(pass.scores(&model, pixels)?) * targets).sum_dim(1).mean();
        let share = counts.share(&leaves, &device);
        let [value, cost] = [&loss, &share].map(|one| op::host(one.clone()).data()[0]);
        let distance = share - search.keep;
        counts.step(&leaves, loss + distance.clone() * distance * PRESSURE, step);
        report(&Step { step, loss: value, cost: f64::from(cost) });
    }
    Ok(counts.rates())
}

/// The wanted probabilities of the classes. `[images, classes]`
fn targets(model: &Vision, pixels: &Tensor<4>, labels: Option<Vec<u32>>) -> Result<Tensor<2>, TrainError> {
    let batch = pixels.dims()[0];
    let Some(labels) = labels else {
        let hidden = model.forward(pixels.clone(), &mut Batched::whole(batch, None));
        let scores = model.logits(&hidden, None).ok_or_else(no_classes)?.logits;
        return Ok(softmax::softmax(scores).detach());
    };
    let classes = model.config().head.classes().ok_or_else(no_classes)?;
    let row = |&label: &u32| (0..classes as u32).map(move |class| f32::from(class == label));
    let values: Vec<f32> = labels.iter().flat_map(row).collect();
    Ok(Tensor::from_data(TensorData::new(values, [batch, classes]), &pixels.device()))
}

fn no_classes() -> TrainError {
    TrainError::Setting(
        "the model sorts nothing into classes, so there is nothing to learn counts from".into(),
    )
}
