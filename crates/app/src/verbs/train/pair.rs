//! `whit train` of a recipe for a pair of encoders.

use burn::tensor::Device;
use whit::train::pair::{self, Contrast, save_pair};
use whit::train::recipes::Pairing;

use super::{Arguments, Trained, learn};
use crate::context::Context;
use crate::error::AppError;

const ABOUT: &str =
    "Two small encoders that put scenes of the toy world and their captions into one space, as CLIP does.";

/// Trains, measures and writes the pair with its card.
pub fn run(recipe: &Pairing, arguments: &Arguments, context: &Context) -> Result<(), AppError> {
    if arguments.data.is_some() {
        let why = format!("{} learns from the toy world, whose captions tell all of a picture", recipe.id);
        return Err(AppError::input(why, "leave --data out"));
    }
    let mut settings = (recipe.settings)();
    settings.settings = arguments.schedule(settings.settings);
    let folder = arguments.folder(recipe.id);
    let scenes = settings.scenes()?;
    let path = folder.join("tokenizer.json");
    let tokenizer = settings.tokenizer(&scenes[0], &path)?;
    let contrast = Contrast::new(&settings, &scenes, &tokenizer);
    let model = settings.model(&tokenizer, &Device::flex().autodiff())?;
    let outcome = learn(&contrast, model, (settings.settings, &folder), arguments, context)?;
    let figures = pair::measure(&outcome.model, &settings, &contrast)?;
    let model = folder.join("model");
    let words = std::fs::read(&path).map_err(AppError::file("read", &path))?;
    save_pair(&model, &outcome.model, &settings.config_json(&tokenizer), &words)?;
    let trained = Trained {
        id: recipe.id,
        model: &model,
        settings: &settings.settings,
        seed: settings.seed,
        done: (outcome.step, outcome.seconds),
        rows: figures.rows(),
    };
    let card = trained.card(ABOUT, ("pairs", settings.batch), "");
    trained.conclude(&card, &figures, context)
}
