//! `whit train chimera`: a drafter for a model, trained on text that the model writes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::Device;
use clap::{Args, ValueEnum};
use serde_json::json;
use whit::generate::text::TextModel;
use whit::generate::{Request, Scheduler};
use whit::load::{self, Options, Safetensors};
use whit::methods::{Companions, ModelFacts, Plan, Selection, SideWeights};
use whit::models;
use whit::nn::vars::{Precision, Storage};
use whit::train::drafter::{DraftNetwork, DrafterRecipe, Drafting, Texts, save_drafter, write_texts};
use whit::train::optimizer::AdamW;
use whit::train::run::{Run, Settings};
use whit::train::schedule::Schedule;
use whit::world::corpus::{Corpus, Document, Limits};

use crate::context::Context;
use crate::embedded::RUST_LM;
use crate::error::AppError;
use crate::{interrupt, model, output};

/// The word for it on the command line.
pub const ID: &str = "chimera";
/// One line about it.
pub const SUMMARY: &str = "a Chimera drafter for the model that --model names";

/// What only drafters are told.
#[derive(Clone, Debug, Args)]
pub struct DrafterArguments {
    /// chimera: the model to draft for [default: the embedded model]
    #[arg(short, long, value_name = "DIR|FILE|NAME")]
    model: Option<String>,

    /// chimera: how many tokens can be drafted one after the other
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=8))]
    heads: u8,

    /// chimera: the weight of the distance between imitated and true hidden states
    #[arg(long, default_value_t = 0.1)]
    distill_weight: f32,

    /// chimera: whether an offset sees what the offsets before it gave
    #[arg(long, value_enum, default_value_t = Previous::Diag)]
    prev_draft: Previous,

    /// chimera: texts that the model writes to learn from
    #[arg(long, default_value_t = 1280, value_parser = clap::value_parser!(u32).range(8..))]
    texts: u32,

    /// chimera: also train Medusa-1 heads in the same way, to compare
    #[arg(long)]
    medusa: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Previous {
    Diag,
    None,
}

/// What the other recipes are told too.
pub struct Common<'a> {
    pub folder: PathBuf,
    pub steps: Option<u64>,
    pub resume: bool,
    pub data: Option<&'a Path>,
}

/// One call.
struct Session<'a> {
    base: TextModel,
    facts: ModelFacts,
    recipe: DrafterRecipe,
    common: Common<'a>,
    context: &'a Context,
}

/// Tokens of each prompt, and how many the model adds.
const LENGTHS: (usize, usize) = (32, 129);
/// Texts kept for measuring.
const HELD_OUT: usize = 32;
/// Half of the texts are written at this temperature, the others greedily.
const TEMPERATURE: f32 = 0.6;
const ROWS: usize = 8;

pub fn run(arguments: &DrafterArguments, common: Common<'_>, context: &Context) -> Result<(), AppError> {
    let files = match &arguments.model {
        Some(name) => load::open(name, &Options::default())?,
        None => RUST_LM.open()?,
    };
    let facts = models::facts(&files.config)?;
    let base = TextModel::new(files, &Storage::Packed(Precision::Native), &|_| {})?;
    let recipe = arguments.recipe(common.steps);
    Session { base, facts, recipe, common, context }.run(arguments.medusa)
}

impl DrafterArguments {
    fn recipe(&self, steps: Option<u64>) -> DrafterRecipe {
        let texts = self.texts as usize;
        let epochs = 2;
        let steps = steps.unwrap_or((epochs * texts / ROWS) as u64);
        DrafterRecipe {
            heads: self.heads.into(),
            previous: self.prev_draft == Previous::Diag,
            distill_weight: self.distill_weight,
            texts: (texts, HELD_OUT),
            lengths: LENGTHS,
            rows: ROWS,
            seed: 1,
            settings: Settings {
                schedule: Schedule { peak: 1.5e-3, floor: 5e-5, warm_up: 10.min(steps), steps },
                optimizer: AdamW { weight_decay: 0.0, average: 0.95, ..AdamW::default() },
                parts: 1,
                checkpoint_every: 200,
                evaluate_every: 40,
            },
        }
    }
}

impl Session<'_> {
    fn run(&self, medusa: bool) -> Result<(), AppError> {
        let (train, held_out) = self.texts()?;
        let device = Device::flex().autodiff();
        let drafter = self.recipe.drafter(&self.base.decoder, &device)?;
        let (drafter, agreement) = self.train(drafter, &train, &held_out, "chimera")?;
        let path = self.common.folder.join("drafter.safetensors");
        save_drafter(&path, &drafter)?;
        let mut rows = vec![("chimera", agreement)];
        if medusa {
            let heads = self.recipe.medusa(&self.base.decoder, &device)?;
            rows.push(("medusa-1", self.train(heads, &train, &held_out, "medusa")?.1));
        }
        let rate = self.tokens_per_pass(&path, &held_out)?;
        let agreement: BTreeMap<_, _> = rows.iter().map(|(name, shares)| (*name, shares)).collect();
        let value = json!({ "drafter": path, "agreement": agreement, "tokens_per_pass": rate });
        self.context.emit(&value, || summary(&path, &rows, rate))
    }

    /// What is learnt from, and what is kept for measuring, which is greedy throughout.
    fn texts(&self) -> Result<(Texts, Texts), AppError> {
        let corpus = match self.common.data {
            Some(folder) => Corpus::of_folder(folder, Limits::default()),
            None => Corpus::of_dependencies(Path::new("."), Limits::default()),
        };
        let corpus = corpus.map_err(whit::train::TrainError::from)?;
        let (learn, keep) = self.recipe.texts;
        let bar = model::bar((learn + keep) as u64, "letting the model write");
        let write = |documents: &[Document], count, temperature| {
            let prompts = self.prompts(documents, count)?;
            let added = LENGTHS.1;
            Ok::<_, AppError>(write_texts(&self.base.decoder, &prompts, added, temperature, &|done| {
                bar.inc(done as u64);
            })?)
        };
        let texts = (write(&corpus.train, learn, TEMPERATURE)?, write(&corpus.held_out, keep, 0.0)?);
        bar.finish_and_clear();
        Ok(texts)
    }

    /// The starts of lines in the middle of documents, spread over all of them.
    fn prompts(&self, documents: &[Document], count: usize) -> Result<Vec<Vec<u32>>, AppError> {
        let mut prompts = Vec::with_capacity(count);
        let long = |document: &&Document| document.text.len() > 8 * LENGTHS.0;
        let documents: Vec<&Document> = documents.iter().filter(long).collect();
        for index in 0..count {
            let Some(document) = documents.get(index * documents.len() / count) else { break };
            let middle = document.text.floor_char_boundary(document.text.len() / 2);
            let end = document.text.floor_char_boundary(middle + 8 * LENGTHS.0);
            let line = document.text[middle..end].find('\n').map_or(middle, |at| middle + at + 1);
            let mut ids = self.base.tokenizer.encode(&document.text[line.min(end)..], false)?;
            ids.truncate(LENGTHS.0);
            if ids.len() == LENGTHS.0 {
                prompts.push(ids);
            }
        }
        if prompts.len() < ROWS {
            let message = format!("only {} documents are long enough for a prompt", prompts.len());
            return Err(AppError::input(message, "give a folder with more text as --data"));
        }
        Ok(prompts)
    }

    fn train<N: DraftNetwork>(
        &self,
        network: N,
        train: &Texts,
        held_out: &Texts,
        name: &'static str,
    ) -> Result<(N, Vec<f64>), AppError> {
        let objective = Drafting::<N>::new(&self.base.decoder, &self.recipe, train, held_out);
        let bar = model::bar(self.recipe.settings.schedule.steps, name);
        let stop = interrupt::flag();
        let run = Run {
            objective: &objective,
            settings: self.recipe.settings,
            folder: &self.common.folder.join(name),
            stop: &stop,
            report: &mut |record| bar.set_position(record.step),
        };
        let outcome = run.train(network, self.common.resume)?;
        bar.finish_and_clear();
        if outcome.interrupted {
            return Err(AppError::Interrupted);
        }
        let agreement = objective.agreement(&outcome.model);
        Ok((outcome.model, agreement))
    }

    /// Tokens that the model commits in a pass with the whole tree, on held-out prompts, greedily.
    fn tokens_per_pass(&self, path: &Path, held_out: &Texts) -> Result<f64, AppError> {
        let weights = SideWeights::new(path.display().to_string(), Arc::new(Safetensors::open(path)?));
        let companions =
            Companions { weights: BTreeMap::from([(ID.to_owned(), weights)]), ..Companions::default() };
        let facts = ModelFacts { companions, ..self.facts.clone() };
        let tree = if self.recipe.heads < 5 { "tree=8" } else { "tree=25" };
        let plan = Plan::new(&Selection::parse(&[format!("{ID}:{tree},tune=false")])?, &facts)?;
        let mut scheduler = Scheduler::new(&self.base.decoder);
        for text in &held_out.rows {
            let prompt = text[..held_out.prompt].to_vec();
            let request = Request { prompt, max_tokens: LENGTHS.1 - 1, ..Request::default() };
            scheduler.add(request, plan.begin())?;
        }
        scheduler.run(|_, _| {})?;
        let all = (0..held_out.rows.len()).filter_map(|id| scheduler.statistics(id));
        let (tokens, passes) = all.fold((0, 0), |(tokens, passes), one| {
            (tokens + one.new_tokens.saturating_sub(1), passes + one.decode_passes)
        });
        Ok(tokens as f64 / passes.max(1) as f64)
    }
}

fn summary(path: &Path, rows: &[(&str, Vec<f64>)], rate: f64) -> String {
    let heads = rows.iter().map(|(_, shares)| shares.len()).max().unwrap_or(0);
    let mut head = vec!["agreement with the model".to_owned()];
    head.extend((1..=heads).map(|head| format!("head {head}")));
    let head: Vec<&str> = head.iter().map(String::as_str).collect();
    let rows = rows.iter().map(|(name, shares)| {
        let shares = shares.iter().map(|share| format!("{:.1} %", 100.0 * share));
        std::iter::once((*name).to_owned()).chain(shares).collect()
    });
    format!(
        "{}\n\n{rate:.2} tokens a pass on held-out prompts, greedily.\nThe drafter is in {}.",
        output::table(&head, rows),
        path.display()
    )
}
