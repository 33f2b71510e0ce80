//! Pairs of encoders that put pictures and their captions into one space (CLIP; Radford et al., 2021,
//! arXiv 2103.00020): what a recipe for one says, its loss, and how good the result is.

mod captions;
mod export;
mod measure;

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor, TensorData};
use serde_json::Value;
use whit_kernels::cross_entropy::cross_entropy;

use super::run::{Objective, Settings};
use super::vision::{batch_numbers, pixels};
use super::windows::Position;
use super::{TrainError, vocabulary, write_whole};
use crate::load::Tokenizer;
use crate::models::clip::{self, unit};
use crate::models::{ConfigError, ModelError};
use crate::nn::attention::Batched;
use crate::nn::encoder::{Encoder, EncoderTokens};
use crate::nn::vars::{Init, Random, Storage, Vars};
use crate::nn::vision::Vision;
use crate::world::{Pictures, Scenes, World};
use captions::Captions;

pub use export::save_pair;
pub use measure::{Figures, measure};

/// Pictures that are looked at during training.
const WATCHED: usize = 256;

/// Captions that the vocabulary is made from.
const READ: usize = 4_000;

/// The largest factor on cosines (section 2.5 of the paper).
const LARGEST_SCALE: f32 = 100.0;

/// A recipe for a pair of encoders.
#[derive(Clone, Debug, PartialEq)]
pub struct PairRecipe {
    /// The architecture, as CLIP's `config.json` says it; the vocabulary is set from the captions.
    pub config: Value,
    /// How hard the toy world's pictures are.
    pub level: u8,
    /// Pictures held out.
    pub held_out: usize,
    /// Pictures of a batch: each caption is told from so many.
    pub batch: usize,
    /// Every random choice follows from it.
    pub seed: u64,
    /// How long and how.
    pub settings: Settings,
}

/// Both encoders with the factor that they learn.
#[derive(Module, Debug)]
pub struct Pair {
    /// The one for images.
    pub vision: Vision,
    /// The one for texts.
    pub text: Encoder,
    /// The logarithm of what cosines are multiplied with: `[1]`.
    pub logit_scale: Param<Tensor<1>>,
}

impl PairRecipe {
    /// Pixels on a side.
    pub fn size(&self) -> usize {
        self.config["vision_config"]["image_size"].as_u64().map_or(0, |size| size as usize)
    }

    /// The scenes to learn from and those held out.
    ///
    /// # Errors
    /// If there is no world of this level and size.
    pub fn scenes(&self) -> Result<[Scenes; 2], TrainError> {
        let world = World::new(self.seed, self.level, self.size())
            .map_err(|error| TrainError::Setting(error.to_string()))?;
        let first = self.held_out as u64;
        Ok([Scenes::new(world, first..u64::MAX), Scenes::new(world, 0..first)])
    }

    /// The words of captions as a tokenizer, at `path`; made and written there if there is none yet.
    ///
    /// # Errors
    /// If the file is damaged or cannot be written.
    pub fn tokenizer(&self, scenes: &Scenes, path: &std::path::Path) -> Result<Tokenizer, TrainError> {
        if !path.is_file() {
            let captions = captions::texts(scenes, 0..READ);
            let json = vocabulary::words(&captions, vocabulary::CLIP)?
                .to_string(false)
                .map_err(TrainError::Tokenizer)?;
            write_whole(path, json.as_bytes())?;
        }
        Ok(Tokenizer::open(path)?)
    }

    /// `config.json` of the pair with this tokenizer.
    pub fn config_json(&self, tokenizer: &Tokenizer) -> Value {
        let mut config = self.config.clone();
        let id = |mark| tokenizer.token_id(mark).into();
        let text = &mut config["text_config"];
        text["vocab_size"] = tokenizer.vocab_size().into();
        text["bos_token_id"] = id(vocabulary::TEXT_START);
        text["eos_token_id"] = id(vocabulary::TEXT_END);
        text["pad_token_id"] = id(vocabulary::TEXT_END);
        config
    }

    /// The encoders before training, on `device`.
    ///
    /// # Errors
    /// If the configuration cannot be.
    pub fn model(&self, tokenizer: &Tokenizer, device: &Device) -> Result<Pair, TrainError> {
        let (storage, source) = (Storage::Dense(device.clone()), Random { seed: self.seed });
        let settings = |error: ConfigError| ModelError::from(error);
        let (vision, text) = clip::configs(&self.config_json(tokenizer)).map_err(settings)?;
        let vars = Vars::new(&source, &storage);
        let (images, texts) = (vars.at("vision_model"), vars.at("text_model"));
        let scale = vars.vector("logit_scale", 1, Init::Constant((1.0_f32 / 0.07).ln()));
        Ok(Pair {
            vision: Vision::new(vision, &images).map_err(ModelError::from)?,
            text: Encoder::new(text, &texts).map_err(ModelError::from)?,
            logit_scale: Param::from_tensor(scale.map_err(ModelError::from)?),
        })
    }
}

impl Pair {
    /// Places of images `[batch, 3, height, width]` in the shared space, of length one: `[batch, values]`.
    fn images(&self, pixels: Tensor<4>) -> Tensor<2> {
        let batch = pixels.dims()[0];
        let hidden = self.vision.forward(pixels, &mut Batched::whole(batch, None));
        placed(self.vision.projected(&hidden))
    }

    /// Places of captions in the shared space, of length one: `[captions, values]`.
    fn texts(&self, captions: &Captions, device: &Device) -> Tensor<2> {
        let (ids, rows) = (&captions.ids, captions.count());
        let config = self.text.config();
        let positions: Vec<u32> =
            ids.chunks_exact(captions.length).flat_map(|row| config.positions(row)).collect();
        let tokens = EncoderTokens { ids, positions: &positions, types: &vec![0; ids.len()] };
        let hidden = self.text.forward(tokens, &mut Batched::causal(rows)); // [captions * length, width]
        let place =
            |(row, ids): (usize, &[u32])| (row * captions.length + self.text.pooled_place(ids)) as i64;
        let places: Vec<i64> = ids.chunks_exact(captions.length).enumerate().map(place).collect();
        let index = Tensor::<1, Int>::from_data(TensorData::from(&places[..]), device);
        placed(self.text.projected(hidden.select(0, index)))
    }

    /// How well each caption describes each image: `[images, captions]`.
    fn logits(&self, images: Tensor<2>, texts: Tensor<2>) -> Tensor<2> {
        let scale = self.logit_scale.val().clamp_max(LARGEST_SCALE.ln()).exp();
        images.matmul(texts.transpose()) * scale.unsqueeze()
    }
}

fn placed(embeds: Option<Tensor<2>>) -> Tensor<2> {
    unit(embeds.unwrap_or_else(|| unreachable!("both encoders are built with a projection")))
}

/// The loss of things of two kinds `[count, count]` that belong together at the same place: the mean of both directions
/// (figure 3 of the paper).
pub(super) fn contrast(logits: Tensor<2>) -> Tensor<1> {
    let own: Vec<u32> = (0..logits.dims()[0] as u32).collect();
    let both = cross_entropy(logits.clone(), &own, None) + cross_entropy(logits.transpose(), &own, None);
    both * 0.5
}

/// Learning which caption belongs to which picture of a batch, and the other way round.
#[derive(Debug)]
pub struct Contrast<'a> {
    train: &'a Scenes,
    held_out: &'a Scenes,
    tokenizer: &'a Tokenizer,
    size: usize,
    batch: usize,
    context: usize,
    seed: u64,
}

/// Pictures with their captions.
struct Matched {
    pixels: Tensor<4>,
    captions: Captions,
}

impl<'a> Contrast<'a> {
    /// Of these scenes.
    pub fn new(recipe: &PairRecipe, [train, held_out]: &'a [Scenes; 2], tokenizer: &'a Tokenizer) -> Self {
        let context = recipe.config["text_config"]["max_position_embeddings"].as_u64();
        Self {
            train,
            held_out,
            tokenizer,
            size: recipe.size(),
            batch: recipe.batch,
            context: context.map_or(77, |context| context as usize),
            seed: recipe.seed,
        }
    }

    fn read(&self, scenes: &Scenes, numbers: &[usize], device: &Device) -> Result<Matched, TrainError> {
        let batch =
            scenes.batch(numbers, self.size).map_err(|error| TrainError::Setting(error.to_string()))?;
        let texts: Vec<String> = batch.captions.into_iter().map(Option::unwrap_or_default).collect();
        Ok(Matched {
            pixels: pixels(&batch.images, [numbers.len(), self.size], device),
            captions: Captions::new(&texts, self.tokenizer, self.context)?,
        })
    }

    fn loss_of(&self, pair: &Pair, Matched { pixels, captions }: Matched, device: &Device) -> Tensor<1> {
        contrast(pair.logits(pair.images(pixels), pair.texts(&captions, device)))
    }
}

impl Objective for Contrast<'_> {
    type Model = Pair;

    fn loss(&self, model: &Pair, position: Position) -> Result<Tensor<1>, TrainError> {
        let at = position.step * position.parts + position.part;
        let device = Device::flex().autodiff();
        let numbers = batch_numbers(self.seed, at, self.batch, self.train.len());
        Ok(self.loss_of(model, self.read(self.train, &numbers, &device)?, &device))
    }

    fn held_out_loss(&self, model: &Pair) -> Result<f32, TrainError> {
        let numbers: Vec<usize> = (0..WATCHED.min(self.held_out.len())).collect();
        let (mut sum, mut batches) = (0.0, 0);
        for numbers in numbers.chunks_exact(self.batch) {
            let device = Device::flex();
            let matched = self.read(self.held_out, numbers, &device)?;
            sum += self.loss_of(model, matched, &device).into_scalar::<f32>();
            batches += 1;
        }
        Ok(sum / batches.max(1) as f32)
    }

    fn items(&self) -> u64 {
        self.batch as u64
    }

    fn identity(&self) -> String {
        format!(
            "pairs of {} words, {} of {} pixels, seed {}",
            self.tokenizer.vocab_size(),
            self.batch,
            self.size,
            self.seed
        )
    }
}

#[cfg(test)]
mod tests;
