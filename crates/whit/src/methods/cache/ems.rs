//! EMS (Li et al., 2024, arXiv 2412.08521): attention summed over all queries favours early tokens, that of
//! the last few queries recent ones; EMS scores a row by the larger of the two, brought to the same mean.
//! The best rows of every head stay. Of the others the worthless tail is dropped, and each of the rest is
//! merged into the kept row that it resembles most, in key and in value. What resembles none joins a class
//! of zeros that is thrown away, so that merging and evicting are one dense operation.

use std::sync::Arc;

use crate::methods::eviction::{BUDGET, CLAIMS, Rule, STAGES, pool, recent, slack};
use crate::methods::merge::Ems;
use crate::methods::scores::{Fixed, Global, GlobalLocal, Local, Scorer};
use crate::methods::{
    Fidelity, Headline, Kind, Knob, Knobs, Method, MethodError, ModelFacts, ModelKind, Paper, Room, Spec,
    Value,
};

/// The description of the method.
pub static SPEC: Spec = Spec {
    id: "ems",
    title: "EMS, evict then merge",
    paper: Paper {
        title: "EMS: Adaptive Evict-then-Merge Strategy for Head-wise KV Cache Compression Based on Global-Local Importance",
        authors: "Yingxin Li, Ye Li, Yuan Meng, Xinzhu Ma, Zihan Geng, Shutao Xia, Zhi Wang",
        year: 2024,
        arxiv: "2412.08521",
    },
    room: Room::Cache,
    fidelity: Fidelity::Lossy,
    summary: "Attention summed over all queries favours early tokens, that of the last few queries recent ones; \
              EMS scores a row by the larger of the two. Every head keeps its best rows, drops the worthless \
              tail, and merges each of the rest into the kept row that it resembles most in key and value. What \
              resembles none goes to a class of zeros and is thrown away.",
    long: LONG,
    stages: STAGES,
    claims: CLAIMS,
    knobs: &[
        BUDGET,
        recent(32),
        slack(32),
        Knob {
            name: "tau",
            kind: Kind::Float { min: 0.01, max: 1.01 },
            default: Value::Float(0.6),
            off: None,
            help: "resemblance from which a row is merged and not thrown away; above 1 nothing is merged",
        },
        Knob {
            name: "rho",
            kind: Kind::Float { min: 0.0, max: 0.99 },
            default: Value::Float(0.05),
            off: None,
            help: "share of a head's score whose least rows are dropped without comparing them",
        },
        Knob {
            name: "keys",
            kind: Kind::Flag,
            default: Value::Flag(true),
            off: None,
            help: "merge keys too, and not values only",
        },
        Knob {
            name: "score",
            kind: Kind::Choice { options: &["global-local", "global", "local"] },
            default: Value::Choice("global-local"),
            off: None,
            help: "which attention counts: the larger of both, of all queries, or of the last `recent` ones",
        },
        pool(0),
        Knob {
            name: "adaptive",
            kind: Kind::Flag,
            default: Value::Flag(false),
            off: None,
            help: "deal the rows of a layer out by score, with a floor of a fifth for each head",
        },
    ],
    needs: &[],
    models: &[ModelKind::Decoder],
    headlines: &[
        Headline {
            setting: "four language models of 7 to 8 billion parameters, LongBench, 256 rows a head",
            metric: "mean score",
            baseline: "the best of earlier eviction and merging methods",
            result: "at least 1.28 points more",
        },
        Headline {
            setting: "needle in a haystack, less than 2 % of the context",
            metric: "retrieval accuracy kept",
            baseline: "full cache",
            result: "95 %",
        },
        Headline {
            setting: "against the full cache with FlashAttention-2",
            metric: "throughput",
            baseline: "1x",
            result: "up to 10.75x",
        },
    ],
    build,
};

const LONG: &str = "\
## How it works

1. **Global score.** After the prompt's attention, a second pass over its scores adds up what each key received from all
   queries. With the log-sum-exp of every row known, no matrix of queries by keys is needed.
2. **Local score.** The weights of the last `recent` queries are added up.
3. **Both.** A row's score is `max(local, global * mean(local) / mean(global))`, for each key-value head; query heads that
   share one are averaged first. With `pool` the local score then is the largest of so many neighbours to either side;
   the means are those before it, for pooling raises the local one and would let the global score decide alone.
4. **Split.** The last `recent` rows stay, and the `budget - recent` best of the others. These are the centres. The tail of
   the rest that holds less than `rho` of the head's score is dropped unseen: a head that looks at few places drops
   nearly everything, one that looks everywhere keeps much to merge.
5. **Assign.** Every other row is compared with all centres: the cosine of the keys, as cached, times that of the values;
   nothing unless both are positive. The class of zeros has the constant resemblance `tau`.
6. **Merge.** Values become the mean weighted by score. Keys are averaged as directions and lengths apart. A centre takes
   over the attention that its members received.
7. **Decode.** Positions go on from the true length. Once `slack` rows have gathered, steps 3 to 6 are repeated with the
   weights of the tokens accepted since; drafts that were rejected never count.

A prompt that fits the budget is left alone, bit for bit.

## When it pays

Decoding after long prompts: the cache and the attention over it no longer grow with the text. The prompt itself is read
with full attention, plus about half of that again for the global score and a product of rows by centres. Besides its
rows each layer keeps the sums and the last `recent` rows of weights, about an eighth of the thinned cache. For prompts
that are little longer than the budget it is not worth it.

Facts that no query of the prompt looked at may be gone when a later question asks for them: no method that sees only the
prompt's own attention can know.

With budgets of some dozens of rows set `pool` to about 7: measured on rust-lm with 56 of 448 rows, keys are found in 98 % of
the questions with `recent=8,pool=7`, in 82 % with `recent=32,pool=7`, and in 2 % with the defaults, which pool nothing
(`bench/records/recall.md`). Merging itself moved the perplexity by less than 0.1 % there.

## What is ours

The paper is public in its idea, not in its constants: `tau`, `rho`, `recent`, the rule of the three-way split, averaging
query heads before the maximum, `pool` behind the alignment, and the guard against two negative cosines are ours. The
paper pads the heads of a batch to equal lengths; here every head is a task of its own, with the same class of zeros.
`keys=false` merges values only, `adaptive` deals the rows out as `adakv` does, and `tau=1.01` is plain eviction by the
same score.

Layers with a sliding window keep their rows, for the kernel tells those apart by where they lie.";

fn build(knobs: &Knobs, model: &ModelFacts) -> Result<Arc<dyn Method>, MethodError> {
    Ok(Arc::new(rule(knobs, model)?))
}

fn rule(knobs: &Knobs, model: &ModelFacts) -> Result<Rule, MethodError> {
    let window = knobs.int("recent");
    let local = Local { window, reach: knobs.int("pool") };
    let scorer: Arc<dyn Scorer> = match knobs.choice("score") {
        "global" => Arc::new(Global),
        "local" => Arc::new(local),
        _ => Arc::new(GlobalLocal(local)),
    };
    let mut rule = Rule::new(knobs, model, Fixed { first: 0, last: window }, scorer)?;
    if rule.budget <= window {
        let reason = format!("all of its rows would be `recent` ones; give more than {window}");
        return Err(MethodError::Unfit {
            method: SPEC.id,
            knob: "budget",
            value: rule.budget.to_string(),
            reason,
        });
    }
    rule.merger = Arc::new(Ems {
        tau: knobs.float("tau") as f32,
        rho: knobs.float("rho") as f32,
        keys: knobs.flag("keys"),
    });
    rule.floor = knobs.flag("adaptive").then_some(FLOOR);
    Ok(rule)
}

/// The share of an even budget that every head gets when rows are dealt out by score.
const FLOOR: f64 = 0.2;

#[cfg(test)]
#[path = "../tests/ems.rs"]
mod tests;
