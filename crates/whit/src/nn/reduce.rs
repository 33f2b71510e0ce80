//! Where methods leave out or merge the tokens of an encoder while it runs: before a block, or between its
//! attention and its feed-forward part. [`Reducing`] puts a reducer into any encoder's forward pass, as the
//! one that carries out its attention; without one nothing of this costs anything.
//!
//! Every image of a batch keeps the same number of tokens, but each may keep others. All operations are
//! Burn's or differentiable kernels, so a reducer may learn.

use std::fmt;

use burn::tensor::{Tensor, activation};

use super::attention::{Attend, Batched, Site};

/// What a reducer wants to see of a layer's attention.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asks {
    /// The keys.
    pub keys: bool,
    /// How the first token (the class token) attends.
    pub class_attention: bool,
    /// How much attention every token receives.
    pub received: bool,
}

/// What a reducer is shown of a layer's attention: that which it asked for.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// `[batch, heads, tokens, head_dim]`.
    pub keys: Option<Tensor<4>>,
    /// The probabilities of the first token's query, the mean over the heads: `[batch, tokens]`.
    pub class_attention: Option<Tensor<2>>,
    /// The mean probability over heads and queries: `[batch, tokens]`.
    pub received: Option<Tensor<2>>,
}

/// Queries, keys and values of a layer, `[batch, heads, tokens, head_dim]`.
#[derive(Clone, Debug)]
pub struct Projected {
    /// The queries.
    pub queries: Tensor<4>,
    /// The keys.
    pub keys: Tensor<4>,
    /// The values.
    pub values: Tensor<4>,
    /// What scores are multiplied with.
    pub scale: f32,
}

/// Leaves out or merges tokens. Token tensors are `[batch, tokens, width]`; the class token, where a model
/// has one, comes first and must stay so.
pub trait Reduce {
    /// What [`after_attention`](Self::after_attention) of a layer wants to see.
    fn asks(&self, layer: usize) -> Asks {
        let _ = layer;
        Asks::default()
    }

    /// What is added to the scores of each key, `[batch, tokens]`: the logarithms of the sizes of merged
    /// tokens, for proportional attention.
    fn key_bias(&self, layer: usize) -> Option<Tensor<2>> {
        let _ = layer;
        None
    }

    /// The tokens that block `layer` works on.
    fn before_block(&mut self, layer: usize, tokens: Tensor<3>) -> Tensor<3> {
        let _ = layer;
        tokens
    }

    /// The tokens that go on to the feed-forward part of block `layer`.
    fn after_attention(&mut self, layer: usize, tokens: Tensor<3>, seen: Seen) -> Tensor<3> {
        let _ = (layer, seen);
        tokens
    }

    /// An attention of its own, `[batch, heads, tokens, head_dim]`, where the usual one will not do: while
    /// masks are learned, say.
    fn attention(&mut self, layer: usize, projected: &Projected) -> Option<Tensor<4>> {
        let _ = (layer, projected);
        None
    }

    /// How many original tokens each of the tokens stands for, `[batch, tokens]`, where heads that take a
    /// mean shall weight them.
    fn sizes(&self) -> Option<Tensor<2>> {
        None
    }
}

/// A forward pass of `batch` images with a reducer in it.
pub struct Reducing<'a> {
    batch: usize,
    reducer: &'a mut dyn Reduce,
    seen: Seen,
}

impl fmt::Debug for Reducing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reducing").field("batch", &self.batch).finish_non_exhaustive()
    }
}

impl<'a> Reducing<'a> {
    /// The attention of a pass over `batch` images, with `reducer` in it.
    pub fn new(batch: usize, reducer: &'a mut dyn Reduce) -> Self {
        Self { batch, reducer, seen: Seen::default() }
    }

    fn by_image(&self, rows: Tensor<2>) -> Tensor<3> {
        let [rows_count, width] = rows.dims();
        rows.reshape([self.batch, rows_count / self.batch, width])
    }
}

fn flat(tokens: Tensor<3>) -> Tensor<2> {
    let [batch, count, width] = tokens.dims();
    tokens.reshape([batch * count, width])
}

impl Attend for Reducing<'_> {
    fn attend(&mut self, site: &Site, queries: Tensor<3>, keys: Tensor<3>, values: Tensor<3>) -> Tensor<2> {
        let (layer, batch) = (site.layer, self.batch);
        let [rows, heads, head_dim] = queries.dims();
        let split = |x: Tensor<3>| x.reshape([batch, rows / batch, heads, head_dim]).swap_dims(1, 2);
        let [queries, keys, values] = [queries, keys, values].map(split);
        let projected = Projected { queries, keys, values, scale: site.scale };
        let key_bias = self.reducer.key_bias(layer);
        self.seen = projected.seen(self.reducer.asks(layer), key_bias.as_ref());
        let output = match self.reducer.attention(layer, &projected) {
            Some(output) => output.swap_dims(1, 2),
            None => Batched { key_bias, ..Batched::whole(batch, None) }.split(site, projected.into_rows()),
        };
        output.reshape([rows, heads * head_dim])
    }

    fn before_block(&mut self, layer: usize, rows: Tensor<2>) -> Tensor<2> {
        let tokens = self.by_image(rows);
        flat(self.reducer.before_block(layer, tokens))
    }

    fn after_attention(&mut self, layer: usize, rows: Tensor<2>) -> Tensor<2> {
        let (tokens, seen) = (self.by_image(rows), std::mem::take(&mut self.seen));
        flat(self.reducer.after_attention(layer, tokens, seen))
    }
}

impl Projected {
    /// `[batch, tokens, heads, head_dim]` each.
    fn into_rows(self) -> [Tensor<4>; 3] {
        [self.queries, self.keys, self.values].map(|part| part.swap_dims(1, 2))
    }

    fn seen(&self, asks: Asks, key_bias: Option<&Tensor<2>>) -> Seen {
        let [batch, heads, tokens, head_dim] = self.queries.dims();
        let mean_over_heads = |probabilities: Tensor<4>| {
            probabilities.mean_dim(1).mean_dim(2).reshape([batch, tokens]) // over heads, then over queries
        };
        let class = || self.queries.clone().slice([0..batch, 0..heads, 0..1, 0..head_dim]);
        let (class, all) = (asks.class_attention.then(class), asks.received.then(|| self.queries.clone()));
        let [class_attention, received] = [class, all]
            .map(|queries| queries.map(|queries| mean_over_heads(self.probabilities(queries, key_bias))));
        Seen { keys: asks.keys.then(|| self.keys.clone()), class_attention, received }
    }

    /// How the first token attends in each head, `[batch, heads, tokens]`; `key_bias` is added to the scores.
    pub fn class_attention(&self, key_bias: Option<&Tensor<2>>) -> Tensor<3> {
        let [batch, heads, tokens, head_dim] = self.queries.dims();
        let class = self.queries.clone().slice([0..batch, 0..heads, 0..1, 0..head_dim]);
        self.probabilities(class, key_bias).reshape([batch, heads, tokens])
    }

    /// The softmax of the scores of these queries, `[batch, heads, queries, tokens]`.
    fn probabilities(&self, queries: Tensor<4>, key_bias: Option<&Tensor<2>>) -> Tensor<4> {
        let scores = queries.matmul(self.keys.clone().swap_dims(2, 3)) * self.scale;
        let scores = match key_bias {
            Some(bias) => {
                let [batch, tokens] = bias.dims();
                scores + bias.clone().reshape([batch, 1, 1, tokens])
            }
            None => scores,
        };
        activation::softmax(scores, 3)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution};
    use whit_kernels::op;

    use super::*;
    use crate::nn::block::{Block, BlockConfig};
    use crate::nn::decoder::NormConfig;
    use crate::nn::vars::{Random, Storage, Vars};

    fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
        op::host(tensor).into_vec()
    }

    fn close(ours: &[f32], theirs: &[f32]) {
        assert_eq!(ours.len(), theirs.len());
        for (a, b) in ours.iter().zip(theirs) {
            assert!((a - b).abs() < 1e-5, "{a} instead of {b}");
        }
    }

    fn block(device: &Device) -> Block {
        let norm = NormConfig { centred: true, epsilon: 1e-6 };
        let config = BlockConfig { norm_first: true, ..BlockConfig::plain(16, 24, 2, norm) };
        let storage = Storage::Dense(device.clone());
        Block::new(&config, 3, &Vars::new(&Random { seed: 2 }, &storage)).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Keeps the first tokens and says what it saw.
    #[derive(Default)]
    struct First {
        before: Option<usize>,
        after: Option<usize>,
        bias: Option<Tensor<2>>,
        seen: Option<Seen>,
        layer: usize,
    }

    fn first(tokens: Tensor<3>, count: Option<usize>) -> Tensor<3> {
        let [batch, all, width] = tokens.dims();
        tokens.slice([0..batch, 0..count.unwrap_or(all), 0..width])
    }

    impl Reduce for First {
        fn asks(&self, _: usize) -> Asks {
            Asks { keys: true, class_attention: true, received: true }
        }

        fn key_bias(&self, _: usize) -> Option<Tensor<2>> {
            self.bias.clone()
        }

        fn before_block(&mut self, layer: usize, tokens: Tensor<3>) -> Tensor<3> {
            self.layer = layer;
            first(tokens, self.before)
        }

        fn after_attention(&mut self, _: usize, tokens: Tensor<3>, seen: Seen) -> Tensor<3> {
            self.seen = Some(seen);
            first(tokens, self.after)
        }
    }

    fn random(tokens: usize, device: &Device) -> Tensor<2> {
        Tensor::random([2 * tokens, 16], Distribution::Normal(0.0, 1.0), device)
    }

    #[test]
    fn a_reducer_that_does_nothing_changes_no_bit() {
        let device = Device::flex();
        let (block, x) = (block(&device), random(7, &device));
        let plain = block.forward(x.clone(), &mut Batched::whole(2, None));
        let reduced = block.forward(x, &mut Reducing::new(2, &mut First::default()));
        assert_eq!(values(plain), values(reduced));
    }

    #[test]
    fn tokens_may_go_before_the_block_and_behind_the_attention() {
        let device = Device::flex();
        let (block, x) = (block(&device), random(7, &device));
        let mut reducer = First { before: Some(5), after: Some(3), ..First::default() };
        let output = block.forward(x.clone(), &mut Reducing::new(2, &mut reducer));
        assert_eq!((output.dims(), reducer.layer), ([6, 16], 3));
        let kept = x.reshape([2, 7, 16]).slice([0..2, 0..5, 0..16]).reshape([10, 16]);
        let whole = block.forward(kept, &mut Batched::whole(2, None)).reshape([2, 5, 16]);
        let expected = whole.slice([0..2, 0..3, 0..16]);
        close(&values(output), &values(expected));
    }

    /// A key that counts twice is a key that is there twice.
    #[test]
    fn the_bias_of_a_key_makes_it_count_more_often() {
        let device = Device::flex();
        let (block, x) = (block(&device), random(4, &device));
        let three = x.clone().reshape([2, 4, 16]).slice([0..2, 0..3, 0..16]);
        let last = three.clone().slice([0..2, 2..3, 0..16]);
        let four = Tensor::cat(vec![three.clone(), last], 1).reshape([8, 16]);
        let bias = Tensor::from_data([[0.0, 0.0, 2f32.ln()], [0.0, 0.0, 2f32.ln()]], &device);
        let mut reducer = First { bias: Some(bias), ..First::default() };
        let ours = block.forward(three.reshape([6, 16]), &mut Reducing::new(2, &mut reducer));
        let doubled = block.forward(four, &mut Batched::whole(2, None)).reshape([2, 4, 16]);
        close(&values(ours), &values(doubled.slice([0..2, 0..3, 0..16])));

        let seen = reducer.seen.unwrap_or_default();
        let [class, received] = [seen.class_attention, seen.received].map(|part| values(part.unwrap()));
        for part in [&class, &received] {
            let sums: Vec<f32> = part.chunks(3).map(|image| image.iter().sum()).collect();
            close(&sums, &[1.0, 1.0]);
        }
        assert_eq!(seen.keys.map(|keys| keys.dims()), Some([2, 2, 3, 8]));
    }

    #[test]
    fn gradients_pass_through_the_hook() {
        let device = Device::flex().autodiff();
        let (block, x) = (block(&device), random(4, &device).require_grad());
        let bias = Tensor::<2>::zeros([2, 3], &device).require_grad();
        let mut reducer = First { before: Some(3), bias: Some(bias.clone()), ..First::default() };
        let output = block.forward(x.clone(), &mut Reducing::new(2, &mut reducer));
        let gradients = output.powi_scalar(2).sum().backward();
        let [x, bias] = [x.grad(&gradients), bias.grad(&gradients)].map(|one| values(one.unwrap()));
        assert!(x[..16].iter().any(|value| *value != 0.0) && bias.iter().any(|value| *value != 0.0));
        assert!(x[3 * 16..4 * 16].iter().all(|value| *value == 0.0), "the fourth token had gone");
    }
}
