//! `whit calibrate`: what a method should be set to on a model.

use clap::{Args, Subcommand};
use serde_json::json;
use whit::measure::overlap::{self, Candidate, Overlap};

use super::bench::TEXTS;
use super::calibrate_diffrate;
use crate::context::Context;
use crate::error::AppError;
use crate::model::ModelArguments;
use crate::output;

/// Measure on a model what a method should be set to
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    method: Method,
}

#[derive(Debug, Subcommand)]
enum Method {
    /// The layer in which TidalDecode selects again: whose best keys are most like those of the layers behind it
    Tidaldecode(Tidaldecode),
    /// How many tokens each block of a vision transformer prunes and merges at a wanted cost; writes DiffRate's schedule
    Diffrate(calibrate_diffrate::Arguments),
}

#[derive(Debug, Args)]
struct Tidaldecode {
    #[command(flatten)]
    model: ModelArguments,

    /// The method's `budget`: how many keys of a head count as its best [default: a twentieth of the context]
    #[arg(long)]
    budget: Option<usize>,

    /// The method's `start`
    #[arg(long, default_value_t = 2)]
    start: usize,

    /// Tokens of a text, at most as many as the model reads
    #[arg(long, default_value_t = 2048)]
    context: usize,

    /// Texts to read
    #[arg(long, default_value_t = 4)]
    texts: usize,

    /// Last tokens of each text that are measured
    #[arg(long, default_value_t = 16)]
    steps: usize,

    /// A file to take texts from [default: this program's source]
    #[arg(long, value_name = "FILE")]
    text: Option<std::path::PathBuf>,
}

pub fn run(arguments: Arguments, context: &Context) -> Result<(), AppError> {
    match arguments.method {
        Method::Tidaldecode(arguments) => arguments.run(context),
        Method::Diffrate(arguments) => calibrate_diffrate::run(&arguments, context),
    }
}

impl Tidaldecode {
    fn run(&self, context: &Context) -> Result<(), AppError> {
        let model = self.model.open(self.model.files()?, context)?;
        let config = model.decoder.config();
        let (layers, length) = (config.layers, self.context.min(config.max_positions));
        if self.start + 1 >= layers {
            let hint = format!("give 0 to {}", layers.saturating_sub(2));
            return Err(AppError::input(
                format!("no layer of {layers} follows --start {}", self.start),
                hint,
            ));
        }
        let budget = self.budget.unwrap_or(length / 20).max(1);
        if self.steps == 0 || budget + self.steps >= length {
            let hint =
                format!("--budget and --steps together have to be less than the {length} tokens of a text");
            return Err(AppError::input("nothing is left to choose from", hint));
        }
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
        let overlap = Overlap::measure(&model.decoder, &texts, self.steps, budget)?;
        self.print(&overlap, budget, context)
    }

    fn print(&self, overlap: &Overlap, budget: usize, context: &Context) -> Result<(), AppError> {
        let candidates = overlap.candidates(self.start);
        let best = overlap::best(&candidates).map_or(0, |best| best.layer);
        let once = overlap.overall(self.start, None);
        let value = json!({
            "method": "tidaldecode", "budget": budget, "start": self.start, "best": best,
            "without_reselection": once, "candidates": candidates,
        });
        context.emit(&value, || {
            let rows = candidates.iter().map(|candidate| row(candidate, best));
            let table =
                output::table(&["correction", "recall behind it", "recall of all sparse layers", ""], rows);
            format!(
                "{table}\n\nWithout a second selection the recall is {:.1} %.\nUse it with \
                 --with tidaldecode:budget={budget},start={},correction={best}",
                100.0 * once,
                self.start
            )
        })
    }
}

fn row(candidate: &Candidate, best: usize) -> Vec<String> {
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let mark = if candidate.layer == best { "best" } else { "" };
    vec![candidate.layer.to_string(), percent(candidate.behind), percent(candidate.overall), mark.to_owned()]
}
