//! A mixture of feed-forward experts, of which a router picks a few for each token.

use burn::module::Module;
use burn::tensor::{IndexingUpdateOp, Int, Tensor, TensorData};
use whit_kernels::softmax;

use super::linear::Linear;
use super::mlp::Mlp;

/// The experts of one layer, with Mixtral's routing: softmax over all router logits, the best
/// `active` experts, their weights scaled to sum to one (arXiv 2401.04088, section 2.1).
#[derive(Module, Debug)]
pub struct Experts {
    gate: Linear, // [experts, width]
    experts: Vec<Mlp>,
    #[module(skip)]
    active: usize,
}

impl Experts {
    /// A mixture in which every token uses `active` of the experts.
    pub fn new(gate: Linear, experts: Vec<Mlp>, active: usize) -> Self {
        Self { gate, experts, active }
    }

    /// `[tokens, width]` to `[tokens, width]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let probabilities = softmax::softmax(self.gate.forward(x.clone()));
        let (weights, chosen) = probabilities.topk_with_indices(self.active, 1);
        let weights = weights.clone() / weights.sum_dim(1);
        let chosen: Vec<i64> = chosen.into_data().iter::<i64>().collect();
        let mut output = x.zeros_like();
        for (index, expert) in self.experts.iter().enumerate() {
            let places: Vec<usize> = (0..chosen.len()).filter(|&at| chosen[at] == index as i64).collect();
            if !places.is_empty() {
                output = self.add_expert(output, expert, &x, &weights, &places);
            }
        }
        output
    }

    /// Runs one expert on its tokens; `places` are positions in the flat `[tokens, active]` choice.
    fn add_expert(
        &self,
        output: Tensor<2>,
        expert: &Mlp,
        x: &Tensor<2>,
        weights: &Tensor<2>,
        places: &[usize],
    ) -> Tensor<2> {
        let device = x.device();
        let index = |values: Vec<i64>| {
            let length = values.len();
            Tensor::<1, Int>::from_data(TensorData::new(values, [length]), &device)
        };
        let tokens = index(places.iter().map(|place| (place / self.active) as i64).collect());
        let slots = index(places.iter().map(|&place| place as i64).collect());
        let share = weights.clone().reshape([-1, 1]).select(0, slots); // [chosen, 1]
        let result = expert.forward(x.clone().select(0, tokens.clone())) * share;
        output.select_assign(0, tokens, result, IndexingUpdateOp::Add)
    }

    /// The bytes that the weights hold.
    pub fn bytes(&self) -> usize {
        self.gate.bytes() + self.experts.iter().map(Mlp::bytes).sum::<usize>()
    }
}
