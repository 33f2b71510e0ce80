//! `whit calibrate diffrate`: how many tokens each block of a vision transformer can spare.

use std::path::PathBuf;

use burn::tensor::Device;
use clap::Args;
use serde_json::json;
use whit::load;
use whit::load::image::Preprocessor;
use whit::measure::macs::VisionCost;
use whit::methods::reducers::rates::Rates;
use whit::models;
use whit::nn::vars::Storage;
use whit::train::rates::{self, Search, Step};
use whit::train::vision::Samples;

use super::train::progress_bar;
use crate::context::Context;
use crate::error::AppError;
use crate::output;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// A folder with a vision transformer that sorts images into classes
    #[arg(long, value_name = "DIR|NAME")]
    model: String,

    /// A folder of images, which need no labels: the model's own answers are learnt from [default: scenes of the
    /// toy world]
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,

    /// The wanted cost, as a share of the cost with all tokens
    #[arg(long, default_value_t = Search::default().keep)]
    keep: f64,

    /// Steps
    #[arg(long, default_value_t = Search::default().steps, value_parser = clap::value_parser!(u64).range(1..))]
    steps: u64,

    /// Images of a step
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,

    /// Patches between two candidates
    #[arg(long, default_value_t = Search::default().granularity)]
    granularity: usize,

    /// Merge tokens and prune none, for where the class token's attention is a poor guide
    #[arg(long)]
    merge_only: bool,

    /// The learning rate
    #[arg(long, default_value_t = Search::default().learning_rate)]
    learning_rate: f32,

    /// The schedule to write
    #[arg(long, value_name = "FILE", default_value = "schedule.json")]
    out: PathBuf,

    /// Never use the network
    #[arg(long)]
    offline: bool,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<(), AppError> {
    let options = load::Options { offline: arguments.offline, ..load::Options::default() };
    let files = load::open(&arguments.model, &options)?;
    let device = Device::flex().autodiff();
    let storage = Storage::Dense(device.clone());
    let model = models::vision::vision(&files.config, files.weights.as_ref(), &storage, &|_| {})?;
    let cost = VisionCost::of(model.config());
    let preprocessor = match files.origin.folder() {
        Some(folder) => Preprocessor::open(folder).map_err(AppError::image)?,
        None => None,
    };
    let preprocessor = preprocessor.unwrap_or_else(|| Preprocessor::vit(model.config().image[0]));
    let colours = preprocessor.normalise.unwrap_or(([0.0; 3], [1.0; 3]));
    let (images, batch) = (arguments.images.as_deref(), arguments.batch.into());
    let samples = Samples::open(images, model.config().image, batch, colours)?;
    let search = Search {
        keep: arguments.keep,
        steps: arguments.steps,
        granularity: arguments.granularity,
        learning_rate: arguments.learning_rate,
        merge_only: arguments.merge_only,
        ..Search::default()
    };
    let bar = progress_bar(if context.json { 0 } else { search.steps });
    let mut report = |step: &Step| {
        bar.set_position(step.step);
        bar.set_message(format!("loss {:.3}  cost {:.3}", step.loss, step.cost));
    };
    let learnt = rates::learn(model, search, &mut |step| samples.batch(step, &device), &mut report)?;
    bar.finish_and_clear();
    std::fs::write(&arguments.out, learnt.to_json()).map_err(AppError::file("write", &arguments.out))?;
    print(&learnt, &cost, arguments, context)
}

fn print(rates: &Rates, cost: &VisionCost, arguments: &Arguments, context: &Context) -> Result<(), AppError> {
    let left = rates.left();
    let value = json!({
        "method": "diffrate", "schedule": arguments.out, "prune": rates.prune, "merge": rates.merge,
        "macs": cost.reduced(&left), "dense_macs": cost.dense(), "saved": cost.saved(&left),
    });
    context.emit(&value, || {
        let row = |block: usize| {
            let [prune, merge] = rates.block(block);
            [block + 1, prune, merge, left[block]].map(|count| count.to_string()).to_vec()
        };
        let table =
            output::table(&["block", "left by pruning", "by merging", "tokens"], (0..left.len()).map(row));
        format!(
            "{table}\n\n{:.1} % of the operations are saved. Use it with --with diffrate:schedule={}",
            100.0 * cost.saved(&left),
            arguments.out.display()
        )
    })
}
