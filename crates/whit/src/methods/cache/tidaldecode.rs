//! TidalDecode (Yang et al., 2024, arXiv 2410.05076): within one decode step, neighbouring layers look at
//! much the same tokens. So a few layers read all keys, and two of them also hand out their scores, from
//! which the positions of the k best keys of every head are taken. The layers that follow read these
//! positions only, in their own caches, with a softmax over them alone. Every step selects anew, nothing is
//! ever dropped, and scores are exact wherever they are computed.

use std::borrow::Cow;
use std::sync::Arc;

use crate::methods::tide::Settings;
use crate::methods::{
    Access, AttnPolicy, Claim, Fidelity, Headline, Kind, Knob, Knobs, Looking, Method, MethodError,
    ModelFacts, ModelKind, Paper, Reading, Resource, Room, Spec, Stage, StageKind, Stages, Value,
};

/// The description of the method.
pub static SPEC: Spec = Spec {
    id: "tidaldecode",
    title: "TidalDecode",
    paper: Paper {
        title: "TidalDecode: Fast and Accurate LLM Decoding with Position Persistent Sparse Attention",
        authors: "Lijie Yang, Zhihao Zhang, Zhuofu Chen, Zikun Li, Zhihao Jia",
        year: 2024,
        arxiv: "2410.05076",
    },
    room: Room::Cache,
    fidelity: Fidelity::Lossy,
    summary: "While a long text is continued, most of the time goes into reading the keys and values of all \
              earlier tokens in every layer. TidalDecode reads them all in a few layers only. Two of these \
              also give their scores, from which every head takes the positions of its best keys; the other \
              layers read just these rows. Nothing is evicted, each step selects anew, and no training is \
              needed.",
    long: LONG,
    stages: &[StageKind::AttnPolicy],
    claims: &[
        Claim { resource: Resource::AttentionPattern, access: Access::Own },
        Claim { resource: Resource::KvRows, access: Access::Own },
    ],
    knobs: &[
        Knob {
            name: "budget",
            kind: Kind::Int { min: 1, max: EVERYTHING },
            default: Value::Int(512),
            off: Some(Value::Int(EVERYTHING)),
            help: "keys that a head reads in a sparse layer; contexts up to it are read whole",
        },
        Knob {
            name: "start",
            kind: Kind::Int { min: 0, max: 255 },
            default: Value::Int(2),
            off: None,
            help: "the first layer that selects, counted from 0; those before it read everything",
        },
        Knob {
            name: "reselect",
            kind: Kind::Flag,
            default: Value::Flag(true),
            off: None,
            help: "select a second time, in the layer `correction`",
        },
        Knob {
            name: "correction",
            kind: Kind::Int { min: 0, max: 255 },
            default: Value::Int(0),
            off: None,
            help: "the layer that selects again; 0 takes the one after two fifths of all",
        },
        Knob {
            name: "sharing",
            kind: Kind::Choice { options: &["per-q", "union", "per-kv"] },
            default: Value::Choice("per-q"),
            off: None,
            help: "whose rows a query head reads: its own, those of its key-value group together, or one choice \
                   by the group's best scores",
        },
        Knob {
            name: "newest",
            kind: Kind::Flag,
            default: Value::Flag(true),
            off: None,
            help: "always read the newest token, as one of the budget",
        },
        Knob {
            name: "full",
            kind: Kind::Text { what: "numbers of query heads, with blanks or dots between them" },
            default: Value::Text(Cow::Borrowed("")),
            off: None,
            help: "query heads that read everything in every layer, as 0.17.30",
        },
        Knob {
            name: "period",
            kind: Kind::Int { min: 0, max: 1 << 20 },
            default: Value::Int(0),
            off: None,
            help: "compute the cached rows of so many generated tokens again with all keys; 0 never does",
        },
    ],
    needs: &[],
    models: &[ModelKind::Decoder],
    headlines: &[
        Headline {
            setting: "LLaMA-2-7B, A100, batch 1, context 10K / 32K / 100K",
            metric: "ms per token",
            baseline: "19.22 / 25.71 / 45.70",
            result: "16.94 / 17.89 / 21.26 (1.13x / 1.44x / 2.15x)",
        },
        Headline {
            setting: "32 and 64 layers, attention alone, A100",
            metric: "latency",
            baseline: "full attention",
            result: "up to 5.56x faster",
        },
        Headline {
            setting: "Llama-3-8B, needle in 100K tokens, budget 32 / 64 / 128, re-selection in layer 13",
            metric: "accuracy %",
            baseline: "Quest: 38 / 50 / 65",
            result: "86 / 92 / 100",
        },
        Headline {
            setting: "Llama-3-8B, LongBench (8 tasks), budget 4096",
            metric: "mean score",
            baseline: "Quest: 31.13",
            result: "32.86",
        },
    ],
    build,
};

/// A budget that no context exceeds.
const EVERYTHING: usize = 1 << 20;

const LONG: &str = "\
## How it works

1. The prompt is read densely, and all layers keep all keys and values.
2. In every decode step, layers before `start` read all keys. Layer `start` reads all keys too, and each query head
   notes the positions of its `budget` largest scores.
3. The layers that follow read the noted rows of their own caches and nothing else; the softmax runs over these alone.
4. Layer `correction` reads all keys again and notes new positions for the layers behind it. What the noting layers
   themselves put out is the full softmax.
5. The next step begins with nothing noted.

With L layers, N cached tokens and a budget of k, a head reads (start + 2) N + (L - start - 2) k rows a step instead of
L N: with 32 layers an eighth at best. The best layer to select again belongs to a family of models: the paper uses
7 for LLaMA-2-7B and 13 for Llama-3-8B, both of 32 layers. `whit calibrate tidaldecode` finds it, and the first: it reads
texts, and questions for a key in them, with the most promising pairs of layers, and says how far predictions move.

## When it pays

When the context is many times the budget, so that reading the cache is what takes the time: from some thousand
tokens on, and more with every further one. Below the budget every layer is read whole, and the output is that of
dense decoding bit for bit. The weights are still read once a token, so a whole step gains less than its attention.

`sharing` matters where several query heads share their keys. `per-q` is the paper's own: each query head reads its
own rows, up to as many times the budget as there are query heads in a group. `union` reads the rows of the whole group
together, for every head of it. `per-kv` lets the group choose once, by its highest score for each key: the least
reading, and the least faithful.

Which layers read everything decides what is lost. With 51 of 1024 keys, `recall-lm` (12 layers) answers 96 % of the
questions where layers 4 and 9 select, as many as dense decoding, and 48 % with the default layers 2 and 5, because
its layer 3 is the one that finds keys. Few layers are then sparse: half of them, where the paper's models leave seven of
eight (`bench/records/recall.md`). Run `whit calibrate tidaldecode` before you rely on it.

## What is ours

`union` and `per-kv`; `full`, because the best keys of some heads hardly overlap from layer to layer; `newest`, which
the paper's kernel forces and its accuracy code does not; and what happens to drafts. A draft is verified in one pass
with one choice for the whole tree, made by its root's scores; each node also reads its own ancestors, whatever the
budget. The root is read as it would be without a draft, later nodes with the choice of an earlier token: text with a
draft may differ from text without one. Layers with a sliding window are read as ever and never select.

`period` is the paper's cache correction, which it describes but leaves off in its evaluation: rows written by sparse
layers differ a little from those of a dense pass, so every `period` generated tokens are read once more as a prompt
would be, and their rows replaced.

Methods that evict or merge cached rows cannot be stacked with it: row i must be the same token in every layer.";

fn build(knobs: &Knobs, model: &ModelFacts) -> Result<Arc<dyn Method>, MethodError> {
    Ok(Arc::new(TidalDecode { settings: Arc::new(Settings::new(knobs, model)?), model: model.clone() }))
}

/// The method, built for one model.
#[derive(Debug)]
struct TidalDecode {
    settings: Arc<Settings>,
    model: ModelFacts,
}

impl Method for TidalDecode {
    fn begin(&self) -> Stages {
        Stages::from_iter([Stage::AttnPolicy(Box::new(Tide::new(Arc::clone(&self.settings))))])
    }

    fn expect(&self) -> String {
        let Settings { budget, start, .. } = *self.settings;
        let (layers, context) = (self.model.layers, self.model.context);
        let whole = (start + self.settings.selecting().count()).min(layers);
        let rows = whole * context + (layers - whole) * budget.min(context);
        let share = 100.0 * rows as f64 / (layers * context).max(1) as f64;
        let selecting: Vec<String> = self.settings.selecting().map(|layer| layer.to_string()).collect();
        format!(
            "layers {} select; {share:.0} % of the keys of {context} tokens are read for each list of rows",
            selecting.join(" and ")
        )
    }
}

/// The state of one sequence.
#[derive(Debug)]
struct Tide {
    settings: Arc<Settings>,
    /// What the last selection of this step chose; nothing yet where empty.
    lists: Vec<Option<Vec<u32>>>,
    /// The layer of the last call, to notice where a step begins, and of the last selection.
    last: usize,
    selected: usize,
    /// Up to which position the cached rows were written by dense passes.
    dense: Option<usize>,
    counts: Counts,
}

/// Rows read so far, in all lists of all layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    steps: usize,
    /// As they were read.
    read: usize,
    /// As a dense step would have.
    all: usize,
    corrections: usize,
}

impl Tide {
    fn new(settings: Arc<Settings>) -> Self {
        Self {
            settings,
            lists: Vec::new(),
            last: usize::MAX,
            selected: 0,
            dense: None,
            counts: Counts::default(),
        }
    }

    /// Forgets the last step, if this is the first layer of another.
    fn turn(&mut self, layer: usize) {
        if layer <= self.last {
            self.lists.clear();
            self.counts.steps += 1;
        }
        self.last = layer;
    }

    /// Whether `layer` selects: the first that may, and the first that is asked from the correction on.
    fn selects(&self, layer: usize) -> bool {
        let again = |correction| layer >= correction && self.selected < correction;
        layer >= self.settings.start && (self.lists.is_empty() || self.settings.correction.is_some_and(again))
    }
}

impl AttnPolicy for Tide {
    fn read(&mut self, looking: &Looking) -> Reading<'_> {
        self.turn(looking.layer);
        let dense = self.settings.lists() * looking.rows;
        self.counts.all += dense;
        let whole = looking.rows - looking.new < self.settings.budget;
        if whole || looking.layer < self.settings.start || self.selects(looking.layer) {
            self.counts.read += dense;
            let asks = !whole && looking.layer >= self.settings.start;
            return if asks { Reading::AllScored } else { Reading::All };
        }
        let rows = self.lists.iter().map(|list| list.as_ref().map_or(looking.rows, Vec::len));
        self.counts.read += rows.sum::<usize>();
        Reading::Rows(&self.lists)
    }

    fn scored(&mut self, looking: &Looking, scores: &[f32]) {
        self.lists = self.settings.choose(looking, scores);
        self.selected = looking.layer;
    }

    fn stale(&mut self, position: usize) -> Option<usize> {
        let dense = *self.dense.get_or_insert(position);
        if self.settings.period == 0 || position - dense < self.settings.period {
            return None;
        }
        self.dense = Some(position);
        self.counts.corrections += 1;
        Some(dense)
    }

    fn report(&self) -> String {
        let Counts { steps, read, all, corrections } = self.counts;
        let share = 100.0 * read as f64 / all.max(1) as f64;
        let corrected = match corrections {
            0 => String::new(),
            count => format!(", {count} corrections of the cache"),
        };
        format!("{share:.1} % of the keys read in {steps} steps{corrected}")
    }
}

#[cfg(test)]
#[path = "../tests/tidaldecode.rs"]
mod tests;
