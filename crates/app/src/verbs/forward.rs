//! `whit forward`: one forward pass from file to file, under the peer's own names.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;
use whit::load::safetensors::{self, Safetensors};
use whit::load::{self, RawTensor};
use whit::methods::{Plan, Selection};
use whit::models;
use whit::nn::vars::Storage;

use crate::context::Context;
use crate::device::DeviceName;
use crate::error::AppError;
use crate::output;

/// Run one forward pass of a model on tensors from a file
///
/// Inputs and outputs are safetensors files whose tensors are named as the arguments and output fields of
/// transformers' models: `input_ids`, `attention_mask`, `position_ids` and `token_type_ids` go in, as the model takes them; `logits`,
/// `last_hidden_state`, `pooler_output` and `hidden_states.0`, `hidden_states.1`, ... come out, all in f32.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// A model folder, a .gguf file, or owner/name on the hub
    #[arg(long)]
    model: String,

    /// The safetensors file that holds the inputs
    #[arg(long, value_name = "FILE")]
    input: PathBuf,

    /// The safetensors file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,

    /// In which type the weights are kept: native, f32, bf16, int8, q8_0, q4_k_m, ...
    #[arg(long, default_value = "f32", value_name = "TYPE")]
    dtype: String,

    /// Never use the network
    #[arg(long)]
    offline: bool,

    /// Switch a method on; may be repeated
    #[arg(long, value_name = "METHOD[:KNOB=VALUE,...]")]
    with: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Report {
    model: String,
    written: PathBuf,
    outputs: Vec<Output>,
}

#[derive(Debug, Serialize)]
struct Output {
    name: String,
    shape: Vec<usize>,
    largest: f32,
}

pub fn run(arguments: Arguments, context: &Context) -> Result<(), AppError> {
    let options = load::Options { offline: arguments.offline, ..Default::default() };
    let files = load::open(&arguments.model, &options)?;
    let storage = storage(&arguments.dtype, &files.config, context)?;
    let model = models::network(&files.config, files.weights.as_ref(), &storage, &|_| {})?;
    let plan = Plan::new(&Selection::parse(&arguments.with)?, &models::facts(&files.config)?)?.live()?;
    let outputs = model.forward_with(&Safetensors::open(&arguments.input)?, &plan)?;
    let named: Vec<_> = outputs.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    safetensors::save(&arguments.out, &named, &BTreeMap::from([("format".to_owned(), "pt".to_owned())]))?;

    let outputs = outputs.iter().map(|(name, tensor)| describe(name, tensor)).collect::<Result<_, _>>()?;
    let report = Report { model: files.origin.to_string(), written: arguments.out, outputs };
    context.emit(&report, || table(&report))
}

/// Packed for the processor's kernels, dense in f32 elsewhere.
fn storage(dtype: &str, config: &serde_json::Value, context: &Context) -> Result<Storage, AppError> {
    if context.device != DeviceName::Cpu {
        return Ok(Storage::Dense(context.device.open()));
    }
    let layers = models::facts(config)?.layers;
    let precision = models::precision(dtype, layers)
        .map_err(|message| AppError::input(message, "f32 is the default and the exact one"))?;
    Ok(Storage::Packed(precision))
}

fn describe(name: &str, tensor: &RawTensor) -> Result<Output, AppError> {
    let values = tensor.to_f32(name)?;
    let largest = values.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    Ok(Output { name: name.to_owned(), shape: tensor.shape.clone(), largest })
}

fn table(report: &Report) -> String {
    let rows = report.outputs.iter().map(|output| {
        vec![output.name.clone(), format!("{:?}", output.shape), format!("{:.4}", output.largest)]
    });
    let table = output::table(&["output", "shape", "largest value"], rows);
    format!("{table}\n\nwritten to {}", report.written.display())
}
