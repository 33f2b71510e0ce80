//! `distill`: a student of `rust-lm`, of two fifths of its weights.

use super::Recipe;
use crate::train::language::LanguageRecipe;
use crate::train::schedule::Schedule;

pub(super) const RECIPE: Recipe = Recipe {
    id: "distill",
    summary: "a student of half the width and 3 layers, from the model given with --teacher",
    settings: language,
};

fn language() -> LanguageRecipe {
    let mut recipe = (super::rust_lm::RECIPE.settings)();
    let sizes =
        [("hidden_size", 128), ("intermediate_size", 256), ("num_hidden_layers", 3), ("head_dim", 32)];
    sizes.iter().for_each(|(name, size)| recipe.config[*name] = (*size).into());
    recipe.settings.schedule = Schedule { steps: 2000, ..recipe.settings.schedule };
    recipe
}
