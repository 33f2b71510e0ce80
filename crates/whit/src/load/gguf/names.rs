//! Tensor names: GGUF's on one side, Hugging Face's on the other.

use std::collections::BTreeMap;

use super::GgufError;
use super::parse::Span;
use super::rows::Order;

/// The architectures that are read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Architecture {
    Llama,
    Qwen2,
    Qwen3,
}

impl Architecture {
    pub const ALL: [Self; 3] = [Self::Llama, Self::Qwen2, Self::Qwen3];

    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }

    pub fn parse(name: &str) -> Result<Self, GgufError> {
        Self::ALL.into_iter().find(|a| a.name() == name).ok_or_else(|| {
            let supported = Self::ALL.map(Self::name).join(", ");
            GgufError::Architecture { name: name.chars().take(60).collect(), supported }
        })
    }

    /// Whether the rows of query and key interleave the two halves of each head.
    pub fn interleaves(self) -> bool {
        self == Self::Llama
    }
}

/// Names outside the layers.
const GLOBAL: [(&str, &str); 3] = [
    ("token_embd.weight", "model.embed_tokens.weight"),
    ("output_norm.weight", "model.norm.weight"),
    ("output.weight", "lm_head.weight"),
];

/// Names inside a layer, without `.weight` or `.bias`.
const LAYER: [(&str, &str); 12] = [
    ("attn_norm", "input_layernorm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("ffn_gate_inp", "block_sparse_moe.gate"),
];

/// Tensors that stack one matrix per expert, and the expert's own name for it.
pub(super) const EXPERTS: [(&str, &str); 3] =
    [("ffn_gate_exps", "w1"), ("ffn_down_exps", "w2"), ("ffn_up_exps", "w3")];

/// What a tensor under a Hugging Face name is made of.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// Where its bytes lie, and its type and shape under the new name.
    pub span: Span,
    /// The order of its rows in the file.
    pub order: Order,
}

/// Heads by which rows are grouped.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heads {
    pub queries: usize,
    pub keys: usize,
}

/// Maps every tensor of a file to Hugging Face's names.
pub(super) fn map(
    tensors: &BTreeMap<String, Span>,
    architecture: Architecture,
    heads: Heads,
) -> Result<BTreeMap<String, Place>, GgufError> {
    let mut places = BTreeMap::new();
    for (name, span) in tensors {
        if name == ROPE_FACTORS {
            continue;
        }
        if let Some(expert) = stacked(name) {
            split_experts(&expert, span, &mut places)?;
            continue;
        }
        let unknown =
            || GgufError::UnknownTensor { name: name.clone(), architecture: architecture.name().to_owned() };
        let renamed = to_hugging_face(name).ok_or_else(unknown)?;
        let order = order_of(&renamed, architecture, heads);
        order.check(name, &span.info)?;
        places.insert(renamed, Place { span: span.clone(), order });
    }
    Ok(places)
}

/// The tensor of frequency divisors, which becomes part of the configuration.
pub(super) const ROPE_FACTORS: &str = "rope_freqs.weight";

/// The order in which GGUF stores the rows of a tensor of this Hugging Face name.
pub(super) fn order_of(name: &str, architecture: Architecture, heads: Heads) -> Order {
    let is = |layer: &str| name.contains(&format!(".self_attn.{layer}_proj."));
    match architecture.interleaves() {
        true if is("q") => Order::Interleaved { heads: heads.queries },
        true if is("k") => Order::Interleaved { heads: heads.keys },
        _ => Order::Plain,
    }
}

fn to_hugging_face(name: &str) -> Option<String> {
    if let Some((_, other)) = GLOBAL.iter().find(|(own, _)| *own == name) {
        return Some((*other).to_owned());
    }
    let (layer, part, kind) = layer_parts(name)?;
    let (_, other) = LAYER.iter().find(|(own, _)| *own == part)?;
    Some(format!("model.layers.{layer}.{other}.{kind}"))
}

/// GGUF's name for a Hugging Face tensor that is stored on its own.
pub(super) fn to_gguf(name: &str) -> Option<String> {
    if let Some((own, _)) = GLOBAL.iter().find(|(_, other)| *other == name) {
        return Some((*own).to_owned());
    }
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let (part, kind) = rest.rsplit_once('.')?;
    let layer: usize = layer.parse().ok()?;
    let (own, _) = LAYER.iter().find(|(_, other)| *other == part)?;
    matches!(kind, "weight" | "bias").then(|| format!("blk.{layer}.{own}.{kind}"))
}

/// The layer, expert and GGUF part of `model.layers.L.block_sparse_moe.experts.E.w1.weight`.
pub(super) fn expert_parts(name: &str) -> Option<(usize, usize, &'static str)> {
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let (expert, part) = rest.strip_prefix("block_sparse_moe.experts.")?.split_once('.')?;
    let part = part.strip_suffix(".weight")?;
    let (own, _) = EXPERTS.iter().find(|(_, other)| *other == part)?;
    Some((layer.parse().ok()?, expert.parse().ok()?, own))
}

/// `blk.3.attn_q.weight` into 3, `attn_q`, `weight`.
fn layer_parts(name: &str) -> Option<(usize, &str, &str)> {
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    let (part, kind) = rest.split_once('.')?;
    matches!(kind, "weight" | "bias").then_some((layer.parse().ok()?, part, kind))
}

struct Stacked<'a> {
    name: &'a str,
    layer: usize,
    matrix: &'static str,
}

fn stacked(name: &str) -> Option<Stacked<'_>> {
    let (layer, part, _) = layer_parts(name).filter(|(_, _, kind)| *kind == "weight")?;
    let (_, matrix) = EXPERTS.iter().find(|(own, _)| *own == part)?;
    Some(Stacked { name, layer, matrix })
}

/// One place per expert out of `[experts, outputs, inputs]`.
fn split_experts(
    stacked: &Stacked,
    span: &Span,
    places: &mut BTreeMap<String, Place>,
) -> Result<(), GgufError> {
    let [experts, outputs, inputs] = span.info.shape[..] else {
        let shape = span.info.shape.iter().map(|&n| n as u64).collect();
        return Err(GgufError::Shape { name: stacked.name.to_owned(), dtype: span.info.dtype, shape });
    };
    let len = span.len / experts as u64;
    for expert in 0..experts {
        let name = format!(
            "model.layers.{}.block_sparse_moe.experts.{expert}.{}.weight",
            stacked.layer, stacked.matrix
        );
        let mut info = span.info.clone();
        info.shape = vec![outputs, inputs];
        let span = Span { info, start: span.start + expert as u64 * len, len };
        places.insert(name, Place { span, order: Order::Plain });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        for (own, other) in [
            ("token_embd.weight", "model.embed_tokens.weight"),
            ("blk.12.attn_q.bias", "model.layers.12.self_attn.q_proj.bias"),
            ("blk.0.ffn_down.weight", "model.layers.0.mlp.down_proj.weight"),
            ("blk.3.attn_k_norm.weight", "model.layers.3.self_attn.k_norm.weight"),
        ] {
            assert_eq!(to_hugging_face(own).as_deref(), Some(other));
            assert_eq!(to_gguf(other).as_deref(), Some(own));
        }
        for name in
            ["blk.x.attn_q.weight", "blk.1.attn_q.scale", "blk.1.nonsense.weight", "v.patch_embd.weight"]
        {
            assert_eq!(to_hugging_face(name), None, "{name}");
        }
        let expert = "model.layers.1.block_sparse_moe.experts.7.w2.weight";
        assert_eq!(expert_parts(expert), Some((1, 7, "ffn_down_exps")));
    }

    #[test]
    fn only_llama_interleaves_queries_and_keys() {
        let heads = Heads { queries: 8, keys: 2 };
        let order = |name, architecture| order_of(name, architecture, heads);
        let (q, k) = ("model.layers.0.self_attn.q_proj.bias", "model.layers.0.self_attn.k_proj.weight");
        assert_eq!(order(q, Architecture::Llama), Order::Interleaved { heads: 8 });
        assert_eq!(order(k, Architecture::Llama), Order::Interleaved { heads: 2 });
        assert_eq!(order(q, Architecture::Qwen2), Order::Plain);
        assert_eq!(order("model.layers.0.self_attn.v_proj.weight", Architecture::Llama), Order::Plain);
    }
}
