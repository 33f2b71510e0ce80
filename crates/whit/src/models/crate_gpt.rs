//! CRATE as a language model (Yu et al., 2023, arXiv 2311.13110): GPT-2 with white-box blocks, under the names of the
//! official code. Its files come without a `config.json`; it says `"model_type": "crate_gpt"` and has GPT-2's fields,
//! with the original's `ista` (the step, 0.1) and `lambd` (0.1).

use serde::Deserialize;
use serde_json::Value;

use super::Architecture;
use super::config::{self, ConfigError, size};
use super::gpt2::{Part, Renamed};
use crate::nn::activation::Activation;
use crate::nn::decoder::{Biases, DecoderConfig, Multipliers, NormConfig, Positions};
use crate::nn::vars::Source;
use crate::nn::white::WhiteConfig;

pub(super) const ARCHITECTURE: Architecture =
    Architecture { id: "crate_gpt", title: "CRATE-GPT", config, adapt };

#[derive(Deserialize)]
struct Config {
    vocab_size: usize,
    n_embd: usize,
    n_layer: usize,
    n_head: usize,
    n_positions: usize,
    layer_norm_epsilon: Option<f32>,
    tie_word_embeddings: Option<bool>,
    ista: Option<f32>,
    lambd: Option<f32>,
    tied_output: Option<bool>,
}

fn config(json: &Value) -> Result<DecoderConfig, ConfigError> {
    let json: Config = config::parse(json)?;
    let (width, heads) = (size("n_embd", json.n_embd)?, size("n_head", json.n_head)?);
    if width % heads != 0 {
        return Err(config::wrong("n_head", heads, format!("it must divide n_embd ({width})")));
    }
    let (layers, head_dim, plain) = (size("n_layer", json.n_layer)?, width / heads, WhiteConfig::default());
    Ok(DecoderConfig {
        vocab_size: size("vocab_size", json.vocab_size)?,
        width,
        feed_forward: width,
        layers,
        heads,
        kv_heads: heads,
        head_dim,
        norm: NormConfig { centred: true, epsilon: json.layer_norm_epsilon.unwrap_or(1e-5) },
        activation: Activation::Relu,
        gated: false,
        biases: Biases { attention_output: true, ..Biases::default() },
        query_key_norm: false,
        positions: Positions::Learned,
        windows: vec![None; layers],
        scales: vec![(head_dim as f32).powf(-0.5); layers],
        tied: json.tie_word_embeddings.unwrap_or(true),
        experts: None,
        block_ffn: None,
        latent: None,
        white: Some(WhiteConfig {
            step: json.ista.unwrap_or(plain.step),
            sparsity: json.lambd.unwrap_or(plain.sparsity),
            tied_output: json.tied_output.unwrap_or(plain.tied_output),
        }),
        multipliers: Multipliers::default(),
        max_positions: size("n_positions", json.n_positions)?,
    })
}

fn adapt<'a>(source: Box<dyn Source + 'a>, config: &DecoderConfig) -> Box<dyn Source + 'a> {
    Box::new(Renamed { source, width: config.width, parts: &PARTS })
}

const PARTS: [Part; 6] = [
    ("input_layernorm", "prenorm_1", false, None),
    ("post_attention_layernorm", "prenorm_2", false, None),
    ("self_attn.q_proj", "attn.c_attn", false, None),
    ("self_attn.o_proj", "attn.c_proj", false, None),
    ("mlp.dictionary", "ista", false, None),
    ("embed_tokens", "wte", false, None),
];
