//! MiniCPM (arXiv 2404.06395) and, in its files, BlockFFN (arXiv 2507.08771): Llama with constants on
//! embedding, residuals and logits; attention by heads or latent; feed-forward dense or of BlockFFN's
//! experts.

use std::ops::Range;

use serde::Deserialize;
use serde_json::Value;
use whit_kernels::linear::WeightType;

use super::Architecture;
use super::config::{self, Common, ConfigError, Defaults, size};
use crate::nn::activation::Activation;
use crate::nn::block_ffn::{BlockFfnConfig, Router};
use crate::nn::decoder::{Biases, DecoderConfig, Multipliers, Positions};
use crate::nn::latent::LatentConfig;
use crate::nn::vars::{Init, Source, VarsError};

pub(super) const ARCHITECTURE: Architecture =
    Architecture { id: "minicpm", title: "MiniCPM 1 and 2, BlockFFN", config, adapt };

#[derive(Deserialize)]
struct Extra {
    scale_emb: Option<f32>,
    scale_depth: Option<f32>,
    dim_model_base: Option<f32>,
    tie_word_embeddings: Option<bool>,
    attention_type: Option<String>,
    q_lora_rank: Option<usize>,
    kv_lora_rank: Option<usize>,
    qk_nope_head_dim: Option<usize>,
    qk_rope_head_dim: Option<usize>,
    v_head_dim: Option<usize>,
    ffn_type: Option<String>,
    ffn_gated: Option<bool>,
    router_act: Option<String>,
    norm_after_router: Option<String>,
    expert_size: Option<usize>,
    num_experts: Option<usize>,
    num_experts_per_tok: Option<usize>,
}

fn config(json: &Value) -> Result<DecoderConfig, ConfigError> {
    let (common, extra): (Common, Extra) = (config::parse(json)?, config::parse(json)?);
    let mut decoder = common.decoder(&Defaults {
        epsilon: 1e-6,
        theta: 10_000.0,
        positions: 4096,
        kv_heads: None,
        head_dim: None,
        window: None,
    })?;
    let bias = common.attention_bias.unwrap_or(false);
    decoder.biases = Biases { query_key_value: bias, attention_output: bias, feed_forward: false };
    decoder.tied = extra.tie_word_embeddings.unwrap_or(true);
    decoder.gated = extra.ffn_gated.unwrap_or(true);
    decoder.multipliers = extra.multipliers(&decoder)?;
    extra.attention(&mut decoder, bias)?;
    extra.feed_forward(&mut decoder)?;
    Ok(decoder)
}

impl Extra {
    fn multipliers(&self, decoder: &DecoderConfig) -> Result<Multipliers, ConfigError> {
        let constant = |field, value: Option<f32>| {
            let value = value.unwrap_or(1.0);
            let fits = value.is_finite() && value > 0.0;
            if fits { Ok(value) } else { Err(refusal(field, value, "it must be a number above 0")) }
        };
        Ok(Multipliers {
            embedding: constant("scale_emb", self.scale_emb)?,
            residual: constant("scale_depth", self.scale_depth)? / (decoder.layers as f32).sqrt(),
            head: constant("dim_model_base", self.dim_model_base)? / decoder.width as f32,
        })
    }

    fn attention(&self, decoder: &mut DecoderConfig, bias: bool) -> Result<(), ConfigError> {
        match self.attention_type.as_deref().unwrap_or("vanilla") {
            "vanilla" => return Ok(()),
            "mla" if !bias => {}
            "mla" => return Err(refusal("attention_bias", bias, "latent attention has none")),
            other => return Err(refusal("attention_type", other, "supported are vanilla and mla")),
        }
        let given = |field, value: Option<usize>, default| size(field, value.unwrap_or(default));
        let latent = LatentConfig {
            query_rank: given("q_lora_rank", self.q_lora_rank, 768)?,
            rank: given("kv_lora_rank", self.kv_lora_rank, 256)?,
            nope: given("qk_nope_head_dim", self.qk_nope_head_dim, 64)?,
            rope: given("qk_rope_head_dim", self.qk_rope_head_dim, 32)?,
            value: given("v_head_dim", self.v_head_dim, decoder.width / decoder.heads)?,
        };
        if latent.value > latent.head_dim() {
            let allowed = format!("it must not exceed a query's {}", latent.head_dim());
            return Err(refusal("v_head_dim", latent.value, allowed));
        }
        if !latent.rope.is_multiple_of(2) {
            return Err(refusal("qk_rope_head_dim", latent.rope, "it must be even"));
        }
        if let Positions::Rotary(rotary) = &mut decoder.positions {
            rotary.dim = latent.rope;
        }
        decoder.head_dim = latent.head_dim();
        decoder.kv_heads = decoder.heads;
        decoder.scales = vec![(decoder.head_dim as f32).powf(-0.5); decoder.layers];
        decoder.latent = Some(latent);
        Ok(())
    }

    fn feed_forward(&self, decoder: &mut DecoderConfig) -> Result<(), ConfigError> {
        match self.ffn_type.as_deref().unwrap_or("vanilla") {
            "vanilla" => return Ok(()),
            "block" | "block_linear" => {}
            other => return Err(refusal("ffn_type", other, "supported are vanilla, block and block_linear")),
        }
        if decoder.activation != Activation::Silu {
            return Err(refusal("hidden_act", format!("{:?}", decoder.activation), "supported is silu"));
        }
        let experts = size("num_experts", self.num_experts.unwrap_or(40))?;
        let router = self.router(experts)?;
        let block =
            BlockFfnConfig { experts, size: size("expert_size", self.expert_size.unwrap_or(128))?, router };
        decoder.feed_forward = size("num_experts", experts * block.size)?;
        decoder.block_ffn = Some(block);
        Ok(())
    }

    fn router(&self, experts: usize) -> Result<Router, ConfigError> {
        let norm = self.norm_after_router.as_deref();
        match (self.router_act.as_deref().unwrap_or("relu"), norm) {
            ("relu", Some("rms")) => Ok(Router::Relu),
            ("relu", Some(other)) => Err(refusal("norm_after_router", other, "supported is rms")),
            ("relu", None) => Err(ConfigError::Missing("norm_after_router")),
            ("topk", Some(other)) => {
                Err(refusal("norm_after_router", other, "a topk router has none; leave it out"))
            }
            ("topk", None) => self.chosen(experts).map(Router::TopK),
            (other, _) => Err(refusal("router_act", other, "supported are relu and topk")),
        }
    }

    /// The experts that a router chooses for a token.
    fn chosen(&self, experts: usize) -> Result<usize, ConfigError> {
        let field = "num_experts_per_tok";
        match self.num_experts_per_tok {
            None => Err(ConfigError::Missing(field)),
            Some(count) if (1..=experts).contains(&count) => Ok(count),
            Some(count) => {
                Err(refusal(field, count, format!("it must lie between 1 and num_experts ({experts})")))
            }
        }
    }
}

fn refusal(field: &'static str, found: impl ToString, allowed: impl Into<String>) -> ConfigError {
    ConfigError::Value { field, found: found.to_string(), allowed: allowed.into() }
}

fn adapt<'a>(source: Box<dyn Source + 'a>, config: &DecoderConfig) -> Box<dyn Source + 'a> {
    match config.block_ffn {
        Some(block) => Box::new(Blocks { source, block, width: config.width }),
        None => source,
    }
}

/// The experts' matrices under the names of linear layers. The files have them as `up_proj`
/// `[experts, size, width]` and `down_proj` `[experts, width, size]`, or (`block_linear`) as
/// `[experts * size, width]` and `[width, experts * size]`.
struct Blocks<'a> {
    source: Box<dyn Source + 'a>,
    block: BlockFfnConfig,
    width: usize,
}

impl Blocks<'_> {
    /// The name in the file, where `name` is a matrix of the experts that the file has under another.
    fn place<'n>(&self, name: &'n str) -> Option<&'n str> {
        let short = name.strip_suffix(".weight")?;
        let expert = short.ends_with(".mlp.up_proj") || short.ends_with(".mlp.down_proj");
        (expert && !self.source.has(name)).then_some(short)
    }

    /// The shape of a matrix that the file has expert by expert.
    fn stacked(&self, name: &str) -> [usize; 3] {
        let BlockFfnConfig { experts, size, .. } = self.block;
        if name.ends_with("up_proj") { [experts, size, self.width] } else { [experts, self.width, size] }
    }

    fn is_stacked(&self, name: &str) -> bool {
        self.source.check(name, &self.stacked(name)).is_ok()
    }
}

impl Source for Blocks<'_> {
    fn check(&self, name: &str, shape: &[usize]) -> Result<(), VarsError> {
        match self.place(name) {
            Some(name) if self.is_stacked(name) => Ok(()),
            Some(name) => self.source.check(name, shape),
            None => self.source.check(name, shape),
        }
    }

    fn has(&self, name: &str) -> bool {
        self.source.has(self.place(name).unwrap_or(name))
    }

    fn rows(&self, name: &str, rows: Range<usize>, width: usize, init: Init) -> Result<Vec<f32>, VarsError> {
        let Some(name) = self.place(name) else { return self.source.rows(name, rows, width, init) };
        if !self.is_stacked(name) {
            return self.source.rows(name, rows, width, init);
        }
        let [experts, lines, values] = self.stacked(name);
        let stacked = self.source.rows(name, 0..experts, lines * values, init)?;
        let columns = |row: usize| {
            (0..experts)
                .flat_map(move |expert| (expert * lines + row) * values..(expert * lines + row + 1) * values)
        };
        Ok(match name.ends_with("up_proj") {
            true => stacked[rows.start * width..rows.end * width].to_vec(),
            false => rows.flat_map(columns).map(|at| stacked[at]).collect(),
        })
    }

    fn block_type(&self, name: &str) -> Option<WeightType> {
        match self.place(name) {
            Some(_) => None,
            None => self.source.block_type(name),
        }
    }

    fn blocks(&self, name: &str, rows: Range<usize>) -> Result<Vec<u8>, VarsError> {
        self.source.blocks(name, rows)
    }

    fn native(&self, name: &str) -> WeightType {
        self.source.native(self.place(name).unwrap_or(name))
    }
}
