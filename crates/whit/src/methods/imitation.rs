//! Drafting with Chimera's network step by step: what it attends to in one sequence, each key and value
//! computed once, and the features of trigrams, which are remembered for all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::Tensor;
use whit_kernels::attention::{self, Call, Mask, Wanted};
use whit_kernels::op::{self, Host};

use super::successors::{Template, top};
use crate::generate::cache::{CacheShape, KvCache};
use crate::nn::chimera::{Drafter, DrafterConfig, trigram};
use crate::nn::decoder::Decoder;
use crate::nn::embedding::Embedding;
use crate::nn::vars::{Precision, Source, Storage, Vars, VarsError};

/// The most bytes of remembered trigram features.
const MEMORY: usize = 64 << 20;

/// Trigrams whose features are computed together.
const CHUNK: usize = 256;

/// A drafter with the target model's own embedding: what all sequences share.
#[derive(Debug)]
pub struct Imitator {
    drafter: Drafter,
    embedding: Embedding,
    features: Mutex<HashMap<[u32; 3], Arc<[f32]>>>,
}

impl Imitator {
    /// The drafter that `source` holds for `target`.
    ///
    /// # Errors
    /// If a tensor is missing, misshapen or unreadable.
    pub fn new(source: &dyn Source, target: &Decoder) -> Result<Self, VarsError> {
        let storage = Storage::Packed(Precision::Native);
        let config = DrafterConfig::stored(target.config(), source)?;
        let drafter = Drafter::new(config, &Vars::new(source, &storage))?;
        Ok(Self::with(drafter, target))
    }

    /// This drafter beside `target`.
    pub fn with(drafter: Drafter, target: &Decoder) -> Self {
        Self { drafter, embedding: target.embedding().clone(), features: Mutex::default() }
    }

    /// The network.
    pub fn drafter(&self) -> &Drafter {
        &self.drafter
    }

    fn width(&self) -> usize {
        self.drafter.config().target.width
    }

    /// The features of trigrams `[trigrams, width]`, computed where they are not remembered.
    fn features(&self, trigrams: &[[u32; 3]]) -> Tensor<2> {
        let mut known = self.features.lock().unwrap_or_else(PoisonError::into_inner);
        let mut missing: Vec<[u32; 3]> =
            trigrams.iter().filter(|trigram| !known.contains_key(*trigram)).copied().collect();
        let width = self.width();
        if (known.len() + missing.len()) * width * size_of::<f32>() > MEMORY {
            known.clear();
            missing = trigrams.to_vec();
        }
        missing.sort_unstable();
        missing.dedup();
        if !missing.is_empty() {
            let rows = op::host(self.drafter.features(self.embedding.forward(missing.as_flattened())));
            known.extend(missing.into_iter().zip(rows.data().chunks_exact(width).map(Arc::from)));
        }
        let rows = trigrams.iter().flat_map(|trigram| known[trigram].iter().copied()).collect();
        op::tensor(Host::new([trigrams.len(), width], rows))
    }
}

/// What the drafter attends to in one sequence.
#[derive(Debug)]
pub struct Context {
    /// Keys and values of hidden states and of trigrams, in the order they came.
    rows: KvCache,
    /// Hidden states that are in.
    hidden: usize,
    /// The last position whose trigram is in; that of position 0 never is.
    trigrams: usize,
    /// The newest hidden state.
    newest: Vec<f32>,
}

impl Context {
    /// Nothing yet.
    pub fn new(imitator: &Imitator) -> Self {
        let target = &imitator.drafter.config().target;
        let shape = CacheShape { layers: 1, kv_heads: target.kv_heads, head_dim: target.head_dim };
        Self { rows: KvCache::new(shape, 0), hidden: 0, trigrams: 0, newest: Vec::new() }
    }

    /// Takes in the target's hidden states `[tokens, width]` of the tokens that follow.
    pub fn see(&mut self, imitator: &Imitator, hidden: &[f32]) {
        let width = imitator.width();
        let rows = hidden.len() / width;
        let positions: Vec<u32> = (self.hidden..).take(rows).map(|at| at as u32).collect();
        let states = op::tensor(Host::new([rows, width], hidden.to_vec()));
        self.push(&imitator.drafter, states, &positions);
        self.hidden += rows;
        self.newest = hidden[hidden.len() - width..].to_vec();
    }

    /// Drafts `depth` tokens after `committed`, whose last token the target has not seen. `choose` is
    /// given each head's logits and says which token to go on with.
    pub fn draft(
        &mut self,
        imitator: &Imitator,
        committed: &[u32],
        depth: usize,
        choose: &mut dyn FnMut(&[f32]) -> u32,
    ) {
        self.catch_up(imitator, committed);
        let start = self.len();
        let mut text = committed.to_vec();
        for head in 0..depth {
            let logits = self.head(imitator, &text, [head, depth]);
            text.push(choose(logits.data()));
        }
        self.forget(start);
    }

    /// Drafts a tree after `committed`: behind every node of it that has children, with the node's own path.
    /// Gives the token of every node of the template, where it is part of the tree.
    pub fn draft_tree(
        &mut self,
        imitator: &Imitator,
        committed: &[u32],
        shape: Shape<'_>,
    ) -> Vec<Option<u32>> {
        self.catch_up(imitator, committed);
        let (text, tokens) = (committed.to_vec(), vec![None; shape.template.len()]);
        let mut growth = Growth { context: self, imitator, shape, text, tokens };
        growth.behind(None, 0);
        growth.tokens
    }

    /// The logits behind `text` by head `head` of `depth`; leaves rows that the next head's sees.
    fn head(&mut self, imitator: &Imitator, text: &[u32], [head, depth]: [usize; 2]) -> Host {
        let drafter = &imitator.drafter;
        let position = [(text.len() - 1) as u32];
        let x = imitator.features(&[trigram(text, text.len() - 1)]);
        if head > 0 {
            self.push(drafter, x.clone(), &position);
        }
        let imitated = self.imitate(drafter, x, &position);
        if drafter.config().previous && head + 1 < depth {
            self.push(drafter, imitated.clone(), &position);
        }
        let newest = op::tensor(Host::new([1, self.newest.len()], self.newest.clone()));
        op::host(drafter.logits(head, newest, imitated))
    }

    /// Rows that are attended to.
    fn len(&self) -> usize {
        self.rows.layer(0)[0].len()
    }

    /// Forgets all rows but the first `rows`.
    fn forget(&mut self, rows: usize) {
        self.rows.keep_of_last(self.len() - rows, &[]);
    }

    /// Takes in the trigrams of all committed tokens.
    fn catch_up(&mut self, imitator: &Imitator, committed: &[u32]) {
        let missing: Vec<u32> = (self.trigrams + 1..committed.len()).map(|at| at as u32).collect();
        for positions in missing.chunks(CHUNK) {
            let trigrams: Vec<_> = positions.iter().map(|&at| trigram(committed, at as usize)).collect();
            let x = imitator.features(&trigrams);
            self.push(&imitator.drafter, x, positions);
        }
        self.trigrams = self.trigrams.max(committed.len() - 1);
    }

    /// Appends the keys and values of input rows.
    fn push(&mut self, drafter: &Drafter, x: Tensor<2>, positions: &[u32]) {
        let [keys, values] = drafter.keys_and_values(x, positions).map(op::host);
        let CacheShape { kv_heads, head_dim, .. } = self.rows.shape();
        for (index, head) in self.rows.layer_mut(0).iter_mut().enumerate() {
            for (row, &position) in positions.iter().enumerate() {
                let at = (row * kv_heads + index) * head_dim;
                head.push(&keys.data()[at..at + head_dim], &values.data()[at..at + head_dim], position);
            }
        }
        self.rows.advance(positions.len());
    }

    /// What the layer makes of the input row `x`, which sees all rows.
    fn imitate(&self, drafter: &Drafter, x: Tensor<2>, position: &[u32]) -> Tensor<2> {
        let target = &drafter.config().target;
        let queries = op::host(drafter.queries(x.clone(), position));
        let views: Vec<_> = self.rows.layer(0).iter().map(|head| head.view()).collect();
        let call = Call {
            queries: queries.data(),
            query_count: 1,
            heads: target.heads,
            head_dim: target.head_dim,
            kv: &views,
            scale: drafter.scale(),
            softcap: None,
            mask: Mask::Causal,
            window: None,
            key_bias: None,
            wanted: Wanted::default(),
        };
        let attended = attention::attend(&call).output;
        drafter.finish(x, op::tensor(Host::new([1, attended.len()], attended)))
    }
}

/// The tree to draft: `size` nodes of a template, in at most `depth` levels.
#[derive(Clone, Copy, Debug)]
pub struct Shape<'a> {
    /// All nodes.
    pub template: &'a Template,
    /// How many of them, the likeliest.
    pub size: usize,
    /// The most levels.
    pub depth: usize,
}

/// A tree that grows node by node.
struct Growth<'a> {
    context: &'a mut Context,
    imitator: &'a Imitator,
    shape: Shape<'a>,
    /// What was committed, and the path to the node in work.
    text: Vec<u32>,
    tokens: Vec<Option<u32>>,
}

impl Growth<'_> {
    /// Fills in what follows a node of level `level`.
    fn behind(&mut self, node: Option<usize>, level: usize) {
        let Shape { template, size, depth } = self.shape;
        let children: Vec<(usize, usize)> = template.children(node, size).collect();
        let Some(most) = children.iter().map(|&(_, rank)| rank).max().filter(|_| level < depth) else {
            return;
        };
        let start = self.context.len();
        let logits = self.context.head(self.imitator, &self.text, [level, depth]);
        let mut best = vec![0; (most + 1).min(logits.data().len())];
        top(logits.data(), &mut best);
        for (child, rank) in children {
            let Some(&token) = best.get(rank) else { continue };
            self.tokens[child] = Some(token);
            self.text.push(token);
            self.behind(Some(child), level + 1);
            self.text.pop();
        }
        self.context.forget(start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::forward::{Span, forward};
    use crate::models;
    use crate::nn::vars::Random;

    const TOKENS: [u32; 14] = [3, 17, 9, 9, 40, 2, 17, 9, 31, 8, 8, 8, 25, 6];

    fn target() -> Decoder {
        let config = serde_json::json!({
            "model_type": "llama", "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 64,
        });
        let config = (models::architecture(&config).unwrap().config)(&config).unwrap();
        let storage = Storage::Packed(Precision::Native);
        Decoder::new(config, &Vars::new(&Random { seed: 3 }, &storage)).unwrap()
    }

    fn imitator(target: &Decoder, previous: bool) -> Imitator {
        let config = DrafterConfig { target: target.config().clone(), heads: 4, previous };
        let storage = Storage::Packed(Precision::Native);
        Imitator::with(Drafter::new(config, &Vars::new(&Random { seed: 8 }, &storage)).unwrap(), target)
    }

    fn hidden(target: &Decoder) -> Vec<f32> {
        let config = target.config();
        let shape =
            CacheShape { layers: config.layers, kv_heads: config.kv_heads, head_dim: config.head_dim };
        let mut cache = KvCache::new(shape, 0);
        op::host(forward(target, vec![Span::causal(&mut cache, TOKENS.to_vec(), 14)]).unwrap()).into_vec()
    }

    /// The logits of all heads at all positions are those of the forward pass that trains.
    #[test]
    fn step_by_step_equals_the_whole_sequence() {
        let target = target();
        let hidden = hidden(&target);
        for previous in [true, false] {
            let imitator = imitator(&target, previous);
            let trigrams: Vec<u32> = (0..14).flat_map(|at| trigram(&TOKENS, at)).collect();
            let states = op::tensor(Host::new([14, 32], hidden.clone()));
            let offsets = imitator.drafter.forward(1, states, imitator.embedding.forward(&trigrams));
            let wanted: Vec<Host> = offsets.into_iter().map(|offset| op::host(offset.logits)).collect();
            let mut context = Context::new(&imitator);
            for j in 0..13 {
                context.see(&imitator, &hidden[j * 32..(j + 1) * 32]);
                let mut head = 0;
                let depth = 4.min(13 - j);
                context.draft(&imitator, &TOKENS[..j + 2], depth, &mut |logits| {
                    let row = &wanted[head].data()[j * 50..(j + 1) * 50];
                    let far = logits.iter().zip(row).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                    assert!(far < 1e-4, "position {j}, head {head}, {previous}: {far}");
                    head += 1;
                    TOKENS[(j + 1 + head).min(13)]
                });
                assert_eq!(head, depth);
            }
        }
    }

    /// Along any branch, a node's children are what a draft that is made to take that branch gives.
    #[test]
    fn every_branch_is_drafted_with_its_own_path() {
        let target = target();
        let hidden = hidden(&target);
        // Two children, of which the first has two and the second one; one of the last level.
        let template = Template::new(&[2, 2, 1, 1, 0, 0, 0], 10).unwrap();
        let parents = [None, None, Some(0), Some(0), Some(1), Some(2)];
        for previous in [true, false] {
            let imitator = imitator(&target, previous);
            let mut context = Context::new(&imitator);
            context.see(&imitator, &hidden[..6 * 32]);
            let shape = Shape { template: &template, size: 6, depth: 3 };
            let tokens = context.draft_tree(&imitator, &TOKENS[..7], shape);
            assert_eq!(context.len(), 6 + 6);
            let token = |node: usize| tokens[node].unwrap();
            for (node, (level, rank)) in template.places().enumerate() {
                let path: Vec<usize> = std::iter::successors(parents[node], |&at| parents[at]).collect();
                let mut forced = path.iter().rev().map(|&at| token(at));
                let mut last = Vec::new();
                context.draft(&imitator, &TOKENS[..7], 3, &mut |logits| {
                    let mut best = [0; 2];
                    top(logits, &mut best);
                    last.push(best[rank]);
                    forced.next().unwrap_or(0)
                });
                assert_eq!(token(node), last[level - 1], "node {node}, {previous}");
            }
            let small = context.draft_tree(&imitator, &TOKENS[..7], Shape { size: 3, depth: 1, ..shape });
            assert_eq!(small[..2], tokens[..2]);
            assert!(small[2..].iter().all(Option::is_none));
        }
    }

    #[test]
    fn what_is_drafted_leaves_no_trace_and_features_are_remembered() {
        let target = target();
        let imitator = imitator(&target, true);
        let hidden = hidden(&target);
        let mut context = Context::new(&imitator);
        context.see(&imitator, &hidden[..6 * 32]);
        let draft = |context: &mut Context| {
            let mut seen = Vec::new();
            context.draft(&imitator, &TOKENS[..7], 4, &mut |logits| {
                seen.push(logits.to_vec());
                11
            });
            seen
        };
        let first = draft(&mut context);
        let known = imitator.features.lock().unwrap().len();
        assert_eq!(draft(&mut context), first);
        assert_eq!(imitator.features.lock().unwrap().len(), known);
        assert_eq!(context.rows.layer(0)[0].len(), 6 + 6);
    }
}
