//! The decoder that the language models share. An architecture is a way of filling in
//! [`DecoderConfig`]; the forward pass below is the same for all of them.

use burn::module::Module;
use burn::tensor::Tensor;

use super::activation::Activation;
use super::attention::{Attend, Port, Site};
use super::block_ffn::{BlockFfn, BlockFfnConfig};
use super::embedding::Embedding;
use super::exits::Passing;
use super::experts::Experts;
use super::latent::{LatentAttention, LatentConfig};
use super::linear::Linear;
use super::mlp::Mlp;
use super::norm::{Norm, Residual};
use super::rotary::{Angles, RotaryConfig};
use super::vars::{Vars, VarsError};
use super::white::{Ista, SubspaceAttention, WhiteConfig};

/// Everything that distinguishes one decoder from another.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    /// Rows of the embedding and of the output.
    pub vocab_size: usize,
    /// Values of the residual stream.
    pub width: usize,
    /// Inner values of a feed-forward block.
    pub feed_forward: usize,
    /// Blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Values a head.
    pub head_dim: usize,
    /// The norm in front of every block, and at the end.
    pub norm: NormConfig,
    /// The feed-forward activation.
    pub activation: Activation,
    /// Whether the feed-forward block has a gate.
    pub gated: bool,
    /// Which layers carry a bias.
    pub biases: Biases,
    /// Whether queries and keys are normalised per head (Qwen3).
    pub query_key_norm: bool,
    /// How positions enter.
    pub positions: Positions,
    /// The attention window of each layer.
    pub windows: Vec<Option<usize>>,
    /// The factor on attention scores of each layer.
    pub scales: Vec<f32>,
    /// Whether the output head is the embedding.
    pub tied: bool,
    /// The experts of a mixture, where the model is one.
    pub experts: Option<ExpertConfig>,
    /// The experts of BlockFFN, where the model has them.
    pub block_ffn: Option<BlockFfnConfig>,
    /// The sizes of latent attention, where the model has it.
    pub latent: Option<LatentConfig>,
    /// What its blocks are, where they are white-box ones: a block's output then takes the place of the stream, and
    /// the head reads the last one's without a norm.
    pub white: Option<WhiteConfig>,
    /// Constants that the model multiplies with on the way.
    pub multipliers: Multipliers,
    /// The longest sequence that the model was made for.
    pub max_positions: usize,
}

/// Which norm, and its epsilon.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormConfig {
    /// Subtracts the mean and has a bias (layer norm) or not (RMS norm).
    pub centred: bool,
    /// Added to the variance.
    pub epsilon: f32,
}

/// Which linear layers carry a bias.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Biases {
    /// Queries, keys and values.
    pub query_key_value: bool,
    /// The attention's output.
    pub attention_output: bool,
    /// The feed-forward block.
    pub feed_forward: bool,
}

/// Constants that some models multiply with, to train at one width and learn at another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Multipliers {
    /// The embedding.
    pub embedding: f32,
    /// What a block adds to the residual stream.
    pub residual: f32,
    /// The hidden state that the output head reads.
    pub head: f32,
}

impl Default for Multipliers {
    fn default() -> Self {
        Self { embedding: 1.0, residual: 1.0, head: 1.0 }
    }
}

/// How a model learns where its tokens stand.
#[derive(Clone, Debug, PartialEq)]
pub enum Positions {
    /// Rotated queries and keys.
    Rotary(RotaryConfig),
    /// A learned vector for each position, added to the embedding.
    Learned,
}

/// A mixture of experts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ExpertConfig {
    /// Experts in a layer.
    pub count: usize,
    /// Experts that a token uses.
    pub active: usize,
}

/// The tokens of one forward pass: any number of sequences, their tokens one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Tokens<'a> {
    /// Token ids, each below the vocabulary's size.
    pub ids: &'a [u32],
    /// The position of each token in its sequence.
    pub positions: &'a [u32],
    /// For each token the length that its sequence reaches; see [`RotaryConfig::angles`].
    pub lengths: &'a [u32],
}

/// A decoder-only transformer. The fields bear the names that checkpoints give them.
#[derive(Module, Debug)]
pub struct Decoder {
    embed_tokens: Embedding,
    embed_positions: Option<Embedding>,
    layers: Vec<Layer>,
    norm: Option<Norm>,
    lm_head: Option<Linear>,
    #[module(skip)]
    config: DecoderConfig,
}

/// One block of a decoder.
#[derive(Module, Debug)]
pub struct Layer {
    input_layernorm: Norm,
    self_attn: Attention,
    post_attention_layernorm: Norm,
    mlp: FeedForward,
    #[module(skip)]
    layer: usize,
    #[module(skip)]
    residual: f32,
    /// Whether the feed-forward part's output is the block's, to which nothing is added.
    #[module(skip)]
    replaces: bool,
}

/// What stands in a layer's attention slot.
#[derive(Module, Debug)]
// One of them lies in each layer; boxing it would save nothing.
#[allow(clippy::large_enum_variant)]
enum Attention {
    Heads(SelfAttention),
    Latent(LatentAttention),
    Subspaces(SubspaceAttention),
}

/// What stands in a layer's feed-forward slot.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)]
enum FeedForward {
    Dense(Mlp),
    Mixture(Experts),
    Blocks(BlockFfn),
    Ista(Ista),
}

#[derive(Module, Debug)]
struct SelfAttention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    q_norm: Option<Norm>,
    k_norm: Option<Norm>,
    #[module(skip)]
    site: Site,
}

impl Decoder {
    /// Builds the model from its variables.
    ///
    /// # Errors
    /// If a variable is missing or has another shape than the configuration says.
    pub fn new(config: DecoderConfig, vars: &Vars<'_>) -> Result<Self, VarsError> {
        let model = vars.at("model");
        let layers =
            (0..config.layers).map(|index| Layer::new(&config, index, &model.at("layers").at(index)));
        let positions = match config.positions {
            Positions::Learned => {
                Some(model.embedding("embed_positions", config.max_positions, config.width)?)
            }
            Positions::Rotary(_) => None,
        };
        let head = || vars.linear("lm_head", config.vocab_size, config.width, false);
        Ok(Self {
            embed_tokens: model.embedding("embed_tokens", config.vocab_size, config.width)?,
            embed_positions: positions,
            layers: layers.collect::<Result<_, _>>()?,
            norm: config
                .white
                .is_none()
                .then(|| model.norm("norm", config.width, config.norm))
                .transpose()?,
            lm_head: if config.tied { None } else { Some(head()?) },
            config,
        })
    }

    /// What the model is.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Runs the blocks; returns the normalised hidden states `[tokens, width]`.
    pub fn forward(&self, tokens: Tokens<'_>, attend: &mut dyn Attend) -> Tensor<2> {
        let mut passing = Passing::new(self.embed(tokens), self.config.angles(tokens));
        for (index, layer) in self.layers.iter().enumerate() {
            attend.observe(index, &mut || passing.stream.sum());
            passing.part(self, index, attend);
            if passing.is_over() {
                return passing.finish(self);
            }
            layer.forward(&mut passing.stream, passing.angles.as_ref(), attend);
        }
        attend.observe(self.layers.len(), &mut || passing.stream.sum());
        passing.finish(self)
    }

    /// States `[tokens, width]` as the head reads them: behind the last norm, where there is one.
    pub fn normed(&self, states: Tensor<2>) -> Tensor<2> {
        self.finish(&mut Residual::new(states))
    }

    /// The stream as the head reads it.
    pub fn finish(&self, stream: &mut Residual) -> Tensor<2> {
        match &self.norm {
            Some(norm) => stream.norm(norm),
            None => stream.sum(),
        }
    }

    /// Gives the layers from `first` on the keys and values that they make of the states `[tokens, width]`.
    pub fn fill(&self, first: usize, hidden: &Tensor<2>, angles: Option<&Angles>, attend: &mut dyn Attend) {
        for layer in &self.layers[first..] {
            let x = layer.input_layernorm.forward(hidden.clone());
            layer.self_attn.fill(x, angles, attend);
        }
    }

    /// Scores over the vocabulary for hidden states: `[tokens, vocab_size]`.
    pub fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        let hidden = times(hidden, self.config.multipliers.head);
        match &self.lm_head {
            Some(head) => head.forward(hidden),
            None => self.embed_tokens.logits(hidden),
        }
    }

    /// The table of token embeddings.
    pub fn embedding(&self) -> &Embedding {
        &self.embed_tokens
    }

    /// The bytes that the large weights hold.
    pub fn bytes(&self) -> usize {
        let head = self.lm_head.as_ref().map_or(0, Linear::bytes);
        let positions = self.embed_positions.as_ref().map_or(0, Embedding::bytes);
        self.embed_tokens.bytes() + positions + head + self.layers.iter().map(Layer::bytes).sum::<usize>()
    }

    fn embed(&self, tokens: Tokens<'_>) -> Tensor<2> {
        let embedded = times(self.embed_tokens.forward(tokens.ids), self.config.multipliers.embedding);
        match &self.embed_positions {
            Some(table) => embedded + table.forward(tokens.positions),
            None => embedded,
        }
    }
}

impl DecoderConfig {
    /// How the queries and keys of `tokens` are turned, where the model turns them.
    pub fn angles(&self, tokens: Tokens<'_>) -> Option<Angles> {
        match &self.positions {
            Positions::Rotary(rotary) => Some(rotary.angles(tokens.positions, tokens.lengths)),
            Positions::Learned => None,
        }
    }
}

impl Layer {
    /// Builds block `index` from the variables below its name.
    ///
    /// # Errors
    /// As [`Decoder::new`].
    pub fn new(config: &DecoderConfig, index: usize, vars: &Vars<'_>) -> Result<Self, VarsError> {
        Ok(Self {
            input_layernorm: vars.norm("input_layernorm", config.width, config.norm)?,
            self_attn: Attention::new(config, index, &vars.at("self_attn"))?,
            post_attention_layernorm: vars.norm("post_attention_layernorm", config.width, config.norm)?,
            mlp: FeedForward::new(config, index, vars)?,
            layer: index,
            residual: config.multipliers.residual,
            replaces: config.white.is_some(),
        })
    }

    /// Adds to the stream what attention and feed-forward make of it; a white-box block replaces it in the end.
    pub fn forward(&self, stream: &mut Residual, angles: Option<&Angles>, attend: &mut dyn Attend) {
        let x = stream.norm(&self.input_layernorm);
        stream.add(self.attention(x, angles, attend));
        let x = stream.norm(&self.post_attention_layernorm);
        let output = self.feed_forward(x, attend);
        if self.replaces { stream.replace(output) } else { stream.add(output) }
    }

    /// What the attention adds to the stream for normalised rows `[tokens, width]`.
    pub fn attention(&self, x: Tensor<2>, angles: Option<&Angles>, attend: &mut dyn Attend) -> Tensor<2> {
        times(self.self_attn.forward(x, angles, attend), self.residual)
    }

    /// What the feed-forward adds to the stream for normalised rows `[tokens, width]`.
    pub fn feed_forward(&self, x: Tensor<2>, attend: &mut dyn Attend) -> Tensor<2> {
        times(self.mlp.forward(x, self.layer, attend), self.residual)
    }

    fn bytes(&self) -> usize {
        self.self_attn.bytes() + self.mlp.bytes()
    }
}

/// `factor x`; nothing is done where the factor is one.
fn times(x: Tensor<2>, factor: f32) -> Tensor<2> {
    if factor == 1.0 { x } else { x.mul_scalar(factor) }
}

impl Attention {
    fn new(config: &DecoderConfig, layer: usize, vars: &Vars<'_>) -> Result<Self, VarsError> {
        let site = Site {
            layer,
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            scale: config.scales[layer],
            window: config.windows[layer],
        };
        Ok(match (config.latent, config.white) {
            (Some(latent), _) => Self::Latent(LatentAttention::new(latent, config, site, vars)?),
            (None, Some(white)) => {
                let names = ["q_proj", "o_proj"];
                Self::Subspaces(SubspaceAttention::new(site, white.tied_output, vars, names)?)
            }
            (None, None) => Self::Heads(SelfAttention::new(config, site, vars)?),
        })
    }

    fn forward(&self, x: Tensor<2>, angles: Option<&Angles>, attend: &mut dyn Attend) -> Tensor<2> {
        match self {
            Self::Heads(attention) => attention.forward(x, angles, attend),
            Self::Latent(attention) => attention.forward(x, angles, attend),
            Self::Subspaces(attention) => attention.forward(x, attend),
        }
    }

    fn fill(&self, x: Tensor<2>, angles: Option<&Angles>, attend: &mut dyn Attend) {
        match self {
            Self::Heads(attention) => attention.fill(x, angles, attend),
            Self::Latent(attention) => attention.fill(x, angles, attend),
            Self::Subspaces(attention) => attention.fill(x, attend),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Heads(SelfAttention { q_proj, k_proj, v_proj, o_proj, .. }) => {
                [q_proj, k_proj, v_proj, o_proj].map(Linear::bytes).iter().sum()
            }
            Self::Latent(attention) => attention.bytes(),
            Self::Subspaces(attention) => attention.bytes(),
        }
    }
}

impl FeedForward {
    fn new(config: &DecoderConfig, layer: usize, vars: &Vars<'_>) -> Result<Self, VarsError> {
        let names = ["gate_proj", "up_proj", "down_proj"];
        if let Some(white) = config.white {
            return Ok(Self::Ista(Ista::new(white, config.width, &vars.at("mlp"))?));
        }
        Ok(match (config.experts, config.block_ffn) {
            (Some(experts), _) => Self::Mixture(experts.build(config, &vars.at("block_sparse_moe"))?),
            (None, Some(block)) => Self::Blocks(BlockFfn::new(block, config, layer, &vars.at("mlp"))?),
            (None, None) => Self::Dense(mlp(config, names, &vars.at("mlp"))?),
        })
    }

    fn forward(&self, x: Tensor<2>, layer: usize, attend: &mut dyn Attend) -> Tensor<2> {
        match self {
            Self::Dense(mlp) => mlp.forward_seen(x, &mut |port, rows| attend.entering(layer, port, rows)),
            Self::Mixture(experts) => experts.forward(x),
            Self::Blocks(block) => block.forward(x, attend),
            Self::Ista(ista) => ista.forward_seen(x, &mut |port, rows| attend.entering(layer, port, rows)),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Dense(mlp) => mlp.bytes(),
            Self::Mixture(experts) => experts.bytes(),
            Self::Blocks(block) => block.bytes(),
            Self::Ista(ista) => ista.bytes(),
        }
    }
}

impl SelfAttention {
    fn new(config: &DecoderConfig, site: Site, vars: &Vars<'_>) -> Result<Self, VarsError> {
        let (width, head_dim) = (config.width, config.head_dim);
        let (queries, keys) = (config.heads * head_dim, config.kv_heads * head_dim);
        let bias = config.biases.query_key_value;
        let norm = |name| match config.query_key_norm {
            true => vars.norm(name, head_dim, config.norm).map(Some),
            false => Ok(None),
        };
        Ok(Self {
            q_proj: vars.linear("q_proj", queries, width, bias)?,
            k_proj: vars.linear("k_proj", keys, width, bias)?,
            v_proj: vars.linear("v_proj", keys, width, bias)?,
            o_proj: vars.linear("o_proj", width, queries, config.biases.attention_output)?,
            q_norm: norm("q_norm")?,
            k_norm: norm("k_norm")?,
            site,
        })
    }

    fn forward(&self, x: Tensor<2>, angles: Option<&Angles>, attend: &mut dyn Attend) -> Tensor<2> {
        let tokens = x.dims()[0];
        let site = &self.site;
        attend.entering(site.layer, Port::Attention, &x);
        let [q, k, v] = Linear::forward_many([&self.q_proj, &self.k_proj, &self.v_proj], x);
        let q = place(q.reshape([tokens, site.heads, site.head_dim]), &self.q_norm, angles);
        let k = place(k.reshape([tokens, site.kv_heads, site.head_dim]), &self.k_norm, angles);
        let v = v.reshape([tokens, site.kv_heads, site.head_dim]);
        let mixed = attend.attend(site, q, k, v);
        attend.entering(site.layer, Port::Output, &mixed);
        self.o_proj.forward(mixed)
    }

    /// Hands over keys and values without asking for the attention.
    fn fill(&self, x: Tensor<2>, angles: Option<&Angles>, attend: &mut dyn Attend) {
        let (tokens, site) = (x.dims()[0], &self.site);
        let [k, v] = Linear::forward_many([&self.k_proj, &self.v_proj], x);
        let k = place(k.reshape([tokens, site.kv_heads, site.head_dim]), &self.k_norm, angles);
        attend.fill(site, k, v.reshape([tokens, site.kv_heads, site.head_dim]));
    }
}

/// Normalises heads where the model does, then turns them to their positions.
fn place(heads: Tensor<3>, norm: &Option<Norm>, angles: Option<&Angles>) -> Tensor<3> {
    let heads = match norm {
        Some(norm) => norm.forward(heads),
        None => heads,
    };
    match angles {
        Some(angles) => angles.rotate(heads),
        None => heads,
    }
}

fn mlp(config: &DecoderConfig, names: [&str; 3], vars: &Vars<'_>) -> Result<Mlp, VarsError> {
    let (width, inner, bias) = (config.width, config.feed_forward, config.biases.feed_forward);
    let gate = match config.gated {
        true => Some(vars.linear(names[0], inner, width, bias)?),
        false => None,
    };
    let up = vars.linear(names[1], inner, width, bias)?;
    let down = vars.linear(names[2], width, inner, bias)?;
    Ok(Mlp::new(gate, up, down, config.activation))
}

impl ExpertConfig {
    fn build(self, config: &DecoderConfig, vars: &Vars<'_>) -> Result<Experts, VarsError> {
        let gate = vars.linear("gate", self.count, config.width, false)?;
        let expert = |index| mlp(config, ["w1", "w3", "w2"], &vars.at("experts").at(index));
        let experts = (0..self.count).map(expert).collect::<Result<_, _>>()?;
        Ok(Experts::new(gate, experts, self.active))
    }
}
