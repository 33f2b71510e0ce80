//! One forward pass over the new tokens of several sequences. The tokens of all of them go through
//! the layers together; only attention looks at each sequence on its own, in its own cache, so a
//! sequence gets the same result alone and in company.

use std::ops::Range;

use burn::tensor::Tensor;
use whit_kernels::attention::{self, Attended, BitMatrix, Call, Mask, Wanted};
use whit_kernels::block_ffn::Reach;
use whit_kernels::op::{self, Host};

use super::cache::KvCache;
use super::reading;
use super::watch::Watch;
use crate::methods::{AttnPolicy, Look, Looking, MethodError, Route};
use crate::nn::attention::{Attend, Site};
use crate::nn::block_ffn::Routing;
use crate::nn::decoder::{Decoder, Tokens};

/// The new tokens of one sequence.
#[derive(Debug)]
pub struct Span<'a> {
    /// The sequence's cache, which the pass extends by one row a token.
    pub cache: &'a mut KvCache,
    /// The tokens.
    pub ids: Vec<u32>,
    /// Their positions.
    pub positions: Vec<u32>,
    /// The length that the sequence reaches once its prompt is in; see
    /// [`RotaryConfig::angles`](crate::nn::rotary::RotaryConfig::angles).
    pub length: u32,
    /// Which of these tokens each of them sees, where they form a tree; each sees all before it where none.
    pub tree: Option<BitMatrix>,
    /// Who watches its attention and may thin the cache out.
    pub watch: Option<Watch<'a>>,
    /// Who chooses which keys are read; all are where none.
    pub policy: Option<&'a mut dyn AttnPolicy>,
    /// Who carries out its attention, in the place of the plain one.
    pub look: Option<&'a mut dyn Look>,
    /// Who decides which experts these tokens read, where somebody does.
    pub route: Option<&'a mut dyn Route>,
}

impl<'a> Span<'a> {
    /// Tokens that follow each other.
    pub fn causal(cache: &'a mut KvCache, ids: Vec<u32>, length: u32) -> Self {
        let start = cache.position() as u32;
        let positions = (start..start + ids.len() as u32).collect();
        Self { cache, ids, positions, length, tree: None, watch: None, policy: None, look: None, route: None }
    }
}

/// Runs the model over `spans`; returns the hidden states `[tokens, width]`, span after span.
///
/// # Errors
/// If a method that watches a span or looks in its place fails.
pub fn forward(model: &Decoder, spans: Vec<Span<'_>>) -> Result<Tensor<2>, MethodError> {
    let ids: Vec<u32> = spans.iter().flat_map(|span| span.ids.iter().copied()).collect();
    let positions: Vec<u32> = spans.iter().flat_map(|span| span.positions.iter().copied()).collect();
    let lengths: Vec<u32> = spans.iter().flat_map(|span| span.ids.iter().map(|_| span.length)).collect();
    let tokens = Tokens { ids: &ids, positions: &positions, lengths: &lengths };
    let mut cached = Cached { spans, failure: None };
    let hidden = model.forward(tokens, &mut cached);
    for span in &mut cached.spans {
        span.cache.advance(span.ids.len());
    }
    cached.failure.map_or(Ok(hidden), Err)
}

struct Cached<'a> {
    spans: Vec<Span<'a>>,
    /// The first failure; a layer has no way to return it.
    failure: Option<MethodError>,
}

impl Attend for Cached<'_> {
    fn attend(&mut self, site: &Site, queries: Tensor<3>, keys: Tensor<3>, values: Tensor<3>) -> Tensor<2> {
        let device = queries.device();
        let [tokens, heads, head_dim] = queries.dims();
        let [queries, keys, values] = [queries, keys, values].map(op::host);
        let mut output = Vec::with_capacity(tokens * heads * head_dim);
        let mut start = 0;
        for span in &mut self.spans {
            let rows = start..start + span.ids.len();
            start = rows.end;
            span.push(site, rows.clone(), keys.data(), values.data());
            let width = heads * head_dim;
            let own = &queries.data()[rows.start * width..rows.end * width];
            let attended = span.attend(site, own).unwrap_or_else(|failure| {
                self.failure.get_or_insert(failure);
                Attended { output: vec![0.0; own.len()], ..Attended::default() }
            });
            output.extend_from_slice(&attended.output);
            if let Some(watch) = &mut span.watch {
                let seen = watch.seen(site, attended, span.cache.layer_mut(site.layer));
                self.failure = self.failure.take().or(seen.err());
            }
        }
        let output: Tensor<2> = op::tensor(Host::new([tokens, heads * head_dim], output));
        if output.device() == device { output } else { output.to_device(&device) }
    }

    fn route(&mut self, routing: &Routing<'_>) -> Reach {
        if self.spans.iter().all(|span| span.route.is_none()) {
            return Reach::All;
        }
        let gates = op::host(routing.gates.clone());
        let experts = gates.width();
        let mut rest = gates.data();
        let mut marks = Vec::with_capacity(gates.dim(0));
        for span in &mut self.spans {
            let (own, others) = rest.split_at(span.ids.len() * experts);
            rest = others;
            let active = span.route.as_mut().is_some_and(|route| route.route(routing.layer, own, experts));
            marks.resize(marks.len() + span.ids.len(), active);
        }
        Reach::Marked(marks)
    }
}

impl Span<'_> {
    fn push(&mut self, site: &Site, rows: Range<usize>, keys: &[f32], values: &[f32]) {
        let dim = site.head_dim;
        for (index, head) in self.cache.layer_mut(site.layer).iter_mut().enumerate() {
            for (row, &position) in rows.clone().zip(&self.positions) {
                let at = (row * site.kv_heads + index) * dim;
                head.push(&keys[at..at + dim], &values[at..at + dim], position);
            }
        }
    }

    fn attend(&mut self, site: &Site, queries: &[f32]) -> Result<Attended, MethodError> {
        let heads = self.cache.layer(site.layer);
        let views: Vec<_> = heads.iter().map(|head| head.view()).collect();
        let mask = self.tree.as_ref().map_or(Mask::Causal, Mask::Tree);
        let call = Call {
            queries,
            query_count: self.ids.len(),
            heads: site.heads,
            head_dim: site.head_dim,
            kv: &views,
            scale: site.scale,
            softcap: None,
            mask,
            window: site.window,
            key_bias: None,
            wanted: self.watch.as_ref().map_or(Wanted::default(), |watch| watch.wanted(site)),
        };
        if let Some(look) = &mut self.look {
            let output = look.attend(site, &call)?;
            look.settle(site, self.cache.layer_mut(site.layer))?;
            return Ok(Attended { output, ..Attended::default() });
        }
        Ok(match &mut self.policy {
            Some(policy) if site.window.is_none() => {
                let looking = Looking { layer: site.layer, rows: call.keys(), new: self.ids.len() };
                reading::read(*policy, &looking, call)
            }
            _ => attention::attend(&call),
        })
    }
}
