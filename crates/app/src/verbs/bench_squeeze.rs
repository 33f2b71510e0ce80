//! `whit bench squeeze`: how fast a compressor of a real size reads, and what its surroundings cost.

use std::time::Instant;

use clap::{Args, ValueEnum};
use serde::Serialize;
use whit::measure::pairs::{self, Spread};
use whit::models::encoder;
use whit::nn::encoder::{Encoder, EncoderConfig};
use whit::nn::vars::{Random, Storage, Vars};
use whit::squeeze::{Amount, Settings, Squeezer, shipped};

use crate::context::Context;
use crate::error::AppError;
use crate::output;

/// Prompt compressors of real sizes with random weights
#[derive(Debug, Args)]
pub struct Arguments {
    /// The sizes to measure
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Shape::XlmRobertaLarge, Shape::MbertBase])]
    shape: Vec<Shape>,

    /// The weight types to measure
    #[arg(long, value_delimiter = ',', default_values_t = ["f32".to_owned(), "int8".to_owned()])]
    dtype: Vec<String>,

    /// Tokens that a timed run reads
    #[arg(long, default_value_t = 510)]
    tokens: usize,

    /// Tokens of the text whose chunks, words and percentiles are timed
    #[arg(long, default_value_t = 50_000)]
    text_tokens: usize,

    /// Rounds to time; every round runs every row once
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

/// Sizes of the published compressors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Shape {
    #[value(name = "xlm-roberta-large")]
    XlmRobertaLarge,
    #[value(name = "mbert-base")]
    MbertBase,
}

/// One size in one weight type.
#[derive(Debug, Serialize)]
struct Row {
    shape: String,
    dtype: String,
    tokens_per_second: f64,
    spread: f64,
    /// Times as fast as the first row.
    speedup: f64,
    /// What chunks, words and percentiles would take of the whole time for the long text.
    other_share: f64,
}

pub fn run(arguments: Arguments, context: &Context) -> Result<(), AppError> {
    let kinds: Vec<(Shape, &String)> = arguments
        .shape
        .iter()
        .flat_map(|&shape| arguments.dtype.iter().map(move |dtype| (shape, dtype)))
        .collect();
    let squeezers: Vec<Squeezer> =
        kinds.iter().map(|(shape, dtype)| shape.squeezer(dtype, context)).collect::<Result<_, _>>()?;
    let (text, long) = (sample(arguments.tokens)?, sample(arguments.text_tokens)?);
    let settings = Settings::new(Amount::Rate(0.5));
    let read = |index: usize| -> Result<f64, AppError> {
        let squeezer = &squeezers[index];
        let (_, cost) = squeezer.squeeze(&[&text], squeezer.tokenizer(), &settings)?;
        Ok(cost.rows as f64 / cost.model_seconds)
    };
    for index in 0..squeezers.len() {
        read(index)?;
    }
    let rates = pairs::interleave(squeezers.len(), arguments.rounds.max(1), read)?;
    let other = other_seconds(&long, &settings)?;
    let first = Spread::of(&rates[0]).median;
    let rows = kinds.iter().zip(&rates).map(|((shape, dtype), rates)| {
        let Spread { median, spread, .. } = Spread::of(rates);
        let model = arguments.text_tokens as f64 / median;
        Row {
            shape: shape.name(),
            dtype: (*dtype).clone(),
            tokens_per_second: median,
            spread,
            speedup: median / first,
            other_share: other / (other + model),
        }
    });
    let rows: Vec<Row> = rows.collect();
    context.emit(&rows, || table(&rows, arguments.text_tokens, other))
}

/// Seconds of everything but the model for a long text, measured with the shipped classifier.
fn other_seconds(text: &str, settings: &Settings) -> Result<f64, AppError> {
    let squeezer = shipped()?;
    let start = Instant::now();
    let (_, cost) = squeezer.squeeze(&[text], squeezer.tokenizer(), settings)?;
    Ok(start.elapsed().as_secs_f64() - cost.model_seconds)
}

/// A text of about so many tokens: this file, over and over.
fn sample(tokens: usize) -> Result<String, AppError> {
    const TEXT: &str = include_str!("bench_squeeze.rs");
    let squeezer = shipped()?;
    let (_, spans) = squeezer.tokenizer().encode_with_spans(TEXT, false)?;
    let (whole, rest) = (tokens / spans.len().max(1), tokens % spans.len().max(1));
    let end = rest.checked_sub(1).and_then(|last| spans.get(last)).map_or(0, |span| span.end);
    Ok(TEXT.repeat(whole) + &TEXT[..end])
}

fn table(rows: &[Row], tokens: usize, other: f64) -> String {
    let head = ["shape", "dtype", "tokens/s", "± half", "speed-up", "not the model"];
    let cells = rows.iter().map(|row| {
        vec![
            row.shape.clone(),
            row.dtype.clone(),
            format!("{:.1}", row.tokens_per_second),
            format!("{:.0} %", 50.0 * row.spread),
            format!("{:.2}", row.speedup),
            format!("{:.2} %", 100.0 * row.other_share),
        ]
    });
    format!(
        "{}\n\nRandom weights. Chunks, words and percentiles of {tokens} tokens take {other:.2} s; the last column is \
         their share of the whole time.",
        output::table(&head, cells)
    )
}

impl Shape {
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// The published model's config. Its vocabulary is the shipped tokenizer's: rows of it are only looked up.
    fn config(self) -> Result<EncoderConfig, AppError> {
        let (kind, width, layers, heads, positions) = match self {
            Self::XlmRobertaLarge => ("xlm-roberta", 1024, 24, 16, 514),
            Self::MbertBase => ("bert", 768, 12, 12, 512),
        };
        let json = serde_json::json!({
            "model_type": kind, "hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers,
            "num_attention_heads": heads, "max_position_embeddings": positions, "type_vocab_size": 1,
            "vocab_size": shipped()?.tokenizer().vocab_size(), "architectures": ["ForTokenClassification"],
        });
        let Some(architecture) = encoder::architecture(&json) else { unreachable!("{kind} is in the list") };
        Ok(architecture.config(&json).map_err(whit::models::ModelError::from)?)
    }

    fn squeezer(self, dtype: &str, context: &Context) -> Result<Squeezer, AppError> {
        let config = self.config()?;
        let precision = whit::models::precision(dtype, config.layers)
            .map_err(|message| AppError::input(message, "see `whit bench squeeze --help`"))?;
        let storage: Storage = context.device.storage(precision);
        let encoder = Encoder::new(config, &Vars::new(&Random { seed: 0 }, &storage))
            .map_err(whit::models::ModelError::from)?;
        let squeezer = Squeezer::of(encoder, std::sync::Arc::clone(shipped()?.tokenizer()));
        squeezer.ok_or_else(|| AppError::input("the tokenizer marks no ends", "this is a fault: report it"))
    }
}
