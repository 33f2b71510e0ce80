//! LLaMA 1, 2 and 3 (arXiv 2302.13971, 2307.09288, 2407.21783).

use serde_json::Value;

use super::Architecture;
use super::config::{self, Common, ConfigError, Defaults};
use crate::nn::decoder::{Biases, DecoderConfig};

pub(super) const ARCHITECTURE: Architecture =
    Architecture { id: "llama", title: "LLaMA 1, 2, 3 and their kin", config, adapt: |source, _| source };

fn config(json: &Value) -> Result<DecoderConfig, ConfigError> {
    let common: Common = config::parse(json)?;
    let defaults = Defaults {
        epsilon: 1e-6,
        theta: 10_000.0,
        positions: 2048,
        kv_heads: None,
        head_dim: None,
        window: None,
    };
    let attention = common.attention_bias.unwrap_or(false);
    let biases = Biases {
        query_key_value: attention,
        attention_output: attention,
        feed_forward: common.mlp_bias.unwrap_or(false),
    };
    Ok(DecoderConfig { biases, ..common.decoder(&defaults)? })
}
