//! `whit train` of a recipe for an encoder of texts.

use burn::tensor::Device;
use whit::train::export::save_encoder;
use whit::train::recipes::Sentences;
use whit::train::sentences::{self, Nearness};

use super::{Arguments, Trained, learn};
use crate::context::Context;
use crate::error::AppError;

/// Trains, measures and writes the encoder with its card.
pub fn run(recipe: &Sentences, arguments: &Arguments, context: &Context) -> Result<(), AppError> {
    if arguments.data.is_some() {
        let why =
            format!("{} learns from made-up topics, of which it is known what belongs together", recipe.id);
        return Err(AppError::input(why, "leave --data out"));
    }
    let mut settings = (recipe.settings)();
    settings.settings = arguments.schedule(settings.settings);
    let folder = arguments.folder(recipe.id);
    let path = folder.join("tokenizer.json");
    let tokenizer = settings.tokenizer(&path)?;
    let nearness = Nearness::new(&settings, &tokenizer);
    let model = settings.model(&tokenizer, &Device::flex().autodiff())?;
    let outcome = learn(&nearness, model, (settings.settings, &folder), arguments, context)?;
    let figures = sentences::measure(&outcome.model, &nearness)?;
    let model = folder.join("model");
    let words = std::fs::read(&path).map_err(AppError::file("read", &path))?;
    save_encoder(&model, &outcome.model, &settings.config_json(&tokenizer), &words)?;
    let trained = Trained {
        id: recipe.id,
        model: &model,
        settings: &settings.settings,
        seed: settings.seed,
        done: (outcome.step, outcome.seconds),
        rows: figures.rows(),
    };
    let [shortest, longest] = settings.words;
    let about = format!(
        "A small encoder of texts about made-up topics, trained on texts of {shortest} to {longest} words."
    );
    let card = trained.card(&about, ("pairs", settings.batch), "");
    trained.conclude(&card, &figures, context)
}
