//! What becomes of the rows that a cache no longer has room for: nothing ([`Evict`]), or part of a row
//! that stays ([`Ems`], [`Cam`]). A merger changes kept rows in place and says whose attention goes where;
//! gathering the kept rows is left to the caller.

use std::fmt::Debug;

use whit_kernels::matmul::{Side, Sizes, multiply};

use super::scores::{best, norm};
use crate::generate::cache::HeadRows;

/// The rows of one head before some are dropped.
#[derive(Clone, Copy, Debug)]
pub struct Split<'a> {
    /// The rows that stay, ascending; the others are dropped.
    pub kept: &'a [usize],
    /// The score of every row.
    pub scores: &'a [f32],
    /// Different for each layer and head, for mergers that draw lots.
    pub seed: u64,
}

/// A dropped row, and the kept row that it was merged into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// The dropped row.
    pub from: usize,
    /// The kept row; the first of several over which it was spread.
    pub into: usize,
}

/// Merges rows that are about to be dropped into those that stay.
pub trait Merger: Debug + Send + Sync {
    /// Changes the kept rows of `head`; tells which rows went into which.
    fn merge(&self, head: &mut HeadRows, split: &Split<'_>) -> Vec<Moved>;

    /// Whether a kept row takes over the attention that the rows merged into it received.
    fn inherits(&self) -> bool {
        true
    }
}

impl Split<'_> {
    /// The rows that are dropped, ascending.
    pub fn dropped(&self) -> Vec<usize> {
        let mut kept = self.kept.iter().peekable();
        (0..self.scores.len()).filter(|row| kept.next_if(|at| *at == row).is_none()).collect()
    }
}

/// Drops them.
#[derive(Clone, Copy, Debug)]
pub struct Evict;

impl Merger for Evict {
    fn merge(&self, _: &mut HeadRows, _: &Split<'_>) -> Vec<Moved> {
        Vec::new()
    }
}

/// Evict, then merge (EMS, arXiv 2412.08521): the least important rows are dropped, each of the others
/// joins the kept row that it resembles most in key and value, and those that resemble none enough join a
/// class of zeros that is thrown away.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ems {
    /// The resemblance to the class of zeros; above 1 nothing is merged.
    pub tau: f32,
    /// The share of a head's score that is dropped unseen.
    pub rho: f32,
    /// Whether keys are merged too.
    pub keys: bool,
}

impl Default for Ems {
    fn default() -> Self {
        Self { tau: 0.6, rho: 0.05, keys: true }
    }
}

/// Rows that are compared with the centres in one product.
const BLOCK: usize = 256;

/// Below it a vector has no direction.
const EPSILON: f32 = 1e-6;

impl Merger for Ems {
    fn merge(&self, head: &mut HeadRows, split: &Split<'_>) -> Vec<Moved> {
        let candidates = self.candidates(split);
        if candidates.is_empty() || split.kept.is_empty() || self.tau > 1.0 {
            return Vec::new();
        }
        let moved = self.assign(head, split.kept, &candidates);
        let mut by_centre = moved.clone();
        by_centre.sort_by_key(|moved| moved.into);
        for members in by_centre.chunk_by(|a, b| a.into == b.into) {
            self.join(head, members, split.scores);
        }
        moved
    }
}

impl Ems {
    /// The dropped rows without the tail that holds less than `rho` of the head's score.
    fn candidates(&self, split: &Split<'_>) -> Vec<usize> {
        let dropped = split.dropped();
        let mut order = best(split.scores, dropped.iter().copied(), dropped.len());
        let allowance = f64::from(self.rho) * split.scores.iter().map(|&score| f64::from(score)).sum::<f64>();
        let mut tail = 0.0;
        while let Some(&last) = order.last() {
            tail += f64::from(split.scores[last]);
            if tail >= allowance {
                break;
            }
            order.pop();
        }
        order.sort_unstable();
        order
    }

    /// For each row the centre it resembles most, if it resembles one more than zeros.
    fn assign(&self, head: &HeadRows, centres: &[usize], rows: &[usize]) -> Vec<Moved> {
        let [keys, values] = units(head, centres);
        let mut moved = Vec::new();
        for block in rows.chunks(BLOCK) {
            let [own_keys, own_values] = units(head, block);
            let sizes = Sizes { rows: block.len(), depth: head.dim(), columns: centres.len() };
            let cosines = |own: &[f32], theirs: &[f32]| {
                let mut cosines = vec![0.0; sizes.rows * sizes.columns];
                multiply(sizes, Side::Straight(own), Side::Transposed(theirs), false, &mut cosines);
                cosines
            };
            let (keys, values) = (cosines(&own_keys, &keys), cosines(&own_values, &values));
            let pairs = keys.chunks_exact(centres.len()).zip(values.chunks_exact(centres.len()));
            for (&from, (keys, values)) in block.iter().zip(pairs) {
                moved.extend(self.nearest(keys, values).map(|index| Moved { from, into: centres[index] }));
            }
        }
        moved
    }

    /// The centre with the largest product of both cosines, above `tau`; two negative ones are no
    /// resemblance.
    fn nearest(&self, keys: &[f32], values: &[f32]) -> Option<usize> {
        let mut nearest = None;
        let mut top = self.tau;
        for (index, (&key, &value)) in keys.iter().zip(values).enumerate() {
            if key > 0.0 && value > 0.0 && key * value > top {
                (nearest, top) = (Some(index), key * value);
            }
        }
        nearest
    }

    /// Values become their mean weighted by score. Keys are averaged as directions and lengths apart, for
    /// a mean of vectors that point different ways is too short.
    fn join(&self, head: &mut HeadRows, members: &[Moved], scores: &[f32]) {
        let centre = members[0].into;
        let rows = || std::iter::once(centre).chain(members.iter().map(|moved| moved.from));
        let total: f32 = rows().map(|row| scores[row]).sum();
        if total.is_nan() || total <= 0.0 {
            return;
        }
        let mut value = vec![0.0; head.dim()];
        let mut direction = vec![0.0; head.dim()];
        let mut length = 0.0;
        for row in rows() {
            let share = scores[row] / total;
            let own = norm(head.key(row));
            length += share * own;
            value.iter_mut().zip(head.value(row)).for_each(|(sum, value)| *sum += share * value);
            let turn = share / own.max(EPSILON);
            direction.iter_mut().zip(head.key(row)).for_each(|(sum, key)| *sum += turn * key);
        }
        let factor = length / norm(&direction).max(EPSILON);
        let (key, into) = head.row_mut(centre);
        into.copy_from_slice(&value);
        if self.keys {
            key.iter_mut().zip(&direction).for_each(|(key, part)| *key = part * factor);
        }
    }
}

/// Keys and values of some rows, each of length 1: twice `[rows, dim]`.
fn units(head: &HeadRows, rows: &[usize]) -> [Vec<f32>; 2] {
    let unit = |vector: &[f32], to: &mut Vec<f32>| {
        let factor = norm(vector).max(EPSILON).recip();
        to.extend(vector.iter().map(|value| value * factor));
    };
    let mut units = [0; 2].map(|_| Vec::with_capacity(rows.len() * head.dim()));
    for &row in rows {
        unit(head.key(row), &mut units[0]);
        unit(head.value(row), &mut units[1]);
    }
    units
}

/// Cache merging (CaM, ICML 2024): the value of a dropped row is spread evenly over the next kept rows,
/// with the probability of its score over theirs. Keys stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cam {
    /// Over how many kept rows a value is spread.
    pub spread: usize,
}

impl Default for Cam {
    fn default() -> Self {
        Self { spread: 32 }
    }
}

impl Merger for Cam {
    fn merge(&self, head: &mut HeadRows, split: &Split<'_>) -> Vec<Moved> {
        let mut moved = Vec::new();
        for row in split.dropped() {
            let next = split.kept.partition_point(|&kept| kept < row);
            let next = &split.kept[next..(next + self.spread).min(split.kept.len())];
            let mean = next.iter().map(|&row| split.scores[row]).sum::<f32>() / next.len().max(1) as f32;
            let chance = if mean > 0.0 { split.scores[row] / mean } else { 0.0 };
            if chance > lot(split.seed, head.positions()[row]) {
                spread(head, row, next);
                moved.extend(next.first().map(|&into| Moved { from: row, into }));
            }
        }
        moved
    }

    fn inherits(&self) -> bool {
        false
    }
}

fn spread(head: &mut HeadRows, row: usize, into: &[usize]) {
    let share = (into.len() as f32).recip();
    let value: Vec<f32> = head.value(row).iter().map(|value| value * share).collect();
    for &row in into {
        let (_, to) = head.row_mut(row);
        to.iter_mut().zip(&value).for_each(|(to, value)| *to += value);
    }
}

/// A number from 0 to 1 that depends on its arguments only (SplitMix64).
fn lot(seed: u64, position: u32) -> f32 {
    let mut x = (seed << 32 | u64::from(position)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((x ^ (x >> 31)) >> 40) as f32 / (1u64 << 24) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(rows: &[([f32; 2], [f32; 2])]) -> HeadRows {
        let mut head = HeadRows::with_capacity(2, rows.len());
        rows.iter().enumerate().for_each(|(at, (key, value))| head.push(key, value, at as u32));
        head
    }

    fn close(a: &[f32], b: &[f32]) -> bool {
        a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-6 * b.abs().max(1.0))
    }

    const KEEP_ALL: Ems = Ems { tau: 0.6, rho: 0.0, keys: true };

    #[test]
    fn a_duplicate_changes_nothing_and_an_opposite_goes_to_the_zeros() {
        let row = ([3.0, 4.0], [1.0, -2.0]);
        // Two negative cosines have a positive product, and yet are no resemblance.
        let mut head = head(&[row, row, ([-3.0, -4.0], [-1.0, 2.0])]);
        let moved = KEEP_ALL.merge(&mut head, &Split { kept: &[1], scores: &[0.3, 0.7, 0.5], seed: 0 });
        assert_eq!(moved, [Moved { from: 0, into: 1 }]);
        assert!(close(head.key(1), &row.0) && close(head.value(1), &row.1));
    }

    #[test]
    fn a_merge_by_hand() {
        // Directions (1, 0) and (0.8, 0.6), weights 3 and 1: (0.95, 0.15), lengths 2 and 10: 4.
        let mut head = head(&[([2.0, 0.0], [1.0, 0.0]), ([8.0, 6.0], [1.0, 1.0])]);
        let split = Split { kept: &[0], scores: &[3.0, 1.0], seed: 0 };
        assert_eq!(Ems { tau: 0.5, ..KEEP_ALL }.merge(&mut head, &split).len(), 1);
        let length = (0.95f32 * 0.95 + 0.15 * 0.15).sqrt();
        assert!(close(head.key(0), &[4.0 * 0.95 / length, 4.0 * 0.15 / length]), "{:?}", head.key(0));
        assert!(close(head.value(0), &[1.0, 0.25]), "{:?}", head.value(0));
    }

    #[test]
    fn keys_can_be_left_alone() {
        let mut head = head(&[([2.0, 0.0], [1.0, 0.0]), ([8.0, 6.0], [1.0, 1.0])]);
        let split = Split { kept: &[0], scores: &[3.0, 1.0], seed: 0 };
        Ems { tau: 0.5, keys: false, ..KEEP_ALL }.merge(&mut head, &split);
        assert_eq!((head.key(0), head.value(0)), (&[2.0, 0.0][..], &[1.0, 0.25][..]));
    }

    #[test]
    fn the_tail_below_rho_is_dropped_unseen() {
        let ems = Ems { rho: 0.05, ..KEEP_ALL };
        let scores = [0.5, 0.02, 0.3, 0.02, 0.16];
        let split = Split { kept: &[0], scores: &scores, seed: 0 };
        assert_eq!(ems.candidates(&split), [2, 4]);
        assert_eq!(KEEP_ALL.candidates(&split), [1, 2, 3, 4]);
    }

    #[test]
    fn above_one_nothing_is_merged() {
        let row = ([3.0, 4.0], [1.0, -2.0]);
        let mut head = head(&[row, row]);
        let split = Split { kept: &[1], scores: &[0.3, 0.7], seed: 0 };
        assert!(Ems { tau: 1.01, ..KEEP_ALL }.merge(&mut head, &split).is_empty());
    }

    /// Blocks and their product against one pair after the other.
    #[test]
    fn centres_are_those_of_the_plain_double_loop() {
        let mut head = HeadRows::with_capacity(16, 700);
        let wave = |row: usize, shift: usize| -> Vec<f32> {
            (0..16).map(|at| ((row % 37 * 17 + at * at + shift) as f32 * 0.7).sin() + 0.4).collect()
        };
        (0..700).for_each(|row| head.push(&wave(row, row / 37), &wave(row, 3), row as u32));
        let (centres, rows): (Vec<usize>, Vec<usize>) = (0..700).partition(|row| row % 5 == 0);
        let ems = Ems { tau: 0.97, ..KEEP_ALL };
        let moved = ems.assign(&head, &centres, &rows);
        let cosine = |a: &[f32], b: &[f32]| {
            let dot: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum();
            dot / f64::from(norm(a) * norm(b))
        };
        let alike = |row: usize, centre: usize| {
            let (key, value) =
                (cosine(head.key(row), head.key(centre)), cosine(head.value(row), head.value(centre)));
            if key > 0.0 && value > 0.0 { key * value } else { 0.0 }
        };
        assert!(moved.len() > 100 && moved.len() < rows.len());
        for &row in &rows {
            let top = centres.iter().map(|&centre| alike(row, centre)).fold(0.0, f64::max);
            match moved.iter().find(|moved| moved.from == row) {
                Some(moved) => assert!(alike(row, moved.into) > top - 1e-5 && top > 0.97 - 1e-5),
                None => assert!(top < 0.97 + 1e-5, "row {row} resembles a centre by {top}"),
            }
        }
    }

    #[test]
    fn cam_spreads_a_value_over_the_next_rows() {
        let mut rows = [([1.0, 0.0], [4.0, 8.0]); 4];
        rows[1].1 = [0.0, 0.0];
        let mut head = head(&rows);
        // As important as the rows behind it: merged for certain.
        let split = Split { kept: &[1, 2, 3], scores: &[1.0, 1.0, 1.0, 0.1], seed: 7 };
        Cam { spread: 2 }.merge(&mut head, &split);
        assert_eq!(
            (head.value(1), head.value(2), head.value(3)),
            (&[2.0, 4.0][..], &[6.0, 12.0][..], &[4.0, 8.0][..])
        );
        assert_eq!(head.key(1), &[1.0, 0.0]);
    }

    #[test]
    fn cam_draws_by_score() {
        let drawn = (0..1000).filter(|&position| 0.3 > lot(5, position)).count();
        assert!((250..350).contains(&drawn), "{drawn}");
    }
}
