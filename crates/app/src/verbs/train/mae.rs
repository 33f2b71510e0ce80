//! `whit train` of a recipe for a masked autoencoder of pictures.

use std::path::Path;

use burn::tensor::Device;
use serde_json::json;
use whit::train::export::save_autoencoder;
use whit::train::mae::{self, Autoencoding, Figures};
use whit::train::recipes::Classifier;
use whit::train::vision::VisionRecipe;

use super::train::{Arguments, learn};
use crate::context::Context;
use crate::error::AppError;
use crate::output;

/// Trains, measures and writes the model with its card.
pub fn run(recipe: &Classifier, arguments: &Arguments, context: &Context) -> Result<(), AppError> {
    let mut settings = (recipe.vision)();
    settings.settings.schedule.steps = arguments.steps.unwrap_or(settings.settings.schedule.steps);
    let folder = arguments.out.clone().unwrap_or_else(|| Path::new("train").join(recipe.id));
    let objective = Autoencoding::new(&settings, arguments.data.as_deref())?;
    let model = mae::model(&settings, &Device::flex().autodiff())?;
    let outcome = learn(&objective, model, (settings.settings, &folder), arguments, context)?;
    let figures = mae::measure(&outcome.model, &objective)?;
    let model = folder.join("model");
    save_autoencoder(&model, &outcome.model, &settings.config)?;
    let card = model.join("README.md");
    let text = card_of(recipe.id, &settings, (outcome.step, outcome.seconds), &figures);
    std::fs::write(&card, text).map_err(AppError::file("write", &card))?;
    let value =
        json!({ "model": model, "steps": outcome.step, "seconds": outcome.seconds, "figures": figures });
    context.emit(&value, || {
        let table = output::table(&["measure", "value"], rows(&figures));
        format!("{table}\n\nThe model and its card are in {}.", model.display())
    })
}

fn rows(figures: &Figures) -> Vec<Vec<String>> {
    let saved = 100.0 * (1.0 - figures.loss / figures.mean_patch_loss);
    let on = format!("{} pictures held out", figures.pictures);
    vec![
        vec![format!("square error in hidden patches, {on}"), format!("{:.5}", figures.loss)],
        vec!["that of the mean of the patches seen".to_owned(), format!("{:.5}", figures.mean_patch_loss)],
        vec!["below it by".to_owned(), format!("{saved:.1} %")],
        vec!["weights".to_owned(), figures.parameters.to_string()],
    ]
}

fn card_of(id: &str, recipe: &VisionRecipe, (step, seconds): (u64, f64), figures: &Figures) -> String {
    let schedule = recipe.settings.schedule;
    let table: String = rows(figures).iter().map(|row| format!("| {} | {} |\n", row[0], row[1])).collect();
    format!(
        "# {id}\n\nA small white-box masked autoencoder for showing what Whit's methods do on a model that was really \
         trained. Made by `whit train {id}`.\n\n| | |\n|---|---|\n{table}| steps | {step} of a schedule of {} |\n| \
         pictures of a step | {} |\n| learning rate | {} after {} steps, cosine to {} |\n| seed | {} |\n| time | \
         {:.0} minutes |\n",
        schedule.steps,
        recipe.batch,
        schedule.peak,
        schedule.warm_up,
        schedule.floor,
        recipe.seed,
        seconds / 60.0
    )
}
