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
    use crate::load::{Options, open};
    use crate::models;
    use crate::nn::vars::Storage;
    use crate::train::export::save_decoder;
    use crate::train::language::logits;
    use crate::train::vocabulary;
    use crate::train::windows::Shape;

    #[test]
    fn a_block_has_three_square_matrices() {
        let (tables, square) = ((2048 + 512) * 256, 256 * 256);
        assert_eq!(language().decoder_config().unwrap().parameters(), tables + 6 * 3 * square);
    }

    #[test]
    fn what_is_saved_is_what_was_trained() {
        let (mut recipe, folder) = (language(), tempfile::tempdir().unwrap());
        for (name, size) in [("n_embd", 16), ("n_layer", 2), ("n_head", 2), ("n_positions", 8)] {
            recipe.config[name] = size.into();
        }
        let trained = recipe.model(&Device::flex()).unwrap();
        let words = vocabulary::words(&["a b".to_owned()], vocabulary::SENTENCE).unwrap();
        let words = words.to_string(false).unwrap();
        save_decoder(folder.path(), &trained, &recipe.config_json(), words.as_bytes()).unwrap();
        let files = open(folder.path().to_str().unwrap(), &Options::default()).unwrap();
        let storage = Storage::Dense(Device::flex());
        let read = models::decoder(&files.config, files.weights.as_ref(), &storage, &|_| {}).unwrap();
        let [ours, theirs] = [&trained, &read].map(|model| {
            whit_kernels::op::host(logits(model, &[3, 1, 4, 1, 5], Shape { rows: 1, sequence: 5 })).into_vec()
        });
        for (a, b) in ours.iter().zip(&theirs) {
            assert!((a - b).abs() < 0.02 * a.abs().max(1.0), "{a} {b}"); // weights were rounded to bf16
        }
    }
}
