//! The token reducers of a batch of images, inside one forward pass.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::tensor::{Device, Tensor, TensorData};
use whit_kernels::op::{self, Host};
use whit_kernels::parallel;

use super::map::TokenMap;
use super::record::Recorder;
use super::tokens::Tokens;
use crate::methods::{MethodError, Plan, TokenReducer};
use crate::nn::reduce::{Asks, Reduce, Seen};

/// One reducer for each image of a batch. To be put into a pass with [`Reducing`](crate::nn::reduce::Reducing), and
/// asked afterwards with [`Images::finish`] whether all went well.
#[derive(Debug)]
pub struct Images {
    images: Vec<Mutex<Image>>,
    protected: usize,
    tokens: usize,
    trail: bool,
    device: Option<Device>,
    failure: Failure,
}

/// Whether a pass went well, to be asked when it is over, wherever its [`Images`] are then.
#[derive(Clone, Debug, Default)]
pub struct Failure(Arc<Mutex<Option<MethodError>>>);

impl Failure {
    /// Says it, and forgets it.
    ///
    /// # Errors
    /// The first error of a reducer; the pass then went on with all tokens.
    pub fn finish(&self) -> Result<(), MethodError> {
        lock(&self.0).take().map_or(Ok(()), Err)
    }
}

/// Makes the reducers of any number of passes by one plan, and knows whether all went well.
#[derive(Clone, Debug)]
pub struct Passes<'a> {
    plan: &'a Plan,
    protected: usize,
    failure: Failure,
}

impl<'a> Passes<'a> {
    /// Passes of a model whose first `protected` tokens are no patches.
    pub fn new(plan: &'a Plan, protected: usize) -> Self {
        Self { plan, protected, failure: Failure::default() }
    }

    /// The reducers of a pass over so many images; none where the plan has none.
    pub fn begin(&self, images: usize) -> Option<Box<dyn Reduce>> {
        self.images(images).map(|images| Box::new(images) as Box<dyn Reduce>)
    }

    /// As [`begin`](Self::begin), with `recorder` writing down what happens, also where nothing is reduced.
    pub fn watched(&self, images: usize, recorder: &Recorder) -> Box<dyn Reduce> {
        recorder.watch(self.images(images).map(Images::with_way_back), self.protected)
    }

    fn images(&self, images: usize) -> Option<Images> {
        let reducers: Option<Vec<_>> = (0..images).map(|_| self.plan.begin().reducer).collect();
        Some(Images { failure: self.failure.clone(), ..Images::new(reducers?, self.protected) })
    }

    /// Says whether all passes went well.
    ///
    /// # Errors
    /// The first error of a reducer.
    pub fn finish(&self) -> Result<(), MethodError> {
        self.failure.finish()
    }
}

/// One image on its way.
#[derive(Debug)]
struct Image {
    reducer: Box<dyn TokenReducer>,
    sizes: Vec<f32>,
    /// One for each reduction, where the way back is wanted.
    steps: Vec<Step>,
}

/// What is needed to undo one reduction.
#[derive(Debug)]
struct Step {
    layer: usize,
    map: TokenMap,
    /// What the dropped tokens were, one row after the other.
    dropped: Vec<f32>,
}

/// What is seen of all images in one block.
struct Batch {
    layer: usize,
    protected: usize,
    trail: bool,
    /// `[images, tokens, width]`
    states: Host,
    /// `[images, heads, tokens, head_dim]`
    keys: Option<Host>,
    /// `[images, tokens]`
    attention: Option<Host>,
}

impl Images {
    /// The reducers of the images in the order of the batch. The first `protected` tokens of each image are no
    /// patches: the class token, and those that come with it.
    pub fn new(reducers: Vec<Box<dyn TokenReducer>>, protected: usize) -> Self {
        let image = |reducer| Mutex::new(Image { reducer, sizes: Vec::new(), steps: Vec::new() });
        let images = reducers.into_iter().map(image).collect();
        Self { images, protected, tokens: 0, trail: false, device: None, failure: Failure::default() }
    }

    /// Remembers all that [`Images::restore`] needs.
    #[must_use]
    pub fn with_way_back(self) -> Self {
        Self { trail: true, ..self }
    }

    /// How many tokens each image has now.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Says whether the pass went well.
    ///
    /// # Errors
    /// The first error of a reducer; the pass then went on with all tokens.
    pub fn finish(&self) -> Result<(), MethodError> {
        self.failure.finish()
    }

    /// Who says so when the images are out of reach.
    pub fn failure(&self) -> Failure {
        self.failure.clone()
    }

    /// The way back for dense outputs: states of the tokens that are left, `[images, tokens, width]`, to states of
    /// all tokens that there were. What was merged gets the state of what it went into, or the mean of those by
    /// mass; what was dropped has the state in which it was dropped. Needs [`Images::with_way_back`].
    pub fn restore(&self, rows: &[f32]) -> Vec<f32> {
        let each = (rows.len() / self.images.len().max(1)).max(1);
        let images = self.images.iter().zip(rows.chunks(each));
        images.flat_map(|(image, rows)| lock(image).restore(rows, each / self.tokens.max(1))).collect()
    }

    /// The reductions of each image with the blocks that they were made in. Needs [`Images::with_way_back`].
    pub fn steps(&self) -> Vec<Vec<(usize, TokenMap)>> {
        let steps = |image: &Mutex<Image>| {
            lock(image).steps.iter().map(|step| (step.layer, step.map.clone())).collect()
        };
        self.images.iter().map(steps).collect()
    }

    fn ask<T: Default>(&self, ask: impl FnOnce(&dyn TokenReducer) -> T) -> T {
        self.images.first().map(|image| ask(lock(image).reducer.as_ref())).unwrap_or_default()
    }

    fn acts(&self, layer: usize) -> bool {
        let patches = self.tokens.saturating_sub(self.protected);
        self.ask(|reducer| reducer.acts(layer, patches))
    }

    /// The states of all images after their reductions; none where they stay as they are.
    fn reduce(&self, batch: &Batch) -> Result<Option<Vec<f32>>, MethodError> {
        let results: Vec<_> = self.images.iter().map(|_| Mutex::new(Ok(None))).collect();
        parallel::run(self.images.len(), |index| {
            let result = lock(&self.images[index]).step(batch, index);
            *lock(&results[index]) = result;
        });
        let results =
            results.into_iter().map(|result| result.into_inner().unwrap_or_else(PoisonError::into_inner));
        let rows: Vec<Option<Vec<f32>>> = results.collect::<Result<_, _>>()?;
        let length = |rows: &Option<Vec<f32>>| rows.as_ref().map(Vec::len);
        if rows.windows(2).any(|pair| length(&pair[0]) != length(&pair[1])) {
            let reason = format!(
                "images of one batch are left with different numbers of tokens in block {}",
                batch.layer
            );
            return Err(MethodError::Failed { method: "token-reducer", reason });
        }
        Ok(rows.into_iter().collect::<Option<Vec<_>>>().map(|rows| rows.concat()))
    }
}

fn lock<T>(image: &Mutex<T>) -> MutexGuard<'_, T> {
    image.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Reduce for Images {
    fn before_block(&mut self, layer: usize, tokens: Tensor<3>) -> Tensor<3> {
        if layer == 0 {
            self.tokens = tokens.dims()[1];
            self.device = Some(tokens.device());
            for image in &self.images {
                let mut image = lock(image);
                (image.sizes, image.steps) = (vec![1.0; self.tokens], Vec::new());
            }
        }
        tokens
    }

    fn asks(&self, layer: usize) -> Asks {
        if !self.acts(layer) {
            return Asks::default();
        }
        let looks = self.ask(|reducer| reducer.looks());
        let class = self.protected > 0;
        Asks {
            keys: looks.keys,
            class_attention: looks.attention && class,
            received: looks.attention && !class,
        }
    }

    fn key_bias(&self, _: usize) -> Option<Tensor<2>> {
        let sizes = self.sizes_of_all()?;
        if !self.ask(|reducer| reducer.proportional()) || sizes.iter().all(|&size| size == 1.0) {
            return None;
        }
        self.tensor(sizes.into_iter().map(f32::ln).collect())
    }

    fn after_attention(&mut self, layer: usize, tokens: Tensor<3>, seen: Seen) -> Tensor<3> {
        if lock(&self.failure.0).is_some() || !self.acts(layer) {
            return tokens;
        }
        let [images, _, width] = tokens.dims();
        let (protected, trail, states) = (self.protected, self.trail, op::host(tokens.clone()));
        let attention = seen.class_attention.or(seen.received).map(op::host);
        let batch = Batch { layer, protected, trail, states, keys: seen.keys.map(op::host), attention };
        match self.reduce(&batch) {
            Ok(Some(rows)) => {
                self.tokens = rows.len() / (images * width).max(1);
                Tensor::from_data(TensorData::new(rows, [images, self.tokens, width]), &tokens.device())
            }
            Ok(None) => tokens,
            Err(error) => {
                *lock(&self.failure.0) = Some(error);
                tokens
            }
        }
    }

    fn sizes(&self) -> Option<Tensor<2>> {
        self.tensor(self.sizes_of_all()?)
    }
}

impl Images {
    fn sizes_of_all(&self) -> Option<Vec<f32>> {
        (self.tokens > 0).then(|| self.images.iter().flat_map(|image| lock(image).sizes.clone()).collect())
    }

    /// `[images, tokens]`
    fn tensor(&self, values: Vec<f32>) -> Option<Tensor<2>> {
        let shape = [self.images.len(), self.tokens];
        self.device.as_ref().map(|device| Tensor::from_data(TensorData::new(values, shape), device))
    }
}

impl Image {
    fn step(&mut self, batch: &Batch, index: usize) -> Result<Option<Vec<f32>>, MethodError> {
        let keys = batch.keys(index);
        let tokens = batch.tokens(index, &keys, &self.sizes);
        let Some(map) = self.reducer.reduce(&tokens)? else { return Ok(None) };
        let width = batch.states.width();
        let rows = map.apply(tokens.states, width);
        let sizes = map.sizes(&self.sizes);
        if batch.trail {
            let row = |token: usize| &tokens.states[token * width..][..width];
            let dropped = map.dropped().into_iter().flat_map(row).copied().collect();
            self.steps.push(Step { layer: batch.layer, map, dropped });
        }
        self.sizes = sizes;
        Ok(Some(rows))
    }

    fn restore(&self, rows: &[f32], width: usize) -> Vec<f32> {
        self.steps.iter().rev().fold(rows.to_vec(), |rows, step| step.undo(&rows, width))
    }
}

impl Step {
    fn undo(&self, rows: &[f32], width: usize) -> Vec<f32> {
        let mut all = vec![0.0; self.map.sources() * width];
        for (token, row) in self.map.dropped().into_iter().zip(self.dropped.chunks_exact(width.max(1))) {
            all[token * width..][..width].copy_from_slice(row);
        }
        self.map.undo(rows, &mut all, width);
        all
    }
}

impl Batch {
    /// The mean over the heads of one image's keys; nothing where nobody asked. `[tokens, head_dim]`
    fn keys(&self, index: usize) -> Vec<f32> {
        let Some(keys) = &self.keys else { return Vec::new() };
        let (heads, size) = (keys.dim(1), keys.dim(2) * keys.dim(3));
        let mut heads_of_one = keys.data()[index * heads * size..][..heads * size].chunks_exact(size);
        let mut mean = heads_of_one.next().map_or(Vec::new(), <[f32]>::to_vec);
        for head in heads_of_one {
            mean.iter_mut().zip(head).for_each(|(sum, value)| *sum += value);
        }
        mean.iter_mut().for_each(|sum| *sum /= heads as f32);
        mean
    }

    fn tokens<'a>(&'a self, index: usize, keys: &'a [f32], sizes: &'a [f32]) -> Tokens<'a> {
        let count = sizes.len();
        let size = count * self.states.width();
        let row = |host: &'a Host| &host.data()[index * count..][..count];
        Tokens {
            layer: self.layer,
            protected: self.protected,
            states: &self.states.data()[index * size..][..size],
            keys,
            attention: self.attention.as_ref().map_or(&[], row),
            sizes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::reducers::testing::{plan, vision};
    use crate::nn::attention::Batched;
    use crate::nn::reduce::Reducing;
    use crate::nn::vision::Vision;
    use burn::tensor::Distribution;

    fn tokens(images: usize, count: usize) -> Tensor<3> {
        let device = Device::flex();
        device.seed(4);
        Tensor::random([images, count, 32], Distribution::Normal(0.0, 1.0), &device)
    }

    fn images(method: &str, model: &Vision, count: usize) -> Images {
        let plan = plan(method, model.config().layers).unwrap();
        Images::new((0..count).map(|_| plan.begin().reducer.unwrap()).collect(), 1)
    }

    fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
        op::host(tensor).into_vec()
    }

    fn close(a: &[f32], b: &[f32], most: f32) {
        assert_eq!(a.len(), b.len());
        a.iter().zip(b).for_each(|(a, b)| assert!((a - b).abs() < most, "{a} instead of {b}"));
    }

    const METHODS: [&str; 6] = [
        "tome:r=3",
        "token-transforming:r=3,anchors=mixed",
        "evit:keep=0.6",
        "top-k-prune:keep=0.6",
        "random-drop:keep=0.6",
        "diffrate:r=4",
    ];

    #[test]
    fn a_pace_at_which_nothing_goes_changes_no_bit() {
        let (model, x) = (vision(3), tokens(2, 17));
        let dense = values(model.run(x.clone(), &mut Batched::whole(2, None)));
        let mut images = images("tome:list=0", &model, 2);
        assert_eq!(values(model.run(x, &mut Reducing::new(2, &mut images))), dense);
    }

    #[test]
    fn an_image_gets_the_same_alone_and_among_four() {
        let (model, x) = (vision(4), tokens(4, 17));
        for method in METHODS {
            let together = {
                let mut images = images(method, &model, 4);
                let states = values(model.run(x.clone(), &mut Reducing::new(4, &mut images)));
                images.finish().unwrap();
                assert!(images.tokens() < 17, "{method}");
                states
            };
            let alone = |image: usize| {
                let mut images = images(method, &model, 1);
                let one = x.clone().slice([image..image + 1, 0..17, 0..32]);
                values(model.run(one, &mut Reducing::new(1, &mut images)))
            };
            assert_eq!(together, (0..4).flat_map(alone).collect::<Vec<_>>(), "{method}");
        }
    }

    /// Patches that are there twice: merged by their keys, they count twice, and the class token sees no difference.
    #[test]
    fn merging_equal_tokens_is_exact() {
        let model = vision(4);
        let single = tokens(1, 7);
        let patches = single.clone().slice([0..1, 1..7, 0..32]).reshape([1, 6, 1, 32]).expand([1, 6, 2, 32]);
        let x = Tensor::cat(vec![single.slice([0..1, 0..1, 0..32]), patches.reshape([1, 12, 32])], 1);
        let class = |states: Tensor<3>| values(states.slice([0..1, 0..1, 0..32]));
        let dense = class(model.run(x.clone(), &mut Batched::whole(1, None)));
        for (method, same) in [("tome:list=6", true), ("tome:list=6,proportional=false", false)] {
            let mut images = images(method, &model, 1);
            let merged = class(model.run(x.clone(), &mut Reducing::new(1, &mut images)));
            assert_eq!(images.tokens(), 7);
            let largest = merged.iter().zip(&dense).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert_eq!(largest < 1e-4, same, "{method}: {largest}");
        }
    }

    /// What leaves the blocks goes back to all places; what was never reduced comes back as it is.
    #[test]
    fn the_way_back_leads_to_every_place() {
        let (model, x) = (vision(4), tokens(2, 17));
        for method in METHODS {
            let mut images = images(method, &model, 2).with_way_back();
            let states = model.run(x.clone(), &mut Reducing::new(2, &mut images));
            let back = images.restore(&values(states.clone()));
            assert_eq!(back.len(), 2 * 17 * 32, "{method}");
            close(&back[..32], &values(states)[..32], 1e-6);
        }
        let mut images = images("token-transforming:list=0,tau=0.001", &model, 2).with_way_back();
        let states = values(model.run(x, &mut Reducing::new(2, &mut images)));
        assert_eq!(images.restore(&states), states);
    }

    /// Every reduction equals the product with its own matrix.
    #[test]
    fn every_method_is_a_product_with_a_matrix_whose_rows_sum_to_one() {
        use crate::methods::reducers::tokens::testing::Owned;
        for method in METHODS {
            let owned = Owned::random(40, 1, 3);
            let mut reducer = plan(method, 4).unwrap().begin().reducer.unwrap();
            let view = Tokens { layer: 1, ..owned.view() };
            let map = reducer.reduce(&view).unwrap().unwrap();
            let (found, matrix) = (map.apply(&owned.states, owned.width), map.matrix());
            for (row, y) in matrix.chunks_exact(40).zip(found.chunks_exact(owned.width)) {
                assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5, "{method}");
                for (at, y) in y.iter().enumerate() {
                    let product: f32 =
                        (0..40).map(|token| row[token] * owned.states[token * owned.width + at]).sum();
                    assert!((product - y).abs() < 1e-5, "{method}");
                }
            }
        }
    }

    #[test]
    fn an_image_of_another_size_is_refused_after_the_pass() {
        let rates = crate::methods::reducers::rates::Rates::new(65, 1, vec![65, 30], vec![65, 30]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rates.json");
        std::fs::write(&path, rates.to_json()).unwrap();
        let model = vision(2);
        let mut images = images(&format!("diffrate:schedule={}", path.display()), &model, 1);
        model.run(tokens(1, 17), &mut Reducing::new(1, &mut images));
        let error = images.finish().unwrap_err().to_string();
        assert!(error.contains("65 tokens") && error.contains("17"), "{error}");
    }
}
