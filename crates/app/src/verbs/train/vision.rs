//! `whit train` of a recipe for a classifier of pictures.

use std::path::Path;

use burn::tensor::Device;
use serde_json::json;
use whit::methods::{ModelFacts, ModelKind, Plan, Selection};
use whit::nn::vision::Vision;
use whit::train::export::save_vision;
use whit::train::recipes::Classifier;
use whit::train::run::Outcome;
use whit::train::vision::{self, Classification, Figures, VisionRecipe};

use super::train::{Arguments, learn};
use crate::context::Context;
use crate::error::AppError;
use crate::output;

/// Trains, measures and writes the model with its card.
pub fn run(recipe: &Classifier, arguments: &Arguments, context: &Context) -> Result<(), AppError> {
    let mut settings = (recipe.vision)();
    settings.settings.schedule.steps = arguments.steps.unwrap_or(settings.settings.schedule.steps);
    let folder = arguments.out.clone().unwrap_or_else(|| Path::new("train").join(recipe.id));
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
    let card = model.join("README.md");
    let text = card_of(recipe.id, &settings, &outcome, &figures, &classes);
    std::fs::write(&card, text).map_err(AppError::file("write", &card))?;
    let value =
        json!({ "model": model, "steps": outcome.step, "seconds": outcome.seconds, "figures": figures });
    context.emit(&value, || summary(&model, &figures))
}

fn rows(figures: &Figures) -> Vec<Vec<String>> {
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    vec![
        vec![format!("accuracy on {} pictures held out", figures.pictures), percent(figures.accuracy)],
        vec!["by guessing".to_owned(), percent(figures.chance)],
        vec!["weights".to_owned(), figures.parameters.to_string()],
    ]
}

fn summary(folder: &Path, figures: &Figures) -> String {
    format!(
        "{}\n\nThe model and its card are in {}.",
        output::table(&["measure", "value"], rows(figures)),
        folder.display()
    )
}

fn card_of(
    id: &str,
    recipe: &VisionRecipe,
    outcome: &Outcome<Vision>,
    figures: &Figures,
    classes: &[String],
) -> String {
    let schedule = recipe.settings.schedule;
    let table: String = rows(figures).iter().map(|row| format!("| {} | {} |\n", row[0], row[1])).collect();
    format!(
        "# {id}\n\nA small vision transformer for showing what Whit's methods do on a model that was really trained. \
         Made by `whit train {id}`.\n\n| | |\n|---|---|\n{table}| steps | {} of a schedule of {} |\n| pictures of a \
         step | {} |\n| learning rate | {} after {} steps, cosine to {} |\n| seed | {} |\n| time | {:.0} minutes |\n\n\
         Classes: {}.\n",
        outcome.step,
        schedule.steps,
        recipe.batch,
        schedule.peak,
        schedule.warm_up,
        schedule.floor,
        recipe.seed,
        outcome.seconds / 60.0,
        classes.join(", ")
    )
}
