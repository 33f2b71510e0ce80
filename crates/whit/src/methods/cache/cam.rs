//! CaM (Zhang et al., ICML 2024): whatever rows are evicted, the output is disturbed. CaM merges the value of
//! an evicted row into rows that stay instead of losing it: with a probability that is the row's attention
//! over that of the rows behind it, its value is spread evenly over these. Keys stay as they are. Which rows
//! go is decided by another method; here by accumulated attention, as in H2O.

use std::sync::Arc;

use crate::methods::eviction::{BUDGET, CLAIMS, Rule, STAGES, recent, slack};
use crate::methods::merge::Cam;
use crate::methods::scores::{Fixed, Global};
use crate::methods::{
    Fidelity, Headline, Kind, Knob, Knobs, Method, MethodError, ModelFacts, ModelKind, Paper, Room, Spec,
    Value,
};

/// The description of the method.
pub static SPEC: Spec = Spec {
    id: "cam",
    title: "CaM",
    paper: Paper {
        title: "CaM: Cache Merging for Memory-efficient LLMs Inference",
        authors: "Yuxin Zhang, Yuxuan Du, Gen Luo, Yunshan Zhong, Zhenyu Zhang, Shiwei Liu, Rongrong Ji",
        year: 2024,
        arxiv: "https://proceedings.mlr.press/v235/zhang24n.html",
    },
    room: Room::Cache,
    fidelity: Fidelity::Lossy,
    summary: "Whatever rows of a cache are evicted, the output is disturbed. CaM keeps part of them: with a probability \
              that is an evicted row's attention over that of the rows behind it, its value is spread evenly over \
              these. Keys stay as they are. Rows are chosen by the attention they received so far, as in H2O.",
    long: LONG,
    stages: STAGES,
    claims: CLAIMS,
    knobs: &[
        BUDGET,
        recent(128),
        slack(32),
        Knob {
            name: "spread",
            kind: Kind::Int { min: 1, max: 256 },
            default: Value::Int(32),
            off: None,
            help: "kept rows behind an evicted one over which its value is spread",
        },
    ],
    needs: &[],
    models: &[ModelKind::Decoder],
    headlines: &[Headline {
        setting: "LLaMA, OPT and GPT-NeoX; question answering, summaries, language modelling",
        metric: "quality at the same budget",
        baseline: "H2O and StreamingLLM, which do not merge",
        result: "better",
    }],
    build,
};

const LONG: &str = "\
## How it works

1. Every head keeps its last `recent` rows and, up to `budget`, those with the largest sums of received attention.
2. For an evicted row, the next `spread` kept rows are looked up. The row's sum over their mean sum is a probability; a
   lot is drawn, which depends on layer, head and position only, so that a run can be repeated.
3. If it falls, the value times `1 / spread` is added to each of those rows.

## When it pays

Values are added without asking whether they fit: rows that receive merged values carry more than they did. Measure it
against plain eviction (`h2o` with the same numbers) before using it; `ems` merges only rows that resemble each other.

## What is ours

The paper merges one row at each decode step; here a whole batch is merged at once, after the prompt as well.

Layers with a sliding window keep their rows, for the kernel tells those apart by where they lie.";

fn build(knobs: &Knobs, model: &ModelFacts) -> Result<Arc<dyn Method>, MethodError> {
    let fixed = Fixed { first: 0, last: knobs.int("recent") };
    let mut rule = Rule::new(knobs, model, fixed, Arc::new(Global))?;
    rule.merger = Arc::new(Cam { spread: knobs.int("spread") });
    Ok(Arc::new(rule))
}

#[cfg(test)]
mod tests {
    use crate::methods::eviction::testing::driven;

    #[test]
    fn the_rows_of_h2o_stay_with_more_in_their_values() {
        let cam = driven("cam:budget=8,recent=4,spread=4", 40, 0);
        let evicted = driven("h2o:budget=8,recent=0.5", 40, 0);
        let mut grown = 0;
        for (cam, evicted) in cam.iter().zip(&evicted) {
            assert_eq!(cam.positions(), evicted.positions());
            for row in 0..cam.len() {
                assert_eq!(cam.key(row), evicted.key(row));
                assert!(cam.value(row)[0] >= evicted.value(row)[0]);
                grown += usize::from(cam.value(row)[0] > evicted.value(row)[0]);
            }
        }
        assert!(grown > 0, "no value was merged");
    }

    #[test]
    fn lots_fall_the_same_way_every_time() {
        let values =
            || driven("cam:budget=8,recent=4", 40, 9).iter().map(|head| head.value(3)[0]).collect::<Vec<_>>();
        assert_eq!(values(), values());
    }
}
