use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use serde_json::json;
use whit::generate::Request;
use whit::generate::prompt::Written;
use whit::generate::text::TextModel;
use whit::load::{LoadError, ModelFiles, Tokenizer, write_atomic};
use whit::measure::record::{Record, Setting};
use whit::measure::text::{TextTask, Variant};
use whit::measure::write::{self, Row};
use whit::methods::{ModelFacts, Plan, Selection};
use whit::models;
use whit::nn::decoder::Decoder;
use whit::nn::vars::{Random, Vars};

use super::bench_squeeze;
use crate::companions::CompanionArguments;
use crate::context::Context;
use crate::embedded::RUST_LM;
use crate::error::AppError;
use crate::model::ModelArguments;
use crate::{interrupt, model, output};

mod attention;
mod coding_rate;
mod collapse;
mod recall;
mod vision;

pub(super) use recall::TEXTS;

/// Measure what methods gain and lose on this machine
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Text generation by a language model, beside the same without methods
    Text(TextArguments),
    /// Classifying pictures, beside the same without methods: what is found against multiplications and time
    Vision(vision::Arguments),
    /// The attention of decode steps alone, on random numbers at the size of a real model
    Attention(attention::Arguments),
    /// Keys found in a long context and the loss of a text, both read step by step as decoding reads
    Recall(recall::Arguments),
    /// How alike the embeddings of texts are by length, at several temperatures of a text encoder's attention
    Collapse(collapse::Arguments),
    /// How far each layer of a white-box transformer for images compresses its tokens, and how sparse it leaves them
    CodingRate(coding_rate::Arguments),
    /// Prompt compressors of real sizes, random weights
    Squeeze(bench_squeeze::Arguments),
}

#[derive(Debug, Args)]
struct TextArguments {
    /// A model folder, a .gguf file, or a name on the hub [default: the embedded model]
    #[arg(short, long, value_name = "DIR|FILE|NAME", conflicts_with = "shape")]
    model: Option<String>,

    /// Random weights of a real model's size, for timing only
    #[arg(long, value_enum)]
    shape: Option<Shape>,

    /// Weight type: native, f32, bf16, int8, q8_0, q4_0, q4_k, q5_k, q6_k or q4_k_m
    #[arg(long, default_value = "native")]
    dtype: String,

    /// Never use the network
    #[arg(long)]
    offline: bool,

    /// A method to measure; several joined by `+` are stacked; may be repeated for more rows
    #[arg(long, value_name = "METHOD[:KNOB=VALUE,...]")]
    with: Vec<String>,

    #[command(flatten)]
    companions: CompanionArguments,

    /// Measure a method once for each value of a knob
    #[arg(long, value_name = "METHOD.KNOB=VALUE,VALUE,...")]
    sweep: Vec<String>,

    /// Tokens of the prompt
    #[arg(long, default_value_t = 128)]
    prompt: usize,

    /// Tokens to generate
    #[arg(short = 'n', long, default_value_t = 128)]
    decode: usize,

    /// Rounds to time; every round runs every row once
    #[arg(long, default_value_t = 3)]
    rounds: usize,

    /// A text whose start is the prompt and whose loss is reported
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,

    /// How to print the records
    #[arg(long, value_enum, default_value_t = Output::Table)]
    format: Output,

    /// Write a page with table and plot
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Sizes of real models.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shape {
    #[value(name = "llama-160m")]
    Llama160m,
    #[value(name = "llama-1b")]
    Llama1b,
    #[value(name = "llama-7b")]
    Llama7b,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    Table,
    Json,
    Csv,
    Markdown,
}

/// A model ready to be measured.
struct Subject {
    name: String,
    decoder: Decoder,
    facts: ModelFacts,
    text: Option<Text>,
    trained: bool,
}

/// The text that a subject is measured on.
struct Text {
    ids: Vec<u32>,
    tokenizer: Arc<Tokenizer>,
}

pub fn run(arguments: Arguments, context: &Context) -> Result<(), AppError> {
    let arguments = match arguments.task {
        Task::Text(arguments) => arguments,
        Task::Vision(arguments) => return vision::run(arguments, context),
        Task::Attention(arguments) => return attention::run(arguments, context),
        Task::Recall(arguments) => return recall::run(arguments, context),
        Task::Collapse(arguments) => return collapse::run(arguments, context),
        Task::CodingRate(arguments) => return coding_rate::run(&arguments, context),
        Task::Squeeze(arguments) => return bench_squeeze::run(arguments, context),
    };
    interrupt::flag();
    let names = rows(&arguments.with, &arguments.sweep)?;
    let subject = arguments.subject(context)?;
    let variants = names.iter().map(|name| {
        let methods: Vec<&str> = name.split('+').collect();
        Ok(Variant {
            name: name.clone(),
            plan: Plan::new(&Selection::parse(&methods)?, &subject.facts)?.live()?,
        })
    });
    let variants: Vec<Variant> = variants.collect::<Result<_, AppError>>()?;
    let records = arguments.measure(&subject, variants)?;
    if let Some(path) = &arguments.html {
        write_page(path, &write::html(&format!("Whit on {}", subject.name), &records, ""))?;
    }
    arguments.format.print(&records, context)
}

/// The rows of a table: the methods of `--with`, then the sweeps.
fn rows(with: &[String], sweeps: &[String]) -> Result<Vec<String>, AppError> {
    let mut rows = with.to_vec();
    for sweep in sweeps {
        let wrong =
            || AppError::input(format!("cannot read --sweep {sweep}"), "write METHOD.KNOB=VALUE,VALUE");
        let (knob, values) = sweep.split_once('=').ok_or_else(wrong)?;
        let (method, knob) = knob.split_once('.').ok_or_else(wrong)?;
        rows.extend(values.split(',').map(|value| format!("{method}:{knob}={value}")));
    }
    Ok(rows)
}

impl Output {
    /// Writes records so.
    fn print<R: Row + Serialize>(self, records: &[R], context: &Context) -> Result<(), AppError> {
        match self {
            Self::Csv => output::text(&write::csv(records)),
            Self::Markdown => output::text(&write::markdown(records)),
            Self::Json => output::json(&records),
            Self::Table => context.emit(&records, || {
                let warnings = records.iter().flat_map(|record| {
                    record.warnings().iter().map(move |warning| format!("{}: {warning}\n", record.name()))
                });
                let warnings: String = warnings.collect();
                format!("{}\n{warnings}", output::records(records))
            }),
        }
    }
}

/// Writes a page.
fn write_page(path: &Path, page: &str) -> Result<(), AppError> {
    let failed = |reason| LoadError::io("write", path, reason);
    Ok(write_atomic(path, |file| file.write_all(page.as_bytes()).map_err(failed))?)
}

impl TextArguments {
    fn subject(&self, context: &Context) -> Result<Subject, AppError> {
        if let Some(shape) = self.shape {
            return self.random(shape, context);
        }
        let (name, files) = match &self.model {
            Some(name) => (name.clone(), self.arguments(name).files()?),
            None => (RUST_LM.name.to_owned(), RUST_LM.open()?),
        };
        self.stored(name, files, context)
    }

    fn arguments(&self, model: &str) -> ModelArguments {
        ModelArguments {
            model: model.to_owned(),
            dtype: self.dtype.clone(),
            offline: self.offline,
            revision: None,
        }
    }

    fn stored(&self, name: String, files: ModelFiles, context: &Context) -> Result<Subject, AppError> {
        let options = self.arguments(&name).options();
        let companions = self.companions.open(&files, &options, false, context)?;
        let facts = ModelFacts { companions, ..models::facts(&files.config)? };
        let text = match &self.text {
            Some(path) => std::fs::read_to_string(path).map_err(AppError::file("read", path))?,
            None => SAMPLE.to_owned(),
        };
        let model: TextModel = self.arguments(&name).open(files, context)?;
        let text = Text { ids: model.tokenizer.encode(&text, true)?, tokenizer: model.tokenizer };
        Ok(Subject { name, decoder: model.decoder, facts, text: Some(text), trained: true })
    }

    fn random(&self, shape: Shape, context: &Context) -> Result<Subject, AppError> {
        let config = shape.config();
        let facts = models::facts(&config)?;
        let precision = models::precision(&self.dtype, facts.layers)
            .map_err(|message| AppError::input(message, "see `whit bench text --help`"))?;
        let storage = context.device.storage(precision);
        let decoder = (models::architecture(&config)?.config)(&config).map_err(models::ModelError::from)?;
        let bar = model::bar(decoder.parameters(), "drawing weights");
        let progress = |values| bar.inc(values as u64);
        let random = Random { seed: 0 };
        let vars = Vars::new(&random, &storage).with_progress(&progress);
        let decoder = Decoder::new(decoder, &vars).map_err(models::ModelError::from)?;
        bar.finish_and_clear();
        Ok(Subject { name: shape.name(), decoder, facts, text: None, trained: false })
    }

    fn measure(&self, subject: &Subject, variants: Vec<Variant>) -> Result<Vec<Record>, AppError> {
        let bar = model::bar((variants.len() as u64 + 1) * (self.rounds as u64 + 1), "measuring");
        let task = TextTask {
            model: &subject.decoder,
            prompts: vec![self.request(subject)?],
            new_tokens: self.decode,
            rounds: self.rounds,
            held_out: subject.text.as_ref().filter(|_| self.text.is_some()).map(|text| text.ids.clone()),
            setting: Setting::here(subject.name.clone(), self.dtype.clone(), subject.trained, self.rounds),
        };
        let baseline = Plan::new(&Selection::parse::<&str>(&[])?, &subject.facts)?;
        let progress = || {
            bar.inc(1);
            // Nothing has been written yet, so the measurement can be left at once.
            interrupt::exit_if_pressed();
        };
        let records = task.measure(baseline, variants, &progress)?;
        bar.finish_and_clear();
        Ok(records)
    }

    /// The start of the text, as text, so that methods may cut it; random tokens where there is none.
    fn request(&self, subject: &Subject) -> Result<Request, AppError> {
        let vocabulary = subject.facts.vocabulary as u32;
        let Some(Text { ids, tokenizer }) = &subject.text else {
            let random = (0..self.prompt as u32).map(|index| index.wrapping_mul(2_654_435_761) % vocabulary);
            return Ok(Request { prompt: random.collect(), ..Request::default() });
        };
        let ids: Vec<u32> = ids.iter().copied().cycle().take(self.prompt).collect();
        let text = tokenizer.decode(&ids, true)?;
        Ok(Request::written(Written::plain(&text, Arc::clone(tokenizer)))?)
    }
}

/// The prompt where no text is given.
const SAMPLE: &str = include_str!("bench.rs");

impl Shape {
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    fn config(self) -> serde_json::Value {
        let (width, inner, layers, heads, kv_heads, vocabulary) = match self {
            Self::Llama160m => (768, 3072, 12, 12, 12, 32_000),
            Self::Llama1b => (2048, 8192, 16, 32, 8, 128_256),
            Self::Llama7b => (4096, 11_008, 32, 32, 32, 32_000),
        };
        json!({
            "model_type": "llama", "hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers,
            "num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": vocabulary,
            "max_position_embeddings": 32_768, "tie_word_embeddings": matches!(self, Self::Llama1b),
        })
    }
}
