//! StreamingLLM (Xiao et al., 2023, arXiv 2309.17453): models put much of their attention on the first few
//! tokens, whatever these say, because softmax has to put it somewhere. Keeping those sinks and the most
//! recent tokens therefore keeps a model stable over texts of any length; everything between is dropped.
//! No attention is looked at, so it costs nothing, and it forgets whatever leaves the window.

use std::sync::Arc;

use crate::methods::eviction::{BUDGET, CLAIMS, Rule, STAGES, slack};
use crate::methods::scores::{Equal, Fixed};
use crate::methods::{
    Fidelity, Headline, Kind, Knob, Knobs, Method, MethodError, ModelFacts, ModelKind, Paper, Room, Spec,
    Value,
};

/// The description of the method.
pub static SPEC: Spec = Spec {
    id: "streaming-llm",
    title: "StreamingLLM",
    paper: Paper {
        title: "Efficient Streaming Language Models with Attention Sinks",
        authors: "Guangxuan Xiao, Yuandong Tian, Beidi Chen, Song Han, Mike Lewis",
        year: 2023,
        arxiv: "2309.17453",
    },
    room: Room::Cache,
    fidelity: Fidelity::Lossy,
    summary: "Models put much of their attention on the first few tokens, whatever these say. StreamingLLM keeps \
              those sinks and the most recent tokens and drops everything between, so that the cache never \
              grows and the model stays stable over texts of any length. What leaves the window is forgotten.",
    long: LONG,
    stages: STAGES,
    claims: CLAIMS,
    knobs: &[
        BUDGET,
        Knob {
            name: "sinks",
            kind: Kind::Int { min: 0, max: 64 },
            default: Value::Int(4),
            off: None,
            help: "first rows that always stay, part of the budget",
        },
        slack(32),
    ],
    needs: &[],
    models: &[ModelKind::Decoder],
    headlines: &[
        Headline {
            setting: "Llama-2-7B/13B, MPT, Falcon, Pythia, texts up to 4 million tokens",
            metric: "decoding latency a token",
            baseline: "sliding window with recomputation",
            result: "up to 22.2x faster",
        },
        Headline {
            setting: "Llama-2-13B, the first book of PG19's test set (65 thousand tokens), 1024 rows",
            metric: "perplexity",
            baseline: "5158.07 (the last 1024)",
            result: "5.40 (the first 4 and the last 1020)",
        },
    ],
    build,
};

const LONG: &str = "\
## How it works

Every head keeps its first `sinks` rows and its last `budget - sinks` rows. Once `slack` rows have gathered on top, the
rows between are dropped again. The attention weights are not needed, so nothing is computed for it.

## When it pays

Endless chats and logs, where only the recent past and fluent text matter. A fact that has left the window is gone: for
questions about a long prompt choose a method that looks at the attention.

## What is ours

The paper gives the kept rows new, consecutive positions at every step; here every key keeps the rotation it was cached
with. Inside the model's context length both work; beyond it the paper's positions are needed. `slack` drops rows in
batches instead of one at each step.

Layers with a sliding window keep their rows, for the kernel tells those apart by where they lie.";

fn build(knobs: &Knobs, model: &ModelFacts) -> Result<Arc<dyn Method>, MethodError> {
    let first = knobs.int("sinks");
    let fixed = Fixed { first, last: knobs.int("budget").saturating_sub(first).max(1) };
    Ok(Arc::new(Rule::new(knobs, model, fixed, Arc::new(Equal))?))
}

#[cfg(test)]
mod tests {
    use crate::methods::eviction::testing::{positions, refusal};

    #[test]
    fn sinks_and_the_latest_rows_stay() {
        let kept = positions("streaming-llm:budget=6,sinks=2,slack=2", 10, 0);
        assert_eq!(kept, vec![vec![0, 1, 6, 7, 8, 9]; 2]);
        // At eight rows the two oldest of the window go.
        let kept = positions("streaming-llm:budget=6,sinks=2,slack=2", 10, 3);
        assert_eq!(kept, vec![vec![0, 1, 8, 9, 10, 11, 12]; 2]);
    }

    #[test]
    fn a_budget_for_sinks_alone_is_refused() {
        assert!(refusal("streaming-llm:budget=4,sinks=4").contains("5 rows always stay"));
    }
}
