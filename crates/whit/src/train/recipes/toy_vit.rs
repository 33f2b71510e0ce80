//! `toy-vit` and `toy-vit-4m`: small vision transformers that say what a scene of the toy world is of.

use serde_json::json;

use super::Classifier;
use crate::train::optimizer::AdamW;
use crate::train::run::Settings;
use crate::train::schedule::Schedule;
use crate::train::vision::VisionRecipe;

pub(super) const SMALL: Classifier = Classifier {
    id: "toy-vit",
    summary: "a 1.2 M parameter vision transformer that sorts scenes of the toy world",
    settings: || vision([128, 6, 4], 4_000),
};

pub(super) const LARGE: Classifier = Classifier {
    id: "toy-vit-4m",
    summary: "the same with 4 M parameters",
    settings: || vision([192, 9, 6], 4_000),
};

fn vision([width, layers, heads]: [usize; 3], steps: u64) -> VisionRecipe {
    VisionRecipe {
        config: json!({
            "architectures": ["ViTForImageClassification"],
            "model_type": "vit",
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-6,
            "image_size": 64,
            "patch_size": 8,
            "num_channels": 3,
            "qkv_bias": true,
            "torch_dtype": "bfloat16",
        }),
        level: 1,
        held_out: 2_000,
        batch: 32,
        patch_share: 1.0,
        seed: 1,
        settings: Settings {
            schedule: Schedule { peak: 5e-4, floor: 2e-5, warm_up: 100, steps },
            optimizer: AdamW { weight_decay: 0.05, ..AdamW::default() },
            parts: 1,
            checkpoint_every: 100,
            evaluate_every: 250,
        },
    }
}
