//! H2O (Zhang et al., 2023, arXiv 2306.14048): a small share of the tokens, the heavy hitters, receives most
//! of the attention that is ever paid. H2O adds up what each key receives from all queries and keeps, of a
//! fixed budget, one half for the keys with the largest sums and the other for the most recent ones. The
//! sums are kept up while decoding, so the choice follows the text. Early tokens have had more queries look
//! at them, and are favoured by it.

use std::sync::Arc;

use crate::methods::eviction::{BUDGET, CLAIMS, MERGE, Rule, STAGES, merger, slack};
use crate::methods::scores::{Fixed, Global};
use crate::methods::{
    Fidelity, Headline, Kind, Knob, Knobs, Method, MethodError, ModelFacts, ModelKind, Paper, Room, Spec,
    Value,
};

/// The description of the method.
pub static SPEC: Spec = Spec {
    id: "h2o",
    title: "H2O, Heavy-Hitter Oracle",
    paper: Paper {
        title: "H2O: Heavy-Hitter Oracle for Efficient Generative Inference of Large Language Models",
        authors: "Zhenyu Zhang, Ying Sheng, Tianyi Zhou, Tianlong Chen, Lianmin Zheng, Ruisi Cai, Zhao Song, Yuandong Tian, Christopher Ré, Clark Barrett, Zhangyang Wang, Beidi Chen",
        year: 2023,
        arxiv: "2306.14048",
    },
    room: Room::Cache,
    fidelity: Fidelity::Lossy,
    summary: "A small share of the tokens receives most of the attention that is ever paid. H2O adds up what each \
              key receives from all queries and spends one half of a fixed budget on the keys with the largest \
              sums and the other half on the most recent ones, while the prompt is read and while decoding.",
    long: LONG,
    stages: STAGES,
    claims: CLAIMS,
    knobs: &[
        BUDGET,
        Knob {
            name: "recent",
            kind: Kind::Ratio,
            default: Value::Float(0.5),
            off: None,
            help: "share of the budget that goes to the most recent rows",
        },
        slack(32),
        MERGE,
    ],
    needs: &[],
    models: &[ModelKind::Decoder],
    headlines: &[
        Headline {
            setting: "OPT-6.7B and 30B, 20 % heavy hitters, against DeepSpeed, Accelerate and FlexGen",
            metric: "throughput",
            baseline: "1x",
            result: "up to 29x, 29x and 3x",
        },
        Headline {
            setting: "the same batch size",
            metric: "latency",
            baseline: "1x",
            result: "up to 1.9x lower",
        },
    ],
    build,
};

const LONG: &str = "\
## How it works

1. A second pass over the prompt's scores adds up every key's attention weights over all queries. It needs no matrix of
   queries by keys: with each row's log-sum-exp known from the first pass, the weights of a block follow from its scores.
2. The query heads that share a key-value head are averaged.
3. Of `budget` rows, the share `recent` goes to the last rows and the rest to the largest sums.
4. While decoding, the weights of each accepted token are added, and once `slack` rows have gathered on top the choice is
   made again.

## When it pays

Wherever the cache is the limit: many sequences at once, or long prompts. It reads the whole prompt with full attention
first, and the sums cost about half of that attention again. The sums favour early tokens; `ems` repairs that.

## What is ours

`slack` (the paper drops one row at each step), the average over grouped query heads, and `merge`.

Layers with a sliding window keep their rows, for the kernel tells those apart by where they lie.";

fn build(knobs: &Knobs, model: &ModelFacts) -> Result<Arc<dyn Method>, MethodError> {
    let last = (knobs.int("budget") as f64 * knobs.float("recent")) as usize;
    let mut rule = Rule::new(knobs, model, Fixed { first: 0, last: last.max(1) }, Arc::new(Global))?;
    rule.merger = merger(knobs.choice("merge"));
    Ok(Arc::new(rule))
}

#[cfg(test)]
mod tests {
    use crate::methods::eviction::testing::positions;

    #[test]
    fn the_heaviest_and_the_latest_stay() {
        assert_eq!(positions("h2o:budget=4,recent=0.5", 40, 0), vec![vec![3, 9, 38, 39]; 2]);
    }

    #[test]
    fn decoding_goes_on_with_the_sums() {
        // Key 38 receives 10 in all, most of it while decoding; key 45 the same and less of the small change.
        assert_eq!(positions("h2o:budget=4,recent=0.5,slack=10", 40, 10), vec![vec![3, 9, 48, 49]; 2]);
        assert_eq!(positions("h2o:budget=3,recent=0.67,slack=10", 40, 10), vec![vec![9, 48, 49]; 2]);
    }
}
