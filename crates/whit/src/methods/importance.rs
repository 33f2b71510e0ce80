//! From how much each token was attended to, to which tokens stay: smoothing, ranking, and the neighbours
//! of the best. What the draft-based methods (arXiv 2506.08373) share.

/// The greatest of the `kernel` scores around each; an even kernel reaches one further to the right.
pub fn max_pool(scores: &[f32], kernel: usize) -> Vec<f32> {
    let before = kernel.saturating_sub(1) / 2;
    let after = kernel.saturating_sub(1) - before;
    let around = |at: usize| &scores[at.saturating_sub(before)..scores.len().min(at + after + 1)];
    (0..scores.len()).map(|at| around(at).iter().copied().fold(f32::NEG_INFINITY, f32::max)).collect()
}

/// The indices of the `count` greatest scores, greatest first; of equal scores the earlier.
pub fn best(scores: &[f32], count: usize) -> Vec<usize> {
    let order = |a: &usize, b: &usize| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b));
    let mut indices: Vec<usize> = (0..scores.len()).collect();
    if count < indices.len() {
        indices.select_nth_unstable_by(count, order);
        indices.truncate(count);
    }
    indices.sort_unstable_by(order);
    indices
}

/// The greatest of several rows of scores in each column. `[rows, columns]` to `[columns]`
pub fn greatest(rows: &[f32], columns: usize) -> Vec<f32> {
    let mut greatest = vec![f32::NEG_INFINITY; columns];
    for row in rows.chunks_exact(columns.max(1)) {
        greatest.iter_mut().zip(row).for_each(|(most, score)| *most = most.max(*score));
    }
    greatest
}

/// How tokens of a prompt are chosen by their scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// How many stay.
    pub capacity: usize,
    /// Last tokens that stay in any case.
    pub window: usize,
    /// Over how many scores the greatest is taken.
    pub kernel: usize,
    /// How many tokens around a good one stay with it, itself included.
    pub neighbours: usize,
}

impl Choice {
    /// The chosen tokens in ascending order: `forced` ones and the last ones, which stay whatever the capacity,
    /// then the best with their neighbours until the capacity is full.
    pub fn choose(&self, scores: &[f32], forced: &[usize]) -> Vec<usize> {
        let count = scores.len();
        let mut stays = vec![false; count];
        forced.iter().for_each(|&at| stays[at] = true);
        stays[count.saturating_sub(self.window)..].fill(true);
        let mut room = self.capacity.saturating_sub(stays.iter().filter(|stays| **stays).count());
        let top = best(&max_pool(scores, self.kernel), self.capacity);
        for at in top.iter().flat_map(|&at| self.around(at, count)) {
            if room == 0 {
                break;
            }
            room -= usize::from(!std::mem::replace(&mut stays[at], true));
        }
        (0..count).filter(|&at| stays[at]).collect()
    }

    /// `at` and its neighbours, nearest first and the earlier of two equally near; an even number reaches one
    /// further to the right. Beyond the ends it is the end itself.
    fn around(&self, at: usize, count: usize) -> impl Iterator<Item = usize> {
        let before = (self.neighbours.saturating_sub(1) / 2) as isize;
        let after = self.neighbours.saturating_sub(1) as isize - before;
        let aside = (1..=after).flat_map(|far| [-far, far]).filter(move |offset| *offset >= -before);
        let offsets = std::iter::once(0).chain(aside);
        offsets.map(move |offset| (at as isize + offset).clamp(0, count as isize - 1) as usize)
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn pooling_reaches_evenly_or_one_further_to_the_right() {
        let scores = [0.0, 5.0, 0.0, 0.0, 0.0, 1.0];
        assert_eq!(max_pool(&scores, 1), scores);
        assert_eq!(max_pool(&scores, 3), [5.0, 5.0, 5.0, 0.0, 1.0, 1.0]);
        assert_eq!(max_pool(&scores, 4), [5.0, 5.0, 5.0, 1.0, 1.0, 1.0]);
        assert_eq!(max_pool(&scores, 100), [5.0; 6]);
    }

    #[test]
    fn the_best_come_first_and_the_earlier_of_equals() {
        assert_eq!(best(&[1.0, 3.0, 2.0, 3.0], 3), [1, 3, 2]);
        assert_eq!(best(&[1.0, 1.0], 9), [0, 1]);
        assert_eq!(greatest(&[1.0, 0.0, 0.5, 2.0], 2), [1.0, 2.0]);
    }

    #[test]
    fn neighbours_come_nearest_first_and_stop_at_the_ends() {
        let around = |neighbours, at| -> Vec<usize> {
            let choice = Choice { capacity: 1, window: 1, kernel: 1, neighbours };
            choice.around(at, 10).collect()
        };
        assert_eq!(around(1, 5), [5]);
        assert_eq!(around(4, 5), [5, 4, 6, 7]);
        assert_eq!(around(5, 0), [0, 0, 1, 0, 2]);
    }

    /// The paper's steps 4 to 7 word for word, with lists in the place of marks.
    fn slowly(choice: &Choice, scores: &[f32]) -> Vec<usize> {
        let count = scores.len();
        let (before, after) = ((choice.kernel - 1) / 2, choice.kernel - 1 - (choice.kernel - 1) / 2);
        let padded = [vec![0.0; before], scores.to_vec(), vec![0.0; after]].concat();
        let pooled: Vec<f32> =
            padded.windows(choice.kernel).map(|window| window.iter().copied().fold(0.0, f32::max)).collect();
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by(|a, b| pooled[*b].partial_cmp(&pooled[*a]).unwrap());
        let near = (choice.neighbours as isize - 1) / 2;
        let mut offsets: Vec<isize> = (-near..choice.neighbours as isize - near).collect();
        offsets.sort_by_key(|offset| offset.abs());
        let mut list: Vec<usize> = (count - choice.window..count).collect();
        for &at in order.iter().take(choice.capacity) {
            for offset in &offsets {
                let at = (at as isize + offset).clamp(0, count as isize - 1) as usize;
                if !list.contains(&at) {
                    list.push(at);
                }
            }
        }
        list.truncate(choice.capacity);
        list.sort_unstable();
        list
    }

    fn case(number: usize, random: &mut impl Rng) -> (Choice, Vec<f32>) {
        let count = random.random_range(1..=160);
        let window = if number.is_multiple_of(7) { count } else { random.random_range(1..=count) };
        let capacity = match number % 5 {
            0 => count,
            1 => window,
            _ => random.random_range(window..=count),
        };
        let [kernel, neighbours] = [0; 2].map(|_| random.random_range(1..=40));
        let scores = (0..count).map(|_| random.random_range(0..50) as f32 / 50.0).collect();
        (Choice { capacity, window, kernel, neighbours }, scores)
    }

    #[test]
    fn choices_equal_the_papers_list() {
        let mut random = ChaCha8Rng::seed_from_u64(11);
        for number in 0..200 {
            let (choice, scores) = case(number, &mut random);
            let chosen = choice.choose(&scores, &[]);
            assert_eq!(chosen, slowly(&choice, &scores), "{choice:?} on {} scores", scores.len());
            assert_eq!(chosen.len(), choice.capacity.min(scores.len()));
            assert!(chosen.is_sorted_by(|a, b| a < b));
            assert!((scores.len() - choice.window..scores.len()).all(|last| chosen.contains(&last)));
        }
    }

    #[test]
    fn what_is_forced_stays_and_counts() {
        let choice = Choice { capacity: 4, window: 1, kernel: 1, neighbours: 1 };
        let scores = [0.0, 0.0, 9.0, 8.0, 7.0, 0.0, 0.0];
        assert_eq!(choice.choose(&scores, &[0, 1]), [0, 1, 2, 6]);
        assert_eq!(choice.choose(&scores, &[0, 1, 2, 3, 4]), [0, 1, 2, 3, 4, 6]);
    }
}
