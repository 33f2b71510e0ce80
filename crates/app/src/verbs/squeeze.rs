use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use serde::Serialize;
use whit::load::{self, Options, Tokenizer, write_atomic};
use whit::models;
use whit::nn::vars::Storage;
use whit::squeeze::{Amount, Cost, Filter, Pooling, Scope, Settings, Squeezed, Squeezer, page, shipped};

use crate::context::Context;
use crate::error::AppError;
use crate::output;

/// Shorten text by leaving out the words that matter least (LLMLingua-2)
///
/// Reads files, or standard input for `-`, and writes what is left. Words are never changed or added.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The texts; `-` or none reads standard input
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,

    /// The fraction of tokens to keep
    #[arg(short, long, default_value_t = 0.5)]
    rate: f64,

    /// Tokens to keep, instead of a fraction; all texts together
    #[arg(short, long, value_name = "COUNT", conflicts_with = "rate")]
    tokens: Option<usize>,

    /// The classifier: a model folder or a name on the hub [default: the embedded one for English]
    #[arg(short, long, value_name = "DIR|NAME")]
    model: Option<String>,

    /// Weight type of the classifier: native, f32, bf16 or int8
    #[arg(long, default_value = "native")]
    dtype: String,

    /// Count tokens as this model does [default: the classifier]
    #[arg(long, value_name = "DIR|FILE|NAME")]
    count_for: Option<String>,

    /// Never use the network
    #[arg(long)]
    offline: bool,

    /// Keep this text wherever it stands; may be repeated; \n is a line break
    #[arg(long, value_name = "TEXT")]
    force: Vec<String>,

    /// Keep every token with a digit
    #[arg(long)]
    keep_digits: bool,

    /// Drop a forced text that repeats the one before it
    #[arg(long)]
    drop_consecutive: bool,

    /// Where a chunk may end; may be repeated [default: . and \n]
    #[arg(long, value_name = "TEXT")]
    chunk_end: Vec<String>,

    /// Which words compete: those of a chunk, of a text, or of all texts
    #[arg(long, value_enum, default_value_t = ScopeName::Chunk)]
    scope: ScopeName,

    /// What a word is worth: the mean of its tokens, or its first
    #[arg(long, value_enum, default_value_t = WordName::Mean)]
    word: WordName,

    /// Give the classifier the marks that the official code gives it
    #[arg(long)]
    official_specials: bool,

    /// Drop whole texts first, those that matter least; with a value, keep this fraction of them
    #[arg(long, value_name = "FRACTION", num_args = 0..=1)]
    filter: Option<Option<f64>>,

    /// With --filter: keep this text in any case, by its number from 1; may be repeated
    #[arg(long, value_name = "NUMBER", requires = "filter", value_parser = clap::value_parser!(u32).range(1..))]
    keep_text: Vec<u32>,

    /// Write a page that shows what was dropped
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ScopeName {
    Chunk,
    Prompt,
    Corpus,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum WordName {
    Mean,
    First,
}

/// One text, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Report<'a> {
    name: &'a str,
    text: &'a str,
    original_tokens: usize,
    tokens: usize,
    rate: f64,
    ratio: f64,
    words: Vec<WordReport<'a>>,
}

#[derive(Debug, Serialize)]
struct WordReport<'a> {
    word: &'a str,
    probability: f64,
    kept: bool,
}

/// All of them.
#[derive(Debug, Serialize)]
struct Reports<'a> {
    texts: Vec<Report<'a>>,
    original_tokens: usize,
    tokens: usize,
    model_seconds: f64,
    other_seconds: f64,
}

pub fn run(arguments: Arguments, context: &Context) -> Result<(), AppError> {
    let settings = arguments.settings()?;
    let texts = arguments.texts()?;
    let squeezer = arguments.squeezer()?;
    let counter = arguments.counter(&squeezer)?;
    let sources: Vec<&str> = texts.iter().map(|(_, text)| text.as_str()).collect();
    let (squeezed, cost) = squeezer.squeeze(&sources, &counter, &settings)?;
    if let Some(path) = &arguments.html {
        let shown: Vec<_> = texts
            .iter()
            .zip(&squeezed)
            .map(|((name, text), one)| (name.as_str(), text.as_str(), one))
            .collect();
        let title =
            texts.first().filter(|_| texts.len() == 1).map_or("Squeezed texts", |(name, _)| name.as_str());
        let page = page::page(title, &shown);
        write_atomic(path, |file| {
            std::io::Write::write_all(file, page.as_bytes())
                .map_err(|reason| load::LoadError::io("write", path, reason))
        })?;
    }
    if context.json {
        return output::json(&reports(&texts, &squeezed, cost));
    }
    let left: Vec<&str> =
        squeezed.iter().map(|one| one.text.as_str()).filter(|text| !text.is_empty()).collect();
    output::text(&left.join("\n\n"))?;
    eprintln!("{}", line(&squeezed, cost));
    Ok(())
}

impl Arguments {
    fn settings(&self) -> Result<Settings, AppError> {
        let unescape = |text: &String| text.replace("\\n", "\n");
        let plain = Settings::new(Amount::new(Some(self.rate), self.tokens)?);
        let ends: Vec<String> = self.chunk_end.iter().map(unescape).collect();
        let settings = Settings {
            scope: match self.scope {
                ScopeName::Chunk => Scope::Chunk,
                ScopeName::Prompt => Scope::Prompt,
                ScopeName::Corpus => Scope::Corpus,
            },
            word: match self.word {
                WordName::Mean => Pooling::Mean,
                WordName::First => Pooling::First,
            },
            force_tokens: self.force.iter().map(unescape).collect(),
            keep_digits: self.keep_digits,
            drop_consecutive: self.drop_consecutive,
            chunk_ends: if ends.is_empty() { plain.chunk_ends.clone() } else { ends },
            native_specials: !self.official_specials,
            filter: self.filter.map(|rate| Filter {
                rate,
                forced: self.keep_text.iter().map(|&text| text as usize - 1).collect(),
            }),
            ..plain
        };
        settings.check()?;
        Ok(settings)
    }

    /// The texts with their names.
    fn texts(&self) -> Result<Vec<(String, String)>, AppError> {
        let input = [PathBuf::from("-")];
        let files = if self.files.is_empty() { &input[..] } else { &self.files[..] };
        files.iter().map(|path| if path.as_os_str() == "-" { standard_input() } else { file(path) }).collect()
    }

    fn squeezer(&self) -> Result<Arc<Squeezer>, AppError> {
        let Some(source) = &self.model else { return Ok(shipped()?) };
        let files = load::open(source, &self.options())?;
        let layers = models::facts(&files.config)?.layers;
        let precision = models::precision(&self.dtype, layers)
            .map_err(|message| AppError::input(message, "see `whit squeeze --help`"))?;
        Ok(Arc::new(Squeezer::new(files, &Storage::Packed(precision), &|_| {})?))
    }

    fn counter(&self, squeezer: &Squeezer) -> Result<Arc<Tokenizer>, AppError> {
        let Some(source) = &self.count_for else { return Ok(Arc::clone(squeezer.tokenizer())) };
        let files = load::open(source, &self.options())?;
        let tokenizer = files.tokenizer.map(Arc::new);
        tokenizer.ok_or_else(|| {
            AppError::input(format!("{source} has no tokenizer"), "name a model that has a tokenizer.json")
        })
    }

    fn options(&self) -> Options {
        Options { offline: self.offline, ..Options::default() }
    }
}

fn standard_input() -> Result<(String, String), AppError> {
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes).map_err(AppError::file("read", "standard input".as_ref()))?;
    Ok(("standard input".into(), utf8("standard input", bytes)?))
}

fn file(path: &PathBuf) -> Result<(String, String), AppError> {
    let name = path.display().to_string();
    let bytes = std::fs::read(path).map_err(AppError::file("read", path))?;
    Ok((name.clone(), utf8(&name, bytes)?))
}

fn utf8(name: &str, bytes: Vec<u8>) -> Result<String, AppError> {
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        AppError::input(
            format!("{name} is no UTF-8 text: byte {at} fits no character"),
            "convert it to UTF-8 first",
        )
    })
}

fn reports<'a>(texts: &'a [(String, String)], squeezed: &'a [Squeezed], cost: Cost) -> Reports<'a> {
    let report = |((name, source), one): (&'a (String, String), &'a Squeezed)| Report {
        name,
        text: &one.text,
        original_tokens: one.original,
        tokens: one.tokens,
        rate: rate(one.tokens, one.original),
        ratio: 1.0 / rate(one.tokens, one.original).max(f64::MIN_POSITIVE),
        words: one
            .words
            .iter()
            .zip(&one.kept)
            .map(|(word, &kept)| WordReport {
                word: &source[word.bytes.clone()],
                probability: word.probability,
                kept,
            })
            .collect(),
    };
    Reports {
        texts: texts.iter().zip(squeezed).map(report).collect(),
        original_tokens: squeezed.iter().map(|one| one.original).sum(),
        tokens: squeezed.iter().map(|one| one.tokens).sum(),
        model_seconds: cost.model_seconds,
        other_seconds: cost.other_seconds,
    }
}

/// The share that is left; all of nothing.
fn rate(tokens: usize, original: usize) -> f64 {
    if original == 0 { 1.0 } else { tokens as f64 / original as f64 }
}

/// One line for people, after the text.
fn line(squeezed: &[Squeezed], cost: Cost) -> String {
    let sum = |count: fn(&Squeezed) -> usize| squeezed.iter().map(count).sum::<usize>();
    let (before, after) = (sum(|one| one.original), sum(|one| one.tokens));
    let seconds = cost.model_seconds + cost.other_seconds;
    format!(
        "[{after} of {before} tokens, {:.1} %; {seconds:.2} s, {:.0} tokens/s]",
        100.0 * rate(after, before),
        before as f64 / seconds.max(1e-9)
    )
}
