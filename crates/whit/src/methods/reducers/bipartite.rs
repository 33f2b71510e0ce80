//! Bipartite soft matching (ToMe, arXiv 2210.09461): tokens are dealt alternately into two sets, each of the first
//! set looks for the most similar of the second, and the most similar pairs become one.

use super::map::{MapError, Part, TokenMap};
use super::tokens::{Directions, Tokens, greatest};

/// Which tokens go into which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matching {
    /// Pairs (source, target) of tokens; the source goes into the target.
    pub pairs: Vec<(usize, usize)>,
    /// The tokens of the first set that stay, in the order that they are to have.
    pub left: Vec<usize>,
    /// The second set.
    pub right: Vec<usize>,
}

impl Matching {
    /// Matches the `count` most similar pairs, but at most half of the patches.
    pub fn of(tokens: &Tokens<'_>, count: usize) -> Self {
        let [left, right] = [0, 1].map(|first| (first..tokens.count()).step_by(2).collect::<Vec<_>>());
        let free = |token: &usize| *token >= tokens.protected;
        let sources: Vec<usize> = left.iter().copied().filter(free).collect();
        let targets: Vec<usize> = right.iter().copied().filter(free).collect();
        let best = best_of(tokens, &sources, &targets);
        let mut order: Vec<usize> = (0..sources.len()).collect();
        order.sort_by(|&a, &b| best[b].1.total_cmp(&best[a].1)); // stable: of equal ones the earlier first
        let count = count.min(tokens.patches() / 2);
        let pairs = order[..count].iter().map(|&at| (sources[at], targets[best[at].0])).collect();
        let mut rest: Vec<usize> = order[count..].iter().map(|&at| sources[at]).collect();
        if tokens.protected > 0 {
            rest.sort_unstable();
        }
        Self { pairs, left: rest, right: targets }
    }

    /// The reduction: what is matched becomes the mean by size. The protected tokens come first, then those of the
    /// first set that stay, then the second set; so the next layer compares other pairs.
    ///
    /// # Errors
    /// If a size is not a positive number.
    pub fn map(&self, tokens: &Tokens<'_>) -> Result<TokenMap, MapError> {
        let stays = (0..tokens.protected).chain(self.left.iter().copied()).chain(self.right.iter().copied());
        let mut place = vec![0; tokens.count()];
        let mut parts = Vec::with_capacity(tokens.count());
        for (target, source) in stays.enumerate() {
            place[source] = target;
            parts.push(Part::whole(source, target, tokens.sizes[source]));
        }
        let targets = parts.len();
        let merged =
            self.pairs.iter().map(|&(source, into)| Part::whole(source, place[into], tokens.sizes[source]));
        parts.extend(merged);
        TokenMap::new(tokens.count(), targets, parts)
    }
}

/// For each source the place of the most similar target, and how similar it is.
fn best_of(tokens: &Tokens<'_>, sources: &[usize], targets: &[usize]) -> Vec<(usize, f32)> {
    let directions = Directions::of(tokens.keys, tokens.count());
    let cosines = directions.cosines(sources, targets);
    match targets {
        [] => vec![(0, f32::NEG_INFINITY); sources.len()],
        _ => cosines.chunks_exact(targets.len()).map(greatest).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::reducers::tokens::testing::Owned;

    /// By hand: tokens 0, 2, 4 against 1, 3. Token 4 equals 1, token 2 is like 3, token 0 like neither.
    #[test]
    fn the_most_similar_pair_becomes_its_mean() {
        let keys = [1.0, 0.0, 0.0, 1.0, 0.9, -0.5, 1.0, -1.0, 0.0, 2.0];
        let states = [1.0, 2.0, 3.0, 4.0, 5.0];
        let tokens = Tokens {
            layer: 0,
            protected: 0,
            states: &states,
            keys: &keys,
            attention: &[0.0; 5],
            sizes: &[1.0, 3.0, 1.0, 1.0, 1.0],
        };
        let matching = Matching::of(&tokens, 1);
        assert_eq!(matching, Matching { pairs: vec![(4, 1)], left: vec![2, 0], right: vec![1, 3] });
        let map = matching.map(&tokens).unwrap();
        assert_eq!(map.apply(&states, 1), [3.0, 1.0, 2.75, 4.0]); // (3 * 2 + 1 * 5) / 4
        assert_eq!(map.sizes(tokens.sizes), [1.0, 1.0, 4.0, 1.0]);
    }

    /// The method with two loops: every pair compared, the best taken one after the other.
    fn slow(owned: &Owned, r: usize) -> (Vec<Vec<f32>>, Vec<f32>) {
        let (count, protected, width) = (owned.sizes.len(), owned.protected, owned.width);
        let key = |token: usize| &owned.keys[token * 4..][..4];
        let cosine = |a: usize, b: usize| {
            let dot = |a: &[f32], b: &[f32]| -> f64 {
                a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
            };
            dot(key(a), key(b)) / (dot(key(a), key(a)) * dot(key(b), key(b))).sqrt()
        };
        let mut into = vec![None; count];
        for _ in 0..r.min((count - protected) / 2) {
            let mut best = (f64::NEG_INFINITY, 0, 0);
            for a in (protected..count).filter(|a| a % 2 == 0 && into[*a].is_none()) {
                for b in (protected..count).filter(|b| b % 2 == 1) {
                    if cosine(a, b) > best.0 {
                        best = (cosine(a, b), a, b);
                    }
                }
            }
            into[best.1] = Some(best.2);
        }
        let merge = |token: usize| {
            let group: Vec<usize> =
                (0..count).filter(|&other| other == token || into[other] == Some(token)).collect();
            let size: f32 = group.iter().map(|&member| owned.sizes[member]).sum();
            let value = |at: usize| -> f32 {
                group
                    .iter()
                    .map(|&member| owned.sizes[member] * owned.states[member * width + at])
                    .sum::<f32>()
                    / size
            };
            ((0..width).map(value).collect(), size)
        };
        (0..count).filter(|&token| into[token].is_none()).map(merge).unzip()
    }

    #[test]
    fn it_equals_the_method_with_two_loops() {
        for (count, protected, r) in
            [(197, 1, 13), (198, 2, 16), (196, 0, 98), (10, 0, 3), (10, 1, 9), (11, 2, 4)]
        {
            let owned = Owned::random(count, protected, (count + protected) as u64);
            let tokens = owned.view();
            let map = Matching::of(&tokens, r).map(&tokens).unwrap();
            let (states, sizes) = slow(&owned, r);
            let (found, found_sizes) = (map.apply(&owned.states, owned.width), map.sizes(&owned.sizes));
            // The order differs: each token that stayed is known by its own part, the first of its target.
            let mut order: Vec<usize> = (0..map.targets()).collect();
            order.sort_by_key(|&target| map.into_target(target)[0].source);
            assert_eq!(order.len(), sizes.len(), "{count} {protected}");
            for (target, (state, size)) in order.into_iter().zip(states.iter().zip(&sizes)) {
                assert_eq!(found_sizes[target], *size);
                for (a, b) in found[target * owned.width..].iter().zip(state) {
                    assert!((a - b).abs() < 1e-6, "{a} {b}");
                }
            }
            (0..protected).for_each(|token| assert_eq!(map.into_target(token)[0].source as usize, token));
        }
    }

    #[test]
    fn what_was_not_merged_comes_back_exactly() {
        let owned = Owned::random(197, 1, 7);
        let tokens = owned.view();
        let matching = Matching::of(&tokens, 30);
        let map = matching.map(&tokens).unwrap();
        let merged = map.apply(&owned.states, owned.width);
        let mut back = vec![0.0; owned.states.len()];
        map.undo(&merged, &mut back, owned.width);
        assert_eq!(map.apply(&back, owned.width).len(), merged.len());
        for token in std::iter::once(0).chain(matching.left.iter().copied()) {
            let at = token * owned.width..(token + 1) * owned.width;
            assert_eq!(back[at.clone()], owned.states[at]);
        }
        for (source, into) in matching.pairs {
            let row = |token: usize| &back[token * owned.width..][..owned.width];
            assert_eq!(row(source), row(into));
        }
    }

    #[test]
    fn at_most_half_merges_and_tiny_sets_are_left_alone() {
        for (count, protected, left) in [(5, 0, 3), (2, 1, 2), (3, 2, 3), (1, 1, 1), (4, 2, 3)] {
            let owned = Owned::random(count, protected, 3);
            let tokens = owned.view();
            assert_eq!(
                Matching::of(&tokens, 100).map(&tokens).unwrap().targets(),
                left,
                "{count} {protected}"
            );
        }
    }
}
