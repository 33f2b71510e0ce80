//! The vision transformer (Dosovitskiy et al., 2020): an image as a row of patches, in front of them the
//! tokens that stand for the whole of it, through the blocks that text encoders have too.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::attention::Attend;
use super::linear::Linear;
use super::norm::Norm;
use super::white::Layer;

mod build;
mod config;
mod heads;
mod patches;

pub use config::{FinalNorm, Head, Pooled, VisionConfig};
pub use heads::Logits;

/// A vision transformer.
#[derive(Module, Debug)]
pub struct Vision {
    class_token: Param<Tensor<2>>,
    distillation_token: Option<Param<Tensor<2>>>,
    register_tokens: Option<Param<Tensor<2>>>,
    position_embeddings: Param<Tensor<2>>,
    patch_norms: Option<[Norm; 2]>,
    patch_projection: Linear,
    embedding_norm: Option<Norm>,
    layers: Vec<Layer>,
    final_norm: Option<Norm>,
    mean_norm: Option<Norm>,
    pooler: Option<Linear>,
    classifier: Option<Linear>,
    distillation_classifier: Option<Linear>,
    projection: Option<Linear>,
    #[module(skip)]
    config: VisionConfig,
}

impl Vision {
    /// What the model is.
    pub fn config(&self) -> &VisionConfig {
        &self.config
    }

    /// Runs the blocks on tokens `[batch, tokens, width]`, and the norm behind them.
    pub fn run(&self, tokens: Tensor<3>, attend: &mut dyn Attend) -> Tensor<3> {
        self.normed(self.blocks(tokens, attend))
    }

    /// What leaves the blocks, before the norm behind them: `[batch, tokens, width]`.
    pub fn states(&self, pixels: Tensor<4>, attend: &mut dyn Attend) -> Tensor<3> {
        let (patches, specials) = self.embed(pixels);
        self.blocks(join(specials, patches), attend)
    }

    /// What leaves the blocks, behind the norm where it is for all tokens.
    pub fn normed(&self, states: Tensor<3>) -> Tensor<3> {
        match (&self.final_norm, self.config.final_norm) {
            (Some(norm), FinalNorm::All) => norm.forward(states),
            _ => states,
        }
    }

    fn blocks(&self, tokens: Tensor<3>, attend: &mut dyn Attend) -> Tensor<3> {
        let [batch, count, width] = tokens.dims();
        let mut x = tokens.reshape([batch * count, width]);
        if let Some(norm) = &self.embedding_norm {
            x = norm.forward(x);
        }
        for (layer, block) in self.layers.iter().enumerate() {
            attend.observe(layer, &mut || x.clone());
            x = block.forward(x, attend);
        }
        attend.observe(self.layers.len(), &mut || x.clone());
        let left = x.dims()[0] / batch.max(1);
        x.reshape([batch, left, width])
    }

    /// The hidden states `[batch, tokens, width]` of images `[batch, channels, height, width]`.
    pub fn forward(&self, pixels: Tensor<4>, attend: &mut dyn Attend) -> Tensor<3> {
        let (patches, specials) = self.embed(pixels);
        self.run(join(specials, patches), attend)
    }

    /// The bytes that the large weights hold.
    pub fn bytes(&self) -> usize {
        let heads = [&self.pooler, &self.classifier, &self.distillation_classifier, &self.projection];
        self.patch_projection.bytes()
            + self.layers.iter().map(Layer::bytes).sum::<usize>()
            + heads.into_iter().flatten().map(Linear::bytes).sum::<usize>()
    }
}

/// The tokens in front `[1, specials, width]` of every image's patches `[batch, patches, width]`.
pub fn join(specials: Tensor<3>, patches: Tensor<3>) -> Tensor<3> {
    let ([batch, _, width], [_, count, _]) = (patches.dims(), specials.dims());
    Tensor::cat(vec![specials.expand([batch, count, width]), patches], 1)
}

#[cfg(test)]
pub(crate) mod tests;
