//! `squeeze-en`: a small compressor of English prompts, a token classifier in the BERT architecture.
//!
//! The teacher is a rule that deletes stop words, fillers, stutters and repetitions; the labels come from the
//! aligner of LLMLingua-2 as they would from a language model's deletions.

use serde_json::json;

use super::Compressor;
use crate::train::optimizer::AdamW;
use crate::train::run::Settings;
use crate::train::schedule::Schedule;
use crate::train::squeeze::SqueezeRecipe;
use crate::train::windows::Shape;
use crate::world::corpus::Limits;

pub(super) const RECIPE: Compressor = Compressor {
    id: "squeeze-en",
    summary: "a 1.1 M parameter classifier that says which words of an English prompt can go",
    settings: squeeze,
};

fn squeeze() -> SqueezeRecipe {
    SqueezeRecipe {
        config: json!({
            "architectures": ["BertForTokenClassification"],
            "model_type": "bert",
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-5,
            "max_position_embeddings": 256,
            "type_vocab_size": 1,
            "pad_token_id": 0,
            "id2label": { "0": "drop", "1": "keep" },
            "label2id": { "drop": 0, "keep": 1 },
            "torch_dtype": "bfloat16",
        }),
        vocabulary: 4096,
        shape: Shape { rows: 8, sequence: 256 },
        passages: [12_000, 400],
        words: 150,
        limits: Limits { total: 24_000_000, ..Limits::default() },
        seed: 1,
        settings: Settings {
            schedule: Schedule { peak: 2e-3, floor: 5e-5, warm_up: 60, steps: 220 },
            optimizer: AdamW::default(),
            parts: 1,
            checkpoint_every: 200,
            evaluate_every: 200,
        },
    }
}
