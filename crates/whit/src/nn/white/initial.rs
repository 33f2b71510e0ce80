//! The weights of a white-box model before training.

use std::ops::Range;

use whit_kernels::linear::WeightType;

use crate::nn::vars::{Init, Random, Source, VarsError};

/// Variables of a white-box model before training: the deviations that the original's distributions have.
#[derive(Clone, Copy, Debug)]
pub struct Initial {
    /// Where they are drawn.
    pub random: Random,
}

impl Initial {
    /// The deviation of variable `name` with rows of `inputs` values: in a decoder GPT-2's, `usual`, in an encoder of
    /// images PyTorch's.
    fn deviation(name: &str, inputs: usize, usual: f32) -> f32 {
        if name.ends_with("dictionary.weight") {
            (2.0 / inputs as f32).sqrt()
        } else if name.starts_with("model.") {
            usual
        } else if name.starts_with("embeddings.") && !name.contains("patches") {
            1.0
        } else {
            (3.0 * inputs as f32).sqrt().recip()
        }
    }
}

impl Source for Initial {
    fn check(&self, name: &str, shape: &[usize]) -> Result<(), VarsError> {
        self.random.check(name, shape)
    }

    fn has(&self, name: &str) -> bool {
        self.random.has(name)
    }

    fn rows(&self, name: &str, rows: Range<usize>, width: usize, init: Init) -> Result<Vec<f32>, VarsError> {
        let init = match init {
            Init::Normal(usual) => Init::Normal(Self::deviation(name, width, usual)),
            constant => constant,
        };
        self.random.rows(name, rows, width, init)
    }

    fn native(&self, name: &str) -> WeightType {
        self.random.native(name)
    }
}
