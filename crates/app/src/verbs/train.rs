//! `whit train`: makes a model by a recipe.

mod mae;
mod pair;
mod segment;
mod sentences;
mod squeeze;
mod vision;

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::json;
use whit::nn::decoder::Decoder;
use whit::train::card::{self, Made};
use whit::train::distill::{Distillation, Mix, Teacher};
use whit::train::evaluate::{self, Effort, Figures};
use whit::train::export::save_decoder;
use whit::train::language::{Language, LanguageRecipe, parameters};
use whit::train::log::Record;
use whit::train::recipes::{self, AUTOENCODERS, CLASSIFIERS, COMPRESSORS, PAIRS, RECIPES, SENTENCES};
use whit::train::run::{Objective, Outcome, Run, Settings};
use whit::train::schedule::Schedule;
use whit::train::sparsity::Usage;
use whit::world::corpus::Corpus;

use crate::context::Context;
use crate::drafter::{self, Common, DrafterArguments};
use crate::error::AppError;
use crate::{interrupt, output};

/// Train a model by a recipe, with checkpoints; or resume, or measure what was trained
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The recipe; without one, the recipes are listed
    recipe: Option<String>,

    /// Where checkpoints, log, plot and the model go [default: train/RECIPE]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Steps in all, instead of the recipe's
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    steps: Option<u64>,

    /// Go on from the newest checkpoint
    #[arg(long)]
    resume: bool,

    /// Learn from the text, Markdown, Rust and JSON-lines files in this folder, or from its pictures, a folder
    /// for each class
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,

    /// Learn from this model too: a folder, or a name on the hub
    #[arg(long, value_name = "DIR|NAME")]
    teacher: Option<String>,

    /// The share of the loss that compares with the teacher, 0 to 1
    #[arg(long, default_value_t = Mix::default().share, requires = "teacher")]
    share: f32,

    /// What scores are divided by where they are compared with the teacher's
    #[arg(long, default_value_t = Mix::default().temperature, requires = "teacher")]
    temperature: f32,

    /// Do not train: measure the newest checkpoint and write its model and card
    #[arg(long)]
    evaluate: bool,

    #[command(flatten)]
    drafter: DrafterArguments,
}

pub fn run(arguments: Arguments, context: &Context) -> Result<(), AppError> {
    let Some(id) = &arguments.recipe else { return list(context) };
    if id == drafter::ID {
        return drafter::run(&arguments.drafter, arguments.common(id), context);
    }
    if id == segment::ID {
        return segment::run(&arguments, context);
    }
    if let Some(recipe) = recipes::find(recipes::COMPRESSORS, id) {
        return squeeze::run(recipe, &arguments, context);
    }
    if let Some(recipe) = recipes::find(recipes::CLASSIFIERS, id) {
        return vision::run(recipe, &arguments, context);
    }
    if let Some(recipe) = recipes::find(recipes::AUTOENCODERS, id) {
        return mae::run(recipe, &arguments, context);
    }
    if let Some(recipe) = recipes::find(recipes::SENTENCES, id) {
        return sentences::run(recipe, &arguments, context);
    }
    if let Some(recipe) = recipes::find(recipes::PAIRS, id) {
        return pair::run(recipe, &arguments, context);
    }
    let recipe = recipes::find(recipes::RECIPES, id).ok_or_else(|| {
        let known: Vec<_> = listed().map(|(id, _)| id).collect();
        AppError::input(
            format!("there is no recipe `{id}`"),
            format!("the recipes are: {}", known.join(", ")),
        )
    })?;
    let mut language = (recipe.settings)();
    language.settings = arguments.schedule(language.settings);
    let folder = arguments.folder(id);
    let teacher = arguments.teacher(recipe.id)?;
    if let Some(teacher) = &teacher {
        teacher.prepare(&mut language, &folder.join("tokenizer.json"))?;
    }
    Session { id: recipe.id, recipe: language, folder, teacher, arguments: &arguments, context }.run()
}

impl Arguments {
    /// The model to learn from, if there is one.
    fn teacher(&self, recipe: &str) -> Result<Option<Teacher>, AppError> {
        self.mix().check()?;
        match &self.teacher {
            Some(name) => Ok(Some(Teacher::open(name, &whit::load::Options::default())?)),
            None if recipe == "distill" => Err(AppError::input(
                "a student needs a teacher",
                "name the model to learn from with --teacher DIR, as `models/rust-lm`",
            )),
            None => Ok(None),
        }
    }

    fn mix(&self) -> Mix {
        Mix { share: self.share, temperature: self.temperature }
    }
}

fn list(context: &Context) -> Result<(), AppError> {
    let value: Vec<_> = listed().map(|(id, summary)| json!({ "id": id, "summary": summary })).collect();
    let rows = listed().map(|(id, summary)| vec![id.to_owned(), summary.to_owned()]);
    context.emit(&value, || output::table(&["recipe", "makes"], rows))
}

/// Every recipe with one line about it.
fn listed() -> impl Iterator<Item = (&'static str, &'static str)> {
    let models = RECIPES.iter().map(|recipe| (recipe.id, recipe.summary));
    let compressors = COMPRESSORS.iter().map(|recipe| (recipe.id, recipe.summary));
    let classifiers = CLASSIFIERS.iter().chain(AUTOENCODERS).map(|recipe| (recipe.id, recipe.summary));
    let pairs = PAIRS.iter().map(|recipe| (recipe.id, recipe.summary));
    let sentences = SENTENCES.iter().map(|recipe| (recipe.id, recipe.summary));
    let encoders = classifiers.chain(pairs).chain(sentences);
    let others = [(segment::ID, segment::SUMMARY), (drafter::ID, drafter::SUMMARY)];
    models.chain(compressors).chain(encoders).chain(others)
}

impl Arguments {
    /// Where the recipe `id` is trained.
    fn folder(&self, id: &str) -> PathBuf {
        self.out.clone().unwrap_or_else(|| Path::new("train").join(id))
    }

    /// The recipe's settings with the steps that the call asks for.
    fn schedule(&self, settings: Settings) -> Settings {
        let steps = self.steps.unwrap_or(settings.schedule.steps);
        Settings { schedule: Schedule { steps, ..settings.schedule }, ..settings }
    }

    fn common(&self, id: &str) -> Common<'_> {
        Common { folder: self.folder(id), steps: self.steps, resume: self.resume, data: self.data.as_deref() }
    }
}

/// One call of the verb.
struct Session<'a> {
    id: &'static str,
    recipe: LanguageRecipe,
    folder: PathBuf,
    teacher: Option<Teacher>,
    arguments: &'a Arguments,
    context: &'a Context,
}

impl Session<'_> {
    fn run(&self) -> Result<(), AppError> {
        let corpus = self.recipe.corpus(self.arguments.data.as_deref())?;
        let bytes = corpus.bytes();
        let language = self.language(corpus)?;
        let outcome = self.train(&language)?;
        self.say("measuring on held-out text and on the tasks");
        let figures = evaluate::measure(&outcome.model, &language, Effort::default())?;
        let folder = self.write(&language, &outcome, &figures, bytes)?;
        let value =
            json!({ "model": folder, "steps": outcome.step, "seconds": outcome.seconds, "figures": figures });
        self.context.emit(&value, || summary(&folder, &figures))
    }

    fn language(&self, corpus: Corpus) -> Result<Language, AppError> {
        let (train, held_out) = corpus.bytes();
        let megabytes = |bytes: usize| bytes as f64 / 1e6;
        self.say(&format!("text: {:.1} MB, and {:.1} MB held out", megabytes(train), megabytes(held_out)));
        let tokenizer = self.recipe.tokenizer(&corpus, &self.folder.join("tokenizer.json"))?;
        let language = Language::new(&self.recipe, corpus, tokenizer)?;
        let (train, held_out) = (language.train.tokens.len(), language.held_out.tokens.len());
        self.say(&format!(
            "tokens: {:.2} million, and {:.2} held out",
            megabytes(train),
            megabytes(held_out)
        ));
        Ok(language)
    }

    fn train(&self, language: &Language) -> Result<Outcome<Decoder>, AppError> {
        match &self.teacher {
            None => self.learn(language),
            Some(Teacher { model, .. }) => {
                self.learn(&Distillation { language, teacher: model, mix: self.arguments.mix() })
            }
        }
    }

    fn learn(&self, objective: &impl Objective<Model = Decoder>) -> Result<Outcome<Decoder>, AppError> {
        let model = self.recipe.model(&Device::flex().autodiff())?;
        learn(objective, model, (self.recipe.settings, &self.folder), self.arguments, self.context)
    }

    /// Writes the model's folder with its card and returns its path.
    fn write(
        &self,
        language: &Language,
        outcome: &Outcome<Decoder>,
        figures: &Figures,
        bytes: (usize, usize),
    ) -> Result<PathBuf, AppError> {
        let folder = self.folder.join("model");
        let tokenizer = self.folder.join("tokenizer.json");
        let tokenizer = std::fs::read(&tokenizer).map_err(AppError::file("read", &tokenizer))?;
        save_decoder(&folder, &outcome.model, &self.recipe.config_json(), &tokenizer)?;
        let made = Made {
            id: self.id,
            recipe: &self.recipe,
            step: outcome.step,
            seconds: outcome.seconds,
            parameters: parameters(&outcome.model),
            bytes,
            fingerprint: language.fingerprint,
            source: if self.arguments.data.is_some() {
                "a folder given with --data"
            } else {
                "Rust source and documentation of the crates in `Cargo.lock`, whole crates held out"
            },
        };
        let path = folder.join("README.md");
        std::fs::write(&path, card::card(&made, figures)).map_err(AppError::file("write", &path))?;
        Ok(folder)
    }

    fn say(&self, text: &str) {
        if !self.context.json {
            eprintln!("{text}");
        }
    }
}

/// Trains, or with `--evaluate` only restores.
fn learn<O: Objective>(
    objective: &O,
    model: O::Model,
    (settings, folder): (Settings, &Path),
    arguments: &Arguments,
    context: &Context,
) -> Result<Outcome<O::Model>, AppError> {
    let bar = progress_bar(if context.json { 0 } else { settings.schedule.steps });
    let stop = interrupt::flag();
    let mut report = |record: &Record| show(&bar, record);
    let run = Run { objective, settings, folder, stop: &stop, report: &mut report };
    let outcome = if arguments.evaluate { run.restore(model)? } else { run.train(model, arguments.resume)? };
    bar.finish_and_clear();
    if outcome.interrupted && !arguments.evaluate {
        if !context.json {
            eprintln!("stopped after step {}; go on with --resume", outcome.step);
        }
        return Err(AppError::Interrupted);
    }
    Ok(outcome)
}

/// A trained model in its folder, to be described there and told of.
struct Trained<'a> {
    id: &'static str,
    /// The folder of the model.
    model: &'a Path,
    settings: &'a Settings,
    seed: u64,
    /// Steps done, and seconds that they took.
    done: (u64, f64),
    /// What was found, with its names.
    rows: Vec<(String, String)>,
}

impl Trained<'_> {
    /// The card: `about` the model, what was found, how it was trained with so many things in a `batch`, and `more`.
    fn card(&self, about: &str, (things, batch): (&str, usize), more: &str) -> String {
        let (id, schedule, (step, seconds)) = (self.id, self.settings.schedule, self.done);
        let table: String = self.rows.iter().map(|(name, value)| format!("| {name} | {value} |\n")).collect();
        format!(
            "# {id}\n\n{about} Made by `whit train {id}`.\n\n| | |\n|---|---|\n{table}| steps | {step} of a schedule of \
             {} |\n| {things} of a step | {batch} |\n| learning rate | {} after {} steps, cosine to {} |\n| seed | {} |\n\
             | time | {:.0} minutes |\n{more}",
            schedule.steps,
            schedule.peak,
            schedule.warm_up,
            schedule.floor,
            self.seed,
            seconds / 60.0,
        )
    }

    /// Writes the card, and says what was found and where all is.
    fn conclude(self, card: &str, figures: &impl Serialize, context: &Context) -> Result<(), AppError> {
        let path = self.model.join("README.md");
        std::fs::write(&path, card).map_err(AppError::file("write", &path))?;
        let (steps, seconds) = self.done;
        let value = json!({ "model": self.model, "steps": steps, "seconds": seconds, "figures": figures });
        context.emit(&value, || {
            let rows = self.rows.into_iter().map(|(name, value)| vec![name, value]);
            let table = output::table(&["measure", "value"], rows);
            format!("{table}\n\nThe model and its card are in {}.", self.model.display())
        })
    }
}

pub(super) fn progress_bar(steps: u64) -> ProgressBar {
    if steps == 0 {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len}  {msg}  {eta} left");
    ProgressBar::new(steps).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn show(bar: &ProgressBar, record: &Record) {
    let speed = record.items as f64 / record.seconds.max(1e-9);
    bar.set_position(record.step);
    bar.set_message(format!("loss {:.3}  {speed:.0} tokens/s", record.loss));
}

fn summary(folder: &Path, figures: &Figures) -> String {
    let mut rows = vec![
        vec!["bits per byte, held out".to_owned(), format!("{:.3}", figures.bits_per_byte)],
        vec!["loss a token, held out".to_owned(), format!("{:.3}", figures.loss)],
    ];
    rows.extend(
        figures.tasks.iter().map(|(task, share)| vec![task.clone(), format!("{:.1} %", 100.0 * share)]),
    );
    let usage = figures.usage.iter().flat_map(Usage::rows);
    rows.extend(usage.map(|(name, share)| vec![name, format!("{:.1} %", 100.0 * share)]));
    format!(
        "{}\n\nThe model and its card are in {}.",
        output::table(&["measure", "value"], rows),
        folder.display()
    )
}
