//! CRATE as a language model (Yu et al., 2023, arXiv 2311.13110): GPT-2 with white-box blocks, under the names of the
//! official code. Its files come without a `config.json`; it says `"model_type": "crate_gpt"` and has GPT-2's fields,
//! with the original's `ista` (the step, 0.1) and `lambd` (0.1).

use serde_json::Value;

use super::Architecture;
use super::config::ConfigError;
use super::gpt2::{self, Part, Renamed};
use super::white_box::White;
use crate::nn::activation::Activation;
use crate::nn::decoder::{Biases, DecoderConfig};
use crate::nn::vars::Source;
use crate::nn::white::WhiteConfig;

pub(super) const ARCHITECTURE: Architecture =
    Architecture { id: "crate_gpt", title: "CRATE-GPT", config, adapt };

fn config(json: &Value) -> Result<DecoderConfig, ConfigError> {
    let plain = gpt2::config(json)?;
    Ok(DecoderConfig {
        feed_forward: plain.width,
        activation: Activation::Relu,
        biases: Biases { attention_output: true, ..Biases::default() },
        white: Some(White::read(json)?.config(WhiteConfig::default().sparsity)),
        ..plain
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
