//! `toy-clip`: a small pair of encoders that put scenes of the toy world and their captions into one space.

use serde_json::json;

use super::Pairing;
use crate::train::optimizer::AdamW;
use crate::train::pair::PairRecipe;
use crate::train::run::Settings;
use crate::train::schedule::Schedule;

pub(super) const RECIPE: Pairing = Pairing {
    id: "toy-clip",
    summary: "a pair of encoders (CLIP) for scenes of the toy world and their captions",
    settings: pair,
};

fn pair() -> PairRecipe {
    let encoder = json!({
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
    });
    let (mut vision, mut text) = (encoder.clone(), encoder);
    vision["image_size"] = 64.into();
    vision["patch_size"] = 8.into();
    text["num_hidden_layers"] = 2.into();
    text["max_position_embeddings"] = 24.into();
    PairRecipe {
        config: json!({
            "architectures": ["CLIPModel"],
            "model_type": "clip",
            "projection_dim": 64,
            "logit_scale_init_value": 2.6592,
            "vision_config": vision,
            "text_config": text,
            "torch_dtype": "bfloat16",
        }),
        level: 1,
        held_out: 1_024,
        batch: 32,
        seed: 1,
        settings: Settings {
            schedule: Schedule { peak: 1e-3, floor: 2e-5, warm_up: 100, steps: 4_000 },
            optimizer: AdamW { weight_decay: 0.05, ..AdamW::default() },
            parts: 1,
            checkpoint_every: 200,
            evaluate_every: 250,
        },
    }
}
