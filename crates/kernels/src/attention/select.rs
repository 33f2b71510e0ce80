//! The largest of many scores, without sorting them all.

use crate::parallel;

/// Bits of a score's rank that the first pass looks at: sign, exponent and three bits of the fraction.
const DIGIT: u32 = 12;

/// [`top`] of each row, over all threads.
pub fn top_rows(rows: &[&[f32]], count: usize) -> Vec<Vec<u32>> {
    let mut chosen = vec![Vec::new(); rows.len()];
    parallel::pieces(&mut chosen, 1, |index, chosen| chosen[0] = top(rows[index], count));
    chosen
}

/// The `count` largest scores, as ascending indices. Among equals the first ones win; `-inf` and NaN are
/// never among them, so there may be fewer.
pub fn top(scores: &[f32], count: usize) -> Vec<u32> {
    let Some((last, mut equals)) = threshold(scores, count) else {
        return (0..).zip(scores).filter(|(_, score)| rank(**score) > 0).map(|(index, _)| index).collect();
    };
    let mut chosen = Vec::with_capacity(count);
    for (index, score) in (0..).zip(scores) {
        let rank = rank(*score);
        if rank > last || (rank == last && equals > 0) {
            equals -= usize::from(rank == last);
            chosen.push(index);
        }
    }
    chosen
}

/// The rank of the `count`-th largest score, and how many of that rank belong to the largest; `None`
/// where all belong.
fn threshold(scores: &[f32], count: usize) -> Option<(u32, usize)> {
    if count == 0 {
        return Some((u32::MAX, 0));
    }
    let mut histogram = vec![0; 1 << DIGIT];
    let mut seen = 0;
    for rank in scores.iter().map(|score| rank(*score)).filter(|rank| *rank > 0) {
        histogram[(rank >> (32 - DIGIT)) as usize] += 1;
        seen += 1;
    }
    if seen <= count {
        return None;
    }
    let mut above = 0;
    let digit = (0..histogram.len()).rev().find(|&digit| {
        above += histogram[digit];
        above >= count
    })? as u32;
    let within = count - (above - histogram[digit as usize]);
    let ranks = scores.iter().map(|score| rank(*score)).filter(|rank| *rank > 0);
    let mut ranks: Vec<u32> = ranks.filter(|rank| rank >> (32 - DIGIT) == digit).collect();
    let (larger, last, _) = ranks.select_nth_unstable_by(within - 1, |a, b| b.cmp(a));
    let last = *last;
    let equals = within - larger.iter().filter(|rank| **rank > last).count();
    Some((last, equals))
}

/// A whole number that orders as the scores do; 0 for what must never be chosen.
fn rank(score: f32) -> u32 {
    let bits = score.to_bits();
    let ordered = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    // Zeros of either sign are equal.
    let ordered = if score == 0.0 { 1 << 31 } else { ordered };
    if score > f32::NEG_INFINITY { ordered } else { 0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Sorts everything.
    fn plain(scores: &[f32], count: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..scores.len() as u32).collect();
        order.retain(|&index| scores[index as usize] > f32::NEG_INFINITY);
        order.sort_by(|&a, &b| scores[b as usize].partial_cmp(&scores[a as usize]).unwrap());
        order.truncate(count);
        order.sort_unstable();
        order
    }

    #[test]
    fn a_small_case_by_hand() {
        let scores = [-3.0, 1.0, f32::NAN, 1.0, f32::NEG_INFINITY, 0.0, 1.0, -0.0];
        assert_eq!(top(&scores, 2), [1, 3]);
        assert_eq!(top(&scores, 4), [1, 3, 5, 6]);
        assert_eq!(top(&scores, 9), [0, 1, 3, 5, 6, 7]);
        assert_eq!(top(&scores, 0), [0u32; 0]);
        assert_eq!(top(&[], 3), [0u32; 0]);
    }

    #[test]
    fn rows_are_apart() {
        assert_eq!(top_rows(&[&[1.0, 2.0, 3.0], &[-1.0, -3.0, -2.0]], 2), [vec![1, 2], vec![0, 2]]);
    }

    proptest! {
        #[test]
        fn the_same_as_sorting(
            // Few values, so that many are equal, or many, so that all bits matter.
            scores in prop_oneof![
                prop::collection::vec((-3i8..3).prop_map(f32::from), 0..300),
                prop::collection::vec(-2.0f32..2.0, 0..300),
                prop::collection::vec(any::<f32>(), 0..300),
            ],
            count in 0usize..320,
        ) {
            prop_assert_eq!(top(&scores, count), plain(&scores, count));
        }
    }
}
