//! The activation functions that configurations name.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use whit_kernels::activation;

/// An activation function, under the names that `hidden_act` has in `config.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    #[serde(rename = "silu", alias = "swish")]
    Silu,
    /// GELU by the error function.
    #[serde(rename = "gelu", alias = "gelu_python")]
    Gelu,
    /// GELU by the hyperbolic tangent.
    #[serde(rename = "gelu_pytorch_tanh", alias = "gelu_new", alias = "gelu_fast", alias = "gelu_accurate")]
    GeluTanh,
    /// `x * sigmoid(1.702 x)`.
    #[serde(rename = "quick_gelu")]
    QuickGelu,
    /// `max(x, 0)`.
    #[serde(rename = "relu")]
    Relu,
    /// `max(x, 0)^2`.
    #[serde(rename = "relu2")]
    SquaredRelu,
    /// The hyperbolic tangent.
    #[serde(rename = "tanh")]
    Tanh,
}

impl Activation {
    /// Applies the function to every value.
    pub fn forward<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Silu => activation::silu(x),
            Self::Gelu => activation::gelu(x),
            Self::GeluTanh => activation::gelu_tanh(x),
            Self::QuickGelu => activation::quick_gelu(x),
            Self::Relu => activation::relu(x),
            Self::SquaredRelu => activation::relu(x).square(),
            Self::Tanh => x.tanh(),
        }
    }

    /// The kernel that a linear layer can apply to its results.
    pub(super) fn fused(self) -> Option<activation::Activation> {
        match self {
            Self::Silu => Some(activation::Activation::Silu),
            Self::Gelu => Some(activation::Activation::Gelu),
            Self::GeluTanh => Some(activation::Activation::GeluTanh),
            Self::QuickGelu => Some(activation::Activation::QuickGelu),
            Self::Relu => Some(activation::Activation::Relu),
            Self::Tanh => Some(activation::Activation::Tanh),
            Self::SquaredRelu => None,
        }
    }

    /// `forward(gate) * up`, fused where there is a kernel for it.
    pub fn gated<const D: usize>(self, gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Silu => activation::silu_mul(gate, up),
            Self::GeluTanh => activation::gelu_tanh_mul(gate, up),
            other => other.forward(gate) * up,
        }
    }
}
