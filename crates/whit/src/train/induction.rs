//! A start for small language models that have to find things in what they read.
//!
//! Attention heads that look up how an earlier occurrence went on ("induction heads", Olsson et al., 2022,
//! arXiv 2209.11895) are what key retrieval and copying need. Training finds them, but only after far more
//! tokens than a small model reads here: a head of one layer has to store what came before each token
//! while nothing reads it yet. So two such pairs of heads are set by construction, on top of random weights, in
//! the first two layers. Nothing is frozen; training sharpens them or takes them apart.
//!
//! * Every embedding gets one common component. A head of layer 0 that sees only this component attends by
//!   distance alone: rotary frequencies that turn fast single out the token `lag` places back. It stores that
//!   token, as a projection, in directions of its own.
//! * A head of layer 1 compares what its query is (or follows) with what its keys follow, in the slowly
//!   turning dimensions, and adds the token found to the residual stream, which the tied output reads.

use std::ops::Range;

use crate::nn::decoder::{DecoderConfig, Positions};
use crate::nn::vars::{Init, Random, Source, VarsError, named_normals};
use whit_kernels::linear::WeightType;

/// The deviation of the weights of a model before training, which the sizes below are multiples of.
const DEVIATION: f32 = 0.02;
/// The common component of all embeddings, in deviations.
const MARK: f32 = 5.0;
/// What blocks add at first, against the usual start: the heads set here are to be heard.
const QUIET: f32 = 0.2;
/// How strongly a head of layer 0 stores the token that it looks back at.
const STORED: f32 = 3.0;
/// How strongly a head of layer 1 adds the token that it found.
const COPIED: f32 = 20.0;
/// The factor on queries and keys that are compared.
const MATCH: f32 = 1.5;
/// The factor on queries and keys that attend by distance.
const LAG: f32 = 1.3;
/// Radians per token from which on a frequency is fast enough to tell neighbours apart.
const FAST: f32 = 1.0 / 6.0;

/// Random weights in which two pairs of heads look back and copy.
#[derive(Debug)]
pub struct Seeded<'a> {
    random: Random,
    config: &'a DecoderConfig,
    /// Radians that each pair of a head's dimensions turns by per token.
    frequencies: Vec<f32>,
}

/// A weight that the construction changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Embedding,
    Query(usize),
    Key(usize),
    Value(usize),
    Output(usize),
    Down,
}

impl<'a> Seeded<'a> {
    /// The start of a model of `config` from `seed`; `None` where the architecture has no rotary positions,
    /// too few layers or a single key head.
    pub fn new(seed: u64, config: &'a DecoderConfig) -> Option<Self> {
        let Positions::Rotary(rotary) = &config.positions else { return None };
        let frequencies = rotary.frequencies(config.max_positions as u32);
        let fits = config.layers >= 2 && config.kv_heads >= 2 && 2 * frequencies.len() == config.head_dim;
        fits.then_some(Self { random: Random { seed }, config, frequencies })
    }

    /// Sets row `row` of a weight of `role`; `values` are random so far.
    fn set(&self, role: Role, row: usize, values: &mut [f32]) {
        let (head_dim, group) = (self.config.head_dim, self.config.heads / self.config.kv_heads);
        let (head, dim) = (row / head_dim, row % head_dim);
        match role {
            Role::Embedding => values[0] = MARK * DEVIATION,
            Role::Query(layer) if head.is_multiple_of(group) => {
                self.compare(layer, head / group, 0, dim, values);
            }
            Role::Key(layer) => self.compare(layer, head, head + 1, dim, values),
            Role::Value(0) if head < 2 => values.copy_from_slice(&self.direction("token", dim)),
            Role::Value(1) if head < 2 => values.copy_from_slice(&self.direction("copy", dim)),
            Role::Output(layer) => {
                values.iter_mut().for_each(|value| *value *= QUIET);
                if layer < 2 {
                    self.write(layer, row, values);
                }
            }
            Role::Down => values.iter_mut().for_each(|value| *value *= QUIET),
            _ => (),
        }
    }

    /// Row `dim` of the queries (`lag` 0) or keys of pair `pair`.
    fn compare(&self, layer: usize, pair: usize, lag: usize, dim: usize, values: &mut [f32]) {
        if pair >= 2 || layer >= 2 {
            return;
        }
        values.fill(0.0);
        if layer == 0 {
            values[0] = self.distance(lag, dim);
            return;
        }
        let Some(at) = self.slow(dim) else { return };
        // Pair 0 compares the query's token with the one before a key, pair 1 the token before the query
        // with the one two places before a key.
        let read = match (pair, lag) {
            (0, 0) => self.direction("token", at),
            (1, 0) => self.stored(0, at),
            (pair, _) => self.stored(pair, at),
        };
        let scale = if pair == 0 { MATCH } else { MATCH / STORED };
        values.iter_mut().zip(read).for_each(|(value, read)| *value = scale * read);
    }

    /// The weight of the common component for a head that attends `lag` places back: a key is the query
    /// turned on by that many places.
    fn distance(&self, lag: usize, dim: usize) -> f32 {
        let half = self.frequencies.len();
        let frequency = self.frequencies[dim % half];
        if frequency <= FAST {
            return 0.0;
        }
        let fast = self.frequencies.iter().filter(|&&frequency| frequency > FAST).count();
        let size = LAG * (6.0 / fast as f32).sqrt() * (32.0 / self.config.head_dim as f32).powf(-0.25);
        let (sin, cos) = (lag as f32 * frequency).sin_cos();
        size * if dim < half { cos } else { sin }
    }

    /// Which of the slowly turning dimensions `dim` is: they hardly turn over the whole context.
    fn slow(&self, dim: usize) -> Option<usize> {
        let half = self.frequencies.len();
        let is_slow = |dim: usize| self.frequencies[dim % half] < 1.0 / self.config.max_positions as f32;
        is_slow(dim).then(|| (0..dim).filter(|&dim| is_slow(dim)).count())
    }

    /// Adds to the residual stream: what layer 0 stores, what layer 1 found.
    fn write(&self, layer: usize, row: usize, values: &mut [f32]) {
        let (head_dim, group) = (self.config.head_dim, self.config.heads / self.config.kv_heads);
        for (pair, dim) in (0..2).flat_map(|pair| (0..head_dim).map(move |dim| (pair, dim))) {
            let written = match layer {
                0 => STORED * self.stored(pair, dim)[row],
                _ => COPIED * self.direction("copy", dim)[row],
            };
            values[pair * group * head_dim + dim] = DEVIATION * written;
        }
    }

    /// Where the head of layer 0 and pair `pair` stores value `dim`.
    fn stored(&self, pair: usize, dim: usize) -> Vec<f32> {
        self.direction(["one back", "two back"][pair], dim)
    }

    /// Direction `dim` of a random projection, without the common component: nearly orthonormal.
    fn direction(&self, name: &str, dim: usize) -> Vec<f32> {
        let width = self.config.width;
        let mut values = named_normals(self.random.seed, name, dim * width, width, (width as f32).powf(-0.5));
        values[0] = 0.0;
        values
    }
}

impl Role {
    fn of(name: &str) -> Option<Self> {
        let name = name.strip_prefix("model.").unwrap_or(name);
        if name == "embed_tokens.weight" {
            return Some(Self::Embedding);
        }
        let (layer, rest) = name.strip_prefix("layers.")?.split_once('.')?;
        let layer = layer.parse().ok()?;
        Some(match rest {
            "self_attn.q_proj.weight" => Self::Query(layer),
            "self_attn.k_proj.weight" => Self::Key(layer),
            "self_attn.v_proj.weight" => Self::Value(layer),
            "self_attn.o_proj.weight" => Self::Output(layer),
            "mlp.down_proj.weight" => Self::Down,
            _ => return None,
        })
    }
}

impl Source for Seeded<'_> {
    fn check(&self, name: &str, shape: &[usize]) -> Result<(), VarsError> {
        self.random.check(name, shape)
    }

    fn has(&self, name: &str) -> bool {
        self.random.has(name)
    }

    fn rows(&self, name: &str, rows: Range<usize>, width: usize, init: Init) -> Result<Vec<f32>, VarsError> {
        let mut values = self.random.rows(name, rows.clone(), width, init)?;
        if let Some(role) = Role::of(name) {
            rows.zip(values.chunks_exact_mut(width)).for_each(|(row, values)| self.set(role, row, values));
        }
        Ok(values)
    }

    fn native(&self, name: &str) -> WeightType {
        self.random.native(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::language::{LanguageRecipe, logits};
    use crate::train::recipes;
    use crate::train::windows::Shape;
    use burn::tensor::Device;
    use rand::{RngExt, SeedableRng};
    use whit_kernels::op;

    /// The share of tokens of repeated random blocks that an untrained model finds.
    fn found(recipe: &LanguageRecipe) -> f64 {
        let model = recipe.model(&Device::flex()).unwrap();
        let best =
            |row: &[f32]| (0..row.len()).fold(0, |best, at| if row[at] > row[best] { at } else { best });
        let mut right = 0;
        for seed in 0..5 {
            let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
            let block: Vec<u32> = (0..40).map(|_| random.random_range(1..recipe.vocabulary as u32)).collect();
            let ids = [block.clone(), block.clone(), block].concat();
            let scores = op::host(logits(&model, &ids, Shape { rows: 1, sequence: ids.len() }));
            let rows = scores.data().chunks_exact(scores.width()).skip(40).zip(&ids[41..]);
            right += rows.filter(|(row, next)| best(row) == **next as usize).count();
        }
        right as f64 / (5 * 79) as f64
    }

    #[test]
    fn an_untrained_model_already_copies_more_than_by_chance() {
        let recipe = (recipes::find(recipes::RECIPES, "rust-lm").unwrap().settings)();
        let (seeded, plain) = (found(&recipe), found(&LanguageRecipe { seeded: false, ..recipe }));
        // One of 2048 tokens is right by chance.
        assert!(seeded > 0.03 && plain < 0.005, "{seeded} {plain}");
    }

    #[test]
    fn it_needs_rotary_positions_and_two_layers() {
        let recipe = (recipes::find(recipes::RECIPES, "rust-lm").unwrap().settings)();
        let config = recipe.decoder_config().unwrap();
        assert!(Seeded::new(1, &config).is_some());
        assert!(Seeded::new(1, &DecoderConfig { layers: 1, ..config.clone() }).is_none());
        assert!(Seeded::new(1, &DecoderConfig { positions: Positions::Learned, ..config }).is_none());
    }

    #[test]
    fn other_weights_stay_random() {
        let recipe = (recipes::find(recipes::RECIPES, "rust-lm").unwrap().settings)();
        let config = recipe.decoder_config().unwrap();
        let (seeded, plain) = (Seeded::new(1, &config).unwrap(), Random { seed: 1 });
        for name in ["model.layers.2.self_attn.q_proj.weight", "model.layers.0.mlp.up_proj.weight"] {
            let rows = |source: &dyn Source| source.rows(name, 3..5, 256, Init::Normal(0.02)).unwrap();
            assert_eq!(rows(&seeded), rows(&plain));
        }
    }
}
