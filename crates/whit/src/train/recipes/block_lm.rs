//! `block-lm`: a small language model of Rust with the feed-forward blocks of BlockFFN, trained with its
//! two losses (arXiv 2507.08771). `block-lm-plain` is the same without the losses, `block-lm-topk` has a
//! router that chooses as many experts as `block-lm` opens, `block-lm-dense` has dense blocks of the same
//! number of weights.

use serde_json::{Value, json};

use super::Recipe;
use crate::train::language::LanguageRecipe;
use crate::train::optimizer::AdamW;
use crate::train::run::Settings;
use crate::train::schedule::Schedule;
use crate::train::sparsity::Sparsity;
use crate::train::windows::Shape;
use crate::world::corpus::Limits;

pub(super) const RECIPE: Recipe = Recipe {
    id: "block-lm",
    summary: "a 3.5 M parameter language model of Rust with BlockFFN's experts and losses",
    settings: || LanguageRecipe { sparsity: Some(SPARSITY), ..recipe(blocks()) },
};

pub(super) const PLAIN: Recipe = Recipe {
    id: "block-lm-plain",
    summary: "block-lm without the losses on its routers, to compare",
    settings: || recipe(blocks()),
};

pub(super) const TOP_K: Recipe = Recipe {
    id: "block-lm-topk",
    summary: "block-lm with a router that chooses 8 of 32 experts, to compare",
    settings: || LanguageRecipe { balance: Some(BALANCE), ..recipe(chosen()) },
};

pub(super) const DENSE: Recipe = Recipe {
    id: "block-lm-dense",
    summary: "block-lm with dense feed-forward blocks of as many weights, to compare",
    settings: || recipe(dense()),
};

/// The losses; the paper holds the second one's weight for 1000 steps, more than these runs have.
const SPARSITY: Sparsity =
    Sparsity { sharpness: 100.0, locality: 2e-3, chunks: 5e-2, chunk: 64, hold: 200, period: 50 };

/// The experts of a layer.
const EXPERTS: usize = 32;

/// Inner values of an expert.
const SIZE: usize = 32;

/// The experts that a top-k router chooses. Three quarters are closed, as `block-lm` learns it.
const CHOSEN: usize = 8;

/// The weight of load balance, as Switch has it (arXiv 2101.03961, section 2.2).
const BALANCE: f32 = 0.01;

/// The part of `config.json` that asks for experts.
fn blocks() -> Value {
    json!({
        "ffn_type": "block_linear",
        "num_experts": EXPERTS,
        "expert_size": SIZE,
        "router_act": "relu",
        "norm_after_router": "rms",
    })
}

/// The same experts behind a router that chooses.
fn chosen() -> Value {
    json!({
        "ffn_type": "block_linear",
        "num_experts": EXPERTS,
        "expert_size": SIZE,
        "router_act": "topk",
        "num_experts_per_tok": CHOSEN,
    })
}

/// Dense blocks with the inner values of all experts together.
fn dense() -> Value {
    json!({ "ffn_type": "vanilla" })
}

/// The recipe with a feed-forward of this kind, without losses for its routers.
fn recipe(feed_forward: Value) -> LanguageRecipe {
    let mut config = json!({
        "architectures": ["MiniCPMForCausalLM"],
        "model_type": "minicpm",
        "hidden_size": 256,
        "intermediate_size": EXPERTS * SIZE,
        "num_hidden_layers": 4,
        "attention_type": "vanilla",
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "ffn_gated": false,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": 512,
        "scale_emb": 12.0,
        "scale_depth": 1.4,
        "dim_model_base": 256,
        "attention_bias": false,
        "tie_word_embeddings": true,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "torch_dtype": "bfloat16",
    });
    if let (Some(config), Some(more)) = (config.as_object_mut(), feed_forward.as_object()) {
        config.extend(more.clone());
    }
    LanguageRecipe {
        growth: None,
        config,
        vocabulary: 2048,
        shape: Shape { rows: 8, sequence: 256 },
        task_share: 0.0,
        echo_share: 0.0,
        seeded: false,
        sparsity: None,
        balance: None,
        exits: false,
        limits: Limits::default(),
        seed: 1,
        settings: Settings {
            schedule: Schedule { peak: 4e-3, floor: 2e-4, warm_up: 50, steps: 800 },
            optimizer: AdamW::default(),
            parts: 1,
            checkpoint_every: 100,
            evaluate_every: 200,
        },
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use whit_kernels::linear::WeightType;

    use super::*;
    use crate::nn::vars::{Precision, Storage};
    use crate::train::recipes::testing::{again, near, scores};

    #[test]
    fn all_have_the_same_number_of_weights_but_for_the_routers() {
        let count = |feed_forward| recipe(feed_forward).decoder_config().unwrap().parameters();
        let routers = (4 * EXPERTS * 256) as u64;
        assert_eq!(count(blocks()) - count(dense()), routers);
        assert_eq!(count(chosen()) - count(dense()), routers);
    }

    fn small() -> LanguageRecipe {
        let mut recipe = recipe(chosen());
        let sizes = [("hidden_size", 64), ("num_hidden_layers", 2), ("num_attention_heads", 2)];
        sizes.iter().for_each(|(name, size)| recipe.config[*name] = (*size).into());
        recipe
    }

    #[test]
    fn a_router_that_chooses_is_saved_and_read() {
        let recipe = small();
        let trained = recipe.model(&Device::flex()).unwrap();
        let dense = Storage::Dense(Device::flex());
        let read = again(&recipe, &trained, &dense);
        assert_eq!(read.config(), trained.config());
        near(&scores(&read), &scores(&trained), 0.02); // weights were rounded to bf16
        assert_eq!(scores(&again(&recipe, &read, &dense)), scores(&read));
        // Expert by expert, as they are read for use, they say the same.
        let packed = again(&recipe, &read, &Storage::Packed(Precision::Fixed(WeightType::F32)));
        near(&scores(&packed), &scores(&read), 1e-4);
    }
}
