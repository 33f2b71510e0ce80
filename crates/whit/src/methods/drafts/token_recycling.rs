//! Token Recycling (Luo et al., 2024, arXiv 2408.08696): every forward pass of a language model gives
//! a whole distribution over next tokens, of which plain decoding keeps one token. The best few ids of
//! each are kept in a table from token to likely successors. To draft, the table is followed from the
//! last token into a tree of successors of successors; one forward pass verifies the whole tree, and
//! the longest path that agrees with the model is accepted. Then the rows of all tokens of the tree
//! are renewed. The output is the same as without it, token for token.

use std::sync::Arc;

use crate::methods::{
    Access, Claim, Draft, Fidelity, Headline, Kind, Knob, Knobs, Method, MethodError, ModelFacts, ModelKind,
    Paper, Resource, Room, Spec, Stage, StageKind, Stages, TokenTree, Value, Verified,
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
    stages: &[StageKind::Draft],
    claims: &[
        Claim { resource: Resource::Draft, access: Access::Own },
        Claim { resource: Resource::Acceptance, access: Access::Read },
    ],
    knobs: &[
        Knob {
            name: "tree",
            kind: Kind::Int { min: 0, max: 80 },
            default: Value::Int(80),
            off: Some(Value::Int(0)),
            help: "most drafted tokens a step; 80 is the paper's tree, smaller ones are its likeliest nodes",
        },
        Knob {
            name: "tune",
            kind: Kind::Flag,
            default: Value::Flag(true),
            off: None,
            help: "fit the tree to this machine while running, and stop drafting where it does not pay",
        },
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
### How it works

1. The table holds the `k` best successors of every token id, as the model last ranked them.
2. A fixed, unbalanced tree of up to 80 nodes and 6 levels is filled from the table: a node of rank `r` is the
   `r`-th best successor of its parent. Tokens the table has never seen are not expanded.
3. One forward pass gives the model's logits at every node; a tree mask lets each node see its own ancestors only.
4. The walk starts at the root. The model's own choice at a node (the best token, or a sample) is looked up among
   the node's children; while it is there, the walk goes on. What it passed is accepted, and the last choice is a
   bonus token. One random number is drawn for each committed token, in order, so sampled text is also the same.
5. The cache keeps the rows of the accepted path, and the table rows of all tokens of the tree are renewed.

### When it pays

A forward pass over many tokens must cost little more than one over a single token. That holds while reading the
weights is what takes the time: on GPUs, and on CPUs with large models, small trees and compact weights. Where
arithmetic is the limit, a wide tree costs more than it saves; `tune` measures both and picks the tree with the most
tokens a second, down to none at all, and the report says so. Text that repeats itself (code, lists, quotations)
gains most. The first tokens of a cold table gain nothing.

### What is ours

The table renews rows in breadth-first order, so that a token that is in the tree twice always ends with the row of
its last node. `tune`, trees smaller than the paper's, and sampling are additions; the paper decodes greedily.";

fn build(knobs: &Knobs, model: &ModelFacts) -> Result<Arc<dyn Method>, MethodError> {
    Ok(Arc::new(TokenRecycling { tree: knobs.int("tree"), vocabulary: model.vocabulary }))
}

/// The method, built for one model.
#[derive(Debug)]
struct TokenRecycling {
    tree: usize,
    vocabulary: usize,
}

impl Method for TokenRecycling {
    fn begin(&self) -> Stages {
        Stages::from_iter([Stage::Draft(Box::new(Sequence))])
    }

    fn expect(&self) -> String {
        let table = self.vocabulary * 8 * size_of::<u32>();
        format!("up to {} tokens verified a forward pass; a table of {} kB", self.tree + 1, table.div_ceil(1000))
    }
}

/// The state of one sequence.
#[derive(Debug)]
struct Sequence;

impl Draft for Sequence {
    fn prompt(&mut self, _: &[u32], _: Option<&[f32]>) {}

    fn propose(&mut self, committed: &[u32], _: usize) -> Result<TokenTree, MethodError> {
        Ok(TokenTree::root(committed.last().copied().unwrap_or(0)))
    }

    fn learn(&mut self, _: &Verified<'_>) {}

    fn report(&self) -> String {
        String::new()
    }
}
