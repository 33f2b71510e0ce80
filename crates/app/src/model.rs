//! The options with which a model is chosen, and opening it.

use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use whit::generate::text::TextModel;
use whit::load::{self, ModelFiles, Options};
use whit::methods::{ModelFacts, Plan, Selection};
use whit::models;
use whit::nn::vars::Storage;

use crate::companions::CompanionArguments;
use crate::context::Context;
use crate::error::AppError;

/// Which model, and in which form.
#[derive(Clone, Debug, Args)]
pub struct ModelArguments {
    /// A model folder, a .gguf file, or a name on the hub (owner/name)
    #[arg(short, long, value_name = "DIR|FILE|NAME")]
    pub model: String,

    /// Weight type: native, f32, bf16, int8, q8_0, q4_0, q4_k, q5_k, q6_k or q4_k_m
    #[arg(long, default_value = "native")]
    pub dtype: String,

    /// Never use the network
    #[arg(long)]
    pub offline: bool,

    /// Branch, tag or commit on the hub
    #[arg(long)]
    pub revision: Option<String>,
}

/// Which methods.
#[derive(Clone, Debug, Args)]
pub struct MethodArguments {
    /// Switch a method on; may be repeated
    #[arg(long, value_name = "METHOD[:KNOB=VALUE,...]")]
    pub with: Vec<String>,

    /// Print the plan and stop
    #[arg(long)]
    pub dry_run: bool,

    #[command(flatten)]
    pub companions: CompanionArguments,
}

impl ModelArguments {
    /// Finds the model's files; nothing large is read.
    pub fn files(&self) -> Result<ModelFiles, AppError> {
        Ok(load::open(&self.model, &self.options())?)
    }

    /// How models may be found.
    pub fn options(&self) -> Options {
        Options { offline: self.offline, revision: self.revision.clone(), ..Options::default() }
    }

    /// Reads the model, with a progress bar where somebody watches.
    pub fn open(&self, files: ModelFiles, context: &Context) -> Result<TextModel, AppError> {
        let storage = self.storage(&files, context)?;
        let total: u64 = files
            .weights
            .names()
            .iter()
            .filter_map(|name| files.weights.info(name))
            .map(|info| info.shape.iter().product::<usize>() as u64)
            .sum();
        let bar = bar(total, "loading");
        let model = TextModel::new(files, &storage, &|values| bar.inc(values as u64));
        bar.finish_and_clear();
        Ok(model?)
    }

    /// The plan of the methods `with` on the model that `files` hold, where no second model is wanted.
    pub fn live_plan(&self, with: &[String], files: &ModelFiles) -> Result<Plan, AppError> {
        Ok(Plan::new(&Selection::parse(with)?, &models::facts(&files.config)?)?.live()?)
    }

    /// The form in which the weights are kept.
    pub fn storage(&self, files: &ModelFiles, context: &Context) -> Result<Storage, AppError> {
        let facts = models::facts(&files.config)?;
        let precision = models::precision(&self.dtype, facts.layers)
            .map_err(|message| AppError::input(message, "see `whit generate --help`"))?;
        Ok(context.device.storage(precision))
    }
}

impl MethodArguments {
    /// Checks the methods against each other and the model, which `model` names and `files` hold.
    pub fn plan(
        &self,
        model: &ModelArguments,
        files: &ModelFiles,
        context: &Context,
    ) -> Result<Plan, AppError> {
        let wanted = Selection::parse(&self.with)?;
        // The draft model has a name of its own; a revision is the main model's.
        let options = Options { revision: None, ..model.options() };
        let companions = self.companions.open(files, &options, self.dry_run, context)?;
        let facts = ModelFacts { companions, ..models::facts(&files.config)? };
        Ok(Plan::new(&wanted, &facts)?.live()?)
    }
}

/// A progress bar of `total` steps that appears only when somebody watches and it takes a while.
pub fn bar(total: u64, message: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {bar:32} {percent:>3} %  {eta} left");
    let bar = ProgressBar::new(total).with_message(message);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
