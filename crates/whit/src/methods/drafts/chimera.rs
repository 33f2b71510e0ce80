//! Chimera (Zeng et al., 2024, arXiv 2402.15758): a drafter that is trained beside a frozen model and
//! costs a fraction of one of its steps. A look-up-able encoder of the last three tokens feeds one
//! decoder layer that attends to all the hidden states that the model has already computed; its output
//! imitates the model's hidden state at a position that the model has not seen yet. A head for every
//! offset turns the two into draft logits, the best of which make a tree that one forward pass verifies.
//! Acceptance is exact, so the output is the same as without it, token for token.

use std::sync::{Arc, Mutex, PoisonError};

use crate::methods::imitation::{Context, Imitator, Shape};
use crate::methods::successors::{Template, top};
use crate::methods::tuner::{CLAIMS, STAGES, TUNE_TREE, Tally, Tuned, tune};
use crate::methods::{
    Draft, Fidelity, Headline, Kind, Knob, Knobs, Method, MethodError, ModelFacts, ModelKind, Need, Paper,
    PromptRows, Room, SideWeights, Spec, Stage, Stages, TokenTree, Value, Verified,
};
use crate::nn::chimera::{MAX_HEADS, head_name};
use crate::nn::decoder::Decoder;
use crate::nn::vars::VarsError;

/// The description of the method.
pub static SPEC: Spec = Spec {
    id: "chimera",
    title: "Chimera",
    paper: Paper {
        title: "Chimera: A Lossless Decoding Method for Accelerating Large Language Models Inference by Fusing all Tokens",
        authors: "Ziqian Zeng, Jiahong Yu, Qianshi Pang, Zihao Wang, Huiping Zhuang, Hongen Shao, Xiaofeng Zou",
        year: 2024,
        arxiv: "2402.15758",
    },
    room: Room::Drafts,
    fidelity: Fidelity::Exact,
    summary: "Heads that guess several tokens ahead from one hidden state do not know which tokens were drafted \
              before. Chimera feeds drafted tokens back through something almost free: a memorised encoder of \
              the last three, and one trained layer over the hidden states that the model has already computed. \
              Its drafts form a tree that one forward pass verifies, exactly.",
    long: LONG,
    stages: STAGES,
    claims: CLAIMS,
    knobs: &[
        Knob {
            name: "tree",
            kind: Kind::Int { min: 0, max: 25 },
            default: Value::Int(25),
            off: Some(Value::Int(0)),
            help: "most drafted tokens a step; 25 is the authors' tree, smaller ones are its likeliest nodes",
        },
        Knob {
            name: "branches",
            kind: Kind::Flag,
            default: Value::Flag(false),
            off: None,
            help: "draft behind every node of the tree with its own path, and not behind the likeliest path alone",
        },
        tune(TUNE_TREE),
    ],
    needs: &[Need::Weights(
        "a drafter made by `whit train chimera --model DIR`, as `--weights chimera=FILE`",
    )],
    models: &[ModelKind::Decoder],
    headlines: &[Headline {
        setting: "Vicuna and LLaMA-2, 7B and 13B, average",
        metric: "speed-up in latency",
        baseline: "1x",
        result: "2.7x",
    }],
    build,
};

const LONG: &str = "\
## How it works

1. Trigrams: the embeddings of the last three tokens go through a small MLP. The result depends on three ids only,
   so it is remembered.
2. Full context: one decoder layer attends to the model's final hidden states of all tokens it has seen and to the
   trigram features of all tokens, drafted ones included. What it gives stands for the hidden state that the model
   would have at the drafted token. Its keys and values depend on its inputs alone, so each is computed once.
3. Residual heads: head `k` makes the logits of the token `k + 1` places ahead from the model's newest hidden state
   and the imitated one. The best token of each head is fed on to the next.
4. The best few tokens of each head fill the authors' tree of 25 nodes and 5 levels by rank. One forward pass of the
   model verifies it, and the exact walk accepts what agrees, greedy or sampled.

With `branches` the drafter goes on behind every node that has children, with that node's own path: a node's children
are then likely after it, and not only after the likeliest token of its level. The authors' tree has eleven such nodes, so
that a draft costs eleven heads instead of five. It is exact all the same.

## Training

`whit train chimera --model DIR` lets the model write text, freezes it, and trains encoder, layer and heads on that
text by the cross-entropy of every head plus `distill-weight` times the squared distance of imitated and true hidden
states. It writes a safetensors file, and reports how often each head agrees with the model; `--medusa` trains plain
Medusa-1 heads in the same way for comparison. A drafter fits the model that it was trained for and no other.

## When it pays

On large models, where drafting costs little beside a pass of the model: at the sizes of a 7B model a draft of four
tokens takes under a third of a step's multiplications. On a small model with a large vocabulary the heads cost more
than the model itself; `tune` counts the time of drafting and switches it off where it does not pay.

## What is ours

The authors' inference code is not complete; drafting is rebuilt from the paper and the training code. Trigrams are
those of true tokens where these are known and of drafted ones after them, in training as in drafting. Each offset
sees what the earlier ones gave (`prev_draft = diag`, as the released mask intends) unless the weights were trained
with `none`. The distillation term and its weight are a best guess, applied to every offset. `tune`, smaller trees
and exact sampling are additions; for the released code's lossy rule stack `typical-acceptance`.";

/// Children of every node of the authors' tree (`mc_sim_7b_63`), breadth first: 25 nodes, 5 levels.
const TREE: [usize; 26] = [4, 3, 2, 2, 1, 3, 2, 2, 1, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0];

/// How many tokens of each head the tree may use.
const RANKS: usize = 10;

/// The sizes that the tuner tries besides the largest.
const SIZES: [usize; 5] = [1, 2, 4, 8, 16];

fn build(knobs: &Knobs, model: &ModelFacts) -> Result<Arc<dyn Method>, MethodError> {
    let weights = model.side_weights(SPEC.id)?;
    let heads = check(weights, model)?;
    let template = Template::new(&TREE, RANKS).map_err(|error| knobs.unfit("tree", error.to_string()))?;
    let tree = knobs.int("tree");
    let depth = template.depth_of(tree);
    if depth > heads {
        let reason = format!("its tree has {depth} levels, but the weights hold {heads} heads");
        return Err(knobs.unfit("tree", reason));
    }
    let tuned = Tuned::new(knobs, &SIZES, tree);
    let shared = Shared { weights: weights.clone(), imitator: Mutex::new(None) };
    let (template, branches) = (Arc::new(template), knobs.flag("branches"));
    Ok(Arc::new(Chimera { template, tuned, depth, branches, shared: Arc::new(shared) }))
}

/// Checks the shapes of the weights against the model; returns the number of heads.
fn check(weights: &SideWeights, model: &ModelFacts) -> Result<usize, MethodError> {
    let (width, vocabulary) = (model.width, model.vocabulary);
    let source = weights.source.as_ref();
    let name = |head| format!("{}.weight", head_name(head));
    let heads = (0..MAX_HEADS).take_while(|&head| source.has(&name(head))).count();
    source
        .check("trimlp.out.weight", &[width, 3 * width])
        .and_then(|()| source.check(&name(0), &[vocabulary, 2 * width]))
        .map_err(|error| bad(weights, &error))?;
    Ok(heads)
}

fn bad(weights: &SideWeights, error: &VarsError) -> MethodError {
    let reason = match error {
        VarsError::Shape { name, found, wanted } => {
            format!("tensor `{name}` has shape {found:?}, but the model asks for {wanted:?}")
        }
        VarsError::Missing(name) => format!("tensor `{name}` is missing; this is no drafter"),
        other => other.to_string(),
    };
    MethodError::BadWeights { method: SPEC.id, origin: weights.origin.clone(), reason }
}

/// The method, built for one model.
#[derive(Clone, Debug)]
struct Chimera {
    template: Arc<Template>,
    /// How many nodes to draft.
    tuned: Tuned,
    /// Levels of the tree.
    depth: usize,
    /// Whether each branch is drafted by itself.
    branches: bool,
    shared: Arc<Shared>,
}

/// What all sequences share.
#[derive(Debug)]
struct Shared {
    weights: SideWeights,
    /// Built when the first sequence meets the model.
    imitator: Mutex<Option<Arc<Imitator>>>,
}

impl Shared {
    fn imitator(&self, target: &Decoder) -> Result<Arc<Imitator>, MethodError> {
        let mut place = self.imitator.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(imitator) = &*place {
            return Ok(Arc::clone(imitator));
        }
        let built = Imitator::new(self.weights.source.as_ref(), target);
        let built = Arc::new(built.map_err(|error| bad(&self.weights, &error))?);
        *place = Some(Arc::clone(&built));
        Ok(built)
    }
}

impl Method for Chimera {
    fn begin(&self) -> Stages {
        Stages::from_iter([Stage::Draft(Box::new(Beside {
            method: self.clone(),
            network: None,
            shadows: Vec::new(),
            tally: Tally::default(),
        }))])
    }

    fn expect(&self) -> String {
        let (nodes, origin) = (self.tuned.most() + 1, &self.shared.weights.origin);
        format!("up to {nodes} tokens verified a forward pass; drafts of {} levels by {origin}", self.depth)
    }
}

/// The state of one sequence.
#[derive(Debug)]
struct Beside {
    method: Chimera,
    /// There once it has met the model.
    network: Option<(Arc<Imitator>, Context)>,
    /// What the tree held at recent positions, to be judged once the text is known.
    shadows: Vec<(usize, Vec<Option<u32>>)>,
    tally: Tally,
}

impl Draft for Beside {
    fn meet(&mut self, target: &Decoder) -> Result<(), MethodError> {
        let imitator = self.method.shared.imitator(target)?;
        let context = Context::new(&imitator);
        self.network = Some((imitator, context));
        Ok(())
    }

    fn prompt(&mut self, rows: &PromptRows<'_>) {
        self.see(rows.hidden);
    }

    fn propose(&mut self, committed: &[u32], room: usize) -> Result<TokenTree, MethodError> {
        let Some(&root) = committed.last() else { return Ok(TokenTree::root(0)) };
        let nodes = self.nodes(committed);
        let Some((imitator, context)) = self.network.as_mut().filter(|_| nodes > 0) else {
            return Ok(TokenTree::root(root));
        };
        let (template, depth) = (&*self.method.template, self.method.depth.min(room));
        let shape = Shape { template, size: nodes, depth };
        let tokens = match self.method.branches {
            true => context.draft_tree(imitator, committed, shape),
            false => by_rank(imitator, context, committed, shape),
        };
        let tree = template.tree(root, &tokens, nodes, room);
        self.shadows.push((committed.len(), tokens));
        tree
    }

    fn learn(&mut self, verified: &Verified<'_>) {
        self.tally.add(verified);
        let width = verified.hidden.len() / verified.tree.len();
        let row = |&node: &usize| &verified.hidden[node * width..(node + 1) * width];
        let accepted: Vec<f32> = verified.accepted.path.iter().flat_map(row).copied().collect();
        self.see(&accepted);
        self.method.tuned.timed(verified.tree.len() - 1, verified.seconds);
    }

    fn report(&self) -> String {
        self.tally.report(self.method.tuned.is_off())
    }
}

/// The likeliest path, and beside each token of it the next best of its head.
fn by_rank(
    imitator: &Imitator,
    context: &mut Context,
    committed: &[u32],
    shape: Shape<'_>,
) -> Vec<Option<u32>> {
    let mut levels: Vec<Vec<u32>> = Vec::new();
    context.draft(imitator, committed, shape.depth, &mut |logits| {
        let mut best = vec![0; RANKS.min(logits.len())];
        top(logits, &mut best);
        levels.push(best);
        levels[levels.len() - 1][0]
    });
    let token = |(depth, rank): (usize, usize)| levels.get(depth - 1)?.get(rank).copied();
    shape.template.places().map(token).collect()
}

impl Beside {
    /// How many nodes to draft, by what earlier trees came to.
    fn nodes(&mut self, committed: &[u32]) -> usize {
        let Chimera { tuned, template, .. } = &self.method;
        if tuned.is_fixed() {
            return tuned.most();
        }
        self.shadows.retain(|(at, tokens)| {
            let text = &committed[*at..];
            let known = text.len() >= template.depth();
            if known {
                tuned.judged(|nodes| template.matched(tokens, nodes, text));
            }
            !known
        });
        tuned.nodes()
    }

    /// Takes in the hidden states of the tokens that follow.
    fn see(&mut self, hidden: &[f32]) {
        if let Some((imitator, context)) = &mut self.network {
            context.see(imitator, hidden);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Checkpoint, LoadError, RawTensor, TensorInfo};
    use crate::methods::Companions;
    use std::collections::BTreeMap;

    /// A drafter's shapes without its values.
    #[derive(Debug)]
    struct Shapes {
        width: usize,
        vocabulary: usize,
        heads: usize,
    }

    impl Checkpoint for Shapes {
        fn names(&self) -> Vec<String> {
            let heads = (0..self.heads).map(|head| format!("chimera_head.{head}.weight"));
            heads.chain(["trimlp.out.weight".to_owned()]).collect()
        }

        fn info(&self, name: &str) -> Option<TensorInfo> {
            let shape = match name {
                "trimlp.out.weight" => vec![self.width, 3 * self.width],
                _ => vec![self.vocabulary, 2 * self.width],
            };
            let known = self.names().iter().any(|known| known == name);
            known.then_some(TensorInfo { dtype: crate::load::Dtype::F32, shape })
        }

        fn read(&self, name: &str) -> Result<RawTensor, LoadError> {
            unreachable!("{name} is not read to make a plan")
        }
    }

    fn build_with(width: usize, vocabulary: usize, heads: usize, tree: usize) -> Result<(), String> {
        let weights = SideWeights::new("a-file", Arc::new(Shapes { width, vocabulary, heads }));
        let weights = BTreeMap::from([("chimera".to_owned(), weights)]);
        let companions = Companions { weights, ..Companions::default() };
        let facts = ModelFacts { companions, ..ModelFacts::example() };
        let mut knobs = Knobs::defaults(&SPEC);
        knobs.set("tree", Value::Int(tree)).unwrap();
        build(&knobs, &facts).map(|_| ()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_tree_is_the_authors() {
        let template = Template::new(&TREE, RANKS).unwrap();
        let level = |depth| template.places().filter(|place| place.0 == depth).count();
        assert_eq!([1, 2, 3, 4, 5].map(level), [4, 8, 8, 3, 2]);
        assert_eq!((template.len(), template.depth_of(25), template.depth_of(1)), (25, 5, 1));
    }

    #[test]
    fn weights_that_do_not_fit_are_refused_with_both_numbers() {
        assert_eq!(build_with(64, 256, 5, 25), Ok(()));
        let refused = |error: Result<(), String>, parts: &[&str]| {
            let error = error.unwrap_err();
            parts.iter().for_each(|part| assert!(error.contains(part), "{part} is missing in: {error}"));
        };
        refused(build_with(32, 256, 5, 25), &["a-file", "[32, 96]", "[64, 192]"]);
        refused(build_with(64, 300, 5, 25), &["a-file", "[300, 128]", "[256, 128]"]);
        refused(build_with(64, 256, 3, 25), &["tree", "5 levels", "3 heads"]);
        refused(build_with(64, 256, 0, 25), &["a-file", "chimera_head.0", "missing"]);
        assert_eq!(build_with(64, 256, 3, 4), Ok(()), "small trees are shallow");
    }

    #[test]
    fn without_weights_it_says_how_they_are_made() {
        let error = build(&Knobs::defaults(&SPEC), &ModelFacts::example()).unwrap_err();
        assert!(error.hint().contains("--weights chimera="), "{}", error.hint());
    }
}
