//! `whit train` of a recipe for a masked autoencoder of pictures.

use burn::tensor::Device;
use whit::train::export::save_autoencoder;
use whit::train::mae::{self, Autoencoding};
use whit::train::recipes::Classifier;

use super::{Arguments, Trained, learn};
use crate::context::Context;
use crate::error::AppError;

const ABOUT: &str = "A small white-box masked autoencoder for showing what Whit's methods do on a model that was really \
                     trained.";

/// Trains, measures and writes the model with its card.
pub fn run(recipe: &Classifier, arguments: &Arguments, context: &Context) -> Result<(), AppError> {
    let mut settings = (recipe.settings)();
    settings.settings = arguments.schedule(settings.settings);
    let folder = arguments.folder(recipe.id);
    let objective = Autoencoding::new(&settings, arguments.data.as_deref())?;
    let model = mae::model(&settings, &Device::flex().autodiff())?;
    let outcome = learn(&objective, model, (settings.settings, &folder), arguments, context)?;
    let figures = mae::measure(&outcome.model, &objective)?;
    let model = folder.join("model");
    save_autoencoder(&model, &outcome.model, &settings.config)?;
    let trained = Trained {
        id: recipe.id,
        model: &model,
        settings: &settings.settings,
        seed: settings.seed,
        done: (outcome.step, outcome.seconds),
        rows: figures.rows(),
    };
    let card = trained.card(ABOUT, ("pictures", settings.batch), "");
    trained.conclude(&card, &figures, context)
}
