//! The feed-forward block: two matrices, or three with a gate.

use burn::module::Module;
use burn::tensor::Tensor;

use super::activation::Activation;
use super::attention::Port;
use super::linear::Linear;

/// `down(activation(gate(x)) * up(x))`, or `down(activation(up(x)))` without a gate.
#[derive(Module, Debug)]
pub struct Mlp {
    gate_proj: Option<Linear>,
    up_proj: Linear,
    down_proj: Linear,
    #[module(skip)]
    activation: Activation,
}

impl Mlp {
    /// The block of these matrices.
    pub fn new(gate: Option<Linear>, up: Linear, down: Linear, activation: Activation) -> Self {
        Self { gate_proj: gate, up_proj: up, down_proj: down, activation }
    }

    /// `[tokens, width]` to `[tokens, width]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.forward_seen(x, &mut |_, _| {})
    }

    /// As [`forward`](Self::forward); `see` is shown the rows that enter the matrices.
    pub fn forward_seen(&self, x: Tensor<2>, see: &mut dyn FnMut(Port, &Tensor<2>)) -> Tensor<2> {
        see(Port::FeedForward, &x);
        let inner = match &self.gate_proj {
            Some(gate) => {
                let [gate, up] = Linear::forward_many([gate, &self.up_proj], x);
                self.activation.gated(gate, up)
            }
            None => self.up_proj.activated(x, self.activation),
        };
        see(Port::Down, &inner);
        self.down_proj.forward(inner)
    }

    /// The bytes that the weights hold.
    pub fn bytes(&self) -> usize {
        self.gate_proj.as_ref().map_or(0, Linear::bytes) + self.up_proj.bytes() + self.down_proj.bytes()
    }
}
