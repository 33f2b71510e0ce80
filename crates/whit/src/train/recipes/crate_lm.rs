//! `crate-lm` and `gpt2-lm`: a language model with white-box blocks, and GPT-2 of the same width and depth, on the text
//! of `rust-lm`.

use serde_json::json;

use super::{Recipe, rust_lm};
use crate::train::language::LanguageRecipe;
use crate::train::run::Settings;
use crate::train::schedule::Schedule;

pub(super) const RECIPE: Recipe = Recipe {
    id: "crate-lm",
    summary: "a 1.8 M parameter white-box language model (CRATE) of Rust, whose cache can be halved",
    language: || family("crate_gpt", "CrateForCausalLM"),
};

pub(super) const PLAIN: Recipe = Recipe {
    id: "gpt2-lm",
    summary: "a 5.4 M parameter GPT-2 of the same width and depth, to compare with",
    language: || family("gpt2", "GPT2LMHeadModel"),
};

fn family(kind: &str, class: &str) -> LanguageRecipe {
    let recipe = rust_lm::language();
    LanguageRecipe {
        config: json!({
            "architectures": [class],
            "model_type": kind,
            "n_embd": 256,
            "n_layer": 6,
            "n_head": 4,
            "n_positions": 512,
            "layer_norm_epsilon": 1e-5,
            "tie_word_embeddings": true,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "torch_dtype": "bfloat16",
        }),
        seeded: false,
        settings: Settings {
            schedule: Schedule { peak: 1e-3, floor: 5e-5, warm_up: 100, steps: 1_500 },
            ..recipe.settings
        },
        ..recipe
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_differ_in_their_blocks_alone() {
        let weights = |recipe: &Recipe| (recipe.language)().decoder_config().unwrap().parameters();
        let (tables, square) = ((2048 + 512) * 256, 256 * 256);
        assert_eq!(weights(&RECIPE), tables + 6 * 3 * square);
        assert_eq!(weights(&PLAIN), tables + 6 * 12 * square);
    }
}
