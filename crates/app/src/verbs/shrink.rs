use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Serialize;
use whit::load::{Dtype, ModelFiles, TensorInfo, gguf};
use whit::measure;
use whit::models;
use whit::nn::vars::Precision;
use whit_kernels::linear::WeightType;

use crate::context::Context;
use crate::error::AppError;
use crate::interrupt;
use crate::model;

/// Write a model in a smaller form
#[derive(Debug, Args)]
pub struct Arguments {
    /// A model folder, a .gguf file, or a name on the hub (owner/name)
    #[arg(short, long, value_name = "DIR|FILE|NAME")]
    model: String,

    /// The format to write
    #[arg(long, value_enum, default_value_t = Format::Gguf)]
    to: Format,

    /// Weight type: f32, f16, bf16, q8_0, q4_0, q4_k, q5_k, q6_k or the mixture q4_k_m
    #[arg(long = "type", default_value = "q4_k_m", value_name = "TYPE")]
    kind: String,

    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,

    /// Never use the network
    #[arg(long)]
    offline: bool,
}

/// A format that models can be written in.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// One file, for llama.cpp and Whit
    Gguf,
}

#[derive(Serialize)]
struct Shrunk {
    out: String,
    bytes_before: u64,
    bytes_after: u64,
}

pub fn run(arguments: Arguments, context: &Context) -> Result<(), AppError> {
    interrupt::flag();
    let options = whit::load::Options { offline: arguments.offline, ..Default::default() };
    let files = whit::load::open(&arguments.model, &options)?;
    let Format::Gguf = arguments.to;
    let choose = choice(&arguments.kind, &files)?;
    let bar = model::bar(files.weights.names().len() as u64, "writing");
    gguf::export(&files, &arguments.out, choose, |done, all| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
        interrupt::check().is_ok()
    })?;
    bar.finish_and_clear();
    let after = std::fs::metadata(&arguments.out).map_err(AppError::file("read", &arguments.out))?.len();
    let before = files.weights.total_bytes();
    let out = arguments.out.display().to_string();
    let text = || {
        let factor = before as f64 / after.max(1) as f64;
        format!("{out}: {}, {factor:.2} times smaller than {}", measure::bytes(after), measure::bytes(before))
    };
    context.emit(&Shrunk { out: out.clone(), bytes_before: before, bytes_after: after }, text)
}

/// The type of each matrix.
fn choice(kind: &str, files: &ModelFiles) -> Result<impl Fn(&str, &TensorInfo) -> Dtype + use<>, AppError> {
    let layers = models::facts(&files.config)?.layers;
    let plain = match kind {
        "f16" => Some(Dtype::F16),
        "f32" => Some(Dtype::F32),
        "bf16" => Some(Dtype::Bf16),
        _ => None,
    };
    let precision = match plain {
        Some(_) => Precision::Fixed(WeightType::F32),
        None => models::precision(kind, layers).map_err(|_| {
            AppError::input(format!("--type does not take `{kind}`"), "see `whit shrink --help`")
        })?,
    };
    Ok(move |name: &str, info: &TensorInfo| {
        let inputs = info.shape.last().copied().unwrap_or(1);
        plain.unwrap_or_else(|| stored(precision.for_matrix(name, inputs, || WeightType::Q8_0)))
    })
}

/// How GGUF stores a weight type; 8-bit integers become its own 8-bit blocks or, where these do not
/// fit, half floats.
fn stored(kind: WeightType) -> Dtype {
    match kind {
        WeightType::F32 => Dtype::F32,
        WeightType::Bf16 => Dtype::Bf16,
        WeightType::Int8 => Dtype::F16,
        WeightType::Q4_0 => Dtype::Q4_0,
        WeightType::Q8_0 => Dtype::Q8_0,
        WeightType::Q4K => Dtype::Q4K,
        WeightType::Q5K => Dtype::Q5K,
        WeightType::Q6K => Dtype::Q6K,
    }
}
