//! `whit classify`: what an image shows.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use whit::embed::{Classified, Classifier};
use whit::load::ModelFiles;
use whit::load::image::Picture;
use whit::methods::reducers::Passes;

use crate::context::Context;
use crate::error::AppError;
use crate::model::ModelArguments;
use crate::output;
use crate::trace::Tracing;

/// Say what images show
///
/// With a classifier (ViT, DeiT, DINOv2) of its own classes; with CLIP and --labels of any classes that a few
/// words describe. A folder stands for the images in it.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Images, or folders of them
    #[arg(required = true, value_name = "IMAGE|FOLDER")]
    images: Vec<PathBuf>,

    #[command(flatten)]
    model: ModelArguments,

    /// Switch a method on; may be repeated
    #[arg(long, value_name = "METHOD[:KNOB=VALUE,...]")]
    with: Vec<String>,

    /// How many classes to show, the likeliest first
    #[arg(long, default_value_t = 5, value_name = "COUNT")]
    top: usize,

    /// With CLIP: the classes, parted by commas
    #[arg(long, value_name = "LABEL,...", value_delimiter = ',')]
    labels: Vec<String>,

    /// With --labels: the text that describes a class, with the label in place of {}
    #[arg(long, default_value = "a photo of a {}", value_name = "TEXT")]
    template: String,

    /// Also write a page that shows which patches the methods merged or dropped; a folder gets maps as PNG too
    #[arg(long, value_name = "FILE|FOLDER/")]
    trace: Option<PathBuf>,

    /// Images that go through the model together
    #[arg(long, default_value_t = 8, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
}

#[derive(Debug, Serialize)]
struct Report {
    image: String,
    classes: Classified,
}

pub fn run(arguments: Arguments, context: &Context) -> Result<(), AppError> {
    let images = images(&arguments.images)?;
    let files = arguments.model.files()?;
    let plan = arguments.model.live_plan(&arguments.with, &files)?;
    let classifier = arguments.classifier(&files, context)?;
    let passes = Passes::new(&plan, classifier.images().model().config().specials());
    let mut tracing = arguments.tracing(&classifier)?;
    let mut reports = Vec::with_capacity(images.len());
    for batch in images.chunks(usize::from(arguments.batch)) {
        let pictures = batch.iter().map(|path| Picture::open(path)).collect::<Result<Vec<_>, _>>();
        let pictures = pictures.map_err(AppError::image)?;
        let mut begin = |images| match &tracing {
            Some(tracing) => Some(tracing.begin(&passes, images)),
            None => passes.begin(images),
        };
        let classified = classifier.classify(&pictures, arguments.top, &mut begin);
        passes.finish()?;
        let names: Vec<String> = batch.iter().map(|path| path.display().to_string()).collect();
        if let Some(tracing) = &mut tracing {
            let plain = classifier.classify(&pictures, usize::MAX, &mut |_| None);
            let found = names.iter().zip(&pictures).zip(plain.into_iter().zip(&classified));
            let found =
                found.map(|((name, picture), (plain, with))| (name.as_str(), picture, [plain, with.clone()]));
            tracing.take(found, classifier.images());
        }
        let report = |(image, classes)| Report { image, classes };
        reports.extend(names.into_iter().zip(classified).map(report));
    }
    if let Some(tracing) = &tracing {
        tracing.write(&plan)?;
    }
    context.emit(&reports, || table(&reports))
}

impl Arguments {
    fn tracing(&self, classifier: &Classifier) -> Result<Option<Tracing>, AppError> {
        let new = |path: &PathBuf| Tracing::new(path, &self.model.model, classifier.images());
        self.trace.as_ref().map(new).transpose()
    }

    fn classifier(&self, files: &ModelFiles, context: &Context) -> Result<Classifier, AppError> {
        let storage = self.model.storage(files, context)?;
        let labels: Vec<String> = self
            .labels
            .iter()
            .map(|label| label.trim().to_owned())
            .filter(|label| !label.is_empty())
            .collect();
        if labels.is_empty() {
            return Ok(Classifier::new(files, &storage)?);
        }
        Ok(Classifier::described(files, &storage, labels, &self.template)?)
    }
}

/// The image files that `paths` name, those of a folder by name.
pub(super) fn images(paths: &[PathBuf]) -> Result<Vec<PathBuf>, AppError> {
    let mut found = Vec::new();
    for path in paths {
        if !path.is_dir() {
            found.push(path.clone());
            continue;
        }
        let listed = Picture::list(path).map_err(AppError::image)?;
        if listed.is_empty() {
            let message = format!("{} holds no images", path.display());
            return Err(AppError::input(
                message,
                "PNG, JPEG, WebP and GIF files are looked for, by their endings",
            ));
        }
        found.extend(listed);
    }
    Ok(found)
}

fn table(reports: &[Report]) -> String {
    let rows = reports.iter().flat_map(|report| {
        report.classes.iter().enumerate().map(|(rank, guess)| {
            let image = if rank == 0 { report.image.clone() } else { String::new() };
            vec![image, guess.label.clone(), format!("{:.1} %", 100.0 * guess.probability)]
        })
    });
    output::table(&["image", "class", "probability"], rows)
}
