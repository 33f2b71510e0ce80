//! The options that give methods what they need besides the model.

use std::path::Path;
use std::sync::Arc;

use clap::Args;
use serde_json::Value;
use whit::load::{self, Checkpoint, ModelFiles, Options, Safetensors};
use whit::methods::{Companions, DraftModel, SideWeights, Vocabulary, find};
use whit::models;
use whit::nn::decoder::Decoder;
use whit::nn::vars::Precision;

use crate::context::Context;
use crate::error::AppError;
use crate::model::bar;

/// A draft model and trained weights.
#[derive(Clone, Debug, Default, Args)]
pub struct CompanionArguments {
    /// A smaller model with the same vocabulary, for methods that need one; `layers:N` takes the model's own first
    /// layers
    #[arg(long, value_name = "DIR|FILE|NAME|layers:N")]
    pub draft_model: Option<String>,

    /// Trained weights of a method; may be repeated
    #[arg(long, value_name = "METHOD=FILE")]
    pub weights: Vec<String>,
}

impl CompanionArguments {
    /// Opens what was named; in a `dry` run the draft model's tensors are not read.
    pub fn open(
        &self,
        target: &ModelFiles,
        options: &Options,
        dry: bool,
        context: &Context,
    ) -> Result<Companions, AppError> {
        let mut companions = Companions { own: Some(Vocabulary::of(target)?), ..Companions::default() };
        if let Some(name) = &self.draft_model {
            companions.draft = Some(draft_model(name, target, options, dry, context)?);
        }
        for given in &self.weights {
            let (method, path) = given.split_once('=').ok_or_else(|| {
                AppError::input(format!("cannot read --weights {given}"), "write --weights METHOD=FILE")
            })?;
            let weights = SideWeights::new(path, checkpoint(path, options)?);
            companions.weights.insert(find(method)?.id.to_owned(), weights);
        }
        Ok(companions)
    }
}

fn draft_model(
    name: &str,
    target: &ModelFiles,
    options: &Options,
    dry: bool,
    context: &Context,
) -> Result<DraftModel, AppError> {
    let load = |files: &ModelFiles, config: &Value| {
        if dry { Ok(None) } else { decoder(files, config, context).map(Some) }
    };
    let Some(layers) = name.strip_prefix("layers:") else {
        let files = load::open(name, options)?;
        return Ok(DraftModel::new(&files, load(&files, &files.config)?)?);
    };
    let layers = layers.parse().map_err(|_| {
        AppError::input(
            format!("cannot read --draft-model {name}"),
            "write --draft-model layers:N, or name a model",
        )
    })?;
    let config = models::first_layers(&target.config, layers)?;
    Ok(DraftModel::first_layers(target, &config, load(target, &config)?)?)
}

fn decoder(files: &ModelFiles, config: &Value, context: &Context) -> Result<Decoder, AppError> {
    let total =
        (models::architecture(config)?.config)(config).map_err(models::ModelError::from)?.parameters();
    let bar = bar(total, "loading the draft model");
    let storage = context.device.storage(Precision::Native);
    let decoder = models::decoder(config, files.weights.as_ref(), &storage, &|values| bar.inc(values as u64));
    bar.finish_and_clear();
    Ok(decoder?)
}

/// A safetensors file, or the tensors of a model folder.
fn checkpoint(path: &str, options: &Options) -> Result<Arc<dyn Checkpoint>, AppError> {
    if Path::new(path).is_dir() {
        return Ok(load::open(path, options)?.weights);
    }
    Ok(Arc::new(Safetensors::open(Path::new(path))?))
}
