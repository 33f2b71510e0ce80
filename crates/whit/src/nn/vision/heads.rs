//! What a vision transformer says of a whole image: what stands for it, and the scores of classes.

use burn::tensor::Tensor;

use super::{FinalNorm, Head, Pooled, Vision};

/// Scores of classes `[batch, classes]`.
#[derive(Clone, Debug)]
pub struct Logits {
    /// Those that count.
    pub logits: Tensor<2>,
    /// Those of the class token and of the distillation token, where there are both.
    pub parts: Option<[Tensor<2>; 2]>,
}

impl Vision {
    /// What stands for the whole image by the original's rule, if it has one: `[batch, values]`.
    pub fn pooled(&self, hidden: &Tensor<3>) -> Option<Tensor<2>> {
        match self.config.pooled {
            Pooled::Nothing => None,
            Pooled::Class => Some(self.class_state(hidden)),
            Pooled::Dense(_) => {
                self.pooler.as_ref().map(|pooler| pooler.forward(self.class_state(hidden)).tanh())
            }
        }
    }

    /// The state of the class token, normalised: `[batch, width]`.
    pub fn class_state(&self, hidden: &Tensor<3>) -> Tensor<2> {
        let state = token(hidden, 0);
        match (&self.final_norm, self.config.final_norm) {
            (Some(norm), FinalNorm::Class) => norm.forward(state),
            _ => state,
        }
    }

    /// The pooled state in the space that images and texts share: `[batch, values]`.
    pub fn projected(&self, hidden: &Tensor<3>) -> Option<Tensor<2>> {
        Some(self.projection.as_ref()?.forward(self.class_state(hidden)))
    }

    /// The mean of the patches, each weighted with the patches that it stands for: `[batch, width]`.
    pub fn mean(&self, hidden: &Tensor<3>, sizes: Option<Tensor<2>>) -> Tensor<2> {
        mean_from(hidden, self.config.specials(), sizes)
    }

    /// Scores of the classes, if the model has them. `sizes` `[batch, tokens]` says how many patches each
    /// token stands for, where some were merged.
    pub fn logits(&self, hidden: &Tensor<3>, sizes: Option<Tensor<2>>) -> Option<Logits> {
        let classifier = self.classifier.as_ref()?;
        let input = match self.config.head {
            Head::None => return None,
            Head::Class(_) | Head::Distilled(_) => self.class_state(hidden),
            Head::WholeMean(_) => {
                let mean = mean_from(hidden, 0, sizes);
                self.final_norm.as_ref().map_or(mean.clone(), |norm| norm.forward(mean))
            }
            Head::ClassAndMean(_) => Tensor::cat(vec![token(hidden, 0), self.mean(hidden, sizes)], 1),
            Head::Mean(_) => match &self.mean_norm {
                Some(norm) => norm.forward(self.mean(hidden, sizes)),
                None => self.mean(hidden, sizes),
            },
        };
        let logits = classifier.forward(input);
        Some(match &self.distillation_classifier {
            None => Logits { logits, parts: None },
            Some(second) => {
                let parts = [logits, second.forward(token(hidden, 1))];
                let [class, distilled] = parts.clone();
                Logits { logits: (class + distilled) / 2.0, parts: Some(parts) }
            }
        })
    }

    /// Scores of the classes of every patch by itself, `[batch * patches, classes]`, if one layer sorts a state.
    pub fn patch_logits(&self, hidden: &Tensor<3>) -> Option<Tensor<2>> {
        let classifier = self.classifier.as_ref()?;
        if matches!(self.config.head, Head::None | Head::ClassAndMean(_)) {
            return None;
        }
        let [batch, tokens, width] = hidden.dims();
        let first = self.config.specials();
        let patches = hidden.clone().slice([0..batch, first..tokens, 0..width]);
        Some(classifier.forward(patches.reshape([batch * (tokens - first), width])))
    }
}

/// The mean of the tokens from `first` on, each weighted with its size: `[batch, width]`.
fn mean_from(hidden: &Tensor<3>, first: usize, sizes: Option<Tensor<2>>) -> Tensor<2> {
    let [batch, tokens, width] = hidden.dims();
    let patches = hidden.clone().slice([0..batch, first..tokens, 0..width]);
    match sizes {
        None => patches.mean_dim(1).reshape([batch, width]),
        Some(sizes) => {
            let sizes = sizes.slice([0..batch, first..tokens]).reshape([batch, tokens - first, 1]);
            let sum = (patches * sizes.clone()).sum_dim(1).reshape([batch, width]);
            sum / sizes.sum_dim(1).reshape([batch, 1])
        }
    }
}

/// Token `index` of every image: `[batch, width]`.
pub(super) fn token(hidden: &Tensor<3>, index: usize) -> Tensor<2> {
    let [batch, _, width] = hidden.dims();
    hidden.clone().slice([0..batch, index..index + 1, 0..width]).reshape([batch, width])
}
