//! What was changed, in figures.

use serde::Serialize;

use super::block::Weight;

/// What became of a model.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// One line for each changed matrix.
    pub lines: Vec<Line>,
    /// For each block: the squared error of its output, as a share of what the block adds to the stream;
    /// empty without calibration.
    pub block_errors: Vec<f64>,
    /// What the methods have to say.
    pub notes: Vec<String>,
}

/// What became of a matrix.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// The tensor.
    pub tensor: String,
    /// How it can be stored.
    pub form: String,
    /// Bits a weight in that form.
    pub bits: f64,
    /// Bytes in that form.
    pub bytes: u64,
    /// The squared change of the weights as a share of their squares; none where the shape changed.
    pub error: Option<f64>,
}

impl Line {
    /// Compares a matrix with what it was; plain numbers have `plain` bits.
    pub(super) fn new(tensor: String, before: &Weight, after: &Weight, plain: f64) -> Self {
        let bits = after.form.bits(plain);
        let bytes = (after.values.len() as f64 * bits / 8.0).ceil() as u64;
        let same = before.shape == after.shape;
        let error = same.then(|| relative_error(&before.values, &after.values));
        Self { tensor, form: after.form.name(), bits, bytes, error }
    }
}

/// The squared difference as a share of the squares of `before`.
pub fn relative_error(before: &[f32], after: &[f32]) -> f64 {
    let square = |x: f32| f64::from(x) * f64::from(x);
    let wrong: f64 = before.iter().zip(after).map(|(a, b)| square(a - b)).sum();
    let all: f64 = before.iter().map(|&a| square(a)).sum();
    if all > 0.0 { wrong / all } else { wrong }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_is_relative() {
        assert_eq!(relative_error(&[3.0, 4.0], &[3.0, 3.0]), 1.0 / 25.0);
        assert_eq!(relative_error(&[0.0], &[0.5]), 0.25);
    }
}
