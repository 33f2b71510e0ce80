//! What the tests of the draft-based methods share: small random models, and attention by hand.

use std::sync::Arc;

use serde_json::json;
use whit_kernels::attention::{self, Call};

use super::{Companions, DraftModel, Look, MethodError, ModelFacts, Plan, Selection, Vocabulary};
use crate::generate::cache::{CacheShape, HeadRows, KvCache};
use crate::generate::forward::{Span, forward};
use crate::generate::{Event, Request, Scheduler, Statistics};
use crate::models;
use crate::nn::attention::Site;
use crate::nn::decoder::Decoder;
use crate::nn::vars::{Precision, Random, Storage, Vars};

/// A model with random weights: 4 heads of 16, in pairs.
pub(super) fn model(layers: usize, context: usize, seed: u64) -> Arc<Decoder> {
    let config = json!({
        "model_type": "llama", "vocab_size": 97, "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": layers, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": context,
    });
    let config = (models::architecture(&config).unwrap().config)(&config).unwrap();
    let storage = Storage::Packed(Precision::Native);
    Arc::new(Decoder::new(config, &Vars::new(&Random { seed }, &storage)).unwrap())
}

pub(super) fn draft_model(decoder: &Arc<Decoder>, vocabulary: usize) -> DraftModel {
    DraftModel {
        vocabulary: Vocabulary { origin: "small".into(), size: vocabulary, fingerprint: None },
        facts: Box::new(ModelFacts::decoder("llama", decoder.config())),
        decoder: Some(Arc::clone(decoder)),
    }
}

pub(super) fn facts(target: &Decoder, draft: &Arc<Decoder>) -> ModelFacts {
    let companions = Companions { draft: Some(draft_model(draft, 97)), ..Companions::default() };
    ModelFacts { companions, ..ModelFacts::decoder("llama", target.config()) }
}

pub(super) fn plan(method: &str, facts: &ModelFacts) -> Result<Plan, MethodError> {
    Plan::new(&Selection::parse(&[method])?, facts)
}

pub(super) fn prompt(tokens: usize) -> Vec<u32> {
    (0..tokens as u32).map(|index| (index * index * 7 + index / 5) % 97).collect()
}

/// Text and statistics of one request under each plan's own stages.
pub(super) fn run(target: &Decoder, plan: &Plan, prompt: &[u32], tokens: usize) -> (Vec<u32>, Statistics) {
    let mut scheduler = Scheduler::new(target);
    let request = Request { prompt: prompt.to_vec(), max_tokens: tokens, ..Request::default() };
    let id = scheduler.add(request, plan.begin()).unwrap();
    let mut text: Vec<u32> = Vec::new();
    scheduler.run(|_, event: &Event| text.extend(&event.tokens)).unwrap();
    (text, scheduler.statistics(id).unwrap())
}

/// Text without methods.
pub(super) fn plainly(target: &Decoder, prompt: &[u32], tokens: usize) -> Vec<u32> {
    let plan = Plan::new(&Selection::default(), &ModelFacts::decoder("llama", target.config())).unwrap();
    run(target, &plan, prompt, tokens).0
}

/// The queries `[tokens, heads * dim]` and the keys `[kv_heads][tokens, dim]` of every layer.
#[derive(Debug, Default)]
pub(super) struct Capture {
    queries: Vec<Vec<f32>>,
    keys: Vec<Vec<Vec<f32>>>,
}

impl Look for Capture {
    fn attend(&mut self, _: &Site, call: &Call<'_>) -> Result<Vec<f32>, MethodError> {
        self.queries.push(call.queries.to_vec());
        self.keys.push(call.kv.iter().map(|view| view.keys.to_vec()).collect());
        Ok(attention::attend(call).output)
    }
}

impl Capture {
    pub(super) fn of(model: &Decoder, ids: &[u32]) -> Self {
        let mut capture = Self::default();
        let config = model.config();
        let (layers, kv_heads, head_dim) = (config.layers, config.kv_heads, config.head_dim);
        let mut cache = KvCache::new(CacheShape { layers, kv_heads, head_dim }, ids.len());
        let mut span = Span::causal(&mut cache, ids.to_vec(), ids.len() as u32);
        span.look = Some(&mut capture);
        forward(model, vec![span]).unwrap();
        capture
    }

    /// The attention weights of one query of one of the four heads, by hand.
    pub(super) fn weights(&self, layer: usize, head: usize, query: usize) -> Vec<f64> {
        let vector = &self.queries[layer][query * 64 + head * 16..][..16];
        let keys = self.keys[layer][head / 2].chunks_exact(16).take(query + 1);
        let dot =
            |key: &[f32]| -> f64 { vector.iter().zip(key).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum() };
        let scores: Vec<f64> = keys.map(|key| dot(key) / 4.0).collect();
        let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = scores.iter().map(|score| (score - top).exp()).sum();
        scores.iter().map(|score| (score - top).exp() / sum).collect()
    }
}

/// The positions of the rows that each head of a layer keeps.
pub(super) fn positions(heads: &[HeadRows]) -> Vec<Vec<usize>> {
    heads.iter().map(|head| head.positions().iter().map(|&at| at as usize).collect()).collect()
}
