//! Groups of inputs of a matrix: which add least to its output, and how the others make up for them.

use std::collections::BTreeSet;

use super::algebra::solve_rows;
use super::cholesky::lower;
use super::pattern::lowest;
use super::{Block, Form, ShrinkError, Statistics, Weight};

/// What each group of `size` inputs adds to the output, squared and summed over the text.
pub fn energies(weight: &Weight, seen: &Statistics, size: usize) -> Vec<f64> {
    let inputs = weight.inputs();
    let group = |start: usize| -> f64 {
        let of_row = |row: &[f32]| -> f64 {
            let part = |i: usize| -> f64 {
                let gram = &seen.gram[i * inputs..][start..start + size];
                let sum: f64 = gram.iter().zip(&row[start..]).map(|(g, w)| g * f64::from(*w)).sum();
                f64::from(row[i]) * sum
            };
            (start..start + size).map(part).sum()
        };
        weight.values.chunks_exact(inputs).map(of_row).sum()
    };
    (0..inputs / size).map(|index| group(index * size)).collect()
}

/// The `count` best, in order.
pub fn kept(scores: &[f64], count: usize) -> Vec<usize> {
    let out: BTreeSet<usize> = lowest(scores, 0..scores.len(), scores.len() - count).into_iter().collect();
    (0..scores.len()).filter(|index| !out.contains(index)).collect()
}

/// Keeps rows of a layer's matrix and of its bias, where there is one.
///
/// # Errors
/// If the block has no such layer.
pub fn keep_rows(block: &mut Block<'_>, layer: &str, rows: &[usize]) -> Result<(), ShrinkError> {
    for name in [format!("{layer}.weight"), format!("{layer}.bias")] {
        if !block.has(&name) {
            continue;
        }
        let weight = block.get(&name)?;
        let width = weight.values.len() / weight.outputs().max(1);
        let values = rows.iter().flat_map(|&row| weight.values[row * width..][..width].to_vec()).collect();
        let mut shape = weight.shape.clone();
        shape[0] = rows.len();
        block.set(&name, Weight { shape, values, form: Form::Dense });
    }
    Ok(())
}

/// The columns `kept` of a matrix with rows of `inputs`.
pub fn columns(values: &[f32], inputs: usize, kept: &[usize]) -> Vec<f32> {
    values.chunks_exact(inputs).flat_map(|row| kept.iter().map(|&at| row[at])).collect()
}

/// `W G[:, kept] G[kept, kept]^-1`; none where the moments have no inverse.
pub fn refit(values: &[f32], inputs: usize, kept: &[usize], seen: &Statistics) -> Option<Vec<f32>> {
    let count = kept.len();
    let mut own: Vec<f64> = kept
        .iter()
        .flat_map(|&i| kept.iter().map(move |&j| (i, j)))
        .map(|(i, j)| seen.gram[i * inputs + j])
        .collect();
    let mean = (0..count).map(|i| own[i * count + i]).sum::<f64>() / count.max(1) as f64;
    (0..count).for_each(|i| own[i * count + i] += DAMPING * mean);
    let lower = lower(&own, count)?;
    let mut sides = Vec::with_capacity(values.len() / inputs * count);
    for row in values.chunks_exact(inputs) {
        let side = |&j: &usize| -> f64 {
            seen.gram[j * inputs..][..inputs].iter().zip(row).map(|(g, w)| g * f64::from(*w)).sum()
        };
        sides.extend(kept.iter().map(side));
    }
    solve_rows(&lower, count, &mut sides);
    Some(sides.into_iter().map(|value| value as f32).collect())
}

/// Added to the diagonal of the moments, as a share of its mean.
const DAMPING: f64 = 1e-3;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shrink::Want;

    #[test]
    fn scores_and_fits_worked_by_hand() {
        // Inputs 0 and 2 are the same: without 2, the fit gives its weight to 0.
        let mut seen = Statistics::new(3, Want::Gram);
        for x in [1.0f32, 2.0, -3.0] {
            seen.add(&[x, x * x, x]);
        }
        let weight = Weight { shape: vec![1, 3], values: vec![0.5, 1.0, 0.25], form: Form::Dense };
        assert_eq!(energies(&weight, &seen, 1), [0.25 * 14.0, 98.0, 14.0 / 16.0]);
        assert_eq!(kept(&[3.5, 98.0, 0.875], 2), [0, 1]);
        let fitted = refit(&weight.values, 3, &[0, 1], &seen).unwrap();
        assert!((fitted[0] - 0.75).abs() < 0.01 && (fitted[1] - 1.0).abs() < 0.01, "{fitted:?}");
    }
}
