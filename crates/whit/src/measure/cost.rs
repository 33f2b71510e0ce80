//! Work counted from the shapes: multiply-adds and bytes, whatever the machine.

use crate::nn::decoder::DecoderConfig;
use crate::nn::inventory::Role;

/// Multiply-adds of one forward pass of a decoder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// In linear layers.
    pub linear: u64,
    /// In attention scores and sums.
    pub attention: u64,
}

impl Work {
    /// All multiply-adds.
    pub fn total(self) -> u64 {
        self.linear + self.attention
    }
}

/// The work of passing `tokens` tokens whose attention reads `keys` rows each, with logits for `heads`
/// of them.
pub fn decoder(config: &DecoderConfig, tokens: u64, keys: u64, heads: u64) -> Work {
    let share = config.experts.map_or(1.0, |experts| experts.active as f64 / experts.count as f64);
    let matrices = config.matrices();
    let linear = matrices.iter().map(|matrix| {
        let weights = (matrix.outputs * matrix.inputs) as u64;
        match matrix.role {
            Role::Layer => weights * tokens,
            Role::Expert => (weights as f64 * share) as u64 * tokens,
            Role::Head => weights * heads,
            Role::Table if config.tied && matrix.name.contains("embed_tokens") => weights * heads,
            Role::Table => 0,
        }
    });
    let attention = 2 * (config.layers * config.heads * config.head_dim) as u64 * tokens * keys;
    Work { linear: linear.sum(), attention }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn llama_7b_takes_6_6_billion_multiply_adds_a_token() {
        let config = json!({
            "model_type": "llama", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008,
            "num_hidden_layers": 32, "num_attention_heads": 32,
        });
        let architecture = crate::models::architecture(&config).unwrap_or_else(|error| panic!("{error}"));
        let config = (architecture.config)(&config).unwrap_or_else(|error| panic!("{error}"));
        // 6,738,415,616 parameters without the norms and the embedding table.
        assert_eq!(decoder(&config, 1, 0, 1).linear, 6_738_415_616 - 32_000 * 4096 - 65 * 4096);
        assert_eq!(decoder(&config, 1, 10, 1).attention, 2 * 32 * 4096 * 10);
    }
}
