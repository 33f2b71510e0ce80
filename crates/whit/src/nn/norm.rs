//! Normalisation with learned weights, and the residual stream that it reads.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use whit_kernels::norm;

/// RMS norm, or layer norm where there is a bias.
#[derive(Module, Debug)]
pub struct Norm {
    weight: Param<Tensor<1>>,
    bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    epsilon: f32,
    #[module(skip)]
    centred: bool,
}

impl Norm {
    /// `x / sqrt(mean(x^2) + epsilon) * weight`.
    pub fn rms(weight: Tensor<1>, epsilon: f32) -> Self {
        Self { weight: Param::from_tensor(weight), bias: None, epsilon, centred: false }
    }

    /// `(x - mean) / sqrt(variance + epsilon) * weight + bias`.
    pub fn layer(weight: Tensor<1>, bias: Option<Tensor<1>>, epsilon: f32) -> Self {
        Self {
            weight: Param::from_tensor(weight),
            bias: bias.map(Param::from_tensor),
            epsilon,
            centred: true,
        }
    }

    /// Normalises over the last dimension.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        if self.centred {
            let bias = self.bias.as_ref().map(|bias| bias.val());
            norm::layer_norm(x, self.weight.val(), bias, self.epsilon)
        } else {
            norm::rms_norm(x, self.weight.val(), self.epsilon)
        }
    }
}

/// The sum of what the blocks have added so far. The last addition waits for the next norm, which
/// does both in one pass over memory.
#[derive(Debug)]
pub struct Residual {
    sum: Tensor<2>, // [tokens, width]
    pending: Option<Tensor<2>>,
}

impl Residual {
    /// A stream that starts with `x`.
    pub fn new(x: Tensor<2>) -> Self {
        Self { sum: x, pending: None }
    }

    /// Adds a block's output.
    pub fn add(&mut self, delta: Tensor<2>) {
        self.settle();
        self.pending = Some(delta);
    }

    /// Puts a block's output in the place of all before.
    pub fn replace(&mut self, output: Tensor<2>) {
        *self = Self::new(output);
    }

    /// The normalised stream.
    pub fn norm(&mut self, norm: &Norm) -> Tensor<2> {
        match self.pending.take() {
            Some(delta) if !norm.centred => {
                let (sum, normed) =
                    norm::add_rms_norm(delta, self.sum.clone(), norm.weight.val(), norm.epsilon);
                self.sum = sum;
                normed
            }
            pending => {
                self.pending = pending;
                self.settle();
                norm.forward(self.sum.clone())
            }
        }
    }

    /// The stream itself.
    pub fn sum(&mut self) -> Tensor<2> {
        self.settle();
        self.sum.clone()
    }

    fn settle(&mut self) {
        if let Some(delta) = self.pending.take() {
            self.sum = self.sum.clone() + delta;
        }
    }
}
