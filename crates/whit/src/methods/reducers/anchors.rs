//! Many sources into many targets: each token that goes spreads over the tokens that stay, by similarity.

use super::map::{MapError, Part, TokenMap};
use super::tokens::{Directions, Tokens, greatest};
use crate::methods::importance;

/// Which tokens stay as rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchors {
    /// Those that got most attention.
    Attended,
    /// Half of them by attention, the others evenly spread over the rest.
    Mixed,
    /// Evenly spread.
    Uniform,
    /// Those that no other one stands for: of the two most similar patches the smaller one goes, again and again.
    Distinct,
}

/// How tokens spread over the anchors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spreading {
    /// Which tokens stay.
    pub anchors: Anchors,
    /// What similarities are divided by; at 0 each token goes to its most similar anchor alone.
    pub temperature: f32,
    /// Over how many anchors a token spreads at most; 0 for all.
    pub top: usize,
    /// Whether an anchor stays in its own row alone.
    pub whole: bool,
}

impl Spreading {
    /// The reduction to `keep` patches, and the protected tokens.
    ///
    /// # Errors
    /// If a size is not a positive number.
    pub fn map(&self, tokens: &Tokens<'_>, keep: usize) -> Result<TokenMap, MapError> {
        let count = tokens.patches();
        let directions = Directions::of(tokens.keys, tokens.count());
        let anchors = self.choose(tokens, &directions, keep.clamp(1.min(count), count));
        let protected = (0..tokens.protected).map(|token| Part::whole(token, token, tokens.sizes[token]));
        let mut parts: Vec<Part> = protected.collect();
        let patches: Vec<usize> = (tokens.protected..tokens.count()).collect();
        let cosines = directions.cosines(&patches, &anchors);
        for (&patch, row) in patches.iter().zip(cosines.chunks_exact(anchors.len().max(1))) {
            let size = tokens.sizes[patch];
            let part = |(anchor, share): (usize, f32)| Part {
                source: patch as u32,
                target: (tokens.protected + anchor) as u32,
                weight: share * size,
                mass: share,
            };
            parts.extend(self.shares(anchors.binary_search(&patch).ok(), row).into_iter().map(part));
        }
        TokenMap::new(tokens.count(), tokens.protected + anchors.len(), parts)
    }

    /// The anchors in ascending order.
    fn choose(&self, tokens: &Tokens<'_>, directions: &Directions, keep: usize) -> Vec<usize> {
        let ranked = match self.anchors {
            Anchors::Distinct => return distinct(tokens, directions, keep),
            Anchors::Uniform => Vec::new(),
            Anchors::Mixed => tokens.ranked()[..keep.div_ceil(2)].to_vec(),
            Anchors::Attended => tokens.ranked()[..keep].to_vec(),
        };
        let rest: Vec<usize> =
            (tokens.protected..tokens.count()).filter(|token| !ranked.contains(token)).collect();
        let spread = keep - ranked.len();
        let mut anchors = ranked;
        anchors.extend((0..spread).map(|index| rest[(2 * index + 1) * rest.len() / (2 * spread)]));
        anchors.sort_unstable();
        anchors
    }

    /// The shares of a token over the anchors, which sum to 1: a softmax of its similarities `row`. `own` is its
    /// place among them if it is one.
    fn shares(&self, own: Option<usize>, row: &[f32]) -> Vec<(usize, f32)> {
        if let (Some(own), true) = (own, self.whole) {
            return vec![(own, 1.0)];
        }
        let top = if self.temperature == 0.0 { 1 } else { self.top };
        let mut chosen = importance::best(row, if top == 0 { row.len() } else { top.min(row.len()) });
        // Where keys are equal, an anchor must not be left with nothing.
        if let Some(own) = own.filter(|own| !chosen.contains(own)) {
            chosen.pop();
            chosen.push(own);
        }
        let best = chosen.first().map_or(0.0, |&anchor| row[anchor]);
        let weight = |anchor: usize| match chosen.len() {
            1 => 1.0,
            _ => ((row[anchor] - best) / self.temperature).exp(),
        };
        let weights: Vec<(usize, f32)> = chosen.iter().map(|&anchor| (anchor, weight(anchor))).collect();
        let sum: f32 = weights.iter().map(|(_, weight)| weight).sum();
        weights.into_iter().map(|(anchor, weight)| (anchor, weight / sum)).collect()
    }
}

/// The `keep` patches that are left when of the two most similar ones the smaller goes, of equal ones the later, until
/// no more than these are there. In ascending order.
fn distinct(tokens: &Tokens<'_>, directions: &Directions, keep: usize) -> Vec<usize> {
    let mut left: Vec<usize> = (tokens.protected..tokens.count()).collect();
    let count = left.len();
    let mut cosines = directions.cosines(&left, &left); // [patches, patches]
    (0..count).for_each(|at| cosines[at * (count + 1)] = f32::NEG_INFINITY);
    let row = |cosines: &[f32], at: usize| greatest(&cosines[at * count..][..count]);
    let mut nearest: Vec<(usize, f32)> = (0..count).map(|at| row(&cosines, at)).collect();
    let size = |at: usize| tokens.sizes[tokens.protected + at];
    let mut stays = vec![true; count];
    for _ in keep..count {
        let all: Vec<f32> = nearest.iter().map(|&(_, cosine)| cosine).collect();
        let (one, _) = greatest(&all);
        let other = nearest[one].0;
        let goes = if size(one) < size(other) { one } else { other };
        stays[goes] = false;
        nearest[goes].1 = f32::NEG_INFINITY;
        (0..count).for_each(|at| cosines[at * count + goes] = f32::NEG_INFINITY);
        for (at, nearest) in nearest.iter_mut().enumerate() {
            if stays[at] && nearest.0 == goes {
                *nearest = row(&cosines, at);
            }
        }
    }
    left.retain(|&token| stays[token - tokens.protected]);
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::reducers::tokens::testing::Owned;

    const SOFT: Spreading = Spreading { anchors: Anchors::Attended, temperature: 0.1, top: 4, whole: true };

    /// By hand: of three patches behind a class token, 1 and 3 stay, and 2 lies at cosines 1 and 0 from them.
    #[test]
    fn a_token_spreads_by_a_softmax_of_its_cosines() {
        let keys = [9.0, 9.0, 2.0, 0.0, 1.0, 0.0, 0.0, 3.0];
        let states = [5.0, 1.0, 2.0, 3.0];
        let tokens = Tokens {
            layer: 0,
            protected: 1,
            states: &states,
            keys: &keys,
            attention: &[0.0, 0.5, 0.1, 0.4],
            sizes: &[1.0, 1.0, 2.0, 1.0],
        };
        let map = Spreading { temperature: 0.5, ..SOFT }.map(&tokens, 2).unwrap();
        let near = 1.0 / (1.0 + (-2.0f32).exp());
        let sizes = [1.0, 1.0 + 2.0 * near, 1.0 + 2.0 * (1.0 - near)];
        let wanted = [5.0, (1.0 + 2.0 * near * 2.0) / sizes[1], (3.0 + 2.0 * (1.0 - near) * 2.0) / sizes[2]];
        for (a, b) in
            map.apply(&states, 1).iter().zip(wanted).chain(map.sizes(tokens.sizes).iter().zip(sizes))
        {
            assert!((a - b).abs() < 1e-6, "{a} {b}");
        }
    }

    #[test]
    fn rows_sum_to_one_and_no_size_is_lost() {
        for (anchors, top, whole) in [
            (Anchors::Attended, 0, false),
            (Anchors::Mixed, 4, true),
            (Anchors::Uniform, 2, false),
            (Anchors::Distinct, 4, true),
        ] {
            let owned = Owned::random(65, 1, 5);
            let spreading = Spreading { anchors, top, whole, temperature: 0.1 };
            let map = spreading.map(&owned.view(), 40).unwrap();
            assert_eq!(map.targets(), 41);
            for row in map.matrix().chunks_exact(65) {
                assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5);
            }
            let [before, after] =
                [&owned.sizes, &map.sizes(&owned.sizes)].map(|sizes| sizes.iter().sum::<f32>());
            assert!((before - after).abs() < 1e-3 * before);
            assert!(map.dropped().is_empty());
        }
    }

    /// At temperature 0 every token has one destination, as when the temperature is very small.
    #[test]
    fn a_cold_softmax_merges_hard() {
        let owned = Owned::random(30, 0, 9);
        let hard = Spreading { temperature: 0.0, top: 0, ..SOFT }.map(&owned.view(), 10).unwrap();
        let cold = Spreading { temperature: 1e-6, top: 0, ..SOFT }.map(&owned.view(), 10).unwrap();
        assert_eq!(hard.parts().len(), 30);
        for (a, b) in hard.matrix().iter().zip(cold.matrix()) {
            assert!((a - b).abs() < 1e-6);
        }
    }

    #[test]
    fn equal_keys_leave_no_anchor_with_nothing() {
        let mut owned = Owned::random(20, 1, 4);
        owned.keys.fill(1.0);
        for temperature in [0.0, 0.1] {
            let spreading = Spreading { temperature, top: 2, whole: false, ..SOFT };
            assert_eq!(spreading.map(&owned.view(), 9).unwrap().targets(), 10);
        }
    }

    #[test]
    fn uniform_anchors_are_spread_evenly_and_equal_keys_are_no_trouble() {
        let mut owned = Owned::random(9, 1, 2);
        owned.keys.fill(0.0);
        let map = Spreading { anchors: Anchors::Uniform, ..SOFT }.map(&owned.view(), 4).unwrap();
        let own: Vec<u32> = (1..5)
            .map(|target| map.into_target(target).iter().map(|part| part.source).min().unwrap())
            .collect();
        assert_eq!(own[0], 1);
        let directions = Directions::of(&owned.keys, 9);
        let choose = |anchors, keep| Spreading { anchors, ..SOFT }.choose(&owned.view(), &directions, keep);
        assert_eq!(choose(Anchors::Uniform, 4), [2, 4, 6, 8]);
        assert_eq!(choose(Anchors::Mixed, 1).len(), 1);
    }
}
