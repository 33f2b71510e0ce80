//! The loss of a language model: the mean negative log-likelihood of the right tokens, computed
//! from the logits in one pass; its derivative writes `softmax - one-hot` once.
//!
//! A row with NaN or plus infinity, or with nothing but minus infinity, has the loss NaN.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{Int, Tensor, TensorData, activation};

use crate::op::{self, Host, Kernel, Pass};
use crate::parallel::Shared;
use crate::softmax::log_sum_exp;
use crate::vector::{self, Each, Map, Program, Vector, sweep_raw};

/// The mean of `-log softmax(logits)[target]` over the rows of `logits` ([tokens, vocabulary]) whose
/// target is not `ignore`; zero where all are ignored. Differentiable.
///
/// # Panics
/// If the number of targets is not that of the rows, or a target is beyond the vocabulary.
pub fn cross_entropy(logits: Tensor<2>, targets: &[u32], ignore: Option<u32>) -> Tensor<1> {
    let [rows, vocabulary] = logits.dims();
    check(rows, vocabulary, targets, ignore);
    if op::on_host(&logits) {
        let kernel = CrossEntropy { targets: targets.into(), ignore };
        return Tensor::from_dispatch(op::apply(kernel, [logits.into_dispatch()]));
    }
    portable(logits, targets, ignore)
}

/// `-log softmax(logits)[target]` of each row of `logits` ([tokens, vocabulary]).
///
/// # Panics
/// If the number of targets does not divide the logits, or a target is beyond the vocabulary.
pub fn token_losses(logits: &[f32], targets: &[u32]) -> Vec<f32> {
    let width = logits.len() / targets.len().max(1);
    assert_eq!(width * targets.len(), logits.len(), "logits are no rows for {} targets", targets.len());
    check(targets.len(), width, targets, None);
    losses(logits, width, targets, None).into_iter().map(|row| row.loss).collect()
}

/// The plain loss of one row, which the kernel is held against.
pub fn reference(row: &[f32], target: u32) -> f64 {
    let most = row.iter().fold(f64::NEG_INFINITY, |most, &x| most.max(f64::from(x)));
    let sum: f64 = row.iter().map(|&x| (f64::from(x) - most).exp()).sum();
    sum.ln() + most - f64::from(row[target as usize])
}

fn check(rows: usize, vocabulary: usize, targets: &[u32], ignore: Option<u32>) {
    assert_eq!(rows, targets.len(), "one target for each row of logits");
    let beyond = targets.iter().find(|&&target| Some(target) != ignore && target as usize >= vocabulary);
    assert!(beyond.is_none(), "target {beyond:?} is beyond the vocabulary of {vocabulary}");
}

fn portable(logits: Tensor<2>, targets: &[u32], ignore: Option<u32>) -> Tensor<1> {
    let device = logits.device();
    let kept: Vec<i64> =
        (0..targets.len() as i64).filter(|&row| Some(targets[row as usize]) != ignore).collect();
    if kept.is_empty() {
        return (logits * 0.0).sum();
    }
    let wanted: Vec<i64> = kept.iter().map(|&row| i64::from(targets[row as usize])).collect();
    let count = kept.len();
    let rows = Tensor::<1, Int>::from_data(TensorData::new(kept, [count]), &device);
    let wanted = Tensor::<2, Int>::from_data(TensorData::new(wanted, [count, 1]), &device);
    -activation::log_softmax(logits.select(0, rows), 1).gather(1, wanted).mean()
}

/// The loss of a row, and what its derivative needs.
#[derive(Clone, Copy, Debug, Default)]
struct RowLoss {
    loss: f32,
    most: f32,
    log_sum: f32,
}

fn losses(logits: &[f32], width: usize, targets: &[u32], ignore: Option<u32>) -> Vec<RowLoss> {
    let mut results = vec![RowLoss::default(); targets.len()];
    let out = &Shared(results.as_mut_ptr());
    vector::rows(targets.len(), width, |range| {
        vector::run(Losses { logits, width, targets, ignore, out, range });
    });
    results
}

struct Losses<'a> {
    logits: &'a [f32],
    width: usize,
    targets: &'a [u32],
    ignore: Option<u32>,
    out: &'a Shared<RowLoss>,
    range: Range<usize>,
}

impl Program for Losses<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        for index in self.range {
            let target = self.targets[index];
            if Some(target) == self.ignore {
                continue;
            }
            let row = &self.logits[index * self.width..][..self.width];
            let (most, log_sum) = log_sum_exp::<V>(row);
            let loss = log_sum + (most - row[target as usize]);
            // SAFETY: there is a place for every row, and each is visited once.
            unsafe { self.out.at(index).write(RowLoss { loss, most, log_sum }) };
        }
    }
}

/// `scale exp(x - most - log_sum)`.
#[derive(Clone, Copy)]
struct Probability {
    most: f32,
    log_sum: f32,
    scale: f32,
}

impl Map<1, 1> for Probability {
    #[inline(always)]
    fn call<V: Vector>(self, [x]: [V; 1]) -> [V; 1] {
        [vector::exp((x - V::splat(self.most)) - V::splat(self.log_sum)) * V::splat(self.scale)]
    }
}

struct Backward<'a> {
    kernel: &'a CrossEntropy,
    logits: &'a [f32],
    width: usize,
    losses: &'a [RowLoss],
    /// The gradient of the loss over the number of rows that count.
    scale: f32,
    out: &'a Shared<f32>,
    range: Range<usize>,
}

impl Program for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        for index in self.range {
            let target = self.kernel.targets[index];
            let row = &self.logits[index * self.width..][..self.width];
            let out = self.out.at(index * self.width);
            // SAFETY: rows are disjoint, and `out` has the length of the logits.
            unsafe {
                if Some(target) == self.kernel.ignore {
                    out.write_bytes(0, self.width);
                    continue;
                }
                let RowLoss { most, log_sum, .. } = self.losses[index];
                let map = Each(Probability { most, log_sum, scale: self.scale });
                sweep_raw::<V, _, 1, 1, 0>(map, [row.as_ptr()], [out], self.width, [0.0], []);
                *out.add(target as usize) -= self.scale;
            }
        }
    }
}

#[derive(Clone, Debug)]
struct CrossEntropy {
    targets: Arc<[u32]>,
    ignore: Option<u32>,
}

impl CrossEntropy {
    /// Rows that count, at least one.
    fn count(&self) -> usize {
        self.targets.iter().filter(|&&target| Some(target) != self.ignore).count().max(1)
    }
}

impl Kernel<1> for CrossEntropy {
    type Saved = Vec<RowLoss>;

    fn forward(&self, [logits]: [&Host; 1]) -> (Host, Vec<RowLoss>) {
        let rows = losses(logits.data(), logits.width(), &self.targets, self.ignore);
        let sum: f64 = rows.iter().map(|row| f64::from(row.loss)).sum();
        (Host::new([1], vec![(sum / self.count() as f64) as f32]), rows)
    }

    fn backward(&self, pass: Pass<'_, Vec<RowLoss>, 1>) -> [Option<Host>; 1] {
        let (logits, width) = (pass.inputs[0].data(), pass.inputs[0].width());
        let scale = pass.gradient.data()[0] / self.count() as f32;
        let task = |out| {
            let out = &Shared(out);
            vector::rows(self.targets.len(), width, |range| {
                vector::run(Backward { kernel: self, logits, width, losses: pass.saved, scale, out, range });
            });
        };
        // SAFETY: the rows cover all logits.
        let out = unsafe { vector::filled(logits.len(), task) };
        [Some(Host::new(pass.inputs[0].shape(), out))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_near, assert_same_slopes, noise, tracked, values};
    use burn::tensor::Device;

    #[test]
    fn a_case_by_hand() {
        let logits = [0.0, 3f32.ln(), 0.0, 0.0];
        assert_near(&token_losses(&logits, &[1, 0]), &[-0.75f64.ln(), 2f64.ln()], 1e-6, 1e-3);
        let x = tracked(&logits, [2, 2]);
        let loss = cross_entropy(x.clone(), &[1, 9], Some(9));
        let gradient = x.grad(&loss.clone().backward()).map(values).unwrap_or_default();
        assert_near(&values(loss), &[-0.75f64.ln()], 1e-6, 1e-3);
        assert_near(&gradient, &[0.25, -0.25, 0.0, 0.0], 1e-6, 1.0);
    }

    #[test]
    fn losses_are_within_2e_6_of_the_reference() {
        for width in [1, 5, 64, 1001] {
            let logits = noise(9 * width, 1, 6.0);
            let targets: Vec<u32> = (0..9).map(|row| (row * 7 % width) as u32).collect();
            let wanted: Vec<f64> =
                logits.chunks(width).zip(&targets).map(|(row, &target)| reference(row, target)).collect();
            assert_near(&token_losses(&logits, &targets), &wanted, 2e-6, 1.0);
        }
    }

    #[test]
    fn gradients_equal_the_portable_path() {
        let targets: Vec<u32> = (0..40).map(|row| row * 5 % 33).collect();
        for ignore in [None, Some(5)] {
            let x = [tracked(&noise(40 * 33, 2, 3.0), [40, 33])];
            let lift = |loss: Tensor<1>| loss.unsqueeze::<2>();
            assert_same_slopes(
                x,
                |[x]| lift(cross_entropy(x, &targets, ignore)),
                |[x]| lift(portable(x, &targets, ignore)),
                3e-6,
            );
        }
    }

    #[test]
    fn nothing_to_learn_is_no_loss() {
        let x = tracked(&[1.0, 2.0], [1, 2]);
        let loss = cross_entropy(x.clone(), &[7], Some(7));
        assert_eq!(values(loss.clone()), [0.0]);
        assert_eq!(x.grad(&loss.backward()).map(values), Some(vec![0.0; 2]));
    }

    #[test]
    fn nan_reaches_the_loss() {
        assert!(token_losses(&[f32::NAN, 0.0], &[1])[0].is_nan());
    }

    #[test]
    #[should_panic(expected = "beyond the vocabulary of 3")]
    fn a_target_beyond_the_vocabulary_is_refused() {
        cross_entropy(Tensor::zeros([1, 3], &Device::flex()), &[3], None);
    }
}
