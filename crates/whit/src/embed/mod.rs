//! Texts and images as vectors: encoders with the steps around them that the peers take, so that a folder of
//! transformers or of sentence-transformers gives what it gives there.

mod classify;
mod images;
mod sentence;
mod texts;
pub mod trace;

use std::fmt;

use serde_json::Value;
use thiserror::Error;

use crate::load::image::ImageError;
use crate::load::{LoadError, ModelFiles};
use crate::models::{self, ModelError, Network};
use crate::nn::vars::Storage;

pub use classify::{Classified, Classifier, Guess};
pub use images::Images;
pub use sentence::Sentence;
pub use texts::Texts;

/// Why something could not be embedded or classified.
#[derive(Debug, Error)]
pub enum EmbedError {
    /// A file that cannot be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A model that cannot be built.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// An image that cannot be used.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The model is of another kind.
    #[error("`{found}` is {is}, and {needed} is needed")]
    Kind {
        /// `model_type` of the model.
        found: String,
        /// What it is.
        is: &'static str,
        /// What is needed.
        needed: &'static str,
    },
    /// The model's files lack the tokenizer.
    #[error("{model} has no tokenizer.json, which texts need")]
    NoTokenizer {
        /// The model.
        model: String,
    },
    /// A text or an image gives a pooling nothing to work on.
    #[error("there is nothing to embed in entry {entry}: the text is empty and the tokenizer adds no marks")]
    Empty {
        /// Which one, counted from zero.
        entry: usize,
    },
    /// A module of a sentence-transformers folder that is not known.
    #[error("{path}: `{found}` is not supported; supported are Transformer, Pooling, Dense and Normalize")]
    Module {
        /// The file.
        path: String,
        /// What it asks for.
        found: String,
    },
    /// A pooling that this model cannot give.
    #[error("--pooling {pooling} does not apply to {model}")]
    Pooling {
        /// The pooling.
        pooling: Pooling,
        /// Why, or what it is for.
        model: &'static str,
    },
    /// The model sorts nothing into classes.
    #[error("`{found}` has no classes: what it was saved as has no head that sorts images")]
    NoClasses {
        /// `model_type` of the model.
        found: String,
    },
}

impl EmbedError {
    /// What to do next, if there is something to say.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Kind { needed: LABELLED, .. } => {
                "leave out --labels, or give a folder whose config.json says `\"model_type\": \"clip\"`, as that of \
                 openai/clip-vit-base-patch32"
            }
            Self::Kind { .. } => {
                "texts want a folder of BERT, RoBERTa, XLM-RoBERTa or T5, such as sentence-transformers/all-MiniLM-L6-v2; \
                 images one of ViT, DeiT, DINOv2 or CLIP. `model_type` in its config.json says which it is"
            }
            Self::NoClasses { .. } => {
                "give a folder whose config.json names an architecture ForImageClassification, as that of \
                 google/vit-base-patch16-224 or of `whit train toy-vit`; or CLIP with --labels \"dog,cat\""
            }
            _ => return None,
        };
        Some(text.to_owned())
    }
}

/// What labels in words need.
const LABELLED: &str = "CLIP (--labels)";

/// How the states of tokens become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The mean of all tokens; of an image, of its patches.
    Mean,
    /// The first token.
    Class,
    /// The largest value of each place.
    Max,
    /// The last token.
    Last,
    /// What the model itself says stands for the whole: CLIP's place in the space of images and texts.
    Own,
}

impl Pooling {
    /// All of them with their names.
    pub const ALL: [(Self, &'static str); 5] = [
        (Self::Mean, "mean"),
        (Self::Class, "cls"),
        (Self::Max, "max"),
        (Self::Last, "last"),
        (Self::Own, "own"),
    ];
}

impl fmt::Display for Pooling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(pooling, _)| pooling == self).map_or("", |(_, name)| name);
        f.write_str(name)
    }
}

/// What an embedder is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// How tokens are pooled, where not as the model's files say.
    pub pooling: Option<Pooling>,
    /// Whether vectors get length one, where not as the model's files say.
    pub normalise: Option<bool>,
}

/// An encoder of texts, of images, or of both.
#[derive(Debug)]
pub struct Embedder {
    /// What texts are embedded with.
    pub texts: Option<Texts>,
    /// What images are embedded with.
    pub images: Option<Images>,
}

impl Embedder {
    /// Builds the encoders that a model has.
    ///
    /// # Errors
    /// If the model is no encoder, a file is missing or wrong, or the settings do not fit the model.
    pub fn new(files: &ModelFiles, storage: &Storage, settings: Settings) -> Result<Self, EmbedError> {
        match models::network(&files.config, files.weights.as_ref(), storage, &|_| {})? {
            Network::Decoder(..) => Err(EmbedError::Kind {
                found: model_type(&files.config),
                is: "a language model",
                needed: "an encoder of texts or images",
            }),
            Network::Encoder(model) => {
                let texts = Texts::new(*model, files, settings)?;
                Ok(Self { texts: Some(texts), images: None })
            }
            Network::Vision(model) => {
                let images = Images::new(*model, files, settings)?;
                Ok(Self { texts: None, images: Some(images) })
            }
            Network::Autoencoder(model) => {
                let images = Images::new(model.into_encoder(), files, settings)?;
                Ok(Self { texts: None, images: Some(images) })
            }
            Network::Clip(model) => {
                let model = *model;
                let settings = Settings { pooling: settings.pooling.or(Some(Pooling::Own)), ..settings };
                let settings = Settings { normalise: settings.normalise.or(Some(true)), ..settings };
                let texts = Texts::new(model.text, files, settings)?;
                let images = Images::new(model.vision, files, settings)?;
                Ok(Self { texts: Some(texts), images: Some(images) })
            }
        }
    }
}

/// `model_type` of a configuration.
fn model_type(config: &Value) -> String {
    config.get("model_type").and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Gives a vector length one; a vector of zeros stays.
pub fn normalise(vector: &mut [f32]) {
    let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt().max(1e-12);
    vector.iter_mut().for_each(|value| *value /= length);
}

/// The cosine of the angle between two vectors; 0 where one is of zeros.
pub fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let lengths = (dot(a, a) * dot(b, b)).sqrt();
    if lengths == 0.0 { 0.0 } else { dot(a, b) / lengths }
}

/// Pools the states `[tokens, width]` of one text or image, of which the first `skip` are left out of means
/// and maxima.
fn pool(states: &[f32], width: usize, pooling: Pooling, skip: usize) -> Vec<f32> {
    let rows = || states.chunks_exact(width).skip(skip);
    match pooling {
        Pooling::Class | Pooling::Own => states[..width].to_vec(),
        Pooling::Last => states[states.len() - width..].to_vec(),
        Pooling::Max => {
            let mut largest = vec![f32::NEG_INFINITY; width];
            rows().for_each(|row| {
                largest.iter_mut().zip(row).for_each(|(most, value)| *most = most.max(*value))
            });
            largest
        }
        Pooling::Mean => {
            let mut mean = vec![0.0; width];
            rows().for_each(|row| mean.iter_mut().zip(row).for_each(|(sum, value)| *sum += value));
            let count = rows().count().max(1) as f32;
            mean.iter_mut().for_each(|sum| *sum /= count);
            mean
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_pooled_in_each_way() {
        let states = [1.0, -2.0, 3.0, 4.0, 5.0, 0.0];
        let pooled = |pooling, skip| pool(&states, 2, pooling, skip);
        assert_eq!(pooled(Pooling::Mean, 0), [3.0, 2.0 / 3.0]);
        assert_eq!(pooled(Pooling::Mean, 1), [4.0, 2.0]);
        assert_eq!(pooled(Pooling::Class, 1), [1.0, -2.0]);
        assert_eq!(pooled(Pooling::Max, 0), [5.0, 4.0]);
        assert_eq!(pooled(Pooling::Last, 0), [5.0, 0.0]);
    }

    #[test]
    fn cosines_and_lengths() {
        let mut vector = [3.0, 4.0];
        normalise(&mut vector);
        assert_eq!(vector, [0.6, 0.8]);
        assert_eq!(cosine(&[1.0, 0.0], &[0.0, 2.0]), 0.0);
        assert_eq!(cosine(&[1.0, 1.0], &[-2.0, -2.0]), -1.0);
        assert_eq!(cosine(&[0.0, 0.0], &[1.0, 2.0]), 0.0);
    }
}
