//! Reading `config.json`: the fields that the Llama-like architectures share, under the names that
//! the file gives them, with the checks that keep a wrong file from reaching the tensors.

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use thiserror::Error;

use crate::nn::activation::Activation;
use crate::nn::decoder::{Biases, DecoderConfig, Multipliers, NormConfig, Positions};
use crate::nn::rotary::{Llama3, RotaryConfig, Scaling, Yarn};

/// Why `config.json` cannot be used.
#[derive(Debug, Error, PartialEq)]
pub enum ConfigError {
    /// A field is not there.
    #[error("config.json: `{0}` is missing")]
    Missing(&'static str),
    /// A field has a value that cannot be.
    #[error("config.json: `{field}` is {found}; {allowed}")]
    Value {
        /// The field.
        field: &'static str,
        /// Its value.
        found: String,
        /// What would be right.
        allowed: String,
    },
    /// A field is of the wrong kind.
    #[error("config.json: {0}")]
    Kind(String),
}

/// No dimension of a real model comes near this; larger ones are mistakes or attacks.
const LARGEST: usize = 1 << 24;

/// A field that must be a text.
pub(super) fn text<'a>(config: &'a Value, field: &'static str) -> Result<&'a str, ConfigError> {
    config.get(field).and_then(Value::as_str).ok_or(ConfigError::Missing(field))
}

/// Reads a configuration into its serde structure.
pub(super) fn parse<T: for<'de> Deserialize<'de>>(config: &Value) -> Result<T, ConfigError> {
    T::deserialize(config).map_err(|error| ConfigError::Kind(error.to_string()))
}

/// Checks that a size lies between one and what a real model could have.
pub(super) fn size(field: &'static str, value: usize) -> Result<usize, ConfigError> {
    if (1..=LARGEST).contains(&value) {
        return Ok(value);
    }
    Err(ConfigError::Value {
        field,
        found: value.to_string(),
        allowed: format!("it must lie between 1 and {LARGEST}"),
    })
}

/// Checks the number of attention heads, which must divide the width.
pub(super) fn heads(heads: usize, width: usize) -> Result<usize, ConfigError> {
    if width.is_multiple_of(size("num_attention_heads", heads)?) {
        return Ok(heads);
    }
    Err(wrong("num_attention_heads", heads, format!("it must divide hidden_size ({width})")))
}

pub(super) fn wrong(field: &'static str, found: impl ToString, allowed: impl Into<String>) -> ConfigError {
    ConfigError::Value { field, found: found.to_string(), allowed: allowed.into() }
}

/// The fields of LLaMA, Mistral, Mixtral and Qwen.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Common {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    #[serde(default, deserialize_with = "written")]
    num_key_value_heads: Option<Option<usize>>,
    head_dim: Option<usize>,
    hidden_act: Option<Activation>,
    rms_norm_eps: Option<f32>,
    max_position_embeddings: Option<usize>,
    rope_theta: Option<f32>,
    partial_rotary_factor: Option<f32>,
    rope_scaling: Option<Rope>,
    rope_parameters: Option<Rope>,
    tie_word_embeddings: Option<bool>,
    pub(super) attention_bias: Option<bool>,
    pub(super) mlp_bias: Option<bool>,
    #[serde(default, deserialize_with = "written")]
    sliding_window: Option<Option<usize>>,
    pub(super) use_sliding_window: Option<bool>,
    pub(super) max_window_layers: Option<usize>,
    layer_types: Option<Vec<String>>,
    pub(super) num_local_experts: Option<usize>,
    pub(super) num_experts_per_tok: Option<usize>,
}

/// Tells a field that is `null` (the inner `None`) from one that is not there.
fn written<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Option<usize>>, D::Error> {
    Deserialize::deserialize(value).map(Some)
}

/// `rope_scaling` (older files) or `rope_parameters` (newer ones); some files hold the type under both names.
#[derive(Clone, Debug, Deserialize)]
struct Rope {
    rope_type: Option<String>,
    r#type: Option<String>,
    rope_theta: Option<f32>,
    partial_rotary_factor: Option<f32>,
    factor: Option<f32>,
    low_freq_factor: Option<f32>,
    high_freq_factor: Option<f32>,
    original_max_position_embeddings: Option<usize>,
    attention_factor: Option<f32>,
    beta_fast: Option<f32>,
    beta_slow: Option<f32>,
    mscale: Option<f32>,
    mscale_all_dim: Option<f32>,
    truncate: Option<bool>,
    factors: Option<Vec<f32>>,
}

/// What an architecture assumes where its file is silent.
pub(super) struct Defaults {
    pub(super) epsilon: f32,
    pub(super) theta: f32,
    pub(super) positions: usize,
    pub(super) kv_heads: Option<usize>,
    pub(super) head_dim: Option<usize>,
    pub(super) window: Option<usize>,
}

impl Common {
    /// The decoder that these fields describe, without biases, windows and experts.
    pub(super) fn decoder(&self, defaults: &Defaults) -> Result<DecoderConfig, ConfigError> {
        let heads = size("num_attention_heads", self.num_attention_heads)?;
        let kv_heads = self.num_key_value_heads.unwrap_or(defaults.kv_heads).unwrap_or(heads);
        if size("num_key_value_heads", kv_heads)? > heads || heads % kv_heads != 0 {
            return Err(wrong(
                "num_key_value_heads",
                kv_heads,
                format!("it must divide the {heads} attention heads"),
            ));
        }
        let width = size("hidden_size", self.hidden_size)?;
        let head_dim = size("head_dim", self.head_dim.or(defaults.head_dim).unwrap_or(width / heads))?;
        let layers = size("num_hidden_layers", self.num_hidden_layers)?;
        Ok(DecoderConfig {
            vocab_size: size("vocab_size", self.vocab_size)?,
            width,
            feed_forward: size("intermediate_size", self.intermediate_size)?,
            layers,
            heads,
            kv_heads,
            head_dim,
            norm: NormConfig { centred: false, epsilon: self.rms_norm_eps.unwrap_or(defaults.epsilon) },
            activation: self.hidden_act.unwrap_or(Activation::Silu),
            gated: true,
            biases: Biases::default(),
            query_key_norm: false,
            positions: Positions::Rotary(self.rotary(head_dim, defaults)?),
            windows: vec![None; layers],
            scales: vec![(head_dim as f32).powf(-0.5); layers],
            tied: self.tie_word_embeddings.unwrap_or(false),
            experts: None,
            block_ffn: None,
            latent: None,
            white: None,
            multipliers: Multipliers::default(),
            max_positions: self.max_positions(defaults),
        })
    }

    /// The window of each layer: of all of them, or as `layer_types` or the older fields say.
    pub(super) fn windows(&self, first: usize, defaults: &Defaults) -> Vec<Option<usize>> {
        let window = self.sliding_window.unwrap_or(defaults.window);
        let slides = |layer: usize| match &self.layer_types {
            Some(types) => types.get(layer).is_some_and(|kind| kind == "sliding_attention"),
            None => layer >= first,
        };
        (0..self.num_hidden_layers).map(|layer| window.filter(|_| slides(layer))).collect()
    }

    fn max_positions(&self, defaults: &Defaults) -> usize {
        self.max_position_embeddings.unwrap_or(defaults.positions)
    }

    fn rotary(&self, head_dim: usize, defaults: &Defaults) -> Result<RotaryConfig, ConfigError> {
        let rope = self.rope_scaling.as_ref().or(self.rope_parameters.as_ref());
        let part =
            rope.and_then(|rope| rope.partial_rotary_factor).or(self.partial_rotary_factor).unwrap_or(1.0);
        let dim = (head_dim as f32 * part) as usize;
        if dim < 2 || !dim.is_multiple_of(2) || dim > head_dim {
            return Err(wrong(
                "head_dim",
                head_dim,
                format!("{dim} of it would be rotated, which must be even"),
            ));
        }
        let theta = rope.and_then(|rope| rope.rope_theta).or(self.rope_theta).unwrap_or(defaults.theta);
        if !theta.is_finite() || theta <= 1.0 {
            return Err(wrong("rope_theta", theta, "it must be a number above 1"));
        }
        let max_positions = size("max_position_embeddings", self.max_positions(defaults))?;
        let scaling = rope.map_or(Ok(Scaling::None), |rope| rope.scaling(max_positions, dim))?;
        Ok(RotaryConfig { theta, dim, scaling, max_positions })
    }
}

impl Rope {
    fn scaling(&self, max_positions: usize, dim: usize) -> Result<Scaling, ConfigError> {
        Ok(match self.rope_type.as_deref().or(self.r#type.as_deref()).unwrap_or("default") {
            "default" => Scaling::None,
            "linear" => Scaling::Linear(self.factor()?),
            "dynamic" => Scaling::Dynamic(self.factor()?),
            "llama3" => Scaling::Llama3(self.llama3(max_positions)?),
            "yarn" => Scaling::Yarn(self.yarn(max_positions)?),
            "factors" => Scaling::Factors(self.factors(dim)?),
            other => {
                let allowed = "supported are default, linear, dynamic, llama3 and yarn";
                return Err(wrong("rope_scaling.rope_type", format!("`{other}`"), allowed));
            }
        })
    }

    fn factor(&self) -> Result<f32, ConfigError> {
        let factor = self.factor.ok_or(ConfigError::Missing("rope_scaling.factor"))?;
        if factor.is_finite() && factor >= 1.0 {
            return Ok(factor);
        }
        Err(wrong("rope_scaling.factor", factor, "it must be a number of at least 1"))
    }

    fn original(&self, max_positions: usize) -> f32 {
        self.original_max_position_embeddings.unwrap_or(max_positions) as f32
    }

    fn llama3(&self, max_positions: usize) -> Result<Llama3, ConfigError> {
        let low = self.low_freq_factor.ok_or(ConfigError::Missing("rope_scaling.low_freq_factor"))?;
        let high = self.high_freq_factor.ok_or(ConfigError::Missing("rope_scaling.high_freq_factor"))?;
        if high <= low {
            return Err(wrong(
                "rope_scaling.high_freq_factor",
                high,
                format!("it must be above low_freq_factor ({low})"),
            ));
        }
        Ok(Llama3 { factor: self.factor()?, low, high, original: self.original(max_positions) })
    }

    fn yarn(&self, max_positions: usize) -> Result<Yarn, ConfigError> {
        let factor = self.factor()?;
        let recommended = match (self.mscale, self.mscale_all_dim) {
            (Some(mscale), Some(all)) if mscale != 0.0 && all != 0.0 => {
                Yarn::recommended_attention(factor, mscale) / Yarn::recommended_attention(factor, all)
            }
            _ => Yarn::recommended_attention(factor, 1.0),
        };
        Ok(Yarn {
            factor,
            attention_factor: self.attention_factor.unwrap_or(recommended),
            beta_fast: self.beta_fast.unwrap_or(32.0),
            beta_slow: self.beta_slow.unwrap_or(1.0),
            original: self.original(max_positions),
            truncate: self.truncate.unwrap_or(true),
        })
    }

    fn factors(&self, dim: usize) -> Result<Vec<f32>, ConfigError> {
        let factors = self.factors.clone().ok_or(ConfigError::Missing("rope_scaling.factors"))?;
        if factors.len() == dim / 2 && factors.iter().all(|factor| factor.is_finite() && *factor > 0.0) {
            return Ok(factors);
        }
        Err(wrong(
            "rope_scaling.factors",
            format!("{} values", factors.len()),
            format!("{} positive ones are needed", dim / 2),
        ))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::architecture;
    use super::*;

    fn llama(change: Value) -> Result<DecoderConfig, String> {
        let mut config = json!({
            "model_type": "llama", "vocab_size": 100, "hidden_size": 64, "intermediate_size": 128,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32,
        });
        for (key, value) in change.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        let architecture = architecture(&config).map_err(|error| error.to_string())?;
        (architecture.config)(&config).map_err(|error| error.to_string())
    }

    #[test]
    fn the_defaults_are_llamas() {
        let config = llama(json!({})).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((config.head_dim, config.kv_heads, config.tied), (16, 2, false));
        assert_eq!(config.norm.epsilon, 1e-6);
    }

    #[test]
    fn both_spellings_of_the_scaling_are_read() {
        let old = llama(json!({"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}}));
        let new =
            llama(json!({"rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0}}));
        assert_eq!(old, new);
        let both = llama(json!({
            "rope_theta": 5e5, "rope_parameters": null,
            "rope_scaling": {"type": "linear", "rope_type": "linear", "factor": 2.0},
        }));
        assert_eq!(old, both);
    }

    #[test]
    fn a_field_that_is_null_differs_from_one_that_is_absent() {
        let mistral = |change: Value| llama(change).unwrap_or_else(|error| panic!("{error}"));
        let config =
            mistral(json!({"model_type": "mistral", "num_key_value_heads": null, "sliding_window": null}));
        assert_eq!((config.kv_heads, config.windows[0]), (4, None));
        assert_eq!(mistral(json!({"model_type": "mistral"})).windows[0], Some(4096));
    }

    #[test]
    fn wrong_fields_are_named() {
        let cases = [
            (json!({"model_type": "mamba"}), "mamba"),
            (json!({"num_key_value_heads": 3}), "num_key_value_heads"),
            (json!({"num_attention_heads": 0}), "num_attention_heads"),
            (json!({"vocab_size": 1u64 << 60}), "vocab_size"),
            (json!({"hidden_size": "wide"}), "wide"),
            (json!({"rope_scaling": {"rope_type": "spiral"}}), "spiral"),
            (json!({"rope_scaling": {"rope_type": "linear"}}), "rope_scaling.factor"),
            (json!({"head_dim": 7}), "head_dim"),
        ];
        for (change, name) in cases {
            let error = llama(change).expect_err(name);
            assert!(error.contains(name), "{error}");
        }
    }
}
