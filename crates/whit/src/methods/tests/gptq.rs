//! Against optimal brain surgery written out plainly, and on a small model.

use super::*;
use crate::methods::Selection;
use crate::shrink::testing::{model, shrunk};

const INPUTS: usize = 96;
const OUTPUTS: usize = 64;

fn random(seed: u64, count: usize) -> Vec<f32> {
    use crate::nn::vars::{Init, Random, Source};
    Random { seed }.rows("x", 0..count, 1, Init::Normal(1.0)).unwrap()
}

/// Rows whose values hang together: each is a mixture of 24 causes and a little of its own.
fn correlated(seed: u64, rows: usize) -> Statistics {
    let mix = random(seed, 24 * INPUTS);
    let (causes, own) = (random(seed + 1, rows * 24), random(seed + 2, rows * INPUTS));
    let value = |at: usize| {
        let (row, input) = (at / INPUTS, at % INPUTS);
        (0..24).map(|k| causes[row * 24 + k] * mix[k * INPUTS + input]).sum::<f32>() / 5.0 + 0.2 * own[at]
    };
    let mut statistics = Statistics::new(INPUTS, Want::Gram);
    statistics.add(&(0..rows * INPUTS).map(value).collect::<Vec<_>>());
    statistics
}

fn gptq(bits: u32, group: usize, act_order: bool) -> Gptq {
    let grid = Grid { bits, group, symmetric: false, search: false };
    Gptq { grid, act_order, damp: 0.01 }
}

fn quantised(method: &Gptq, weights: &[f32], inputs: &Statistics) -> Vec<f32> {
    method.plan("t", inputs).unwrap().quantise(weights, method.grid.group).values()
}

/// `matrix^-1` by Gauss and Jordan.
fn inverse(matrix: &[f64], size: usize) -> Vec<f64> {
    let mut left = matrix.to_vec();
    let mut right: Vec<f64> =
        (0..size * size).map(|at| f64::from(u8::from(at / size == at % size))).collect();
    for i in 0..size {
        let pivot = left[i * size + i];
        (0..size).for_each(|k| {
            left[i * size + k] /= pivot;
            right[i * size + k] /= pivot;
        });
        for row in (0..size).filter(|&row| row != i) {
            let factor = left[row * size + i];
            for k in 0..size {
                left[row * size + k] -= factor * left[i * size + k];
                right[row * size + k] -= factor * right[i * size + k];
            }
        }
    }
    right
}

/// Optimal brain surgery as its formula says, with a fresh inverse of what remains at every step.
fn reference(grid: Grid, weights: &[f32], inputs: &Statistics) -> Vec<f32> {
    let mut current: Vec<f64> = weights.iter().map(|&w| f64::from(w)).collect();
    let mut moments: Vec<f64> = inputs.gram.iter().map(|g| g * 2.0 / inputs.rows as f64).collect();
    let damp = 0.01 * (0..INPUTS).map(|i| moments[i * INPUTS + i]).sum::<f64>() / INPUTS as f64;
    (0..INPUTS).for_each(|i| moments[i * INPUTS + i] += damp);
    let mut steps = vec![Step { scale: 0.0, zero: 0 }; OUTPUTS];
    for i in 0..INPUTS {
        let left = INPUTS - i;
        let part: Vec<f64> =
            (i..INPUTS).flat_map(|row| moments[row * INPUTS + i..(row + 1) * INPUTS].to_vec()).collect();
        let inverse = inverse(&part, left);
        for output in 0..OUTPUTS {
            let row = &mut current[output * INPUTS..(output + 1) * INPUTS];
            if i % grid.group == 0 {
                steps[output] =
                    grid.fit(&row[i..i + grid.group].iter().map(|&w| w as f32).collect::<Vec<_>>());
            }
            let rounded = f64::from(grid.round(row[i] as f32, steps[output]));
            let error = (row[i] - rounded) / inverse[0];
            row[i..].iter_mut().zip(&inverse[..left]).for_each(|(w, h)| *w -= error * h);
            row[i] = rounded;
        }
    }
    current.into_iter().map(|w| w as f32).collect()
}

#[test]
fn it_equals_optimal_brain_surgery_with_a_fresh_inverse_at_every_step() {
    let (weights, inputs) = (random(1, OUTPUTS * INPUTS), correlated(2, 300));
    let method = gptq(4, 32, false);
    let (found, wanted) = (quantised(&method, &weights, &inputs), reference(method.grid, &weights, &inputs));
    let worst = found.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 1e-4, "{worst}");
}

#[test]
fn it_beats_rounding_to_nearest_on_correlated_inputs() {
    for act_order in [false, true] {
        let better = (0..20).filter(|&seed| {
            let (weights, inputs) = (random(100 + seed, OUTPUTS * INPUTS), correlated(3 * seed, 200));
            let method = gptq(3, 32, act_order);
            let nearest = method.grid.nearest("t", &weights, INPUTS).unwrap().values();
            let error = |values: &[f32]| {
                inputs.output_error(&values.iter().zip(&weights).map(|(a, b)| a - b).collect::<Vec<_>>())
            };
            error(&quantised(&method, &weights, &inputs)) < error(&nearest)
        });
        assert!(better.count() >= 19, "act-order {act_order}");
    }
}

#[test]
fn independent_inputs_leave_nothing_to_make_good() {
    let mut inputs = Statistics::new(INPUTS, Want::Gram);
    (0..INPUTS).for_each(|i| inputs.gram[i * INPUTS + i] = 1.0 + i as f64);
    inputs.rows = 10;
    let weights = random(5, OUTPUTS * INPUTS);
    for act_order in [false, true] {
        let method = gptq(4, 32, act_order);
        let nearest = method.grid.nearest("t", &weights, INPUTS).unwrap().values();
        assert_eq!(quantised(&method, &weights, &inputs), nearest);
    }
}

#[test]
fn dead_inputs_get_no_weight_and_zeros_stay_zero() {
    let mut inputs = correlated(4, 200);
    (0..INPUTS).for_each(|i| {
        inputs.gram[i * INPUTS + 7] = 0.0;
        inputs.gram[7 * INPUTS + i] = 0.0;
    });
    let mut weights = random(6, OUTPUTS * INPUTS);
    (0..weights.len()).filter(|at| at % 3 == 0).for_each(|at| weights[at] = 0.0);
    let found = quantised(&gptq(4, 32, false), &weights, &inputs);
    assert!((0..OUTPUTS).all(|row| found[row * INPUTS + 7] == 0.0));
    assert!((0..found.len()).filter(|at| at % 3 == 0).all(|at| found[at] == 0.0));
}

#[test]
fn moments_that_are_not_positive_definite_are_refused_by_name() {
    let mut inputs = Statistics::new(2, Want::Gram);
    inputs.rows = 1;
    inputs.gram = vec![1.0, 5.0, 5.0, 1.0];
    let refused = gptq(4, 2, false).plan("some.tensor", &inputs).err().unwrap();
    assert!(
        matches!(refused, ShrinkError::NotPositive { .. }) && refused.to_string().contains("some.tensor")
    );
}

#[test]
fn a_model_keeps_more_of_its_blocks_than_with_rounding_to_nearest() {
    let files = model(7);
    let error = |with: &str| shrunk(&files, with, 24).unwrap().report.block_errors.iter().sum::<f64>();
    let nearest = error("rtn:bits=3,group=32");
    for with in ["gptq:bits=3,group=32", "gptq:bits=3,group=32,act-order"] {
        assert!(error(with) < nearest, "{with}: {} {nearest}", error(with));
    }
    assert!(matches!(shrunk(&files, "gptq:group=32", 0), Err(ShrinkError::Calibration { .. })));
    assert!(Selection::parse(&["gptq:damp=2"]).is_err());
}
