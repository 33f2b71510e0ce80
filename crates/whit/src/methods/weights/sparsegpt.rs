//! SparseGPT (Frantar & Alistarh, 2023, arXiv 2301.00774): pruning a weight changes the output of its
//! layer, and the weights that stay can make up for most of that, if the second moments of the inputs are
//! known. So each matrix is pruned column after column, and after each the weights to its right move by
//! what the Optimal Brain Surgeon prescribes. What a weight costs is known by then, and decides which
//! weights of a block of 128 columns go.

use std::sync::Arc;

use whit_kernels::parallel;

use crate::methods::{
    Access, Claim, Fidelity, Headline, Kind, Knob, Knobs, Method, MethodError, ModelFacts, ModelKind, Need,
    Paper, Resource, Room, Spec, Stage, StageKind, Stages, Value, WeightEdit,
};
use crate::nn::attention::Port;
use crate::shrink::algebra::inverse_root;
use crate::shrink::pattern::{PATTERN, Pattern, RATIO, lowest};
use crate::shrink::{Block, ShrinkError, Statistics, Want};

/// The description of the method.
pub static SPEC: Spec = Spec {
    id: "sparsegpt",
    title: "SparseGPT",
    paper: Paper {
        title: "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot",
        authors: "Elias Frantar, Dan Alistarh",
        year: 2023,
        arxiv: "2301.00774",
    },
    room: Room::Weights,
    fidelity: Fidelity::Lossy,
    summary: "Each matrix is pruned column after column, and after each the weights to its right move so that the layer's \
              output on some text changes least. What a weight would cost decides which ones go: a share of them, or two \
              of every four neighbours.",
    long: LONG,
    stages: &[StageKind::WeightEdit],
    claims: &[Claim { resource: Resource::Weights, access: Access::Transform }],
    knobs: &[
        RATIO,
        PATTERN,
        Knob {
            name: "damp",
            kind: Kind::Float { min: 0.0, max: 1.0 },
            default: Value::Float(0.01),
            off: None,
            help: "added to the diagonal of the second moments, as a share of its mean",
        },
        Knob {
            name: "block",
            kind: Kind::Int { min: 1, max: 1024 },
            default: Value::Int(128),
            off: None,
            help: "columns whose weights compete for the zeros of the free pattern",
        },
    ],
    needs: &[Need::Calibration("some text of the kind that the model is for; 128 sequences in the paper")],
    models: &[ModelKind::Decoder],
    headlines: &[
        Headline {
            setting: "Llama-2-7B, WikiText-2, 50 % zeros (as the Wanda paper reports)",
            metric: "perplexity",
            baseline: "5.12 (dense), 14.89 (magnitude)",
            result: "6.51",
        },
        Headline {
            setting: "Llama-2-7B, WikiText-2, 4:8 / 2:4 (as the Wanda paper reports)",
            metric: "perplexity",
            baseline: "16.48 / 54.59 (magnitude)",
            result: "8.12 / 10.17",
        },
    ],
    build,
};

const LONG: &str = "\
## How it works

1. The text goes through the model block by block; for each linear layer the second moments `H = sum x x^T` of its
   inputs are summed up. `damp` of the mean of the diagonal is added to the diagonal; inputs that are always zero get
   weights of zero.
2. `H^-1 = U^T U` with `U` upper triangular, in double precision.
3. In every `block` of columns the `ratio` of weights with the lowest `w^2 / U_ii^2` is marked, over all rows together;
   with `2:4` and `4:8` half of every group of a row, when the columns before it are done.
4. From left to right, each marked weight `w` of column `i` becomes zero, and the weights to its right in the row change
   by `-(w / U_ii) U_ij`.

## When it pays

With 2:4, and from 60 % of zeros on, it is clearly better than `wanda`; at half of free zeros they are close. It takes
minutes for each billion weights, most of them for the factor of the down-projections. See `magnitude` for what zeros are
good for.

## What is ours

Everything runs in double precision; the paper's code does so in single. Quantising the survivors in the same pass is not
built. `rtn` afterwards keeps the zeros; methods that correct weights as they quantise do not.";

fn build(knobs: &Knobs, _: &ModelFacts) -> Result<Arc<dyn Method>, MethodError> {
    let (damp, block) = (knobs.float("damp"), knobs.int("block"));
    Ok(Arc::new(SparseGpt { pattern: Pattern::of(knobs)?, damp, block }))
}

/// The method, built for one model.
#[derive(Clone, Debug)]
struct SparseGpt {
    pattern: Pattern,
    damp: f64,
    block: usize,
}

impl Method for SparseGpt {
    fn begin(&self) -> Stages {
        Stages::from_iter([Stage::WeightEdit(Box::new(self.clone()))])
    }

    fn expect(&self) -> String {
        self.pattern.expect() + "; the others make up for them"
    }
}

impl WeightEdit for SparseGpt {
    fn edit(&mut self, block: &mut Block<'_>) -> Result<(), ShrinkError> {
        for port in Port::ALL {
            let names = block.matrices(port);
            let Some(first) = names.first() else { continue };
            let tensor = block.full_name(first);
            let surgeon = self.surgeon(&tensor, &block.inputs(port, Want::Gram)?)?;
            for name in &names {
                self.pattern.check(&block.full_name(name), surgeon.inputs)?;
                let mut weight: Vec<f64> = block.get(name)?.values.iter().map(|&w| f64::from(w)).collect();
                surgeon.prune(&mut weight, self.pattern, self.block);
                let values = weight.into_iter().map(|w| w as f32).collect();
                block.set_values(name, values, self.pattern.form())?;
            }
        }
        Ok(())
    }
}

impl SparseGpt {
    fn surgeon(&self, tensor: &str, seen: &Statistics) -> Result<Surgeon, ShrinkError> {
        let refused = || ShrinkError::NotPositive { tensor: tensor.to_owned(), damping: self.damp };
        Surgeon::new(seen, self.damp).ok_or_else(refused)
    }
}

/// What the corrections of a layer are computed from.
#[derive(Debug)]
struct Surgeon {
    inputs: usize,
    /// `H^-1 = U^T U`.
    root: Vec<f64>,
    /// Inputs that are always zero.
    dead: Vec<usize>,
}

impl Surgeon {
    /// None if the damped second moments are not positive definite.
    fn new(seen: &Statistics, damp: f64) -> Option<Self> {
        let inputs = seen.inputs();
        let mut moments = seen.gram.clone();
        let dead: Vec<usize> = (0..inputs).filter(|&i| moments[i * inputs + i] == 0.0).collect();
        dead.iter().for_each(|&i| moments[i * inputs + i] = 1.0);
        let mean = (0..inputs).map(|i| moments[i * inputs + i]).sum::<f64>() / inputs.max(1) as f64;
        (0..inputs).for_each(|i| moments[i * inputs + i] += damp * mean);
        Some(Self { inputs, root: inverse_root(&moments, inputs)?, dead })
    }

    /// Prunes `weight` `[outputs, inputs]`.
    fn prune(&self, weight: &mut [f64], pattern: Pattern, block: usize) {
        let inputs = self.inputs;
        for row in weight.chunks_exact_mut(inputs) {
            self.dead.iter().for_each(|&input| row[input] = 0.0);
        }
        for start in (0..inputs).step_by(block) {
            let end = inputs.min(start + block);
            let marks = match pattern {
                Pattern::Free(share) => self.mark(weight, start, end, share),
                Pattern::Groups { .. } => Vec::new(),
            };
            parallel::pieces(weight, inputs, |index, row| match pattern {
                Pattern::Free(_) => {
                    let marks = &marks[index * (end - start)..][..end - start];
                    (start..end).for_each(|input| self.visit(row, input, marks[input - start]));
                }
                Pattern::Groups { zeros, of } => self.visit_groups(row, start..end, zeros, of),
            });
        }
    }

    /// What it costs to prune a weight of column `input`.
    fn cost(&self, weight: f64, input: usize) -> f64 {
        (weight / self.root[input * self.inputs + input]).powi(2)
    }

    /// Marks the cheapest weights of the columns from `start` to `end`, over all rows. `[outputs, end - start]`
    fn mark(&self, weight: &[f64], start: usize, end: usize, share: f64) -> Vec<bool> {
        let row =
            |row: &[f64]| -> Vec<f64> { (start..end).map(|input| self.cost(row[input], input)).collect() };
        let costs: Vec<f64> = weight.chunks_exact(self.inputs).flat_map(row).collect();
        let mut marks = vec![false; costs.len()];
        let count = (costs.len() as f64 * share) as usize;
        lowest(&costs, 0..costs.len(), count).into_iter().for_each(|place| marks[place] = true);
        marks
    }

    /// Goes on to a column: prunes its weight if that is marked, and corrects those to its right.
    fn visit(&self, row: &mut [f64], input: usize, marked: bool) {
        if !marked || row[input] == 0.0 {
            return;
        }
        let root = &self.root[input * self.inputs..][..self.inputs];
        let error = row[input] / root[input];
        row[input] = 0.0;
        row[input + 1..].iter_mut().zip(&root[input + 1..]).for_each(|(w, u)| *w -= error * u);
    }

    fn visit_groups(&self, row: &mut [f64], columns: std::ops::Range<usize>, zeros: usize, of: usize) {
        for input in columns {
            if input % of == 0 {
                let costs: Vec<f64> = (input..input + of).map(|at| self.cost(row[at], at)).collect();
                let marked = lowest(&costs, 0..of, zeros);
                (0..of).for_each(|at| self.visit(row, input + at, marked.contains(&at)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
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
        Surgeon::new(seen, 0.01).unwrap().prune(&mut weight, pattern, 32);
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
            let cost =
                |row: usize, at: usize, weight: &[f64]| weight[row * INPUTS + at].powi(2) / diagonals[at];
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
                (input..INPUTS)
                    .for_each(|at| weight[row * INPUTS + at] -= error * inverse[input * INPUTS + at]);
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
            prune(&mut wanda, INPUTS, pattern, Scope::Row, |w, at| {
                f64::from(w.abs()) * seen.squares[at].sqrt()
            });
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
        assert!(Surgeon::new(&seen, 0.01).is_none());
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
}
