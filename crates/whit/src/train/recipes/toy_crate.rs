//! `toy-crate` and `toy-vit-192`: a white-box transformer and a plain one of the same width and depth, on the same
//! pictures of the toy world; and `toy-crate-mae`, which learns to say what is in hidden patches of them.

use serde_json::{Value, json};

use super::Classifier;
use crate::train::optimizer::AdamW;
use crate::train::run::Settings;
use crate::train::schedule::Schedule;
use crate::train::vision::VisionRecipe;

pub(super) const WHITE: Classifier = Classifier {
    id: "toy-crate",
    summary: "a 0.7 M parameter white-box transformer (CRATE) that sorts scenes of the toy world",
    settings: || recipe(white(), 8e-4),
};

pub(super) const PLAIN: Classifier = Classifier {
    id: "toy-vit-192",
    summary: "a 2.7 M parameter vision transformer of the same width and depth, to compare with",
    settings: || recipe(plain(), 5e-4),
};

pub(super) const MAE: Classifier = Classifier {
    id: "toy-crate-mae",
    summary: "a 1.4 M parameter white-box masked autoencoder (CRATE-MAE) of scenes of the toy world",
    settings: || recipe(mae(), 8e-4),
};

fn mae() -> Value {
    json!({
        "architectures": ["CrateMaeForPreTraining"],
        "model_type": "crate_mae",
        "hidden_size": 192,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "ista": 0.1,
        "lambd": 0.5,
        "mask_ratio": 0.75,
        "norm_pix_loss": false,
        "image_size": 64,
        "patch_size": 8,
        "num_channels": 3,
        "torch_dtype": "bfloat16",
    })
}

fn white() -> Value {
    json!({
        "architectures": ["CrateForImageClassification"],
        "model_type": "crate",
        "hidden_size": 192,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "ista": 0.1,
        "lambd": 0.1,
        "pool": "cls",
        "image_size": 64,
        "patch_size": 8,
        "num_channels": 3,
        "torch_dtype": "bfloat16",
    })
}

fn plain() -> Value {
    json!({
        "architectures": ["ViTForImageClassification"],
        "model_type": "vit",
        "hidden_size": 192,
        "intermediate_size": 768,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "image_size": 64,
        "patch_size": 8,
        "num_channels": 3,
        "qkv_bias": true,
        "torch_dtype": "bfloat16",
    })
}

/// The white box bears larger steps.
fn recipe(config: Value, peak: f32) -> VisionRecipe {
    VisionRecipe {
        config,
        level: 1,
        held_out: 2_000,
        batch: 32,
        patch_share: 1.0,
        seed: 1,
        settings: Settings {
            schedule: Schedule { peak, floor: 2e-5, warm_up: 100, steps: 2_500 },
            optimizer: AdamW { weight_decay: 0.05, ..AdamW::default() },
            parts: 1,
            checkpoint_every: 100,
            evaluate_every: 250,
        },
    }
}

#[cfg(test)]
mod tests {
    use burn::module::Module;
    use burn::tensor::Device;

    use super::*;

    /// A white-box block has 3 matrices where a plain one has 12.
    #[test]
    fn the_white_box_has_a_quarter_of_the_blocks_weights() {
        let weights = |recipe: VisionRecipe| {
            let classes = ["a", "b", "c", "d"].map(str::to_owned);
            recipe.model(&classes, &Device::flex()).unwrap_or_else(|error| panic!("{error}")).num_params()
        };
        let square = 192 * 192;
        let ends = (192 + 1) * 192 + (65 + 1) * 192 + 2 * 192 + (192 + 1) * 4;
        let patch_norms = 2 * 192 + 2 * 192;
        let (white_block, plain_block) = (3 * square + 5 * 192, 12 * square + 13 * 192);
        assert_eq!(weights(recipe(white(), 8e-4)), ends + patch_norms + 6 * white_block);
        assert_eq!(weights(recipe(plain(), 5e-4)), ends + (192 + 1) * 192 + 6 * plain_block);
    }
}
