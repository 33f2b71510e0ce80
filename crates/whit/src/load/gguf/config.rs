//! A GGUF file's hyper-parameters as a Hugging Face configuration.

use serde_json::{Value, json};

use super::names::{Architecture, Heads, ROPE_FACTORS};
use super::parse::Head;
use super::{GgufError, Metadata};

const SIZES: std::ops::RangeInclusive<usize> = 1..=1 << 24;

/// Typed access to the keys of one architecture (`llama.block_count`).
struct Keys<'a> {
    metadata: &'a Metadata,
    architecture: Architecture,
}

impl Keys<'_> {
    fn full(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture.name())
    }

    fn size(&self, key: &str) -> Result<usize, GgufError> {
        self.metadata.usize(&self.full(key), SIZES)
    }

    fn size_if(&self, key: &str) -> Result<Option<usize>, GgufError> {
        self.metadata.usize_if(&self.full(key), 0..=*SIZES.end()).map(|n| n.filter(|&n| n > 0))
    }

    fn number_if(&self, key: &str) -> Result<Option<f64>, GgufError> {
        self.metadata.f64_if(&self.full(key), 0.0..=1e15)
    }
}

/// The file's architecture.
pub(super) fn architecture(metadata: &Metadata) -> Result<Architecture, GgufError> {
    if let Some(count) = metadata.usize_if("split.count", 0..=usize::MAX)?.filter(|&n| n > 1) {
        return Err(GgufError::Split { count: count as u64 });
    }
    Architecture::parse(metadata.text("general.architecture")?)
}

/// Heads of queries and of keys.
pub(super) fn heads(metadata: &Metadata, architecture: Architecture) -> Result<Heads, GgufError> {
    let keys = Keys { metadata, architecture };
    let queries = keys.size("attention.head_count")?;
    Ok(Heads { queries, keys: keys.size_if("attention.head_count_kv")?.unwrap_or(queries) })
}

/// The configuration. `factors` are the divisors of the rotary frequencies, if the file has such a tensor.
pub(super) fn config(head: &Head, factors: Option<Vec<f32>>) -> Result<Value, GgufError> {
    let metadata = &head.metadata;
    let architecture = architecture(metadata)?;
    let keys = Keys { metadata, architecture };
    let heads = heads(metadata, architecture)?;
    let width = keys.size("embedding_length")?;
    let head_dim = head_dim(&keys, width, heads)?;
    let embedding = head.tensors.get("token_embd.weight");
    let vocab_size = embedding.ok_or(GgufError::MissingTensor { name: "token_embd.weight" })?.info.shape[0];
    let mut config = json!({
        "vocab_size": vocab_size,
        "hidden_size": width,
        "intermediate_size": keys.size("feed_forward_length")?,
        "num_hidden_layers": keys.size("block_count")?,
        "num_attention_heads": heads.queries,
        "num_key_value_heads": heads.keys,
        "head_dim": head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": keys.size_if("context_length")?.unwrap_or(2048),
        "rms_norm_eps": keys.number_if("attention.layer_norm_rms_epsilon")?.map_or(1e-5, shortest),
        "rope_theta": keys.number_if("rope.freq_base")?.map_or(1e4, shortest),
        "tie_word_embeddings": !head.tensors.contains_key("output.weight"),
    });
    add(&mut config, "rope_scaling", rope_scaling(&keys, factors)?);
    add(&mut config, "partial_rotary_factor", partial_rotation(&keys, head_dim)?);
    for (key, name) in [("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding")] {
        let id = metadata.usize_if(&format!("tokenizer.ggml.{name}_token_id"), 0..=u32::MAX as usize)?;
        add(&mut config, key, id.map(Value::from));
    }
    add_family(&mut config, head, &keys)?;
    Ok(config)
}

fn add(config: &mut Value, key: &str, value: Option<Value>) {
    if let Some(value) = value {
        config[key] = value;
    }
}

/// GGUF keeps numbers in `f32`: 1e-5 becomes 9.99999974738e-6. The shortest decimal is what was meant.
fn shortest(number: f64) -> f64 {
    (number as f32).to_string().parse().unwrap_or(number)
}

fn head_dim(keys: &Keys, width: usize, heads: Heads) -> Result<usize, GgufError> {
    let head_dim = keys.size_if("attention.key_length")?.unwrap_or(width / heads.queries);
    let values = keys.size_if("attention.value_length")?.unwrap_or(head_dim);
    if head_dim == 0 || values != head_dim {
        let (key, wanted) = (keys.full("attention.value_length"), format!("the key length {head_dim}"));
        return Err(GgufError::WrongValue { key, value: values.to_string(), wanted });
    }
    Ok(head_dim)
}

fn partial_rotation(keys: &Keys, head_dim: usize) -> Result<Option<Value>, GgufError> {
    let rotated = keys.size_if("rope.dimension_count")?.unwrap_or(head_dim);
    if rotated > head_dim {
        let (key, wanted) = (keys.full("rope.dimension_count"), format!("at most {head_dim}"));
        return Err(GgufError::WrongValue { key, value: rotated.to_string(), wanted });
    }
    Ok((rotated < head_dim).then(|| json!(rotated as f64 / head_dim as f64)))
}

fn rope_scaling(keys: &Keys, factors: Option<Vec<f32>>) -> Result<Option<Value>, GgufError> {
    if let Some(factors) = factors {
        return Ok(Some(json!({"rope_type": "factors", "factors": factors})));
    }
    let key = keys.full("rope.scaling.type");
    let linear = keys.number_if("rope.scale_linear")?;
    let factor = keys.number_if("rope.scaling.factor")?.or(linear).map_or(1.0, shortest);
    let kind = keys.metadata.text_if(&key)?.unwrap_or(if factor == 1.0 { "none" } else { "linear" });
    let original = keys.size_if("rope.scaling.original_context_length")?;
    match kind {
        "none" => Ok(None),
        "linear" => Ok(Some(json!({"rope_type": "linear", "factor": factor}))),
        "yarn" => {
            let mut yarn = json!({"rope_type": "yarn", "factor": factor});
            add(&mut yarn, "original_max_position_embeddings", original.map(Value::from));
            for name in ["beta_fast", "beta_slow"] {
                let value = keys.number_if(&format!("rope.scaling.yarn_{name}"))?;
                add(&mut yarn, name, value.map(|n| json!(shortest(n))));
            }
            let attention = keys.number_if("rope.scaling.attn_factor")?;
            add(&mut yarn, "attention_factor", attention.map(|n| json!(n * yarn_amplitude(factor))));
            Ok(Some(yarn))
        }
        other => {
            let (value, wanted) = (format!("{other:?}"), "none, linear or yarn".into());
            Err(GgufError::WrongValue { key, value, wanted })
        }
    }
}

/// YaRN's own factor on cosine and sine, which GGUF's `attn_factor` multiplies.
pub(super) fn yarn_amplitude(factor: f64) -> f64 {
    if factor > 1.0 { 0.1 * factor.ln() + 1.0 } else { 1.0 }
}

/// What distinguishes the Hugging Face families that share a GGUF architecture.
fn add_family(config: &mut Value, head: &Head, keys: &Keys) -> Result<(), GgufError> {
    let window = keys.size_if("attention.sliding_window")?;
    let experts = keys.size_if("expert_count")?;
    let (family, class) = match (keys.architecture, experts, window) {
        (Architecture::Llama, Some(_), _) => ("mixtral", "MixtralForCausalLM"),
        (Architecture::Llama, None, Some(_)) => ("mistral", "MistralForCausalLM"),
        (Architecture::Llama, None, None) => ("llama", "LlamaForCausalLM"),
        (Architecture::Qwen2, ..) => ("qwen2", "Qwen2ForCausalLM"),
        (Architecture::Qwen3, ..) => ("qwen3", "Qwen3ForCausalLM"),
    };
    config["model_type"] = json!(family);
    config["architectures"] = json!([class]);
    config["sliding_window"] = json!(window);
    if matches!(family, "qwen2" | "qwen3") && window.is_some() {
        config["use_sliding_window"] = json!(true);
        config["max_window_layers"] = json!(0);
    }
    if let Some(experts) = experts {
        config["num_local_experts"] = json!(experts);
        config["num_experts_per_tok"] = json!(keys.size("expert_used_count")?);
    }
    if matches!(family, "llama" | "qwen3") {
        config["attention_bias"] = json!(head.tensors.contains_key("blk.0.attn_output.bias"));
    }
    if family == "llama" {
        config["mlp_bias"] = json!(head.tensors.contains_key("blk.0.ffn_up.bias"));
    }
    Ok(())
}

/// Checks the divisors of the rotary frequencies.
pub(super) fn check_factors(head: &Head, factors: &[f32]) -> Result<(), GgufError> {
    if factors.iter().all(|f| f.is_finite() && *f > 0.0) {
        return Ok(());
    }
    let shape = head.tensors[ROPE_FACTORS].info.shape.iter().map(|&n| n as u64).collect();
    let dtype = head.tensors[ROPE_FACTORS].info.dtype;
    Err(GgufError::Shape { name: ROPE_FACTORS.into(), dtype, shape })
}
