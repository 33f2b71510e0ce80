//! Language models: what a recipe for one says, and how its data becomes losses.

use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde_json::Value;
use tokenizers::Tokenizer;
use whit_kernels::cross_entropy::cross_entropy;

use super::induction::Seeded;
use super::run::{Objective, Settings};
use super::sparsity::{Guide, Scores, Sparsity};
use super::windows::{Batch, Growth, Position, Shape, Windows};
use super::{TrainError, exits, vocabulary, write_whole};
use crate::models;
use crate::nn::attention::{Attend, Batched};
use crate::nn::decoder::{Decoder, DecoderConfig, Tokens};
use crate::nn::vars::{Random, Source, Storage, Vars};
use crate::nn::white::Initial;
use crate::world::corpus::{Corpus, Limits};

/// Windows of held-out text that are looked at during training.
const WATCHED_ROWS: usize = 32;

/// A recipe for a language model.
#[derive(Clone, Debug, PartialEq)]
pub struct LanguageRecipe {
    /// The architecture, as `config.json` says it; the vocabulary's size is set from `vocabulary`.
    pub config: Value,
    /// Tokens of the vocabulary.
    pub vocabulary: usize,
    /// The shape of a batch.
    pub shape: Shape,
    /// How sequences grow to that shape, if they do.
    pub growth: Option<Growth>,
    /// The share of sequences that hold generated tasks, 0 to 1.
    pub task_share: f64,
    /// The share of sequences that repeat a block of text or of random tokens, 0 to 1.
    pub echo_share: f64,
    /// Whether heads that look back and copy are set before training; see [`Seeded`].
    pub seeded: bool,
    /// The losses of BlockFFN's routers, where the model has them.
    pub sparsity: Option<Sparsity>,
    /// The weight of the loss on the experts' load, where routers choose a fixed number of them.
    pub balance: Option<f32>,
    /// Whether every layer learns to say the next token, for a model that may end early.
    pub exits: bool,
    /// How much text is taken.
    pub limits: Limits,
    /// Every random choice follows from it.
    pub seed: u64,
    /// How long and how.
    pub settings: Settings,
}

impl LanguageRecipe {
    /// The text that the recipe learns from: a user's folder, or that of the locked dependencies.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn corpus(&self, data: Option<&Path>) -> Result<Corpus, TrainError> {
        Ok(match data {
            Some(folder) => Corpus::of_folder(folder, self.limits)?,
            None => Corpus::of_dependencies(Path::new("."), self.limits)?,
        })
    }

    /// The tokenizer at `path`, trained on `corpus` and written there if there is none yet.
    ///
    /// # Errors
    /// If the file is damaged or cannot be written.
    pub fn tokenizer(&self, corpus: &Corpus, path: &Path) -> Result<Tokenizer, TrainError> {
        if !path.is_file() {
            let tokenizer = vocabulary::train(&corpus.train, self.vocabulary)?;
            let json = tokenizer.to_string(false).map_err(TrainError::Tokenizer)?;
            write_whole(path, json.as_bytes())?;
        }
        Tokenizer::from_file(path).map_err(TrainError::Tokenizer)
    }

    /// The network before training, on `device`.
    ///
    /// # Errors
    /// If the configuration cannot be.
    pub fn model(&self, device: &Device) -> Result<Decoder, TrainError> {
        let storage = Storage::Dense(device.clone());
        let config = self.decoder_config()?;
        let (plain, seeded) = (Random { seed: self.seed }, Seeded::new(self.seed, &config));
        let white = Initial { random: plain };
        let source: &dyn Source = match &seeded {
            _ if config.white.is_some() => &white,
            Some(seeded) if self.seeded => seeded,
            _ => &plain,
        };
        Ok(Decoder::new(config.clone(), &Vars::new(source, &storage)).map_err(models::ModelError::from)?)
    }

    /// The architecture.
    ///
    /// # Errors
    /// If the configuration cannot be.
    pub fn decoder_config(&self) -> Result<DecoderConfig, TrainError> {
        let config = self.config_json();
        Ok((models::architecture(&config)?.config)(&config).map_err(models::ModelError::from)?)
    }

    /// `config.json` of the trained model.
    pub fn config_json(&self) -> Value {
        let mut config = self.config.clone();
        config["vocab_size"] = self.vocabulary.into();
        config
    }
}

/// Learning to continue text.
#[derive(Debug)]
pub struct Language {
    /// Cuts text into tokens.
    pub tokenizer: Tokenizer,
    /// What is learnt from.
    pub train: Windows,
    /// What is measured on; it has no tasks.
    pub held_out: Windows,
    /// What the corpus is, in figures.
    pub fingerprint: u64,
    /// The losses of the routers, with what makes them what they are.
    pub guide: Option<(Sparsity, Guide)>,
    /// The weight of the loss on the experts' load.
    pub balance: Option<f32>,
    /// Whether every layer learns to say the next token.
    pub exits: bool,
}

impl Language {
    /// Encodes `corpus` for `recipe`.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn new(recipe: &LanguageRecipe, corpus: Corpus, tokenizer: Tokenizer) -> Result<Self, TrainError> {
        let end = tokenizer.token_to_id(vocabulary::END).unwrap_or(0);
        let fingerprint = corpus.fingerprint();
        let windows = |material: Vec<_>, growth, task_share, echo_share| -> Result<Windows, TrainError> {
            let tokens = vocabulary::encode_documents(&tokenizer, &material, end)?;
            let (shape, seed) = (recipe.shape, recipe.seed);
            Ok(Windows { tokens, material, shape, growth, task_share, echo_share, end, seed })
        };
        let train = windows(corpus.train, recipe.growth, recipe.task_share, recipe.echo_share)?;
        let held_out = windows(corpus.held_out, None, 0.0, 0.0)?;
        let guide = recipe.sparsity.map(|sparsity| (sparsity, Guide::new(sparsity)));
        let LanguageRecipe { balance, exits, .. } = *recipe;
        Ok(Self { tokenizer, train, held_out, fingerprint, guide, balance, exits })
    }
}

impl Objective for Language {
    type Model = Decoder;

    fn loss(&self, model: &Decoder, position: Position) -> Result<Tensor<1>, TrainError> {
        let batch = self.train.batch(&self.tokenizer, position)?;
        if self.guide.is_none() && self.balance.is_none() {
            return Ok(if self.exits { exits::loss(model, &batch) } else { loss(model, &batch) });
        }
        let mut scores = Scores::of(batch.shape.rows);
        let logits = logits_through(model, &batch.inputs, batch.shape, &mut scores);
        let mut total = cross_entropy(logits, &batch.targets, None);
        if let Some((_, guide)) = &self.guide {
            let at = (batch.shape, position.step);
            total = total + guide.loss(&scores.layers, &batch.inputs, self.train.end, at)?;
        }
        if let Some(weight) = self.balance {
            total = total + scores.balance()? * weight;
        }
        Ok(total)
    }

    fn memory(&self) -> Value {
        self.guide.as_ref().map_or(Value::Null, |(_, guide)| guide.memory())
    }

    fn recall(&self, memory: &Value) -> Result<(), TrainError> {
        self.guide.as_ref().map_or(Ok(()), |(_, guide)| guide.recall(memory))
    }

    fn held_out_loss(&self, model: &Decoder) -> Result<f32, TrainError> {
        let parts = WATCHED_ROWS.div_ceil(self.held_out.shape.rows) as u64;
        let mut total = 0.0;
        for part in 0..parts {
            let batch = self.held_out.batch(&self.tokenizer, Position { step: 0, part, parts })?;
            total += loss(model, &batch).into_scalar::<f32>();
        }
        Ok(total / parts as f32)
    }

    fn items(&self) -> u64 {
        self.train.shape.tokens() as u64
    }

    fn identity(&self) -> String {
        let Windows { shape, growth, task_share, echo_share, seed, .. } = &self.train;
        let Shape { rows, sequence } = shape;
        let growth = growth
            .map_or(String::new(), |Growth { first, until }| format!(" from {first} until step {until}"));
        let guide = self.guide.as_ref().map_or(String::new(), |(sparsity, _)| format!(", {sparsity:?}"));
        let guide = self.balance.map_or(guide.clone(), |weight| guide + &format!(", load balance {weight}"));
        let guide = if self.exits { guide + ", a loss at every layer" } else { guide };
        format!(
            "corpus {:016x}, {rows} x {sequence} tokens{growth}, tasks {task_share}, echoes {echo_share}, seed {seed}{guide}",
            self.fingerprint
        )
    }
}

/// The mean cross-entropy of a batch.
pub fn loss(model: &Decoder, batch: &Batch) -> Tensor<1> {
    cross_entropy(logits(model, &batch.inputs, batch.shape), &batch.targets, None)
}

/// Scores over the vocabulary for every token of `rows` sequences: `[rows * sequence, vocabulary]`.
pub fn logits(model: &Decoder, ids: &[u32], shape: Shape) -> Tensor<2> {
    logits_through(model, ids, shape, &mut Batched::causal(shape.rows))
}

/// As [`logits`], with attention by `attend`.
pub fn logits_through(model: &Decoder, ids: &[u32], shape: Shape, attend: &mut dyn Attend) -> Tensor<2> {
    let Shape { rows, sequence } = shape;
    let positions: Vec<u32> = (0..rows).flat_map(|_| 0..sequence as u32).collect();
    let lengths = vec![sequence as u32; ids.len()];
    model.logits(model.forward(Tokens { ids, positions: &positions, lengths: &lengths }, attend))
}

/// The number of values that learn.
pub fn parameters(model: &Decoder) -> usize {
    model.num_params()
}
