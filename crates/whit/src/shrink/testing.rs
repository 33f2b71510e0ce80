//! A small random model for the tests of methods that change weights.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;

use super::{Calibration, Outcome, ShrinkError, shrink};
use crate::load::{Checkpoint, GenerationConfig, LoadError, ModelFiles, Origin, RawTensor, TensorInfo};
use crate::methods::{Plan, Selection};
use crate::models;
use crate::nn::decoder::{Decoder, DecoderConfig};
use crate::nn::vars::{Init, Precision, Random, Source, Storage};
use whit_kernels::linear::WeightType;

/// Tensors in memory.
#[derive(Debug)]
struct Memory(BTreeMap<String, RawTensor>);

impl Checkpoint for Memory {
    fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        self.0.get(name).map(RawTensor::info)
    }

    fn read(&self, name: &str) -> Result<RawTensor, LoadError> {
        self.0.get(name).cloned().ok_or_else(|| self.missing(name))
    }
}

/// A model of two blocks, width 64, with random weights large enough that each matters.
pub fn model(seed: u64) -> ModelFiles {
    let config = json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 96, "hidden_size": 64,
        "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 256, "tie_word_embeddings": true,
    });
    let decoder = (models::architecture(&config).unwrap().config)(&config).unwrap();
    let tensors = tensors(&decoder, &Random { seed });
    let generation = GenerationConfig::from_json(&json!({}), &config).unwrap();
    ModelFiles {
        config,
        generation,
        tokenizer: None,
        chat_template: None,
        weights: Arc::new(Memory(tensors)),
        origin: Origin::Folder("test".into()),
    }
}

/// As [`model`], with norms whose gains are 30 times as large for three of the 64 inputs, as trained models of billions
/// of parameters have them. The layers' columns for these inputs are smaller by the root of that, so that, as in trained
/// models, outputs are not made of outliers alone.
pub fn model_with_outliers(seed: u64) -> ModelFiles {
    const OUTLIERS: [usize; 3] = [3, 20, 41];
    let files = model(seed);
    let mut tensors = BTreeMap::new();
    for name in files.weights.names() {
        let mut values = files.weights.read(&name).unwrap().to_f32(&name).unwrap();
        let read =
            ["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"].iter().any(|part| name.contains(part));
        let factor = if read { 30f32.sqrt().recip() } else { 30.0 };
        if read || name.contains("layernorm") {
            values.chunks_exact_mut(64).for_each(|row| OUTLIERS.iter().for_each(|&at| row[at] *= factor));
        }
        tensors.insert(name.clone(), RawTensor::from_f32(files.weights.info(&name).unwrap().shape, &values));
    }
    ModelFiles { weights: Arc::new(Memory(tensors)), ..files }
}

fn tensors(config: &DecoderConfig, random: &Random) -> BTreeMap<String, RawTensor> {
    let mut all = BTreeMap::new();
    for matrix in config.matrices() {
        let deviation = 1.0 / (matrix.inputs as f32).sqrt();
        let init = Init::Normal(if matrix.name.contains("embed") { 1.0 } else { deviation });
        let values = random.rows(&matrix.name, 0..matrix.outputs, matrix.inputs, init).unwrap();
        all.insert(matrix.name, RawTensor::from_f32(vec![matrix.outputs, matrix.inputs], &values));
    }
    let norm = |name: String| {
        let values = random.rows(&name, 0..config.width, 1, Init::Normal(0.2)).unwrap();
        let gains: Vec<f32> = values.iter().map(|value| 1.0 + value).collect();
        (name, RawTensor::from_f32(vec![config.width], &gains))
    };
    let in_layer = |layer: usize| {
        ["input_layernorm", "post_attention_layernorm"]
            .map(|norm| format!("model.layers.{layer}.{norm}.weight"))
    };
    all.extend((0..config.layers).flat_map(in_layer).map(norm));
    all.extend([norm("model.norm.weight".into())]);
    all
}

/// Sequences of 24 tokens that follow a rule.
pub fn calibration(count: usize) -> Calibration {
    let sequence =
        |index: usize| (0..24).map(|at| ((at * at * 7 + index * 31 + at * index) % 96) as u32).collect();
    Calibration { sequences: (0..count).map(sequence).collect() }
}

/// `files` after the methods `with` (joined by `+`), calibrated on `sequences` sequences.
pub fn shrunk(files: &ModelFiles, with: &str, sequences: usize) -> Result<Outcome, ShrinkError> {
    let with: Vec<&str> = with.split('+').collect();
    let plan = Plan::new(&Selection::parse(&with)?, &models::facts(&files.config)?)?.offline()?;
    shrink(files, &plan, &calibration(sequences), &mut |_, _| true)
}

/// The network of these weights, in `f32`.
pub fn network(config: &serde_json::Value, weights: &dyn Checkpoint) -> Decoder {
    models::decoder(config, weights, &Storage::Packed(Precision::Fixed(WeightType::F32)), &|_| {}).unwrap()
}

/// The logits of a sequence. `[tokens, vocabulary]`
pub fn logits(model: &Decoder, ids: &[u32]) -> Vec<f32> {
    let shape = crate::train::windows::Shape { rows: 1, sequence: ids.len() };
    whit_kernels::op::host(crate::train::language::logits(model, ids, shape)).into_vec()
}

/// `files` after one edit that is no listed method.
pub fn edited(files: ModelFiles, edit: &mut dyn crate::methods::WeightEdit) -> ModelFiles {
    let decoder = super::decoder_config(&files).unwrap();
    let names = files.weights.names();
    let stream = super::Stream::new(&Calibration::default(), decoder.width, |_| None);
    let mut weights = super::Edited::new(files.weights.clone()).unwrap();
    for index in 0..decoder.layers {
        let mut block = super::Block::read(index, &decoder, files.weights.as_ref(), &names, &stream).unwrap();
        edit.edit(&mut block).unwrap();
        let (changed, _) = block.changes();
        changed.iter().for_each(|(name, weight)| weights.set(name, weight).unwrap());
    }
    ModelFiles { weights: Arc::new(weights), ..files }
}
