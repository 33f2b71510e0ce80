//! `whit train` of a recipe for a compressor.

use std::path::Path;

use burn::module::Module;
use burn::tensor::Device;
use serde_json::json;
use whit::train::card;
use whit::train::export::save_encoder;
use whit::train::recipes::Compressor;
use whit::train::squeeze::{self, Deletion, Figures};
use whit::world::corpus::Corpus;

use super::{Arguments, learn};
use crate::context::Context;
use crate::error::AppError;
use crate::output;

/// Trains, measures and writes the model with its card.
pub fn run(recipe: &Compressor, arguments: &Arguments, context: &Context) -> Result<(), AppError> {
    let mut squeeze = (recipe.settings)();
    squeeze.settings = arguments.schedule(squeeze.settings);
    let folder = arguments.folder(recipe.id);
    let corpus = match &arguments.data {
        Some(folder) => Corpus::of_folder(folder, squeeze.limits),
        None => Corpus::of_dependencies(Path::new("."), squeeze.limits),
    };
    let data = squeeze.data(&corpus.map_err(whit::train::TrainError::from)?);
    let path = folder.join("tokenizer.json");
    let tokenizer = squeeze.tokenizer(&data[0], &path)?;
    let deletion = Deletion::new(&squeeze, &data, &tokenizer)?;
    let outcome = learn(
        &deletion,
        squeeze.model(&Device::flex().autodiff())?,
        (squeeze.settings, &folder),
        arguments,
        context,
    )?;
    let figures = squeeze::measure(&outcome.model, &deletion, &data[1], tokenizer)?;
    let model = folder.join("model");
    let tokenizer = std::fs::read(&path).map_err(AppError::file("read", &path))?;
    save_encoder(&model, &outcome.model, &squeeze.config_json(), &tokenizer)?;
    let made = card::Squeezed {
        id: recipe.id,
        recipe: &squeeze,
        step: outcome.step,
        seconds: outcome.seconds,
        parameters: outcome.model.num_params(),
        distrusted: deletion.distrusted,
    };
    let card = model.join("README.md");
    std::fs::write(&card, card::squeezed(&made, &figures)).map_err(AppError::file("write", &card))?;
    let value =
        json!({ "model": model, "steps": outcome.step, "seconds": outcome.seconds, "figures": figures });
    context.emit(&value, || summary(&model, &figures))
}

fn summary(folder: &Path, figures: &Figures) -> String {
    let rows = figures.rows().into_iter().map(|(name, value)| vec![name.to_owned(), value]);
    format!(
        "{}\n\nThe model and its card are in {}.",
        output::table(&["measure", "value"], rows),
        folder.display()
    )
}
