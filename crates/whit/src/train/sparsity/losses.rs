//! The losses, differentiable in the routers' scores.

use burn::tensor::{Tensor, TensorData};
use whit_kernels::activation::{relu, sigmoid};
use whit_kernels::softmax::softmax;

use crate::train::windows::Shape;

/// Keeps quotients and logarithms finite.
const EPSILON: f32 = 1e-5;

/// Activation locality: the mean cross-entropy between the sharpened scores of each token and, as the
/// target, those of the next (equation 6 of the paper; the target learns too, as in its code).
///
/// `scores` is `[tokens, experts]`; `joined` says for each token but the first whether it follows the
/// one before it in the same text.
pub fn activation_locality(scores: Tensor<2>, joined: &[bool], sharpness: f32) -> Tensor<1> {
    let [tokens, experts] = scores.dims();
    let count = joined.iter().filter(|joined| **joined).count();
    if count == 0 {
        return scores.sum() * 0.0;
    }
    let sharp = scores * sharpness;
    let before = sharp.clone().slice([0..tokens - 1, 0..experts]);
    let target = sigmoid(sharp.slice([1..tokens, 0..experts]));
    // -y ln sigmoid(z) - (1 - y) ln (1 - sigmoid(z)) = ln(1 + exp(z)) - y z, without overflow.
    let tail = before.clone().abs().neg().exp().log1p();
    let losses = relu(before.clone()) + tail - before * target;
    let mask: Vec<f32> = joined.iter().map(|&joined| f32::from(u8::from(joined))).collect();
    let mask = Tensor::<2>::from_data(TensorData::new(mask, [tokens - 1, 1]), &losses.device());
    (losses * mask).sum() / (count * experts) as f32
}

/// Chunk sparsification: the mean over chunks and experts of `1 - prod (1 - p)`, where `p` is a token's
/// share of an expert in what the ReLU lets through (equations 7 and 8 of the paper).
///
/// `scores` is `[tokens, experts]`, sequence after sequence; a last chunk that is shorter counts as
/// filled up with tokens that open nothing.
pub fn chunk_sparsification(scores: Tensor<2>, shape: Shape, chunk: usize) -> Tensor<1> {
    let [_, experts] = scores.dims();
    let Shape { rows, sequence } = shape;
    let open = relu(scores);
    let shares = open.clone() / (open.sum_dim(1) + EPSILON);
    let missing = sequence.next_multiple_of(chunk) - sequence;
    let shares = shares.reshape([rows, sequence, experts]);
    let shares = match missing {
        0 => shares,
        missing => {
            let filling = Tensor::zeros([rows, missing, experts], &shares.device());
            Tensor::cat(vec![shares, filling], 1)
        }
    };
    let chunks = rows * (sequence + missing) / chunk;
    let closed = (shares.reshape([chunks, chunk, experts]).neg() + (1.0 + EPSILON)).log().sum_dim(1).exp();
    closed.mean().neg() + 1.0
}

/// Load balance for a router that chooses a fixed number of `N` experts: `N sum f_i p_i`, where `f_i` is
/// expert `i`'s share of all choices, a constant, and `p_i` the mean of its softmax over all scores
/// (Switch, arXiv 2101.03961, equation 4; the shares of more than one choice as in BlockFFN's code). It is
/// one where all experts have the same load.
///
/// `scores` and `gates` are `[tokens, experts]`.
pub fn load_balance(scores: Tensor<2>, gates: Tensor<2>) -> Tensor<1> {
    let [_, experts] = scores.dims();
    let choices = gates.detach().not_equal_elem(0.0).float().sum_dim(0); // [1, experts]
    let load = choices.clone() / choices.sum_dim(1);
    (load * softmax(scores).mean_dim(0)).sum() * experts as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::top_k::top_softmax;
    use burn::tensor::Device;

    fn scores<const T: usize>(rows: [[f32; 3]; T]) -> Tensor<2> {
        Tensor::from_data(TensorData::from(rows), &Device::flex().autodiff()).require_grad()
    }

    fn value(loss: Tensor<1>) -> f64 {
        f64::from(loss.into_scalar::<f32>())
    }

    fn near(found: f64, wanted: f64, tolerance: f64) {
        assert!((found - wanted).abs() < tolerance, "{found} instead of {wanted}");
    }

    #[test]
    fn locality_worked_by_hand() {
        // With l = ln 3: sigmoid(l) = 3/4, ln(1 + e^l) = ln 4, and for -l 1/4 and ln 4/3.
        let l = 3f32.ln();
        let rows = [[0.0, l, -l], [l, l, 0.0], [-l, 0.0, l], [l, l, l]];
        let (l, ln2, ln4) = (3f64.ln(), 2f64.ln(), 4f64.ln());
        let low = (4f64 / 3.0).ln();
        let first = ln2 + (ln4 - 0.75 * l) + (low + 0.5 * l);
        let second = (ln4 - 0.25 * l) + (ln4 - 0.5 * l) + ln2;
        let third = (low + 0.75 * l) + ln2 + (ln4 - 0.75 * l);
        near(value(activation_locality(scores(rows), &[true; 3], 1.0)), (first + second + third) / 9.0, 1e-6);
        let cut = activation_locality(scores(rows), &[true, false, true], 1.0);
        near(value(cut), (first + third) / 6.0, 1e-6);
        near(value(activation_locality(scores(rows), &[false; 3], 1.0)), 0.0, 1e-9);
    }

    #[test]
    fn sharp_scores_do_not_overflow() {
        let rows = [[3.0, -3.0, 1.0], [2.0, -5.0, -1.0]];
        // The first two agree; the third is wrong by its whole sharpened score.
        near(value(activation_locality(scores(rows), &[true], 100.0)), 100.0 / 3.0, 1e-4);
    }

    #[test]
    fn chunks_worked_by_hand() {
        // Shares: (1/4, 1/4, 1/2), (1, 0, 0), none, (1/2, 1/2, 0). Chunks of two tokens:
        // 1 - (3/4)(0), 1 - 3/4, 1 - 1/2; and 1/2, 1/2, 0.
        let rows = [[1.0, 1.0, 2.0], [3.0, -1.0, -1.0], [-1.0, -1.0, -1.0], [2.0, 2.0, -9.0]];
        let shape = Shape { rows: 1, sequence: 4 };
        let wanted = (1.0 + 0.25 + 0.5 + 0.5 + 0.5 + 0.0) / 6.0;
        near(value(chunk_sparsification(scores(rows), shape, 2)), wanted, 1e-4);
        // One chunk of four: 1 - 0, 1 - (3/4)(1/2), 1 - 1/2; filled up to eight it is the same.
        let wanted = (1.0 + 0.625 + 0.5) / 3.0;
        near(value(chunk_sparsification(scores(rows), shape, 4)), wanted, 1e-4);
        near(value(chunk_sparsification(scores(rows), shape, 8)), wanted, 1e-4);
    }

    #[test]
    fn balance_worked_by_hand() {
        // Of the choices 2/4, 1/4 and 1/4; softmax (1/4, 1/4, 1/2) and (2/4, 1/4, 1/4), of which the means
        // are (3/8, 2/8, 3/8).
        let l = 2f32.ln();
        let gates = scores([[0.4, 0.0, 0.6], [0.7, 0.3, 0.0]]);
        let wanted = 3.0 * (2.0 * 3.0 + 1.0 * 2.0 + 1.0 * 3.0) / 32.0;
        near(value(load_balance(scores([[0.0, 0.0, l], [l, 0.0, 0.0]]), gates.clone())), wanted, 1e-6);
        // With even probabilities it is one; with all on one expert it is as many as there are.
        near(value(load_balance(scores([[5.0; 3]; 2]), gates)), 1.0, 1e-6);
        let rows = [[90.0, 0.0, 0.0]; 2];
        near(value(load_balance(scores(rows), top_softmax(scores(rows), 1))), 3.0, 1e-6);
    }

    #[test]
    fn slopes_equal_finite_differences() {
        let rows = [[0.3, -0.2, 0.5], [0.1, 0.4, -0.3], [-0.6, 0.2, 0.35], [0.25, 0.15, 0.1]];
        let shape = Shape { rows: 1, sequence: 4 };
        let losses: [&dyn Fn(Tensor<2>) -> Tensor<1>; 3] = [
            &|scores| activation_locality(scores, &[true, false, true], 2.0),
            &|scores| chunk_sparsification(scores, shape, 4),
            &|scores| load_balance(scores.clone(), top_softmax(scores, 2)),
        ];
        for loss in losses {
            let input = scores(rows);
            let slopes = input.grad(&loss(input.clone()).backward()).unwrap();
            let slopes: Vec<f32> = slopes.into_data().iter::<f32>().collect();
            for (at, slope) in slopes.iter().enumerate() {
                let moved = |by: f32| {
                    let mut rows = rows;
                    rows[at / 3][at % 3] += by;
                    value(loss(scores(rows)))
                };
                near((moved(1e-2) - moved(-1e-2)) / 2e-2, f64::from(*slope), 1e-3);
            }
        }
    }
}
