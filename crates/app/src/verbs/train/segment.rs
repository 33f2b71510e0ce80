//! `whit train toy-segment`: the embedded white-box transformer with a dense head, and what methods cost it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde::Serialize;
use serde_json::{Value, json};
use whit::embed::Classifier;
use whit::load::{RawTensor, safetensors};
use whit::measure::macs::VisionCost;
use whit::measure::vision::{left, paced};
use whit::methods::{ModelFacts, Plan, Selection};
use whit::models;
use whit::nn::vars::Storage;
use whit::train::export::save_vision;
use whit::train::parameters;
use whit::train::run::Outcome;
use whit::train::segment::{self, Quality, Segmentation, Segmenter};

use super::{Arguments, learn};
use crate::context::Context;
use crate::embedded::TOY_CRATE;
use crate::error::AppError;
use crate::{output, scenes};

/// The recipe's name, and a line about it.
pub const ID: &str = "toy-segment";
pub const SUMMARY: &str = "toy-crate with a linear head that tells what each patch of a scene shows";

/// The share of the multiplications that the methods are measured at, and what is measured.
const SHARE: f64 = 0.7;
const PICTURES: usize = 1_000;
const METHODS: [&str; 5] = ["tome", "token-transforming", "evit", "top-k-prune", "random-drop"];

/// What the head finds with a method.
#[derive(Debug, Serialize)]
struct Found {
    method: String,
    saved: f64,
    quality: Quality,
}

/// Trains the head, measures it with and without methods, and writes it with its card.
pub fn run(arguments: &Arguments, context: &Context) -> Result<(), AppError> {
    let files = TOY_CRATE.open()?;
    let device = Device::flex().autodiff();
    let storage = Storage::Dense(device.clone());
    let backbone = models::vision::vision(&files.config, files.weights.as_ref(), &storage, &|_| {})?;
    let (world, held_out) = scenes::world()?;
    let task = Segmentation::new(backbone.config(), world, held_out)?;
    let folder = arguments.folder(ID);
    let settings = arguments.schedule(segment::settings());
    let untrained = Segmenter::new(backbone, &device);
    let outcome = learn(&task, untrained, (settings, &folder), arguments, context)?;
    let classifier = Classifier::new(&files, &Storage::Dense(Device::flex()))?;
    let task = (&task, held_out.min(PICTURES));
    let found = measure(task, &outcome.model, &classifier, &models::facts(&files.config)?)?;
    let model = write(&folder, &outcome, &files.config, &found)?;
    let value = json!({ "model": model, "steps": outcome.step, "seconds": outcome.seconds, "found": found });
    context.emit(&value, || {
        let table = output::table(&HEAD, found.iter().map(row));
        format!("{table}\n\nThe head and its card are in {}.", model.display())
    })
}

fn measure(
    (task, pictures): (&Segmentation, usize),
    model: &Segmenter,
    classifier: &Classifier,
    facts: &ModelFacts,
) -> Result<Vec<Found>, AppError> {
    let images = classifier.images();
    let found = |method: String, plan: &Plan| -> Result<Found, AppError> {
        let saved = VisionCost::of(images.model().config()).saved(&left(images, plan)?);
        Ok(Found { method, saved, quality: task.quality(model, plan, pictures)? })
    };
    let plan =
        |methods: &[String]| -> Result<Plan, AppError> { Ok(Plan::new(&Selection::parse(methods)?, facts)?) };
    let mut all = vec![found("plain".into(), &plan(&[])?)?];
    for method in METHODS {
        let listed = |list: &str| plan(&[format!("{method}:list={list}")]);
        let list = paced(images, SHARE, &listed)?;
        all.push(found(format!("{method}:list={list}"), &listed(&list)?)?);
    }
    Ok(all)
}

const HEAD: [&str; 4] = ["method", "multiplications saved", "mean IoU", "patches right"];

fn row(found: &Found) -> Vec<String> {
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let Found { method, saved, quality } = found;
    vec![method.clone(), percent(*saved), percent(quality.mean_iou), percent(quality.accuracy)]
}

/// Writes the transformer, `head.safetensors` with the head's `weight` and `bias`, and the card.
fn write(
    folder: &Path,
    outcome: &Outcome<Segmenter>,
    config: &Value,
    found: &[Found],
) -> Result<PathBuf, AppError> {
    let folder = folder.join("model");
    save_vision(&folder, &outcome.model.backbone, config)?;
    let mut tensors = Vec::new();
    parameters::read(&outcome.model.head, |name, shape, values| {
        tensors.push((name.to_owned(), RawTensor::from_f32(shape, &values)));
    });
    let named: Vec<_> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    safetensors::save(&folder.join("head.safetensors"), &named, &BTreeMap::new())?;
    let card = folder.join("README.md");
    let table: String = found.iter().map(|found| format!("| {} |\n", row(found).join(" | "))).collect();
    let text = format!(
        "# {ID}\n\nToy-crate, trained on to tell what each patch of a scene shows, with a linear layer for it \
         (`head.safetensors`). Made by `whit train {ID}` in {} steps and {:.0} seconds. Methods are undone before the layer: \
         what was merged gets the state of the token that it went into, what was dropped keeps the state in which it was \
         dropped.\n\n| {} |\n|---|---|---|---|\n{table}\nClasses: {}.\n",
        outcome.step,
        outcome.seconds,
        HEAD.join(" | "),
        Segmentation::classes().join(", ")
    );
    std::fs::write(&card, text).map_err(AppError::file("write", &card))?;
    Ok(folder)
}
