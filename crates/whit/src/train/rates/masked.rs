//! The pass of a search, in which tokens are masked instead of removed.

use burn::tensor::{Device, Tensor, TensorData};
use whit_kernels::op;

use super::counts::Count;
use super::no_classes;
use crate::methods::importance;
use crate::methods::reducers::Directions;
use crate::nn::reduce::{Projected, Reduce, Reducing, Seen};
use crate::nn::vision::Vision;
use crate::train::TrainError;

/// What the masked softmax adds so that no row is empty.
const EPSILON: f64 = 1e-6;

/// A pass in which tokens are masked instead of removed. They lie in the order of their ranks, those that are gone
/// behind all others.
pub(super) struct Masked<'a> {
    counts: &'a [[Count; 2]],
    spared: usize,
    specials: usize,
    /// Tokens that are not gone, of every image.
    alive: usize,
    /// `[images, tokens, 1]`: 1 for what is there, 0 for what is gone, with the gradient.
    pub(super) mask: Option<Tensor<3>>,
    /// `[images, tokens]`
    sizes: Vec<f32>,
    /// The attention that each token gets, from the class token where there is one. `[images, tokens]`
    attention: Vec<f32>,
}

impl<'a> Masked<'a> {
    pub(super) fn new(counts: &'a [[Count; 2]], spared: usize, specials: usize) -> Self {
        Self { counts, spared, specials, alive: 0, mask: None, sizes: Vec::new(), attention: Vec::new() }
    }

    /// The scores of the classes with these counts. `[images, classes]`
    pub(super) fn scores(&mut self, model: &Vision, pixels: Tensor<4>) -> Result<Tensor<2>, TrainError> {
        let batch = pixels.dims()[0];
        let hidden = model.forward(pixels, &mut Reducing::new(batch, self));
        Ok(model.logits(&hidden, self.sizes()).ok_or_else(no_classes)?.logits)
    }

    /// The mask of all images.
    fn current(&self, shape: [usize; 3], device: &Device) -> Tensor<3> {
        self.mask.clone().unwrap_or_else(|| Tensor::ones(shape, device))
    }

    /// Multiplies the mask with that of a count, if it takes tokens away.
    fn cut(&mut self, count: &Count) {
        let (Some(mask), true) = (self.mask.clone(), count.whole < self.alive) else { return };
        let [_, tokens, _] = mask.dims();
        let value = |rank: usize| f32::from(rank < count.whole || rank >= self.alive);
        let values: Vec<f32> = (0..tokens).map(value).collect();
        let alive: Vec<f32> = (0..tokens).map(|rank| f32::from(rank < self.alive)).collect();
        let [values, alive] = [values, alive].map(|row| Tensor::<1>::from_data(&row[..], &mask.device()));
        let straight = (count.survives.clone() - count.survives.clone().detach()) * alive;
        self.mask = Some(mask * (values + straight).reshape([1, tokens, 1]));
        self.alive = count.whole;
    }

    /// The tokens of each image by rank: those in front, the others by attention, those that are gone last.
    fn orders(&self, images: usize, tokens: usize) -> Vec<Vec<usize>> {
        let order = |image: usize| {
            let row = &self.attention[image * tokens..][..tokens];
            let best = importance::best(&row[self.specials..self.alive], self.alive);
            let ranked = best.into_iter().map(|rank| rank + self.specials);
            (0..self.specials).chain(ranked).chain(self.alive..tokens).collect()
        };
        (0..images).map(order).collect()
    }

    /// Where the tokens of the ranks from `keep` on go, and how alike they are: one entry for each, image by image.
    fn partners(
        &self,
        states: &[f32],
        [images, tokens, width]: [usize; 3],
        keep: usize,
    ) -> Vec<Vec<(usize, f32)>> {
        let (heads, tails): (Vec<usize>, Vec<usize>) =
            ((self.specials..keep).collect(), (keep..self.alive).collect());
        let partners = |image: usize| {
            let directions = Directions::of(&states[image * tokens * width..][..tokens * width], tokens);
            let cosines = directions.cosines(&tails, &heads);
            let best = cosines.chunks_exact(heads.len()).map(|row| {
                let at = importance::best(row, 1)[0];
                (heads[at], row[at])
            });
            best.collect()
        };
        (0..images).map(partners).collect()
    }

    /// Merges the tokens of the ranks from the count on into their partners; they stay behind, masked.
    fn merge(&mut self, tokens: Tensor<3>, count: &Count) -> Tensor<3> {
        let shape = tokens.dims();
        let [images, all, _] = shape;
        let keep = count.whole.max(self.specials + 1);
        if keep >= self.alive {
            return tokens;
        }
        let partners = self.partners(op::host(tokens.clone()).data(), shape, keep);
        let mut matrix = vec![0.0f32; images * all * all];
        for (image, pairs) in partners.iter().enumerate() {
            let rows = &mut matrix[image * all * all..][..all * all];
            (0..all).for_each(|token| rows[token * all + token] = 1.0);
            for (source, &(head, cosine)) in (keep..).zip(pairs) {
                rows[head * all + source] = 1.0;
                self.sizes[image * all + head] += cosine.max(0.0) * self.sizes[image * all + source];
            }
            for row in rows.chunks_exact_mut(all) {
                let sum: f32 = row.iter().sum();
                row.iter_mut().for_each(|weight| *weight /= sum);
            }
        }
        let device = tokens.device();
        Tensor::<3>::from_data(TensorData::new(matrix, [images, all, all]), &device).matmul(tokens)
    }

    /// The permutations as matrices `[images, tokens, tokens]`, so that they have gradients.
    fn sort(&mut self, orders: &[Vec<usize>], device: &Device) -> Tensor<3> {
        let all = orders.first().map_or(0, Vec::len);
        let mut matrix = vec![0.0f32; orders.len() * all * all];
        let before = self.sizes.clone();
        for (image, order) in orders.iter().enumerate() {
            for (rank, &token) in order.iter().enumerate() {
                matrix[(image * all + rank) * all + token] = 1.0;
                self.sizes[image * all + rank] = before[image * all + token];
            }
        }
        Tensor::from_data(TensorData::new(matrix, [orders.len(), all, all]), device)
    }
}

impl Reduce for Masked<'_> {
    fn before_block(&mut self, layer: usize, tokens: Tensor<3>) -> Tensor<3> {
        if layer == 0 {
            let [images, all, _] = tokens.dims();
            (self.alive, self.sizes) = (all, vec![1.0; images * all]);
            self.mask = Some(Tensor::ones([images, all, 1], &tokens.device()));
        }
        tokens
    }

    /// `e_ij = exp(a_ij - max) (m_j + (1 - m_j) [i = j])`, made rows of sum 1.
    fn attention(&mut self, _: usize, projected: &Projected) -> Option<Tensor<4>> {
        let Projected { queries, keys, values, scale } = projected.clone();
        let [images, _, all, _] = queries.dims();
        let device = queries.device();
        let sizes: Vec<f32> = self.sizes.iter().map(|size| size.ln()).collect();
        let bias = Tensor::<4>::from_data(TensorData::new(sizes, [images, 1, 1, all]), &device);
        let scores = queries.matmul(keys.swap_dims(2, 3)) * scale + bias;
        let shift = scores.clone().detach().max_dim(3);
        let mask = self.current([images, all, 1], &device).reshape([images, 1, 1, all]);
        let own: Vec<f32> = (0..all * all).map(|at| f32::from(at / all == at % all)).collect();
        let own = Tensor::<4>::from_data(TensorData::new(own, [1, 1, all, all]), &device);
        let seen = mask.clone() + (-mask + 1.0) * own;
        let weights = (scores - shift).exp() * seen;
        let sum = weights.clone().sum_dim(3) + EPSILON;
        let shares = (weights + EPSILON / all as f64) / sum;
        let asking = if self.specials > 0 { 1 } else { self.alive };
        let asked = shares.clone().slice([0..images, 0..shares.dims()[1], 0..asking, 0..all]);
        self.attention = op::host(asked.mean_dim(1).mean_dim(2)).into_vec();
        Some(shares.matmul(values))
    }

    fn after_attention(&mut self, layer: usize, tokens: Tensor<3>, _: Seen) -> Tensor<3> {
        let counts = self.counts;
        let Some([prune, merge]) = layer.checked_sub(self.spared).and_then(|at| counts.get(at)) else {
            return tokens;
        };
        let ([images, all, _], device) = (tokens.dims(), tokens.device());
        let orders = self.orders(images, all);
        let sorted = self.sort(&orders, &device);
        self.mask = self.mask.take().map(|mask| sorted.clone().matmul(mask));
        let tokens = sorted.matmul(tokens);
        self.cut(prune);
        let tokens = self.merge(tokens, merge);
        self.cut(merge);
        tokens
    }

    /// The patches of each token; none of those that are gone.
    fn sizes(&self) -> Option<Tensor<2>> {
        let mask = self.mask.clone()?;
        let [images, all, _] = mask.dims();
        let sizes =
            Tensor::<2>::from_data(TensorData::new(self.sizes.clone(), [images, all]), &mask.device());
        Some(sizes * mask.reshape([images, all]))
    }
}
