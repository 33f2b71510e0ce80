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
use crate::shrink::pattern::{PATTERN, Pattern, RATIO, lowest};
use crate::shrink::{Block, Corrections, ShrinkError, Statistics, Want};

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
            let surgeon = Surgeon::new(&tensor, &block.inputs(port, Want::Gram)?, self.damp)?;
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

/// Takes weights out of a layer and lets the others make up for them.
#[derive(Debug)]
struct Surgeon {
    inputs: usize,
    corrections: Corrections,
}

impl Surgeon {
    fn new(tensor: &str, seen: &Statistics, damp: f64) -> Result<Self, ShrinkError> {
        let inputs = seen.inputs();
        let order: Vec<usize> = (0..inputs).collect();
        Ok(Self { inputs, corrections: Corrections::new(tensor, seen, &order, damp)? })
    }

    /// Prunes `weight` `[outputs, inputs]`.
    fn prune(&self, weight: &mut [f64], pattern: Pattern, block: usize) {
        let inputs = self.inputs;
        for row in weight.chunks_exact_mut(inputs) {
            let dead = row.iter_mut().zip(&self.corrections.dead).filter(|(_, dead)| **dead);
            dead.for_each(|(weight, _)| *weight = 0.0);
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
        (weight / self.corrections.row(input)[input]).powi(2)
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
        let root = self.corrections.row(input);
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
#[path = "../tests/sparsegpt.rs"]
mod tests;
