//! The bidirectional transformer block that all encoders share, of text and of images: attention, then the
//! feed-forward part, each with a norm before it or behind it.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::activation::Activation;
use super::attention::{Attend, Port, Site};
use super::decoder::{Biases, NormConfig};
use super::inventory::{Matrix, Role};
use super::linear::Linear;
use super::mlp::Mlp;
use super::norm::Norm;
use super::vars::{Init, Vars, VarsError};
use super::white::WhiteConfig;

/// One encoder block.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockConfig {
    /// Values of the residual stream.
    pub width: usize,
    /// Inner values of the feed-forward part.
    pub feed_forward: usize,
    /// Heads.
    pub heads: usize,
    /// Values a head.
    pub head_dim: usize,
    /// What scores are multiplied with before the softmax.
    pub scale: f32,
    /// Its norms.
    pub norm: NormConfig,
    /// Whether a norm stands before each part (ViT, T5) or behind each sum (BERT).
    pub norm_first: bool,
    /// The feed-forward activation.
    pub activation: Activation,
    /// Whether the feed-forward part has a gate.
    pub gated: bool,
    /// Which linear layers have a bias.
    pub biases: Biases,
    /// Whether each part's output is multiplied with a learned vector before it is added.
    pub layer_scale: bool,
    /// What the block is where it is none of attention and a feed-forward part, but a white-box one.
    pub white: Option<WhiteConfig>,
}

/// Attention in both directions, then the feed-forward part; each is added to its input.
#[derive(Module, Debug)]
pub struct Block {
    query: Linear,
    key: Linear,
    value: Linear,
    attention_output: Linear,
    attention_norm: Norm,
    attention_scale: Option<Param<Tensor<1>>>,
    mlp: Mlp,
    output_norm: Norm,
    output_scale: Option<Param<Tensor<1>>>,
    #[module(skip)]
    site: Site,
    #[module(skip)]
    norm_first: bool,
}

impl BlockConfig {
    /// The block of BERT: norms behind, biases everywhere.
    pub fn plain(width: usize, feed_forward: usize, heads: usize, norm: NormConfig) -> Self {
        let head_dim = width / heads;
        Self {
            width,
            feed_forward,
            heads,
            head_dim,
            scale: (head_dim as f32).powf(-0.5),
            norm,
            norm_first: false,
            activation: Activation::Gelu,
            gated: false,
            biases: Biases { query_key_value: true, attention_output: true, feed_forward: true },
            layer_scale: false,
            white: None,
        }
    }

    /// The attention of layer `layer`.
    pub fn site(&self, layer: usize) -> Site {
        Site {
            layer,
            heads: self.heads,
            kv_heads: self.heads,
            head_dim: self.head_dim,
            scale: self.scale,
            window: None,
        }
    }

    /// The matrices of layer `layer`, in the order of the forward pass.
    pub fn matrices(&self, layer: usize) -> Vec<Matrix> {
        let (width, inner, attended) = (self.width, self.feed_forward, self.heads * self.head_dim);
        let of = |part: &str, outputs, inputs| Matrix {
            name: format!("encoder.layer.{layer}.{part}.weight"),
            outputs,
            inputs,
            role: Role::Layer,
        };
        if let Some(white) = self.white {
            let square = |part| of(part, width, width);
            let own = (!white.tied_output && self.heads > 1).then(|| square("attention.output.dense"));
            return [square("attention.self.query")]
                .into_iter()
                .chain(own)
                .chain([square("output.dictionary")])
                .collect();
        }
        let mut all: Vec<_> = ["query", "key", "value"]
            .map(|name| of(&format!("attention.self.{name}"), attended, width))
            .into();
        all.push(of("attention.output.dense", width, attended));
        all.extend(self.gated.then(|| of("intermediate.gate", inner, width)));
        all.extend([of("intermediate.dense", inner, width), of("output.dense", width, inner)]);
        all
    }
}

impl Block {
    /// Block `layer` from its variables, which bear the names that BERT's checkpoints give them.
    ///
    /// # Errors
    /// If a variable is missing or has another shape than the configuration says.
    pub fn new(config: &BlockConfig, layer: usize, vars: &Vars<'_>) -> Result<Self, VarsError> {
        let (width, inner, attended) = (config.width, config.feed_forward, config.heads * config.head_dim);
        let (own, output, biases) = (vars.at("attention.self"), vars.at("attention.output"), config.biases);
        let project = |name| own.linear(name, attended, width, biases.query_key_value);
        let expand = |name| vars.linear(name, inner, width, biases.feed_forward);
        let gate = config.gated.then(|| expand("intermediate.gate")).transpose()?;
        let down = vars.linear("output.dense", width, inner, biases.feed_forward)?;
        let scale = |name| {
            let values = || vars.vector(name, width, Init::Constant(1.0)).map(Param::from_tensor);
            config.layer_scale.then(values).transpose()
        };
        Ok(Self {
            query: project("query")?,
            key: project("key")?,
            value: project("value")?,
            attention_output: output.linear("dense", width, attended, biases.attention_output)?,
            attention_norm: output.norm("LayerNorm", width, config.norm)?,
            attention_scale: scale("attention.scale")?,
            mlp: Mlp::new(gate, expand("intermediate.dense")?, down, config.activation),
            output_norm: vars.norm("output.LayerNorm", width, config.norm)?,
            output_scale: scale("output.scale")?,
            site: config.site(layer),
            norm_first: config.norm_first,
        })
    }

    /// `[tokens, width]` to `[tokens, width]`, where a token reducer may leave fewer tokens.
    pub fn forward(&self, x: Tensor<2>, attend: &mut dyn Attend) -> Tensor<2> {
        let layer = self.site.layer;
        let x = attend.before_block(layer, x);
        if self.norm_first {
            let seen = self.attention(self.attention_norm.forward(x.clone()), attend);
            let x = attend.after_attention(layer, x + scaled(seen, &self.attention_scale));
            let worked = self.worked(self.output_norm.forward(x.clone()), attend);
            return x + scaled(worked, &self.output_scale);
        }
        let seen = self.attention(x.clone(), attend);
        let x = self.attention_norm.forward(x + scaled(seen, &self.attention_scale));
        let x = attend.after_attention(layer, x);
        let worked = self.worked(x.clone(), attend);
        self.output_norm.forward(x + scaled(worked, &self.output_scale))
    }

    fn attention(&self, x: Tensor<2>, attend: &mut dyn Attend) -> Tensor<2> {
        attend.entering(self.site.layer, Port::Attention, &x);
        let shape = [x.dims()[0], self.site.heads, self.site.head_dim];
        let projected = Linear::forward_many([&self.query, &self.key, &self.value], x);
        let [queries, keys, values] = projected.map(|part| part.reshape(shape));
        let seen = attend.attend(&self.site, queries, keys, values);
        attend.entering(self.site.layer, Port::Output, &seen);
        self.attention_output.forward(seen)
    }

    fn worked(&self, x: Tensor<2>, attend: &mut dyn Attend) -> Tensor<2> {
        let layer = self.site.layer;
        self.mlp.forward_seen(x, &mut |port, rows| attend.entering(layer, port, rows))
    }

    /// The bytes that the large weights hold.
    pub fn bytes(&self) -> usize {
        let projections = [&self.query, &self.key, &self.value, &self.attention_output];
        projections.into_iter().map(Linear::bytes).sum::<usize>() + self.mlp.bytes()
    }
}

fn scaled(x: Tensor<2>, scale: &Option<Param<Tensor<1>>>) -> Tensor<2> {
    match scale {
        Some(scale) => x * scale.val().unsqueeze(),
        None => x,
    }
}
