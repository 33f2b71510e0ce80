//! How many tokens go in which block.

use std::borrow::Cow;

use crate::methods::{Kind, Knob, Knobs, MethodError, Value};

/// How many patches stay in each block.
#[derive(Clone, Debug, PartialEq)]
pub enum Pace {
    /// So many go in each block; none where the list ends.
    Remove(Vec<usize>),
    /// This share stays in some blocks, and all in the others.
    Keep {
        /// The share.
        share: f64,
        /// The blocks, from 0.
        blocks: Vec<usize>,
    },
}

/// The knob `pace`.
pub const fn pace(default: &'static str) -> Knob {
    Knob {
        name: "pace",
        kind: Kind::Choice { options: &["constant", "decreasing", "stages"] },
        default: Value::Choice(default),
        off: None,
        help: "whether `r` tokens go in every block, 2 r in the first and none in the last, or by `keep` in some blocks",
    }
}

/// The knob `r`.
pub const R: Knob = Knob {
    name: "r",
    kind: Kind::Int { min: 0, max: 256 },
    default: Value::Int(13),
    off: Some(Value::Int(0)),
    help: "tokens that go in a block",
};

/// The knob `keep`.
pub const KEEP: Knob = Knob {
    name: "keep",
    kind: Kind::Ratio,
    default: Value::Float(0.7),
    off: Some(Value::Float(1.0)),
    help: "share of the patches that stays at each of the `blocks` with pace=stages",
};

const fn text(name: &'static str, what: &'static str, help: &'static str) -> Knob {
    Knob { name, kind: Kind::Text { what }, default: Value::Text(Cow::Borrowed("")), off: None, help }
}

/// The knob `blocks`.
pub const BLOCKS: Knob = text(
    "blocks",
    "numbers of blocks from 1, with | between them",
    "blocks in which tokens go with pace=stages; empty for those behind a quarter, a half and three quarters",
);

/// The knob `list`.
pub const LIST: Knob = text(
    "list",
    "numbers with | between them",
    "tokens that go in each block, one after the other; empty goes by `pace`",
);

impl Pace {
    /// The pace that the knobs `pace`, `r`, `keep`, `blocks` and `list` describe for a model of `layers` blocks.
    ///
    /// # Errors
    /// If a list cannot be read or does not fit the model.
    pub fn of(knobs: &Knobs, layers: usize) -> Result<Self, MethodError> {
        let listed = numbers(knobs, "list")?;
        if listed.len() > layers {
            let reason = format!("it has {} numbers and the model {layers} blocks", listed.len());
            return Err(knobs.unfit("list", reason));
        }
        match (listed.is_empty(), knobs.choice("pace")) {
            (false, _) => Ok(Self::Remove(listed)),
            (_, "stages") => Self::stages(knobs, layers),
            (_, "decreasing") => Ok(Self::Remove(decreasing(knobs.int("r"), layers))),
            _ => Ok(Self::Remove(vec![knobs.int("r"); layers])),
        }
    }

    fn stages(knobs: &Knobs, layers: usize) -> Result<Self, MethodError> {
        let share = knobs.float("keep");
        if share == 0.0 {
            return Err(knobs.unfit("keep", "some patch has to stay; give more than 0"));
        }
        let mut blocks = numbers(knobs, "blocks")?;
        if let Some(outside) = blocks.iter().find(|block| !(1..=layers).contains(*block)) {
            let reason = format!("there is no block {outside}; the model has 1 to {layers}");
            return Err(knobs.unfit("blocks", reason));
        }
        blocks.iter_mut().for_each(|block| *block -= 1);
        if blocks.is_empty() {
            blocks = (1..4).map(|quarter| quarter * layers / 4).collect();
        }
        Ok(Self::Keep { share, blocks })
    }

    /// How many of `patches` stay in a block; at least one.
    pub fn keep(&self, layer: usize, patches: usize) -> usize {
        let keep = match self {
            Self::Remove(counts) => patches.saturating_sub(counts.get(layer).copied().unwrap_or(0)),
            Self::Keep { share, blocks } if blocks.contains(&layer) => {
                (share * patches as f64).ceil() as usize
            }
            Self::Keep { .. } => patches,
        };
        keep.clamp(1.min(patches), patches)
    }
}

/// From 2 r in the first block to none in the last.
fn decreasing(r: usize, layers: usize) -> Vec<usize> {
    let last = layers.saturating_sub(1).max(1) as f64;
    (0..layers).map(|layer| (2.0 * r as f64 * (1.0 - layer as f64 / last)) as usize).collect()
}

fn numbers(knobs: &Knobs, name: &'static str) -> Result<Vec<usize>, MethodError> {
    let parts = knobs.text(name).split('|').map(str::trim).filter(|part| !part.is_empty());
    let number =
        |part: &str| part.parse().map_err(|_| knobs.unfit(name, format!("`{part}` is no whole number")));
    parts.map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::Selection;

    fn pace(text: &str, layers: usize) -> Result<Pace, MethodError> {
        Pace::of(&Selection::parse(&[text]).unwrap().chosen()[0], layers)
    }

    #[test]
    fn the_schedules_are_those_of_the_papers() {
        assert_eq!(pace("tome:r=8", 3), Ok(Pace::Remove(vec![8; 3])));
        assert_eq!(pace("tome:r=8,pace=decreasing", 5), Ok(Pace::Remove(vec![16, 12, 8, 4, 0])));
        assert_eq!(pace("evit", 12), Ok(Pace::Keep { share: 0.7, blocks: vec![3, 6, 9] }));
        assert_eq!(pace("evit:blocks=2|3", 4), Ok(Pace::Keep { share: 0.7, blocks: vec![1, 2] }));
        assert_eq!(pace("tome:list=3|0|9", 4), Ok(Pace::Remove(vec![3, 0, 9])));
    }

    #[test]
    fn one_patch_always_stays() {
        let pace = Pace::Remove(vec![3, 500]);
        assert_eq!([0, 1, 2].map(|layer| pace.keep(layer, 10)), [7, 1, 10]);
        let pace = Pace::Keep { share: 0.7, blocks: vec![1] };
        assert_eq!([0, 1].map(|layer| pace.keep(layer, 196)), [196, 138]);
        assert_eq!(pace.keep(1, 0), 0);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_its_knob() {
        for (text, knob, part) in [
            ("tome:list=1|2|3|4|5", "list", "4 blocks"),
            ("tome:list=1|x", "list", "`x`"),
            ("evit:blocks=0", "blocks", "block 0"),
            ("evit:blocks=5", "blocks", "1 to 4"),
            ("evit:keep=0", "keep", "stay"),
        ] {
            let error = pace(text, 4).unwrap_err().to_string();
            assert!(error.contains(knob) && error.contains(part), "{error}");
        }
    }
}
