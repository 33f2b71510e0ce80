//! The encoder of T5 (Raffel et al., 2019) and mT5: RMS norms before every part, no biases, scores that are
//! not scaled, and positions as learned values for each distance.

use serde::Deserialize;
use serde_json::Value;

use super::config::{self, ConfigError, size, wrong};
use super::encoder::{EncoderArchitecture, Kin};
use super::names::{Names, part};
use crate::nn::activation::Activation;
use crate::nn::block::BlockConfig;
use crate::nn::decoder::{Biases, NormConfig};
use crate::nn::encoder::{Counting, EncoderConfig, Relative};

pub(super) const ENCODER: EncoderArchitecture =
    EncoderArchitecture { id: "t5", title: "T5", kin: Kin::Other { config, names: NAMES } };

pub(super) const MULTILINGUAL: EncoderArchitecture =
    EncoderArchitecture { id: "mt5", title: "mT5", kin: Kin::Other { config, names: NAMES } };

const NAMES: &[Names] = &[Names {
    probe: "encoder.final_layer_norm.weight",
    prefixes: &["", "transformer."],
    layers: &["encoder.block.0."],
    parts: &[
        part("embeddings.word_embeddings", "shared"),
        part("embeddings.word_embeddings", "encoder.embed_tokens"),
        part(
            "embeddings.relative_embeddings",
            "encoder.block.0.layer.0.SelfAttention.relative_attention_bias",
        ),
        part("attention.self.query", "layer.0.SelfAttention.q"),
        part("attention.self.key", "layer.0.SelfAttention.k"),
        part("attention.self.value", "layer.0.SelfAttention.v"),
        part("attention.output.dense", "layer.0.SelfAttention.o"),
        part("attention.output.LayerNorm", "layer.0.layer_norm"),
        part("intermediate.gate", "layer.1.DenseReluDense.wi_0"),
        part("intermediate.dense", "layer.1.DenseReluDense.wi"),
        part("intermediate.dense", "layer.1.DenseReluDense.wi_1"),
        part("output.dense", "layer.1.DenseReluDense.wo"),
        part("output.LayerNorm", "layer.1.layer_norm"),
        part("final_norm", "encoder.final_layer_norm"),
    ],
}];

#[derive(Deserialize)]
struct Config {
    vocab_size: usize,
    d_model: usize,
    d_kv: usize,
    d_ff: usize,
    num_layers: usize,
    num_heads: usize,
    relative_attention_num_buckets: Option<usize>,
    relative_attention_max_distance: Option<usize>,
    layer_norm_epsilon: Option<f32>,
    feed_forward_proj: Option<String>,
    architectures: Option<Vec<String>>,
}

fn config(json: &Value) -> Result<EncoderConfig, ConfigError> {
    let json: Config = config::parse(json)?;
    json.check()?;
    let (activation, gated) = json.feed_forward()?;
    let block = BlockConfig {
        width: size("d_model", json.d_model)?,
        feed_forward: size("d_ff", json.d_ff)?,
        heads: size("num_heads", json.num_heads)?,
        head_dim: size("d_kv", json.d_kv)?,
        scale: 1.0,
        norm: NormConfig { centred: false, epsilon: json.layer_norm_epsilon.unwrap_or(1e-6) },
        norm_first: true,
        activation,
        gated,
        biases: Biases::default(),
        layer_scale: false,
        white: None,
    };
    Ok(EncoderConfig {
        vocab_size: size("vocab_size", json.vocab_size)?,
        max_positions: 0,
        relative: Some(json.relative()?),
        types: 0,
        embedding_norm: false,
        final_norm: true,
        causal: false,
        block,
        layers: size("num_layers", json.num_layers)?,
        counting: Counting::FromZero,
        pooler: false,
        end: None,
        projection: None,
        labels: None,
    })
}

impl Config {
    /// Refuses heads; of the models with a decoder, the encoder alone is used.
    fn check(&self) -> Result<(), ConfigError> {
        let name = self.architectures.as_ref().and_then(|names| names.first()).map_or("", String::as_str);
        let whole = ["EncoderModel", "Model", "ForConditionalGeneration"];
        if name.is_empty() || whole.iter().any(|ending| name.ends_with(ending)) {
            return Ok(());
        }
        Err(wrong(
            "architectures",
            format!("`{name}`"),
            "supported is the encoder of a model without another head",
        ))
    }

    fn feed_forward(&self) -> Result<(Activation, bool), ConfigError> {
        match self.feed_forward_proj.as_deref().unwrap_or("relu") {
            "relu" => Ok((Activation::Relu, false)),
            "gelu" => Ok((Activation::Gelu, false)),
            "gated-gelu" => Ok((Activation::GeluTanh, true)),
            "gated-silu" => Ok((Activation::Silu, true)),
            "gated-relu" => Ok((Activation::Relu, true)),
            other => {
                let allowed = "supported are relu, gelu, gated-gelu, gated-silu and gated-relu";
                Err(wrong("feed_forward_proj", format!("`{other}`"), allowed))
            }
        }
    }

    fn relative(&self) -> Result<Relative, ConfigError> {
        let buckets =
            size("relative_attention_num_buckets", self.relative_attention_num_buckets.unwrap_or(32))?;
        if buckets < 4 {
            return Err(wrong("relative_attention_num_buckets", buckets, "it must be at least 4"));
        }
        let max_distance =
            size("relative_attention_max_distance", self.relative_attention_max_distance.unwrap_or(128))?;
        if max_distance <= buckets / 4 {
            let allowed = format!("it must be above a quarter of the {buckets} buckets");
            return Err(wrong("relative_attention_max_distance", max_distance, allowed));
        }
        Ok(Relative { buckets, max_distance })
    }
}
