//! AWQ (Lin et al., 2023, arXiv 2306.00978): a few inputs of a linear layer matter far more than the rest,
//! and they are the ones with large activations. Multiplying the weights of an input with a factor before
//! rounding, and dividing the input by it, makes its weights' rounding error smaller. The factors are powers
//! of the mean magnitudes of the inputs; the power is searched on a calibration text, and the division is
//! folded into what comes before. Then each group's range is clipped where that lowers the error.

use std::sync::Arc;

use crate::methods::{
    Access, Claim, Fidelity, Headline, Kind, Knob, Knobs, Method, MethodError, ModelFacts, ModelKind, Need,
    Paper, Resource, Room, Spec, Stage, StageKind, Stages, Value, WeightEdit,
};
use crate::nn::attention::Port;
use crate::shrink::grid::{BITS, GROUP, Grid, SYMMETRIC};
use crate::shrink::{Block, Form, Levels, ShrinkError, Statistics, Want, scaling};
use whit_kernels::parallel;

/// The description of the method.
pub static SPEC: Spec = Spec {
    id: "awq",
    title: "AWQ",
    paper: Paper {
        title: "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration",
        authors: "Ji Lin, Jiaming Tang, Haotian Tang, Shang Yang, Wei-Ming Chen, Wei-Chen Wang, Guangxuan Xiao, \
                  Xingyu Dang, Chuang Gan, Song Han",
        year: 2023,
        arxiv: "2306.00978",
    },
    room: Room::Weights,
    fidelity: Fidelity::Lossy,
    summary: "The weights of inputs with large activations are scaled up before they are rounded to a few bits, and \
              the inputs are scaled down by the same factor, which is folded into the layer before. How much is \
              searched on a calibration text, as is how far each group's range is clipped. Nothing is fitted to the \
              text beyond that, so that it holds up on other text.",
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
        Knob {
            name: "clip",
            kind: Kind::Flag,
            default: Value::Flag(true),
            off: None,
            help: "search how far the range of each group is clipped",
        },
    ],
    needs: &[Need::Calibration("512 sequences of 512 tokens in the paper; 32 do")],
    models: &[ModelKind::Decoder],
    headlines: &[Headline {
        setting: "Llama-2-7B, WikiText-2, 4 bits, groups of 128",
        metric: "perplexity (fp16: 5.47)",
        baseline: "5.73 (round to nearest)",
        result: "5.60",
    }],
    build,
};

const LONG: &str = "\
## How it works

1. For the layers that share an input, with `a_j` the mean of `|x_j|`: for each ratio `r` in 0, 0.05, ... 0.95 the
   factors are `s = max(a^r, 1e-4)`, divided by the root of their largest times their smallest. `W diag(s)` is rounded
   and `1/s` taken back; the ratio with the least squared error of the inspected outputs is kept: those of the whole
   attention for q, k, v, of the whole feed-forward for gate and up, of the layer itself for o and down.
2. `W <- W diag(s)`, and what comes before is divided: the norm's gain, the rows of v for o (only where every query head
   has its own values), the rows of up for down.
3. For each group (not of q and k): the largest magnitude is lowered by `i/20`, `i` in 0 to 9; the clip with the least
   squared error of the group's share of the outputs on 512 tokens is kept.
4. Everything is rounded to nearest.

## When it pays

At 4 bits and below, for larger models, with little calibration text, or with text that is not quite of the model's
kind. `gptq` fits the text more closely. Models with grouped queries gain nothing at o.

## What is ours

Module outputs are compared on at most 16 sequences, layer outputs on 2048 tokens. The rounding is that of `rtn`, whose
range includes zero. The clip's error is computed from the second moments of those 512 tokens, which is the same number
for less work.";

fn build(knobs: &Knobs, _: &ModelFacts) -> Result<Arc<dyn Method>, MethodError> {
    Ok(Arc::new(Awq { grid: Grid::of(knobs)?, clip: knobs.flag("clip") }))
}

/// Sequences on which the outputs of attention and feed-forward are compared, at most.
const SEQUENCES: usize = 16;
/// Tokens on which the outputs of one layer are compared, at most.
const TOKENS: usize = 2048;
/// Tokens on which clipping is judged.
const CLIP_TOKENS: usize = 512;
/// Ratios that are tried.
const RATIOS: usize = 20;

/// The method, built for one model.
#[derive(Clone, Debug)]
struct Awq {
    grid: Grid,
    clip: bool,
}

impl Method for Awq {
    fn begin(&self) -> Stages {
        Stages::from_iter([Stage::WeightEdit(Box::new(self.clone()))])
    }

    fn expect(&self) -> String {
        format!("{} bits a weight and the scales; inputs that matter are rounded more finely", self.grid.bits)
    }
}

impl WeightEdit for Awq {
    fn edit(&mut self, block: &mut Block<'_>) -> Result<(), ShrinkError> {
        let mut found = Vec::new();
        for port in Port::ALL {
            let name = block.matrices(port).into_iter().next().unwrap_or_default();
            self.grid.group_of(&block.full_name(&name), block.get(&name)?.inputs())?;
            if scaling::can_fold(block, port) {
                found.push((port, self.search(block, port)?));
            }
        }
        found.iter().try_for_each(|(port, scales)| scaling::fold(block, *port, scales))?;
        for port in Port::ALL {
            let rows = if self.clip { block.rows(port, CLIP_TOKENS)? } else { Vec::new() };
            for name in block.matrices(port) {
                if self.clip && !name.contains("q_proj") && !name.contains("k_proj") {
                    let weight = block.get(&name)?;
                    let clipped = self.clipped(&weight.values, weight.inputs(), &rows);
                    block.set_values(&name, clipped, Form::Dense)?;
                }
            }
        }
        block.all_matrices().iter().try_for_each(|name| self.grid.round_matrix(block, name))
    }
}

impl Awq {
    /// The factors of the inputs of `port` with the least error.
    fn search(&self, block: &mut Block<'_>, port: Port) -> Result<Vec<f32>, ShrinkError> {
        let mean = block.inputs(port, Want::Moments)?.mean_abs;
        let judge = Judge::new(block, port)?;
        let (mut best, mut least) = (vec![1.0; mean.len()], f64::INFINITY);
        for ratio in 0..RATIOS {
            let scales = factors(&mean, ratio as f64 / RATIOS as f64);
            let error = judge.error(self.grid, block, &scales)?;
            if error < least {
                (best, least) = (scales, error);
            }
        }
        Ok(best)
    }

    /// The weights with each group's range clipped to where the error of its share of the outputs is least.
    fn clipped(&self, weights: &[f32], inputs: usize, rows: &[f32]) -> Vec<f32> {
        let group = if self.grid.group == 0 { inputs } else { self.grid.group };
        let moments: Vec<Statistics> = (0..inputs / group)
            .map(|index| {
                let mut moments = Statistics::new(group, Want::Gram);
                let part: Vec<f32> = rows
                    .chunks_exact(inputs)
                    .flat_map(|row| &row[index * group..][..group])
                    .copied()
                    .collect();
                moments.add(&part);
                moments
            })
            .collect();
        let mut clipped = weights.to_vec();
        parallel::pieces(&mut clipped, group, |index, weights| {
            self.clip_group(weights, &moments[index % moments.len()]);
        });
        clipped
    }

    fn clip_group(&self, weights: &mut [f32], moments: &Statistics) {
        let largest = weights.iter().fold(0.0f32, |largest, w| largest.max(w.abs()));
        let rounded = |limit: f32| -> Vec<f32> {
            let clipped: Vec<f32> = weights.iter().map(|w| w.clamp(-limit, limit)).collect();
            let step = self.grid.fit(&clipped);
            clipped.iter().zip(&*weights).map(|(&w, original)| self.grid.round(w, step) - original).collect()
        };
        let limits = (0..10).map(|i| largest * (1.0 - i as f32 / 20.0));
        let scored = limits.map(|limit| (moments.output_error(&rounded(limit)), limit));
        let best = scored.min_by(|a, b| a.0.total_cmp(&b.0)).map_or(largest, |(_, limit)| limit);
        weights.iter_mut().for_each(|w| *w = w.clamp(-best, best));
    }
}

/// `a^r`, scaled so that the largest and the smallest factor are each other's inverse.
fn factors(mean: &[f64], ratio: f64) -> Vec<f32> {
    let raw: Vec<f64> = mean.iter().map(|mean| mean.powf(ratio).max(1e-4)).collect();
    let (low, high) = raw.iter().fold((f64::INFINITY, 0.0f64), |(low, high), &s| (low.min(s), high.max(s)));
    raw.iter().map(|s| (s / (low * high).sqrt()) as f32).collect()
}

/// What the outputs were before rounding, and how to get them again.
enum Judge {
    /// Of attention or feed-forward: the inputs, and the outputs.
    Module(Port, Vec<Vec<f32>>, Vec<Vec<f32>>),
    /// Of one layer: its name, and the moments of its inputs.
    Layer(String, Statistics),
}

impl Judge {
    fn new(block: &Block<'_>, port: Port) -> Result<Self, ShrinkError> {
        if matches!(port, Port::Attention | Port::FeedForward) {
            let mut inputs = block.sequences(port)?;
            inputs.truncate(SEQUENCES);
            let outputs = block.module(port, &inputs)?;
            return Ok(Self::Module(port, inputs, outputs));
        }
        let name = block.matrices(port).into_iter().next().unwrap_or_default();
        let mut moments = Statistics::new(block.get(&name)?.inputs(), Want::Gram);
        moments.add(&block.rows(port, TOKENS)?);
        Ok(Self::Layer(name, moments))
    }

    /// The squared error of the outputs with weights rounded under these factors; the block stays as it is.
    fn error(&self, grid: Grid, block: &mut Block<'_>, scales: &[f32]) -> Result<f64, ShrinkError> {
        let rounded = |weights: &[f32]| -> Result<Vec<f32>, ShrinkError> {
            let levels: Levels = grid.nearest("", &scaling::columns(weights, scales), scales.len())?;
            let back: Vec<f32> = scales.iter().map(|s| 1.0 / s).collect();
            Ok(scaling::columns(&levels.values(), &back))
        };
        match self {
            Self::Layer(name, moments) => {
                let weights = &block.get(name)?.values;
                let changed = rounded(weights)?;
                Ok(moments.output_error(&changed.iter().zip(weights).map(|(a, b)| a - b).collect::<Vec<_>>()))
            }
            Self::Module(port, inputs, wanted) => {
                let names = block.matrices(*port);
                let mut before = Vec::new();
                for name in &names {
                    let weight = block.get(name)?.clone();
                    block.set_values(name, rounded(&weight.values)?, Form::Dense)?;
                    before.push(weight);
                }
                let found = block.module(*port, inputs)?;
                names.iter().zip(before).for_each(|(name, weight)| block.set(name, weight));
                let pairs = found.iter().flatten().zip(wanted.iter().flatten());
                Ok(pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::Selection;
    use crate::shrink::testing::{model_with_outliers, shrunk};

    #[test]
    fn factors_worked_by_hand() {
        assert_eq!(factors(&[1.0, 4.0, 16.0], 0.5), [0.5, 1.0, 2.0]);
        assert_eq!(factors(&[1.0, 4.0, 16.0], 0.0), [1.0; 3]);
        assert!(factors(&[0.0, 1.0], 0.5).iter().all(|s| s.is_finite() && *s > 0.0));
    }

    #[test]
    fn clipping_lowers_the_error_that_it_is_judged_by() {
        let awq = Awq { grid: Grid { bits: 3, group: 32, symmetric: false, search: false }, clip: true };
        let mut weights: Vec<f32> = (0..32).map(|i| (i as f32 * 0.9).sin()).collect();
        weights[5] = 4.0;
        // The outlier's input hardly ever matters.
        let rows: Vec<f32> =
            (0..64 * 32).map(|at| if at % 32 == 5 { 0.01 } else { (at as f32 * 0.37).cos() }).collect();
        let mut moments = Statistics::new(32, Want::Gram);
        moments.add(&rows);
        let error = |values: &[f32]| {
            let step = awq.grid.fit(values);
            let difference =
                values.iter().zip(&weights).map(|(&w, original)| awq.grid.round(w, step) - original);
            moments.output_error(&difference.collect::<Vec<_>>())
        };
        let clipped = awq.clipped(&weights, 32, &rows);
        assert!(
            clipped[5] < 4.0 && error(&clipped) < 0.7 * error(&weights),
            "{} {}",
            error(&clipped),
            error(&weights)
        );
    }

    #[test]
    fn inputs_that_matter_are_found_and_the_model_errs_less_than_with_rounding_to_nearest() {
        let files = model_with_outliers(3);
        let error = |with: &str| shrunk(&files, with, 8).unwrap().report.block_errors.iter().sum::<f64>();
        let nearest = error("rtn:bits=3,group=32");
        let (scaled, clipped) = (error("awq:bits=3,group=32,clip=off"), error("awq:bits=3,group=32"));
        assert!(scaled < 0.9 * nearest && clipped < nearest, "{scaled} {clipped} {nearest}");
        assert!(matches!(shrunk(&files, "awq:group=32", 0), Err(ShrinkError::Calibration { .. })));
        assert!(matches!(shrunk(&files, "awq:group=48", 4), Err(ShrinkError::Group { group: 48, .. })));
        assert!(Selection::parse(&["awq:bits=1"]).is_err());
    }
}
