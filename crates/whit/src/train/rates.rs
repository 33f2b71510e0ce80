//! DiffRate's learning (arXiv 2305.17997): how many tokens each block prunes and merges, by gradients, on a model whose
//! weights stay as they are.
//!
//! Each block has two counts, and each count is the expectation of a softmax over candidates, rounded up. The forward
//! pass keeps all tokens and masks those that are gone. A mask's value is 0 or 1; its gradient goes to the probability
//! that the token at a rank survives. The cost is the formula of [`VisionCost`] with the counts in it, so it has a
//! gradient too. Nothing but the candidates' logits is learnt.

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData, activation};
use whit_kernels::adamw::{self, Slices};
use whit_kernels::{op, softmax};

use super::TrainError;
use super::schedule::Schedule;
use crate::measure::macs::VisionCost;
use crate::methods::importance;
use crate::methods::reducers::Directions;
use crate::methods::reducers::rates::Rates;
use crate::nn::attention::Batched;
use crate::nn::reduce::{Projected, Reduce, Reducing, Seen};
use crate::nn::vision::Vision;

/// What is wanted, and how it is searched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Search {
    /// The wanted cost as a share of the dense one.
    pub keep: f64,
    /// Steps.
    pub steps: u64,
    /// Patches between two candidates.
    pub granularity: usize,
    /// The learning rate at the start; a cosine takes it to a tenth.
    pub learning_rate: f32,
    /// First blocks in which no token goes.
    pub spared: usize,
}

impl Default for Search {
    fn default() -> Self {
        Self { keep: 0.6, steps: 300, granularity: 4, learning_rate: 0.03, spared: 1 }
    }
}

/// Images with what is to be said of them.
#[derive(Clone, Debug)]
pub struct Examples {
    /// `[images, channels, height, width]`
    pub pixels: Tensor<4>,
    /// The class of each image; where there is none, the model's own answer with all its tokens is learnt from.
    pub labels: Option<Vec<u32>>,
}

/// One step of a search.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Step {
    /// Its number, from 0.
    pub step: u64,
    /// The loss of the model.
    pub loss: f32,
    /// The cost as a share of the dense one.
    pub cost: f64,
}

/// The weight of the squared distance from the wanted cost, both as shares of the dense cost: the paper's 5, where the
/// costs are in G operations, at the 4.6 G of DeiT-S.
const PRESSURE: f64 = 5.0 * 4.6 * 4.6;

/// What the masked softmax adds so that no row is empty.
const EPSILON: f64 = 1e-6;

/// The logits of the candidates of all counts, and what the optimiser remembers of them.
#[derive(Clone, Debug)]
pub struct Counts {
    cost: VisionCost,
    search: Search,
    /// For each block that may lose tokens those of pruning and those of merging.
    logits: Vec<[Logits; 2]>,
}

#[derive(Clone, Debug)]
struct Logits {
    values: Vec<f32>,
    first: Vec<f32>,
    second: Vec<f32>,
}

/// The candidates that every count has: how many patches stay.
#[derive(Clone, Debug)]
struct Candidates {
    patches: Vec<f32>,
    specials: usize,
    tokens: usize,
}

/// One count in one pass.
#[derive(Clone, Debug)]
struct Count {
    /// The leaf that gets the gradient.
    logits: Tensor<1>,
    /// The expected count with the gradient, its value rounded up: `[1]`.
    kept: Tensor<1>,
    whole: usize,
    /// The probability that the token at each rank survives. `[tokens]`
    survives: Tensor<1>,
}

impl Candidates {
    fn new(cost: &VisionCost, granularity: usize) -> Self {
        let patches =
            (1..=cost.patches).rev().filter(|left| (cost.patches - left).is_multiple_of(granularity));
        Self {
            patches: patches.map(|left| left as f32).collect(),
            specials: cost.specials,
            tokens: cost.tokens(),
        }
    }

    fn count(&self, logits: &[f32], device: &Device) -> Count {
        let logits = Tensor::<1>::from_data(logits, device).require_grad();
        let shares = activation::softmax(logits.clone(), 0);
        let patches = Tensor::<1>::from_data(&self.patches[..], device);
        let expected = (shares.clone() * patches).sum() + self.specials as f32;
        let value = op::host(expected.clone()).data()[0].ceil();
        let kept = expected.clone() - expected.detach() + value;
        let alive = |rank: usize| {
            self.patches.iter().map(move |&left| f32::from(left + self.specials as f32 > rank as f32))
        };
        let table: Vec<f32> = (0..self.tokens).flat_map(alive).collect();
        let table = Tensor::<2>::from_data(TensorData::new(table, [self.tokens, self.patches.len()]), device);
        let survives = (table * shares.unsqueeze()).sum_dim(1).reshape([self.tokens]);
        Count { logits, kept, whole: value as usize, survives }
    }
}

impl Counts {
    /// All candidates equally likely.
    ///
    /// # Errors
    /// If the wanted cost cannot be reached, or the settings mean nothing.
    pub fn new(cost: VisionCost, search: Search) -> Result<Self, TrainError> {
        let Search { keep, granularity, spared, .. } = search;
        if granularity == 0 || granularity >= cost.patches {
            return Err(TrainError::Setting(format!(
                "candidates are from 1 to {} patches apart, not {granularity}",
                cost.patches - 1
            )));
        }
        if spared >= cost.layers {
            return Err(TrainError::Setting(format!(
                "{spared} of {} blocks are spared; none is left",
                cost.layers
            )));
        }
        let fewest = cost.specials + (cost.patches - 1) % granularity + 1;
        let lowest: Vec<usize> =
            (0..cost.layers).map(|layer| if layer < spared { cost.tokens() } else { fewest }).collect();
        let floor = 1.0 - cost.saved(&lowest);
        if !(floor..=1.0).contains(&keep) {
            return Err(TrainError::Setting(format!(
                "a cost of {keep} of the dense one cannot be reached; it has to be from {floor:.3} to 1"
            )));
        }
        let count = Candidates::new(&cost, granularity).patches.len();
        let zeros = || Logits { values: vec![0.0; count], first: vec![0.0; count], second: vec![0.0; count] };
        let logits = (spared..cost.layers).map(|_| [zeros(), zeros()]).collect();
        Ok(Self { cost, search, logits })
    }

    fn candidates(&self) -> Candidates {
        Candidates::new(&self.cost, self.search.granularity)
    }

    fn begin(&self, device: &Device) -> Vec<[Count; 2]> {
        let candidates = self.candidates();
        self.logits
            .iter()
            .map(|pair| pair.each_ref().map(|one| candidates.count(&one.values, device)))
            .collect()
    }

    /// The counts as they are now.
    pub fn rates(&self) -> Rates {
        let candidates = self.candidates();
        let all = self.cost.tokens();
        let mut now = [all; 2];
        let whole = |logits: &Logits| {
            let mut shares = vec![0.0; logits.values.len()];
            softmax::softmax_rows(&logits.values, logits.values.len(), &mut shares);
            let expected: f32 =
                shares.iter().zip(&candidates.patches).map(|(share, left)| share * left).sum();
            (expected + self.cost.specials as f32).ceil() as usize
        };
        // What would grow does nothing in the pass; a schedule says the same by staying.
        let mut block = |pair: &[Logits; 2]| {
            let [prune, merge] = pair.each_ref().map(whole);
            now[0] = prune.min(now[0]).min(now[1]);
            now[1] = merge.min(now[0]);
            now
        };
        let learnt: Vec<[usize; 2]> = self.logits.iter().map(&mut block).collect();
        let spared = (0..self.search.spared).map(|_| [all; 2]);
        let (prune, merge) = spared.chain(learnt).map(|[prune, merge]| (prune, merge)).unzip();
        Rates::new(all, self.cost.specials, prune, merge)
    }

    /// The cost of a pass with these counts as a share of the dense one, with its gradient.
    fn share(&self, counts: &[[Count; 2]], device: &Device) -> Tensor<1> {
        let (width, inner) = (self.cost.width as f64, self.cost.feed_forward as f64);
        let mut now = Tensor::<1>::from_data([self.cost.tokens() as f32], device);
        let mut blocks = Tensor::<1>::zeros([1], device);
        for layer in 0..self.cost.layers {
            let attention =
                now.clone() * (4.0 * width * width / 1e9) + now.clone() * now.clone() * (2.0 * width / 1e9);
            if let Some([prune, merge]) = layer.checked_sub(self.search.spared).and_then(|at| counts.get(at))
            {
                now = least(now, &prune.kept, &merge.kept);
            }
            blocks = blocks + attention + now.clone() * (2.0 * width * inner / 1e9);
        }
        let dense = self.cost.dense() as f64;
        blocks * (1e9 / dense) + self.ends() / dense
    }

    /// What is computed outside the blocks.
    fn ends(&self) -> f64 {
        VisionCost { layers: 0, ..self.cost }.reduced(&[]) as f64
    }

    /// One step of AdamW on the gradients that a backward pass left.
    fn step(&mut self, counts: &[[Count; 2]], loss: Tensor<1>, number: u64) {
        let gradients = loss.backward();
        let peak = self.search.learning_rate;
        let schedule = Schedule { peak, floor: peak / 10.0, warm_up: 0, steps: self.search.steps };
        let step = adamw::Step {
            learning_rate: schedule.at(number),
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
            count: u32::try_from(number + 1).unwrap_or(u32::MAX),
        };
        for (logits, count) in self.logits.iter_mut().flatten().zip(counts.iter().flatten()) {
            // A count that took no part in the pass has no gradient.
            let Some(gradient) = count.logits.grad(&gradients).map(op::host) else { continue };
            let Logits { values, first, second } = logits;
            let slices = Slices { parameter: values, gradient: gradient.data(), m: first, v: second };
            adamw::step_scaled(slices, &step, 1.0);
        }
    }
}

/// The least of three in value; its gradient is 1 to both counts and none to what was there before.
fn least(now: Tensor<1>, prune: &Tensor<1>, merge: &Tensor<1>) -> Tensor<1> {
    let value = [&now, prune, merge]
        .map(|one| op::host(one.clone()).data()[0])
        .into_iter()
        .fold(f32::INFINITY, f32::min);
    let both = prune.clone() + merge.clone();
    both.clone() - both.detach() + value
}

/// Learns the counts of `model`, which lies on an autodiff device; `examples` gives the batch of a step.
///
/// # Errors
/// If the wanted cost cannot be reached, the model sorts nothing, or a batch cannot be made.
pub fn learn(
    model: Vision,
    search: Search,
    examples: &mut dyn FnMut(u64) -> Result<Examples, TrainError>,
    report: &mut dyn FnMut(&Step),
) -> Result<Rates, TrainError> {
    let mut counts = Counts::new(VisionCost::of(model.config()), search)?;
    let model = model.no_grad();
    for step in 0..search.steps {
        let Examples { pixels, labels } = examples(step)?;
        let device = pixels.device();
        let leaves = counts.begin(&device);
        let mut pass = Masked::new(&leaves, search.spared, model.config().specials());
        let targets = targets(&model, &pixels, labels)?;
        let loss = -(softmax::log_softmax(pass.scores(&model, pixels)?) * targets).sum_dim(1).mean();
        let share = counts.share(&leaves, &device);
        let [value, cost] = [&loss, &share].map(|one| op::host(one.clone()).data()[0]);
        let distance = share - search.keep;
        counts.step(&leaves, loss + distance.clone() * distance * PRESSURE, step);
        report(&Step { step, loss: value, cost: f64::from(cost) });
    }
    Ok(counts.rates())
}

/// The wanted probabilities of the classes. `[images, classes]`
fn targets(model: &Vision, pixels: &Tensor<4>, labels: Option<Vec<u32>>) -> Result<Tensor<2>, TrainError> {
    let batch = pixels.dims()[0];
    let Some(labels) = labels else {
        let hidden = model.forward(pixels.clone(), &mut Batched::whole(batch, None));
        let scores = model.logits(&hidden, None).ok_or_else(no_classes)?.logits;
        return Ok(softmax::softmax(scores).detach());
    };
    let classes = model.config().head.classes().ok_or_else(no_classes)?;
    let row = |&label: &u32| (0..classes as u32).map(move |class| f32::from(class == label));
    let values: Vec<f32> = labels.iter().flat_map(row).collect();
    Ok(Tensor::from_data(TensorData::new(values, [batch, classes]), &pixels.device()))
}

fn no_classes() -> TrainError {
    TrainError::Setting(
        "the model sorts nothing into classes, so there is nothing to learn counts from".into(),
    )
}

/// A pass in which tokens are masked instead of removed. They lie in the order of their ranks, those that are gone
/// behind all others.
struct Masked<'a> {
    counts: &'a [[Count; 2]],
    spared: usize,
    specials: usize,
    /// Tokens that are not gone, of every image.
    alive: usize,
    /// `[images, tokens, 1]`: 1 for what is there, 0 for what is gone, with the gradient.
    mask: Option<Tensor<3>>,
    /// `[images, tokens]`
    sizes: Vec<f32>,
    /// The attention that each token gets, from the class token where there is one. `[images, tokens]`
    attention: Vec<f32>,
}

impl<'a> Masked<'a> {
    fn new(counts: &'a [[Count; 2]], spared: usize, specials: usize) -> Self {
        Self { counts, spared, specials, alive: 0, mask: None, sizes: Vec::new(), attention: Vec::new() }
    }

    /// The scores of the classes with these counts. `[images, classes]`
    fn scores(&mut self, model: &Vision, pixels: Tensor<4>) -> Result<Tensor<2>, TrainError> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::reducers::Images;
    use crate::methods::reducers::testing::{plan, vision_in};
    use crate::nn::vars::Storage;
    use burn::tensor::Distribution;

    fn cost() -> VisionCost {
        VisionCost::of(vision_in(6, &Storage::Dense(Device::flex())).config())
    }

    fn counts(keep: f64) -> Counts {
        Counts::new(cost(), Search { keep, ..Search::default() }).unwrap()
    }

    fn value(tensor: &Tensor<1>) -> f32 {
        op::host(tensor.clone()).data()[0]
    }

    /// Logits that make `patches` nearly certain.
    fn sure(counts: &mut Counts, chosen: &[[usize; 2]]) {
        let candidates = counts.candidates();
        for (pair, patches) in counts.logits.iter_mut().zip(chosen) {
            for (logits, &patches) in pair.iter_mut().zip(patches) {
                let near =
                    |candidate: &f32| if (*candidate - patches as f32).abs() < 0.5 { 30.0 } else { 0.0 };
                logits.values = candidates.patches.iter().map(near).collect();
            }
        }
    }

    #[test]
    fn survival_falls_with_the_rank_and_the_count_is_its_sum() {
        let leaves = counts(0.6).begin(&Device::flex().autodiff());
        let count = &leaves[0][0];
        let survives = op::host(count.survives.clone()).into_vec();
        assert!(survives.windows(2).all(|pair| pair[1] <= pair[0]));
        assert!((survives[0] - 1.0).abs() < 1e-6, "the class token is always there");
        // Equal chances of 64, 60, ..., 4 patches: 34 on average, and the class token.
        assert_eq!((count.whole, value(&count.kept)), (35, 35.0));
    }

    /// The gradient of the cost by finite differences of the formula without rounding.
    #[test]
    fn the_gradient_of_the_cost_is_that_of_the_formula() {
        let device = Device::flex().autodiff();
        let mut counts = counts(0.6);
        sure(&mut counts, &[[48, 48], [40, 40], [32, 32], [24, 24], [16, 16]]);
        for (at, logits) in counts.logits.iter_mut().flatten().enumerate() {
            logits
                .values
                .iter_mut()
                .enumerate()
                .for_each(|(i, value)| *value = *value * 0.1 + ((i + at) as f32).sin());
        }
        let leaves = counts.begin(&device);
        let gradients = counts.share(&leaves, &device).backward();
        let expected = |counts: &Counts| -> Vec<[f64; 2]> {
            let leaves = counts.begin(&device);
            let mean = |count: &Count| f64::from(op::host(count.survives.clone().sum()).data()[0]);
            leaves.iter().map(|pair| pair.each_ref().map(mean)).collect()
        };
        let (cost, base) = (counts.cost, expected(&counts));
        // What each block leaves moves with the sum of its two counts, from where rounding put it.
        let share = |now: &[[f64; 2]]| {
            let (width, inner) = (cost.width as f64, cost.feed_forward as f64);
            let mut tokens = cost.tokens() as f64;
            let mut sum = 0.0;
            let mut least = tokens;
            for layer in 0..cost.layers {
                sum += 4.0 * tokens * width * width + 2.0 * tokens * tokens * width;
                if layer > 0 {
                    let [pair, start] = [now[layer - 1], base[layer - 1]];
                    let whole = leaves[layer - 1].each_ref().map(|count| count.whole as f64);
                    least = least.min(whole[0]).min(whole[1]);
                    tokens = least + pair[0] - start[0] + pair[1] - start[1];
                }
                sum += 2.0 * tokens * width * inner;
            }
            sum / cost.dense() as f64
        };
        for (layer, which, at) in [(0, 0, 3), (2, 1, 8), (4, 0, 12)] {
            let gradient =
                f64::from(op::host(leaves[layer][which].logits.grad(&gradients).unwrap()).data()[at]);
            let moved = |by: f32| {
                let mut moved = counts.clone();
                moved.logits[layer][which].values[at] += by;
                share(&expected(&moved))
            };
            let difference = (moved(0.05) - moved(-0.05)) / 0.1;
            assert!((gradient - difference).abs() < 0.01 * difference.abs(), "{gradient} {difference}");
        }
    }

    #[test]
    fn the_cost_alone_leads_to_the_wanted_cost() {
        for keep in [0.4, 0.8] {
            let device = Device::flex().autodiff();
            let mut counts = counts(keep);
            for step in 0..300 {
                let leaves = counts.begin(&device);
                let distance = counts.share(&leaves, &device) - keep;
                counts.step(&leaves, distance.clone() * distance * PRESSURE, step);
            }
            let rates = counts.rates();
            rates.check(6).unwrap();
            let share = 1.0 - counts.cost.saved(&rates.left());
            assert!((share / keep - 1.0).abs() < 0.02, "{share} instead of {keep}: {rates}");
        }
    }

    /// Masking all through the blocks is what removing is.
    #[test]
    fn a_masked_pass_equals_one_with_fewer_tokens() {
        let device = Device::flex().autodiff();
        let model = vision_in(6, &Storage::Dense(device.clone())).no_grad();
        let pixels = Tensor::<4>::random([3, 3, 16, 16], Distribution::Normal(0.0, 1.0), &device);
        for chosen in [
            [[48, 64], [48, 64], [32, 64], [24, 64], [8, 64]],
            [[64, 60], [52, 48], [48, 40], [40, 20], [16, 4]],
        ] {
            let mut counts = counts(0.6);
            sure(&mut counts, &chosen);
            let leaves = counts.begin(&device);
            let mut pass = Masked::new(&leaves, 1, 1);
            let masked = op::host(pass.scores(&model, pixels.clone()).unwrap()).into_vec();
            let mask = op::host(pass.mask.clone().unwrap()).into_vec();
            assert!(mask.iter().all(|value| *value == 0.0 || *value == 1.0));

            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("rates.json");
            std::fs::write(&path, counts.rates().to_json()).unwrap();
            let plan = plan(&format!("diffrate:schedule={}", path.display()), 6).unwrap();
            let mut images = Images::new((0..3).map(|_| plan.begin().reducer.unwrap()).collect(), 1);
            let hidden = model.forward(pixels.clone(), &mut Reducing::new(3, &mut images));
            images.finish().unwrap();
            assert_eq!(images.tokens(), *counts.rates().left().last().unwrap());
            let reduced = op::host(model.logits(&hidden, images.sizes()).unwrap().logits).into_vec();
            for (a, b) in masked.iter().zip(&reduced) {
                assert!((a - b).abs() < 1e-3, "{a} {b}");
            }
        }
    }

    /// The loss of the model reaches the counts through the masks.
    #[test]
    fn a_search_learns_and_ends_at_the_wanted_cost() {
        let device = Device::flex().autodiff();
        let model = vision_in(3, &Storage::Dense(device.clone()));
        let cost = VisionCost::of(model.config());
        let pixels = Tensor::<4>::random([2, 3, 16, 16], Distribution::Normal(0.0, 1.0), &device);
        let mut seen = Vec::new();
        let search = Search { keep: 0.7, steps: 30, learning_rate: 0.1, ..Search::default() };
        let mut examples = |_| Ok(Examples { pixels: pixels.clone(), labels: None });
        let rates = learn(model, search, &mut examples, &mut |step| seen.push(*step)).unwrap();
        assert_eq!((seen.len(), rates.prune[0]), (30, 65));
        assert!(seen.iter().all(|step| step.loss.is_finite()));
        assert!((cost.saved(&rates.left()) - 0.3).abs() < 0.08, "{rates}");
    }

    #[test]
    fn what_cannot_be_reached_is_refused() {
        for search in [
            Search { keep: 1.1, ..Search::default() },
            Search { keep: 0.01, ..Search::default() },
            Search { granularity: 0, ..Search::default() },
            Search { spared: 6, ..Search::default() },
        ] {
            assert!(matches!(Counts::new(cost(), search), Err(TrainError::Setting(_))), "{search:?}");
        }
    }
}
