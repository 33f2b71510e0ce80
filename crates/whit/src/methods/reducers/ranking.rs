//! Reductions that keep tokens by their rank, and what they make of the others.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::map::{MapError, Part, TokenMap};
use super::tokens::{Directions, Tokens, greatest};

/// Keeps the `keep` patches that got most attention, in their order, and drops the others.
///
/// # Errors
/// Never, for proper tokens.
pub fn top(tokens: &Tokens<'_>, keep: usize) -> Result<TokenMap, MapError> {
    kept(tokens, tokens.ranked(), keep)
}

/// Keeps `keep` patches at random, in their order, and drops the others.
///
/// # Errors
/// Never, for proper tokens.
pub fn random(tokens: &Tokens<'_>, keep: usize, seed: u64) -> Result<TokenMap, MapError> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(tokens.layer as u64);
    let mut patches: Vec<usize> = (tokens.protected..tokens.count()).collect();
    patches.shuffle(&mut random);
    kept(tokens, patches, keep)
}

fn kept(tokens: &Tokens<'_>, mut order: Vec<usize>, keep: usize) -> Result<TokenMap, MapError> {
    order.truncate(keep);
    order.sort_unstable();
    let stays: Vec<usize> = (0..tokens.protected).chain(order).collect();
    TokenMap::keeping(tokens.count(), &stays)
}

/// Keeps the `keep` patches that got most attention and fuses the others into one more token, their mean by
/// attention (EViT, arXiv 2202.07800, equation 4).
///
/// # Errors
/// If an attention is negative or not a number.
pub fn fused(tokens: &Tokens<'_>, keep: usize) -> Result<TokenMap, MapError> {
    let ranked = tokens.ranked();
    let (stays, rest) = ranked.split_at(keep.min(ranked.len()));
    let mut stays = stays.to_vec();
    stays.sort_unstable();
    let all = (0..tokens.protected).chain(stays);
    let mut parts: Vec<Part> =
        all.enumerate().map(|(target, source)| Part::whole(source, target, 1.0)).collect();
    let last = parts.len();
    parts.extend(rest.iter().map(|&source| Part::whole(source, last, tokens.attention[source])));
    TokenMap::new(tokens.count(), last + usize::from(!rest.is_empty()), parts)
}

/// Ranks the patches by attention, keeps the first `prune` and merges those from `merge` on into the most similar of
/// the `merge` first (DiffRate, arXiv 2305.17997). Both count the patches. A merged token becomes the plain mean of
/// its group, and a source's size counts by how similar it is.
///
/// # Errors
/// If a size is not a positive number.
pub fn pruned_and_merged(tokens: &Tokens<'_>, prune: usize, merge: usize) -> Result<TokenMap, MapError> {
    let mut ranked = tokens.ranked();
    ranked.truncate(prune);
    let (heads, tails) = ranked.split_at(merge.clamp(1, ranked.len().max(1)).min(ranked.len()));
    let stays = (0..tokens.protected).chain(heads.iter().copied());
    let mut parts: Vec<Part> =
        stays.enumerate().map(|(target, source)| Part::whole(source, target, 1.0)).collect();
    let targets = parts.len();
    if !tails.is_empty() {
        let cosines = Directions::of(tokens.states, tokens.count()).cosines(tails, heads);
        for (&source, row) in tails.iter().zip(cosines.chunks_exact(heads.len())) {
            let (head, cosine) = greatest(row);
            // The authors' code has no lower bound; a negative size would have no logarithm.
            let mass = cosine.max(0.0);
            parts.push(Part { mass, ..Part::whole(source, tokens.protected + head, 1.0) });
        }
    }
    TokenMap::new(tokens.count(), targets, parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::reducers::tokens::testing::Owned;

    fn tokens<'a>(states: &'a [f32], attention: &'a [f32], sizes: &'a [f32]) -> Tokens<'a> {
        Tokens { layer: 2, protected: 1, states, keys: states, attention, sizes }
    }

    const ATTENTION: [f32; 5] = [0.0, 0.1, 0.5, 0.1, 0.3];

    #[test]
    fn the_attended_ones_stay_in_their_order() {
        let tokens = tokens(&[], &ATTENTION, &[1.0; 5]);
        let map = top(&tokens, 2).unwrap();
        assert_eq!(map.apply(&[1.0, 2.0, 3.0, 4.0, 5.0], 1), [1.0, 3.0, 5.0]);
        assert_eq!(map.dropped(), [1, 3]);
        // One more: of the two that tie, the earlier.
        assert_eq!(top(&tokens, 3).unwrap().dropped(), [3]);
    }

    #[test]
    fn the_rest_is_fused_by_attention() {
        let tokens = tokens(&[], &[0.0, 0.1, 0.5, 0.3, 0.4], &[1.0; 5]);
        let map = fused(&tokens, 2).unwrap();
        let x = [1.0, 2.0, 3.0, 6.0, 5.0];
        let found = map.apply(&x, 1);
        assert_eq!(found[..3], [1.0, 3.0, 5.0]);
        assert!((found[3] - (0.1 * 2.0 + 0.3 * 6.0) / 0.4).abs() < 1e-6);
        assert_eq!(map.sizes(&[1.0; 5]), [1.0, 1.0, 1.0, 2.0]);
        assert_eq!(fused(&tokens, 4).unwrap().targets(), 5);
    }

    /// Ranks: 2, 4, 1, 3. Of them 3 is pruned, 1 merges into the one of 2 and 4 that is most like it.
    #[test]
    fn the_last_is_pruned_and_the_one_before_merged() {
        let states = [0.0, 0.0, 3.0, 4.0, 1.0, 0.0, 7.0, 7.0, 0.0, 2.0];
        let tokens = tokens(&states, &ATTENTION, &[1.0, 2.0, 1.0, 1.0, 1.0]);
        let map = pruned_and_merged(&tokens, 3, 2).unwrap();
        assert_eq!(map.apply(&states, 2), [0.0, 0.0, 1.0, 0.0, 1.5, 3.0]);
        // The cosine of (3, 4) and (0, 2) is 0.8, and so much of its two patches is counted.
        assert_eq!(map.sizes(tokens.sizes), [1.0, 1.0, 1.0 + 0.8 * 2.0]);
        assert_eq!(map.dropped(), [3]);
    }

    /// The block of the paper for one image, with loops: sort, cut, look for the nearest, average.
    #[test]
    fn pruning_and_merging_equals_the_method_with_loops() {
        let owned = Owned::random(40, 1, 11);
        let width = owned.width;
        let state = |token: usize| &owned.states[token * width..][..width];
        let cosine = |a: usize, b: usize| {
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
            dot(state(a), state(b)) / (dot(state(a), state(a)) * dot(state(b), state(b))).sqrt()
        };
        let mut order: Vec<usize> = (1..40).collect();
        order.sort_by(|&a, &b| owned.attention[b].total_cmp(&owned.attention[a]));
        let (heads, tails) = (&order[..20], &order[20..30]);
        let mut groups: Vec<(Vec<usize>, f32)> =
            heads.iter().map(|&head| (vec![head], owned.sizes[head])).collect();
        for &tail in tails {
            let near =
                (0..20).max_by(|&a, &b| cosine(tail, heads[a]).total_cmp(&cosine(tail, heads[b]))).unwrap();
            groups[near].0.push(tail);
            groups[near].1 += cosine(tail, heads[near]).max(0.0) * owned.sizes[tail];
        }
        let map = pruned_and_merged(&owned.view(), 30, 20).unwrap();
        let (found, sizes) = (map.apply(&owned.states, width), map.sizes(&owned.sizes));
        for (target, (group, size)) in groups.iter().enumerate() {
            assert!((sizes[target + 1] - size).abs() < 1e-5);
            for at in 0..width {
                let mean = group.iter().map(|&token| state(token)[at]).sum::<f32>() / group.len() as f32;
                assert!((found[(target + 1) * width + at] - mean).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn three_tokens_and_fewer_work() {
        let owned = Owned::random(5, 1, 1);
        assert_eq!(pruned_and_merged(&owned.view(), 2, 2).unwrap().targets(), 3);
        assert_eq!(pruned_and_merged(&owned.view(), 1, 1).unwrap().targets(), 2);
        assert_eq!(pruned_and_merged(&owned.view(), 9, 9).unwrap().targets(), 5);
    }

    #[test]
    fn chance_depends_on_seed_and_layer_alone() {
        let owned = Owned::random(50, 1, 1);
        let dropped =
            |layer: usize, seed: u64| random(&Tokens { layer, ..owned.view() }, 20, seed).unwrap().dropped();
        assert_eq!(dropped(1, 3), dropped(1, 3));
        assert!(dropped(1, 3) != dropped(2, 3) && dropped(1, 3) != dropped(1, 4));
        assert_eq!(dropped(1, 3).len(), 29);
    }
}
