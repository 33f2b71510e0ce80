//! Key norms (Devoto et al., 2024, arXiv 2406.11430): in trained decoders a key of small length tends to be
//! one that later queries pay much attention to. So rows can be chosen by the length of their keys alone,
//! without any attention weights: short keys stay. It is the cheapest choice that depends on the text, and
//! works beside kernels that hand out no weights.

use std::sync::Arc;

use crate::methods::eviction::{BUDGET, CLAIMS, Rule, STAGES, recent, slack};
use crate::methods::scores::{Fixed, KeyNorm};
use crate::methods::{
    Fidelity, Headline, Knobs, Method, MethodError, ModelFacts, ModelKind, Paper, Room, Spec,
};

/// The description of the method.
pub static SPEC: Spec = Spec {
    id: "key-norm",
    title: "Key norms",
    paper: Paper {
        title: "A Simple and Effective L2 Norm-Based Strategy for KV Cache Compression",
        authors: "Alessio Devoto, Yu Zhao, Simone Scardapane, Pasquale Minervini",
        year: 2024,
        arxiv: "2406.11430",
    },
    room: Room::Cache,
    fidelity: Fidelity::Lossy,
    summary: "In trained decoders a key of small length tends to be one to which later queries pay much attention. \
              Rows are chosen by the length of their keys alone: the shortest stay. No attention weights are \
              needed, so it costs next to nothing and works beside any attention kernel.",
    long: LONG,
    stages: STAGES,
    claims: CLAIMS,
    knobs: &[BUDGET, recent(16), slack(32)],
    needs: &[],
    models: &[ModelKind::Decoder],
    headlines: &[
        Headline {
            setting: "language modelling and needle in a haystack",
            metric: "cache",
            baseline: "1x",
            result: "0.5x without loss of accuracy",
        },
        Headline {
            setting: "passkey retrieval",
            metric: "cache",
            baseline: "1x",
            result: "0.1x without loss of accuracy",
        },
    ],
    build,
};

const LONG: &str = "\
## How it works

After the prompt, and whenever `slack` rows have gathered on top, every head keeps its last `recent` rows and, of the
others, those whose keys are shortest, up to `budget`.

## When it pays

Where attention weights are dear or not to be had. It rests on a habit of trained models: check it on yours, for in some
layers (the first ones, says the paper) and on small models the link between length and attention is weak.

## What is ours

The paper keeps no recent rows by rule and leaves the first two layers whole; here all layers have the same budget, and
`recent` rows stay so that the newest words are not lost.

Layers with a sliding window keep their rows, for the kernel tells those apart by where they lie.";

fn build(knobs: &Knobs, model: &ModelFacts) -> Result<Arc<dyn Method>, MethodError> {
    let fixed = Fixed { first: 0, last: knobs.int("recent") };
    Ok(Arc::new(Rule::new(knobs, model, fixed, Arc::new(KeyNorm))?))
}

#[cfg(test)]
mod tests {
    use crate::methods::eviction::testing::positions;

    #[test]
    fn short_keys_and_the_latest_stay() {
        // Every eleventh key has length 1.
        assert_eq!(positions("key-norm:budget=4,recent=1", 40, 0), vec![vec![0, 11, 22, 39]; 2]);
        assert_eq!(positions("key-norm:budget=4,recent=1,slack=5", 40, 5), vec![vec![0, 11, 22, 44]; 2]);
    }
}
