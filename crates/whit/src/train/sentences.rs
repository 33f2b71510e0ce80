//! Encoders of texts that place texts about one thing near each other: what a recipe for one says, its loss, and how
//! good the result is. Trained on short texts, it is what methods against the collapse of long ones are tried on.

use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use serde_json::Value;
use whit_kernels::op;

use super::pair::contrast;
use super::run::{Objective, Settings};
use super::windows::Position;
use super::{TrainError, vocabulary, write_whole};
use crate::generate::sampler::argmax;
use crate::load::Tokenizer;
use crate::models::clip::unit;
use crate::models::{self, ModelError};
use crate::nn::attention::Batched;
use crate::nn::encoder::{Encoder, EncoderTokens};
use crate::nn::vars::{Random, Storage, Vars};
use crate::world::topics::Topics;

/// Topics from here on are never learnt from.
pub const HELD_OUT: u64 = 1 << 40;

/// A recipe for an encoder of texts.
#[derive(Clone, Debug, PartialEq)]
pub struct SentenceRecipe {
    /// The architecture, as `config.json` says it; the vocabulary's size is set from the topics' words.
    pub config: Value,
    /// What the texts are about.
    pub topics: Topics,
    /// Words of the shortest and of the longest text.
    pub words: [usize; 2],
    /// Pairs of texts in a batch.
    pub batch: usize,
    /// What cosines are divided by.
    pub temperature: f32,
    /// Every random choice follows from it.
    pub seed: u64,
    /// How long and how.
    pub settings: Settings,
}

impl SentenceRecipe {
    /// The topics' words as a tokenizer, at `path`; made and written there if there is none yet.
    ///
    /// # Errors
    /// If the file is damaged or cannot be written.
    pub fn tokenizer(&self, path: &Path) -> Result<Tokenizer, TrainError> {
        if !path.is_file() {
            let json = vocabulary::words(&self.topics.words(), vocabulary::SENTENCE)?;
            write_whole(path, json.to_string(false).map_err(TrainError::Tokenizer)?.as_bytes())?;
        }
        Ok(Tokenizer::open(path)?)
    }

    /// `config.json` of the trained model.
    pub fn config_json(&self, tokenizer: &Tokenizer) -> Value {
        let mut config = self.config.clone();
        config["vocab_size"] = tokenizer.vocab_size().into();
        config
    }

    /// The network before training, on `device`.
    ///
    /// # Errors
    /// If the configuration cannot be.
    pub fn model(&self, tokenizer: &Tokenizer, device: &Device) -> Result<Encoder, TrainError> {
        let config = self.config_json(tokenizer);
        let known = models::encoder::architecture(&config);
        let architecture =
            known.ok_or_else(|| TrainError::Setting("the recipe's model is no encoder".into()))?;
        let mut config = architecture.config(&config).map_err(ModelError::from)?;
        config.pooler = false;
        let (storage, source) = (Storage::Dense(device.clone()), Random { seed: self.seed });
        Ok(Encoder::new(config, &Vars::new(&source, &storage)).map_err(ModelError::from)?)
    }
}

/// Learning which text of a batch is about the same topic.
#[derive(Debug)]
pub struct Nearness<'a> {
    recipe: &'a SentenceRecipe,
    tokenizer: &'a Tokenizer,
}

/// Texts of one length, from some position on.
struct Rows {
    ids: Vec<Vec<u32>>,
    first: u32,
}

impl<'a> Nearness<'a> {
    /// Of the recipe's texts.
    pub fn new(recipe: &'a SentenceRecipe, tokenizer: &'a Tokenizer) -> Self {
        Self { recipe, tokenizer }
    }

    /// Two texts about each of `topics`: first all the first ones, then the second ones. The texts of a batch have
    /// one length, and stand where `random` has it, so that all positions are learnt although texts are short.
    fn rows(&self, topics: &[u64], random: &mut ChaCha8Rng) -> Result<Rows, TrainError> {
        let SentenceRecipe { topics: world, words: [shortest, longest], config, .. } = self.recipe;
        let words = random.random_range(*shortest..=*longest);
        let number = random.random_range(0..1 << 32);
        let text = |(topic, which): (&u64, u64)| {
            self.tokenizer.encode(&world.text(*topic, 2 * number + which, words), true)
        };
        let both = (0..2).flat_map(|which| topics.iter().map(move |topic| (topic, which)));
        let ids = both.map(text).collect::<Result<Vec<_>, _>>()?;
        let length = ids.first().map_or(0, Vec::len) as u32;
        let room = config["max_position_embeddings"].as_u64().map_or(512, |room| room as u32);
        Ok(Rows { ids, first: random.random_range(0..=room.saturating_sub(length)) })
    }

    fn loss_of(&self, model: &Encoder, rows: &Rows) -> Tensor<1> {
        let places = unit(means(model, rows)); // [2 * topics, width]
        let [count, width] = places.dims();
        let half = |from: usize| places.clone().slice([from..from + count / 2, 0..width]);
        contrast(half(0).matmul(half(count / 2).transpose()) / self.recipe.temperature)
    }
}

/// The mean of the tokens of each text: `[texts, width]`.
fn means(model: &Encoder, Rows { ids, first }: &Rows) -> Tensor<2> {
    let (count, length) = (ids.len(), ids.first().map_or(0, Vec::len));
    let ids = ids.concat();
    let positions: Vec<u32> = (0..ids.len()).map(|at| first + (at % length) as u32).collect();
    let tokens = EncoderTokens { ids: &ids, positions: &positions, types: &vec![0; ids.len()] };
    let hidden = model.forward(tokens, &mut Batched::whole(count, None));
    let width = hidden.dims()[1];
    hidden.reshape([count, length, width]).mean_dim(1).reshape([count, width])
}

impl Objective for Nearness<'_> {
    type Model = Encoder;

    fn loss(&self, model: &Encoder, position: Position) -> Result<Tensor<1>, TrainError> {
        let step = position.step * position.parts + position.part;
        let mut random = ChaCha8Rng::seed_from_u64(self.recipe.seed ^ step.wrapping_mul(0x9e37_79b9));
        let topics: Vec<u64> = (0..self.recipe.batch).map(|_| random.random_range(0..HELD_OUT)).collect();
        Ok(self.loss_of(model, &self.rows(&topics, &mut random)?))
    }

    fn held_out_loss(&self, model: &Encoder) -> Result<f32, TrainError> {
        let mut random = ChaCha8Rng::seed_from_u64(self.recipe.seed);
        let mut sum = 0.0;
        for batch in 0..4 {
            let first = HELD_OUT + batch * self.recipe.batch as u64;
            let topics: Vec<u64> = (first..first + self.recipe.batch as u64).collect();
            sum += self.loss_of(model, &self.rows(&topics, &mut random)?).into_scalar::<f32>();
        }
        Ok(sum / 4.0)
    }

    fn items(&self) -> u64 {
        self.recipe.batch as u64
    }

    fn identity(&self) -> String {
        let SentenceRecipe { topics, words, batch, seed, .. } = self.recipe;
        format!("{topics:?}, {batch} pairs of {words:?} words, seed {seed}")
    }
}

/// What was found on topics that were not learnt.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Figures {
    /// The share of texts that find the other text about their topic.
    pub found: f64,
    /// Topics that they choose from.
    pub topics: usize,
    /// Weights.
    pub parameters: usize,
}

impl Figures {
    /// The figures with their names, for tables.
    pub fn rows(&self) -> Vec<(String, String)> {
        let chance = 100.0 / self.topics as f64;
        vec![
            (format!("texts that find their topic among {}", self.topics), percent(100.0 * self.found)),
            ("by guessing".into(), percent(chance)),
            ("weights".into(), self.parameters.to_string()),
        ]
    }
}

fn percent(value: f64) -> String {
    format!("{value:.1} %")
}

/// Measures `model`, which is outside autodiff.
///
/// # Errors
/// If the tokenizer fails.
pub fn measure(model: &Encoder, nearness: &Nearness<'_>) -> Result<Figures, TrainError> {
    const TOPICS: usize = 200;
    let mut random = ChaCha8Rng::seed_from_u64(nearness.recipe.seed);
    let topics: Vec<u64> = (0..TOPICS as u64).map(|topic| HELD_OUT + topic).collect();
    let places = op::host(unit(means(model, &nearness.rows(&topics, &mut random)?)));
    let rows: Vec<&[f32]> = places.data().chunks_exact(places.width()).collect();
    let nearest = |row: &[f32]| {
        let dot = |other: &[f32]| row.iter().zip(other).map(|(a, b)| a * b).sum::<f32>();
        let cosines: Vec<f32> = rows[TOPICS..].iter().map(|other| dot(other)).collect();
        argmax(&cosines) as usize
    };
    let found = (0..TOPICS).filter(|&at| nearest(rows[at]) == at).count();
    Ok(Figures { found: found as f64 / TOPICS as f64, topics: TOPICS, parameters: model.num_params() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embed::{Embedder, Settings as Wanted};
    use crate::load::{Options, open};
    use crate::nn::vars::Precision;
    use crate::train::export::save_encoder;
    use crate::train::recipes;

    fn tiny() -> SentenceRecipe {
        let mut recipe = (recipes::find(recipes::SENTENCES, "toy-embed").unwrap().settings)();
        for (name, size) in [("hidden_size", 16), ("intermediate_size", 32), ("num_hidden_layers", 1)] {
            recipe.config[name] = size.into();
        }
        SentenceRecipe { batch: 3, ..recipe }
    }

    #[test]
    fn the_loss_is_that_of_both_directions_by_hand() {
        let (recipe, folder) = (tiny(), tempfile::tempdir().unwrap());
        let tokenizer = recipe.tokenizer(&folder.path().join("tokenizer.json")).unwrap();
        let model = recipe.model(&tokenizer, &Device::flex()).unwrap();
        let nearness = Nearness::new(&recipe, &tokenizer);
        let rows = nearness.rows(&[1, 2, 3], &mut ChaCha8Rng::seed_from_u64(0)).unwrap();
        let places = op::host(unit(means(&model, &rows)));
        let place = |row: usize| &places.data()[16 * row..16 * (row + 1)];
        let score = |a: usize, b: usize| -> f64 {
            let dot: f32 = place(a).iter().zip(place(3 + b)).map(|(a, b)| a * b).sum();
            f64::from(dot / recipe.temperature)
        };
        let direction = |score: &dyn Fn(usize, usize) -> f64| -> f64 {
            let row = |own: usize| (0..3).map(|b| score(own, b).exp()).sum::<f64>().ln() - score(own, own);
            (0..3).map(row).sum::<f64>() / 3.0
        };
        let expected = (direction(&score) + direction(&|a, b| score(b, a))) / 2.0;
        let loss: f32 = nearness.loss_of(&model, &rows).into_scalar();
        assert!((f64::from(loss) - expected).abs() < 1e-4, "{loss} {expected}");
    }

    #[test]
    fn a_saved_encoder_embeds_as_the_one_that_was_trained() {
        let (recipe, folder) = (tiny(), tempfile::tempdir().unwrap());
        let path = folder.path().join("tokenizer.json");
        let tokenizer = recipe.tokenizer(&path).unwrap();
        let model = recipe.model(&tokenizer, &Device::flex()).unwrap();
        let saved = folder.path().join("model");
        save_encoder(&saved, &model, &recipe.config_json(&tokenizer), &std::fs::read(&path).unwrap())
            .unwrap();
        let files = open(saved.to_str().unwrap(), &Options::default()).unwrap();
        let storage = Storage::Packed(Precision::Native);
        let texts = Embedder::new(&files, &storage, Wanted::default()).unwrap().texts.unwrap();
        let text = recipe.topics.text(7, 0, 20);
        let ids = vec![tokenizer.encode(&text, true).unwrap()];
        let ours = op::host(means(&model, &Rows { ids, first: 0 })).into_vec();
        let theirs = texts.embed(&[text]).unwrap().concat();
        for (a, b) in ours.iter().zip(theirs) {
            assert!((a - b).abs() < 0.05 * a.abs().max(1.0), "{a} {b}"); // weights were rounded to bf16
        }
    }
}
