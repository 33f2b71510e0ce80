//! The recipes of the shipped models: one file for each family, one line in the list below.

use super::language::LanguageRecipe;

/// What a recipe makes.
#[derive(Clone, Copy, Debug)]
pub struct Recipe {
    /// The word for it on the command line.
    pub id: &'static str,
    /// One line about it.
    pub summary: &'static str,
    /// Its settings.
    pub language: fn() -> LanguageRecipe,
}

macro_rules! recipes {
    ($($name:ident: $($recipe:ident)*),* $(,)?) => {
        $(mod $name;)*

        /// Every recipe.
        pub static RECIPES: &[Recipe] = &[$($($name::$recipe),*),*];
    };
}

recipes! {
    block_lm: RECIPE PLAIN DENSE,
    distill: RECIPE,
    recall_lm: RECIPE DRAFT,
    rust_lm: RECIPE,
}

/// The recipe called `id`.
pub fn find(id: &str) -> Option<&'static Recipe> {
    RECIPES.iter().find(|recipe| recipe.id == id)
}
