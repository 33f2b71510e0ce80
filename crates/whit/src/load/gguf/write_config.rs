//! A Hugging Face configuration as GGUF's hyper-parameters.

use std::collections::BTreeMap;
use std::f64::consts::TAU;

use super::GgufError;
use super::config::yarn_amplitude;
use super::metadata::Value;
use super::names::{Architecture, Heads};
use crate::load::{ConfigError, Settings};

const SIZES: std::ops::RangeInclusive<usize> = 1..=1 << 24;

/// What the writer needs of a configuration.
pub(super) struct Config {
    pub architecture: Architecture,
    pub heads: Heads,
    pub tied: bool,
    pub metadata: BTreeMap<String, Value>,
    /// Divisors of the rotary frequencies, `[head_dim / 2]`.
    pub rope_factors: Option<Vec<f32>>,
}

/// Collects keys under the architecture's prefix.
struct Pairs {
    prefix: &'static str,
    pairs: BTreeMap<String, Value>,
}

impl Pairs {
    fn size(&mut self, key: &str, size: usize) {
        self.pairs.insert(format!("{}.{key}", self.prefix), Value::Unsigned(size as u64));
    }

    fn number(&mut self, key: &str, number: f64) {
        self.pairs.insert(format!("{}.{key}", self.prefix), Value::Float(number));
    }

    fn text(&mut self, key: &str, text: &str) {
        self.pairs.insert(format!("{}.{key}", self.prefix), Value::Text(text.to_owned()));
    }
}

fn unwritable(reason: impl Into<String>) -> GgufError {
    GgufError::Unwritable { reason: reason.into() }
}

impl From<ConfigError> for GgufError {
    fn from(error: ConfigError) -> Self {
        unwritable(error.to_string())
    }
}

/// Translates a configuration.
pub(super) fn read(config: &serde_json::Value) -> Result<Config, GgufError> {
    let settings = Settings::new(config)?;
    let family = settings.str("model_type")?;
    let architecture = match family {
        "llama" | "mistral" | "mixtral" => Architecture::Llama,
        other => Architecture::parse(other)?,
    };
    let mut pairs = Pairs { prefix: architecture.name(), pairs: BTreeMap::new() };
    pairs.pairs.insert("general.architecture".into(), Value::Text(architecture.name().into()));
    let heads = sizes(&settings, family, &mut pairs)?;
    if settings.str_if("hidden_act")?.unwrap_or("silu") != "silu" {
        return Err(unwritable("its activation is not silu"));
    }
    let rope_factors = rope(&settings, family, &mut pairs)?;
    windows(&settings, family, &mut pairs)?;
    let tied = settings.bool_or("tie_word_embeddings", false)?;
    Ok(Config { architecture, heads, tied, metadata: pairs.pairs, rope_factors })
}

fn head_dim(settings: &Settings) -> Result<usize, GgufError> {
    let (width, heads) =
        (settings.usize("hidden_size", SIZES)?, settings.usize("num_attention_heads", SIZES)?);
    Ok(settings.usize_or("head_dim", width / heads, SIZES)?)
}

fn sizes(settings: &Settings, family: &str, pairs: &mut Pairs) -> Result<Heads, GgufError> {
    let size = |key| settings.usize(key, SIZES);
    let queries = size("num_attention_heads")?;
    let keys = settings.usize_or("num_key_value_heads", queries, SIZES)?;
    let head_dim = head_dim(settings)?;
    pairs.size("embedding_length", size("hidden_size")?);
    pairs.size("feed_forward_length", size("intermediate_size")?);
    pairs.size("block_count", size("num_hidden_layers")?);
    pairs.size("vocab_size", size("vocab_size")?);
    pairs.size("context_length", settings.usize_or("max_position_embeddings", 2048, SIZES)?);
    pairs.size("attention.head_count", queries);
    pairs.size("attention.head_count_kv", keys);
    pairs.size("attention.key_length", head_dim);
    pairs.size("attention.value_length", head_dim);
    let epsilon =
        settings.f64_or("rms_norm_eps", if family == "mixtral" { 1e-5 } else { 1e-6 }, 0.0..=1.0)?;
    pairs.number("attention.layer_norm_rms_epsilon", epsilon);
    if family == "mixtral" {
        pairs.size("expert_count", size("num_local_experts")?);
        pairs.size("expert_used_count", size("num_experts_per_tok")?);
    }
    Ok(Heads { queries, keys })
}

fn windows(settings: &Settings, family: &str, pairs: &mut Pairs) -> Result<(), GgufError> {
    if settings.bool_or("use_sliding_window", false)? {
        return Err(unwritable("only some of its layers have a sliding window"));
    }
    if let (Some(window), "mistral" | "mixtral") = (settings.usize_if("sliding_window", SIZES)?, family) {
        pairs.size("attention.sliding_window", window);
    }
    Ok(())
}

/// Writes the rotary keys; newer configurations keep all of them under `rope_parameters`.
fn rope(settings: &Settings, family: &str, pairs: &mut Pairs) -> Result<Option<Vec<f32>>, GgufError> {
    let section = settings.section("rope_scaling")?.or(settings.section("rope_parameters")?);
    let rope = section.as_ref().unwrap_or(settings);
    let number = |key, default| -> Result<f64, ConfigError> {
        Ok(rope.f64_if(key, 1e-6..=1e15)?.or(settings.f64_if(key, 1e-6..=1e15)?).unwrap_or(default))
    };
    let theta = number("rope_theta", if family == "mixtral" { 1e6 } else { 1e4 })?;
    let rotated = (head_dim(settings)? as f64 * number("partial_rotary_factor", 1.0)?) as usize;
    pairs.number("rope.freq_base", theta);
    pairs.size("rope.dimension_count", rotated);
    let Some(rope) = section else { return Ok(None) };
    let kind = rope.str_if("rope_type")?.or(rope.str_if("type")?).unwrap_or("default");
    match kind {
        "default" => Ok(None),
        "linear" => {
            pairs.text("rope.scaling.type", "linear");
            pairs.number("rope.scaling.factor", rope.f64("factor", 1e-3..=1e6)?);
            Ok(None)
        }
        "yarn" => yarn(&rope, pairs).map(|()| None),
        "llama3" => llama3(&rope, theta, rotated).map(Some),
        "factors" => {
            let factors = rope.numbers_if("factors")?.unwrap_or_default();
            Ok(Some(factors.into_iter().map(|f| f as f32).collect()))
        }
        other => Err(unwritable(format!("its rope scaling {other:?} has no form there"))),
    }
}

fn yarn(rope: &Settings, pairs: &mut Pairs) -> Result<(), GgufError> {
    let factor = rope.f64("factor", 1.0..=1e6)?;
    pairs.text("rope.scaling.type", "yarn");
    pairs.number("rope.scaling.factor", factor);
    if let Some(original) = rope.usize_if("original_max_position_embeddings", SIZES)? {
        pairs.size("rope.scaling.original_context_length", original);
    }
    if let Some(attention) = rope.f64_if("attention_factor", 1e-6..=1e6)? {
        pairs.number("rope.scaling.attn_factor", attention / yarn_amplitude(factor));
    }
    for name in ["beta_fast", "beta_slow"] {
        if let Some(value) = rope.f64_if(name, 0.0..=1e6)? {
            pairs.number(&format!("rope.scaling.yarn_{name}"), value);
        }
    }
    Ok(())
}

/// LLaMA 3's rule as one divisor per frequency: long waves by the factor, short ones by 1, a ramp between.
fn llama3(rope: &Settings, theta: f64, rotated: usize) -> Result<Vec<f32>, GgufError> {
    let factor = rope.f64("factor", 1.0..=1e6)?;
    let low = rope.f64_or("low_freq_factor", 1.0, 1e-6..=1e6)?;
    let high = rope.f64_or("high_freq_factor", 4.0, 1e-6..=1e6)?;
    let original = rope.usize_or("original_max_position_embeddings", 8192, SIZES)? as f64;
    let divisor = |i: usize| {
        let wavelength = TAU * theta.powf((2 * i) as f64 / rotated as f64);
        if wavelength > original / low {
            return factor as f32;
        }
        if wavelength < original / high {
            return 1.0;
        }
        let smooth = (original / wavelength - low) / (high - low);
        (1.0 / ((1.0 - smooth) / factor + smooth)) as f32
    };
    Ok((0..rotated / 2).map(divisor).collect())
}
