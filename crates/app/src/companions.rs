//! The options that give methods what they need besides the model.

use std::path::Path;
use std::sync::Arc;

use clap::Args;
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
    /// A smaller model with the same vocabulary, for methods that need one
    #[arg(long, value_name = "DIR|FILE|NAME")]
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
            let files = load::open(name, options)?;
            let decoder = if dry { None } else { Some(decoder(&files, context)?) };
            companions.draft = Some(DraftModel::new(&files, decoder)?);
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

fn decoder(files: &ModelFiles, context: &Context) -> Result<Decoder, AppError> {
    let total = (models::architecture(&files.config)?.config)(&files.config)
        .map_err(models::ModelError::from)?
        .parameters();
    let bar = bar(total, "loading the draft model");
    let storage = context.device.storage(Precision::Native);
    let decoder =
        models::decoder(&files.config, files.weights.as_ref(), &storage, &|values| bar.inc(values as u64));
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
