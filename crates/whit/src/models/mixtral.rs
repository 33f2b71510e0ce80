//! Mixtral: Mistral with a mixture of experts in every block (arXiv 2401.04088).

use serde_json::Value;

use super::Architecture;
use super::config::{self, Common, ConfigError, Defaults};
use crate::nn::decoder::{DecoderConfig, ExpertConfig};

pub(super) const ARCHITECTURE: Architecture =
    Architecture { id: "mixtral", title: "Mixtral", config, adapt: |source, _| source };

fn config(json: &Value) -> Result<DecoderConfig, ConfigError> {
    let common: Common = config::parse(json)?;
    let defaults = Defaults {
        epsilon: 1e-5,
        theta: 1e6,
        positions: 4096 * 32,
        kv_heads: Some(8),
        head_dim: None,
        window: None,
    };
    let count = config::size("num_local_experts", common.num_local_experts.unwrap_or(8))?;
    let active = config::size("num_experts_per_tok", common.num_experts_per_tok.unwrap_or(2))?;
    if active > count {
        return Err(ConfigError::Value {
            field: "num_experts_per_tok",
            found: active.to_string(),
            allowed: format!("there are only {count} experts"),
        });
    }
    let experts = Some(ExpertConfig { count, active });
    Ok(DecoderConfig { windows: common.windows(0, &defaults), experts, ..common.decoder(&defaults)? })
}
