//! `whit train` of a recipe for a classifier of pictures.

use burn::tensor::Device;
use whit::methods::{ModelFacts, ModelKind, Plan, Selection};
use whit::train::export::save_vision;
use whit::train::recipes::Classifier;
use whit::train::vision::{self, Classification};

use super::{Arguments, Trained, learn};
use crate::context::Context;
use crate::error::AppError;

const ABOUT: &str =
    "A small vision transformer for showing what Whit's methods do on a model that was really trained.";

/// Trains, measures and writes the model with its card.
pub fn run(recipe: &Classifier, arguments: &Arguments, context: &Context) -> Result<(), AppError> {
    let mut settings = (recipe.settings)();
    settings.settings = arguments.schedule(settings.settings);
    let folder = arguments.folder(recipe.id);
    let pictures = settings.pictures(arguments.data.as_deref())?;
    let classes = pictures[0].classes();
    let objective = Classification::new(&settings, pictures)?;
    let model = settings.model(&classes, &Device::flex().autodiff())?;
    let outcome = learn(&objective, model, (settings.settings, &folder), arguments, context)?;
    let facts = ModelFacts { kind: ModelKind::Vision, ..ModelFacts::example() };
    let plain = Plan::new(&Selection::default(), &facts)?;
    let figures = vision::measure(&outcome.model, &objective, &plain)?;
    let model = folder.join("model");
    save_vision(&model, &outcome.model, &settings.config_json(&classes))?;
    let trained = Trained {
        id: recipe.id,
        model: &model,
        settings: &settings.settings,
        seed: settings.seed,
        done: (outcome.step, outcome.seconds),
        rows: figures.rows(),
    };
    let classes = format!("\nClasses: {}.\n", classes.join(", "));
    let card = trained.card(ABOUT, ("pictures", settings.batch), &classes);
    trained.conclude(&card, &figures, context)
}
