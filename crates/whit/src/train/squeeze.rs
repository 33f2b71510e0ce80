//! Compressors: what a recipe for one says, how passages become labelled tokens, and how good the result is.

use std::path::Path;

use burn::tensor::{Bool, Device, Tensor, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use serde_json::Value;
use whit_kernels::cross_entropy::cross_entropy;
use whit_kernels::op;

use super::align::{self, Quality};
use super::run::{Objective, Settings};
use super::windows::{Position, Shape};
use super::{TrainError, vocabulary, write_whole};
use crate::load::Tokenizer;
use crate::models::{self, ModelError};
use crate::nn::attention::Batched;
use crate::nn::encoder::{Encoder, EncoderConfig, EncoderTokens};
use crate::nn::vars::{Random, Storage, Vars};
use crate::squeeze::{Amount, Settings as Choices, Squeezer};
use crate::world::corpus::{Corpus, Limits};
use crate::world::passages::{Passage, Prose};
use crate::world::stable_hash;

/// A recipe for a compressor.
#[derive(Clone, Debug, PartialEq)]
pub struct SqueezeRecipe {
    /// The architecture, as `config.json` says it; the vocabulary's size is set from `vocabulary`.
    pub config: Value,
    /// Tokens of the vocabulary.
    pub vocabulary: usize,
    /// The shape of a batch; a row holds one passage.
    pub shape: Shape,
    /// Passages to learn from, and held out.
    pub passages: [usize; 2],
    /// Words of a passage.
    pub words: usize,
    /// How much text the sentences are taken from.
    pub limits: Limits,
    /// Every random choice follows from it.
    pub seed: u64,
    /// How long and how.
    pub settings: Settings,
}

impl SqueezeRecipe {
    /// The passages to learn from and the held-out ones, whose sentences are of other sources.
    pub fn data(&self, corpus: &Corpus) -> [Vec<Passage>; 2] {
        let make = |documents, count, stream| -> Vec<Passage> {
            let (prose, mut random) = (Prose::new(documents), ChaCha8Rng::seed_from_u64(self.seed + stream));
            (0..count).map(|_| prose.passage(self.words, &mut random)).collect()
        };
        [make(&corpus.train, self.passages[0], 0), make(&corpus.held_out, self.passages[1], 1)]
    }

    /// The tokenizer at `path`, trained on `passages` and written there if there is none yet.
    ///
    /// # Errors
    /// If the file is damaged or cannot be written.
    pub fn tokenizer(&self, passages: &[Passage], path: &Path) -> Result<Tokenizer, TrainError> {
        if !path.is_file() {
            let texts = passages.iter().map(|passage| passage.source.as_str());
            let tokenizer = vocabulary::word_pieces(texts, self.vocabulary)?;
            let json = tokenizer.to_string(false).map_err(TrainError::Tokenizer)?;
            write_whole(path, json.as_bytes())?;
        }
        Ok(Tokenizer::open(path)?)
    }

    /// `config.json` of the trained model.
    pub fn config_json(&self) -> Value {
        let mut config = self.config.clone();
        config["vocab_size"] = self.vocabulary.into();
        config
    }

    /// The architecture.
    ///
    /// # Errors
    /// If the configuration cannot be.
    pub fn encoder_config(&self) -> Result<EncoderConfig, TrainError> {
        let config = self.config_json();
        let known = models::encoder::architecture(&config);
        let architecture =
            known.ok_or_else(|| TrainError::Setting("the recipe's model is no encoder".into()))?;
        Ok(architecture.config(&config).map_err(ModelError::from)?)
    }

    /// The network before training, on `device`.
    ///
    /// # Errors
    /// If the configuration cannot be.
    pub fn model(&self, device: &Device) -> Result<Encoder, TrainError> {
        let (storage, source) = (Storage::Dense(device.clone()), Random { seed: self.seed });
        Ok(Encoder::new(self.encoder_config()?, &Vars::new(&source, &storage)).map_err(ModelError::from)?)
    }
}

/// One row of a batch: marks, tokens and padding, with what is to be learnt of each.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    ids: Vec<u32>,
    labels: Vec<u32>,
    /// Tokens that are no padding.
    length: usize,
}

/// Learning which tokens stay.
#[derive(Debug)]
pub struct Deletion {
    train: Vec<Row>,
    held_out: Vec<Row>,
    shape: Shape,
    /// The mean quality of the pairs that are learnt from, and how many were sorted out.
    pub quality: Quality,
    /// Pairs that were sorted out.
    pub distrusted: usize,
    seed: u64,
    fingerprint: u64,
}

impl Deletion {
    /// Labels the tokens of all passages.
    ///
    /// # Errors
    /// If the tokenizer fails, or there is no passage.
    pub fn new(
        recipe: &SqueezeRecipe,
        data: &[Vec<Passage>; 2],
        tokenizer: &Tokenizer,
    ) -> Result<Self, TrainError> {
        let aligned: Vec<_> =
            data[0].iter().map(|one| align::align(&one.source, &one.compressed, align::WINDOW)).collect();
        let qualities: Vec<Quality> = aligned.iter().map(|one| one.quality).collect();
        let trusted = align::trusted(&qualities);
        let good: Vec<Quality> =
            qualities.iter().zip(&trusted).filter(|(_, good)| **good).map(|(one, _)| *one).collect();
        if good.is_empty() || data[1].is_empty() {
            return Err(TrainError::Setting("there is no passage to learn from".into()));
        }
        let rows = |passages: &[Passage], wanted: &[bool]| -> Result<Vec<Row>, TrainError> {
            let wanted = passages.iter().zip(wanted).filter(|(_, wanted)| **wanted);
            wanted.map(|(passage, _)| row(passage, tokenizer, recipe.shape.sequence)).collect()
        };
        let text: String = data[0].iter().map(|passage| passage.source.as_str()).collect();
        Ok(Self {
            train: rows(&data[0], &trusted)?,
            held_out: rows(&data[1], &vec![true; data[1].len()])?,
            shape: recipe.shape,
            quality: mean(&good),
            distrusted: trusted.len() - good.len(),
            seed: recipe.seed,
            fingerprint: stable_hash(text.as_bytes()),
        })
    }

    /// The tokens that may be seen: all but padding.
    fn mask(rows: &[&Row], device: &Device) -> Tensor<4, Bool> {
        let length = rows[0].ids.len();
        let seen = rows.iter().flat_map(|row| (0..length * length).map(|at| at % length < row.length));
        Tensor::from_data(
            TensorData::new(seen.collect::<Vec<bool>>(), [rows.len(), 1, length, length]),
            device,
        )
    }

    fn logits(model: &Encoder, rows: &[&Row], device: &Device) -> Tensor<2> {
        let ids: Vec<u32> = rows.iter().flat_map(|row| row.ids.iter().copied()).collect();
        let positions: Vec<u32> = rows.iter().flat_map(|row| model.config().positions(&row.ids)).collect();
        let tokens = EncoderTokens { ids: &ids, positions: &positions, types: &vec![0; ids.len()] };
        let mut attend = Batched::whole(rows.len(), Some(Self::mask(rows, device)));
        let Some(logits) = model.classified(model.forward(tokens, &mut attend)) else {
            unreachable!("a compressor is made of a classifier")
        };
        logits
    }

    /// The mean over all positions, as in the paper's code: marks and padding are labelled as dropped.
    fn loss_of(model: &Encoder, rows: &[&Row]) -> Tensor<1> {
        let labels: Vec<u32> = rows.iter().flat_map(|row| row.labels.iter().copied()).collect();
        cross_entropy(Self::logits(model, rows, &Device::flex()), &labels, None)
    }
}

fn mean(qualities: &[Quality]) -> Quality {
    let mean = |part: fn(&Quality) -> f64| qualities.iter().map(part).sum::<f64>() / qualities.len() as f64;
    Quality {
        variation: mean(|one| one.variation),
        matching: mean(|one| one.matching),
        hitting: mean(|one| one.hitting),
    }
}

/// Every token gets the label of the word that it is in.
fn row(passage: &Passage, tokenizer: &Tokenizer, sequence: usize) -> Result<Row, TrainError> {
    let aligned = align::align(&passage.source, &passage.compressed, align::WINDOW);
    let (ids, spans) = tokenizer.encode_with_spans(&passage.source, true)?;
    let label = |span: &std::ops::Range<usize>| {
        let word = aligned.words.iter().position(|word| word.start <= span.start && span.start < word.end);
        u32::from(!span.is_empty() && word.is_some_and(|word| aligned.kept[word]))
    };
    let mut row = Row { labels: spans.iter().map(label).collect(), length: ids.len().min(sequence), ids };
    if row.ids.len() > sequence {
        // The mark of the end stays the last token.
        let (id, label) = (row.ids[row.ids.len() - 1], row.labels[row.labels.len() - 1]);
        row.ids[sequence - 1] = id;
        row.labels[sequence - 1] = label;
    }
    row.ids.resize(sequence, 0);
    row.labels.resize(sequence, 0);
    Ok(row)
}

impl Objective for Deletion {
    type Model = Encoder;

    fn loss(&self, model: &Encoder, position: Position) -> Result<Tensor<1>, TrainError> {
        let at = position.step * position.parts + position.part;
        let mut random = ChaCha8Rng::seed_from_u64(self.seed ^ at.wrapping_mul(0x9e37_79b9));
        let rows: Vec<&Row> =
            (0..self.shape.rows).map(|_| &self.train[random.random_range(0..self.train.len())]).collect();
        Ok(Self::loss_of(model, &rows))
    }

    fn held_out_loss(&self, model: &Encoder) -> Result<f32, TrainError> {
        let rows: Vec<&Row> = self.held_out.iter().take(4 * self.shape.rows).collect();
        let parts: Vec<f32> =
            rows.chunks(self.shape.rows).map(|rows| Self::loss_of(model, rows).into_scalar()).collect();
        Ok(parts.iter().sum::<f32>() / parts.len() as f32)
    }

    fn items(&self) -> u64 {
        (self.shape.rows * self.shape.sequence) as u64
    }

    fn identity(&self) -> String {
        let Shape { rows, sequence } = self.shape;
        format!("passages {:016x}, {rows} x {sequence} tokens, seed {}", self.fingerprint, self.seed)
    }
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figures {
    /// The share of tokens with the right label.
    pub accuracy: f64,
    /// The share of tokens that are labelled as kept: what a random choice gets right of them.
    pub kept: f64,
    /// F1 of the label `keep`.
    pub f1: f64,
    /// The same of a random choice of as many tokens.
    pub random_f1: f64,
    /// The share of keys and values of facts that are in the text at a rate of 0.5.
    pub facts: f64,
    /// The same if words are dropped at random.
    pub random_facts: f64,
    /// The mean quality of the pairs: variation, matching, alignment gap.
    pub pairs: [f64; 3],
}

impl Figures {
    /// The figures with their names, for tables.
    pub fn rows(&self) -> Vec<(&'static str, String)> {
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        vec![
            ("tokens labelled rightly", percent(self.accuracy)),
            ("F1 of keeping", percent(self.f1)),
            ("the same of a random choice", percent(self.random_f1)),
            ("keys and values kept at a rate of 0.5", percent(self.facts)),
            ("the same of a random choice", percent(self.random_facts)),
            ("variation rate of the pairs", percent(self.pairs[0])),
            ("matching rate of the pairs", percent(self.pairs[1])),
            ("alignment gap of the pairs", percent(self.pairs[2])),
        ]
    }
}

/// Measures `model`, which is outside autodiff, on the held-out passages.
///
/// # Errors
/// If the tokenizer fails.
pub fn measure(
    model: &Encoder,
    deletion: &Deletion,
    passages: &[Passage],
    tokenizer: Tokenizer,
) -> Result<Figures, TrainError> {
    let [[both, wrongly], [missed, neither]] = confusion(model, deletion);
    let total = both + wrongly + missed + neither;
    let kept = (both + missed) / total;
    let (facts, random_facts) = facts(model, passages, tokenizer)?;
    let Quality { variation, matching, .. } = deletion.quality;
    Ok(Figures {
        accuracy: (both + neither) / total,
        kept,
        f1: 2.0 * both / (2.0 * both + wrongly + missed),
        random_f1: kept, // precision and recall are both the share of kept tokens
        facts,
        random_facts,
        pairs: [variation, matching, deletion.quality.gap()],
    })
}

/// Tokens by prediction (keep, drop) and label (keep, drop); marks and padding are left out.
fn confusion(model: &Encoder, deletion: &Deletion) -> [[f64; 2]; 2] {
    let mut counts = [[0.0; 2]; 2];
    for rows in deletion.held_out.chunks(deletion.shape.rows) {
        let rows: Vec<&Row> = rows.iter().collect();
        let logits = op::host(Deletion::logits(model, &rows, &Device::flex()));
        let pairs = logits.data().chunks_exact(2);
        let labels = rows.iter().flat_map(|row| {
            row.labels.iter().enumerate().map(|(at, &label)| (at > 0 && at + 1 < row.length, label))
        });
        for (pair, (_, label)) in pairs.zip(labels).filter(|(_, (inside, _))| *inside) {
            counts[usize::from(pair[1] <= pair[0])][usize::from(label == 0)] += 1.0;
        }
    }
    counts
}

/// The share of the words of facts that stay at a rate of 0.5, and if as many words are drawn at random.
fn facts(model: &Encoder, passages: &[Passage], tokenizer: Tokenizer) -> Result<(f64, f64), TrainError> {
    let tokenizer = std::sync::Arc::new(tokenizer);
    let no_marks = || TrainError::Setting("the tokenizer puts no marks around a text".into());
    let squeezer = Squeezer::of(model.clone(), std::sync::Arc::clone(&tokenizer)).ok_or_else(no_marks)?;
    let choices = Choices::new(Amount::Rate(0.5));
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let (mut stayed, mut drawn, mut all) = (0, 0, 0);
    for passage in passages {
        let (mut done, _) = squeezer
            .squeeze(&[&passage.source], &tokenizer, &choices)
            .map_err(|error| TrainError::Setting(error.to_string()))?;
        let Some(done) = done.pop() else { continue };
        for fact in &passage.facts {
            let inside: Vec<usize> = (0..done.words.len())
                .filter(|&at| {
                    fact.start <= done.words[at].bytes.start && done.words[at].bytes.end <= fact.end
                })
                .collect();
            all += 1;
            stayed += usize::from(inside.iter().all(|&at| done.kept[at]));
            drawn += usize::from(inside.iter().all(|_| random.random_bool(0.5)));
        }
    }
    Ok((stayed as f64 / all.max(1) as f64, drawn as f64 / all.max(1) as f64))
}
