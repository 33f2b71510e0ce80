//! `whit calibrate tidaldecode`: which layers should select, by how alike the best keys of layers are and by
//! what decoding then loses.

use clap::Args;
use serde::Serialize;
use serde_json::json;
use whit::generate::text::TextModel;
use whit::measure::overlap::{Candidate, Overlap};
use whit::measure::recall;
use whit::measure::reuse::Passage;
use whit::methods::{ModelFacts, Plan, Selection};
use whit::models;
use whit::world::tasks::{Lines, Task};

use super::bench::TEXTS;
use crate::context::Context;
use crate::error::AppError;
use crate::model::ModelArguments;
use crate::{interrupt, model, output};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,

    /// The method's `budget`: how many keys of a head count as its best [default: a twentieth of the context]
    #[arg(long)]
    budget: Option<usize>,

    /// The method's `start` [default: all from 0 to a third of the layers are tried]
    #[arg(long)]
    start: Option<usize>,

    /// How many layers are tried as the second to select, for each first: those whose best keys are most like
    /// the keys behind them
    #[arg(long, default_value_t = 3)]
    tries: usize,

    /// Tokens of a text, at most as many as the model reads
    #[arg(long, default_value_t = 2048)]
    context: usize,

    /// Texts to read
    #[arg(long, default_value_t = 4)]
    texts: usize,

    /// Last tokens of each text that are measured
    #[arg(long, default_value_t = 16)]
    steps: usize,

    /// Contexts with a key in them that is asked for
    #[arg(long, default_value_t = 4)]
    questions: usize,

    /// How far predictions may move, in nats a token
    #[arg(long, default_value_t = 0.02)]
    tolerance: f64,

    /// A file to take texts from [default: this program's source]
    #[arg(long, value_name = "FILE")]
    text: Option<std::path::PathBuf>,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<(), AppError> {
    interrupt::flag();
    let files = arguments.model.files()?;
    let facts = models::facts(&files.config)?;
    let model = arguments.model.open(files, context)?;
    let sizes = arguments.sizes(&model)?;
    let search = Search { arguments, model: &model, facts, sizes };
    let found = search.run()?;
    found.print(context)
}

/// What is searched with, fitted to the model.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    budget: usize,
    length: usize,
}

impl Arguments {
    fn sizes(&self, model: &TextModel) -> Result<Sizes, AppError> {
        let config = model.decoder.config();
        let (layers, length) = (config.layers, self.context.min(config.max_positions));
        let start = self.start.unwrap_or(0);
        if start + 1 >= layers {
            let message = format!("no layer of {layers} follows --start {start}");
            return Err(AppError::input(message, format!("give 0 to {}", layers.saturating_sub(2))));
        }
        let budget = self.budget.unwrap_or(length / 20).max(1);
        if self.steps == 0 || budget + self.steps >= length {
            let hint =
                format!("--budget and --steps together have to be less than the {length} tokens of a text");
            return Err(AppError::input("nothing is left to choose from", hint));
        }
        Ok(Sizes { budget, length })
    }

    /// The texts, and the lines between which keys are hidden.
    fn texts(&self, model: &TextModel, length: usize) -> Result<(Vec<Vec<u32>>, String), AppError> {
        let text = match &self.text {
            Some(path) => std::fs::read_to_string(path).map_err(AppError::file("read", path))?,
            None => TEXTS.join("\n"),
        };
        let tokens = model.tokenizer.encode(&text, false)?;
        let texts: Vec<Vec<u32>> =
            tokens.chunks_exact(length).take(self.texts).map(<[u32]>::to_vec).collect();
        if texts.is_empty() {
            let message = format!("the text has {} tokens, fewer than the {length} of one", tokens.len());
            return Err(AppError::input(message, "give a longer --text or a smaller --context"));
        }
        Ok((texts, text))
    }
}

struct Search<'a> {
    arguments: &'a Arguments,
    model: &'a TextModel,
    facts: ModelFacts,
    sizes: Sizes,
}

/// What is lost, in nats a token.
#[derive(Clone, Copy, Debug, Serialize)]
struct Lost {
    text: f64,
    /// None where no questions were asked.
    answers: Option<f64>,
}

impl Lost {
    fn worse(self) -> f64 {
        self.text.max(self.answers.unwrap_or(0.0))
    }
}

/// One choice of layers.
#[derive(Clone, Copy, Debug, Serialize)]
struct Trial {
    start: usize,
    correction: usize,
    /// The share of all keys that is read.
    keys: f64,
    /// Of the best keys of sparse layers, the share that is read.
    recall: f64,
    lost: Lost,
}

#[derive(Debug)]
struct Found {
    sizes: Sizes,
    tolerance: f64,
    trials: Vec<Trial>,
    /// Where every layer reads its own best keys.
    floor: Lost,
}

impl Search<'_> {
    fn run(&self) -> Result<Found, AppError> {
        let Sizes { budget, length } = self.sizes;
        let (texts, text) = self.arguments.texts(self.model, length)?;
        let overlap = Overlap::measure(&self.model.decoder, &texts, self.arguments.steps, budget)?;
        let mut passages = self.passages(&texts, &text)?;
        let pairs = self.pairs(&overlap);
        let bar = model::bar(pairs.len() as u64 + 1, "trying layers");
        let floor = passages.lost(|passage| Ok(passage.lost_to_budget(&self.model.decoder, budget)?))?;
        bar.inc(1);
        let mut trials = Vec::new();
        for (start, candidate) in pairs {
            trials.push(self.trial(start, candidate, &mut passages)?);
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(Found { sizes: self.sizes, tolerance: self.arguments.tolerance, trials, floor })
    }

    fn passages(&self, texts: &[Vec<u32>], text: &str) -> Result<Passages, AppError> {
        let (decoder, steps) = (&self.model.decoder, self.arguments.steps);
        let lines = Lines::new([text]);
        let (count, length) = (self.arguments.questions, self.sizes.length);
        let questions = recall::questions(&self.model.tokenizer, &lines, Task::Retrieval, length, count)?;
        let text = texts.iter().map(|text| Passage::text(decoder, text, steps));
        let answers = questions.iter().map(|question| Passage::question(decoder, question));
        Ok(Passages { texts: text.collect::<Result<_, _>>()?, questions: answers.collect::<Result<_, _>>()? })
    }

    /// The layers to try: for each first one, the most promising second ones.
    fn pairs(&self, overlap: &Overlap) -> Vec<(usize, Candidate)> {
        let last = self.facts.layers - 2;
        let starts =
            self.arguments.start.map_or(0..=(self.facts.layers / 3).min(last), |start| start..=start);
        let promising = |start| {
            let mut candidates = overlap.candidates(start);
            candidates.sort_by(|one, other| other.overall.total_cmp(&one.overall));
            candidates.truncate(self.arguments.tries.max(1));
            candidates.into_iter().map(move |candidate| (start, candidate))
        };
        starts.flat_map(promising).collect()
    }

    fn trial(&self, start: usize, candidate: Candidate, passages: &mut Passages) -> Result<Trial, AppError> {
        let (Sizes { budget, length }, layers) = (self.sizes, self.facts.layers);
        let correction = candidate.layer;
        let name = format!("tidaldecode:budget={budget},start={start},correction={correction}");
        let plan = Plan::new(&Selection::parse(&[name])?, &self.facts)?;
        let lost = passages.lost(|passage| match plan.begin().attention {
            Some(mut policy) => Ok(passage.lost(&self.model.decoder, &mut *policy)?),
            None => Ok(0.0),
        })?;
        let rows = (start + 2) * length + (layers - start - 2) * budget;
        let keys = rows as f64 / (layers * length) as f64;
        Ok(Trial { start, correction, keys, recall: candidate.overall, lost })
    }
}

struct Passages {
    texts: Vec<Passage>,
    questions: Vec<Passage>,
}

impl Passages {
    fn lost(&mut self, mut of: impl FnMut(&mut Passage) -> Result<f64, AppError>) -> Result<Lost, AppError> {
        let mut mean = |passages: &mut [Passage]| -> Result<f64, AppError> {
            let mut sum = 0.0;
            for passage in passages.iter_mut() {
                sum += of(passage)?;
            }
            Ok(sum / passages.len() as f64)
        };
        let text = mean(&mut self.texts)?;
        let answers = (!self.questions.is_empty()).then(|| mean(&mut self.questions)).transpose()?;
        Ok(Lost { text, answers })
    }
}

impl Found {
    /// The one that reads fewest keys of those within the tolerance, or else the one that loses least.
    fn best(&self) -> Option<&Trial> {
        let least = |one: &&Trial, other: &&Trial| one.lost.worse().total_cmp(&other.lost.worse());
        let within = self.trials.iter().filter(|trial| trial.lost.worse() <= self.tolerance);
        let cheap = |one: &&Trial, other: &&Trial| one.keys.total_cmp(&other.keys).then(least(one, other));
        within.min_by(cheap).or_else(|| self.trials.iter().min_by(least))
    }

    fn print(&self, context: &Context) -> Result<(), AppError> {
        let Some(best) = self.best() else {
            return Err(AppError::input("no layers were tried", "give a model with more layers"));
        };
        let budget = self.sizes.budget;
        let value = json!({
            "method": "tidaldecode", "budget": budget, "best": best, "trials": self.trials,
            "own_best_keys": self.floor, "tolerance": self.tolerance,
        });
        context.emit(&value, || {
            let table = output::table(&HEAD, self.trials.iter().map(|trial| row(trial, best)));
            let floor = nats(&self.floor);
            format!(
                "{table}\n\nWith its own best {budget} keys in every layer, which no reuse can better by much: {} on \
                 text, {} on answers.\n{}\nUse it with --with tidaldecode:budget={budget},start={},correction={}",
                floor[0],
                floor[1],
                self.verdict(best),
                best.start,
                best.correction
            )
        })
    }

    fn verdict(&self, best: &Trial) -> String {
        let tolerance = self.tolerance;
        if best.lost.worse() <= tolerance {
            format!("The best reads fewest keys of those that lose at most {tolerance} nats a token.")
        } else {
            format!("None loses at most {tolerance} nats a token; the best loses least.")
        }
    }
}

const HEAD: [&str; 7] =
    ["start", "correction", "keys read", "best keys found", "lost on text", "on answers", ""];

fn row(trial: &Trial, best: &Trial) -> Vec<String> {
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let [text, answers] = nats(&trial.lost);
    let mark = if std::ptr::eq(trial, best) { "best" } else { "" };
    let (start, correction) = (trial.start.to_string(), trial.correction.to_string());
    vec![start, correction, percent(trial.keys), percent(trial.recall), text, answers, mark.to_owned()]
}

fn nats(lost: &Lost) -> [String; 2] {
    let answers = lost.answers.map_or("-".to_owned(), |nats| format!("{nats:.4}"));
    [format!("{:.4}", lost.text), answers]
}
