//! Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1): queries and keys with
//! values come out of two small latent vectors; positions enter by a part of each key that all heads
//! share.
//!
//! Keys and values are expanded before they go to the cache, as for any other attention, so every
//! method reaches them; the cache is not smaller for it.

use burn::module::Module;
use burn::tensor::Tensor;

use super::attention::{Attend, Site};
use super::decoder::{DecoderConfig, NormConfig};
use super::linear::Linear;
use super::norm::Norm;
use super::rotary::Angles;
use super::vars::{Vars, VarsError};

/// The sizes of latent attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LatentConfig {
    /// Values of the latent vector of queries.
    pub query_rank: usize,
    /// Values of the latent vector of keys and values.
    pub rank: usize,
    /// Values of a head without position.
    pub nope: usize,
    /// Values of a head that are rotated.
    pub rope: usize,
    /// Values of a head's result; at most `nope + rope`.
    pub value: usize,
}

impl LatentConfig {
    /// Values of a query and of a key.
    pub fn head_dim(&self) -> usize {
        self.nope + self.rope
    }

    /// The matrices of a layer: name, outputs, inputs.
    pub fn matrices(&self, width: usize, heads: usize) -> [(&'static str, usize, usize); 5] {
        [
            ("q_a_proj", self.query_rank, width),
            ("q_b_proj", heads * self.head_dim(), self.query_rank),
            ("kv_a_proj_with_mqa", self.rank + self.rope, width),
            ("kv_b_proj", heads * (self.nope + self.value), self.rank),
            ("o_proj", width, heads * self.value),
        ]
    }
}

/// Latent attention, under the names of DeepSeek's checkpoints.
#[derive(Module, Debug)]
pub struct LatentAttention {
    q_a_proj: Linear,
    q_a_layernorm: Norm,
    q_b_proj: Linear,
    kv_a_proj_with_mqa: Linear,
    kv_a_layernorm: Norm,
    kv_b_proj: Linear,
    o_proj: Linear,
    #[module(skip)]
    latent: LatentConfig,
    #[module(skip)]
    site: Site,
}

impl LatentAttention {
    /// Builds the attention of a layer from the variables below its name.
    ///
    /// # Errors
    /// If a variable is missing or misshapen.
    pub fn new(
        latent: LatentConfig,
        config: &DecoderConfig,
        site: Site,
        vars: &Vars<'_>,
    ) -> Result<Self, VarsError> {
        let norm = NormConfig { centred: false, epsilon: 1e-6 };
        let [q_a, q_b, kv_a, kv_b, o] = latent
            .matrices(config.width, config.heads)
            .map(|(name, outputs, inputs)| vars.linear(name, outputs, inputs, false));
        Ok(Self {
            q_a_proj: q_a?,
            q_a_layernorm: vars.norm("q_a_layernorm", latent.query_rank, norm)?,
            q_b_proj: q_b?,
            kv_a_proj_with_mqa: kv_a?,
            kv_a_layernorm: vars.norm("kv_a_layernorm", latent.rank, norm)?,
            kv_b_proj: kv_b?,
            o_proj: o?,
            latent,
            site,
        })
    }

    /// `[tokens, width]` to `[tokens, width]`.
    pub fn forward(&self, x: Tensor<2>, angles: Option<&Angles>, attend: &mut dyn Attend) -> Tensor<2> {
        let (tokens, heads) = (x.dims()[0], self.site.heads);
        let LatentConfig { nope, rope, value, .. } = self.latent;
        let [latent, compressed] = Linear::forward_many([&self.q_a_proj, &self.kv_a_proj_with_mqa], x);
        let queries = self.q_b_proj.forward(self.q_a_layernorm.forward(latent));
        let queries = queries.reshape([tokens, heads, nope + rope]);
        let turned = rotate(queries.clone().slice([0..tokens, 0..heads, nope..nope + rope]), angles);
        let queries = Tensor::cat(vec![queries.slice([0..tokens, 0..heads, 0..nope]), turned], 2);

        let (keys, values) = self.expand(compressed, angles);
        let mixed = attend.attend(&self.site, queries, keys, values).reshape([tokens, heads, nope + rope]);
        let mixed = mixed.slice([0..tokens, 0..heads, 0..value]).reshape([tokens, heads * value]);
        self.o_proj.forward(mixed)
    }

    /// Hands over keys and values without asking for the attention.
    pub fn fill(&self, x: Tensor<2>, angles: Option<&Angles>, attend: &mut dyn Attend) {
        let (keys, values) = self.expand(self.kv_a_proj_with_mqa.forward(x), angles);
        attend.fill(&self.site, keys, values);
    }

    /// The keys and values `[tokens, heads, nope + rope]` of compressed rows.
    fn expand(&self, compressed: Tensor<2>, angles: Option<&Angles>) -> (Tensor<3>, Tensor<3>) {
        let (tokens, heads) = (compressed.dims()[0], self.site.heads);
        let LatentConfig { rank, nope, rope, value, .. } = self.latent;
        let shared = compressed.clone().slice([0..tokens, rank..rank + rope]).reshape([tokens, 1, rope]);
        let shared = rotate(shared, angles).repeat_dim(1, heads);
        let latent = self.kv_a_layernorm.forward(compressed.slice([0..tokens, 0..rank]));
        let expanded = self.kv_b_proj.forward(latent).reshape([tokens, heads, nope + value]);
        let keys = Tensor::cat(vec![expanded.clone().slice([0..tokens, 0..heads, 0..nope]), shared], 2);
        let values = expanded.slice([0..tokens, 0..heads, nope..nope + value]);
        let filling = Tensor::zeros([tokens, heads, nope + rope - value], &values.device());
        let values = Tensor::cat(vec![values, filling], 2);
        (keys, values)
    }

    /// The bytes that the large weights hold.
    pub fn bytes(&self) -> usize {
        let queries = self.q_a_proj.bytes() + self.q_b_proj.bytes();
        queries + self.kv_a_proj_with_mqa.bytes() + self.kv_b_proj.bytes() + self.o_proj.bytes()
    }
}

fn rotate(heads: Tensor<3>, angles: Option<&Angles>) -> Tensor<3> {
    match angles {
        Some(angles) => angles.rotate(heads),
        None => heads,
    }
}
