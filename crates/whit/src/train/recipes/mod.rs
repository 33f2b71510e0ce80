//! The recipes of the shipped models: one file for each family, one line in the list below.

use super::language::LanguageRecipe;
use super::pair::PairRecipe;
use super::sentences::SentenceRecipe;
use super::squeeze::SqueezeRecipe;
use super::vision::VisionRecipe;

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

/// What a recipe for a compressor makes.
#[derive(Clone, Copy, Debug)]
pub struct Compressor {
    /// The word for it on the command line.
    pub id: &'static str,
    /// One line about it.
    pub summary: &'static str,
    /// Its settings.
    pub squeeze: fn() -> SqueezeRecipe,
}

/// What a recipe for a classifier of pictures makes, or one for a masked autoencoder.
#[derive(Clone, Copy, Debug)]
pub struct Classifier {
    /// The word for it on the command line.
    pub id: &'static str,
    /// One line about it.
    pub summary: &'static str,
    /// Its settings.
    pub vision: fn() -> VisionRecipe,
}

/// What a recipe for a pair of encoders makes.
#[derive(Clone, Copy, Debug)]
pub struct Pairing {
    /// The word for it on the command line.
    pub id: &'static str,
    /// One line about it.
    pub summary: &'static str,
    /// Its settings.
    pub pair: fn() -> PairRecipe,
}

/// What a recipe for an encoder of texts makes.
#[derive(Clone, Copy, Debug)]
pub struct Sentences {
    /// The word for it on the command line.
    pub id: &'static str,
    /// One line about it.
    pub summary: &'static str,
    /// Its settings.
    pub sentences: fn() -> SentenceRecipe,
}

mod squeeze_en;
mod toy_clip;
mod toy_crate;
mod toy_embed;
mod toy_vit;

/// Every recipe for an encoder of texts.
pub static SENTENCES: &[Sentences] = &[toy_embed::RECIPE];

/// The recipe for an encoder of texts called `id`.
pub fn sentences(id: &str) -> Option<&'static Sentences> {
    SENTENCES.iter().find(|recipe| recipe.id == id)
}

/// Every recipe for a pair of encoders.
pub static PAIRS: &[Pairing] = &[toy_clip::RECIPE];

/// The recipe for a pair of encoders called `id`.
pub fn pair(id: &str) -> Option<&'static Pairing> {
    PAIRS.iter().find(|recipe| recipe.id == id)
}

/// Every recipe for a classifier of pictures.
pub static CLASSIFIERS: &[Classifier] = &[toy_vit::SMALL, toy_vit::LARGE, toy_crate::WHITE, toy_crate::PLAIN];

/// The recipe for a classifier called `id`.
pub fn classifier(id: &str) -> Option<&'static Classifier> {
    CLASSIFIERS.iter().find(|recipe| recipe.id == id)
}

/// Every recipe for a masked autoencoder of pictures.
pub static AUTOENCODERS: &[Classifier] = &[toy_crate::MAE];

/// The recipe for a masked autoencoder called `id`.
pub fn autoencoder(id: &str) -> Option<&'static Classifier> {
    AUTOENCODERS.iter().find(|recipe| recipe.id == id)
}

/// Every recipe for a compressor.
pub static COMPRESSORS: &[Compressor] = &[squeeze_en::RECIPE];

/// The recipe for a compressor called `id`.
pub fn compressor(id: &str) -> Option<&'static Compressor> {
    COMPRESSORS.iter().find(|recipe| recipe.id == id)
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
    crate_lm: RECIPE PLAIN,
    distill: RECIPE,
    recall_lm: RECIPE DRAFT,
    rust_lm: RECIPE EXITS,
}

/// The recipe called `id`.
pub fn find(id: &str) -> Option<&'static Recipe> {
    RECIPES.iter().find(|recipe| recipe.id == id)
}
