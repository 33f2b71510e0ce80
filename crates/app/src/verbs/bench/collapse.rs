//! `whit bench collapse`: how alike the embeddings of long texts are, at several temperatures.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;
use whit::load::{self, write_atomic};
use whit::measure::collapse::Collapse;
use whit::measure::collapse_sweep::{self, Sweep};
use whit::methods::{Plan, Selection};
use whit::models;
use whit::nn::vars::{Precision, Storage};
use whit::train::{TrainError, recipes, sentences};
use whit::world::corpus::{Corpus, Document, Limits};

use crate::context::Context;
use crate::error::AppError;
use crate::output;

#[derive(Debug, Args)]
pub struct Arguments {
    /// A text encoder: a folder, or owner/name on the hub
    #[arg(long, value_name = "DIR|NAME")]
    model: String,

    /// Temperatures to compare; 1 is the model as it is
    #[arg(long, value_delimiter = ',', default_value = "1,0.95,0.9,0.8,0.7,0.5")]
    tau: Vec<f32>,

    /// Tokens of a text
    #[arg(long, value_delimiter = ',', default_value = "32,64,128,256,480")]
    lengths: Vec<usize>,

    /// Tokens of the part that is to find its text
    #[arg(long, default_value_t = 16)]
    part: usize,

    /// Texts to embed
    #[arg(long, default_value_t = 100)]
    texts: usize,

    /// A folder of texts [default: the source of the crates in Cargo.lock, one text of each]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,

    /// Texts about made-up topics that `toy-embed` did not learn, instead of source
    #[arg(long, conflicts_with = "data")]
    topics: bool,

    /// Write a page with plots
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// Never use the network
    #[arg(long)]
    offline: bool,
}

pub fn run(arguments: Arguments, context: &Context) -> Result<(), AppError> {
    let files = load::open(
        &arguments.model,
        &load::Options { offline: arguments.offline, ..load::Options::default() },
    )?;
    let facts = models::facts(&files.config)?;
    let plan = |tau: &f32| -> Result<Plan, AppError> {
        Ok(Plan::new(&Selection::parse(&[format!("tempscale:tau={tau}")])?, &facts)?)
    };
    let plans = arguments.tau.iter().map(plan).collect::<Result<Vec<_>, _>>()?;
    let longest = arguments.longest(facts.context)?;
    let tokenizer = files.tokenizer.as_ref().ok_or_else(|| {
        AppError::input("the model has no tokenizer", "give a folder that has a tokenizer.json")
    })?;
    let storage = Storage::Packed(Precision::Native);
    let model = models::encoder::encoder(&files.config, files.weights.as_ref(), &storage, &|_| {})?;
    let sizes = [longest, arguments.part];
    let sweep = Sweep::new((&model, tokenizer), arguments.documents()?, arguments.texts, sizes)?;
    if sweep.texts() < 2 {
        let hint = "give a folder of longer ones with --data, or smaller --lengths";
        return Err(AppError::input(format!("fewer than two texts have {longest} tokens"), hint));
    }
    let measure = |(tau, plan): (&f32, &Plan)| (format!("{tau}"), sweep.measure(&arguments.lengths, plan));
    let found: Vec<(String, Vec<Collapse>)> = arguments.tau.iter().zip(&plans).map(measure).collect();
    if let Some(path) = &arguments.html {
        let page = collapse_sweep::page(&format!("Embeddings by length: {}", files.origin), &found);
        let failed = |reason| whit::load::LoadError::io("write", path, reason);
        write_atomic(path, |file| file.write_all(page.as_bytes()).map_err(failed))?;
    }
    print(&found, context)
}

impl Arguments {
    fn longest(&self, context: usize) -> Result<usize, AppError> {
        let longest = self.lengths.iter().copied().max().unwrap_or(0);
        // Two for the marks.
        if longest == 0 || longest + 2 > context || self.part == 0 {
            let hint = format!(
                "the model reads {} tokens of a text; --part is at least 1",
                context.saturating_sub(2)
            );
            return Err(AppError::input(format!("texts of {longest} tokens cannot be read"), hint));
        }
        Ok(longest)
    }

    /// Texts about different things: of each source or topic one.
    fn documents(&self) -> Result<Box<dyn Iterator<Item = String>>, AppError> {
        if self.topics {
            return Ok(Box::new(self.topics()));
        }
        let limits = Limits { source: 100_000, ..Limits::default() };
        let corpus = match &self.data {
            Some(folder) => Corpus::of_folder(folder, limits),
            None => Corpus::of_dependencies(Path::new("."), limits),
        };
        let Corpus { train, held_out } = corpus.map_err(TrainError::from)?;
        let mut seen = std::collections::HashSet::new();
        let mut documents: Vec<Document> = held_out.into_iter().chain(train).collect();
        documents.retain(|document| document.text.len() > 2_000 && seen.insert(document.source.clone()));
        Ok(Box::new(documents.into_iter().map(|document| document.text)))
    }

    fn topics(&self) -> impl Iterator<Item = String> + use<> {
        let words = self.lengths.iter().copied().max().unwrap_or(0);
        let topics = recipes::SENTENCES.iter().map(|recipe| (recipe.settings)().topics).next();
        let held_out = sentences::HELD_OUT..sentences::HELD_OUT + self.texts as u64;
        held_out.filter_map(move |topic| Some(topics?.text(topic, 0, words)))
    }
}

fn print(found: &[(String, Vec<Collapse>)], context: &Context) -> Result<(), AppError> {
    let value: Vec<_> = found.iter().map(|(tau, found)| json!({ "tau": tau, "found": found })).collect();
    context.emit(&value, || {
        let rows = found.iter().flat_map(|(tau, found)| found.iter().map(move |one| row(tau, one)));
        output::table(&["tau", "tokens", "texts", "mean cosine", "parts that find their text"], rows)
    })
}

fn row(tau: &str, one: &Collapse) -> Vec<String> {
    vec![
        tau.to_owned(),
        one.tokens.to_string(),
        one.texts.to_string(),
        format!("{:.4}", one.cosine),
        format!("{:.1} %", 100.0 * one.recall),
    ]
}
