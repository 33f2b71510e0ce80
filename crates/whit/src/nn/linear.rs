//! The linear layer: a trainable matrix, or one that was packed at load for speed and size.

use std::sync::Arc;

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use whit_kernels::linear::{self, PackedLinear};
use whit_kernels::matmul;

use super::activation::Activation;

/// `y = x W^T + b`.
///
/// Exactly one of the two forms of the weight is present: a parameter (training, and devices other
/// than the CPU), or a packed weight of any [type](whit_kernels::linear::WeightType), shared between
/// clones.
#[derive(Module, Debug)]
pub struct Linear {
    weight: Option<Param<Tensor<2>>>, // [outputs, inputs]
    bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    packed: Option<Arc<PackedLinear>>,
    /// A packed weight that `packed` is applied after: a layer of low rank.
    #[module(skip)]
    first: Option<Arc<PackedLinear>>,
}

impl Linear {
    /// A layer with a trainable weight `[outputs, inputs]`.
    pub fn dense(weight: Tensor<2>, bias: Option<Tensor<1>>) -> Self {
        Self {
            weight: Some(Param::from_tensor(weight)),
            bias: bias.map(Param::from_tensor),
            packed: None,
            first: None,
        }
    }

    /// A layer with a packed weight.
    pub fn packed(weight: PackedLinear, bias: Option<Tensor<1>>) -> Self {
        Self { weight: None, bias: bias.map(Param::from_tensor), packed: Some(Arc::new(weight)), first: None }
    }

    /// This layer after another without bias, as one: both packed, or else their product.
    pub fn after(self, first: Self) -> Self {
        match (&self.weight, &first.weight) {
            (Some(last), Some(first)) => {
                let bias = self.bias.as_ref().map(|bias| bias.val());
                Self::dense(last.val().matmul(first.val()), bias)
            }
            _ => Self { first: first.packed, ..self },
        }
    }

    /// Applies the layer to the last dimension.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let bias = self.bias.as_ref().map(|bias| bias.val());
        let x = match &self.first {
            Some(first) => linear::linear(x, first, None),
            None => x,
        };
        match (&self.packed, &self.weight) {
            (Some(packed), _) => linear::linear(x, packed, bias),
            (None, Some(weight)) => matmul::linear(x, weight.val(), bias),
            (None, None) => unreachable!("a linear layer is built with a weight"),
        }
    }

    /// Applies the layer and an activation function, in one pass where there is a kernel for both.
    pub fn activated<const D: usize>(&self, x: Tensor<D>, activation: Activation) -> Tensor<D> {
        match (&self.packed, &self.first, activation.fused()) {
            (Some(packed), None, Some(fused)) => {
                let bias = self.bias.as_ref().map(|bias| bias.val());
                linear::linear_activated(x, packed, bias, Some(fused))
            }
            _ => activation.forward(self.forward(x)),
        }
    }

    /// Applies several layers to the same input, so that it is quantised only once.
    pub fn forward_many<const N: usize>(layers: [&Self; N], x: Tensor<2>) -> [Tensor<2>; N] {
        let packed: Vec<_> = layers
            .iter()
            .filter_map(|layer| Some((layer.packed_weight()?, layer.bias.as_ref().map(|bias| bias.val()))))
            .collect();
        if packed.len() < N {
            return layers.map(|layer| layer.forward(x.clone()));
        }
        let mut outputs = linear::linear_many(x, &packed).into_iter();
        layers.map(|_| outputs.next().unwrap_or_else(|| unreachable!("one output a layer")))
    }

    /// The packed weight, if that is the form and it is one matrix.
    pub fn packed_weight(&self) -> Option<&PackedLinear> {
        self.packed.as_deref().filter(|_| self.first.is_none())
    }

    /// The trainable weight `[outputs, inputs]`, if that is the form.
    pub fn dense_weight(&self) -> Option<Tensor<2>> {
        self.weight.as_ref().map(|weight| weight.val())
    }

    /// The bytes that weight and bias hold.
    pub fn bytes(&self) -> usize {
        let dense = self.weight.as_ref().map_or(0, |weight| weight.val().shape().num_elements() * 4);
        let bias = self.bias.as_ref().map_or(0, |bias| bias.val().shape().num_elements() * 4);
        let packed = self.packed.iter().chain(&self.first).map(|packed| packed.bytes());
        dense + bias + packed.sum::<usize>()
    }
}
