//! Whole layers: how much each changes what goes through it, and how a model does without some.

use std::collections::BTreeSet;

use burn::tensor::Tensor;
use whit_kernels::linear::WeightType;
use whit_kernels::op;

use super::{Block, Form, Outcome, ShrinkError, Subject, Weight};
use crate::load::Checkpoint;
use crate::models;
use crate::nn::attention::{Attend, Batched, Port, Site};
use crate::nn::decoder::{Decoder, Tokens};
use crate::nn::vars::{Precision, Storage};

/// Makes a block add nothing to the stream.
///
/// # Errors
/// If its tensors do not fit each other.
pub fn silence(block: &mut Block<'_>) -> Result<(), ShrinkError> {
    for port in [Port::Output, Port::Down] {
        for name in block.matrices(port) {
            let count = block.get(&name)?.values.len();
            block.set_values(&name, vec![0.0; count], Form::Dense)?;
        }
    }
    Ok(())
}

/// What the names of a layer's tensors begin with.
pub fn prefix(layer: usize) -> String {
    format!("model.layers.{layer}.")
}

/// Takes the layers out and numbers the others anew.
///
/// # Errors
/// If a tensor cannot be read or written.
pub fn take_layers(outcome: &mut Outcome, gone: &BTreeSet<usize>) -> Result<(), ShrinkError> {
    let names = outcome.weights.names();
    let mut layers = 0;
    while names.iter().any(|name| name.starts_with(&prefix(layers))) {
        layers += 1;
    }
    let mut next = 0;
    for layer in 0..layers {
        let own = names.iter().filter_map(|name| Some((name, name.strip_prefix(&prefix(layer))?)));
        for (name, short) in own {
            if !gone.contains(&layer) && next < layer {
                let tensor = outcome.weights.read(name)?;
                let values = tensor.to_f32(name)?;
                let moved = Weight { shape: tensor.shape, values, form: Form::Dense };
                outcome.weights.set(&format!("{}{short}", prefix(next)), &moved)?;
            }
            if next < layer || gone.contains(&layer) {
                outcome.weights.remove(name);
            }
        }
        next += usize::from(!gone.contains(&layer));
    }
    Ok(())
}

/// One minus the mean cosine between what enters and what leaves each layer.
///
/// # Errors
/// If there is no calibration text, or the model cannot be built.
pub fn influence(subject: &Subject<'_>) -> Result<Vec<f64>, ShrinkError> {
    let sequences = &subject.calibration.sequences;
    if sequences.is_empty() {
        let reason = "the method needs text to calibrate with, and there is none".into();
        return Err(ShrinkError::Calibration { reason });
    }
    let storage = Storage::Packed(Precision::Fixed(WeightType::F32));
    let model = models::decoder(&subject.files.config, subject.files.weights.as_ref(), &storage, &|_| {})?;
    let mut cosines = vec![0.0; subject.config.layers];
    let mut tokens = 0;
    for ids in sequences {
        add_cosines(&model, ids, &mut cosines);
        tokens += ids.len();
    }
    Ok(cosines.into_iter().map(|sum| 1.0 - sum / tokens.max(1) as f64).collect())
}

fn add_cosines(model: &Decoder, ids: &[u32], cosines: &mut [f64]) {
    let positions: Vec<u32> = (0..ids.len() as u32).collect();
    let lengths = vec![ids.len() as u32; ids.len()];
    let mut watch = Watch { inner: Batched::causal(1), before: Vec::new(), cosines };
    model.forward(Tokens { ids, positions: &positions, lengths: &lengths }, &mut watch);
}

/// Sums up the cosines between the hidden states before and after each layer.
struct Watch<'a> {
    inner: Batched,
    before: Vec<f32>,
    cosines: &'a mut [f64],
}

impl Attend for Watch<'_> {
    fn attend(&mut self, site: &Site, queries: Tensor<3>, keys: Tensor<3>, values: Tensor<3>) -> Tensor<2> {
        self.inner.attend(site, queries, keys, values)
    }

    fn observe(&mut self, layer: usize, hidden: &mut dyn FnMut() -> Tensor<2>) {
        let hidden = op::host(hidden());
        if layer > 0 {
            let rows =
                self.before.chunks_exact(hidden.width()).zip(hidden.data().chunks_exact(hidden.width()));
            self.cosines[layer - 1] += rows.map(|(a, b)| cosine(a, b)).sum::<f64>();
        }
        self.before = hidden.into_vec();
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let lengths = (dot(a, a) * dot(b, b)).sqrt();
    if lengths > 0.0 { dot(a, b) / lengths } else { 1.0 }
}
