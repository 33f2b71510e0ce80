//! Images as vectors.

use burn::tensor::{Device, Tensor, TensorData};
use whit_kernels::op;

use super::{EmbedError, Pooling, Settings, normalise, pool};
use crate::load::ModelFiles;
use crate::load::image::{Picture, Pixels, Preprocessor};
use crate::nn::attention::Batched;
use crate::nn::reduce::{Reduce, Reducing};
use crate::nn::vision::Vision;

/// An encoder of images with its preprocessing.
#[derive(Debug)]
pub struct Images {
    model: Vision,
    preprocessor: Preprocessor,
    pooling: Pooling,
    normalise: bool,
}

impl Images {
    /// An encoder with what its folder says.
    ///
    /// # Errors
    /// If the preprocessing cannot be done here, or the model or the pooling does not fit.
    pub fn new(model: Vision, files: &ModelFiles, settings: Settings) -> Result<Self, EmbedError> {
        let found = match files.origin.folder() {
            Some(folder) => Preprocessor::open(folder)?,
            None => None,
        };
        let config = model.config();
        if config.channels != 3 {
            let found = super::model_type(&files.config);
            let is = "a model of images that are not in three colours";
            return Err(EmbedError::Kind { found, is, needed: "one of three colours" });
        }
        let pooling = settings.pooling.unwrap_or(Pooling::Class);
        if pooling == Pooling::Own && config.projection.is_none() {
            return Err(EmbedError::Pooling { pooling, model: "images of this model; it is CLIP's" });
        }
        Ok(Self {
            preprocessor: found.unwrap_or_else(|| Preprocessor::vit(config.image[0])),
            pooling,
            normalise: settings.normalise.unwrap_or(false),
            model,
        })
    }

    /// An encoder without files.
    #[cfg(test)]
    pub(crate) fn plain(model: Vision) -> Self {
        let preprocessor = Preprocessor::vit(model.config().image[0]);
        Self { model, preprocessor, pooling: Pooling::Class, normalise: false }
    }

    /// The model.
    pub fn model(&self) -> &Vision {
        &self.model
    }

    /// What is done to images before the model sees them.
    pub fn preprocessor(&self) -> &Preprocessor {
        &self.preprocessor
    }

    /// The vectors of `pictures`, of which those of one size go through the model together.
    pub fn embed(&self, pictures: &[Picture]) -> Vec<Vec<f32>> {
        self.embed_with(pictures, &mut |_| None)
    }

    /// As [`Images::embed`]; `reduce` makes the reducer of each pass, if tokens shall be merged or left out.
    pub fn embed_with(
        &self,
        pictures: &[Picture],
        reduce: &mut dyn FnMut(usize) -> Option<Box<dyn Reduce>>,
    ) -> Vec<Vec<f32>> {
        let vectors = |pixels| {
            let (hidden, sizes) = self.states(pixels, reduce);
            self.vectors(&hidden, sizes)
        };
        self.batches(pictures).into_iter().flat_map(vectors).collect()
    }

    fn vectors(&self, hidden: &Tensor<3>, sizes: Option<Tensor<2>>) -> Vec<Vec<f32>> {
        let pooled = match self.pooling {
            Pooling::Own => self.model.projected(hidden),
            Pooling::Class => Some(self.model.class_state(hidden)),
            Pooling::Mean => sizes.map(|sizes| self.model.mean(hidden, Some(sizes))),
            Pooling::Max | Pooling::Last => None,
        };
        let mut vectors: Vec<Vec<f32>> = match pooled {
            Some(pooled) => rows(pooled),
            None => {
                let [_, tokens, width] = hidden.dims();
                let (states, skip) = (op::host(hidden.clone()), self.model.config().specials());
                let image = |states: &[f32]| pool(states, width, self.pooling, skip);
                states.data().chunks_exact(tokens * width).map(image).collect()
            }
        };
        if self.normalise {
            vectors.iter_mut().for_each(|vector| normalise(vector));
        }
        vectors
    }

    /// The scores of the model's classes for each of `pictures`; `reduce` makes the reducer of each pass,
    /// if tokens shall be merged or left out.
    pub fn logits(
        &self,
        pictures: &[Picture],
        reduce: &mut dyn FnMut(usize) -> Option<Box<dyn Reduce>>,
    ) -> Option<Vec<Vec<f32>>> {
        let batches = self.batches(pictures);
        let scores: Option<Vec<_>> = batches.into_iter().map(|pixels| self.scores(pixels, reduce)).collect();
        scores.map(|scores| scores.concat())
    }

    /// The scores of the model's classes, if it has some, for images `[batch, 3, height, width]` as it takes them.
    pub fn scores(
        &self,
        pixels: Tensor<4>,
        reduce: &mut dyn FnMut(usize) -> Option<Box<dyn Reduce>>,
    ) -> Option<Vec<Vec<f32>>> {
        let (hidden, sizes) = self.states(pixels, reduce);
        self.model.logits(&hidden, sizes).map(|logits| rows(logits.logits))
    }

    /// The states of the tokens, and how many patches each stands for where some were merged.
    fn states(
        &self,
        pixels: Tensor<4>,
        reduce: &mut dyn FnMut(usize) -> Option<Box<dyn Reduce>>,
    ) -> (Tensor<3>, Option<Tensor<2>>) {
        let batch = pixels.dims()[0];
        match reduce(batch) {
            None => (self.model.forward(pixels, &mut Batched::whole(batch, None)), None),
            Some(mut reducer) => {
                let hidden = self.model.forward(pixels, &mut Reducing::new(batch, reducer.as_mut()));
                (hidden, reducer.sizes())
            }
        }
    }

    /// Pictures as the model takes them, consecutive ones of one size together: `[batch, 3, height, width]`.
    pub fn batches(&self, pictures: &[Picture]) -> Vec<Tensor<4>> {
        let pixels: Vec<Pixels> = pictures.iter().map(|picture| self.preprocessor.apply(picture)).collect();
        let same = |a: &Pixels, b: &Pixels| (a.height, a.width) == (b.height, b.width);
        pixels.chunk_by(same).map(batched).collect()
    }
}

fn batched(images: &[Pixels]) -> Tensor<4> {
    let [height, width] = images.first().map_or([0, 0], |image| [image.height, image.width]);
    let values = images.iter().flat_map(|image| image.values.iter().copied()).collect();
    let data = TensorData::new::<f32, _>(values, [images.len(), 3, height, width]);
    Tensor::from_data(data, &Device::flex())
}

fn rows(tensor: Tensor<2>) -> Vec<Vec<f32>> {
    let values = op::host(tensor);
    values.data().chunks(values.width().max(1)).map(<[f32]>::to_vec).collect()
}
