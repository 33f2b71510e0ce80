//! What corrects the weights of a layer that are still to come, when one of them has changed: the upper
//! Cholesky factor of the inverse second moments of its inputs (GPTQ, arXiv 2210.17323; SparseGPT, 2301.00774).

use super::cholesky::upper_of_inverse;
use super::{ShrinkError, Statistics};

/// The corrections of the layers that read the same inputs.
#[derive(Clone, Debug)]
pub struct Corrections {
    /// `U` with `H^-1 = U^T U`, its rows and columns in the order that was asked for. `[inputs, inputs]`
    pub factor: Vec<f64>,
    /// Inputs that are always zero, in that order.
    pub dead: Vec<bool>,
}

impl Corrections {
    /// From `H = 2/n sum x x^T`, as the authors of both have it: inputs that are always zero get a one on the
    /// diagonal, to which `damp` times its mean is added. `order` holds every input once.
    ///
    /// # Errors
    /// [`ShrinkError::NotPositive`], naming `tensor`.
    pub fn new(tensor: &str, seen: &Statistics, order: &[usize], damp: f64) -> Result<Self, ShrinkError> {
        let size = seen.inputs();
        let scale = 2.0 / seen.rows.max(1) as f64;
        let mut moments = vec![0.0; size * size];
        for (row, &from) in moments.chunks_exact_mut(size.max(1)).zip(order) {
            let own = &seen.gram[from * size..][..size];
            row.iter_mut().zip(order).for_each(|(moment, &other)| *moment = scale * own[other]);
        }
        let dead: Vec<bool> = (0..size).map(|at| moments[at * size + at] == 0.0).collect();
        (0..size).filter(|&at| dead[at]).for_each(|at| moments[at * size + at] = 1.0);
        let mean = (0..size).map(|at| moments[at * size + at]).sum::<f64>() / size.max(1) as f64;
        (0..size).for_each(|at| moments[at * size + at] += damp * mean);
        let refused = || ShrinkError::NotPositive { tensor: tensor.to_owned(), damping: damp };
        Ok(Self { factor: upper_of_inverse(&moments, size).ok_or_else(refused)?, dead })
    }

    /// The row of the factor that belongs to the input at place `at`.
    pub fn row(&self, at: usize) -> &[f64] {
        &self.factor[at * self.dead.len()..][..self.dead.len()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shrink::Want;

    /// Three inputs, the second of which is always zero.
    #[test]
    fn the_factor_gives_the_inverse_back_in_any_order() {
        let mut seen = Statistics::new(3, Want::Gram);
        seen.add(&[1.0, 0.0, 2.0, -1.0, 0.0, 1.0]);
        for order in [[0, 1, 2], [2, 0, 1]] {
            let found = Corrections::new("t", &seen, &order, 0.0).unwrap();
            assert_eq!(found.dead, order.map(|input| input == 1));
            // H = [[2, ., 1], [., 1, .], [1, ., 5]], whose inverse has 5/9, 2/9 and -1/9 beside the dead one.
            let inverse = |i: usize, j: usize| (0..3).map(|k| found.row(k)[i] * found.row(k)[j]).sum::<f64>();
            let wanted = [[5.0 / 9.0, 0.0, -1.0 / 9.0], [0.0, 1.0, 0.0], [-1.0 / 9.0, 0.0, 2.0 / 9.0]];
            for i in 0..3 {
                for j in 0..3 {
                    assert!((inverse(i, j) - wanted[order[i]][order[j]]).abs() < 1e-12, "{order:?} {i} {j}");
                }
            }
        }
    }
}
