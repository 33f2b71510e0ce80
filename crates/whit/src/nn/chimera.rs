//! The network of Chimera's drafter (Zeng et al., 2024, arXiv 2402.15758): a trigram encoder for the
//! short range, one decoder layer over the target model's hidden states for the long range, and a
//! residual head for every offset.
//!
//! With `h_i` the target's hidden state at position `i`, `g_p` the features of the trigram that ends at
//! `p`, and `j` the last position that the target has seen, offset `k` asks at position `p = j + k`: it
//! attends to `h_0..=h_j`, to `g_1..=g_p` and perhaps to its predecessors `f1_j..f(k-1)_j`, gives `fk_j`
//! in place of the unknown `h_p`, and the head `k` makes the logits of token `p + 1` of `[h_j; fk_j]`.

use burn::module::Module;
use burn::tensor::{Bool, Tensor, TensorData};
use whit_kernels::attention::{self, Options};

use super::activation::Activation;
use super::decoder::{DecoderConfig, Positions};
use super::linear::Linear;
use super::mlp::Mlp;
use super::norm::Norm;
use super::rotary::{RotaryConfig, Scaling};
use super::vars::{Init, Source, Vars, VarsError};

/// The largest number of heads.
pub const MAX_HEADS: usize = 8;

/// The name of the first weight of a head.
pub fn head_name(head: usize) -> String {
    format!("chimera_head.{head}")
}

/// What a drafter is.
#[derive(Clone, Debug, PartialEq)]
pub struct DrafterConfig {
    /// The target model, after which the layer is shaped.
    pub target: DecoderConfig,
    /// Heads: how many tokens can be drafted one after the other.
    pub heads: usize,
    /// Whether an offset sees what the offsets before it gave (`prev_draft = diag`).
    pub previous: bool,
}

impl DrafterConfig {
    /// The drafter that `source` holds for `target`.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn stored(target: &DecoderConfig, source: &dyn Source) -> Result<Self, VarsError> {
        let heads = (0..MAX_HEADS).take_while(|&head| source.has(&format!("{}.weight", head_name(head))));
        let previous = match source.has(PREVIOUS) {
            true => source.rows(PREVIOUS, 0..1, 1, Init::Constant(1.0))?.first() == Some(&1.0),
            false => false,
        };
        Ok(Self { target: target.clone(), heads: heads.count(), previous })
    }
}

/// A tensor of one value that says whether offsets see their predecessors.
pub const PREVIOUS: &str = "prev_draft";

/// The drafter. The fields bear the names of the released checkpoints.
#[derive(Module, Debug)]
pub struct Drafter {
    trimlp: Trigrams,
    fast_layer1: FullContext,
    chimera_head: Vec<Linear>, // [vocabulary, 2 * width] each
    #[module(skip)]
    config: DrafterConfig,
}

/// `W_o (x + silu(W_r x + b_r))` of the embeddings of three tokens.
#[derive(Module, Debug)]
struct Trigrams {
    linear: Linear, // [3 * width, 3 * width]
    out: Linear,    // [width, 3 * width]
}

/// One decoder layer, whose keys and values are made of its inputs alone.
#[derive(Module, Debug)]
struct FullContext {
    input_layernorm: Norm,
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    post_attention_layernorm: Norm,
    mlp: Mlp,
    #[module(skip)]
    rotary: RotaryConfig,
}

/// What one offset gives in a forward pass over whole sequences, for the positions `j` from 0 on.
#[derive(Debug)]
pub struct Offset {
    /// Stands for the target's hidden state at `j + k`. `[batch * (length - k), width]`
    pub imitated: Tensor<2>,
    /// Of token `j + k + 1`. `[batch * (length - k), vocabulary]`
    pub logits: Tensor<2>,
}

/// The three tokens whose features belong to position `at`; the first tokens have no predecessors and
/// take themselves or the first one instead.
pub fn trigram(tokens: &[u32], at: usize) -> [u32; 3] {
    match at {
        0 => [tokens[0]; 3],
        1 => [tokens[0], tokens[1], tokens[1]],
        _ => [tokens[at - 2], tokens[at - 1], tokens[at]],
    }
}

impl Drafter {
    /// Builds the drafter from its variables.
    ///
    /// # Errors
    /// If a variable is missing, misshapen or unreadable.
    pub fn new(config: DrafterConfig, vars: &Vars<'_>) -> Result<Self, VarsError> {
        let (width, vocabulary) = (config.target.width, config.target.vocab_size);
        let trigrams = vars.at("trimlp");
        let heads = (0..config.heads).map(|head| vars.linear(&head_name(head), vocabulary, 2 * width, false));
        Ok(Self {
            trimlp: Trigrams {
                linear: trigrams.linear("linear", 3 * width, 3 * width, true)?,
                out: trigrams.linear("out", width, 3 * width, false)?,
            },
            fast_layer1: FullContext::new(&config.target, &vars.at("fast_layer1"))?,
            chimera_head: heads.collect::<Result<_, _>>()?,
            config,
        })
    }

    /// What it is.
    pub fn config(&self) -> &DrafterConfig {
        &self.config
    }

    /// The bytes that the weights hold: of the trigram encoder, of the layer, and of all heads.
    pub fn bytes(&self) -> [usize; 3] {
        let heads = self.chimera_head.iter().map(Linear::bytes).sum();
        [self.trimlp.linear.bytes() + self.trimlp.out.bytes(), self.fast_layer1.bytes(), heads]
    }

    /// The features of trigrams whose embeddings are `embedded` `[3 * rows, width]`: `[rows, width]`.
    pub fn features(&self, embedded: Tensor<2>) -> Tensor<2> {
        let [rows, width] = embedded.dims();
        let x = embedded.reshape([rows / 3, 3 * width]);
        let inner = Activation::Silu.forward(self.trimlp.linear.forward(x.clone()));
        self.trimlp.out.forward(x + inner)
    }

    /// Keys and values of input rows: `[rows, kv_heads, head_dim]` each.
    pub fn keys_and_values(&self, x: Tensor<2>, positions: &[u32]) -> [Tensor<3>; 2] {
        let layer = &self.fast_layer1;
        let x = layer.input_layernorm.forward(x);
        let [k, v] = Linear::forward_many([&layer.k_proj, &layer.v_proj], x);
        let DecoderConfig { kv_heads, head_dim, .. } = self.config.target;
        let split = |x: Tensor<2>| x.reshape([positions.len(), kv_heads, head_dim]);
        [layer.rotate(split(k), positions), split(v)]
    }

    /// Queries of input rows: `[rows, heads, head_dim]`.
    pub fn queries(&self, x: Tensor<2>, positions: &[u32]) -> Tensor<3> {
        let layer = &self.fast_layer1;
        let q = layer.q_proj.forward(layer.input_layernorm.forward(x));
        let DecoderConfig { heads, head_dim, .. } = self.config.target;
        layer.rotate(q.reshape([positions.len(), heads, head_dim]), positions)
    }

    /// The layer's output for input rows `x` with what they attended to `[rows, heads * head_dim]`.
    pub fn finish(&self, x: Tensor<2>, attended: Tensor<2>) -> Tensor<2> {
        let layer = &self.fast_layer1;
        let x = x + layer.o_proj.forward(attended);
        x.clone() + layer.mlp.forward(layer.post_attention_layernorm.forward(x))
    }

    /// The logits of head `head`, counted from 0, for hidden states and what was imitated after them.
    pub fn logits(&self, head: usize, hidden: Tensor<2>, imitated: Tensor<2>) -> Tensor<2> {
        self.chimera_head[head].forward(Tensor::cat(vec![hidden, imitated], 1))
    }

    /// All offsets of `batch` whole sequences whose tokens are known: training. `hidden` are the target's
    /// hidden states `[batch * length, width]`, `embedded` the embeddings of the trigrams
    /// `[3 * batch * length, width]`.
    pub fn forward(&self, batch: usize, hidden: Tensor<2>, embedded: Tensor<2>) -> Vec<Offset> {
        let [rows, width] = hidden.dims();
        let length = rows / batch;
        let all = positions(batch, 0..length);
        let features = self.features(embedded);
        let split = |x: Tensor<3>| per_sequence(x, batch);
        let [hidden_keys, hidden_values] = self.keys_and_values(hidden.clone(), &all).map(split);
        let [keys, values] = self.keys_and_values(features.clone(), &all).map(split);
        let queries = split(self.queries(features.clone(), &all));
        let (mut keys, mut values) = (vec![hidden_keys, keys], vec![hidden_values, values]);
        let from = |x: &Tensor<2>, rows: std::ops::Range<usize>| {
            let count = rows.len();
            x.clone().reshape([batch, length, width]).slice([0..batch, rows]).reshape([batch * count, width])
        };
        let mut offsets = Vec::with_capacity(self.config.heads);
        for k in 1..=self.config.heads.min(length - 1) {
            let [_, heads, _, dim] = queries.dims();
            let queries = queries.clone().slice([0..batch, 0..heads, k..length, 0..dim]);
            let mask = self.mask(length, k, &queries);
            let options = Options { scale: Some(self.scale()), mask: Some(mask), ..Options::default() };
            let (all_keys, all_values) = (Tensor::cat(keys.clone(), 2), Tensor::cat(values.clone(), 2));
            let attended = attention::attention(queries, all_keys, all_values, &options);
            let attended = attended.swap_dims(1, 2).reshape([batch * (length - k), heads * dim]);
            let imitated = self.finish(from(&features, k..length), attended);
            if self.config.previous {
                // What an offset gives is input to the next ones, which learn nothing through it.
                let rows = positions(batch, k..length);
                let [key, value] = self.keys_and_values(imitated.clone().detach(), &rows).map(split);
                keys.push(key);
                values.push(value);
            }
            let logits = self.logits(k - 1, from(&hidden, 0..length - k), imitated.clone());
            offsets.push(Offset { imitated, logits });
        }
        offsets
    }

    /// The factor on attention scores.
    pub fn scale(&self) -> f32 {
        (self.config.target.head_dim as f32).sqrt().recip()
    }

    /// Which keys the queries at positions `k..length` see: `[1, 1, length - k, keys]`.
    fn mask(&self, length: usize, k: usize, queries: &Tensor<4>) -> Tensor<4, Bool> {
        let mut seen = Vec::new();
        for j in 0..length - k {
            seen.extend((0..length).map(|i| i <= j)); // h
            seen.extend((0..length).map(|i| (1..=j + k).contains(&i))); // g
            let earlier = if self.config.previous { 1..k } else { 0..0 };
            earlier.for_each(|m| seen.extend((0..length - m).map(|i| i == j))); // f
        }
        let keys = seen.len() / (length - k);
        Tensor::from_data(TensorData::new(seen, [1, 1, length - k, keys]), &queries.device())
    }
}

impl FullContext {
    fn new(target: &DecoderConfig, vars: &Vars<'_>) -> Result<Self, VarsError> {
        let (width, inner, norm) = (target.width, target.feed_forward, target.norm);
        let (queries, keys) = (target.heads * target.head_dim, target.kv_heads * target.head_dim);
        let rotary = match &target.positions {
            Positions::Rotary(rotary) => rotary.clone(),
            Positions::Learned => RotaryConfig {
                theta: 10_000.0,
                dim: target.head_dim,
                scaling: Scaling::None,
                max_positions: target.max_positions,
            },
        };
        let attention = vars.at("self_attn");
        let mlp = vars.at("mlp");
        let gate = mlp.linear("gate_proj", inner, width, false)?;
        let (up, down) =
            (mlp.linear("up_proj", inner, width, false)?, mlp.linear("down_proj", width, inner, false)?);
        Ok(Self {
            input_layernorm: vars.norm("input_layernorm", width, norm)?,
            q_proj: attention.linear("q_proj", queries, width, false)?,
            k_proj: attention.linear("k_proj", keys, width, false)?,
            v_proj: attention.linear("v_proj", keys, width, false)?,
            o_proj: attention.linear("o_proj", width, queries, false)?,
            post_attention_layernorm: vars.norm("post_attention_layernorm", width, norm)?,
            mlp: Mlp::new(Some(gate), up, down, Activation::Silu),
            rotary,
        })
    }

    fn rotate(&self, heads: Tensor<3>, positions: &[u32]) -> Tensor<3> {
        self.rotary.angles(positions, &vec![0; positions.len()]).rotate(heads)
    }

    fn bytes(&self) -> usize {
        let attention = [&self.q_proj, &self.k_proj, &self.v_proj, &self.o_proj];
        attention.into_iter().map(Linear::bytes).sum::<usize>() + self.mlp.bytes()
    }
}

/// The positions `range` of each of `batch` sequences.
fn positions(batch: usize, range: std::ops::Range<usize>) -> Vec<u32> {
    (0..batch).flat_map(|_| range.clone().map(|at| at as u32)).collect()
}

/// `[batch * rows, heads, dim]` as `[batch, heads, rows, dim]`.
fn per_sequence(x: Tensor<3>, batch: usize) -> Tensor<4> {
    let [rows, heads, dim] = x.dims();
    x.reshape([batch, rows / batch, heads, dim]).swap_dims(1, 2)
}
