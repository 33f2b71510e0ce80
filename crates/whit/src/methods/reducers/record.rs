//! What passes did to the tokens of their images, written down for people. A pass that nobody watches has no
//! [`Recorder`], and then nothing here runs.

use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::Tensor;
use whit_kernels::op::{self, Host};

use super::images::Images;
use super::map::TokenMap;
use crate::nn::reduce::{Asks, Projected, Reduce, Seen};

/// Takes down what happens in any number of passes, image after image.
#[derive(Clone, Debug)]
pub struct Recorder {
    layers: usize,
    seen: Arc<Mutex<Vec<History>>>,
}

/// What became of the tokens of one image.
#[derive(Clone, Debug, PartialEq)]
pub struct History {
    /// First tokens that are no patches.
    pub protected: usize,
    /// Tokens that entered the first block.
    pub tokens: usize,
    /// Tokens that left the attention of each block.
    pub left: Vec<usize>,
    /// The reductions, each with the block that it was made in.
    pub steps: Vec<(usize, TokenMap)>,
    /// How the first token attended in the last block, head after head: `[heads, tokens]`.
    pub attention: Vec<Vec<f32>>,
}

impl Recorder {
    /// Nothing yet, of a model of so many blocks.
    pub fn new(layers: usize) -> Self {
        Self { layers, seen: Arc::default() }
    }

    /// A pass in which `images` reduce tokens, or all go through; the first `protected` are no patches.
    pub fn watch(&self, images: Option<Images>, protected: usize) -> Box<dyn Reduce> {
        let (recorder, left) = (self.clone(), Vec::with_capacity(self.layers));
        Box::new(Watched { images, recorder, protected, tokens: 0, left, attention: None })
    }

    /// The histories of all images so far, in their order; they are then forgotten.
    pub fn take(&self) -> Vec<History> {
        std::mem::take(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A pass that is written down.
struct Watched {
    images: Option<Images>,
    recorder: Recorder,
    protected: usize,
    tokens: usize,
    left: Vec<usize>,
    /// `[images, heads, tokens]`
    attention: Option<Host>,
}

impl Watched {
    fn is_last(&self, layer: usize) -> bool {
        layer + 1 == self.recorder.layers
    }

    fn finish(&mut self, images: usize) {
        let mut steps = self.images.as_ref().map(Images::steps).unwrap_or_default();
        steps.resize(images, Vec::new());
        let history = |(image, steps)| History {
            protected: self.protected,
            tokens: self.tokens,
            left: self.left.clone(),
            steps,
            attention: self.heads(image),
        };
        let histories = steps.into_iter().enumerate().map(history);
        self.recorder.seen.lock().unwrap_or_else(PoisonError::into_inner).extend(histories);
    }

    fn heads(&self, image: usize) -> Vec<Vec<f32>> {
        let Some(attention) = &self.attention else { return Vec::new() };
        let (heads, tokens) = (attention.dim(1), attention.dim(2));
        let rows = attention.data().chunks_exact(tokens).skip(image * heads).take(heads);
        rows.map(<[f32]>::to_vec).collect()
    }
}

impl Reduce for Watched {
    fn asks(&self, layer: usize) -> Asks {
        self.images.as_ref().map(|images| images.asks(layer)).unwrap_or_default()
    }

    fn key_bias(&self, layer: usize) -> Option<Tensor<2>> {
        self.images.as_ref()?.key_bias(layer)
    }

    fn before_block(&mut self, layer: usize, tokens: Tensor<3>) -> Tensor<3> {
        if layer == 0 {
            self.tokens = tokens.dims()[1];
        }
        match &mut self.images {
            Some(images) => images.before_block(layer, tokens),
            None => tokens,
        }
    }

    fn after_attention(&mut self, layer: usize, tokens: Tensor<3>, seen: Seen) -> Tensor<3> {
        let tokens = match &mut self.images {
            Some(images) => images.after_attention(layer, tokens, seen),
            None => tokens,
        };
        self.left.push(tokens.dims()[1]);
        if self.is_last(layer) {
            self.finish(tokens.dims()[0]);
        }
        tokens
    }

    fn attention(&mut self, layer: usize, projected: &Projected) -> Option<Tensor<4>> {
        if self.is_last(layer) {
            let bias = self.key_bias(layer);
            self.attention = Some(op::host(projected.class_attention(bias.as_ref())));
        }
        self.images.as_mut()?.attention(layer, projected)
    }

    fn sizes(&self) -> Option<Tensor<2>> {
        self.images.as_ref()?.sizes()
    }
}

/// In which tokens the patches of an image are.
#[derive(Clone, Debug, PartialEq)]
pub struct Shares {
    /// The block that made it so; none before the first.
    pub layer: Option<usize>,
    /// How many tokens there are.
    pub tokens: usize,
    /// Which share of each patch is in each token; the shares of a patch sum to 1, or to 0 where it was dropped.
    /// `[patches, tokens]`
    matrix: Vec<f32>,
}

impl History {
    /// Where the patches are at first, and behind each reduction.
    pub fn shares(&self) -> Vec<Shares> {
        let mut all = vec![Shares::first(self.tokens, self.protected)];
        for (layer, map) in &self.steps {
            let next = all[all.len() - 1].behind(*layer, map);
            all.push(next);
        }
        all
    }

    /// The attention of the first token in the last block, spread over the patches that each token stands for: the
    /// mean over the heads, then every head. `[1 + heads, patches]`
    pub fn attention_of_patches(&self) -> Vec<Vec<f32>> {
        let last = self.left.len().saturating_sub(1);
        let entered = self.shares().into_iter().rfind(|shares| shares.layer.is_none_or(|layer| layer < last));
        let Some(shares) = entered else { return Vec::new() };
        let heads: Vec<_> = self.attention.iter().map(|head| shares.spread(head)).collect();
        let mut mean = vec![0.0; heads.first().map_or(0, Vec::len)];
        let part = 1.0 / heads.len().max(1) as f32;
        heads.iter().for_each(|head| mean.iter_mut().zip(head).for_each(|(sum, value)| *sum += part * value));
        if heads.is_empty() { heads } else { std::iter::once(mean).chain(heads).collect() }
    }
}

impl Shares {
    /// Each patch in its own token.
    fn first(tokens: usize, protected: usize) -> Self {
        let mut matrix = vec![0.0; tokens.saturating_sub(protected) * tokens];
        let rows = matrix.chunks_exact_mut(tokens.max(1)).enumerate();
        rows.for_each(|(patch, row)| row[protected + patch] = 1.0);
        Self { layer: None, tokens, matrix }
    }

    fn behind(&self, layer: usize, map: &TokenMap) -> Self {
        let tokens = map.targets();
        let parts = map.shares();
        let mut matrix = vec![0.0; self.matrix.len() / self.tokens.max(1) * tokens];
        let rows = matrix.chunks_exact_mut(tokens.max(1)).zip(self.matrix.chunks_exact(self.tokens.max(1)));
        for (row, before) in rows {
            parts.iter().for_each(|&(source, target, share)| row[target] += share * before[source]);
        }
        Self { layer: Some(layer), tokens, matrix }
    }

    /// For each patch the token that holds the greatest share of it, and the share; none where it was dropped.
    pub fn strongest(&self) -> Vec<Option<(usize, f32)>> {
        let strongest = |row| Some(super::tokens::greatest(row)).filter(|(_, share)| *share > 0.0);
        self.matrix.chunks_exact(self.tokens.max(1)).map(strongest).collect()
    }

    /// What tokens have, spread over the patches in them by their shares.
    fn spread(&self, values: &[f32]) -> Vec<f32> {
        let rows = || self.matrix.chunks_exact(self.tokens.max(1));
        let mut sizes = vec![0.0; self.tokens];
        rows().for_each(|row| sizes.iter_mut().zip(row).for_each(|(size, share)| *size += share));
        let of = |row: &[f32]| {
            let parts = row.iter().zip(values).zip(&sizes).filter(|((share, _), _)| **share > 0.0);
            parts.map(|((share, value), size)| share * value / size).sum()
        };
        rows().map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::reducers::Passes;
    use crate::methods::reducers::map::Part;
    use crate::methods::reducers::testing::{plan, vision};
    use crate::nn::reduce::Reducing;
    use burn::tensor::{Device, Distribution};

    fn part(source: u32, target: u32, mass: f32) -> Part {
        Part { source, target, weight: 1.0, mass }
    }

    /// By hand: four patches behind a class token. First patches 0 and 1 become one and 3 goes; then patch 2 spreads
    /// over two tokens by 1 : 3.
    fn history() -> History {
        let first = [(0, 0), (1, 1), (2, 1), (3, 2)].map(|(source, target)| part(source, target, 1.0));
        let second = vec![part(0, 0, 1.0), part(1, 1, 1.0), part(2, 1, 0.25), part(2, 2, 0.75)];
        let steps = vec![
            (0, TokenMap::new(5, 3, first.to_vec()).unwrap()),
            (2, TokenMap::new(3, 3, second).unwrap()),
        ];
        History { protected: 1, tokens: 5, left: vec![3; 3], steps, attention: vec![vec![0.2, 0.6, 0.2]; 2] }
    }

    #[test]
    fn patches_are_followed_through_what_merges_drops_and_mixes() {
        let shares = history().shares();
        assert_eq!(shares.iter().map(|one| one.layer).collect::<Vec<_>>(), [None, Some(0), Some(2)]);
        let own = |at: usize| Some((at, 1.0));
        assert_eq!(shares[0].strongest(), [own(1), own(2), own(3), own(4)]);
        assert_eq!(shares[1].strongest(), [own(1), own(1), own(2), None]);
        assert_eq!(shares[2].strongest(), [own(1), own(1), Some((2, 0.75)), None]);
    }

    #[test]
    fn attention_is_spread_over_the_patches_that_entered_the_last_block() {
        let maps = history().attention_of_patches();
        assert_eq!((maps.len(), &maps[0]), (3, &vec![0.3, 0.3, 0.2, 0.0]));
        assert_eq!(maps[1], maps[2]);
    }

    /// Watching changes no bit, and what is written down is what happened.
    #[test]
    fn a_watched_pass_is_the_same_pass() {
        let model = vision(4);
        let device = Device::flex();
        device.seed(4);
        let x = Tensor::random([2, 17, 32], Distribution::Normal(0.0, 1.0), &device);
        for (method, left) in [("tome:r=3", vec![14, 11, 8, 5]), ("tome:list=0", vec![17; 4])] {
            let plan = plan(method, 4).unwrap();
            let passes = Passes::new(&plan, 1);
            let run = |mut reducer: Box<dyn Reduce>| {
                op::host(model.run(x.clone(), &mut Reducing::new(2, reducer.as_mut()))).into_vec()
            };
            let recorder = Recorder::new(4);
            assert_eq!(run(passes.watched(2, &recorder)), run(passes.begin(2).unwrap()));
            let histories = recorder.take();
            assert_eq!(histories.len(), 2);
            for history in &histories {
                assert_eq!((history.tokens, &history.left), (17, &left));
                assert_eq!(history.attention.len(), 4);
                let sum: f32 = history.attention_of_patches()[0].iter().sum();
                assert!(sum > 0.5 && sum < 1.0, "the class token looks at itself too");
                let merged = history.shares().last().unwrap().strongest();
                assert!(merged.iter().all(|fate| fate.is_some_and(|(_, share)| share == 1.0)));
            }
            assert_ne!(histories[0], histories[1]);
            assert!(recorder.take().is_empty());
        }
    }
}
