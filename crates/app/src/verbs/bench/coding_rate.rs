//! `whit bench coding-rate`: what the layers of a white-box transformer compress and how sparse they leave it.

use std::path::PathBuf;

use burn::tensor::Device;
use clap::Args;
use serde_json::json;
use whit::load::image::Preprocessor;
use whit::load::{self, write_atomic};
use whit::measure::coding_rate::{CodingRates, LayerRate};
use whit::models;
use whit::nn::vars::{Precision, Storage};
use whit::train::vision::Samples;

use crate::context::Context;
use crate::error::AppError;
use crate::output;

#[derive(Debug, Args)]
pub struct Arguments {
    /// A white-box transformer for images (`"model_type": "crate"`): a folder, or owner/name on the hub
    #[arg(long, value_name = "DIR|NAME")]
    model: String,

    /// A folder of images [default: scenes of the toy world]
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,

    /// Images to look at
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    count: u32,

    /// Write a page with plots
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// Never use the network
    #[arg(long)]
    offline: bool,
}

/// Images of a pass.
const BATCH: u32 = 16;

pub fn run(arguments: &Arguments, context: &Context) -> Result<(), AppError> {
    let options = load::Options { offline: arguments.offline, ..load::Options::default() };
    let files = load::open(&arguments.model, &options)?;
    let storage = Storage::Packed(Precision::Native);
    let model = models::vision::vision(&files.config, files.weights.as_ref(), &storage, &|_| {})?;
    if model.config().block.white.is_none() {
        let hint = "give a model whose config.json says `\"model_type\": \"crate\"`, as `whit train toy-crate` makes";
        return Err(AppError::input("the model has no subspaces to measure against", hint));
    }
    let preprocessor = match files.origin.folder() {
        Some(folder) => Preprocessor::open(folder).map_err(AppError::image)?,
        None => None,
    };
    let preprocessor = preprocessor.unwrap_or_else(|| Preprocessor::vit(model.config().image[0]));
    let colours = preprocessor.normalise.unwrap_or(([0.0; 3], [1.0; 3]));
    let batch = BATCH.min(arguments.count);
    let samples = Samples::open(arguments.images.as_deref(), model.config().image, batch as usize, colours)?;
    let steps = u64::from(arguments.count.div_ceil(batch));
    let pixels = |step| samples.batch(step, &Device::flex()).map(|batch| batch.pixels);
    let pixels = (0..steps).map(pixels).collect::<Result<Vec<_>, _>>()?;
    let found = CodingRates::of(&model, pixels);
    if let Some(path) = &arguments.html {
        let page = found.page(&format!("Coding rate and sparsity by layer: {}", files.origin));
        let failed = |reason| load::LoadError::io("write", path, reason);
        write_atomic(path, |file| file.write_all(page.as_bytes()).map_err(failed))?;
    }
    context.emit(&json!({ "model": arguments.model, "found": found }), || print(&found))
}

fn print(found: &CodingRates) -> String {
    let row = |one: &LayerRate| {
        vec![one.layer.to_string(), format!("{:.2}", one.rate), format!("{:.1} %", 100.0 * one.non_zero)]
    };
    let table = output::table(&["layer", "coding rate, nats", "not zero"], found.layers.iter().map(row));
    let dead = found.layers.iter().filter(|one| one.non_zero == 0.0).map(|one| one.layer.to_string());
    let dead = dead.collect::<Vec<_>>().join(", ");
    let dead = if dead.is_empty() { dead } else { format!("\nNothing but zeros leaves layer {dead}.") };
    let change = |left: f64| format!("{:+.1} %", 100.0 * (left - 1.0));
    format!(
        "{table}\n\n{} images. From the first layer to the mean of the last third: coding rate {}, values that are not \
         zero {}.{dead}",
        found.images,
        change(found.rate_left),
        change(found.non_zero_left)
    )
}
