//! A vision transformer from its variables.

use burn::module::Param;
use burn::tensor::Tensor;

use super::{Head, Pooled, Vision, VisionConfig};
use crate::nn::decoder::NormConfig;
use crate::nn::linear::Linear;
use crate::nn::norm::Norm;
use crate::nn::vars::{Vars, VarsError};
use crate::nn::white::Layer;
use crate::nn::white_mae::waves;

impl Vision {
    /// Builds the model from its variables.
    ///
    /// # Errors
    /// If a variable is missing or has another shape than the configuration says.
    pub fn new(config: VisionConfig, vars: &Vars<'_>) -> Result<Self, VarsError> {
        let embeddings = vars.at("embeddings");
        let build = Builder { config: &config, vars, embeddings: &embeddings };
        let averaged = matches!(config.head, Head::Mean(_));
        let distilled = matches!(config.head, Head::Distilled(_));
        let final_norm = NormConfig { epsilon: config.final_epsilon, ..config.block.norm };
        Ok(Self {
            class_token: build.tokens("class_token", 1)?,
            distillation_token: build.maybe_tokens("distillation_token", config.distillation_token.into())?,
            register_tokens: build.maybe_tokens("register_tokens", config.registers)?,
            position_embeddings: build.positions()?,
            patch_norms: build.patch_norms()?,
            patch_projection: embeddings.linear(
                "patches",
                config.block.width,
                config.patch_values(),
                config.patch_bias,
            )?,
            embedding_norm: build.norm(
                &embeddings,
                "norm",
                config.embedding_norm.then_some(config.block.norm),
            )?,
            layers: build.layers()?,
            final_norm: build.norm(vars, "final_norm", (!averaged).then_some(final_norm))?,
            mean_norm: build.norm(vars, "mean_norm", averaged.then_some(config.block.norm))?,
            pooler: build.pooler()?,
            classifier: build.classifier("classifier", true)?,
            distillation_classifier: build.classifier("distillation_classifier", distilled)?,
            projection: build.projection()?,
            config,
        })
    }
}

struct Builder<'a> {
    config: &'a VisionConfig,
    vars: &'a Vars<'a>,
    embeddings: &'a Vars<'a>,
}

impl Builder<'_> {
    fn tokens(&self, name: &str, count: usize) -> Result<Param<Tensor<2>>, VarsError> {
        self.embeddings.rows(name, count, self.config.block.width).map(Param::from_tensor)
    }

    fn maybe_tokens(&self, name: &str, count: usize) -> Result<Option<Param<Tensor<2>>>, VarsError> {
        (count > 0).then(|| self.tokens(name, count)).transpose()
    }

    fn positions(&self) -> Result<Param<Tensor<2>>, VarsError> {
        let grid = self.config.grid(self.config.image);
        if !self.config.fixed_positions {
            return self.tokens("positions", grid.iter().product::<usize>() + self.config.placed());
        }
        let table = Tensor::from_data(waves(self.config.block.width, grid), &self.vars.device());
        Ok(Param::from_tensor(table).set_require_grad(false))
    }

    fn patch_norms(&self) -> Result<Option<[Norm; 2]>, VarsError> {
        if !self.config.patch_norms {
            return Ok(None);
        }
        let norm = |name, width| self.embeddings.norm(name, width, self.config.block.norm);
        let before = norm("patch_norm", self.config.patch_values())?;
        Ok(Some([before, norm("token_norm", self.config.block.width)?]))
    }

    fn norm(&self, vars: &Vars<'_>, name: &str, norm: Option<NormConfig>) -> Result<Option<Norm>, VarsError> {
        norm.map(|norm| vars.norm(name, self.config.block.width, norm)).transpose()
    }

    fn layers(&self) -> Result<Vec<Layer>, VarsError> {
        let stack = self.vars.at("encoder.layer");
        let layer = |index| Layer::new(&self.config.block, index, &stack.at(index));
        (0..self.config.layers).map(layer).collect()
    }

    fn pooler(&self) -> Result<Option<Linear>, VarsError> {
        let Pooled::Dense(outputs) = self.config.pooled else { return Ok(None) };
        self.vars.linear("pooler.dense", outputs, self.config.block.width, true).map(Some)
    }

    fn classifier(&self, name: &str, wanted: bool) -> Result<Option<Linear>, VarsError> {
        let classes = self.config.head.classes().filter(|_| wanted);
        let inputs = self.config.head.inputs(self.config.block.width);
        classes.map(|classes| self.vars.linear(name, classes, inputs, true)).transpose()
    }

    fn projection(&self) -> Result<Option<Linear>, VarsError> {
        let layer = |values| self.vars.linear("projection", values, self.config.block.width, false);
        self.config.projection.map(layer).transpose()
    }
}
