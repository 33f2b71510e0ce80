//! Classifiers of pictures: what a recipe for one says, how pictures become losses, and how good the result is.

use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use serde_json::Value;
use whit_kernels::cross_entropy::cross_entropy;
use whit_kernels::op;

use super::TrainError;
use super::rates::Examples;
use super::run::{Objective, Settings};
use super::windows::Position;
use crate::generate::sampler::argmax;
use crate::methods::reducers::Images;
use crate::methods::{MethodError, Plan};
use crate::models::{self, ModelError};
use crate::nn::attention::Batched;
use crate::nn::reduce::{Reduce, Reducing};
use crate::nn::vars::{Random, Source, Storage, Vars};
use crate::nn::vision::{Vision, VisionConfig};
use crate::nn::white::Initial;
use crate::world::folder::Folder;
use crate::world::scene::WorldError;
use crate::world::{Pictures, Scenes, World};

/// Pictures that are looked at during training.
const WATCHED: usize = 256;

/// A recipe for a classifier of pictures.
#[derive(Clone, Debug, PartialEq)]
pub struct VisionRecipe {
    /// The architecture, as `config.json` says it; the classes are set from the pictures.
    pub config: Value,
    /// How hard the toy world's pictures are.
    pub level: u8,
    /// Pictures held out.
    pub held_out: usize,
    /// Pictures of a batch.
    pub batch: usize,
    /// The weight of a second loss: patches on the object that the class is about shall tell the class too,
    /// so that a small transformer sees early where to look ("token labeling"; Jiang et al., 2021, arXiv
    /// 2104.10858). 0 for none; left out where it is not known which patches these are.
    pub patch_share: f32,
    /// Every random choice follows from it.
    pub seed: u64,
    /// How long and how.
    pub settings: Settings,
}

impl VisionRecipe {
    /// Pixels on a side.
    pub fn size(&self) -> usize {
        self.config["image_size"].as_u64().map_or(0, |size| size as usize)
    }

    /// The pictures to learn from and those held out: of the toy world, or of a folder with a folder for each
    /// class, of which every tenth picture is held out.
    ///
    /// # Errors
    /// If there are none.
    pub fn pictures(&self, data: Option<&Path>) -> Result<[Box<dyn Pictures>; 2], TrainError> {
        if let Some(folder) = data {
            let open = || Folder::open(folder).map_err(|error| TrainError::Setting(error.to_string()));
            let part = |held_out| -> Result<Box<dyn Pictures>, TrainError> {
                Ok(Box::new(Part { folder: open()?, held_out }))
            };
            return Ok([part(false)?, part(true)?]);
        }
        let world = self.world().map_err(|error| TrainError::Setting(error.to_string()))?;
        let first = self.held_out as u64;
        Ok([Box::new(Scenes::new(world, first..u64::MAX)), Box::new(Scenes::new(world, 0..first))])
    }

    /// The toy world that its pictures are of; the first scenes are held out.
    ///
    /// # Errors
    /// If there is no such level or size.
    pub fn world(&self) -> Result<World, WorldError> {
        World::new(self.seed, self.level, self.size())
    }

    /// `config.json` of a model of these classes.
    pub fn config_json(&self, classes: &[String]) -> Value {
        let mut config = self.config.clone();
        let names = classes.iter().enumerate().map(|(id, name)| (id.to_string(), Value::from(name.as_str())));
        let ids = classes.iter().enumerate().map(|(id, name)| (name.clone(), Value::from(id)));
        config["id2label"] = Value::Object(names.collect());
        config["label2id"] = Value::Object(ids.collect());
        config
    }

    /// The network before training, on `device`.
    ///
    /// # Errors
    /// If the configuration cannot be.
    pub fn model(&self, classes: &[String], device: &Device) -> Result<Vision, TrainError> {
        let (storage, random) = (Storage::Dense(device.clone()), Random { seed: self.seed });
        let config = self.vision_config(classes)?;
        let source: &dyn Source = if config.block.white.is_some() { &Initial { random } } else { &random };
        Ok(Vision::new(config, &Vars::new(source, &storage)).map_err(ModelError::from)?)
    }

    fn vision_config(&self, classes: &[String]) -> Result<VisionConfig, TrainError> {
        let config = self.config_json(classes);
        let known = models::vision::architecture(&config);
        let architecture =
            known.ok_or_else(|| TrainError::Setting("the recipe's model is no vision transformer".into()))?;
        Ok(architecture.config(&config).map_err(ModelError::from)?)
    }
}

/// The part of a folder that is learnt from, or the part that is held out.
struct Part {
    folder: Folder,
    held_out: bool,
}

impl Part {
    fn place(&self, number: usize) -> usize {
        if self.held_out { 10 * number } else { number + number / 9 + 1 }
    }
}

impl Pictures for Part {
    fn len(&self) -> usize {
        let held_out = self.folder.len().div_ceil(10);
        if self.held_out { held_out } else { self.folder.len() - held_out }
    }

    fn classes(&self) -> Vec<String> {
        self.folder.classes()
    }

    fn picture(
        &self,
        number: usize,
        size: usize,
    ) -> Result<crate::world::Picture, crate::world::folder::FolderError> {
        self.folder.picture(self.place(number), size)
    }
}

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

/// Pictures without labels, to calibrate on.
#[expect(missing_debug_implementations, reason = "pictures come from anywhere")]
pub struct Samples {
    pictures: Box<dyn Pictures>,
    size: usize,
    batch: usize,
    colours: Colours,
}

/// Mean and deviation of each colour, taken off and divided by.
pub type Colours = ([f32; 3], [f32; 3]);

impl Samples {
    /// Pictures of a folder, or without one of the toy world, for a model of images of this height and width.
    ///
    /// # Errors
    /// If there are none, or the images are not square.
    pub fn open(
        folder: Option<&Path>,
        [height, width]: [usize; 2],
        batch: usize,
        colours: Colours,
    ) -> Result<Self, TrainError> {
        let setting = |error: &dyn std::fmt::Display| TrainError::Setting(error.to_string());
        if height != width {
            return Err(setting(&format!(
                "the model's images are {height} x {width}; only square ones are made here"
            )));
        }
        let pictures: Box<dyn Pictures> = match folder {
            Some(folder) => Box::new(Folder::open(folder).map_err(|error| setting(&error))?),
            None => {
                let world = World::new(1, 2, height).map_err(|error| setting(&error))?;
                Box::new(Scenes::new(world, 1 << 32..u64::MAX))
            }
        };
        Ok(Self { pictures, size: height, batch, colours })
    }

    /// The batch of a step.
    ///
    /// # Errors
    /// If a picture cannot be read.
    pub fn batch(&self, step: u64, device: &Device) -> Result<Examples, TrainError> {
        let mut random = ChaCha8Rng::seed_from_u64(step);
        let numbers: Vec<usize> =
            (0..self.batch).map(|_| random.random_range(0..self.pictures.len())).collect();
        let batch = self.pictures.batch(&numbers, self.size);
        let mut values = batch.map_err(|error| TrainError::Setting(error.to_string()))?.images;
        let (mean, deviation) = self.colours;
        for (plane, values) in values.chunks_exact_mut(self.size * self.size).enumerate() {
            let colour = plane % 3;
            values.iter_mut().for_each(|value| *value = (*value - mean[colour]) / deviation[colour]);
        }
        let shape = [numbers.len(), 3, self.size, self.size];
        Ok(Examples { pixels: Tensor::from_data(TensorData::new(values, shape), device), labels: None })
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
