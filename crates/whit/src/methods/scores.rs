//! Scores of cached rows, the common ground of methods that thin a cache out: attention received is
//! reduced over the query heads that share a cache ([`reduce`]), tallied over time ([`Tally`]), turned into
//! scores ([`Scorer`]), smoothed ([`max_pool`]), and the best rows of every head are chosen ([`keep`],
//! [`share`]).

use std::collections::VecDeque;
use std::fmt::Debug;

use super::importance::max_pool;
use super::{Observation, Observed};
use crate::generate::cache::HeadRows;

/// A score for every row of every key-value head; higher is worth more.
pub type Scores = Vec<Vec<f32>>;

/// How the query heads that share a key-value head become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduce {
    /// Their mean.
    Mean,
    /// Their largest.
    Max,
}

/// Reduces one row for each query head to one for each key-value head; `lens` are the heads' lengths.
pub fn reduce(rows: &[&[f32]], lens: &[usize], how: Reduce) -> Scores {
    let group = rows.len() / lens.len().max(1);
    let head = |(members, &len): (&[&[f32]], &usize)| {
        let mut all = members[0][..len].to_vec();
        for member in &members[1..] {
            all.iter_mut().zip(*member).for_each(|(all, &one)| match how {
                Reduce::Mean => *all += one,
                Reduce::Max => *all = all.max(one),
            });
        }
        if how == Reduce::Mean {
            all.iter_mut().for_each(|all| *all /= group as f32);
        }
        all
    };
    rows.chunks(group.max(1)).zip(lens).map(head).collect()
}

/// The rows with the `count` best scores, best first; of equals the earlier one.
pub fn best(scores: &[f32], rows: impl Iterator<Item = usize>, count: usize) -> Vec<usize> {
    let mut rows: Vec<usize> = rows.collect();
    let order = |a: &usize, b: &usize| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b));
    if count < rows.len() {
        rows.select_nth_unstable_by(count, order);
        rows.truncate(count);
    }
    rows.sort_unstable_by(order);
    rows
}

/// Rows that stay whatever their score.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fixed {
    /// So many first ones, which models use as a sink for attention.
    pub first: usize,
    /// So many last ones.
    pub last: usize,
}

impl Fixed {
    /// How many they are.
    pub fn count(self) -> usize {
        self.first + self.last
    }

    /// The rows between them, of `len`.
    fn free(self, len: usize) -> std::ops::Range<usize> {
        self.first.min(len)..len.saturating_sub(self.last).max(self.first.min(len))
    }
}

/// The `count` rows that a head keeps, ascending: the fixed ones, and the best of the others.
pub fn keep(scores: &[f32], count: usize, fixed: Fixed) -> Vec<usize> {
    let free = fixed.free(scores.len());
    let rest = count.saturating_sub(scores.len() - free.len());
    let mut kept = best(scores, free.clone(), rest);
    kept.extend((0..free.start).chain(free.end..scores.len()));
    kept.sort_unstable();
    kept
}

/// How many rows each head keeps of `each` a head on average: every head the best `floor` share of its free
/// ones, the rest to the best of all heads together (AdaKV, arXiv 2407.11550).
pub fn share(scores: &[Vec<f32>], each: usize, fixed: Fixed, floor: f64) -> Vec<usize> {
    let free = each.saturating_sub(fixed.count());
    let floor = (free as f64 * floor) as usize;
    let order = |head: &Vec<f32>| best(head, fixed.free(head.len()), head.len());
    let orders: Vec<Vec<usize>> = scores.iter().map(order).collect();
    let rest = orders
        .iter()
        .enumerate()
        .flat_map(|(head, order)| order.iter().skip(floor).map(move |&row| (scores[head][row], head)));
    let mut rest: Vec<(f32, usize)> = rest.collect();
    rest.sort_by(|a, b| b.0.total_cmp(&a.0));
    let own = |order: &Vec<usize>| order.len().min(floor);
    let spare = (free * scores.len()).saturating_sub(orders.iter().map(own).sum());
    let mut counts: Vec<usize> = orders.iter().map(|order| own(order) + fixed.count()).collect();
    rest.iter().take(spare).for_each(|&(_, head)| counts[head] += 1);
    counts
}

/// What the rows of one layer have received so far.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    global: Scores,
    /// Of the last queries, oldest first. A row pushed later than a query received nothing from it.
    recent: VecDeque<Scores>,
}

impl Tally {
    /// Adds what was seen of a pass; of the last queries it remembers `window`.
    pub fn see(&mut self, seen: &Observed<'_>, lens: &[usize], window: usize) {
        self.global.resize(lens.len(), Vec::new());
        self.global.iter_mut().zip(lens).for_each(|(head, &len)| head.resize(len, 0.0));
        if !seen.column_sums.is_empty() {
            let sums: Vec<&[f32]> = seen.column_sums.chunks_exact(seen.rows).collect();
            add(&mut self.global, &reduce(&sums, lens, Reduce::Mean));
        }
        for query in seen.queries.saturating_sub(window)..seen.queries {
            let row = |head| &seen.last_rows[(head * seen.queries + query) * seen.rows..][..seen.rows];
            let rows: Vec<&[f32]> = (0..seen.heads).map(row).collect();
            self.recent.push_back(reduce(&rows, lens, Reduce::Mean));
        }
        while self.recent.len() > window {
            self.recent.pop_front();
        }
    }

    /// The sums over all queries.
    pub fn global(&self) -> &Scores {
        &self.global
    }

    /// The sums over the last queries.
    pub fn local(&self) -> Scores {
        let mut sums: Scores = self.global.iter().map(|head| vec![0.0; head.len()]).collect();
        self.recent.iter().for_each(|row| add(&mut sums, row));
        sums
    }

    /// Adds what row `from` of a head received to what row `into` did.
    pub fn absorb(&mut self, head: usize, from: usize, into: usize) {
        self.global[head][into] += self.global[head][from];
        for row in self.recent.iter_mut().map(|row| &mut row[head]) {
            let moved = row.get(from).copied().unwrap_or(0.0);
            if let Some(into) = row.get_mut(into) {
                *into += moved;
            }
        }
    }

    /// Keeps the rows at the ascending indices `kept` of each head.
    pub fn gather(&mut self, kept: &[Vec<usize>]) {
        for row in std::iter::once(&mut self.global).chain(&mut self.recent) {
            for (head, kept) in row.iter_mut().zip(kept) {
                *head = kept.iter().map_while(|&row| head.get(row).copied()).collect();
            }
        }
    }

    /// The bytes it holds.
    pub fn bytes(&self) -> usize {
        let values = |row: &Scores| row.iter().map(Vec::len).sum::<usize>();
        (values(&self.global) + self.recent.iter().map(values).sum::<usize>()) * size_of::<f32>()
    }
}

fn add(sums: &mut [Vec<f32>], row: &[Vec<f32>]) {
    for (sums, row) in sums.iter_mut().zip(row) {
        sums.iter_mut().zip(row).for_each(|(sum, one)| *sum += one);
    }
}

/// Says what a row is worth.
pub trait Scorer: Debug + Send + Sync {
    /// What it needs to see of the attention.
    fn wants(&self) -> Observation {
        Observation::default()
    }

    /// The scores of one layer's rows.
    fn scores(&self, tally: &Tally, cache: &[HeadRows]) -> Scores;
}

/// All rows are worth the same: only the fixed ones stay.
#[derive(Clone, Copy, Debug)]
pub struct Equal;

/// The attention that a row received from all queries since it came.
#[derive(Clone, Copy, Debug)]
pub struct Global;

/// The attention that a row received from the last `window` queries, pooled over `reach` neighbours.
#[derive(Clone, Copy, Debug)]
pub struct Local {
    /// Queries that count.
    pub window: usize,
    /// A row takes the largest sum within so many rows to either side.
    pub reach: usize,
}

/// The larger of [`Local`] and [`Global`], brought to the same mean (EMS, arXiv 2412.08521).
#[derive(Clone, Copy, Debug)]
pub struct GlobalLocal(pub Local);

/// The attention of the last query, the same for all heads of a layer (TOVA, arXiv 2401.06104).
#[derive(Clone, Copy, Debug)]
pub struct LastQuery;

/// Short keys are worth more (arXiv 2406.11430).
#[derive(Clone, Copy, Debug)]
pub struct KeyNorm;

impl Scorer for Equal {
    fn scores(&self, _: &Tally, cache: &[HeadRows]) -> Scores {
        cache.iter().map(|head| vec![0.0; head.len()]).collect()
    }
}

impl Scorer for Global {
    fn wants(&self) -> Observation {
        Observation { column_sums: true, last_rows: 0 }
    }

    fn scores(&self, tally: &Tally, _: &[HeadRows]) -> Scores {
        tally.global().clone()
    }
}

impl Scorer for Local {
    fn wants(&self) -> Observation {
        Observation { column_sums: false, last_rows: self.window }
    }

    fn scores(&self, tally: &Tally, _: &[HeadRows]) -> Scores {
        tally.local().iter().map(|head| max_pool(head, 2 * self.reach + 1)).collect()
    }
}

impl Scorer for GlobalLocal {
    fn wants(&self) -> Observation {
        self.0.wants().union(Global.wants())
    }

    fn scores(&self, tally: &Tally, _: &[HeadRows]) -> Scores {
        let (local, reach) = (tally.local(), self.0.reach);
        tally.global().iter().zip(&local).map(|(global, local)| global_local(global, local, reach)).collect()
    }
}

impl Scorer for LastQuery {
    fn wants(&self) -> Observation {
        Observation { column_sums: false, last_rows: 1 }
    }

    fn scores(&self, tally: &Tally, _: &[HeadRows]) -> Scores {
        let own = tally.local();
        let longest = own.iter().map(Vec::len).max().unwrap_or(0);
        let at = |row: usize| own.iter().filter_map(|head| head.get(row)).sum::<f32>() / own.len() as f32;
        let mean: Vec<f32> = (0..longest).map(at).collect();
        own.iter().map(|head| mean[..head.len()].to_vec()).collect()
    }
}

impl Scorer for KeyNorm {
    fn scores(&self, _: &Tally, cache: &[HeadRows]) -> Scores {
        let score = |head: &HeadRows, row: usize| -norm(head.key(row));
        cache.iter().map(|head| (0..head.len()).map(|row| score(head, row)).collect()).collect()
    }
}

/// `max(pooled local, global * mean(local) / mean(global))`: the largest of `reach` neighbours to either side is
/// taken behind the alignment, for it raises the local mean and would tip the scale towards the global score.
pub fn global_local(global: &[f32], local: &[f32], reach: usize) -> Vec<f32> {
    let (sum, aim) = (global.iter().sum::<f32>(), local.iter().sum::<f32>());
    let factor = if sum > 0.0 { aim / sum } else { 0.0 };
    let pooled = max_pool(local, 2 * reach + 1);
    global.iter().zip(pooled).map(|(global, local)| local.max(global * factor)).collect()
}

/// The length of a vector.
pub fn norm(vector: &[f32]) -> f32 {
    vector.iter().map(|value| value * value).sum::<f32>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::Moment;

    #[test]
    fn heads_that_share_a_cache_become_one() {
        let rows: [&[f32]; 4] = [&[1.0, 3.0, 9.0], &[3.0, 1.0, 9.0], &[0.0, 2.0, 4.0], &[2.0, 0.0, 0.0]];
        assert_eq!(reduce(&rows, &[2, 3], Reduce::Mean), [vec![2.0, 2.0], vec![1.0, 1.0, 2.0]]);
        assert_eq!(reduce(&rows, &[2, 3], Reduce::Max), [vec![3.0, 3.0], vec![2.0, 2.0, 4.0]]);
    }

    #[test]
    fn fixed_rows_stay_and_of_equals_the_earlier() {
        let scores = [0.0, 1.0, 7.0, 7.0, 7.0, 2.0, 0.0];
        assert_eq!(keep(&scores, 4, Fixed { first: 1, last: 1 }), [0, 2, 3, 6]);
        assert_eq!(keep(&scores, 2, Fixed { first: 1, last: 1 }), [0, 6]);
        assert_eq!(keep(&scores, 9, Fixed { first: 1, last: 1 }), [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(keep(&[1.0, 2.0], 4, Fixed { first: 3, last: 3 }), [0, 1]);
    }

    #[test]
    fn a_head_with_the_better_rows_gets_more_of_them_but_not_all() {
        let fixed = Fixed { first: 0, last: 1 };
        let scores = vec![(0..20).map(|row| 100.0 + row as f32).collect(), vec![1.0; 20]];
        assert_eq!(share(&scores, 11, fixed, 0.2), [1 + 2 + 16, 1 + 2]);
        assert_eq!(share(&scores, 11, fixed, 1.0), [11, 11]);
    }

    #[test]
    fn global_and_local_meet_at_the_same_mean() {
        let (global, local) = ([8.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]);
        assert_eq!(global_local(&global, &local, 0), [2.0, 0.0, 1.0, 1.0]);
        assert_eq!(global_local(&global, &local, 1), [2.0, 1.0, 1.0, 1.0]);
        assert_eq!(global_local(&[0.0; 2], &[1.0, 2.0], 0), [1.0, 2.0]);
    }

    /// A prompt of two tokens, then a step: two query heads on one cache.
    #[test]
    fn a_tally_follows_rows_through_steps_and_gathers() {
        let mut tally = Tally::default();
        let prompt = Observed {
            layer: 0,
            moment: Moment::Prompt,
            heads: 2,
            prompt: 2,
            rows: 2,
            column_sums: &[1.5, 0.5, 1.0, 1.0],
            queries: 2,
            last_rows: &[1.0, 0.0, 0.5, 0.5, 1.0, 0.0, 0.0, 1.0],
        };
        tally.see(&prompt, &[2], 2);
        assert_eq!((tally.global(), tally.local()), (&vec![vec![1.25, 0.75]], vec![vec![1.25, 0.75]]));
        let weights = [0.25, 0.25, 0.5, 0.75, 0.25, 0.0];
        let step = Observed { moment: Moment::Step, rows: 3, queries: 1, column_sums: &weights, ..prompt };
        tally.see(&Observed { last_rows: &weights, ..step }, &[3], 2);
        assert_eq!(tally.global(), &[vec![1.75, 1.0, 0.25]]);
        assert_eq!(tally.local(), [vec![0.75, 1.0, 0.25]]);
        tally.absorb(0, 0, 1);
        tally.gather(&[vec![1, 2]]);
        assert_eq!((tally.global(), tally.local()), (&vec![vec![2.75, 0.25]], vec![vec![1.75, 0.25]]));
        assert_eq!(tally.bytes(), 4 * (2 + 1 + 2));
    }
}
