//! A dense head: what each patch of a picture shows, said by one linear layer on the states of a vision transformer
//! that learns on with it. The toy world knows the truth of every pixel; a patch shows what most of its pixels do.
//!
//! Reducers are undone before the head: merged patches get back the state of the token that they went into.

use std::ops::Range;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use serde::Serialize;
use whit_kernels::cross_entropy::cross_entropy;
use whit_kernels::op;

use super::TrainError;
use super::optimizer::AdamW;
use super::run::{Objective, Settings};
use super::schedule::Schedule;
use super::vision::pixels;
use super::windows::Position;
use crate::generate::sampler::argmax;
use crate::methods::reducers::Images;
use crate::methods::{MethodError, Plan};
use crate::nn::attention::Batched;
use crate::nn::linear::Linear;
use crate::nn::reduce::Reducing;
use crate::nn::vision::{Vision, VisionConfig};
use crate::world::scene::Kind;
use crate::world::{Scene, World};

/// Pictures that are looked at during training.
const WATCHED: usize = 64;

/// Pictures of a batch.
const BATCH: usize = 32;

/// Of the patches that show nothing, training looks at every so-manieth, or it would learn little else.
const EVERY: usize = 4;

/// The label of those that it does not look at.
const UNSEEN: u32 = u32::MAX;

/// How the recipe `toy-segment` trains.
pub fn settings() -> Settings {
    Settings {
        schedule: Schedule { peak: 5e-4, floor: 1e-5, warm_up: 50, steps: 800 },
        optimizer: AdamW { weight_decay: 0.0, ..AdamW::default() },
        parts: 1,
        checkpoint_every: 100,
        evaluate_every: 50,
    }
}

/// A vision transformer with a layer that says what each patch shows.
#[derive(Module, Debug)]
pub struct Segmenter {
    /// The transformer.
    pub backbone: Vision,
    /// The layer.
    pub head: Linear,
}

impl Segmenter {
    /// A head that has learnt nothing yet, on `device`, where `backbone` lies.
    pub fn new(backbone: Vision, device: &Device) -> Self {
        let (classes, width) = (1 + Kind::ALL.len(), backbone.config().block.width);
        let head =
            Linear::dense(Tensor::zeros([classes, width], device), Some(Tensor::zeros([classes], device)));
        Self { backbone, head }
    }

    /// The scores of what the patches of images show, `[images * patches, classes]`, with the reducer of `plan`.
    ///
    /// # Errors
    /// If the reducer refuses the images.
    pub fn scores(&self, pixels: Tensor<4>, plan: Option<&Plan>) -> Result<Tensor<2>, MethodError> {
        let states = dense(&self.backbone, pixels, plan)?;
        let [images, patches, width] = states.dims();
        Ok(self.head.forward(states.reshape([images * patches, width])))
    }
}

/// Learning what patches show.
#[derive(Clone, Copy, Debug)]
pub struct Segmentation {
    world: World,
    patch: usize,
    held_out: usize,
}

/// How well patches are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Quality {
    /// The mean over the classes of the share of patches, among those that are of a class or taken for it, that are both.
    pub mean_iou: f64,
    /// The share of patches that are told right.
    pub accuracy: f64,
}

impl Segmentation {
    /// On scenes of `world`, the first `held_out` of which are kept from training, for a transformer like `config`.
    ///
    /// # Errors
    /// If its images are not of the scenes' size, or its patches not square.
    pub fn new(config: &VisionConfig, world: World, held_out: usize) -> Result<Self, TrainError> {
        let [patch, wide] = config.patch;
        if config.image != [world.size; 2] || patch != wide {
            let reason = format!(
                "the model's images are {:?} in patches of {:?}, and the scenes {} pixels on a side",
                config.image, config.patch, world.size
            );
            return Err(TrainError::Setting(reason));
        }
        Ok(Self { world, patch, held_out })
    }

    /// What patches can show: nothing, or a kind of object.
    pub fn classes() -> Vec<String> {
        std::iter::once("background")
            .chain(Kind::ALL.iter().map(|kind| kind.name()))
            .map(str::to_owned)
            .collect()
    }

    /// Some scenes as a model takes them, and what their patches show.
    fn read(&self, scenes: Range<u64>, device: &Device) -> (Tensor<4>, Vec<u32>) {
        let size = self.world.size;
        let (mut values, mut labels, mut count) = (Vec::new(), Vec::new(), 0);
        for scene in scenes.map(|number| self.world.sample(number)) {
            let rendered = scene.render(size);
            values.extend(rendered.image);
            labels.extend(shown(&scene, &rendered.owner, [size, self.patch]));
            count += 1;
        }
        (pixels(&values, [count, size], device), labels)
    }

    /// How well `model` tells the patches of held-out pictures with the reducer of `plan`; it is outside autodiff.
    ///
    /// # Errors
    /// If a method refuses the pictures.
    pub fn quality(&self, model: &Segmenter, plan: &Plan, pictures: usize) -> Result<Quality, MethodError> {
        let count = pictures.min(self.held_out) as u64;
        let mut confusion = Confusion::new(1 + Kind::ALL.len());
        for start in (0..count).step_by(BATCH) {
            let (pixels, labels) = self.read(start..count.min(start + BATCH as u64), &Device::flex());
            let scores = op::host(model.scores(pixels, Some(plan))?);
            let answers = scores.data().chunks_exact(scores.width()).map(|row| argmax(row) as usize);
            answers.zip(labels).for_each(|(answer, label)| confusion.add(label as usize, answer));
        }
        Ok(confusion.quality())
    }

    fn loss_of(
        &self,
        model: &Segmenter,
        scenes: Range<u64>,
        device: &Device,
    ) -> Result<Tensor<1>, TrainError> {
        let first = scenes.start as usize;
        let (pixels, mut labels) = self.read(scenes, device);
        let unseen = |(patch, label): (usize, &mut u32)| {
            // The batch's own number is in it, so that other places are looked at in other batches.
            if *label == 0 && !(patch + patch / 7 + first / BATCH).is_multiple_of(EVERY) {
                *label = UNSEEN;
            }
        };
        labels.iter_mut().enumerate().for_each(unseen);
        let failed = |error: MethodError| TrainError::Setting(error.to_string());
        Ok(cross_entropy(model.scores(pixels, None).map_err(failed)?, &labels, Some(UNSEEN)))
    }
}

/// What each patch shows most of: 0 for nothing, else one more than the number of the kind.
fn shown(scene: &Scene, owner: &[u8], [size, patch]: [usize; 2]) -> Vec<u32> {
    let class = |owner: u8| match scene.objects.get(usize::from(owner).wrapping_sub(1)) {
        Some(object) => 1 + Kind::ALL.iter().position(|kind| *kind == object.kind).unwrap_or(0),
        None => 0,
    };
    let side = size / patch;
    let most = |at: usize| {
        let (top, left) = (at / side * patch, at % side * patch);
        let mut counts = [0usize; 1 + Kind::ALL.len()];
        (0..patch * patch).for_each(|pixel| {
            counts[class(owner[(top + pixel / patch) * size + left + pixel % patch])] += 1;
        });
        let better = |best: usize, class: usize| if counts[class] > counts[best] { class } else { best };
        (0..counts.len()).fold(0, better) as u32
    };
    (0..side * side).map(most).collect()
}

/// The states of all patches of images behind the last norm, those that a reducer of `plan` merged led back to their
/// places: `[images, patches, width]`.
///
/// # Errors
/// If the reducer refuses the images.
pub fn dense(model: &Vision, pixels: Tensor<4>, plan: Option<&Plan>) -> Result<Tensor<3>, MethodError> {
    let batch = pixels.dims()[0];
    let reducers: Option<Vec<_>> = (0..batch).map(|_| plan?.begin().reducer).collect();
    let states = match reducers {
        None => model.states(pixels, &mut Batched::whole(batch, None)),
        Some(reducers) => {
            let mut images = Images::new(reducers, model.config().specials()).with_way_back();
            let states = model.states(pixels, &mut Reducing::new(batch, &mut images));
            images.finish()?;
            let ([_, _, width], device) = (states.dims(), states.device());
            let rows = images.restore(op::host(states).data());
            let tokens = rows.len() / (batch * width).max(1);
            Tensor::from_data(TensorData::new(rows, [batch, tokens, width]), &device)
        }
    };
    let [_, tokens, width] = states.dims();
    Ok(model.normed(states).slice([0..batch, model.config().specials()..tokens, 0..width]))
}

impl Objective for Segmentation {
    type Model = Segmenter;

    fn loss(&self, model: &Segmenter, position: Position) -> Result<Tensor<1>, TrainError> {
        let at = (position.step * position.parts + position.part) * BATCH as u64 + self.held_out as u64;
        self.loss_of(model, at..at + BATCH as u64, &Device::flex().autodiff())
    }

    fn held_out_loss(&self, model: &Segmenter) -> Result<f32, TrainError> {
        Ok(self.loss_of(model, 0..WATCHED.min(self.held_out) as u64, &Device::flex())?.into_scalar())
    }

    fn items(&self) -> u64 {
        BATCH as u64
    }

    fn identity(&self) -> String {
        format!("patches of {:?}, {} held out", self.world, self.held_out)
    }
}

/// How often each class was taken for each.
struct Confusion {
    classes: usize,
    /// `[truth, answer]`
    counts: Vec<u64>,
}

impl Confusion {
    fn new(classes: usize) -> Self {
        Self { classes, counts: vec![0; classes * classes] }
    }

    fn add(&mut self, truth: usize, answer: usize) {
        self.counts[truth * self.classes + answer] += 1;
    }

    fn quality(&self) -> Quality {
        let at = |truth: usize, answer: usize| self.counts[truth * self.classes + answer];
        let all = 0..self.classes;
        let share = |class: usize| {
            let either: u64 = all.clone().map(|other| at(class, other) + at(other, class)).sum();
            let both = at(class, class);
            (either > 0).then(|| both as f64 / (either - both) as f64)
        };
        let shares: Vec<f64> = all.clone().filter_map(share).collect();
        let (right, total) =
            (all.clone().map(|class| at(class, class)).sum::<u64>(), self.counts.iter().sum::<u64>());
        Quality {
            mean_iou: shares.iter().sum::<f64>() / shares.len().max(1) as f64,
            accuracy: right as f64 / total.max(1) as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::methods::reducers::testing::{plan, vision, vision_in};
    use crate::nn::vars::Storage;
    use crate::train::log::Record;
    use crate::train::run::Run;

    #[test]
    fn the_mean_of_shares_counts_what_is_or_is_taken_for_a_class() {
        let mut confusion = Confusion::new(3);
        for (truth, answer) in [(0, 0), (0, 0), (0, 1), (1, 1)] {
            confusion.add(truth, answer);
        }
        let found = confusion.quality();
        assert!((found.mean_iou - (2.0 / 3.0 + 1.0 / 2.0) / 2.0).abs() < 1e-12, "{found:?}");
        assert_eq!(found.accuracy, 0.75);
    }

    #[test]
    fn a_patch_shows_what_most_of_its_pixels_do() {
        let scene = World::new(1, 1, 16).unwrap().sample(3);
        let kind = 1 + Kind::ALL.iter().position(|kind| *kind == scene.objects[0].kind).unwrap() as u32;
        let mut owner = vec![0; 16];
        owner[..6].fill(1); // the upper left patch in full, the upper right by half, one pixel below
        assert_eq!(shown(&scene, &owner, [4, 2]), [kind, 0, 0, 0]);
        owner[6] = 1;
        assert_eq!(shown(&scene, &owner, [4, 2]), [kind, kind, 0, 0]);
    }

    /// A plan under which nothing goes changes no bit; under another one all patches have a state, some the same.
    #[test]
    fn reductions_are_undone_before_the_head() {
        let model = vision(4);
        let pixels = || {
            let values = (0..2 * 3 * 256).map(|at| (at as f32 * 0.37).sin()).collect();
            Tensor::from_data(TensorData::new::<f32, _>(values, [2, 3, 16, 16]), &Device::flex())
        };
        let states = |plan: Option<&Plan>| op::host(dense(&model, pixels(), plan).unwrap()).into_vec();
        let plain = states(None);
        assert_eq!(plain.len(), 2 * 64 * 32);
        assert_eq!(states(Some(&plan("tome:list=0", 4).unwrap())), plain);
        for (method, distinct) in [("tome:list=20|20", 24), ("top-k-prune:list=20|20", 64)] {
            let states = states(Some(&plan(method, 4).unwrap()));
            let mut rows: Vec<Vec<u32>> = states[..64 * 32]
                .chunks_exact(32)
                .map(|row| row.iter().map(|value| value.to_bits()).collect())
                .collect();
            rows.sort_unstable();
            rows.dedup();
            assert_eq!(rows.len(), distinct, "{method}");
        }
    }

    #[test]
    fn what_patches_show_is_learnt() {
        let (device, world) = (Device::flex().autodiff(), World::new(1, 1, 16).unwrap());
        let model = Segmenter::new(vision_in(1, &Storage::Dense(device.clone())), &device);
        let task = Segmentation::new(model.backbone.config(), world, 16).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut losses = Vec::new();
        let mut report = |record: &Record| losses.push(record.loss);
        let schedule = Schedule { peak: 5e-3, steps: 16, warm_up: 1, ..settings().schedule };
        let settings = Settings { schedule, ..settings() };
        let stop = AtomicBool::new(false);
        let run = Run { objective: &task, settings, folder: folder.path(), stop: &stop, report: &mut report };
        let model = run.train(model, false).unwrap().model;
        assert!((losses[0] - (Segmentation::classes().len() as f32).ln()).abs() < 1e-3, "{}", losses[0]);
        assert!(losses[losses.len() - 1] < 0.9 * losses[0], "{losses:?}");
        let quality = task.quality(&model, &plan("tome:r=4", 1).unwrap(), 16).unwrap();
        assert!(quality.accuracy > 0.2 && quality.mean_iou > 0.0, "{quality:?}");
        assert!(Segmentation::new(model.backbone.config(), World { size: 32, ..world }, 1).is_err());
    }
}
