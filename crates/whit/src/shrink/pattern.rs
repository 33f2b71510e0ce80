//! Which weights of a matrix are pruned: patterns, knobs and masks that the pruning methods share.

use std::ops::Range;

use whit_kernels::parallel;

use super::{Block, Form, ShrinkError};
use crate::methods::{Kind, Knob, Knobs, MethodError, Value};

/// Which weights may become zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pattern {
    /// Any, this share of them.
    Free(f64),
    /// So many in each group of neighbouring inputs.
    Groups {
        /// Zeros in a group.
        zeros: usize,
        /// Weights in a group.
        of: usize,
    },
}

/// The knob for the share of zeros.
pub const RATIO: Knob = Knob {
    name: "ratio",
    kind: Kind::Ratio,
    default: Value::Float(0.5),
    off: Some(Value::Float(0.0)),
    help: "share of the weights that become zero; the patterns 2:4 and 4:8 fix it at a half",
};

/// The knob for the pattern.
pub const PATTERN: Knob = Knob {
    name: "pattern",
    kind: Kind::Choice { options: &["free", "2:4", "4:8"] },
    default: Value::Choice("free"),
    off: None,
    help: "where zeros may be: anywhere, or two of every four (four of every eight) neighbouring inputs",
};

impl Pattern {
    /// Reads the knobs.
    ///
    /// # Errors
    /// If every weight would become zero.
    pub fn of(knobs: &Knobs) -> Result<Self, MethodError> {
        match knobs.choice("pattern") {
            "2:4" => Ok(Self::Groups { zeros: 2, of: 4 }),
            "4:8" => Ok(Self::Groups { zeros: 4, of: 8 }),
            _ if knobs.float("ratio") >= 1.0 => {
                let reason = "a ratio of 1 leaves no weight; choose one below 1".into();
                Err(MethodError::Unfit { method: knobs.spec().id, knob: "ratio", value: "1".into(), reason })
            }
            _ => Ok(Self::Free(knobs.float("ratio"))),
        }
    }

    /// The share of zeros.
    pub fn share(self) -> f64 {
        match self {
            Self::Free(share) => share,
            Self::Groups { zeros, of } => zeros as f64 / of as f64,
        }
    }

    /// Refuses rows that groups do not divide.
    ///
    /// # Errors
    /// [`ShrinkError::Group`].
    pub fn check(self, tensor: &str, inputs: usize) -> Result<(), ShrinkError> {
        match self {
            Self::Groups { of, .. } if !inputs.is_multiple_of(of) => {
                Err(ShrinkError::Group { tensor: tensor.into(), inputs, group: of })
            }
            _ => Ok(()),
        }
    }

    /// How a matrix with this pattern can be stored in half precision.
    pub fn form(self) -> Form {
        let (bits, name) = match self {
            Self::Groups { zeros: 2, of: 4 } => (9.0, "2:4 of bf16"),
            _ => (1.0 + 16.0 * (1.0 - self.share()), "bitmap of bf16"),
        };
        Form::Sparse { bits, name }
    }

    /// What to expect, for the plan.
    pub fn expect(self) -> String {
        match self {
            Self::Free(share) => format!("{:.0} % of the weights of the blocks become zero", 100.0 * share),
            Self::Groups { zeros, of } => format!("{zeros} of every {of} weights of the blocks become zero"),
        }
    }
}

/// What competes for the zeros of [`Pattern::Free`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The weights of a row.
    Row,
    /// The weights of the matrix.
    Matrix,
}

/// Zeroes the weights of `weight` `[outputs, inputs]` with the lowest scores. `score` gets a weight and
/// its input.
pub fn prune(
    weight: &mut [f32],
    inputs: usize,
    pattern: Pattern,
    scope: Scope,
    score: impl Fn(f32, usize) -> f64 + Sync,
) {
    match (pattern, scope) {
        (Pattern::Free(share), Scope::Matrix) => {
            let scores: Vec<f64> = weight.iter().enumerate().map(|(at, &w)| score(w, at % inputs)).collect();
            let all = 0..weight.len();
            zero(weight, &lowest(&scores, all, (weight.len() as f64 * share) as usize));
        }
        (Pattern::Free(share), Scope::Row) => parallel::pieces(weight, inputs, |_, row| {
            let scores: Vec<f64> = row.iter().enumerate().map(|(input, &w)| score(w, input)).collect();
            zero(row, &lowest(&scores, 0..inputs, (inputs as f64 * share) as usize));
        }),
        (Pattern::Groups { zeros, of }, _) => parallel::pieces(weight, inputs, |_, row| {
            let scores: Vec<f64> = row.iter().enumerate().map(|(input, &w)| score(w, input)).collect();
            for start in (0..inputs).step_by(of) {
                zero(row, &lowest(&scores, start..inputs.min(start + of), zeros));
            }
        }),
    }
}

fn zero(weight: &mut [f32], places: &[usize]) {
    places.iter().for_each(|&place| weight[place] = 0.0);
}

/// The places in `range` of the `count` lowest scores; of equal ones the first.
pub fn lowest(scores: &[f64], range: Range<usize>, count: usize) -> Vec<usize> {
    let mut places: Vec<usize> = range.collect();
    let count = count.min(places.len());
    if count == 0 {
        return Vec::new();
    }
    places.select_nth_unstable_by(count - 1, |&a, &b| scores[a].total_cmp(&scores[b]).then(a.cmp(&b)));
    places.truncate(count);
    places
}

/// Prunes matrix `name` of `block` by [`prune`].
///
/// # Errors
/// If there is no such matrix, or groups do not divide its rows.
pub fn prune_matrix(
    block: &mut Block<'_>,
    name: &str,
    pattern: Pattern,
    scope: Scope,
    score: impl Fn(f32, usize) -> f64 + Sync,
) -> Result<(), ShrinkError> {
    let weight = block.get(name)?;
    let (inputs, mut values) = (weight.inputs(), weight.values.clone());
    pattern.check(&block.full_name(name), inputs)?;
    prune(&mut values, inputs, pattern, scope, score);
    block.set_values(name, values, pattern.form())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_worked_by_hand() {
        let weight = [1.0f32, -4.0, 2.0, 3.0, 0.5, 0.1, -9.0, 8.0];
        let pruned = |pattern, scope| {
            let mut weight = weight;
            prune(&mut weight, 4, pattern, scope, |w, _| f64::from(w.abs()));
            weight
        };
        let row = pruned(Pattern::Free(0.5), Scope::Row);
        assert_eq!(row, [0.0, -4.0, 0.0, 3.0, 0.0, 0.0, -9.0, 8.0]);
        assert_eq!(pruned(Pattern::Groups { zeros: 2, of: 4 }, Scope::Matrix), row);
        let matrix = pruned(Pattern::Free(0.25), Scope::Matrix);
        assert_eq!(matrix, [1.0, -4.0, 2.0, 3.0, 0.0, 0.0, -9.0, 8.0]);
        assert_eq!(pruned(Pattern::Free(0.2), Scope::Row), weight, "floor(4 * 0.2) = 0");
        assert_eq!(lowest(&[1.0, 1.0, 1.0], 0..3, 2), [0, 1]);
    }
}
