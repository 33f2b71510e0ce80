//! Classifiers of pictures: how pictures become losses, and how good the result is.

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use whit_kernels::cross_entropy::cross_entropy;
use whit_kernels::op;

use super::TrainError;
use super::rates::Examples;
use super::run::Objective;
use super::windows::Position;
use crate::generate::sampler::argmax;
use crate::methods::reducers::Images;
use crate::methods::{MethodError, Plan};
use crate::nn::attention::Batched;
use crate::nn::reduce::{Reduce, Reducing};
use crate::nn::vision::Vision;
use crate::world::Pictures;

mod recipe;
mod samples;

pub use recipe::VisionRecipe;
pub use samples::{Colours, Samples};

/// Pictures that are looked at during training.
const WATCHED: usize = 256;

/// Learning which class a picture is of.
#[expect(missing_debug_implementations, reason = "pictures come from anywhere")]
pub struct Classification {
    train: Box<dyn Pictures>,
    held_out: Box<dyn Pictures>,
    size: usize,
    batch: usize,
    patch: usize,
    patch_share: f32,
    seed: u64,
}

/// Pictures on the way into a network, with their classes.
struct Labelled {
    pixels: Tensor<4>,
    labels: Vec<u32>,
    /// The class of each patch on the object, [`NOTHING`] elsewhere: `[batch * patches]`.
    patches: Option<Vec<u32>>,
}

/// The label of a patch that is not on the object.
const NOTHING: u32 = u32::MAX;

/// The share of a patch that the object covers, from which on the patch is labelled.
const COVERED: f32 = 0.1;

impl Classification {
    /// Of these pictures.
    ///
    /// # Errors
    /// If there are none to learn from or none held out.
    pub fn new(recipe: &VisionRecipe, [train, held_out]: [Box<dyn Pictures>; 2]) -> Result<Self, TrainError> {
        if train.is_empty() || held_out.is_empty() {
            return Err(TrainError::Setting(
                "there are too few pictures: some to learn from and some held out".into(),
            ));
        }
        Ok(Self {
            train,
            held_out,
            size: recipe.size(),
            batch: recipe.batch,
            patch: recipe.config["patch_size"].as_u64().map_or(1, |patch| patch as usize),
            patch_share: recipe.patch_share,
            seed: recipe.seed,
        })
    }

    /// The pictures with these numbers, their values from -1 to 1.
    fn read(
        &self,
        pictures: &dyn Pictures,
        numbers: &[usize],
        device: &Device,
    ) -> Result<Labelled, TrainError> {
        let batch =
            pictures.batch(numbers, self.size).map_err(|error| TrainError::Setting(error.to_string()))?;
        let pixels = pixels(&batch.images, [numbers.len(), self.size], device);
        let label = |label: &Option<usize>| label.map(|class| class as u32);
        let labels: Option<Vec<u32>> = batch.labels.iter().map(label).collect();
        let labels = labels.ok_or_else(|| TrainError::Setting("some picture has no class".into()))?;
        let subjects = batch.subjects.into_iter().collect::<Option<Vec<_>>>();
        let patches = subjects.filter(|_| self.patch_share > 0.0).map(|subjects| {
            let each = |(subject, label): (&Vec<bool>, &u32)| covered(subject, self.size, self.patch, *label);
            subjects.iter().zip(&labels).flat_map(each).collect()
        });
        Ok(Labelled { pixels, labels, patches })
    }

    fn numbers(&self, batch: u64) -> Vec<usize> {
        batch_numbers(self.seed, batch, self.batch, self.train.len())
    }

    /// A batch to learn counts of tokens from.
    ///
    /// # Errors
    /// If a picture cannot be read.
    pub fn examples(&self, step: u64, device: &Device) -> Result<Examples, TrainError> {
        let read = self.read(self.train.as_ref(), &self.numbers(!step), device)?;
        let Labelled { pixels, labels, .. } = read;
        Ok(Examples { pixels, labels: Some(labels) })
    }

    /// The share of held-out pictures whose class `model` finds with the methods of `plan`; `model` is outside
    /// autodiff.
    ///
    /// # Errors
    /// If a picture cannot be read or a method refuses it.
    pub fn accuracy(&self, model: &Vision, plan: &Plan, pictures: usize) -> Result<f64, TrainError> {
        let count = pictures.min(self.held_out.len());
        let numbers: Vec<usize> = (0..count).collect();
        let mut right = 0;
        for numbers in numbers.chunks(self.batch) {
            let read = self.read(self.held_out.as_ref(), numbers, &Device::flex())?;
            let Labelled { pixels, labels, .. } = read;
            let scores =
                classify(model, plan, pixels).map_err(|error| TrainError::Setting(error.to_string()))?;
            let scores = op::host(scores);
            let answers = scores.data().chunks_exact(scores.width()).map(argmax);
            right += answers.zip(labels).filter(|(answer, label)| answer == label).count();
        }
        Ok(right as f64 / count as f64)
    }
}

/// Pictures with values from 0 to 1 as models take them, from -1 to 1: `[count, 3, size, size]`.
pub fn pixels(pictures: &[f32], [count, size]: [usize; 2], device: &Device) -> Tensor<4> {
    let values: Vec<f32> = pictures.iter().map(|value| 2.0 * value - 1.0).collect();
    Tensor::from_data(TensorData::new(values, [count, 3, size, size]), device)
}

/// The scores of the classes, `[images, classes]`, with the token reducer of `plan` where it has one.
///
/// # Errors
/// If the reducer refuses the images.
pub fn classify(model: &Vision, plan: &Plan, pixels: Tensor<4>) -> Result<Tensor<2>, MethodError> {
    let batch = pixels.dims()[0];
    let reducers: Option<Vec<_>> = (0..batch).map(|_| plan.begin().reducer).collect();
    let (hidden, sizes) = match reducers {
        None => (model.forward(pixels, &mut Batched::whole(batch, None)), None),
        Some(reducers) => {
            let mut images = Images::new(reducers, model.config().specials());
            let hidden = model.forward(pixels, &mut Reducing::new(batch, &mut images));
            images.finish()?;
            (hidden, images.sizes())
        }
    };
    Ok(logits(model, &hidden, sizes))
}

/// The recipe's models have a head.
fn logits(model: &Vision, hidden: &Tensor<3>, sizes: Option<Tensor<2>>) -> Tensor<2> {
    match model.logits(hidden, sizes) {
        Some(logits) => logits.logits,
        None => model.class_state(hidden),
    }
}

impl Objective for Classification {
    type Model = Vision;

    fn loss(&self, model: &Vision, position: Position) -> Result<Tensor<1>, TrainError> {
        let at = position.step * position.parts + position.part;
        let read = self.read(self.train.as_ref(), &self.numbers(at), &Device::flex().autodiff())?;
        Ok(loss(model, read, self.patch_share))
    }

    fn held_out_loss(&self, model: &Vision) -> Result<f32, TrainError> {
        let numbers: Vec<usize> = (0..WATCHED.min(self.held_out.len())).collect();
        let mut sum = 0.0;
        for numbers in numbers.chunks(self.batch) {
            let read = self.read(self.held_out.as_ref(), numbers, &Device::flex())?;
            sum += loss(model, read, 0.0).into_scalar::<f32>() * numbers.len() as f32;
        }
        Ok(sum / numbers.len() as f32)
    }

    fn items(&self) -> u64 {
        self.batch as u64
    }

    fn identity(&self) -> String {
        let (classes, count) = (self.train.classes().join(" "), self.train.len());
        let print = crate::world::stable_hash(classes.as_bytes());
        format!(
            "{count} pictures of {print:016x}, {} of {} pixels, seed {}",
            self.batch, self.size, self.seed
        )
    }
}

/// The numbers of the pictures of batch `batch`, out of `all`.
pub(super) fn batch_numbers(seed: u64, batch: u64, pictures: usize, all: usize) -> Vec<usize> {
    let mut random = ChaCha8Rng::seed_from_u64(seed ^ batch.wrapping_mul(0x9e37_79b9));
    (0..pictures).map(|_| random.random_range(0..all)).collect()
}

/// `label` for each patch of a picture that `subject` `[size, size]` covers by [`COVERED`], row after row.
fn covered(subject: &[bool], size: usize, patch: usize, label: u32) -> Vec<u32> {
    let side = size / patch;
    let share = |row: usize, column: usize| {
        let lines = (row * patch..(row + 1) * patch).map(|y| &subject[y * size + column * patch..][..patch]);
        let on = lines.flatten().filter(|on| **on).count();
        on as f32 / (patch * patch) as f32
    };
    let each = |at: usize| if share(at / side, at % side) >= COVERED { label } else { NOTHING };
    (0..side * side).map(each).collect()
}

fn loss(model: &Vision, Labelled { pixels, labels, patches }: Labelled, patch_share: f32) -> Tensor<1> {
    let batch = pixels.dims()[0];
    let hidden = model.forward(pixels, &mut Batched::whole(batch, None));
    let whole = cross_entropy(logits(model, &hidden, None), &labels, None);
    match patches.zip(model.patch_logits(&hidden)) {
        Some((labels, scores)) if patch_share > 0.0 => {
            whole + cross_entropy(scores, &labels, Some(NOTHING)) * patch_share
        }
        _ => whole,
    }
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Figures {
    /// The share of held-out pictures whose class is found.
    pub accuracy: f64,
    /// What guessing would find.
    pub chance: f64,
    /// Held-out pictures.
    pub pictures: usize,
    /// Weights.
    pub parameters: usize,
}

impl Figures {
    /// The figures with their names, for tables.
    pub fn rows(&self) -> Vec<(String, String)> {
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        vec![
            (format!("accuracy on {} pictures held out", self.pictures), percent(self.accuracy)),
            ("by guessing".into(), percent(self.chance)),
            ("weights".into(), self.parameters.to_string()),
        ]
    }
}

/// Measures `model`, which is outside autodiff.
///
/// # Errors
/// If a picture cannot be read.
pub fn measure(model: &Vision, objective: &Classification, plain: &Plan) -> Result<Figures, TrainError> {
    let pictures = objective.held_out.len();
    Ok(Figures {
        accuracy: objective.accuracy(model, plain, pictures)?,
        chance: 1.0 / objective.train.classes().len().max(1) as f64,
        pictures,
        parameters: model.num_params(),
    })
}
