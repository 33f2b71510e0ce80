//! What methods did to one sequence, written down for people: what was cut from its prompt, which rows of its
//! cache went and when, which keys were read, which drafted tokens were accepted. A sequence that nobody
//! watches has no [`Trace`], and then nothing here runs.

mod page;
mod reads;

pub use page::page;
pub use reads::{Glance, Reads, Seen};

use std::ops::Range;

use super::cache::HeadRows;
use crate::methods::{Accepted, KvPolicy, Looking, Moved, Reading, TokenTree};

/// What happened to one sequence.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    cuts: Vec<Cut>,
    /// The prompt as it was read, then the answer: the token at each position.
    tokens: Vec<u32>,
    prompt: usize,
    /// What became of the row of each position. `[layers, heads, positions]`
    fates: Vec<Vec<Vec<Fate>>>,
    reads: Reads,
    steps: Vec<Step>,
    layers: usize,
    /// Layers that the pass in work went through, if not all.
    depth: Option<usize>,
}

/// One method's cut of the prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Tokens before and after.
    pub tokens: [usize; 2],
    /// The text before, where there is one.
    pub before: String,
    /// The text after.
    pub after: String,
    /// The bytes of the text before that stayed, ascending, where the method says it.
    pub stayed: Option<Vec<Range<usize>>>,
}

/// What became of a cached row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fate {
    /// It is still there.
    #[default]
    Kept,
    /// It was dropped.
    Evicted {
        /// After this step; 0 is the prompt.
        step: usize,
    },
    /// It was merged into another.
    Merged {
        /// After this step; 0 is the prompt.
        step: usize,
        /// The position of the other.
        into: u32,
    },
}

/// A decode step, or the end of the prompt, which gives the first token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Tokens that were drafted, its tree without the root.
    pub drafted: Vec<u32>,
    /// How many of them one after the other at most.
    pub deep: usize,
    /// Tokens gained that were drafted; the one behind them is the model's own.
    pub accepted: usize,
    /// Tokens gained.
    pub gained: usize,
    /// Layers that it went through.
    pub layers: usize,
}

impl Trace {
    /// Nothing yet, of a model of `layers`.
    pub fn new(layers: usize) -> Self {
        Self { layers, ..Self::default() }
    }

    /// The cuts of the prompt.
    pub fn cuts(&self) -> &[Cut] {
        &self.cuts
    }

    /// The steps; the first is the prompt's.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// What became of the rows of a head; positions behind the last entry are kept.
    pub fn fates(&self, layer: usize, head: usize) -> &[Fate] {
        self.fates.get(layer).and_then(|heads| heads.get(head)).map_or(&[], Vec::as_slice)
    }

    /// Which keys were read.
    pub fn reads(&self) -> &Reads {
        &self.reads
    }

    /// The tokens at all positions, and how many of them are the prompt's.
    pub fn tokens(&self) -> (&[u32], usize) {
        (&self.tokens, self.prompt)
    }

    pub(super) fn cut(&mut self, cut: Cut) {
        self.cuts.push(cut);
    }

    /// The prompt as it is going to be read, and the most positions that the sequence can have.
    pub(super) fn begin(&mut self, prompt: &[u32], limit: usize) {
        (self.tokens, self.prompt) = (prompt.to_vec(), prompt.len());
        self.reads = Reads::new(self.layers, limit);
    }

    /// Takes what a layer's cache has become since [`positions`]; `moved` holds for each head the rows that
    /// were merged, numbered as they lay before.
    pub(super) fn thinned(
        &mut self,
        layer: usize,
        before: &[Vec<u32>],
        moved: &[Vec<Moved>],
        cache: &[HeadRows],
    ) {
        let step = self.steps.len();
        let count = self.fates.len().max(layer + 1);
        self.fates.resize(count, Vec::new());
        self.fates[layer].resize(cache.len(), Vec::new());
        let changed =
            |(_, (before, now)): &(usize, (&Vec<u32>, &HeadRows))| before.as_slice() != now.positions();
        for (head, (before, now)) in before.iter().zip(cache).enumerate().filter(changed) {
            let fates = &mut self.fates[layer][head];
            let length = before.iter().map(|&position| position as usize + 1).max().unwrap_or(0);
            fates.resize(length.max(fates.len()), Fate::Kept);
            let mut left = now.positions().iter().peekable();
            for position in before.iter().filter(|position| left.next_if_eq(position).is_none()) {
                fates[*position as usize] = Fate::Evicted { step };
            }
            for moved in moved.get(head).into_iter().flatten() {
                fates[before[moved.from] as usize] = Fate::Merged { step, into: before[moved.into] };
            }
        }
    }

    /// Forgets what became of rows from `position` on: they are written anew.
    pub(super) fn forget(&mut self, position: usize) {
        self.fates.iter_mut().flatten().for_each(|fates| fates.truncate(position));
    }

    /// Takes which rows a layer of a decode step reads; `positions` are those of its rows.
    pub(super) fn read(&mut self, looking: &Looking, reading: &Reading<'_>, positions: &[u32]) {
        self.reads.note(self.steps.len(), looking, reading, positions);
    }

    /// Takes after how many layers a decode step ended.
    pub(super) fn left(&mut self, layers: usize) {
        self.depth = Some(layers);
    }

    /// Takes the first token.
    pub(super) fn first(&mut self, gained: &[u32]) {
        self.step(Step { drafted: Vec::new(), deep: 0, accepted: 0, gained: 0, layers: self.layers }, gained);
    }

    /// Takes what a verified tree gave; `gained` may have been cut short by the text's end.
    pub(super) fn verified(&mut self, tree: &TokenTree, accepted: &Accepted, gained: &[u32]) {
        let step = Step {
            drafted: tree.tokens()[1..].to_vec(),
            deep: tree.depths().iter().copied().max().unwrap_or(0),
            accepted: (accepted.path.len() - 1).min(gained.len()),
            gained: 0,
            layers: self.depth.take().unwrap_or(self.layers),
        };
        self.step(step, gained);
    }

    fn step(&mut self, step: Step, gained: &[u32]) {
        self.tokens.extend(gained);
        self.steps.push(Step { gained: gained.len(), ..step });
    }
}

/// The positions of the rows of each head, if somebody wants to know.
pub(super) fn positions(trace: Option<&Trace>, cache: &[HeadRows]) -> Option<Vec<Vec<u32>>> {
    trace.map(|_| cache.iter().map(|head| head.positions().to_vec()).collect())
}

/// Tells a trace what the policies made of a layer whose rows were `before`.
pub(super) fn revised(
    trace: Option<&mut Trace>,
    layer: usize,
    before: Option<Vec<Vec<u32>>>,
    policies: &[Box<dyn KvPolicy>],
    cache: &[HeadRows],
) {
    let (Some(trace), Some(before)) = (trace, before) else { return };
    let moved = policies.iter().map(|policy| policy.moved()).find(|moved| !moved.is_empty());
    trace.thinned(layer, &before, moved.unwrap_or_default(), cache);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(positions: &[u32]) -> HeadRows {
        let mut head = HeadRows::with_capacity(1, positions.len());
        positions.iter().for_each(|&position| head.push(&[0.0], &[0.0], position));
        head
    }

    #[test]
    fn rows_that_went_are_known_by_position_step_and_where_they_went() {
        let mut trace = Trace::new(2);
        trace.begin(&[7; 5], 10);
        let before = vec![vec![0, 1, 2, 3, 4]; 2];
        let moved = [vec![Moved { from: 1, into: 4 }], Vec::new()];
        trace.thinned(1, &before, &moved, &[head(&[0, 3, 4]), head(&[0, 1, 2, 3, 4])]);
        let (out, gone) = (Fate::Kept, Fate::Evicted { step: 0 });
        assert_eq!(trace.fates(1, 0), [out, Fate::Merged { step: 0, into: 4 }, gone, out, out]);
        assert!(trace.fates(1, 1).is_empty() && trace.fates(0, 0).is_empty(), "all of them are kept");

        trace.first(&[8]);
        trace.thinned(1, &[vec![0, 3, 4, 5], vec![]], &[], &[head(&[3, 5]), head(&[])]);
        let late = Fate::Evicted { step: 1 };
        assert_eq!(trace.fates(1, 0)[3..], [out, late, out]);
        assert_eq!(trace.fates(1, 0)[0], late);
        trace.forget(3);
        assert_eq!(trace.fates(1, 0).len(), 3);
    }

    #[test]
    fn a_step_counts_accepted_tokens_only_as_far_as_they_came() {
        let tree = TokenTree::new(vec![1, 5, 6], vec![None, Some(0), Some(1)]).unwrap();
        let accepted = Accepted { path: vec![0, 1, 2], next: 9 };
        let mut trace = Trace::new(2);
        trace.begin(&[1], 10);
        trace.first(&[1]);
        trace.verified(&tree, &accepted, &[5, 6, 9]);
        trace.left(1);
        trace.verified(&tree, &accepted, &[5]);
        let shown: Vec<_> = trace.steps().iter().map(|one| (one.accepted, one.gained, one.layers)).collect();
        assert_eq!(shown, [(0, 1, 2), (2, 3, 2), (1, 1, 1)]);
        assert_eq!(trace.tokens(), (&[1, 1, 5, 6, 9, 5][..], 1));
        assert_eq!((trace.steps()[1].deep, trace.steps()[1].drafted.as_slice()), (2, &[5, 6][..]));
    }
}
