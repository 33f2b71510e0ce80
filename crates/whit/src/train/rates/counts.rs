//! The counts of a search: candidates and their logits, the expected number of tokens, and what a pass with them
//! costs, all with gradients.

use burn::tensor::{Device, Tensor, TensorData, activation};
use whit_kernels::adamw::{self, Slices};
use whit_kernels::{op, softmax};

use super::Search;
use crate::measure::macs::VisionCost;
use crate::methods::reducers::rates::Rates;
use crate::train::TrainError;
use crate::train::schedule::Schedule;

/// The logits of the candidates of all counts, and what the optimiser remembers of them.
#[derive(Clone, Debug)]
pub struct Counts {
    pub(super) cost: VisionCost,
    search: Search,
    /// For each block that may lose tokens those of pruning and those of merging.
    pub(super) logits: Vec<[Logits; 2]>,
}

#[derive(Clone, Debug)]
pub(super) struct Logits {
    pub(super) values: Vec<f32>,
    first: Vec<f32>,
    second: Vec<f32>,
}

/// The logit of what is sure beside those of the others, which are 0.
const SURE: f32 = 30.0;

/// The candidates that every count has: how many patches stay.
#[derive(Clone, Debug)]
pub(super) struct Candidates {
    pub(super) patches: Vec<f32>,
    specials: usize,
    tokens: usize,
}

/// One count in one pass.
#[derive(Clone, Debug)]
pub(super) struct Count {
    /// The leaf that gets the gradient.
    pub(super) logits: Tensor<1>,
    /// The expected count with the gradient, its value rounded up: `[1]`.
    pub(super) kept: Tensor<1>,
    pub(super) whole: usize,
    /// The probability that the token at each rank survives. `[tokens]`
    pub(super) survives: Tensor<1>,
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
        let Search { keep, granularity, spared, merge_only, .. } = search;
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
        let mut prunes = zeros();
        prunes.values[0] = if merge_only { SURE } else { 0.0 };
        let logits = (spared..cost.layers).map(|_| [prunes.clone(), zeros()]).collect();
        Ok(Self { cost, search, logits })
    }

    pub(super) fn candidates(&self) -> Candidates {
        Candidates::new(&self.cost, self.search.granularity)
    }

    pub(super) fn begin(&self, device: &Device) -> Vec<[Count; 2]> {
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
    pub(super) fn share(&self, counts: &[[Count; 2]], device: &Device) -> Tensor<1> {
        let (width, inner) = (self.cost.width as f64, self.cost.feed_forward as f64);
        let mut now = Tensor::<1>::from_data([self.cost.tokens() as f32], device);
        let mut blocks = Tensor::<1>::zeros([1], device);
        for layer in 0..self.cost.layers {
            let projections = self.cost.projections as f64;
            let attention = now.clone() * (projections * width * width / 1e9)
                + now.clone() * now.clone() * (2.0 * width / 1e9);
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
    pub(super) fn step(&mut self, counts: &[[Count; 2]], loss: Tensor<1>, number: u64) {
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
        let fixed = usize::from(self.search.merge_only);
        let learnt = self.logits.iter_mut().flat_map(|pair| &mut pair[fixed..]);
        for (logits, count) in learnt.zip(counts.iter().flat_map(|pair| &pair[fixed..])) {
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
