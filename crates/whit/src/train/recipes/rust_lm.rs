//! `rust-lm`: a small language model of Rust, in the Llama architecture.
//!
//! Its sizes are multiples of 256, so that every block-quantised type fits, and its bf16 file stays
//! under 8 MB. One sequence in three holds generated tasks: finding keys, copying, adding
//! and the others of [`crate::world::tasks`].

use serde_json::json;

use super::Recipe;
use crate::train::language::LanguageRecipe;
use crate::train::optimizer::AdamW;
use crate::train::run::Settings;
use crate::train::schedule::Schedule;
use crate::train::windows::Shape;
use crate::world::corpus::Limits;

pub(super) const RECIPE: Recipe = Recipe {
    id: "rust-lm",
    summary: "a 3.5 M parameter language model of Rust source and documentation",
    settings: language,
};

pub(super) const EXITS: Recipe = Recipe {
    id: "rust-lm-exits",
    summary: "rust-lm with a loss at every layer, for the method early-exit",
    settings: || LanguageRecipe { exits: true, ..language() },
};

pub(super) fn language() -> LanguageRecipe {
    LanguageRecipe {
        config: json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": 256,
            "intermediate_size": 512,
            "num_hidden_layers": 5,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 64,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-5,
            "rope_theta": 1_000_000.0,
            "max_position_embeddings": 512,
            "attention_bias": false,
            "mlp_bias": false,
            "tie_word_embeddings": true,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "torch_dtype": "bfloat16",
        }),
        vocabulary: 2048,
        shape: Shape { rows: 4, sequence: 512 },
        growth: None,
        task_share: 0.3,
        echo_share: 0.15,
        seeded: true,
        sparsity: None,
        balance: None,
        exits: false,
        limits: Limits::default(),
        seed: 1,
        settings: Settings {
            schedule: Schedule { peak: 2e-3, floor: 1e-4, warm_up: 100, steps: 2_000 },
            optimizer: AdamW::default(),
            parts: 1,
            checkpoint_every: 100,
            evaluate_every: 200,
        },
    }
}
