//! Qwen2 and Qwen2.5: LLaMA's blocks with biases on queries, keys and values (arXiv 2407.10671).

use serde_json::Value;

use super::Architecture;
use super::config::{self, Common, ConfigError, Defaults};
use crate::nn::decoder::{Biases, DecoderConfig};

pub(super) const ARCHITECTURE: Architecture =
    Architecture { id: "qwen2", title: "Qwen2 and Qwen2.5", config, adapt: |source, _| source };

fn config(json: &Value) -> Result<DecoderConfig, ConfigError> {
    let common: Common = config::parse(json)?;
    let defaults = Defaults {
        epsilon: 1e-6,
        theta: 10_000.0,
        positions: 32_768,
        kv_heads: Some(32),
        head_dim: None,
        window: Some(4096),
    };
    let biases = Biases { query_key_value: true, ..Biases::default() };
    let decoder = common.decoder(&defaults)?;
    Ok(DecoderConfig { biases, windows: windows(&common, &defaults, decoder.layers), ..decoder })
}

/// Qwen's windows are off unless `use_sliding_window` says otherwise, and spare the first
/// `max_window_layers` layers.
pub(super) fn windows(common: &Common, defaults: &Defaults, layers: usize) -> Vec<Option<usize>> {
    match common.use_sliding_window {
        Some(true) => common.windows(common.max_window_layers.unwrap_or(28), defaults),
        _ => vec![None; layers],
    }
}
