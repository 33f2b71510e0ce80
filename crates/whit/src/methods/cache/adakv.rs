//! Ada-KV (Feng et al., 2024, arXiv 2407.11550): heads differ in how widely they spread their attention, and
//! yet most methods give each the same number of rows. Ada-KV deals out the budget of a layer by score: the
//! best rows of all its heads together are kept, with a floor for each head. Heads that look at few places
//! then hold few rows, and those that look everywhere hold many, for the same memory. The scores here are
//! SnapKV's.

use std::sync::Arc;

use crate::methods::eviction::{BUDGET, CLAIMS, MERGE, Rule, STAGES, merger, pool, recent, slack};
use crate::methods::scores::{Fixed, Local};
use crate::methods::{
    Fidelity, Headline, Kind, Knob, Knobs, Method, MethodError, ModelFacts, ModelKind, Paper, Room, Spec,
    Value,
};

/// The description of the method.
pub static SPEC: Spec = Spec {
    id: "adakv",
    title: "Ada-KV",
    paper: Paper {
        title: "Ada-KV: Optimizing KV Cache Eviction by Adaptive Budget Allocation for Efficient LLM Inference",
        authors: "Yuan Feng, Junlin Lv, Yukun Cao, Xike Xie, S. Kevin Zhou",
        year: 2024,
        arxiv: "2407.11550",
    },
    room: Room::Cache,
    fidelity: Fidelity::Lossy,
    summary: "Heads differ in how widely they spread their attention, and yet most methods give each the same number \
              of rows. Ada-KV keeps the best rows of all heads of a layer together, with a floor for each head, so \
              that wide heads hold many rows and narrow ones few, for the same memory. The scores are SnapKV's.",
    long: LONG,
    stages: STAGES,
    claims: CLAIMS,
    knobs: &[
        BUDGET,
        recent(32),
        pool(3),
        Knob {
            name: "floor",
            kind: Kind::Ratio,
            default: Value::Float(0.2),
            off: None,
            help: "share of an even budget that every head gets before the rest is dealt out by score",
        },
        slack(0),
        MERGE,
    ],
    needs: &[],
    models: &[ModelKind::Decoder],
    headlines: &[Headline {
        setting: "13 data sets of RULER and 16 of LongBench, the question known or not while the text is compressed",
        metric: "quality at the same budget",
        baseline: "earlier methods (SnapKV, Pyramid) with even budgets",
        result: "substantially better, in the paper's words",
    }],
    build,
};

const LONG: &str = "\
## How it works

Scores are those of `snapkv`: what each row receives from the last `recent` queries, pooled over `pool` neighbours. Of
`budget` rows a head on average, the last `recent` always stay. Every head gets `floor` of the remaining ones for its own
best rows; the rest goes to the best scores of the layer, whichever head they belong to. Heads of one layer then differ
in length, which the attention kernel takes as it is.

## When it pays

Where `snapkv` does. It costs nothing more, and at small budgets the heads that need many rows no longer go short.

## What is ours

The floor is filled first and the rest dealt out from what is left; the paper mixes both budgets in the given ratio.
`slack` and `merge` are additions, as in `snapkv`.

Layers with a sliding window keep their rows, for the kernel tells those apart by where they lie.";

fn build(knobs: &Knobs, model: &ModelFacts) -> Result<Arc<dyn Method>, MethodError> {
    let window = knobs.int("recent");
    let scorer = Arc::new(Local { window, reach: knobs.int("pool") });
    let mut rule = Rule::new(knobs, model, Fixed { first: 0, last: window }, scorer)?;
    rule.floor = Some(knobs.float("floor"));
    rule.merger = merger(knobs.choice("merge"));
    Ok(Arc::new(rule))
}

#[cfg(test)]
mod tests {
    use crate::methods::eviction::testing::positions;

    #[test]
    fn the_head_with_the_larger_scores_gets_the_rows() {
        // The second head's weights are a hundredth of the first's: it keeps its floor of 2 and the window.
        let lens = |method| positions(method, 40, 0).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(lens("adakv:budget=10,recent=2,floor=0.25,pool=0"), [16, 4]);
        assert_eq!(lens("adakv:budget=10,recent=2,floor=1,pool=0"), [10, 10]);
        assert_eq!(
            positions("adakv:budget=10,recent=2,floor=1", 40, 0),
            positions("snapkv:budget=10,recent=2", 40, 0)
        );
    }

    #[test]
    fn uneven_heads_keep_their_total_while_decoding() {
        for steps in [3, 4, 9] {
            let lens =
                positions("adakv:budget=10,recent=2,slack=4", 40, steps).iter().map(Vec::len).sum::<usize>();
            assert_eq!(lens, 20 + 2 * (steps % 4));
        }
    }
}
