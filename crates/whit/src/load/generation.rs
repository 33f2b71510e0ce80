//! What `generation_config.json` recommends for sampling.

use serde_json::Value;

use super::{ConfigError, Settings};

/// The sampling settings a model's authors recommend; absent keys are `None`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerationConfig {
    /// Ids that end a text.
    pub eos_token_id: Vec<u32>,
    /// Id that begins a text.
    pub bos_token_id: Option<u32>,
    /// Id for padding.
    pub pad_token_id: Option<u32>,
    /// Whether to sample rather than take the likeliest token.
    pub do_sample: Option<bool>,
    /// Softmax temperature.
    pub temperature: Option<f64>,
    /// Keep the k likeliest tokens.
    pub top_k: Option<usize>,
    /// Keep the likeliest tokens of this total probability.
    pub top_p: Option<f64>,
    /// Keep tokens of at least this fraction of the highest probability.
    pub min_p: Option<f64>,
    /// Keep the locally typical tokens of this total probability.
    pub typical_p: Option<f64>,
    /// Divides the logits of tokens already seen.
    pub repetition_penalty: Option<f64>,
    /// Most tokens to generate.
    pub max_new_tokens: Option<usize>,
}

impl GenerationConfig {
    /// Reads the values of `generation_config.json`, with token ids falling back to those of `config.json`.
    ///
    /// # Errors
    /// [`ConfigError`] naming the key that is out of its range.
    pub fn from_json(generation: &Value, config: &Value) -> Result<Self, ConfigError> {
        let (own, model) = (Settings::new(generation)?, Settings::new(config)?);
        let ids = |key| match own.token_ids(key)? {
            ids if ids.is_empty() => model.token_ids(key),
            ids => Ok(ids),
        };
        let probability = |key| own.f64_if(key, 0.0..=1.0);
        Ok(Self {
            eos_token_id: ids("eos_token_id")?,
            bos_token_id: ids("bos_token_id")?.first().copied(),
            pad_token_id: own.get("pad_token_id").and_then(Value::as_u64).and_then(|n| n.try_into().ok()),
            do_sample: own.get("do_sample").map(|_| own.bool_or("do_sample", false)).transpose()?,
            temperature: own.f64_if("temperature", 0.0..=1e4)?,
            top_k: own.usize_if("top_k", 0..=usize::MAX)?,
            top_p: probability("top_p")?,
            min_p: probability("min_p")?,
            typical_p: probability("typical_p")?,
            repetition_penalty: own.f64_if("repetition_penalty", 1e-4..=1e4)?,
            max_new_tokens: own.usize_if("max_new_tokens", 0..=usize::MAX)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn token_ids_fall_back_to_the_model() {
        let config = json!({"eos_token_id": 2, "bos_token_id": 1});
        let own = json!({"eos_token_id": [3, 4], "temperature": 0.6, "do_sample": true, "pad_token_id": -1});
        let read = GenerationConfig::from_json(&own, &config).unwrap();
        assert_eq!((read.eos_token_id, read.bos_token_id), (vec![3, 4], Some(1)));
        assert_eq!((read.temperature, read.do_sample, read.pad_token_id), (Some(0.6), Some(true), None));
        assert_eq!(GenerationConfig::from_json(&json!({}), &config).unwrap().eos_token_id, [2]);
        assert!(GenerationConfig::from_json(&json!({"top_p": 1.5}), &config).is_err());
        assert!(GenerationConfig::from_json(&json!({"eos_token_id": "x"}), &config).is_err());
    }
}
