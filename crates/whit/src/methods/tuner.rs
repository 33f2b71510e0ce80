//! How many drafted tokens pay on this machine, found while generating. A verification of `n` nodes
//! takes `t(n)` seconds and yields `1 + a(n)` tokens; the tuner picks the size with the most tokens a
//! second. Plain decoding is one of the sizes, so a draft that does not pay switches itself off.
//!
//! Acceptance is known for every size at once, since the trees are nested: the draft says how far each
//! of them would have come. Times are known only for sizes that were run; a size that was not (or not
//! lately) is taken to cost no more than the next smaller one, so promising sizes get tried.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Access, Claim, Kind, Knob, Knobs, Resource, StageKind, Value, Verified};

/// The stage of methods that draft.
pub const STAGES: &[StageKind] = &[StageKind::Draft];

/// The claims of methods that draft.
pub const CLAIMS: &[Claim] = &[
    Claim { resource: Resource::Draft, access: Access::Own },
    Claim { resource: Resource::Acceptance, access: Access::Read },
];

/// The knob that switches tuning off.
pub const fn tune(help: &'static str) -> Knob {
    Knob { name: "tune", kind: Kind::Flag, default: Value::Flag(true), off: None, help }
}

/// The help of [`tune`] for chains of tokens.
pub const TUNE_TOKENS: &str =
    "fit the number of tokens to this machine while running, and stop drafting where it does not pay";

/// The help of [`tune`] for trees.
pub const TUNE_TREE: &str =
    "fit the tree to this machine while running, and stop drafting where it does not pay";

/// The share of a new measurement in the running averages.
const SHARE: f64 = 0.15;

/// A time older than this many steps is forgotten, lest one disturbed measurement decide for good.
const MEMORY: usize = 96;

/// How much better than plain decoding a draft must promise to be.
const MARGIN: f64 = 1.03;

/// Chooses among nested trees.
#[derive(Clone, Debug)]
pub struct Tuner {
    sizes: Vec<Size>,
    step: usize,
}

/// How much to draft: what a tuner that all sequences share finds best, or always the most.
#[derive(Clone, Debug)]
pub struct Tuned {
    most: usize,
    tuner: Option<Arc<Mutex<Tuner>>>,
}

impl Tuned {
    /// At most `most` nodes; of `sizes`, the smaller ones are tried too if the knob [`tune`] is on.
    pub fn new(knobs: &Knobs, sizes: &[usize], most: usize) -> Self {
        let smaller = sizes.iter().copied().filter(|&size| size < most);
        let sizes: Vec<usize> = smaller.chain([most]).collect();
        let tuner = knobs.flag("tune").then(|| Arc::new(Mutex::new(Tuner::new(&sizes))));
        Self { most, tuner }
    }

    /// The most nodes.
    pub fn most(&self) -> usize {
        self.most
    }

    /// Whether it always is the most, so that nothing need be judged.
    pub fn is_fixed(&self) -> bool {
        self.tuner.is_none()
    }

    /// How many nodes to draft next.
    pub fn nodes(&self) -> usize {
        self.tuner().map_or(self.most, |tuner| tuner.choose())
    }

    /// Whether drafting was found not to pay.
    pub fn is_off(&self) -> bool {
        self.tuner().is_some_and(|tuner| tuner.choose() == 0)
    }

    /// Records how long a pass with `nodes` drafted nodes took.
    pub fn timed(&self, nodes: usize, seconds: f64) {
        if let Some(mut tuner) = self.tuner() {
            tuner.timed(nodes, seconds);
        }
    }

    /// Records how many nodes of the draft of each size were, or would have been, accepted.
    pub fn judged(&self, accepted: impl Fn(usize) -> usize) {
        if let Some(mut tuner) = self.tuner() {
            let sizes: Vec<usize> = tuner.sizes().collect();
            tuner.judged(sizes.into_iter().map(accepted));
        }
    }

    fn tuner(&self) -> Option<MutexGuard<'_, Tuner>> {
        self.tuner.as_ref().map(|tuner| tuner.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What came of the drafts of one sequence.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    passes: usize,
    drafted: usize,
    accepted: usize,
}

impl Tally {
    /// Counts a verified draft.
    pub fn add(&mut self, verified: &Verified<'_>) {
        self.passes += 1;
        self.drafted += verified.tree.len() - 1;
        self.accepted += verified.accepted.path.len() - 1;
    }

    /// The counts in words; `off` says that the tuner has switched the draft off.
    pub fn report(&self, off: bool) -> String {
        let mean = |count: usize| count as f64 / self.passes.max(1) as f64;
        let mut text =
            format!("{:.2} tokens a pass with {:.1} drafted", 1.0 + mean(self.accepted), mean(self.drafted));
        if off && self.passes > 0 {
            text += "; switched off: on this machine a wider pass costs more than its tokens save";
        }
        text
    }
}

#[derive(Clone, Debug)]
struct Size {
    nodes: usize,
    /// Mean number of accepted nodes; hopeful before the first draft is judged.
    accepted: f64,
    judged: bool,
    /// Mean seconds of a pass, and the step that measured it last.
    seconds: Option<(f64, usize)>,
}

impl Tuner {
    /// A tuner over trees of these numbers of nodes besides the root, ascending; zero is added.
    pub fn new(sizes: &[usize]) -> Self {
        let size = |&nodes: &usize| Size { nodes, accepted: 0.0, judged: false, seconds: None };
        let sizes = std::iter::once(&0).chain(sizes).map(size).collect();
        Self { sizes, step: 0 }
    }

    /// The numbers of nodes among which it chooses, plain decoding (zero) first.
    pub fn sizes(&self) -> impl Iterator<Item = usize> {
        self.sizes.iter().map(|size| size.nodes)
    }

    /// The number of nodes to draft next.
    pub fn choose(&self) -> usize {
        let Some(plain) = self.rate(0) else { return 0 };
        let rates = (1..self.sizes.len()).filter_map(|index| Some((index, self.rate(index)?)));
        let best = rates.max_by(|a, b| a.1.total_cmp(&b.1));
        best.filter(|(_, rate)| *rate > plain * MARGIN).map_or(0, |(index, _)| self.sizes[index].nodes)
    }

    /// Records how long a pass with `nodes` drafted nodes took.
    pub fn timed(&mut self, nodes: usize, seconds: f64) {
        self.step += 1;
        let step = self.step;
        // A draft may fall short of its size; such a pass says nothing about the size.
        if let Some(size) = self.sizes.iter_mut().find(|size| size.nodes == nodes) {
            let mean = size.seconds.map_or(seconds, |(mean, _)| mean + SHARE * (seconds - mean));
            size.seconds = Some((mean, step));
        }
    }

    /// Records how many nodes of the tree of each size were, or would have been, accepted.
    pub fn judged(&mut self, accepted: impl IntoIterator<Item = usize>) {
        for (size, accepted) in self.sizes.iter_mut().zip(accepted) {
            let accepted = accepted as f64;
            size.accepted =
                if size.judged { size.accepted + SHARE * (accepted - size.accepted) } else { accepted };
            size.judged = true;
        }
    }

    /// Tokens a second with the size at `index`; none where nothing is known of its time.
    fn rate(&self, index: usize) -> Option<f64> {
        let known =
            |size: &Size| size.seconds.filter(|(_, step)| size.nodes == 0 || step + MEMORY > self.step);
        let nearest = &self.sizes[index.saturating_sub(1)..=index];
        let seconds = nearest.iter().rev().find_map(known)?.0;
        Some((1.0 + self.sizes[index].accepted) / seconds.max(1e-9))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `steps` passes on a machine where a pass of `n` nodes takes `time(n)`.
    fn settle(steps: usize, accepted: [usize; 4], time: impl Fn(usize) -> f64) -> Vec<usize> {
        let mut tuner = Tuner::new(&[4, 16, 64]);
        let mut chosen = Vec::new();
        for _ in 0..steps {
            let nodes = tuner.choose();
            chosen.push(nodes);
            tuner.timed(nodes, time(nodes));
            tuner.judged(accepted);
        }
        chosen
    }

    #[test]
    fn where_verification_is_free_the_largest_tree_wins() {
        let chosen = settle(20, [0, 1, 2, 3], |_| 1.0);
        assert_eq!(chosen[0], 0, "plain decoding is timed first");
        assert_eq!(chosen[1..4], [4, 16, 64], "sizes are tried from the smallest on");
        assert!(chosen[4..].iter().all(|&nodes| nodes == 64), "{chosen:?}");
    }

    #[test]
    fn where_every_node_costs_as_much_as_a_token_it_stays_off() {
        let chosen = settle(400, [0, 1, 2, 3], |nodes| 1.0 + nodes as f64);
        let tried = chosen.iter().filter(|&&nodes| nodes > 0).count();
        assert!(tried <= 16, "{tried} of 400 steps were spent on trying");
    }

    #[test]
    fn a_middle_size_is_found() {
        let chosen = settle(60, [0, 1, 2, 2], |nodes| 1.0 + nodes as f64 / 64.0);
        assert!(chosen[10..].iter().filter(|&&nodes| nodes == 16).count() > 45, "{chosen:?}");
    }

    #[test]
    fn a_useless_draft_is_not_drafted() {
        let chosen = settle(20, [0; 4], |_| 1.0);
        assert!(chosen.iter().all(|&nodes| nodes == 0), "{chosen:?}");
    }
}
