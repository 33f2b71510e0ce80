//! GPTQ (Frantar et al., 2022, arXiv 2210.17323): the weights of a linear layer are rounded one input at a
//! time. What the rounding of one input's weights changes in the layer's outputs is made good, as far as a
//! quadratic model of the error allows, by moving the weights of all inputs that are still to come. The
//! model is the second moment of the layer's inputs on a calibration text; one Cholesky factor of its
//! inverse holds every step's correction. Scales are set group by group from the weights as moved.

use std::sync::Arc;

use crate::methods::{
    Access, Claim, Fidelity, Headline, Kind, Knob, Knobs, Method, MethodError, ModelFacts, ModelKind, Need,
    Paper, Resource, Room, Spec, Stage, StageKind, Stages, Value, WeightEdit,
};
use crate::nn::attention::Port;
use crate::shrink::grid::{BITS, GROUP, Grid, SEARCH, SYMMETRIC, Step};
use crate::shrink::{Block, Corrections, Levels, ShrinkError, Statistics, Want};
use whit_kernels::parallel;

/// The description of the method.
pub static SPEC: Spec = Spec {
    id: "gptq",
    title: "GPTQ",
    paper: Paper {
        title: "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers",
        authors: "Elias Frantar, Saleh Ashkboos, Torsten Hoefler, Dan Alistarh",
        year: 2022,
        arxiv: "2210.17323",
    },
    room: Room::Weights,
    fidelity: Fidelity::Lossy,
    summary: "The weights of each linear layer are rounded to a few bits one input at a time, and the weights of the \
              inputs still to come are moved so that the layer's outputs on a calibration text change as little as \
              possible. One Cholesky factor of the inverse second moment of the inputs holds all corrections. At 3 and \
              4 bits it loses much less than rounding to nearest.",
    long: LONG,
    stages: &[StageKind::WeightEdit],
    claims: &[
        Claim { resource: Resource::Weights, access: Access::Transform },
        Claim { resource: Resource::WeightBits, access: Access::Own },
    ],
    knobs: &[
        BITS,
        GROUP,
        SYMMETRIC,
        SEARCH,
        Knob {
            name: "act-order",
            kind: Kind::Flag,
            default: Value::Flag(false),
            off: None,
            help: "inputs with the largest second moments first; the groups' scales are then fixed beforehand",
        },
        Knob {
            name: "damp",
            kind: Kind::Float { min: 0.0, max: 1.0 },
            default: Value::Float(0.01),
            off: None,
            help: "added to the diagonal of the second moments, as a share of its mean",
        },
    ],
    needs: &[Need::Calibration("128 sequences of 512 tokens are enough")],
    models: &[ModelKind::Decoder],
    headlines: &[
        Headline {
            setting: "LLaMA-7B, WikiText-2, whole rows, 4 / 3 bits",
            metric: "perplexity (fp16: 5.68)",
            baseline: "6.29 / 25.54 (round to nearest)",
            result: "6.09 / 8.07",
        },
        Headline {
            setting: "LLaMA-7B, WikiText-2, 3 bits, groups of 128",
            metric: "perplexity (fp16: 5.68)",
            baseline: "-",
            result: "6.61",
        },
    ],
    build,
};

const LONG: &str = "\
## How it works

1. `H = 2/n sum x x^T` over the rows `x` that enter the layer; inputs that are always zero get `H_ii = 1` and weight 0;
   `damp` times the mean of the diagonal is added to it. `U` is the upper Cholesky factor of `H^-1`.
2. For each input `i` in order: where a group begins, its scale is set from the weights as they are now; the weights
   `w_i` of all outputs are rounded to `q`; with `e = (w_i - q) / U_ii` the weights of all later inputs change by
   `-e U_ij`.
3. With `act-order` the inputs are taken by falling `H_ii`, and all scales are set beforehand, so that groups stay
   neighbours in the file.

Layers are taken in the order q, k, v; o; gate, up; down, each with the inputs that the rounded ones before it give, and
blocks likewise (the code's `true-sequential`). Embeddings, norms and the output head stay as they are.

## When it pays

At 4 bits and below, whenever there is text of the kind that the model is for. It takes about a minute for a small
model and grows with the cube of the layers' inputs. Text of another kind makes it worse than it need be.

## What is ours

Weights that are exactly zero (pruned before: `--with wanda --with gptq`) stay zero, and their share of the error is
made good too. Scales are rounded to half precision before weights are rounded to them. The updates are done at once
rather than in lazy batches of 128 inputs, which is the same arithmetic.";

fn build(knobs: &Knobs, _: &ModelFacts) -> Result<Arc<dyn Method>, MethodError> {
    Ok(Arc::new(Gptq {
        grid: Grid::of(knobs)?,
        act_order: knobs.flag("act-order"),
        damp: knobs.float("damp"),
    }))
}

/// The method, built for one model.
#[derive(Clone, Debug)]
struct Gptq {
    grid: Grid,
    act_order: bool,
    damp: f64,
}

impl Method for Gptq {
    fn begin(&self) -> Stages {
        Stages::from_iter([Stage::WeightEdit(Box::new(self.clone()))])
    }

    fn expect(&self) -> String {
        format!("{} bits a weight and the scales; less error than rounding to nearest", self.grid.bits)
    }
}

impl WeightEdit for Gptq {
    fn edit(&mut self, block: &mut Block<'_>) -> Result<(), ShrinkError> {
        for port in Port::ALL {
            let inputs = block.inputs(port, Want::Gram)?;
            let plan = self.plan(&block.full_name(&block.matrices(port).join(", ")), &inputs)?;
            for name in block.matrices(port) {
                let weight = block.get(&name)?;
                let group = self.grid.group_of(&block.full_name(&name), weight.inputs())?;
                let levels = plan.quantise(&weight.values, group);
                block.set_levels(&name, levels)?;
            }
        }
        Ok(())
    }
}

impl Gptq {
    /// What all layers share that read the same inputs.
    fn plan(&self, tensor: &str, inputs: &Statistics) -> Result<Plan, ShrinkError> {
        let size = inputs.inputs();
        let diagonal = |i: usize| inputs.gram[i * size + i];
        let mut order: Vec<usize> = (0..size).collect();
        if self.act_order {
            order.sort_by(|&a, &b| diagonal(b).total_cmp(&diagonal(a)));
        }
        let corrections = Corrections::new(tensor, inputs, &order, self.damp)?;
        Ok(Plan { grid: self.grid, fixed: self.act_order, corrections, order })
    }
}

/// How the inputs of a layer are gone through.
struct Plan {
    grid: Grid,
    /// Whether scales are set beforehand.
    fixed: bool,
    /// In `order`.
    corrections: Corrections,
    order: Vec<usize>,
}

/// One row of weights on its way.
struct Row {
    /// The weights as moved, in the plan's order.
    weights: Vec<f64>,
    /// Weights that were zero and stay so.
    zero: Vec<bool>,
    /// In the order of the file.
    levels: Vec<u8>,
    steps: Vec<Step>,
}

/// Rows that go through the factor together, so that its rows are read once for all of them.
const ROWS: usize = 16;

impl Plan {
    fn quantise(&self, weights: &[f32], group: usize) -> Levels {
        let inputs = self.order.len();
        let mut rows: Vec<Row> = weights.chunks_exact(inputs).map(|row| self.row(row, group)).collect();
        parallel::pieces(&mut rows, ROWS, |_, rows| {
            for at in 0..inputs {
                rows.iter_mut().for_each(|row| self.step(row, at, group));
            }
        });
        let mut levels = Levels::new(rows.len(), inputs, self.grid.bits, group);
        levels.levels = rows.iter().flat_map(|row| row.levels.iter().copied()).collect();
        levels.scales = rows.iter().flat_map(|row| row.steps.iter().map(|step| step.scale)).collect();
        levels.zeros = rows.iter().flat_map(|row| row.steps.iter().map(|step| step.zero)).collect();
        levels
    }

    fn row(&self, row: &[f32], group: usize) -> Row {
        let mut row = row.to_vec();
        self.order
            .iter()
            .zip(&self.corrections.dead)
            .filter(|(_, dead)| **dead)
            .for_each(|(&at, _)| row[at] = 0.0);
        let steps = row.chunks_exact(group).map(|group| self.grid.fit(group)).collect();
        let weights: Vec<f64> = self.order.iter().map(|&from| f64::from(row[from])).collect();
        Row { zero: weights.iter().map(|&w| w == 0.0).collect(), weights, levels: vec![0; row.len()], steps }
    }

    /// Rounds the weight of input `at` (in the plan's order) and moves those that come after it.
    fn step(&self, row: &mut Row, at: usize, group: usize) {
        let from = self.order[at];
        if !self.fixed && at.is_multiple_of(group) {
            let current: Vec<f32> = row.weights[at..at + group].iter().map(|&w| w as f32).collect();
            row.steps[at / group] = self.grid.fit(&current);
        }
        let step = row.steps[from / group];
        let weight = row.weights[at];
        let level = if row.zero[at] { step.zero } else { self.grid.level(weight as f32, step) };
        row.levels[from] = level;
        let rounded = f64::from(step.scale * (f32::from(level) - f32::from(step.zero)));
        let factor = self.corrections.row(at);
        let error = (weight - rounded) / factor[at];
        let later = row.weights[at + 1..].iter_mut().zip(&factor[at + 1..]);
        later.for_each(|(weight, factor)| *weight -= error * factor);
    }
}

#[cfg(test)]
#[path = "../tests/gptq.rs"]
mod tests;
