//! `crate-lm`: a language model with white-box blocks, on the text of `rust-lm`.

use serde_json::json;

use super::{Recipe, rust_lm};
use crate::train::language::LanguageRecipe;
use crate::train::run::Settings;
use crate::train::schedule::Schedule;

pub(super) const RECIPE: Recipe = Recipe {
    id: "crate-lm",
    summary: "a 1.8 M parameter white-box language model (CRATE) of Rust, whose cache can be halved",
    settings: language,
};

fn language() -> LanguageRecipe {
    let recipe = rust_lm::language();
    LanguageRecipe {
        config: json!({
            "architectures": ["CrateForCausalLM"],
            "model_type": "crate_gpt",
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
    use burn::tensor::Device;

    use super::*;
    use crate::nn::vars::Storage;
    use crate::train::recipes::testing::{again, near, scores};

    #[test]
    fn a_block_has_three_square_matrices() {
        let (tables, square) = ((2048 + 512) * 256, 256 * 256);
        assert_eq!(language().decoder_config().unwrap().parameters(), tables + 6 * 3 * square);
    }

    #[test]
    fn what_is_saved_is_what_was_trained() {
        let mut recipe = language();
        for (name, size) in [("n_embd", 16), ("n_layer", 2), ("n_head", 2), ("n_positions", 8)] {
            recipe.config[name] = size.into();
        }
        let trained = recipe.model(&Device::flex()).unwrap();
        let read = again(&recipe, &trained, &Storage::Dense(Device::flex()));
        near(&scores(&read), &scores(&trained), 0.02); // weights were rounded to bf16
    }
}
