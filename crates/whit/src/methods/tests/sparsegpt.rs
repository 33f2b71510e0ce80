//! Against the Optimal Brain Surgeon written out plainly, and on a small model.

use super::*;
use crate::load::Checkpoint;
use crate::shrink::pattern::{Scope, prune};
use crate::shrink::testing::{model, shrunk};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const OUTPUTS: usize = 64;
const INPUTS: usize = 96;

/// A random layer, and statistics of inputs that depend on each other.
fn layer(seed: u64) -> (Vec<f32>, Statistics) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut noise =
        |count: usize| -> Vec<f32> { (0..count).map(|_| random.random_range(-1.0..1.0)).collect() };
    let weight = noise(OUTPUTS * INPUTS);
    let mix = noise(12 * INPUTS);
    let mut seen = Statistics::new(INPUTS, Want::Gram);
    for _ in 0..160 {
        let (causes, own) = (noise(12), noise(INPUTS));
        let cause = |input: usize| (0..12).map(|c| causes[c] * mix[c * INPUTS + input]).sum::<f32>();
        seen.add(&(0..INPUTS).map(|input| cause(input) + 0.3 * own[input]).collect::<Vec<_>>());
    }
    (weight, seen)
}

fn pruned(weight: &[f32], seen: &Statistics, pattern: Pattern) -> Vec<f64> {
    let mut weight: Vec<f64> = weight.iter().map(|&w| f64::from(w)).collect();
    Surgeon::new("t", seen, 0.01).unwrap().prune(&mut weight, pattern, 32);
    weight
}

/// The Optimal Brain Surgeon as its papers write it: the inverse itself, from which a column is
/// eliminated after each step.
fn reference(weight: &[f32], seen: &Statistics, pattern: Pattern) -> Vec<f64> {
    let mut inverse = damped_inverse(seen);
    let mut weight: Vec<f64> = weight.iter().map(|&w| f64::from(w)).collect();
    let mut marks = vec![false; weight.len()];
    for input in 0..INPUTS {
        let diagonals = eliminated_diagonals(&inverse, input);
        let cost = |row: usize, at: usize, weight: &[f64]| weight[row * INPUTS + at].powi(2) / diagonals[at];
        match pattern {
            Pattern::Free(share) if input % 32 == 0 => {
                let places: Vec<usize> = (0..OUTPUTS)
                    .flat_map(|row| (input..input + 32).map(move |at| row * INPUTS + at))
                    .collect();
                let mut costs = vec![0.0; weight.len()];
                places.iter().for_each(|&at| costs[at] = cost(at / INPUTS, at % INPUTS, &weight));
                let mut order = places.clone();
                order.sort_by(|&a, &b| costs[a].total_cmp(&costs[b]));
                order[..(places.len() as f64 * share) as usize].iter().for_each(|&at| marks[at] = true);
            }
            Pattern::Groups { zeros, of } if input % of == 0 => {
                for row in 0..OUTPUTS {
                    let mut order: Vec<usize> = (input..input + of).collect();
                    order.sort_by(|&a, &b| cost(row, a, &weight).total_cmp(&cost(row, b, &weight)));
                    order[..zeros].iter().for_each(|&at| marks[row * INPUTS + at] = true);
                }
            }
            _ => {}
        }
        for row in (0..OUTPUTS).filter(|row| marks[row * INPUTS + input]) {
            let error = weight[row * INPUTS + input] / inverse[input * INPUTS + input];
            (input..INPUTS).for_each(|at| weight[row * INPUTS + at] -= error * inverse[input * INPUTS + at]);
            weight[row * INPUTS + input] = 0.0;
        }
        eliminate(&mut inverse, input);
    }
    weight
}

/// The inverse of the damped moments, by Gauss and Jordan.
fn damped_inverse(seen: &Statistics) -> Vec<f64> {
    let n = INPUTS;
    let mut moments = seen.gram.clone();
    let mean = (0..n).map(|i| moments[i * n + i]).sum::<f64>() / n as f64;
    (0..n).for_each(|i| moments[i * n + i] += 0.01 * mean);
    let mut inverse = vec![0.0; n * n];
    (0..n).for_each(|i| inverse[i * n + i] = 1.0);
    for pivot in 0..n {
        let scale = 1.0 / moments[pivot * n + pivot];
        for matrix in [&mut moments, &mut inverse] {
            matrix[pivot * n..(pivot + 1) * n].iter_mut().for_each(|value| *value *= scale);
        }
        for row in (0..n).filter(|&row| row != pivot) {
            let factor = moments[row * n + pivot];
            for matrix in [&mut moments, &mut inverse] {
                (0..n).for_each(|at| matrix[row * n + at] -= factor * matrix[pivot * n + at]);
            }
        }
    }
    inverse
}

fn eliminate(inverse: &mut [f64], input: usize) {
    let line = inverse[input * INPUTS..(input + 1) * INPUTS].to_vec();
    for row in input + 1..INPUTS {
        let factor = line[row] / line[input];
        (0..INPUTS).for_each(|at| inverse[row * INPUTS + at] -= factor * line[at]);
    }
}

/// The diagonal that each column will have once those from `input` on before it are eliminated.
fn eliminated_diagonals(inverse: &[f64], input: usize) -> Vec<f64> {
    let mut copy = inverse.to_vec();
    let mut diagonals = vec![0.0; INPUTS];
    for at in input..INPUTS.min(input + 32) {
        diagonals[at] = copy[at * INPUTS + at];
        eliminate(&mut copy, at);
    }
    diagonals
}

#[test]
fn the_result_is_that_of_a_direct_loop() {
    let (weight, seen) = layer(1);
    for pattern in
        [Pattern::Free(0.5), Pattern::Groups { zeros: 2, of: 4 }, Pattern::Groups { zeros: 4, of: 8 }]
    {
        let (found, wanted) = (pruned(&weight, &seen, pattern), reference(&weight, &seen, pattern));
        for (at, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
            assert!((found - wanted).abs() < 1e-4, "{pattern:?} weight {at}: {found} for {wanted}");
        }
        let zeros = found.iter().filter(|&&w| w == 0.0).count();
        assert_eq!(zeros, OUTPUTS * INPUTS / 2, "{pattern:?}");
    }
}

#[test]
fn nothing_to_prune_changes_nothing() {
    let (weight, seen) = layer(1);
    let found = pruned(&weight, &seen, Pattern::Free(0.0));
    assert!(found.iter().zip(&weight).all(|(a, b)| *a == f64::from(*b)));
}

#[test]
fn the_output_errs_less_than_with_the_smallest_or_wandas_weights() {
    let mut better = 0;
    for seed in 0..20 {
        let (weight, seen) = layer(seed);
        let pattern = Pattern::Groups { zeros: 2, of: 4 };
        let error = |other: &[f32]| {
            let difference: Vec<f32> = weight.iter().zip(other).map(|(a, b)| a - b).collect();
            seen.output_error(&difference)
        };
        let ours: Vec<f32> = pruned(&weight, &seen, pattern).into_iter().map(|w| w as f32).collect();
        let [mut smallest, mut wanda] = [weight.clone(), weight.clone()];
        prune(&mut smallest, INPUTS, pattern, Scope::Row, |w, _| f64::from(w.abs()));
        prune(&mut wanda, INPUTS, pattern, Scope::Row, |w, at| f64::from(w.abs()) * seen.squares[at].sqrt());
        better += usize::from(error(&ours) < error(&smallest) && error(&ours) < error(&wanda));
    }
    assert!(better >= 19, "{better} of 20");
}

#[test]
fn inputs_that_are_always_zero_lose_their_weights_and_bad_moments_are_refused() {
    let (weight, mut seen) = layer(2);
    for at in 0..INPUTS {
        (seen.gram[5 * INPUTS + at], seen.gram[at * INPUTS + 5]) = (0.0, 0.0);
    }
    let found = pruned(&weight, &seen, Pattern::Free(0.0));
    assert!((0..OUTPUTS).all(|row| found[row * INPUTS + 5] == 0.0 && found[row * INPUTS + 6] != 0.0));
    seen.gram[0] = -1.0;
    assert!(matches!(Surgeon::new("t", &seen, 0.01), Err(ShrinkError::NotPositive { .. })));
}

#[test]
fn a_model_keeps_the_pattern_and_its_blocks_err_less_than_wandas() {
    let files = model(5);
    let ours = shrunk(&files, "sparsegpt:pattern=2:4", 6).unwrap();
    for line in &ours.report.lines {
        let weights = ours.weights.read(&line.tensor).unwrap().to_f32(&line.tensor).unwrap();
        assert!(weights.chunks(4).all(|four| four.iter().filter(|&&w| w == 0.0).count() >= 2));
    }
    let wanda = shrunk(&files, "wanda:pattern=2:4", 6).unwrap();
    let sum = |errors: &[f64]| errors.iter().sum::<f64>();
    assert!(sum(&ours.report.block_errors) < sum(&wanda.report.block_errors));
    assert!(shrunk(&files, "sparsegpt", 0).is_err());
}
