//! Fewer tokens between the attention of an encoder's block and its feed-forward part: what the methods that drop,
//! merge or mix tokens share.
//!
//! A reduction is a [`TokenMap`], a sparse matrix that can be applied and undone. Rules make one from what is known
//! of an image's [`Tokens`]; a [`Pace`] says how many go in which block. [`Images`] carries them out inside a
//! forward pass and leads back to all places where a dense output is wanted.

pub mod anchors;
pub mod bipartite;
mod images;
mod map;
pub mod pace;
pub mod published;
pub mod ranking;
pub mod rates;
pub mod record;
mod reducer;
pub(crate) mod tokens;

pub use images::{Failure, Images, Passes};
pub use map::{MapError, Part, TokenMap};
pub use pace::Pace;
pub use record::{History, Recorder, Shares};
pub use reducer::{CLAIMS, Reducer, Rule, STAGES};
pub use tokens::{Directions, Looks, Tokens};

#[cfg(test)]
pub(crate) mod testing {
    use serde_json::json;

    use super::tokens::testing::Owned;
    use crate::methods::{MethodError, ModelFacts, ModelKind, Plan, Selection};
    use crate::models::vision::architecture;
    use crate::nn::vars::{Precision, Random, Storage, Vars};
    use crate::nn::vision::Vision;

    /// A small model with random weights: 8 patches on a side of 2 pixels, width 32.
    pub(crate) fn vision(layers: usize) -> Vision {
        vision_in(layers, &Storage::Packed(Precision::Native))
    }

    pub(crate) fn vision_in(layers: usize, storage: &Storage) -> Vision {
        let json = json!({
            "architectures": ["ViTForImageClassification"], "model_type": "vit", "hidden_size": 32,
            "intermediate_size": 64, "num_hidden_layers": layers, "num_attention_heads": 4, "image_size": 16,
            "patch_size": 2, "id2label": { "0": "a", "1": "b", "2": "c" },
        });
        let config = architecture(&json).unwrap().config(&json).unwrap();
        Vision::new(config, &Vars::new(&Random { seed: 5 }, storage)).unwrap()
    }

    pub(crate) fn plan(method: &str, layers: usize) -> Result<Plan, MethodError> {
        let facts = ModelFacts { kind: ModelKind::Vision, layers, ..ModelFacts::example() };
        Plan::new(&Selection::parse(&[method])?, &facts)
    }

    /// The states and sizes that leave the blocks, the blocks themselves doing nothing; of random tokens.
    pub(crate) fn outputs(method: &str, layers: usize, count: usize, seed: u64) -> Vec<(Vec<f32>, Vec<f32>)> {
        let mut reducer = plan(method, layers).unwrap().begin().reducer.unwrap();
        let mut tokens = Owned::random(count, 1, seed);
        tokens.sizes.fill(1.0);
        let mut block = |layer| {
            let view = super::Tokens { layer, ..tokens.view() };
            if reducer.acts(layer, view.patches())
                && let Some(map) = reducer.reduce(&view).unwrap()
            {
                let random = Owned::random(map.targets(), 1, seed + 1 + layer as u64);
                let (states, sizes) = (map.apply(&tokens.states, tokens.width), map.sizes(&tokens.sizes));
                tokens = Owned { states, sizes, ..random };
            }
            (tokens.states.clone(), tokens.sizes.clone())
        };
        (0..layers).map(&mut block).collect()
    }

    /// The tokens that leave the blocks, one of them a class token.
    pub(crate) fn counts(method: &str, layers: usize, count: usize) -> Vec<usize> {
        outputs(method, layers, count, 1).into_iter().map(|(_, sizes)| sizes.len()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::testing::outputs;

    /// What merges keeps the number of patches through all blocks.
    #[test]
    fn no_patch_is_lost_by_merging_over_twelve_blocks() {
        for method in
            ["tome:r=13", "token-transforming:r=13", "token-transforming:r=13,whole=false,top=0", "evit"]
        {
            for (_, sizes) in outputs(method, 12, 197, 3) {
                let sum: f32 = sizes.iter().sum();
                assert!((sum - 197.0).abs() < 1e-5 * 197.0, "{method}: {sum}");
                assert_eq!(sizes[0], 1.0, "the class token takes no part");
            }
        }
    }
}
