//! The step that makes tokens sparse, and the matrices that it and the attention apply from both sides.

use burn::module::Module;
use burn::tensor::Tensor;
use whit_kernels::linear::PackedLinear;
use whit_kernels::{activation, matmul};

use super::WhiteConfig;
use crate::nn::attention::Port;
use crate::nn::linear::Linear;
use crate::nn::vars::{Vars, VarsError};

/// One step of ISTA towards a sparse code without negative values: `relu(z + eta (z - z D^T) D - eta lambda)`, which
/// is the paper's `z + eta (z D - z D^T D)` with one product less.
#[derive(Module, Debug)]
pub struct Ista {
    pub(super) dictionary: TwoSided,
    #[module(skip)]
    pub(super) config: WhiteConfig,
}

impl Ista {
    /// The step of a layer from its variables.
    ///
    /// # Errors
    /// If the dictionary is missing or has another shape than the configuration says.
    pub fn new(config: WhiteConfig, width: usize, vars: &Vars<'_>) -> Result<Self, VarsError> {
        Ok(Self { dictionary: TwoSided::new("dictionary", width, true, vars)?, config })
    }

    /// `[tokens, width]` to `[tokens, width]`.
    pub fn forward(&self, z: Tensor<2>) -> Tensor<2> {
        self.forward_seen(z, &mut |_, _| {})
    }

    /// The bytes that the dictionary holds.
    pub fn bytes(&self) -> usize {
        self.dictionary.bytes()
    }

    /// As [`forward`](Self::forward); `see` is shown the rows that enter the matrices.
    pub fn forward_seen(&self, z: Tensor<2>, see: &mut dyn FnMut(Port, &Tensor<2>)) -> Tensor<2> {
        see(Port::FeedForward, &z);
        let missed = z.clone() - self.dictionary.forward(z.clone());
        see(Port::Down, &missed);
        let WhiteConfig { step, sparsity, .. } = self.config;
        activation::relu(z + self.dictionary.back(missed) * step - step * sparsity)
    }
}

/// A square matrix that is applied from both sides. As a parameter it serves both; packed, each side has a copy in
/// its own order.
#[derive(Module, Debug)]
pub(super) struct TwoSided {
    pub(super) matrix: Linear,
    pub(super) transposed: Option<Linear>,
}

impl TwoSided {
    /// The matrix `name.weight`, with its other side where `both` is set.
    pub(super) fn new(name: &str, width: usize, both: bool, vars: &Vars<'_>) -> Result<Self, VarsError> {
        let matrix = vars.linear(name, width, width, false)?;
        let packed = if both { vars.own(name, width, width)? } else { None };
        let transposed = packed.map(|(values, kind)| {
            let turned = (0..width * width).map(|at| values[at % width * width + at / width]);
            let packed = PackedLinear::pack(&turned.collect::<Vec<_>>(), width, width, kind);
            let name = vars.at(name).path("weight");
            packed
                .map(|packed| Linear::packed(packed, None))
                .map_err(|reason| VarsError::Pack { name, reason })
        });
        Ok(Self { matrix, transposed: transposed.transpose()? })
    }

    /// `x W^T`.
    pub(super) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.matrix.forward(x)
    }

    /// `x W`.
    pub(super) fn back(&self, x: Tensor<2>) -> Tensor<2> {
        match (&self.transposed, self.matrix.dense_weight()) {
            (Some(transposed), _) => transposed.forward(x),
            (None, Some(weight)) => matmul::linear(x, weight.transpose(), None),
            (None, None) => unreachable!("a matrix of two sides is built with both"),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.matrix.bytes() + self.transposed.as_ref().map_or(0, Linear::bytes)
    }
}
