//! `whit train` of a recipe for a pair of encoders.

use std::path::Path;

use burn::tensor::Device;
use serde_json::json;
use whit::train::pair::{self, Contrast, Figures, Pair, PairRecipe, save_pair};
use whit::train::recipes::Pairing;
use whit::train::run::Outcome;

use super::train::{Arguments, learn};
use crate::context::Context;
use crate::error::AppError;
use crate::output;

/// Trains, measures and writes the pair with its card.
pub fn run(recipe: &Pairing, arguments: &Arguments, context: &Context) -> Result<(), AppError> {
    if arguments.data.is_some() {
        let why = format!("{} learns from the toy world, whose captions tell all of a picture", recipe.id);
        return Err(AppError::input(why, "leave --data out"));
    }
    let mut settings = (recipe.pair)();
    settings.settings.schedule.steps = arguments.steps.unwrap_or(settings.settings.schedule.steps);
    let folder = arguments.out.clone().unwrap_or_else(|| Path::new("train").join(recipe.id));
    let scenes = settings.scenes()?;
    let path = folder.join("tokenizer.json");
    let tokenizer = settings.tokenizer(&scenes[0], &path)?;
    let contrast = Contrast::new(&settings, &scenes, &tokenizer);
    let outcome = learn(
        &contrast,
        settings.model(&tokenizer, &Device::flex().autodiff())?,
        (settings.settings, &folder),
        arguments,
        context,
    )?;
    let figures = pair::measure(&outcome.model, &settings, &contrast)?;
    let model = folder.join("model");
    let words = std::fs::read(&path).map_err(AppError::file("read", &path))?;
    save_pair(&model, &outcome.model, &settings.config_json(&tokenizer), &words)?;
    let card = model.join("README.md");
    std::fs::write(&card, card_of(recipe.id, &settings, &outcome, &figures))
        .map_err(AppError::file("write", &card))?;
    let value =
        json!({ "model": model, "steps": outcome.step, "seconds": outcome.seconds, "figures": figures });
    context.emit(&value, || summary(&model, &figures))
}

fn summary(folder: &Path, figures: &Figures) -> String {
    let rows = figures.rows().into_iter().map(|(name, value)| vec![name, value]);
    format!(
        "{}\n\nThe pair and its card are in {}.",
        output::table(&["measure", "value"], rows),
        folder.display()
    )
}

fn card_of(id: &str, recipe: &PairRecipe, outcome: &Outcome<Pair>, figures: &Figures) -> String {
    let schedule = recipe.settings.schedule;
    let table: String =
        figures.rows().iter().map(|(name, value)| format!("| {name} | {value} |\n")).collect();
    format!(
        "# {id}\n\nTwo small encoders that put scenes of the toy world and their captions into one space, as CLIP \
         does. Made by `whit train {id}`.\n\n| | |\n|---|---|\n{table}| steps | {} of a schedule of {} |\n\
         | pairs of a step | {} |\n| learning rate | {} after {} steps, cosine to {} |\n| seed | {} |\n\
         | time | {:.0} minutes |\n",
        outcome.step,
        schedule.steps,
        recipe.batch,
        schedule.peak,
        schedule.warm_up,
        schedule.floor,
        recipe.seed,
        outcome.seconds / 60.0,
    )
}
