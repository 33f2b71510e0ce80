//! Token Recycling (Luo et al., 2024, arXiv 2408.08696): every forward pass of a language model gives
//! a whole distribution over next tokens, of which plain decoding keeps one token. The best few ids of
//! each are kept in a table from token to likely successors. To draft, the table is followed from the
//! last token into a tree of successors of successors; one forward pass verifies the whole tree, and
//! the longest path that agrees with the model is accepted. Then the rows of all tokens of the tree
//! are renewed. The output is the same as without it, token for token.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::methods::successors::{Successors, Template};
use crate::methods::table_file;
use crate::methods::tuner::{CLAIMS, STAGES, TUNE_TREE, Tally, Tuner, tune};
use crate::methods::{
    Draft, Fidelity, Headline, Kind, Knob, Knobs, Method, MethodError, ModelFacts, ModelKind, Paper,
    PromptRows, Room, Spec, Stage, Stages, TokenTree, Value, Verified,
};

/// The description of the method.
pub static SPEC: Spec = Spec {
    id: "token-recycling",
    title: "Token Recycling",
    paper: Paper {
        title: "Turning Trash into Treasure: Accelerating Inference of Large Language Models with Token Recycling",
        authors: "Xianzhen Luo, Yixuan Wang, Qingfu Zhu, Zhiming Zhang, Xuanyu Zhang, Qing Yang, Dongliang Xu",
        year: 2024,
        arxiv: "2408.08696",
    },
    room: Room::Drafts,
    fidelity: Fidelity::Exact,
    summary: "Every forward pass gives a whole distribution over next tokens, of which plain decoding \
              keeps one token and throws the rest away. Token Recycling keeps the best few ids of each \
              in a table from token to likely successors, follows the table from the last token into a \
              tree of successors of successors, and lets one forward pass verify the whole tree. It \
              needs no draft model, no training and about a megabyte.",
    long: LONG,
    stages: STAGES,
    claims: CLAIMS,
    knobs: &[
        Knob {
            name: "tree",
            kind: Kind::Int { min: 0, max: 80 },
            default: Value::Int(80),
            off: Some(Value::Int(0)),
            help: "most drafted tokens a step; 80 is the paper's tree, smaller ones are its likeliest nodes",
        },
        tune(TUNE_TREE),
        Knob {
            name: "k",
            kind: Kind::Int { min: 1, max: 8 },
            default: Value::Int(8),
            off: None,
            help: "successors kept for each token",
        },
        Knob {
            name: "hot",
            kind: Kind::Flag,
            default: Value::Flag(true),
            off: None,
            help: "keep the table from one request to the next",
        },
        Knob {
            name: "prompt",
            kind: Kind::Flag,
            default: Value::Flag(false),
            off: None,
            help: "also recycle the logits of the prompt; the paper does not",
        },
        Knob {
            name: "table",
            kind: Kind::Text { what: "a file" },
            default: Value::Text(Cow::Borrowed("")),
            off: None,
            help: "where the table is kept from one process to the next; empty for nowhere",
        },
    ],
    needs: &[],
    models: &[ModelKind::Decoder],
    headlines: &[
        Headline {
            setting: "Vicuna-7B, Spec-Bench, batch 1, greedy, fp16, data-centre GPU",
            metric: "tokens/s",
            baseline: "54.30",
            result: "110.06 (2.03x, 2.70 tokens a forward pass)",
        },
        Headline {
            setting: "Vicuna-7B, MBPP",
            metric: "tokens/s",
            baseline: "56.15",
            result: "131.20 (2.34x, 2.93 tokens a forward pass)",
        },
        Headline {
            setting: "Vicuna-13B / 33B, Spec-Bench",
            metric: "speed-up",
            baseline: "1x",
            result: "1.89x / 1.91x",
        },
        Headline {
            setting: "Vicuna-7B, the public Spec-Bench leaderboard, RTX 3090",
            metric: "speed-up",
            baseline: "1x",
            result: "1.40x (2.73 tokens a forward pass)",
        },
    ],
    build,
};

const LONG: &str = "\
## How it works

1. The table holds the `k` best successors of every token id, as the model last ranked them.
2. A fixed, unbalanced tree of up to 80 nodes and 6 levels is filled from the table: a node of rank `r` is the
   `r`-th best successor of its parent. Tokens the table has never seen are not expanded.
3. One forward pass gives the model's logits at every node; a tree mask lets each node see its own ancestors only.
4. The walk starts at the root. The model's own choice at a node (the best token, or a sample) is looked up among
   the node's children; while it is there, the walk goes on. What it passed is accepted, and the last choice is a
   bonus token. One random number is drawn for each committed token, in order, so sampled text is also the same.
5. The cache keeps the rows of the accepted path, and the table rows of all tokens of the tree are renewed.

## When it pays

A forward pass over many tokens must cost little more than one over a single token. That holds while reading the
weights is what takes the time: on GPUs, and on CPUs with large models, small trees and compact weights. Where
arithmetic is the limit, a wide tree costs more than it saves; `tune` measures both and picks the tree with the most
tokens a second, down to none at all, and the report says so. Text that repeats itself (code, lists, quotations)
gains most. The first tokens of a cold table gain nothing.

## What is ours

The table renews rows in breadth-first order, so that a token that is in the tree twice always ends with the row of
its last node. `tune`, `table`, trees smaller than the paper's, and sampling are additions; the paper decodes greedily.";

fn build(knobs: &Knobs, model: &ModelFacts) -> Result<Arc<dyn Method>, MethodError> {
    let template = Template::paper(knobs.int("k"));
    let sizes: Vec<usize> = SIZES.iter().copied().filter(|&nodes| nodes < knobs.int("tree")).collect();
    let path = PathBuf::from(knobs.text("table"));
    let mut table = Successors::new(model.vocabulary, knobs.int("k"));
    if !path.as_os_str().is_empty() {
        table_file::read(&path, &mut table).map_err(|error| knobs.unfit("table", error.to_string()))?;
    }
    let shared =
        Shared { table, tuner: Tuner::new(&[sizes, vec![knobs.int("tree").min(template.len())]].concat()) };
    Ok(Arc::new(TokenRecycling {
        template: Arc::new(template),
        shared: Arc::new(Mutex::new(shared)),
        tree: knobs.int("tree"),
        tune: knobs.flag("tune"),
        hot: knobs.flag("hot"),
        prompt: knobs.flag("prompt"),
        path,
    }))
}

/// The sizes that the tuner tries besides the largest.
const SIZES: [usize; 7] = [2, 4, 8, 16, 25, 40, 60];

/// The method, built for one model.
#[derive(Debug)]
struct TokenRecycling {
    template: Arc<Template>,
    shared: Arc<Mutex<Shared>>,
    tree: usize,
    tune: bool,
    hot: bool,
    prompt: bool,
    /// Where the table is kept; empty for nowhere.
    path: PathBuf,
}

/// The table is written when the method is no longer used. A disk that refuses then costs the next
/// process its hot start and nothing else, so nobody is told.
impl Drop for TokenRecycling {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            let _ = table_file::write(&self.path, &lock(&self.shared).table);
        }
    }
}

/// What all sequences share: a hot start, and what was learned about this machine.
#[derive(Clone, Debug)]
struct Shared {
    table: Successors,
    tuner: Tuner,
}

impl Method for TokenRecycling {
    fn begin(&self) -> Stages {
        let shared = if self.hot {
            Arc::clone(&self.shared)
        } else {
            let mut fresh = lock(&self.shared).clone();
            fresh.table.clear();
            Arc::new(Mutex::new(fresh))
        };
        Stages::from_iter([Stage::Draft(Box::new(Recycler {
            template: Arc::clone(&self.template),
            shared,
            tree: self.tree,
            tune: self.tune,
            prompt: self.prompt,
            shadows: Vec::new(),
            tally: Tally::default(),
        }))])
    }

    fn expect(&self) -> String {
        let table = lock(&self.shared).table.bytes();
        format!(
            "up to {} tokens verified a forward pass; a table of {} kB",
            self.tree + 1,
            table.div_ceil(1000)
        )
    }
}

/// The state of one sequence.
#[derive(Debug)]
struct Recycler {
    template: Arc<Template>,
    shared: Arc<Mutex<Shared>>,
    tree: usize,
    tune: bool,
    prompt: bool,
    /// What the largest tree would have proposed at recent positions, to be judged once the text is known.
    shadows: Vec<Shadow>,
    tally: Tally,
}

/// The tokens of the largest tree at one position, in the order of the template.
#[derive(Debug)]
struct Shadow {
    /// The number of tokens that were committed then.
    at: usize,
    tokens: Vec<Option<u32>>,
}

impl Draft for Recycler {
    fn wants_prompt(&self) -> bool {
        self.prompt
    }

    fn prompt(&mut self, rows: &PromptRows<'_>) {
        if self.prompt {
            lock(&self.shared).table.learn(rows.ids, rows.logits);
        }
    }

    fn propose(&mut self, committed: &[u32], room: usize) -> Result<TokenTree, MethodError> {
        let Some(&root) = committed.last() else { return Ok(TokenTree::root(0)) };
        let mut shared = lock(&self.shared);
        let tokens = self.template.fill(root, &shared.table);
        let mut nodes = self.tree;
        if self.tune {
            self.shadows.retain(|shadow| !judge(shadow, committed, &self.template, &mut shared.tuner));
            nodes = shared.tuner.choose();
            self.shadows.push(Shadow { at: committed.len(), tokens: tokens.clone() });
        }
        self.template.tree(root, &tokens, nodes, room)
    }

    fn learn(&mut self, verified: &Verified<'_>) {
        let mut shared = lock(&self.shared);
        shared.table.learn(verified.tree.tokens(), verified.logits);
        shared.tuner.timed(verified.tree.len() - 1, verified.seconds);
        self.tally.add(verified);
    }

    fn report(&self) -> String {
        self.tally.report(self.tune && lock(&self.shared).tuner.choose() == 0)
    }
}

/// Tells the tuner how far each size would have come, once enough of the text is known.
fn judge(shadow: &Shadow, committed: &[u32], template: &Template, tuner: &mut Tuner) -> bool {
    let text = &committed[shadow.at..];
    if text.len() < template.depth() {
        return false;
    }
    let sizes: Vec<usize> = tuner.sizes().collect();
    tuner.judged(sizes.into_iter().map(|nodes| template.matched(&shadow.tokens, nodes, text)));
    true
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
