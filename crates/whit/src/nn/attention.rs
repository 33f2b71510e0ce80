//! Where a network meets its attention. A model hands every layer's queries, keys and values to an
//! [`Attend`]; whether they go through a cache, a sparse pattern or a training batch is decided there,
//! so no model has attention of its own and every method reaches all of them.

use burn::tensor::{Bool, Tensor};
use whit_kernels::attention::{self, Options};
use whit_kernels::block_ffn::Reach;

use super::block_ffn::Routing;

/// One attention layer as the kernel sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    /// The layer's index, from zero.
    pub layer: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Values a head.
    pub head_dim: usize,
    /// What scores are multiplied with before the softmax.
    pub scale: f32,
    /// How many of the latest keys a query sees, itself included; all where none.
    pub window: Option<usize>,
}

/// A place in a block whose rows go into one or several linear layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Port {
    /// What queries, keys and values are made of.
    Attention,
    /// What the attention's output projection reads.
    Output,
    /// What the gate and the up-projection read.
    FeedForward,
    /// What the down-projection reads.
    Down,
}

impl Port {
    /// All of them, in the order of the forward pass.
    pub const ALL: [Self; 4] = [Self::Attention, Self::Output, Self::FeedForward, Self::Down];
}

/// Carries out the attention of a forward pass.
pub trait Attend {
    /// Attention of `queries` `[tokens, heads, head_dim]` over `keys` and `values`
    /// `[tokens, kv_heads, head_dim]` and whatever was kept before; returns `[tokens, heads * head_dim]`.
    fn attend(&mut self, site: &Site, queries: Tensor<3>, keys: Tensor<3>, values: Tensor<3>) -> Tensor<2>;

    /// Sees the hidden state `[tokens, width]` that enters layer `layer` (at `layers`, what leaves the
    /// last one).
    fn observe(&mut self, layer: usize, hidden: &mut dyn FnMut() -> Tensor<2>) {
        let _ = (layer, hidden);
    }

    /// Sees the rows `[tokens, inputs]` that go into the linear layers of `port` in layer `layer`.
    fn entering(&mut self, layer: usize, port: Port, rows: &Tensor<2>) {
        let _ = (layer, port, rows);
    }

    /// The rows `[tokens, width]` that block `layer` of an encoder shall work on, given those that reach it.
    fn before_block(&mut self, layer: usize, rows: Tensor<2>) -> Tensor<2> {
        let _ = layer;
        rows
    }

    /// The rows `[tokens, width]` that the feed-forward part of an encoder's block `layer` shall work on,
    /// given those that its attention leaves.
    fn after_attention(&mut self, layer: usize, rows: Tensor<2>) -> Tensor<2> {
        let _ = layer;
        rows
    }

    /// Sees the router of a layer's block of experts; says which experts are read for which tokens.
    fn route(&mut self, routing: &Routing<'_>) -> Reach {
        let _ = routing;
        Reach::All
    }
}

/// Attention inside each of `batch` sequences of one length, without a cache: training and
/// whole-sequence forward passes. Differentiable.
#[derive(Clone, Debug)]
pub struct Batched {
    /// The number of sequences; tokens are ordered sequence after sequence.
    pub batch: usize,
    /// Whether a token sees only those before it.
    pub causal: bool,
    /// What may be seen besides the causal rule: `[batch, 1 or heads, tokens, tokens]`, true where visible.
    pub mask: Option<Tensor<4, Bool>>,
    /// What is added to the scores for all queries: `[batch, tokens]`.
    pub key_bias: Option<Tensor<2>>,
    /// What is added to the scores in all sequences: `[heads, tokens, tokens]`.
    pub bias: Option<Tensor<3>>,
}

impl Batched {
    /// Plain causal attention in `batch` sequences.
    pub fn causal(batch: usize) -> Self {
        Self { causal: true, ..Self::whole(batch, None) }
    }

    /// Attention in both directions in `batch` sequences, of what `mask` lets see.
    pub fn whole(batch: usize, mask: Option<Tensor<4, Bool>>) -> Self {
        Self { batch, causal: false, mask, key_bias: None, bias: None }
    }
}

impl Batched {
    /// Attention of queries `[batch, tokens, heads, head_dim]` over keys and values.
    pub fn split(&self, site: &Site, [queries, keys, values]: [Tensor<4>; 3]) -> Tensor<4> {
        let options = Options {
            scale: Some(site.scale),
            causal: self.causal,
            window: site.window,
            mask: self.mask.clone(),
            key_bias: self.key_bias.clone(),
            bias: self.bias.clone(),
            ..Options::default()
        };
        attention::attention_of_rows(queries, keys, values, &options)
    }
}

impl Attend for Batched {
    fn attend(&mut self, site: &Site, queries: Tensor<3>, keys: Tensor<3>, values: Tensor<3>) -> Tensor<2> {
        let [tokens, heads, head_dim] = queries.dims();
        let split = |x: Tensor<3>| {
            let heads = x.dims()[1];
            x.reshape([self.batch, tokens / self.batch, heads, head_dim])
        };
        let output = self.split(site, [queries, keys, values].map(split));
        output.reshape([tokens, heads * head_dim])
    }
}

/// Attention inside each of several texts of any lengths, so that none needs padding.
#[derive(Clone, Debug)]
pub struct Separate {
    /// The tokens of each text; tokens are ordered text after text.
    pub lengths: Vec<usize>,
    /// Whether a token sees only those before it.
    pub causal: bool,
    /// What is added to the scores of the longest text, `[heads, tokens, tokens]`; others take its upper left.
    pub bias: Option<Tensor<3>>,
}

impl Separate {
    /// Plain attention in both directions.
    pub fn new(lengths: Vec<usize>) -> Self {
        Self { lengths, causal: false, bias: None }
    }

    fn within(&self, length: usize) -> Batched {
        let corner = |bias: &Tensor<3>| bias.clone().slice([0..bias.dims()[0], 0..length, 0..length]);
        Batched { causal: self.causal, bias: self.bias.as_ref().map(corner), ..Batched::whole(1, None) }
    }
}

impl Attend for Separate {
    fn attend(&mut self, site: &Site, queries: Tensor<3>, keys: Tensor<3>, values: Tensor<3>) -> Tensor<2> {
        if let [length] = self.lengths[..] {
            return self.within(length).attend(site, queries, keys, values);
        }
        let mut start = 0;
        let mut attend = |&length: &usize| {
            let rows = start..start + length;
            start = rows.end;
            let part = |x: &Tensor<3>| x.clone().slice([rows.clone()]);
            self.within(length).attend(site, part(&queries), part(&keys), part(&values))
        };
        Tensor::cat(self.lengths.iter().map(&mut attend).collect(), 0)
    }
}
