//! TOVA (Oren et al., 2024, arXiv 2401.06104): a transformer with a bounded cache is a recurrent network with
//! many states, and the question is only which state to drop. TOVA asks the newest query: in each layer the
//! rows to which it pays least attention, on average over the heads, are dropped. Nothing is fixed, neither
//! the first rows nor the last ones, and no sums are carried along.

use std::sync::Arc;

use crate::methods::eviction::{BUDGET, CLAIMS, Rule, STAGES, slack};
use crate::methods::scores::{Fixed, LastQuery};
use crate::methods::{
    Fidelity, Headline, Knobs, Method, MethodError, ModelFacts, ModelKind, Paper, Room, Spec,
};

/// The description of the method.
pub static SPEC: Spec = Spec {
    id: "tova",
    title: "TOVA",
    paper: Paper {
        title: "Transformers are Multi-State RNNs",
        authors: "Matanel Oren, Michael Hassid, Nir Yarden, Yossi Adi, Roy Schwartz",
        year: 2024,
        arxiv: "2401.06104",
    },
    room: Room::Cache,
    fidelity: Fidelity::Lossy,
    summary: "A transformer with a bounded cache is a recurrent network with many states. TOVA drops those to which \
              the newest query pays least attention, on average over the heads of a layer. Nothing is fixed, \
              neither the first rows nor the last ones, and no sums are carried along.",
    long: LONG,
    stages: STAGES,
    claims: CLAIMS,
    knobs: &[BUDGET, slack(32)],
    needs: &[],
    models: &[ModelKind::Decoder],
    headlines: &[
        Headline {
            setting: "four long-range tasks and several models, in some cases 1/8 of the cache",
            metric: "quality",
            baseline: "full cache",
            result: "nearly on par",
        },
        Headline {
            setting: "1/8 of the cache",
            metric: "throughput",
            baseline: "full cache",
            result: "4.8x",
        },
    ],
    build,
};

const LONG: &str = "\
## How it works

After the prompt, and then whenever `slack` rows have gathered on top of `budget`, the attention weights of the newest
query are averaged over all heads of the layer; the rows with the largest ones stay, the same for every head.

## When it pays

It is the simplest method that looks at the attention: a row of weights for each layer is all it reads, and it keeps no
state. One query is a small sample: for prompts, methods with a window or with sums choose better.

## What is ours

The paper drops one row at each step; `slack` drops them in batches, and the prompt's surplus goes in one step by the
weights of its last query. The newest row always stays.

Layers with a sliding window keep their rows, for the kernel tells those apart by where they lie.";

fn build(knobs: &Knobs, model: &ModelFacts) -> Result<Arc<dyn Method>, MethodError> {
    Ok(Arc::new(Rule::new(knobs, model, Fixed { first: 0, last: 1 }, Arc::new(LastQuery))?))
}

#[cfg(test)]
mod tests {
    use crate::methods::eviction::testing::positions;

    #[test]
    fn what_the_newest_query_looks_at_stays_in_all_heads() {
        // The newest of 40 looks at key 9 and, as 38 is a seventh key and near, at 38.
        assert_eq!(positions("tova:budget=3", 40, 0), vec![vec![9, 38, 39]; 2]);
        // Of 44 the nearest seventh is 38 still, out of reach; 43 and 42 are as little looked at as the rest.
        assert_eq!(positions("tova:budget=2,slack=5", 40, 5), vec![vec![9, 44]; 2]);
    }
}
