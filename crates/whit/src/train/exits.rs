//! A loss at every layer (Schuster et al., 2022, arXiv 2207.07061): the head learns to read each
//! layer's state, so that a step may end at any of them.

use burn::tensor::Tensor;
use whit_kernels::cross_entropy::cross_entropy;

use super::language::logits_through;
use super::windows::Batch;
use crate::nn::attention::{Attend, Batched, Site};
use crate::nn::decoder::Decoder;

/// The mean cross-entropy behind every layer, that behind layer `i` weighted by `i`: the paper's average.
pub fn loss(model: &Decoder, batch: &Batch) -> Tensor<1> {
    let mut states = States { inner: Batched::causal(batch.shape.rows), behind: Vec::new() };
    logits_through(model, &batch.inputs, batch.shape, &mut states);
    let layers = states.behind.len();
    let total = (layers * (layers + 1) / 2) as f32;
    let exit = |(index, state): (usize, Tensor<2>)| {
        let logits = model.logits(model.normed(state));
        cross_entropy(logits, &batch.targets, None).mul_scalar((index + 1) as f32 / total)
    };
    let losses = states.behind.into_iter().enumerate().map(exit);
    losses.reduce(|sum, loss| sum + loss).unwrap_or_else(|| unreachable!("a model has a layer"))
}

/// Attention of a training batch that keeps the state behind each layer.
#[derive(Debug)]
struct States {
    inner: Batched,
    /// `[tokens, width]` each.
    behind: Vec<Tensor<2>>,
}

impl Attend for States {
    fn attend(&mut self, site: &Site, queries: Tensor<3>, keys: Tensor<3>, values: Tensor<3>) -> Tensor<2> {
        self.inner.attend(site, queries, keys, values)
    }

    fn observe(&mut self, layer: usize, hidden: &mut dyn FnMut() -> Tensor<2>) {
        if layer > 0 {
            self.behind.push(hidden());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models;
    use crate::nn::vars::{Random, Storage, Vars};
    use crate::train::language;
    use crate::train::parameters::{Named, add_gradients};
    use crate::train::windows::Shape;
    use burn::tensor::Device;
    use serde_json::json;

    fn model(layers: usize) -> Decoder {
        let config = json!({
            "model_type": "llama", "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24,
            "num_hidden_layers": layers, "num_attention_heads": 2,
        });
        let config = (models::architecture(&config).unwrap().config)(&config).unwrap();
        let storage = Storage::Dense(Device::flex().autodiff());
        Decoder::new(config, &Vars::new(&Random { seed: 3 }, &storage)).unwrap()
    }

    /// The state behind a layer is that of a model that ends there.
    #[test]
    fn the_loss_is_the_average_over_models_of_every_depth_and_reaches_all_layers() {
        let shape = Shape { rows: 2, sequence: 8 };
        let at = |shift: u32| -> Vec<u32> { (0..16).map(|at| (at * 7 + shift) % 40).collect() };
        let batch = Batch { inputs: at(0), targets: at(7), shape };
        let whole = model(3);
        let found = loss(&whole, &batch);
        let value = found.clone().into_scalar::<f32>();
        let each: Vec<f32> =
            (1..4).map(|layers| language::loss(&model(layers), &batch).into_scalar::<f32>()).collect();
        let wanted = (each[0] + 2.0 * each[1] + 3.0 * each[2]) / 6.0;
        assert!((value - wanted).abs() < 1e-5, "{value} {wanted}");
        let mut gradients = Named::new();
        add_gradients(&whole, &mut found.backward(), &mut gradients);
        for layer in 0..3 {
            let slopes = &gradients[&format!("layers.{layer}.mlp.down_proj.weight")];
            assert!(slopes.iter().any(|slope| *slope != 0.0), "layer {layer}");
        }
    }
}
