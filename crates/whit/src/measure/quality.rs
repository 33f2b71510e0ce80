//! What a method loses: against the dense output, and against held-out text.

use burn::tensor::Tensor;
use whit_kernels::cross_entropy;
use whit_kernels::op;

use crate::nn::attention::Batched;
use crate::nn::decoder::{Decoder, Tokens};

/// The share of positions at which two texts have the same token, over the longer one's length.
pub fn agreement(one: &[u32], other: &[u32]) -> f64 {
    let longer = one.len().max(other.len());
    if longer == 0 {
        return 1.0;
    }
    one.iter().zip(other).filter(|(a, b)| a == b).count() as f64 / longer as f64
}

/// The mean loss in nats a token of a text in windows of `window` tokens, each read on its own.
/// None for texts of fewer than two tokens.
pub fn loss(model: &Decoder, text: &[u32], window: usize) -> Option<f64> {
    let losses = token_losses(model, text, window);
    (!losses.is_empty())
        .then(|| losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() / losses.len() as f64)
}

/// The loss in nats of every token but the first of each window.
pub fn token_losses(model: &Decoder, text: &[u32], window: usize) -> Vec<f32> {
    let windows = text.chunks(window.max(2)).filter(|window| window.len() > 1);
    windows.flat_map(|window| window_losses(model, window)).collect()
}

fn window_losses(model: &Decoder, window: &[u32]) -> Vec<f32> {
    let (ids, targets) = (&window[..window.len() - 1], &window[1..]);
    let positions: Vec<u32> = (0..ids.len() as u32).collect();
    let lengths = vec![ids.len() as u32; ids.len()];
    let tokens = Tokens { ids, positions: &positions, lengths: &lengths };
    let logits: Tensor<2> = model.logits(model.forward(tokens, &mut Batched::causal(1)));
    let logits = op::host(logits);
    cross_entropy::token_losses(logits.data(), targets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agreement_counts_positions() {
        assert_eq!(agreement(&[1, 2, 3, 4], &[1, 2, 9, 4]), 0.75);
        assert_eq!(agreement(&[1, 2], &[1, 2, 3, 4]), 0.5);
        assert_eq!(agreement(&[], &[]), 1.0);
    }
}
