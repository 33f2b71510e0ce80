//! What is known of the rows that enter a linear layer.

use whit_kernels::matmul::{self, Side, Sizes};

/// How much is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Want {
    /// Mean magnitude, largest magnitude and sum of squares of each input.
    Moments,
    /// These, and the products of all pairs of inputs: `inputs^2` numbers of 8 bytes.
    Gram,
}

/// Statistics of rows `[rows, inputs]`, summed in `f64`.
#[derive(Clone, Debug)]
pub struct Statistics {
    /// The number of rows.
    pub rows: usize,
    /// The mean of `|x_j|`.
    pub mean_abs: Vec<f64>,
    /// The largest `|x_j|`.
    pub max_abs: Vec<f32>,
    /// The sum of `x_j^2`.
    pub squares: Vec<f64>,
    /// The sum of `x x^T`, row-major; empty unless it was wanted. `[inputs, inputs]`
    pub gram: Vec<f64>,
}

impl Statistics {
    /// No rows yet.
    pub fn new(inputs: usize, want: Want) -> Self {
        let gram = if want == Want::Gram { inputs * inputs } else { 0 };
        Self {
            rows: 0,
            mean_abs: vec![0.0; inputs],
            max_abs: vec![0.0; inputs],
            squares: vec![0.0; inputs],
            gram: vec![0.0; gram],
        }
    }

    /// The number of inputs.
    pub fn inputs(&self) -> usize {
        self.squares.len()
    }

    /// Adds `rows` `[rows, inputs]`. Products of pairs are summed in `f32` within a call of a few hundred
    /// rows and in `f64` between calls.
    pub fn add(&mut self, rows: &[f32]) {
        let inputs = self.inputs();
        let (before, count) = (self.rows as f64, rows.len() / inputs.max(1));
        let mut sums = vec![0.0f64; inputs];
        for row in rows.chunks_exact(inputs) {
            for (at, &x) in row.iter().enumerate() {
                sums[at] += f64::from(x.abs());
                self.max_abs[at] = self.max_abs[at].max(x.abs());
                self.squares[at] += f64::from(x) * f64::from(x);
            }
        }
        self.rows += count;
        let all = (self.rows as f64).max(1.0);
        self.mean_abs.iter_mut().zip(sums).for_each(|(mean, sum)| *mean = (*mean * before + sum) / all);
        if !self.gram.is_empty() {
            self.add_products(rows, count);
        }
    }

    fn add_products(&mut self, rows: &[f32], count: usize) {
        let inputs = self.inputs();
        let mut products = vec![0.0; inputs * inputs];
        let sizes = Sizes { rows: inputs, depth: count, columns: inputs };
        matmul::multiply(sizes, Side::Transposed(rows), Side::Straight(rows), false, &mut products);
        self.gram.iter_mut().zip(products).for_each(|(sum, product)| *sum += f64::from(product));
    }

    /// The summed squared change of the outputs if `difference` `[outputs, inputs]` is added to the weights:
    /// `sum_o d_o G d_o^T`. Zero where the products of pairs were not wanted.
    pub fn output_error(&self, difference: &[f32]) -> f64 {
        let inputs = self.inputs();
        if self.gram.is_empty() {
            return 0.0;
        }
        let row = |row: &[f32]| -> f64 {
            let part = |(i, &d): (usize, &f32)| {
                let gram = &self.gram[i * inputs..][..inputs];
                f64::from(d) * gram.iter().zip(row).map(|(g, &other)| g * f64::from(other)).sum::<f64>()
            };
            row.iter().enumerate().filter(|(_, d)| **d != 0.0).map(part).sum()
        };
        difference.chunks_exact(inputs).map(row).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_worked_by_hand_do_not_depend_on_the_split() {
        let rows = [1.0, -2.0, 3.0, 0.0, -5.0, 4.0];
        let mut whole = Statistics::new(2, Want::Gram);
        whole.add(&rows);
        assert_eq!((whole.rows, whole.max_abs.as_slice()), (3, [5.0, 4.0].as_slice()));
        assert_eq!(whole.mean_abs, [3.0, 2.0]);
        assert_eq!(whole.gram, [35.0, -22.0, -22.0, 20.0]);
        let mut parts = Statistics::new(2, Want::Gram);
        rows.chunks(2).for_each(|row| parts.add(row));
        assert_eq!(parts.gram, whole.gram);
        assert!(parts.mean_abs.iter().zip(&whole.mean_abs).all(|(a, b)| (a - b).abs() < 1e-12));
    }

    #[test]
    fn the_output_error_is_that_of_the_rows() {
        let rows = [1.0, -2.0, 3.0, 0.5];
        let mut statistics = Statistics::new(2, Want::Gram);
        statistics.add(&rows);
        let difference = [0.5f32, 1.0, -1.0, 0.25];
        let output = |d: &[f32], x: &[f32]| f64::from(d[0] * x[0] + d[1] * x[1]).powi(2);
        let wanted: f64 = difference.chunks(2).flat_map(|d| rows.chunks(2).map(move |x| output(d, x))).sum();
        assert!((statistics.output_error(&difference) - wanted).abs() < 1e-9);
    }
}
