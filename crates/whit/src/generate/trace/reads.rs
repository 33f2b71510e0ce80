//! Which keys the decode steps read, in a bounded amount of memory: positions share a bin where there are many,
//! and every second step is forgotten when there are too many.

use crate::methods::{Looking, Reading};

/// The most bins of positions.
const BINS: usize = 768;

/// The most steps that are remembered one by one.
const STEPS: usize = 96;

/// What a method that chooses keys let each layer read.
#[derive(Clone, Debug, Default)]
pub struct Reads {
    layers: usize,
    /// Positions that share a bin.
    width: usize,
    /// Every so many steps one is remembered.
    stride: usize,
    glances: Vec<Glance>,
    /// For each layer, the keys read and those that a dense step would have, over all steps and heads.
    totals: Vec<[u64; 2]>,
}

/// What one step read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glance {
    /// Its number.
    pub step: usize,
    /// Positions that there were.
    pub positions: usize,
    /// For each layer.
    pub layers: Vec<Seen>,
}

/// What one layer of a step read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Seen {
    /// Everything.
    #[default]
    All,
    /// Everything, and it chose for the layers behind it.
    Chose,
    /// For each bin of positions the share of heads that read it, from 0 to 255.
    Some(Vec<u8>),
}

impl Reads {
    /// Nothing yet, of a sequence of at most `limit` positions.
    pub fn new(layers: usize, limit: usize) -> Self {
        let width = limit.div_ceil(BINS).max(1);
        Self { layers, width, stride: 1, glances: Vec::new(), totals: vec![[0; 2]; layers] }
    }

    /// Positions that share a bin.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Every so many steps one is remembered.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// The steps that are remembered.
    pub fn glances(&self) -> &[Glance] {
        &self.glances
    }

    /// The share of the keys of all steps that a layer read.
    pub fn share(&self, layer: usize) -> f64 {
        let [read, all] = self.totals.get(layer).copied().unwrap_or_default();
        if all == 0 { 1.0 } else { read as f64 / all as f64 }
    }

    /// Whether any layer read less than everything.
    pub fn is_sparse(&self) -> bool {
        (0..self.layers).any(|layer| self.share(layer) < 1.0)
    }

    pub(super) fn note(&mut self, step: usize, looking: &Looking, reading: &Reading<'_>, positions: &[u32]) {
        let all = positions.len() as u64;
        let (seen, [read, all]) = match reading {
            Reading::All => (Seen::All, [all, all]),
            Reading::AllScored => (Seen::Chose, [all, all]),
            Reading::Rows(lists) => {
                let read = |list: &Option<Vec<u32>>| list.as_ref().map_or(all, |list| list.len() as u64);
                let total = [lists.iter().map(read).sum(), all * lists.len() as u64];
                (Seen::Some(self.shares(lists, positions)), total)
            }
        };
        if let Some(total) = self.totals.get_mut(looking.layer) {
            *total = [total[0] + read, total[1] + all];
        }
        if step.is_multiple_of(self.stride) {
            self.remember(
                step,
                looking.layer,
                seen,
                positions.iter().max().map_or(0, |&last| last as usize + 1),
            );
        }
    }

    fn remember(&mut self, step: usize, layer: usize, seen: Seen, positions: usize) {
        if self.glances.last().is_none_or(|last| last.step != step) {
            if self.glances.len() == STEPS {
                self.stride *= 2;
                self.glances.retain(|glance| glance.step.is_multiple_of(self.stride));
                if !step.is_multiple_of(self.stride) {
                    return;
                }
            }
            self.glances.push(Glance { step, positions, layers: vec![Seen::All; self.layers] });
        }
        if let Some(slot) = self.glances.last_mut().and_then(|glance| glance.layers.get_mut(layer)) {
            *slot = seen;
        }
    }

    /// How many of the lists hold the rows of each bin.
    fn shares(&self, lists: &[Option<Vec<u32>>], positions: &[u32]) -> Vec<u8> {
        let bin = |row: usize| positions[row] as usize / self.width;
        let bins = (0..positions.len()).map(|row| bin(row) + 1).max().unwrap_or(0);
        let (mut read, mut all) = (vec![0u64; bins], vec![0u64; bins]);
        (0..positions.len()).for_each(|row| all[bin(row)] += lists.len() as u64);
        for list in lists {
            match list {
                Some(rows) => rows.iter().for_each(|&row| read[bin(row as usize)] += 1),
                None => (0..positions.len()).for_each(|row| read[bin(row)] += 1),
            }
        }
        // What was read at all must not round to nothing.
        read.iter().zip(&all).map(|(read, all)| (255 * read).div_ceil(*all.max(&1)) as u8).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looking(layer: usize, rows: usize) -> Looking {
        Looking { layer, rows, new: 1 }
    }

    #[test]
    fn shares_are_by_position_and_totals_exact() {
        let mut reads = Reads::new(2, 6);
        reads.note(1, &looking(0, 4), &Reading::AllScored, &[0, 1, 2, 5]);
        let lists = [Some(vec![0, 3]), Some(vec![3])];
        reads.note(1, &looking(1, 4), &Reading::Rows(&lists), &[0, 1, 2, 5]);
        let glance = &reads.glances()[0];
        assert_eq!((glance.step, glance.positions, &glance.layers[0]), (1, 6, &Seen::Chose));
        assert_eq!(glance.layers[1], Seen::Some(vec![128, 0, 0, 0, 0, 255]));
        assert_eq!((reads.share(0), reads.share(1)), (1.0, 3.0 / 8.0));
        assert!(reads.is_sparse());
    }

    #[test]
    fn memory_is_bounded_whatever_the_length() {
        let mut reads = Reads::new(1, 100_000);
        let positions: Vec<u32> = (0..50_000).step_by(1000).collect();
        for step in 1..2000 {
            reads.note(step, &looking(0, 50), &Reading::Rows(&[Some(vec![1])]), &positions);
        }
        assert!(reads.glances().len() <= STEPS && reads.glances().len() > STEPS / 3);
        assert!(reads.glances().iter().all(|glance| glance.step.is_multiple_of(reads.stride())));
        let Seen::Some(bins) = &reads.glances()[0].layers[0] else { panic!("it read some") };
        assert!(bins.len() <= BINS && bins.iter().filter(|share| **share > 0).count() == 1);
        assert_eq!(reads.share(0), 1.0 / 50.0);
    }
}
