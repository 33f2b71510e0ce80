//! The recipes of the shipped models: one file for each family, one line in the list below.

use super::language::LanguageRecipe;
use super::pair::PairRecipe;
use super::sentences::SentenceRecipe;
use super::squeeze::SqueezeRecipe;
use super::vision::VisionRecipe;

/// A recipe with settings of a kind.
#[derive(Clone, Copy, Debug)]
pub struct Entry<T: 'static> {
    /// The word for it on the command line.
    pub id: &'static str,
    /// One line about it.
    pub summary: &'static str,
    /// Its settings.
    pub settings: fn() -> T,
}

/// A recipe for a language model.
pub type Recipe = Entry<LanguageRecipe>;

/// A recipe for a compressor.
pub type Compressor = Entry<SqueezeRecipe>;

/// A recipe for a classifier of pictures, or for a masked autoencoder.
pub type Classifier = Entry<VisionRecipe>;

/// A recipe for a pair of encoders.
pub type Pairing = Entry<PairRecipe>;

/// A recipe for an encoder of texts.
pub type Sentences = Entry<SentenceRecipe>;

/// The recipe of `list` that is called `id`.
pub fn find<T>(list: &'static [Entry<T>], id: &str) -> Option<&'static Entry<T>> {
    list.iter().find(|recipe| recipe.id == id)
}

mod squeeze_en;
mod toy_clip;
mod toy_crate;
mod toy_embed;
mod toy_vit;

/// Every recipe for an encoder of texts.
pub static SENTENCES: &[Sentences] = &[toy_embed::RECIPE];

/// Every recipe for a pair of encoders.
pub static PAIRS: &[Pairing] = &[toy_clip::RECIPE];

/// Every recipe for a classifier of pictures.
pub static CLASSIFIERS: &[Classifier] = &[toy_vit::SMALL, toy_vit::LARGE, toy_crate::WHITE, toy_crate::PLAIN];

/// Every recipe for a masked autoencoder of pictures.
pub static AUTOENCODERS: &[Classifier] = &[toy_crate::MAE];

/// Every recipe for a compressor.
pub static COMPRESSORS: &[Compressor] = &[squeeze_en::RECIPE];

macro_rules! recipes {
    ($($name:ident: $($recipe:ident)*),* $(,)?) => {
        $(mod $name;)*

        /// Every recipe.
        pub static RECIPES: &[Recipe] = &[$($($name::$recipe),*),*];
    };
}

recipes! {
    block_lm: RECIPE PLAIN TOP_K DENSE,
    crate_lm: RECIPE,
    distill: RECIPE,
    recall_lm: RECIPE DRAFT,
    rust_lm: RECIPE EXITS,
}

#[cfg(test)]
mod testing {
    use super::*;
    use crate::load::{Options, open};
    use crate::models;
    use crate::nn::decoder::Decoder;
    use crate::nn::vars::Storage;
    use crate::train::export::save_decoder;
    use crate::train::language::logits;
    use crate::train::vocabulary;
    use crate::train::windows::Shape;

    /// Saves a model of a recipe, and reads it again.
    pub(super) fn again(recipe: &LanguageRecipe, model: &Decoder, storage: &Storage) -> Decoder {
        let folder = tempfile::tempdir().unwrap();
        let words = vocabulary::words(&["a b".to_owned()], vocabulary::SENTENCE).unwrap();
        let words = words.to_string(false).unwrap();
        save_decoder(folder.path(), model, &recipe.config_json(), words.as_bytes()).unwrap();
        let files = open(folder.path().to_str().unwrap(), &Options::default()).unwrap();
        models::decoder(&files.config, files.weights.as_ref(), storage, &|_| {}).unwrap()
    }

    /// What a model says of a few tokens.
    pub(super) fn scores(model: &Decoder) -> Vec<f32> {
        let tokens = [3, 1, 4, 1, 5, 9, 2, 6];
        whit_kernels::op::host(logits(model, &tokens, Shape { rows: 1, sequence: 8 })).into_vec()
    }

    pub(super) fn near(found: &[f32], wanted: &[f32], tolerance: f32) {
        assert_eq!(found.len(), wanted.len());
        for (found, wanted) in found.iter().zip(wanted) {
            let distance = (found - wanted).abs();
            assert!(distance < tolerance * wanted.abs().max(1.0), "{found} instead of {wanted}");
        }
    }
}
