//! The tour's second half: scenes of the toy world, named by the embedded white-box transformer with all their patches
//! and with those merged that are alike.

use whit::embed::Classifier;
use whit::embed::trace::{self, Trace};
use whit::load::image::Picture;
use whit::measure::record::Setting;
use whit::measure::text::Variant;
use whit::measure::vision::{Labelled, VisionRecord, VisionTask};
use whit::measure::write;
use whit::methods::Plan;
use whit::methods::reducers::{Passes, Recorder};
use whit::models;
use whit::nn::vars::{Precision, Storage};

use super::plan;
use crate::embedded::TOY_CRATE;
use crate::error::AppError;
use crate::output;
use crate::scenes::Scenes;

const METHOD: &str = "tome:r=8";
/// Scenes that are shown.
const SHOWN: usize = 3;
/// Scenes of a batch, and batches, that are measured.
const BATCH: usize = 16;
const BATCHES: usize = 6;

/// What was found of the scenes.
pub struct Pictures {
    pub records: Vec<VisionRecord>,
    trace: Trace,
    plan: Plan,
    /// What the shown scenes are of.
    truth: Vec<String>,
}

/// A scene as a picture, and its class.
type Scene = (Picture, usize);

pub fn run() -> Result<Pictures, AppError> {
    let files = TOY_CRATE.open()?;
    let facts = models::facts(&files.config)?;
    let classifier = Classifier::new(&files, &Storage::Packed(Precision::Native))?;
    let (plain, merging) = (plan(&[], &facts)?, plan(&[METHOD], &facts)?);
    let held_out = Scenes::new(&classifier)?;
    let scenes: Vec<Scene> = (0..BATCH * BATCHES).map(|number| held_out.picture(number)).collect();
    let trace = traced(&scenes[..SHOWN], &classifier, &merging)?;
    let truth = scenes[..SHOWN].iter().map(|(_, class)| classifier.labels()[*class].clone()).collect();
    let setting = Setting::here(TOY_CRATE.name.into(), "native".into(), true, BATCHES);
    let task = VisionTask { model: classifier.images(), setting };
    let mut batches = scenes.chunks(BATCH);
    let mut next = || -> Result<Option<Labelled>, AppError> {
        let batch = batches.next();
        Ok(batch.map(|batch| (batch.iter().map(|scene| scene.0.clone()).collect(), Some(classes(batch)))))
    };
    let variant = Variant { name: METHOD.into(), plan: merging.clone() };
    let records = task.measure(plain, vec![variant], &mut next)?;
    Ok(Pictures { records, trace, plan: merging, truth })
}

fn classes(batch: &[Scene]) -> Vec<usize> {
    batch.iter().map(|scene| scene.1).collect()
}

fn traced(scenes: &[Scene], classifier: &Classifier, plan: &Plan) -> Result<Trace, AppError> {
    let config = classifier.images().model().config().clone();
    let (passes, recorder) = (Passes::new(plan, config.specials()), Recorder::new(config.layers));
    let pictures: Vec<Picture> = scenes.iter().map(|scene| scene.0.clone()).collect();
    let before = classifier.classify(&pictures, usize::MAX, &mut |_| None);
    let after = classifier.classify(&pictures, 3, &mut |images| Some(passes.watched(images, &recorder)));
    passes.finish()?;
    let mut trace = Trace::new(TOY_CRATE.name.to_owned(), config);
    let found = before.into_iter().zip(after).zip(recorder.take());
    for ((picture, (_, class)), ((before, after), history)) in pictures.iter().zip(scenes).zip(found) {
        trace.add(format!("a {}", classifier.labels()[*class]), picture, history, [before, after]);
    }
    Ok(trace)
}

impl Pictures {
    /// What is said in the terminal.
    pub fn text(&self) -> String {
        let guess = |(image, truth): (&trace::Traced, &String)| {
            let [before, after] = image.classes.each_ref().map(|classes| {
                classes
                    .first()
                    .map_or(String::new(), |best| format!("{} {:.0} %", best.label, 100.0 * best.probability))
            });
            vec![truth.clone(), before, after]
        };
        let guesses = self.trace.images.iter().zip(&self.truth).map(guess);
        let guesses = output::table(&["picture of", "plain", METHOD], guesses);
        let table = output::records(&self.records);
        format!(
            "The embedded white-box transformer named pictures with all their patches, and with {METHOD}:\n\n{guesses}\n\n{table}"
        )
    }

    /// What is said on the page.
    pub fn section(&self) -> Result<String, AppError> {
        let sections = trace::sections(&self.trace, &self.plan).map_err(AppError::image)?;
        Ok(format!("<h2>The pictures</h2>{}{sections}", write::table(&self.records)))
    }
}
