//! `toy-embed`: a small encoder that places texts about the same made-up topic near each other. It learns from short
//! texts only, so that what becomes of long ones can be looked at.

use serde_json::json;

use super::Sentences;
use crate::train::optimizer::AdamW;
use crate::train::run::Settings;
use crate::train::schedule::Schedule;
use crate::train::sentences::SentenceRecipe;
use crate::world::topics::Topics;

pub(super) const RECIPE: Sentences = Sentences {
    id: "toy-embed",
    summary: "a 0.8 M parameter encoder that places short texts about one made-up topic near each other",
    settings: sentences,
};

fn sentences() -> SentenceRecipe {
    SentenceRecipe {
        config: json!({
            "architectures": ["BertModel"],
            "model_type": "bert",
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-5,
            "max_position_embeddings": 514,
            "type_vocab_size": 1,
            "pad_token_id": 0,
            "torch_dtype": "bfloat16",
        }),
        topics: Topics { seed: 1, vocabulary: 1_500, own: 12, focus: 0.4 },
        words: [14, 62],
        batch: 32,
        temperature: 0.05,
        seed: 1,
        settings: Settings {
            schedule: Schedule { peak: 1e-3, floor: 2e-5, warm_up: 100, steps: 1_500 },
            optimizer: AdamW { weight_decay: 0.05, ..AdamW::default() },
            parts: 1,
            checkpoint_every: 200,
            evaluate_every: 250,
        },
    }
}
