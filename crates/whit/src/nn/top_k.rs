//! The gates of a router that chooses a fixed number of experts for each token.

use burn::tensor::{Tensor, TensorData};
use whit_kernels::op;
use whit_kernels::softmax::softmax;

/// Softmax over the `count` highest scores of each row, and zero for the others. `[tokens, experts]`
///
/// Which scores are the highest counts as a constant, so the gradient is that of the softmax over them.
/// Of equal scores the first is chosen. A row with a score that is no number is NaN throughout.
///
/// # Panics
/// If `count` is zero or more than there are scores.
pub fn top_softmax(scores: Tensor<2>, count: usize) -> Tensor<2> {
    let shape = scores.dims();
    let mut shut = op::host(scores.clone()).into_vec();
    shut.chunks_exact_mut(shape[1]).for_each(|row| shut_others(row, count));
    let shut = Tensor::from_data(TensorData::new(shut, shape), &scores.device());
    softmax(scores + shut)
}

/// Puts zero in the place of the `count` highest scores, and minus infinity in that of the others.
fn shut_others(row: &mut [f32], count: usize) {
    // What is no number counts as the highest, so that it is seen.
    let rank = |at: usize| if row[at].is_nan() { f32::INFINITY } else { row[at] };
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.select_nth_unstable_by(count - 1, |&a, &b| rank(b).total_cmp(&rank(a)).then(a.cmp(&b)));
    row.fill(f32::NEG_INFINITY);
    order[..count].iter().for_each(|&at| row[at] = 0.0);
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    const ROWS: [[f32; 4]; 3] = [[0.3, -1.2, 0.9, 0.1], [-0.4, -2.0, -3.0, -0.9], [1.5, 0.2, -0.7, 0.6]];

    fn tensor<const T: usize>(rows: [[f32; 4]; T]) -> Tensor<2> {
        Tensor::from_data(TensorData::from(rows), &Device::flex().autodiff()).require_grad()
    }

    fn values(tensor: Tensor<2>) -> Vec<f32> {
        op::host(tensor).into_vec()
    }

    fn near(found: f32, wanted: f32, tolerance: f32) {
        assert!((found - wanted).abs() < tolerance, "{found} instead of {wanted}");
    }

    #[test]
    fn gates_worked_by_hand() {
        // Of the first row ln 3 and ln 1 remain: 3/4 and 1/4. Of four equal ones the first two remain.
        let rows = [[3f32.ln(), -1.0, 0.0, -0.5], [2.0; 4]];
        let gates = values(top_softmax(tensor(rows), 2));
        for (found, wanted) in gates.iter().zip([0.75, 0.0, 0.25, 0.0, 0.5, 0.5, 0.0, 0.0]) {
            near(*found, wanted, 1e-6);
            assert_eq!(*found == 0.0, wanted == 0.0, "closed is exactly zero");
        }
        assert_eq!(values(top_softmax(tensor(rows), 1)), [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]);
        assert_eq!(values(top_softmax(tensor(rows), 4)), values(softmax(tensor(rows))));
    }

    #[test]
    fn a_score_that_is_no_number_is_seen() {
        for wrong in [f32::NAN, -f32::NAN, f32::INFINITY] {
            let gates = values(top_softmax(tensor([[1.0, 2.0, 3.0, wrong], [0.0, 1.0, 2.0, 3.0]]), 2));
            assert!(gates[..4].iter().all(|gate| gate.is_nan()), "{gates:?}");
            assert!(gates[4..].iter().all(|gate| gate.is_finite()), "{gates:?}");
        }
    }

    #[test]
    fn slopes_equal_finite_differences() {
        let weights = [0.7, -1.3, 2.1, 0.4, 1.1, -0.6, 0.9, -2.2, 0.3, 1.7, -0.8, 0.5];
        let loss = |rows| {
            let weights = Tensor::from_data(TensorData::new(weights.to_vec(), [3, 4]), &Device::flex());
            let scores = tensor(rows);
            ((top_softmax(scores.clone(), 2) * weights).sum(), scores)
        };
        let (whole, scores) = loss(ROWS);
        let slopes = values(scores.grad(&whole.backward()).unwrap());
        for (at, slope) in slopes.iter().enumerate() {
            let moved = |by: f32| {
                let mut rows = ROWS;
                rows[at / 4][at % 4] += by;
                loss(rows).0.into_scalar::<f32>()
            };
            near((moved(1e-2) - moved(-1e-2)) / 2e-2, *slope, 1e-3);
        }
        assert_eq!(slopes.iter().filter(|slope| **slope != 0.0).count(), 6, "{slopes:?}");
    }
}
