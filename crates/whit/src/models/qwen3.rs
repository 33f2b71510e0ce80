//! Qwen3: normalised queries and keys, and a head size of its own (arXiv 2505.09388).

use serde_json::Value;

use super::config::{self, Common, ConfigError, Defaults};
use super::{Architecture, qwen2};
use crate::nn::decoder::{Biases, DecoderConfig};

pub(super) const ARCHITECTURE: Architecture =
    Architecture { id: "qwen3", title: "Qwen3", config, adapt: |source, _| source };

fn config(json: &Value) -> Result<DecoderConfig, ConfigError> {
    let common: Common = config::parse(json)?;
    let defaults = Defaults {
        epsilon: 1e-6,
        theta: 10_000.0,
        positions: 32_768,
        kv_heads: Some(32),
        head_dim: Some(128),
        window: Some(4096),
    };
    let attention = common.attention_bias.unwrap_or(false);
    let biases = Biases { query_key_value: attention, attention_output: attention, feed_forward: false };
    let decoder = common.decoder(&defaults)?;
    let windows = qwen2::windows(&common, &defaults, decoder.layers);
    Ok(DecoderConfig { biases, windows, query_key_norm: true, ..decoder })
}
