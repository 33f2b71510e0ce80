//! Mistral: LLaMA's blocks with a sliding attention window (arXiv 2310.06825).

use serde_json::Value;

use super::Architecture;
use super::config::{self, Common, ConfigError, Defaults};
use crate::nn::decoder::DecoderConfig;

pub(super) const ARCHITECTURE: Architecture =
    Architecture { id: "mistral", title: "Mistral", config, adapt: |source, _| source };

fn config(json: &Value) -> Result<DecoderConfig, ConfigError> {
    let common: Common = config::parse(json)?;
    let defaults = Defaults {
        epsilon: 1e-6,
        theta: 10_000.0,
        positions: 4096 * 32,
        kv_heads: Some(8),
        head_dim: None,
        window: Some(4096),
    };
    Ok(DecoderConfig { windows: common.windows(0, &defaults), ..common.decoder(&defaults)? })
}
