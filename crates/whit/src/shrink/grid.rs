//! The grids that weights are rounded to: `bits` of level, one scale and zero for a group of weights.

use half::f16;
use whit_kernels::parallel;

use super::{Block, Levels, ShrinkError};
use crate::methods::{Kind, Knob, Knobs, MethodError, Value};

/// How groups of weights become levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Bits of a level, 2 to 8.
    pub bits: u32,
    /// Weights in a group; 0 for whole rows.
    pub group: usize,
    /// Whether zero is the middle of the range.
    pub symmetric: bool,
    /// Whether the range is shrunk to where the error is least.
    pub search: bool,
}

/// The scale and zero of one group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// The distance of neighbouring levels, exactly a half-precision number.
    pub scale: f32,
    /// The level that means zero.
    pub zero: u8,
}

/// The knob `bits` of quantisers.
pub const BITS: Knob = Knob {
    name: "bits",
    kind: Kind::Int { min: 2, max: 16 },
    default: Value::Int(4),
    off: Some(Value::Int(16)),
    help: "bits of a weight, 2 to 8; 16 leaves the weights as they are",
};

/// The knob `group` of quantisers.
pub const GROUP: Knob = Knob {
    name: "group",
    kind: Kind::Int { min: 0, max: 4096 },
    default: Value::Int(128),
    off: None,
    help: "neighbouring weights of a row that share a scale; 0 for the whole row",
};

/// The knob `symmetric` of quantisers.
pub const SYMMETRIC: Knob = Knob {
    name: "symmetric",
    kind: Kind::Flag,
    default: Value::Flag(false),
    off: None,
    help: "zero in the middle of the range, which saves the zeros and suits more file formats",
};

/// The knob `search` of quantisers.
pub const SEARCH: Knob = Knob {
    name: "search",
    kind: Kind::Flag,
    default: Value::Flag(false),
    off: None,
    help: "shrink each group's range to where its error is least (GPTQ's `mse` option)",
};

impl Grid {
    /// The grid that the knobs `bits`, `group`, `symmetric` and, where there is one, `search` describe.
    ///
    /// # Errors
    /// For 9 to 15 bits, which no format has.
    pub fn of(knobs: &Knobs) -> Result<Self, MethodError> {
        let bits = knobs.int("bits");
        if !(2..=8).contains(&bits) && bits != 16 {
            return Err(knobs.unfit("bits", "weights have 2 to 8 bits, or 16 for off"));
        }
        Ok(Self {
            bits: bits as u32,
            group: knobs.int("group"),
            symmetric: knobs.flag("symmetric"),
            search: knobs.iter().any(|(knob, value)| knob.name == SEARCH.name && *value == Value::Flag(true)),
        })
    }

    /// The largest level.
    pub fn top(&self) -> f32 {
        ((1u32 << self.bits) - 1) as f32
    }

    /// The group's size in rows of `inputs` weights.
    ///
    /// # Errors
    /// If groups do not divide the rows of `tensor`.
    pub fn group_of(&self, tensor: &str, inputs: usize) -> Result<usize, ShrinkError> {
        let group = if self.group == 0 { inputs } else { self.group };
        if group > 0 && inputs.is_multiple_of(group) {
            return Ok(group);
        }
        Err(ShrinkError::Group { tensor: tensor.to_owned(), inputs, group })
    }

    /// The step for a group of weights.
    pub fn fit(&self, weights: &[f32]) -> Step {
        let low = weights.iter().fold(0.0f32, |low, &w| low.min(w));
        let high = weights.iter().fold(0.0f32, |high, &w| high.max(w));
        let whole = self.range(low, high);
        if !self.search {
            return whole;
        }
        // GPTQ's quant.py: the range times 1 - i/100 for i < 80, by the error to the power 2.4.
        let error = |step: Step| -> f64 {
            weights.iter().map(|&w| f64::from((self.round(w, step) - w).abs()).powf(2.4)).sum()
        };
        let tried = (0..80).map(|i| 1.0 - i as f32 / 100.0).map(|p| self.range(p * low, p * high));
        let scored = tried.map(|step| (error(step), step));
        scored.min_by(|a, b| a.0.total_cmp(&b.0)).map_or(whole, |(_, step)| step)
    }

    /// The step whose levels reach from `low` (at most 0) to `high` (at least 0).
    pub fn range(&self, low: f32, high: f32) -> Step {
        let (low, high) = if low == 0.0 && high == 0.0 { (-1.0, 1.0) } else { (low, high) };
        if self.symmetric {
            let scale = half(2.0 * high.max(-low) / self.top());
            return Step { scale, zero: 1 << (self.bits - 1) };
        }
        let scale = half((high - low) / self.top());
        Step { scale, zero: (-low / scale).round_ties_even().clamp(0.0, self.top()) as u8 }
    }

    /// The level nearest to a weight.
    pub fn level(&self, weight: f32, step: Step) -> u8 {
        ((weight / step.scale).round_ties_even() + f32::from(step.zero)).clamp(0.0, self.top()) as u8
    }

    /// The weight that the level nearest to `weight` stands for.
    pub fn round(&self, weight: f32, step: Step) -> f32 {
        step.scale * (f32::from(self.level(weight, step)) - f32::from(step.zero))
    }

    /// Rounds every weight of a matrix `[outputs, inputs]` to its nearest level.
    ///
    /// # Errors
    /// As [`group_of`](Self::group_of).
    pub fn nearest(&self, tensor: &str, weights: &[f32], inputs: usize) -> Result<Levels, ShrinkError> {
        let group = self.group_of(tensor, inputs)?;
        let mut levels = Levels::new(weights.len() / inputs.max(1), inputs, self.bits, group);
        let mut steps = vec![Step { scale: 1.0, zero: 0 }; weights.len() / group];
        parallel::pieces(&mut steps, 64, |piece, steps| {
            let weights = weights[piece * 64 * group..].chunks_exact(group);
            steps.iter_mut().zip(weights).for_each(|(step, weights)| *step = self.fit(weights));
        });
        for (index, step) in steps.iter().enumerate() {
            (levels.scales[index], levels.zeros[index]) = (step.scale, step.zero);
            let range = index * group..(index + 1) * group;
            let rounded = levels.levels[range.clone()].iter_mut().zip(&weights[range]);
            rounded.for_each(|(level, &weight)| *level = self.level(weight, *step));
        }
        Ok(levels)
    }

    /// Rounds matrix `name` of `block`.
    ///
    /// # Errors
    /// As [`group_of`](Self::group_of), and where the block has no such matrix.
    pub fn round_matrix(&self, block: &mut Block<'_>, name: &str) -> Result<(), ShrinkError> {
        let weight = block.get(name)?;
        let levels = self.nearest(&block.full_name(name), &weight.values, weight.inputs())?;
        block.set_levels(name, levels)
    }
}

/// The nearest positive number of half precision.
fn half(scale: f32) -> f32 {
    f16::from_f32(scale).max(f16::MIN_POSITIVE_SUBNORMAL).min(f16::MAX).to_f32()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRID: Grid = Grid { bits: 2, group: 0, symmetric: false, search: false };

    #[test]
    fn a_group_worked_by_hand() {
        // Levels 0 to 3 over -1 to 2: scale 1, zero 1.
        let step = GRID.fit(&[-1.0, 0.4, 2.0]);
        assert_eq!(step, Step { scale: 1.0, zero: 1 });
        let rounded = [-1.0, 0.4, 2.0, 0.5, 1.5, 9.0].map(|w| GRID.round(w, step));
        assert_eq!(rounded, [-1.0, 0.0, 2.0, 0.0, 2.0, 2.0]);
        // Symmetric: 2 * 2 / 3, the middle is level 2.
        let grid = Grid { symmetric: true, ..GRID };
        let step = grid.fit(&[-1.0, 0.4, 1.5]);
        assert_eq!(step, Step { scale: 1.0, zero: 2 });
        assert_eq!([-9.0, 1.5].map(|w| grid.round(w, step)), [-2.0, 1.0]);
        assert_eq!(GRID.fit(&[0.0; 4]).zero, 2, "nothing but zeros: the range is -1 to 1");
        assert_eq!(GRID.round(0.0, GRID.fit(&[0.0; 4])), 0.0);
    }

    #[test]
    fn a_searched_range_errs_less_and_more_bits_err_less() {
        let weights: Vec<f32> =
            (0..256).map(|i| ((i * 7919) % 997) as f32 / 997.0 - 0.5).chain([3.0]).collect();
        let error = |grid: Grid| {
            let step = grid.fit(&weights);
            weights.iter().map(|&w| f64::from((grid.round(w, step) - w).abs()).powf(2.4)).sum::<f64>()
        };
        for symmetric in [false, true] {
            let grid = Grid { bits: 3, group: 0, symmetric, search: false };
            assert!(error(Grid { search: true, ..grid }) < error(grid));
            assert!(error(Grid { bits: 8, ..grid }) < 0.01 * error(grid));
        }
    }

    #[test]
    fn matrices_are_rounded_group_by_group() {
        let grid = Grid { bits: 4, group: 4, symmetric: false, search: false };
        let weights: Vec<f32> = (0..24).map(|i| (i as f32 * 1.7).sin()).collect();
        let levels = grid.nearest("t", &weights, 8).unwrap();
        let values = levels.values();
        for (group, found) in weights.chunks(4).zip(values.chunks(4)) {
            let step = grid.fit(group);
            assert!(group.iter().zip(found).all(|(&w, &value)| grid.round(w, step) == value));
        }
        assert!(matches!(
            Grid { group: 5, ..grid }.nearest("t", &weights, 8),
            Err(ShrinkError::Group { inputs: 8, group: 5, .. })
        ));
    }
}
