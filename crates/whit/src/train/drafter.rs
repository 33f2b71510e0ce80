//! Training drafters beside a frozen language model, on text that the model itself wrote: Chimera's
//! (arXiv 2402.15758), and Medusa-1 heads (arXiv 2401.10774) trained equally, to compare.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use serde::Serialize;
use whit_kernels::cross_entropy::cross_entropy;
use whit_kernels::linear::WeightType;
use whit_kernels::op::{self, Host};

use super::run::{Objective, Settings};
use super::windows::{Position, stream};
use super::{TrainError, parameters};
use crate::generate::sampler::argmax;
use crate::generate::{Request, Sampling, Scheduler};
use crate::load::safetensors::save;
use crate::load::{Dtype, RawTensor};
use crate::methods::Stages;
use crate::models::ModelError;
use crate::nn::activation::Activation;
use crate::nn::attention::Batched;
use crate::nn::chimera::{Drafter, DrafterConfig, Offset, PREVIOUS, trigram};
use crate::nn::decoder::{Decoder, Tokens};
use crate::nn::linear::Linear;
use crate::nn::vars::{Init, Random, Source, Storage, Vars, VarsError};

/// How a drafter is trained.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DrafterRecipe {
    /// Heads: how far ahead it drafts.
    pub heads: usize,
    /// Whether an offset sees what the offsets before it gave.
    pub previous: bool,
    /// The weight of the squared distance between imitated and true hidden states.
    pub distill_weight: f32,
    /// Texts that the model writes, and how many of them are kept for measuring.
    pub texts: (usize, usize),
    /// Tokens of each prompt, and tokens that the model adds.
    pub lengths: (usize, usize),
    /// Texts of one batch.
    pub rows: usize,
    /// Every random choice follows from it.
    pub seed: u64,
    /// How long and how.
    pub settings: Settings,
}

/// A network that drafts.
pub trait DraftNetwork: Module {
    /// All offsets for whole sequences; see [`Drafter::forward`].
    fn offsets(&self, batch: usize, hidden: Tensor<2>, embedded: Tensor<2>) -> Vec<Offset>;
}

impl DraftNetwork for Drafter {
    fn offsets(&self, batch: usize, hidden: Tensor<2>, embedded: Tensor<2>) -> Vec<Offset> {
        self.forward(batch, hidden, embedded)
    }
}

/// Medusa-1 heads: each guesses from the hidden state alone, not knowing what was drafted before.
#[derive(Module, Debug)]
pub struct Medusa {
    medusa_head: Vec<MedusaHead>,
}

#[derive(Module, Debug)]
struct MedusaHead {
    linear: Linear, // [width, width]
    lm_head: Linear,
}

impl DraftNetwork for Medusa {
    fn offsets(&self, batch: usize, hidden: Tensor<2>, _: Tensor<2>) -> Vec<Offset> {
        let [rows, width] = hidden.dims();
        let length = rows / batch;
        let offset = |(index, head): (usize, &MedusaHead)| {
            let kept = length - index - 1;
            let states = hidden.clone().reshape([batch, length, width]).slice([0..batch, 0..kept]);
            let states = states.reshape([batch * kept, width]);
            let imitated = states.clone() + Activation::Silu.forward(head.linear.forward(states));
            Offset { logits: head.lm_head.forward(imitated.clone()), imitated }
        };
        self.medusa_head.iter().enumerate().map(offset).collect()
    }
}

/// The variables of a drafter before training: the trigram encoder starts as a linear map, and every
/// head starts as the model's own.
struct Fresh<'a> {
    head: &'a [f32], // [vocabulary, width]
    width: usize,
    random: Random,
}

impl Source for Fresh<'_> {
    fn check(&self, _: &str, _: &[usize]) -> Result<(), VarsError> {
        Ok(())
    }

    fn has(&self, _: &str) -> bool {
        true
    }

    fn rows(&self, name: &str, rows: Range<usize>, width: usize, init: Init) -> Result<Vec<f32>, VarsError> {
        let residual = name.starts_with("trimlp.linear.") || name.ends_with(".linear.weight");
        if residual {
            return Ok(vec![0.0; rows.len() * width]);
        }
        if name.starts_with("chimera_head.") || name.ends_with(".lm_head.weight") {
            let row = |row: usize| &self.head[row * self.width..(row + 1) * self.width];
            let copies = width / self.width;
            return Ok(rows.flat_map(|index| row(index).repeat(copies)).collect());
        }
        self.random.rows(name, rows, width, init)
    }

    fn native(&self, _: &str) -> WeightType {
        WeightType::F32
    }
}

impl DrafterRecipe {
    /// A drafter for `base` before training, on `device`.
    ///
    /// # Errors
    /// If the model's sizes cannot be.
    pub fn drafter(&self, base: &Decoder, device: &Device) -> Result<Drafter, TrainError> {
        let config =
            DrafterConfig { target: base.config().clone(), heads: self.heads, previous: self.previous };
        self.fresh(base, device, |vars| Drafter::new(config, vars))
    }

    /// Medusa-1 heads for `base` before training, on `device`.
    ///
    /// # Errors
    /// If the model's sizes cannot be.
    pub fn medusa(&self, base: &Decoder, device: &Device) -> Result<Medusa, TrainError> {
        let (width, vocabulary) = (base.config().width, base.config().vocab_size);
        self.fresh(base, device, |vars| {
            let head = |index| {
                let vars = vars.at("medusa_head").at(index);
                Ok(MedusaHead {
                    linear: vars.linear("linear", width, width, false)?,
                    lm_head: vars.linear("lm_head", vocabulary, width, false)?,
                })
            };
            Ok(Medusa { medusa_head: (0..self.heads).map(head).collect::<Result<_, VarsError>>()? })
        })
    }

    fn fresh<M>(
        &self,
        base: &Decoder,
        device: &Device,
        build: impl FnOnce(&Vars<'_>) -> Result<M, VarsError>,
    ) -> Result<M, TrainError> {
        let head = head_rows(base);
        let source = Fresh { head: &head, width: base.config().width, random: Random { seed: self.seed } };
        let storage = Storage::Dense(device.clone());
        Ok(build(&Vars::new(&source, &storage)).map_err(ModelError::from)?)
    }
}

/// The model's output matrix `[vocabulary, width]`: what it makes of the unit vectors, transposed.
fn head_rows(base: &Decoder) -> Vec<f32> {
    let (width, vocabulary) = (base.config().width, base.config().vocab_size);
    let mut unit = vec![0.0; width * width];
    (0..width).for_each(|index| unit[index * width + index] = 1.0);
    let columns = op::host(base.logits(op::tensor(Host::new([width, width], unit))));
    let value = |index: usize| columns.data()[(index % width) * vocabulary + index / width];
    (0..vocabulary * width).map(value).collect()
}

/// Texts of a model: what it was given and how it went on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Texts {
    /// All of the same length.
    pub rows: Vec<Vec<u32>>,
    /// How many tokens of each are the prompt.
    pub prompt: usize,
}

/// Lets `base` continue `prompts`, which have the same length, by `added` tokens each: every other one
/// greedily, the rest at temperature `temperature`.
///
/// # Errors
/// If a prompt does not fit the model.
pub fn write_texts(
    base: &Decoder,
    prompts: &[Vec<u32>],
    added: usize,
    temperature: f32,
    progress: &dyn Fn(usize),
) -> Result<Texts, TrainError> {
    let mut rows = Vec::with_capacity(prompts.len());
    for (batch, prompts) in prompts.chunks(TOGETHER).enumerate() {
        let mut scheduler = Scheduler::new(base);
        let mut texts = prompts.to_vec();
        for (index, prompt) in prompts.iter().enumerate() {
            let warmth = if index % 2 == 0 { 0.0 } else { temperature };
            let seed = (batch * TOGETHER + index) as u64;
            let sampling = Sampling { temperature: warmth, seed, ..Sampling::default() };
            let request =
                Request { prompt: prompt.clone(), max_tokens: added, sampling, ..Request::default() };
            scheduler.add(request, Stages::default()).map_err(setting)?;
        }
        scheduler.run(|_, event| texts[event.id].extend(&event.tokens)).map_err(setting)?;
        progress(texts.len());
        rows.extend(texts);
    }
    Ok(Texts { rows, prompt: prompts.first().map_or(0, Vec::len) })
}

/// Texts written side by side.
const TOGETHER: usize = 32;

fn setting(error: impl std::fmt::Display) -> TrainError {
    TrainError::Setting(error.to_string())
}

/// Learning to draft for a frozen model.
#[derive(Debug)]
pub struct Drafting<'m, N> {
    base: &'m Decoder,
    recipe: &'m DrafterRecipe,
    train: &'m Texts,
    held_out: &'m Texts,
    network: std::marker::PhantomData<fn() -> N>,
}

/// What the frozen model gives for a batch.
struct Frozen {
    hidden: Host,   // [rows * length, width]
    embedded: Host, // [3 * rows * length, width]
}

impl<'m, N: DraftNetwork> Drafting<'m, N> {
    /// Drafting for `base`, learnt from `train` and measured on `held_out`.
    pub fn new(base: &'m Decoder, recipe: &'m DrafterRecipe, train: &'m Texts, held_out: &'m Texts) -> Self {
        Self { base, recipe, train, held_out, network: std::marker::PhantomData }
    }

    /// Batches of one pass over the training texts.
    pub fn epoch(&self) -> u64 {
        (self.train.rows.len() / self.recipe.rows).max(1) as u64
    }

    /// For each head, how often its best token is the one that the model wrote, on held-out text.
    pub fn agreement(&self, network: &N) -> Vec<f64> {
        let mut counts = vec![(0usize, 0usize); self.recipe.heads];
        for text in &self.held_out.rows {
            let rows = [text.as_slice()];
            let length = text.len() - 1;
            for (index, offset) in self.offsets(network, &rows).into_iter().enumerate() {
                let logits = op::host(offset.logits);
                let width = logits.width();
                for (row, j) in logits.data().chunks_exact(width).zip(0..length) {
                    if j + 1 >= self.held_out.prompt {
                        counts[index].0 += usize::from(argmax(row) == text[j + index + 2]);
                        counts[index].1 += 1;
                    }
                }
            }
        }
        counts.into_iter().map(|(right, all)| right as f64 / all.max(1) as f64).collect()
    }

    fn offsets(&self, network: &N, texts: &[&[u32]]) -> Vec<Offset> {
        let device = device(network);
        let Frozen { hidden, embedded } = self.frozen(texts);
        network.offsets(texts.len(), on(hidden, &device), on(embedded, &device))
    }

    /// The frozen model's view of all tokens but the last of each text.
    fn frozen(&self, texts: &[&[u32]]) -> Frozen {
        let length = texts[0].len() - 1;
        let ids: Vec<u32> = texts.iter().flat_map(|text| text[..length].iter().copied()).collect();
        let positions: Vec<u32> = texts.iter().flat_map(|_| 0..length as u32).collect();
        let lengths = vec![length as u32; ids.len()];
        let tokens = Tokens { ids: &ids, positions: &positions, lengths: &lengths };
        let hidden = self.base.forward(tokens, &mut Batched::causal(texts.len()));
        let trigrams: Vec<u32> =
            texts.iter().flat_map(|text| (0..length).flat_map(|at| trigram(text, at))).collect();
        let embedded = self.base.embedding().forward(&trigrams);
        Frozen { hidden: op::host(hidden), embedded: op::host(embedded) }
    }

    /// `sum_k CE(logits_k, t_{j+k+1}) + distill_weight * sum_k MSE(fk_j, h_{j+k})`.
    fn loss_of(&self, network: &N, texts: &[&[u32]]) -> Tensor<1> {
        let device = device(network);
        let Frozen { hidden, embedded } = self.frozen(texts);
        let (hidden, embedded) = (on(hidden, &device), on(embedded, &device));
        let (batch, length) = (texts.len(), texts[0].len() - 1);
        let offsets = network.offsets(batch, hidden.clone(), embedded);
        let mut loss: Option<Tensor<1>> = None;
        for (index, Offset { imitated, logits }) in offsets.into_iter().enumerate() {
            let k = index + 1;
            let targets: Vec<u32> = texts.iter().flat_map(|text| text[k + 1..].iter().copied()).collect();
            let mut term = cross_entropy(logits, &targets, None);
            if self.recipe.distill_weight > 0.0 {
                let width = hidden.dims()[1];
                let truth = hidden.clone().reshape([batch, length, width]).slice([0..batch, k..length]);
                let distance = imitated - truth.reshape([batch * (length - k), width]);
                term = term + (distance.clone() * distance).mean() * self.recipe.distill_weight;
            }
            loss = Some(loss.map_or(term.clone(), |sum| sum + term));
        }
        loss.unwrap_or_else(|| Tensor::zeros([1], &device))
    }
}

impl<N: DraftNetwork> Objective for Drafting<'_, N> {
    type Model = N;

    fn loss(&self, network: &N, position: Position) -> Result<Tensor<1>, TrainError> {
        use rand::seq::SliceRandom;
        let number = position.step * position.parts + position.part;
        let mut order: Vec<usize> = (0..self.train.rows.len()).collect();
        order.shuffle(&mut stream(self.recipe.seed, 5, number / self.epoch()));
        let first = (number % self.epoch()) as usize * self.recipe.rows;
        let rows = order.iter().skip(first).take(self.recipe.rows);
        let texts: Vec<&[u32]> = rows.map(|&row| self.train.rows[row].as_slice()).collect();
        Ok(self.loss_of(network, &texts))
    }

    fn held_out_loss(&self, network: &N) -> Result<f32, TrainError> {
        let texts: Vec<&[u32]> =
            self.held_out.rows.iter().take(self.recipe.rows).map(Vec::as_slice).collect();
        Ok(self.loss_of(network, &texts).into_scalar::<f32>())
    }

    fn items(&self) -> u64 {
        self.train.rows.first().map_or(0, |row| row.len() - 1) as u64 * self.recipe.rows as u64
    }

    fn identity(&self) -> String {
        let DrafterRecipe { heads, previous, distill_weight, texts, lengths, rows, seed, .. } = self.recipe;
        format!("drafter {heads} {previous} {distill_weight} {texts:?} {lengths:?} {rows} seed {seed}")
    }
}

/// Writes a trained drafter in bf16.
///
/// # Errors
/// If the disk refuses.
pub fn save_drafter(path: &Path, drafter: &Drafter) -> Result<(), TrainError> {
    let mut tensors = Vec::new();
    parameters::read(drafter, |name, shape, values| {
        let bytes = values.iter().flat_map(|&value| half::bf16::from_f32(value).to_le_bytes()).collect();
        tensors.push((file_name(name), RawTensor { dtype: Dtype::Bf16, shape, bytes }));
    });
    let previous = f32::from(u8::from(drafter.config().previous));
    tensors.push((PREVIOUS.to_owned(), RawTensor::from_f32(vec![1], &[previous])));
    let named: Vec<_> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    Ok(save(path, &named, &metadata)?)
}

/// The tensor's name in a checkpoint, from the parameter's path in the module.
fn file_name(path: &str) -> String {
    ["q_proj", "k_proj", "v_proj", "o_proj"].iter().fold(path.to_owned(), |path, name| {
        path.replace(&format!("fast_layer1.{name}"), &format!("fast_layer1.self_attn.{name}"))
    })
}

fn on(host: Host, device: &Device) -> Tensor<2> {
    let shape = [host.dim(0), host.dim(1)];
    Tensor::from_data(TensorData::new(host.into_vec(), shape), device)
}

/// Where a network's parameters are.
fn device<N: Module>(network: &N) -> Device {
    network.devices().into_iter().next().unwrap_or_else(Device::flex)
}
