//! Sharing a multiplication between the threads: the panels are dealt out in runs, and each run
//! takes the tiles of activations in blocks that stay in the cache with it.

use std::ops::Range;

use super::WeightType;
use super::activations::{Activations, Sharing};
use super::blocks::GROUP;
use super::lanes;
use super::panels::WIDTH;
use super::quantized::Quantized;
use super::tile::Call;
use crate::parallel::{self, Shared};
use crate::simd::{self, Level};

/// Multiplies one panel with a tile of so many rows.
pub(super) type Enter = unsafe fn(Level, usize, &Call);

/// Rows of activations that are multiplied with a run of panels before the next: they stay in the
/// second-level cache.
const BLOCK: usize = 64;

/// Runs of panels for each thread: enough that the threads end together.
const RUNS: usize = 8;

/// A layer to multiply with.
struct Job<'a> {
    weights: &'a Quantized,
    activations: &'a Activations,
    out: Shared<f32>,
    bias: Option<&'a [f32]>,
    /// Panels in a run.
    run: usize,
}

/// A layer, its bias, and where the results go.
pub(super) type Work<'a> = (&'a Quantized, Option<&'a [f32]>, &'a mut [f32]);

/// Multiplies `x` with one layer.
pub(super) fn one(weights: &Quantized, x: &[f32], rows: usize, bias: Option<&[f32]>, out: &mut [f32]) {
    at(lanes::level(simd::features()), &mut [(weights, bias, out)], x, rows);
}

/// Multiplies `x` with several layers.
pub(super) fn many(jobs: &mut [Work<'_>], x: &[f32], rows: usize) {
    at(lanes::level(simd::features()), jobs, x, rows);
}

/// As [`one`] and [`many`], at a given level, which the processor must have.
pub(super) fn at(level: Level, jobs: &mut [Work<'_>], x: &[f32], rows: usize) {
    let Some(inputs) = jobs.first().map(|(weights, ..)| weights.inputs) else { return };
    let quantize = |sharing: Sharing| {
        let wanted = jobs.iter().any(|(weights, ..)| self::sharing(weights) == sharing);
        wanted.then(|| Activations::new(x, rows, inputs, sharing, lanes::rows(level)))
    };
    let quantized = [quantize(Sharing::Group), quantize(Sharing::Row)];
    let jobs: Vec<Job<'_>> = jobs
        .iter_mut()
        .filter_map(|(weights, bias, out)| {
            let activations = quantized[self::sharing(weights) as usize].as_ref()?;
            let run = (weights.panels.count() / (parallel::threads() * RUNS)).max(1);
            Some(Job { weights, activations, out: Shared(out.as_mut_ptr()), bias: *bias, run })
        })
        .collect();
    let runs = |job: &Job<'_>| job.weights.panels.count().div_ceil(job.run);
    parallel::run(jobs.iter().map(runs).sum(), |mut part| {
        for job in &jobs {
            if part < runs(job) {
                let panels = part * job.run..job.weights.panels.count().min((part + 1) * job.run);
                return job.multiply(level, panels);
            }
            part -= runs(job);
        }
    });
}

/// How the activations of a type share scales.
pub(super) fn sharing(weights: &Quantized) -> Sharing {
    if weights.kind == WeightType::Int8 { Sharing::Row } else { Sharing::Group }
}

impl Job<'_> {
    fn multiply(&self, level: Level, panels: Range<usize>) {
        let body = self.weights.body();
        let tiles: Vec<Range<usize>> = self.activations.tiles().collect();
        for tiles in tiles.chunks((BLOCK / lanes::rows(level)).max(1)) {
            for panel in panels.clone() {
                for tile in tiles {
                    // SAFETY: the processor has the level, and `call` points into the layer's memory.
                    unsafe { body(level, tile.len(), &self.call(panel, tile.start)) };
                }
            }
        }
    }

    /// Panel `panel` with the tile whose first row is `first`.
    fn call(&self, panel: usize, first: usize) -> Call {
        let (weights, activations) = (&self.weights.panels, self.activations);
        let element = first * activations.groups;
        let scale = if sharing(self.weights) == Sharing::Row { first } else { element };
        let (outputs, output) = (self.weights.outputs, panel * WIDTH);
        Call {
            panel: weights.bytes()[panel * weights.panel..].as_ptr(),
            groups: weights.groups,
            levels: activations.levels[element * GROUP..].as_ptr(),
            scales: activations.scales[scale..].as_ptr(),
            sums: activations.sums.get(element..).map_or(std::ptr::null(), <[f32]>::as_ptr),
            negative_sums: activations.negative_sums[scale..].as_ptr(),
            negative_halves: activations
                .negative_halves
                .get(element..)
                .map_or(std::ptr::null(), |halves| halves.as_ptr().cast()),
            out: self.out.at(first * outputs + output),
            outputs,
            width: WIDTH.min(outputs - output),
            bias: self.bias.map_or(std::ptr::null(), |bias| bias[output..].as_ptr()),
            ..Call::default()
        }
    }
}
