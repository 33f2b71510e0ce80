//! Images sorted into classes: those that a model was trained on, or any that a text can describe.

use serde::Serialize;
use serde_json::Value;

use super::{EmbedError, Embedder, Images, Settings, cosine, model_type};
use crate::load::ModelFiles;
use crate::load::image::Picture;
use crate::models::clip;
use crate::nn::reduce::Reduce;
use crate::nn::vars::Storage;

/// One class, and how sure the model is of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Guess {
    /// The class.
    pub label: String,
    /// Its probability among all classes.
    pub probability: f32,
    /// Its score before the softmax.
    pub logit: f32,
}

/// The classes of one image, the likeliest first.
pub type Classified = Vec<Guess>;

/// A model that sorts images.
#[derive(Debug)]
pub struct Classifier {
    images: Images,
    labels: Vec<String>,
    described: Option<Described>,
}

/// Classes that texts describe.
#[derive(Debug)]
struct Described {
    /// One vector a class.
    vectors: Vec<Vec<f32>>,
    /// What cosines are multiplied with.
    scale: f32,
}

impl Classifier {
    /// The classifier that `files` hold, of its own classes.
    ///
    /// # Errors
    /// If the model is no classifier of images, or a file is missing or wrong.
    pub fn new(files: &ModelFiles, storage: &Storage) -> Result<Self, EmbedError> {
        let found = || model_type(&files.config);
        let embedder = Embedder::new(files, storage, Settings::default())?;
        let images = embedder.images.ok_or_else(|| EmbedError::Kind {
            found: found(),
            is: "an encoder of texts",
            needed: "one of images",
        })?;
        let classes = images.model().config().head.classes();
        let classes = classes.ok_or_else(|| EmbedError::NoClasses { found: found() })?;
        Ok(Self { images, labels: labels(&files.config, classes), described: None })
    }

    /// A classifier of the classes `labels`, each described by `template` with the label in place of `{}`.
    ///
    /// # Errors
    /// If the model does not put images and texts into one space, or a file is missing or wrong.
    pub fn described(
        files: &ModelFiles,
        storage: &Storage,
        labels: Vec<String>,
        template: &str,
    ) -> Result<Self, EmbedError> {
        if !clip::is_clip(&files.config) {
            let is = "no model of both images and texts";
            return Err(EmbedError::Kind { found: model_type(&files.config), is, needed: super::LABELLED });
        }
        let embedder = Embedder::new(files, storage, Settings::default())?;
        let (Some(images), Some(texts)) = (embedder.images, embedder.texts) else {
            unreachable!("CLIP has both encoders")
        };
        let described: Vec<String> = labels.iter().map(|label| template.replace("{}", label)).collect();
        let vectors = texts.embed(&described)?;
        let scale = clip::scale(files.weights.as_ref())?;
        Ok(Self { images, labels, described: Some(Described { vectors, scale }) })
    }

    /// The encoder of images in it.
    pub fn images(&self) -> &Images {
        &self.images
    }

    /// The class that `name` means: its label, one of several names in it that commas part, or its number.
    pub fn class(&self, name: &str) -> Option<usize> {
        let name = name.trim().to_lowercase();
        let means = |label: &String| label.to_lowercase().split(',').any(|part| part.trim() == name);
        let whole = self.labels.iter().position(|label| label.to_lowercase() == name);
        let number = || name.parse().ok().filter(|class| *class < self.labels.len());
        whole.or_else(|| self.labels.iter().position(means)).or_else(number)
    }

    /// The classes, in the model's order.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// The `top` likeliest classes of each picture. `reduce` makes the reducer of a pass over so many
    /// images, if tokens shall be merged or left out.
    pub fn classify(
        &self,
        pictures: &[Picture],
        top: usize,
        reduce: &mut dyn FnMut(usize) -> Option<Box<dyn Reduce>>,
    ) -> Vec<Classified> {
        let scores = match &self.described {
            Some(described) => {
                let vectors = self.images.embed_with(pictures, reduce);
                vectors.iter().map(|image| described.scores(image)).collect()
            }
            None => self.images.logits(pictures, reduce).unwrap_or_default(),
        };
        scores.iter().map(|scores| self.best(scores, top)).collect()
    }

    fn best(&self, scores: &[f32], top: usize) -> Classified {
        let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f32 = scores.iter().map(|score| (score - largest).exp()).sum();
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
        let guess = |&class: &usize| Guess {
            label: self.labels[class].clone(),
            probability: (scores[class] - largest).exp() / sum,
            logit: scores[class],
        };
        order.iter().take(top).map(guess).collect()
    }
}

impl Described {
    fn scores(&self, image: &[f32]) -> Vec<f32> {
        self.vectors.iter().map(|text| cosine(image, text) * self.scale).collect()
    }
}

/// The names of a model's classes; their numbers where the file names none.
fn labels(config: &Value, classes: usize) -> Vec<String> {
    let name = |class: usize| {
        let named = config["id2label"][class.to_string()].as_str();
        named.map_or_else(|| format!("LABEL_{class}"), str::to_owned)
    };
    (0..classes).map(name).collect()
}
