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
use super::trace::{self, Trace};
use super::watch::Watch;
use crate::methods::{AttnPolicy, Exit, Halfway, Look, Looking, MethodError, Moment, Route};
use crate::nn::attention::{Attend, Logits, Site};
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
    /// Who may end the pass before the last layer, where somebody may.
    pub exit: Option<&'a mut dyn Exit>,
    /// Who writes down what methods do, where somebody does.
    pub trace: Option<&'a mut Trace>,
}

impl<'a> Span<'a> {
    /// Tokens that follow each other.
    pub fn causal(cache: &'a mut KvCache, ids: Vec<u32>, length: u32) -> Self {
        let start = cache.position() as u32;
        let positions = (start..start + ids.len() as u32).collect();
        Self {
            cache,
            ids,
            positions,
            length,
            tree: None,
            watch: None,
            policy: None,
            look: None,
            route: None,
            exit: None,
            trace: None,
        }
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
    let ways = vec![Way::On; spans.len()];
    let mut cached = Cached { spans, ways, layers: model.config().layers, failure: None };
    let hidden = model.forward(tokens, &mut cached);
    for span in &mut cached.spans {
        span.cache.advance(span.ids.len());
    }
    cached.failure.map_or(Ok(hidden), Err)
}

/// How far a span has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// It goes on.
    On,
    /// It goes no further, and the layers that it skips are being filled.
    Leaving,
    /// They are.
    Left,
}

struct Cached<'a> {
    spans: Vec<Span<'a>>,
    ways: Vec<Way>,
    layers: usize,
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
        for (span, _) in self.spans.iter_mut().zip(&self.ways).filter(|(_, way)| **way == Way::On) {
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
                let cache = span.cache.layer_mut(site.layer);
                // A decode step is only kept here; it is revised once its tokens are accepted.
                let trace = span.trace.as_deref_mut().filter(|_| watch.moment != Moment::Step);
                let before = trace::positions(trace.as_deref(), cache);
                let seen = watch.seen(site, attended, cache);
                self.failure = self.failure.take().or(seen.err());
                trace::revised(trace, site.layer, before, watch.policies, cache);
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
        for (span, _) in self.spans.iter_mut().zip(&self.ways).filter(|(_, way)| **way == Way::On) {
            let (own, others) = rest.split_at(span.ids.len() * experts);
            rest = others;
            let active = span.route.as_mut().is_some_and(|route| route.route(routing.layer, own, experts));
            marks.resize(marks.len() + span.ids.len(), active);
        }
        Reach::Marked(marks)
    }

    fn may_leave(&self, layer: usize) -> bool {
        self.spans.iter().any(|span| span.exit.as_ref().is_some_and(|exit| exit.looks(layer)))
    }

    fn leave(&mut self, layer: usize, hidden: &Tensor<2>, logits: &Logits<'_>) -> Vec<bool> {
        let hidden = op::host(hidden.clone());
        let mut leaves = Vec::with_capacity(hidden.dim(0));
        for (span, way) in self.spans.iter_mut().zip(&mut self.ways) {
            if *way != Way::On {
                *way = Way::Left;
                continue;
            }
            let rows = leaves.len()..leaves.len() + span.ids.len();
            let own = &hidden.data()[rows.start * hidden.width()..rows.end * hidden.width()];
            let halfway = Halfway {
                layers: [layer, self.layers],
                tokens: rows.len(),
                hidden: own,
                logits: &|| op::host(logits(rows.clone())).into_vec(),
            };
            if span.exit.as_mut().is_some_and(|exit| exit.looks(layer) && exit.leaves(&halfway)) {
                *way = Way::Leaving;
                if let Some(trace) = &mut span.trace {
                    trace.left(layer);
                }
            }
            leaves.resize(rows.end, *way == Way::Leaving);
        }
        leaves
    }

    fn fill(&mut self, site: &Site, keys: Tensor<3>, values: Tensor<3>) {
        let [keys, values] = [keys, values].map(op::host);
        let mut start = 0;
        for (span, _) in self.spans.iter_mut().zip(&self.ways).filter(|(_, way)| **way == Way::Leaving) {
            let rows = start..start + span.ids.len();
            start = rows.end;
            span.push(site, rows, keys.data(), values.data());
        }
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
            let cache = self.cache.layer_mut(site.layer);
            let before = trace::positions(self.trace.as_deref(), cache);
            look.settle(site, cache)?;
            trace::revised(self.trace.as_deref_mut(), site.layer, before, &[], cache);
            return Ok(Attended { output, ..Attended::default() });
        }
        Ok(match &mut self.policy {
            Some(policy) if site.window.is_none() => {
                let looking = Looking { layer: site.layer, rows: call.keys(), new: self.ids.len() };
                let positions = heads.first().map_or(&[][..], |head| head.positions());
                let watcher = self.trace.as_deref_mut().map(|trace| (trace, positions));
                reading::read(*policy, &looking, call, watcher)
            }
            _ => attention::attend(&call),
        })
    }
}
