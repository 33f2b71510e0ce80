//! `whit bench vision`: what methods on pictures gain and lose, over their paces.

use std::ops::Range;
use std::path::PathBuf;

use clap::Args;
use whit::embed::Classifier;
use whit::load::image::Picture;
use whit::measure::record::Setting;
use whit::measure::text::Variant;
use whit::measure::vision::{self, Labelled, VisionTask};
use whit::methods::{ModelFacts, Plan, Selection};
use whit::models;
use whit::world::Pictures;
use whit::world::folder::Folder;

use super::{Output, rows, write_page};
use crate::context::Context;
use crate::embedded::TOY_CRATE;
use crate::error::AppError;
use crate::interrupt;
use crate::model::{ModelArguments, bar};
use crate::scenes::Scenes;

#[derive(Debug, Args)]
pub struct Arguments {
    /// A model folder, or a name on the hub [default: the embedded toy-crate]
    #[arg(short, long, value_name = "DIR|NAME")]
    model: Option<String>,

    /// Weight type, as for the other verbs
    #[arg(long, default_value = "native")]
    dtype: String,

    /// Never use the network
    #[arg(long)]
    offline: bool,

    /// Pictures with a folder for each class, named as the model names it [default: scenes of the toy world]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,

    /// A method to measure; several joined by `+` are stacked; may be repeated for more rows
    #[arg(long, value_name = "METHOD[:KNOB=VALUE,...]")]
    with: Vec<String>,

    /// Measure a method once for each value of a knob
    #[arg(long, value_name = "METHOD.KNOB=VALUE,VALUE,...")]
    sweep: Vec<String>,

    /// Measure each --with at the paces that leave these shares of the multiplications, tokens going evenly from all
    /// blocks; methods that are given a pace, or have none, stay as they are
    #[arg(long, value_name = "SHARE,...", value_delimiter = ',')]
    share: Vec<f64>,

    /// Pictures to classify
    #[arg(long, default_value_t = 500, value_name = "COUNT")]
    pictures: usize,

    /// Pictures that go through the model together; each batch goes through every row in turns
    #[arg(long, default_value_t = 32, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,

    /// How to print the records
    #[arg(long, value_enum, default_value_t = Output::Table)]
    format: Output,

    /// Write a page with the table and both plots
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Where pictures come from.
enum Source {
    Scenes(Scenes),
    Folder(Folder),
}

pub fn run(arguments: Arguments, context: &Context) -> Result<(), AppError> {
    interrupt::flag();
    let names = rows(&arguments.with, &arguments.sweep)?;
    let model = arguments.model();
    let files = match &arguments.model {
        Some(_) => model.files()?,
        None => TOY_CRATE.open()?,
    };
    let facts = models::facts(&files.config)?;
    let classifier = Classifier::new(&files, &model.storage(&files, context)?)?;
    let variants = arguments.variants(&names, &classifier, &facts)?;
    let source = arguments.source(&classifier)?;
    let setting = Setting::here(model.model.clone(), model.dtype, true, 0);
    let task = VisionTask { model: classifier.images(), setting };
    let mut batches = arguments.batches(source.len());
    let bar = bar(batches.len() as u64, "measuring");
    let mut next = || {
        // Nothing has been written yet, so the measurement can be left at once.
        interrupt::exit_if_pressed();
        bar.inc(1);
        batches.next().map(|numbers| source.read(numbers, &classifier)).transpose()
    };
    let records = task.measure(plan("", &facts)?, variants, &mut next)?;
    bar.finish_and_clear();
    if let Some(path) = &arguments.html {
        write_page(path, &vision::page(&format!("Whit on {}", model.model), &records))?;
    }
    arguments.format.print(&records, context)
}

/// The plan of methods that are joined by `+`.
fn plan(methods: &str, facts: &ModelFacts) -> Result<Plan, AppError> {
    let methods: Vec<&str> = methods.split('+').filter(|method| !method.is_empty()).collect();
    Ok(Plan::new(&Selection::parse(&methods)?, facts)?.live()?)
}

impl Arguments {
    fn model(&self) -> ModelArguments {
        ModelArguments {
            model: self.model.clone().unwrap_or_else(|| TOY_CRATE.name.to_owned()),
            dtype: self.dtype.clone(),
            offline: self.offline,
            revision: None,
        }
    }

    fn batches(&self, available: usize) -> std::vec::IntoIter<Range<usize>> {
        let (count, batch) = (self.pictures.min(available), usize::from(self.batch));
        let ranges = (0..count).step_by(batch).map(|start| start..(start + batch).min(count));
        ranges.collect::<Vec<_>>().into_iter()
    }

    fn variants(
        &self,
        names: &[String],
        classifier: &Classifier,
        facts: &ModelFacts,
    ) -> Result<Vec<Variant>, AppError> {
        let mut variants = Vec::new();
        for name in names {
            if self.share.is_empty() || !has_a_pace(name)? {
                variants.push(Variant { name: name.clone(), plan: plan(name, facts)? });
                continue;
            }
            for &share in &self.share {
                variants.push(paced(name, share, classifier, facts)?);
            }
        }
        Ok(variants)
    }

    fn source(&self, classifier: &Classifier) -> Result<Source, AppError> {
        if let Some(folder) = &self.data {
            return Ok(Source::Folder(Folder::open(folder)?));
        }
        Scenes::new(classifier).map(Source::Scenes)
    }
}

/// Whether one method alone is named whose pace can be set and is not.
fn has_a_pace(name: &str) -> Result<bool, AppError> {
    let given = ["list=", "pace=", "r=", "keep=", "+"].iter().any(|part| name.contains(part));
    let selection = Selection::parse(&name.split('+').collect::<Vec<_>>())?;
    let has_list = selection.chosen().iter().any(|knobs| knobs.iter().any(|(knob, _)| knob.name == "list"));
    Ok(has_list && !given)
}

fn paced(name: &str, share: f64, classifier: &Classifier, facts: &ModelFacts) -> Result<Variant, AppError> {
    if !(share > 0.0 && share < 1.0) {
        let hint = "give parts of 1 that stay, such as 0.8,0.6";
        return Err(AppError::input(format!("--share does not take {share}"), hint));
    }
    let joint = if name.contains(':') { ',' } else { ':' };
    let plan = |list: &str| plan(&format!("{name}{joint}list={list}"), facts);
    let list = vision::paced(classifier.images(), share, &plan)?;
    Ok(Variant { name: format!("{name} at {:.0} %", 100.0 * share), plan: plan(&list)? })
}

impl Source {
    fn len(&self) -> usize {
        match self {
            Self::Scenes(scenes) => scenes.count,
            Self::Folder(folder) => folder.len(),
        }
    }

    /// The pictures of these numbers.
    fn read(&self, numbers: Range<usize>, classifier: &Classifier) -> Result<Labelled, AppError> {
        let one = |number| self.picture(number, classifier);
        let read: Vec<(Picture, Option<usize>)> = numbers.map(one).collect::<Result<_, _>>()?;
        let (pictures, labels): (Vec<_>, Vec<_>) = read.into_iter().unzip();
        Ok((pictures, labels.into_iter().collect()))
    }

    fn picture(&self, number: usize, classifier: &Classifier) -> Result<(Picture, Option<usize>), AppError> {
        match self {
            Self::Scenes(scenes) => {
                let (picture, class) = scenes.picture(number);
                Ok((picture, Some(class)))
            }
            Self::Folder(folder) => {
                let path = folder.path(number).unwrap_or_else(|| "".as_ref());
                let picture = Picture::open(path).map_err(AppError::image)?;
                let class = |name: &str| {
                    classifier.class(name).ok_or_else(|| {
                        AppError::input(
                            format!("the model has no class `{name}`, of which {} is", path.display()),
                            format!(
                                "name folders like its classes or their numbers: {}",
                                some(classifier.labels())
                            ),
                        )
                    })
                };
                Ok((picture, folder.class(number).map(class).transpose()?))
            }
        }
    }
}

/// The first of many names.
fn some(names: &[String]) -> String {
    let first = names.iter().take(8).map(String::as_str).collect::<Vec<_>>().join("; ");
    if names.len() > 8 { first + "; ..." } else { first }
}
