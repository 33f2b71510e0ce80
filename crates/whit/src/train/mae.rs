//! Masked autoencoders of pictures: most patches of a picture are hidden, and what is in them is to be said.

use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::TrainError;
use super::run::Objective;
use super::vision::{VisionRecipe, batch_numbers, pixels};
use super::windows::Position;
use crate::models::{self, ModelError};
use crate::nn::attention::Batched;
use crate::nn::vars::{Random, Storage, Vars};
use crate::nn::white::Initial;
use crate::nn::white_mae::{WhiteMae, WhiteMaeConfig, loss};
use crate::world::Pictures;

/// Pictures that are looked at during training.
const WATCHED: usize = 256;

/// The network before training, on `device`.
///
/// # Errors
/// If the configuration cannot be.
pub fn model(recipe: &VisionRecipe, device: &Device) -> Result<WhiteMae, TrainError> {
    let config = models::crate_mae::config(&recipe.config).map_err(ModelError::from)?;
    let source = Initial { random: Random { seed: recipe.seed } };
    let storage = Storage::Dense(device.clone());
    Ok(WhiteMae::new(config, &Vars::new(&source, &storage)).map_err(ModelError::from)?)
}

/// Learning to say what the hidden patches of a picture hold.
#[expect(missing_debug_implementations, reason = "pictures come from anywhere")]
pub struct Autoencoding {
    train: Box<dyn Pictures>,
    held_out: Box<dyn Pictures>,
    recipe: VisionRecipe,
    config: WhiteMaeConfig,
}

/// Pictures with the patches that are hidden.
struct Masked {
    pixels: Tensor<4>,
    hidden: Tensor<2>,
}

impl Autoencoding {
    /// Of the recipe's pictures, or of those in a folder.
    ///
    /// # Errors
    /// If there are none to learn from or none held out, or the recipe's model is no such autoencoder.
    pub fn new(recipe: &VisionRecipe, data: Option<&Path>) -> Result<Self, TrainError> {
        let config = models::crate_mae::config(&recipe.config).map_err(ModelError::from)?;
        let [train, held_out] = recipe.pictures(data)?;
        if train.is_empty() || held_out.is_empty() {
            let reason = "there are too few pictures: some to learn from and some held out";
            return Err(TrainError::Setting(reason.into()));
        }
        Ok(Self { train, held_out, recipe: recipe.clone(), config })
    }

    /// The pictures with these numbers, their values from -1 to 1, masked as `seed` says.
    fn read(
        &self,
        held_out: bool,
        numbers: &[usize],
        seed: u64,
        device: &Device,
    ) -> Result<Masked, TrainError> {
        let (pictures, size) = (if held_out { &self.held_out } else { &self.train }, self.recipe.size());
        let batch = pictures.batch(numbers, size).map_err(|error| TrainError::Setting(error.to_string()))?;
        let pixels = pixels(&batch.images, [numbers.len(), size], device);
        let patches = self.config.encoder.grid([size, size]).iter().product();
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let kept = self.config.kept(patches);
        let hidden: Vec<f32> = numbers.iter().flat_map(|_| mask(patches, kept, &mut random)).collect();
        let hidden = Tensor::from_data(TensorData::new(hidden, [numbers.len(), patches]), device);
        Ok(Masked { pixels, hidden })
    }

    fn batch_seed(&self, batch: u64) -> u64 {
        self.recipe.seed ^ batch.wrapping_mul(0x9e37_79b9)
    }

    /// The mean loss on the first held-out pictures of what `predict` says of them.
    fn mean_loss(&self, pictures: usize, predict: impl Fn(&Masked) -> Tensor<1>) -> Result<f64, TrainError> {
        let numbers: Vec<usize> = (0..pictures.min(self.held_out.len())).collect();
        let mut sum = 0.0;
        for (part, numbers) in numbers.chunks(self.recipe.batch).enumerate() {
            let masked = self.read(true, numbers, part as u64, &Device::flex())?;
            sum += f64::from(predict(&masked).into_scalar::<f32>()) * numbers.len() as f64;
        }
        Ok(sum / numbers.len() as f64)
    }
}

/// 1 for each of `patches` that is hidden, 0 for `kept` that chance picks.
fn mask(patches: usize, kept: usize, random: &mut ChaCha8Rng) -> Vec<f32> {
    let mut order: Vec<(u64, usize)> = (0..patches).map(|patch| (random.random(), patch)).collect();
    order.sort_unstable();
    let mut hidden = vec![1.0; patches];
    order[..kept].iter().for_each(|&(_, patch)| hidden[patch] = 0.0);
    hidden
}

fn model_loss(model: &WhiteMae, masked: &Masked) -> Tensor<1> {
    let attend = &mut Batched::whole(masked.pixels.dims()[0], None);
    let states = model.encode(masked.pixels.clone(), masked.hidden.clone(), attend);
    let predicted = model.decode(states, attend);
    loss(predicted, model.target(masked.pixels.clone()), masked.hidden.clone())
}

/// The loss of who says for every hidden patch the mean of those of the picture that are seen.
fn mean_patch_loss(model: &WhiteMae, masked: &Masked) -> Tensor<1> {
    let target = model.target(masked.pixels.clone());
    let [batch, patches, _] = target.dims();
    let seen = masked.hidden.clone().reshape([batch, patches, 1]) * -1.0 + 1.0;
    let mean = (target.clone() * seen.clone()).sum_dim(1) / seen.sum_dim(1);
    loss(mean.expand(target.dims()), target, masked.hidden.clone())
}

impl Objective for Autoencoding {
    type Model = WhiteMae;

    fn loss(&self, model: &WhiteMae, position: Position) -> Result<Tensor<1>, TrainError> {
        let batch = position.step * position.parts + position.part;
        let VisionRecipe { seed, batch: pictures, .. } = self.recipe;
        let numbers = batch_numbers(seed, batch, pictures, self.train.len());
        let seed = self.batch_seed(batch);
        Ok(model_loss(model, &self.read(false, &numbers, !seed, &Device::flex().autodiff())?))
    }

    fn held_out_loss(&self, model: &WhiteMae) -> Result<f32, TrainError> {
        Ok(self.mean_loss(WATCHED, |masked| model_loss(model, masked))? as f32)
    }

    fn items(&self) -> u64 {
        self.recipe.batch as u64
    }

    fn identity(&self) -> String {
        let VisionRecipe { batch, seed, .. } = self.recipe;
        let (count, size, ratio) = (self.train.len(), self.recipe.size(), self.config.mask_ratio);
        format!("{count} pictures, {batch} of {size} pixels, {ratio} hidden, seed {seed}")
    }
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Figures {
    /// The mean square error in the hidden patches of held-out pictures.
    pub loss: f64,
    /// That of the mean of the patches that are seen.
    pub mean_patch_loss: f64,
    /// Held-out pictures.
    pub pictures: usize,
    /// Weights.
    pub parameters: usize,
}

impl Figures {
    /// The figures with their names, for tables.
    pub fn rows(&self) -> Vec<(String, String)> {
        let saved = 100.0 * (1.0 - self.loss / self.mean_patch_loss);
        let on = format!("{} pictures held out", self.pictures);
        vec![
            (format!("square error in hidden patches, {on}"), format!("{:.5}", self.loss)),
            ("that of the mean of the patches seen".into(), format!("{:.5}", self.mean_patch_loss)),
            ("below it by".into(), format!("{saved:.1} %")),
            ("weights".into(), self.parameters.to_string()),
        ]
    }
}

/// Measures `model`, which is outside autodiff.
///
/// # Errors
/// If a picture cannot be read.
pub fn measure(model: &WhiteMae, objective: &Autoencoding) -> Result<Figures, TrainError> {
    let pictures = objective.held_out.len();
    Ok(Figures {
        loss: objective.mean_loss(pictures, |masked| model_loss(model, masked))?,
        mean_patch_loss: objective.mean_loss(pictures, |masked| mean_patch_loss(model, masked))?,
        pictures,
        parameters: model.num_params(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::recipes;

    fn tiny() -> VisionRecipe {
        let mut recipe = (recipes::find(recipes::AUTOENCODERS, "toy-crate-mae").unwrap().settings)();
        for (field, value) in
            [("hidden_size", 16), ("num_hidden_layers", 1), ("num_attention_heads", 2), ("image_size", 32)]
        {
            recipe.config[field] = value.into();
        }
        VisionRecipe { batch: 4, held_out: 8, ..recipe }
    }

    #[test]
    fn a_mask_hides_what_is_not_kept() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let [first, second] = [(); 2].map(|()| mask(16, 4, &mut random));
        assert_eq!((first.iter().sum::<f32>(), second.iter().sum::<f32>()), (12.0, 12.0));
        assert_ne!(first, second);
    }

    /// Positions are no weights that learn; all others are, and every gradient is there.
    #[test]
    fn everything_learns_but_the_positions() {
        let recipe = tiny();
        let model = model(&recipe, &Device::flex().autodiff()).unwrap();
        let objective = Autoencoding::new(&recipe, None).unwrap();
        let loss = objective.loss(&model, Position { step: 3, part: 0, parts: 1 }).unwrap();
        let mut sums = super::super::parameters::Named::new();
        super::super::parameters::add_gradients(&model, &mut loss.backward(), &mut sums);
        let mut silent = Vec::new();
        super::super::parameters::read(&model, |name, _, _| {
            if !sums.contains_key(name) {
                silent.push(name.to_owned());
            }
        });
        assert_eq!(silent, ["encoder.position_embeddings"]);
    }

    #[test]
    fn the_mean_patch_is_that_of_the_patches_seen() {
        let recipe = tiny();
        let (model, objective) =
            (model(&recipe, &Device::flex()).unwrap(), Autoencoding::new(&recipe, None).unwrap());
        let whole = objective.read(true, &[0, 1], 5, &Device::flex()).unwrap();
        let flat = Masked { pixels: whole.pixels.clone() * 0.0 + 0.5, hidden: whole.hidden.clone() };
        assert!(mean_patch_loss(&model, &flat).into_scalar::<f32>() < 1e-10, "one colour is its own mean");
        assert!(mean_patch_loss(&model, &whole).into_scalar::<f32>() > 1e-4);
    }
}
