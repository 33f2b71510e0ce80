//! SnapKV (Li et al., 2024, arXiv 2404.14469): which parts of a prompt a head will attend to is visible from
//! the last few queries of the prompt itself, the observation window. SnapKV adds up what each earlier key
//! receives from that window, smooths the sums so that neighbours stay together, and keeps the best keys of
//! each head and the window. The cache is cut once, after the prompt; what is generated is kept whole.

use std::sync::Arc;

use crate::methods::eviction::{BUDGET, CLAIMS, MERGE, Rule, STAGES, merger, pool, recent, slack};
use crate::methods::scores::{Fixed, Local};
use crate::methods::{
    Fidelity, Headline, Knobs, Method, MethodError, ModelFacts, ModelKind, Paper, Room, Spec,
};

/// The description of the method.
pub static SPEC: Spec = Spec {
    id: "snapkv",
    title: "SnapKV",
    paper: Paper {
        title: "SnapKV: LLM Knows What You are Looking for Before Generation",
        authors: "Yuhong Li, Yingbing Huang, Bowen Yang, Bharat Venkitesh, Acyr Locatelli, Hanchen Ye, Tianle Cai, Patrick Lewis, Deming Chen",
        year: 2024,
        arxiv: "2404.14469",
    },
    room: Room::Cache,
    fidelity: Fidelity::Lossy,
    summary: "Which parts of a prompt a head will attend to is visible from the last few queries of the prompt. \
              SnapKV adds up what each key receives from this observation window, smooths the sums so that \
              neighbours stay together, and keeps the best keys of each head and the window itself. The cache is \
              cut once, after the prompt.",
    long: LONG,
    stages: STAGES,
    claims: CLAIMS,
    knobs: &[BUDGET, recent(32), pool(3), slack(0), MERGE],
    needs: &[],
    models: &[ModelKind::Decoder],
    headlines: &[
        Headline {
            setting: "16 thousand tokens of input",
            metric: "decoding speed",
            baseline: "full cache",
            result: "3.6x",
        },
        Headline { setting: "the same", metric: "memory efficiency", baseline: "full cache", result: "8.2x" },
        Headline {
            setting: "16 data sets of long texts",
            metric: "score",
            baseline: "full cache",
            result: "comparable",
        },
    ],
    build,
};

const LONG: &str = "\
## How it works

1. In each layer the attention weights of the last `recent` queries of the prompt are kept and added up.
2. The sums are averaged over the query heads that share a key-value head, and pooled: each row takes the largest sum
   within `pool` rows to either side, so that a fact keeps its surroundings.
3. Every key-value head keeps its `budget - recent` best rows and the last `recent`.

## When it pays

Long prompts whose question comes last, and short answers: the answer's own rows are kept whole and add to the cache.
Where the question comes first, or the answer is long, a score over all queries (`h2o`, `ems`) sees more.

## What is ours

The paper scores query heads apart; here those that share a cache share a choice. `slack` above 0 makes the choice again
while decoding, with the last accepted queries as the window, and bounds the cache. `merge` is an addition too.

Layers with a sliding window keep their rows, for the kernel tells those apart by where they lie.";

fn build(knobs: &Knobs, model: &ModelFacts) -> Result<Arc<dyn Method>, MethodError> {
    let window = knobs.int("recent");
    let scorer = Arc::new(Local { window, reach: knobs.int("pool") });
    let mut rule = Rule::new(knobs, model, Fixed { first: 0, last: window }, scorer)?;
    rule.merger = merger(knobs.choice("merge"));
    Ok(Arc::new(rule))
}

#[cfg(test)]
mod tests {
    use crate::methods::eviction::testing::{positions, refusal};

    #[test]
    fn what_the_last_queries_look_at_stays_with_its_neighbours() {
        assert_eq!(positions("snapkv:budget=3,recent=2,pool=0", 40, 0), vec![vec![9, 38, 39]; 2]);
        assert_eq!(positions("snapkv:budget=5,recent=2,pool=1", 40, 0), vec![vec![8, 9, 10, 38, 39]; 2]);
    }

    #[test]
    fn the_answer_is_kept_whole_unless_there_is_slack() {
        assert_eq!(positions("snapkv:budget=3,recent=2,pool=0", 40, 50)[0].len(), 53);
        assert_eq!(positions("snapkv:budget=3,recent=2,pool=0,slack=4", 40, 4), vec![vec![9, 42, 43]; 2]);
    }

    #[test]
    fn a_budget_below_the_window_is_refused() {
        let refusal = refusal("snapkv:budget=31");
        assert!(refusal.contains("budget") && refusal.contains("32 rows always stay"), "{refusal}");
    }
}
