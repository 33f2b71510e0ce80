//! A dense head: what each patch of a picture shows, said by one linear layer on the states of a vision transformer
//! that stays as it is. The toy world knows the truth of every pixel; a patch shows what most of its pixels do.
//!
//! Reducers are undone before the head: merged patches get back the state of the token that they went into.

use burn::tensor::{Device, Tensor, TensorData};
use serde::Serialize;
use whit_kernels::cross_entropy::cross_entropy;
use whit_kernels::op;

use super::TrainError;
use super::optimizer::AdamW;
use super::run::{Objective, Settings};
use super::schedule::Schedule;
use super::windows::Position;
use crate::methods::reducers::Images;
use crate::methods::{MethodError, Plan};
use crate::nn::attention::Batched;
use crate::nn::linear::Linear;
use crate::nn::reduce::Reducing;
use crate::nn::vision::Vision;
use crate::world::scene::Kind;
use crate::world::{Scene, World};

/// Pictures that are looked at during training.
const WATCHED: usize = 64;

/// Pictures of a batch.
const BATCH: usize = 32;

/// How the recipe `toy-segment` trains.
pub fn settings() -> Settings {
    Settings {
        schedule: Schedule { peak: 5e-3, floor: 1e-4, warm_up: 20, steps: 600 },
        optimizer: AdamW { weight_decay: 0.0, ..AdamW::default() },
        parts: 1,
        checkpoint_every: 100,
        evaluate_every: 50,
    }
}

/// Learning what patches show.
#[derive(Debug)]
pub struct Segmentation<'m> {
    backbone: &'m Vision,
    world: World,
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

impl<'m> Segmentation<'m> {
    /// On scenes of `world`, the first `held_out` of which are kept from training.
    ///
    /// # Errors
    /// If its pictures are not of the backbone's size.
    pub fn new(backbone: &'m Vision, world: World, held_out: usize) -> Result<Self, TrainError> {
        if backbone.config().image != [world.size; 2] {
            let reason = format!(
                "the model's images are {:?} and the scenes {} pixels on a side",
                backbone.config().image,
                world.size
            );
            return Err(TrainError::Setting(reason));
        }
        Ok(Self { backbone, world, held_out })
    }

    /// What patches can show: nothing, or a kind of object.
    pub fn classes() -> Vec<String> {
        std::iter::once("background")
            .chain(Kind::ALL.iter().map(|kind| kind.name()))
            .map(str::to_owned)
            .collect()
    }

    /// The head before training, on `device`.
    pub fn head(&self, device: &Device) -> Linear {
        let (classes, width) = (1 + Kind::ALL.len(), self.backbone.config().block.width);
        // A single layer has one best solution, so zeros are as good a start as any.
        Linear::dense(Tensor::zeros([classes, width], device), Some(Tensor::zeros([classes], device)))
    }

    /// The states of the patches of some scenes, `[patches, width]`, and what the patches show.
    fn read(
        &self,
        scenes: std::ops::Range<u64>,
        plan: Option<&Plan>,
    ) -> Result<(Vec<f32>, Vec<u32>), TrainError> {
        let (size, patch) = (self.world.size, self.backbone.config().patch[0]);
        let (mut values, mut labels, count) = (Vec::new(), Vec::new(), scenes.clone().count());
        for scene in scenes.map(|number| self.world.sample(number)) {
            let rendered = scene.render(size);
            values.extend(rendered.image.iter().map(|value| 2.0 * value - 1.0));
            labels.extend(shown(&scene, &rendered.owner, [size, patch]));
        }
        let pixels = Tensor::from_data(TensorData::new(values, [count, 3, size, size]), &Device::flex());
        let states =
            dense(self.backbone, plan, pixels).map_err(|error| TrainError::Setting(error.to_string()))?;
        Ok((states, labels))
    }

    fn scores(&self, head: &Linear, states: Vec<f32>, device: &Device) -> Tensor<2> {
        let width = self.backbone.config().block.width;
        let rows = states.len() / width.max(1);
        head.forward(Tensor::from_data(TensorData::new(states, [rows, width]), device))
    }

    /// How well `head` tells the patches of held-out pictures with the reducer of `plan`; `head` is outside autodiff.
    ///
    /// # Errors
    /// If a method refuses the pictures.
    pub fn quality(&self, head: &Linear, plan: &Plan, pictures: usize) -> Result<Quality, TrainError> {
        let count = pictures.min(self.held_out) as u64;
        let mut confusion = Confusion::new(1 + Kind::ALL.len());
        for start in (0..count).step_by(BATCH) {
            let (states, labels) = self.read(start..count.min(start + BATCH as u64), Some(plan))?;
            let scores = op::host(self.scores(head, states, &Device::flex()));
            let answers = scores.data().chunks_exact(scores.width()).map(best);
            answers.zip(labels).for_each(|(answer, label)| confusion.add(label as usize, answer));
        }
        Ok(confusion.quality())
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
/// places: `[images * patches, width]`.
///
/// # Errors
/// If the reducer refuses the images.
pub fn dense(model: &Vision, plan: Option<&Plan>, pixels: Tensor<4>) -> Result<Vec<f32>, MethodError> {
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
    let patches = model.normed(states).slice([0..batch, model.config().specials()..tokens, 0..width]);
    Ok(op::host(patches).into_vec())
}

impl Objective for Segmentation<'_> {
    type Model = Linear;

    fn loss(&self, head: &Linear, position: Position) -> Result<Tensor<1>, TrainError> {
        let at = (position.step * position.parts + position.part) * BATCH as u64 + self.held_out as u64;
        let (states, labels) = self.read(at..at + BATCH as u64, None)?;
        Ok(cross_entropy(self.scores(head, states, &Device::flex().autodiff()), &labels, None))
    }

    fn held_out_loss(&self, head: &Linear) -> Result<f32, TrainError> {
        let (states, labels) = self.read(0..WATCHED.min(self.held_out) as u64, None)?;
        Ok(cross_entropy(self.scores(head, states, &Device::flex()), &labels, None).into_scalar())
    }

    fn items(&self) -> u64 {
        BATCH as u64
    }

    fn identity(&self) -> String {
        format!("patches of {:?}, {} held out", self.world, self.held_out)
    }
}

fn best(row: &[f32]) -> usize {
    (0..row.len()).fold(0, |best, at| if row[at] > row[best] { at } else { best })
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
    use crate::methods::reducers::testing::{plan, vision};
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
        let plain = dense(&model, None, pixels()).unwrap();
        assert_eq!(plain.len(), 2 * 64 * 32);
        let kept = plan("tome:list=0", 4).unwrap();
        assert_eq!(dense(&model, Some(&kept), pixels()).unwrap(), plain);
        for (method, distinct) in [("tome:list=20|20", 24), ("top-k-prune:list=20|20", 64)] {
            let plan = plan(method, 4).unwrap();
            let states = dense(&model, Some(&plan), pixels()).unwrap();
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
    fn a_head_learns_on_a_frozen_backbone() {
        let model = vision(1);
        let task = Segmentation::new(&model, World::new(1, 1, 16).unwrap(), 16).unwrap();
        let head = task.head(&Device::flex().autodiff());
        let folder = tempfile::tempdir().unwrap();
        let mut losses = Vec::new();
        let (stop, mut report) =
            (AtomicBool::new(false), |record: &crate::train::log::Record| losses.push(record.loss));
        let settings =
            Settings { schedule: Schedule { steps: 12, warm_up: 1, ..settings().schedule }, ..settings() };
        let run = Run { objective: &task, settings, folder: folder.path(), stop: &stop, report: &mut report };
        let head = run.train(head, false).unwrap().model;
        assert!((losses[0] - (Segmentation::classes().len() as f32).ln()).abs() < 1e-3, "{}", losses[0]);
        assert!(losses[losses.len() - 1] < 0.8 * losses[0], "{losses:?}");
        let quality = task.quality(&head, &plan("tome:r=4", 1).unwrap(), 16).unwrap();
        assert!(quality.accuracy > 0.3 && quality.mean_iou > 0.0, "{quality:?}");
        assert!(Segmentation::new(&model, World::new(1, 1, 32).unwrap(), 1).is_err());
    }
}
