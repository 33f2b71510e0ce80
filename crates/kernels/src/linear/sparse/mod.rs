//! Linear layers that keep only the weights that are not zero.
//!
//! One row of activations takes as long as its weights take to be read, so reading fewer of them
//! pays there. With many rows the multiplications are the limit, and picking activations costs as
//! much as the dense kernels' multiplications with zeros: do not expect a gain.

mod bitmap;
#[cfg(test)]
mod tests;
pub(super) mod two_four;

use std::borrow::Cow;
use std::fmt;

use super::activations::tiles;
use super::blocks::GROUP;
use super::lanes;
use super::multiply::Enter;
use super::panels::{Panels, WIDTH};
use super::tile::Call;
use super::{LinearError, WeightType};
use crate::parallel::{self, Shared};
use crate::simd::{self, Level};
use bitmap::{Bits, Panel};
use two_four::{Brain, QUAD, Single};

/// Which weights may be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// Two of every four neighbouring inputs, in `f32`, `bf16` and `int8`.
    TwoFour,
    /// Any, in `f32` and `bf16`.
    Bitmap,
}

impl fmt::Display for Pattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::TwoFour => "2:4",
            Self::Bitmap => "bitmap",
        })
    }
}

/// The share of zeros from which a bitmap is taken: it has two thirds of the bytes of dense bf16 by then.
const PAYS: f64 = 0.4;

impl Pattern {
    /// The pattern that makes one row of `weight` (`[outputs, inputs]`) faster in this type on this
    /// machine, where there is one. Weights without zeros are told from their first rows.
    pub fn of(weight: &[f32], inputs: usize, kind: WeightType) -> Option<Self> {
        let rows = |count: usize| weight.len().min(count * inputs);
        if inputs == 0 || zeros(&weight[..rows(64)]) < PAYS {
            return None;
        }
        if Self::TwoFour.check(weight, inputs, kind).is_ok() {
            return Some(Self::TwoFour);
        }
        let wide = lanes::level(simd::features()) == Level::Avx512;
        let pays = wide && Self::Bitmap.holds(kind) && zeros(weight) >= PAYS;
        pays.then_some(Self::Bitmap)
    }

    /// Whether the type can be stored with this pattern.
    fn holds(self, kind: WeightType) -> bool {
        matches!((self, kind), (_, WeightType::F32 | WeightType::Bf16) | (Self::TwoFour, WeightType::Int8))
    }

    /// Refuses types that have no such form, and weights that do not have the pattern.
    pub(super) fn check(self, weight: &[f32], inputs: usize, kind: WeightType) -> Result<(), LinearError> {
        if !self.holds(kind) {
            return Err(LinearError::NotSparse { kind, pattern: self });
        }
        if self == Self::Bitmap || inputs == 0 {
            return Ok(());
        }
        for (output, row) in weight.chunks_exact(inputs).enumerate() {
            for (quad, four) in row.chunks(QUAD).enumerate() {
                if let Some(found) = two_four::excess(four) {
                    return Err(LinearError::NotTwoFour { output, input: quad * QUAD, found });
                }
            }
        }
        Ok(())
    }
}

/// The share of zeros.
fn zeros(weight: &[f32]) -> f64 {
    weight.iter().filter(|&&weight| weight == 0.0).count() as f64 / weight.len().max(1) as f64
}

/// Packed floats of one of the patterns.
#[derive(Debug)]
pub(super) struct Sparse {
    outputs: usize,
    inputs: usize,
    weights: Weights,
}

#[derive(Debug)]
enum Weights {
    Single(Panels),
    Brain(Panels),
    SingleBits(Vec<Panel<f32>>),
    BrainBits(Vec<Panel<u16>>),
}

impl Sparse {
    /// Packs floats that [`Pattern::check`] has passed.
    pub fn pack(
        weight: &[f32],
        outputs: usize,
        inputs: usize,
        kind: WeightType,
        pattern: Pattern,
    ) -> Result<Self, LinearError> {
        let weights = match (pattern, kind) {
            (Pattern::TwoFour, WeightType::F32) => {
                Weights::Single(two_four::pack::<Single>(weight, outputs, inputs)?)
            }
            (Pattern::TwoFour, _) => Weights::Brain(two_four::pack::<Brain>(weight, outputs, inputs)?),
            (Pattern::Bitmap, WeightType::F32) => Weights::SingleBits(bitmap::pack(weight, outputs, inputs)),
            (Pattern::Bitmap, _) => Weights::BrainBits(bitmap::pack(weight, outputs, inputs)),
        };
        Ok(Self { outputs, inputs, weights })
    }

    /// The pattern that it was packed with.
    pub fn pattern(&self) -> Pattern {
        match self.weights {
            Weights::Single(_) | Weights::Brain(_) => Pattern::TwoFour,
            Weights::SingleBits(_) | Weights::BrainBits(_) => Pattern::Bitmap,
        }
    }

    /// The memory that the weights take.
    pub fn bytes(&self) -> usize {
        match &self.weights {
            Weights::Single(panels) | Weights::Brain(panels) => panels.bytes().len(),
            Weights::SingleBits(panels) => panels.iter().map(Panel::bytes).sum(),
            Weights::BrainBits(panels) => panels.iter().map(Panel::bytes).sum(),
        }
    }

    /// The weights of output `index`.
    pub fn row(&self, index: usize, out: &mut [f32]) {
        match &self.weights {
            Weights::Single(panels) => two_four::row::<Single>(panels, index, out),
            Weights::Brain(panels) => two_four::row::<Brain>(panels, index, out),
            Weights::SingleBits(panels) => panels[index / WIDTH].row(index % WIDTH, out),
            Weights::BrainBits(panels) => panels[index / WIDTH].row(index % WIDTH, out),
        }
    }

    /// `out = x . weight^T`, with `x` `[rows, inputs]` and `out` `[rows, outputs]`.
    pub fn forward(&self, x: &[f32], rows: usize, out: &mut [f32]) {
        self.forward_at(lanes::level(simd::features()), x, rows, out);
    }

    /// As [`Self::forward`], at a level that the processor has.
    pub fn forward_at(&self, level: Level, x: &[f32], rows: usize, out: &mut [f32]) {
        let stride = self.inputs.next_multiple_of(GROUP);
        let x = filled(x, self.inputs, stride);
        let tiles: Vec<_> = tiles(rows, lanes::rows(level)).collect();
        let (body, out) = (self.body(), Shared(out.as_mut_ptr()));
        let panels = self.outputs.div_ceil(WIDTH);
        let run = (panels / (parallel::threads() * RUNS)).max(1);
        parallel::run(panels.div_ceil(run), |part| {
            for tiles in tiles.chunks((BLOCK / lanes::rows(level)).max(1)) {
                for panel in part * run..panels.min((part + 1) * run) {
                    for tile in tiles {
                        let call = self.call(panel, &x[tile.start * stride..], stride, &out, tile.start);
                        // SAFETY: the processor has the level; `call` points into the layer's memory, and
                        // every panel's results of every tile are written by one thread.
                        unsafe { body(level, tile.len(), &call) };
                    }
                }
            }
        });
    }

    fn body(&self) -> Enter {
        match self.weights {
            Weights::Single(_) => lanes::enter::<two_four::Floats<Single>>,
            Weights::Brain(_) => lanes::enter::<two_four::Floats<Brain>>,
            Weights::SingleBits(_) => lanes::enter::<Bits<f32>>,
            Weights::BrainBits(_) => lanes::enter::<Bits<u16>>,
        }
    }

    /// Panel `panel` with the rows `x`, whose first is row `first`.
    fn call(&self, panel: usize, x: &[f32], x_stride: usize, out: &Shared<f32>, first: usize) -> Call {
        let output = panel * WIDTH;
        let (masks, values, groups) = match &self.weights {
            Weights::Single(panels) | Weights::Brain(panels) => {
                (panels.bytes()[panel * panels.panel..].as_ptr(), std::ptr::null(), panels.groups)
            }
            Weights::SingleBits(panels) => {
                (panels[panel].masks.as_ptr().cast(), panels[panel].values.as_ptr().cast(), self.inputs)
            }
            Weights::BrainBits(panels) => {
                (panels[panel].masks.as_ptr().cast(), panels[panel].values.as_ptr().cast(), self.inputs)
            }
        };
        Call {
            panel: masks,
            values,
            groups,
            x: x.as_ptr(),
            x_stride,
            out: out.at(first * self.outputs + output),
            outputs: self.outputs,
            width: WIDTH.min(self.outputs - output),
            ..Call::default()
        }
    }
}

/// Rows of activations that are multiplied with a run of panels before the next.
const BLOCK: usize = 64;

/// Runs of panels for each thread: enough that the threads end together.
const RUNS: usize = 8;

/// Rows filled up with zeros to `stride` values.
fn filled(x: &[f32], inputs: usize, stride: usize) -> Cow<'_, [f32]> {
    if inputs == stride {
        return Cow::Borrowed(x);
    }
    let mut all = vec![0.0; x.len() / inputs * stride];
    for (wide, row) in all.chunks_exact_mut(stride).zip(x.chunks_exact(inputs)) {
        wide[..inputs].copy_from_slice(row);
    }
    Cow::Owned(all)
}
