//! `whit train` of a recipe for an encoder of texts.

use std::path::Path;

use burn::tensor::Device;
use serde_json::json;
use whit::train::export::save_encoder;
use whit::train::recipes::Sentences;
use whit::train::sentences::{self, Figures, Nearness};

use super::train::{Arguments, learn};
use crate::context::Context;
use crate::error::AppError;
use crate::output;

/// Trains, measures and writes the encoder with its card.
pub fn run(recipe: &Sentences, arguments: &Arguments, context: &Context) -> Result<(), AppError> {
    if arguments.data.is_some() {
        let why =
            format!("{} learns from made-up topics, of which it is known what belongs together", recipe.id);
        return Err(AppError::input(why, "leave --data out"));
    }
    let mut settings = (recipe.sentences)();
    settings.settings.schedule.steps = arguments.steps.unwrap_or(settings.settings.schedule.steps);
    let folder = arguments.out.clone().unwrap_or_else(|| Path::new("train").join(recipe.id));
    let path = folder.join("tokenizer.json");
    let tokenizer = settings.tokenizer(&path)?;
    let nearness = Nearness::new(&settings, &tokenizer);
    let model = settings.model(&tokenizer, &Device::flex().autodiff())?;
    let outcome = learn(&nearness, model, (settings.settings, &folder), arguments, context)?;
    let figures = sentences::measure(&outcome.model, &nearness)?;
    let model = folder.join("model");
    let words = std::fs::read(&path).map_err(AppError::file("read", &path))?;
    save_encoder(&model, &outcome.model, &settings.config_json(&tokenizer), &words)?;
    let card = model.join("README.md");
    let text = card_of(recipe, outcome.step, outcome.seconds, &figures);
    std::fs::write(&card, text).map_err(AppError::file("write", &card))?;
    let value =
        json!({ "model": model, "steps": outcome.step, "seconds": outcome.seconds, "figures": figures });
    context.emit(&value, || {
        let table =
            output::table(&["measure", "value"], figures.rows().into_iter().map(|row| vec![row.0, row.1]));
        format!("{table}\n\nThe model and its card are in {}.", model.display())
    })
}

fn card_of(recipe: &Sentences, steps: u64, seconds: f64, figures: &Figures) -> String {
    let table: String =
        figures.rows().iter().map(|(name, value)| format!("| {name} | {value} |\n")).collect();
    let [shortest, longest] = (recipe.sentences)().words;
    format!(
        "# {0}\n\nA small encoder of texts about made-up topics, trained on texts of {shortest} to {longest} words. Made \
         by `whit train {0}`.\n\n| | |\n|---|---|\n{table}| steps | {steps} |\n| time | {1:.0} minutes |\n",
        recipe.id,
        seconds / 60.0,
    )
}
