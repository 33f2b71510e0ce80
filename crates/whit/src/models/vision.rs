//! Vision encoders: how the `config.json` of ViT and its kin becomes a [`VisionConfig`], how their files name
//! tensors, and one forward pass under the peer's own names.

use burn::tensor::{Device, Int, Tensor, TensorData};
use serde::Deserialize;
use serde_json::Value;
use whit_kernels::op;

use super::config::{self, ConfigError, size};
use super::forward::{ForwardError, Outputs, Recorder};
use super::names::{Named, Names};
use super::white_box::White;
use super::{ModelError, Stored, fits};
use crate::load::{Checkpoint, Dtype, RawTensor};
use crate::methods::reducers::Passes;
use crate::methods::{Companions, ModelFacts, ModelKind, Plan};
use crate::nn::activation::Activation;
use crate::nn::attention::Batched;
use crate::nn::block::BlockConfig;
use crate::nn::decoder::NormConfig;
use crate::nn::inventory::weight_bytes;
use crate::nn::reduce::Reducing;
use crate::nn::vars::{Source, Storage, Vars};
use crate::nn::vision::{FinalNorm, Head, Pooled, Vision, VisionConfig, join};

/// One architecture of a vision encoder.
#[derive(Debug)]
pub struct VisionArchitecture {
    /// `model_type` in `config.json`.
    pub id: &'static str,
    /// What people call the models that have it.
    pub title: &'static str,
    /// The names of its tensors, by family of files.
    pub names: &'static [Names],
    /// The epsilon of its norms, where the file is silent.
    pub epsilon: f32,
    /// Heads that are left aside: the encoder alone is used of such a checkpoint.
    pub ignored: &'static [&'static str],
    /// What differs from a plain ViT.
    pub adjust: fn(&Fields, VisionConfig) -> Result<VisionConfig, ConfigError>,
}

macro_rules! visions {
    ($($name:ident :: $architecture:ident),* $(,)?) => {
        /// Every vision encoder that Whit knows.
        pub static VISIONS: &[VisionArchitecture] = &[$(super::$name::$architecture),*];
    };
}

visions! { vit::VISION, deit::VISION, vit_mae::VISION, dinov2::VISION, dinov2::WITH_REGISTERS, white_box::VISION, crate_mae::VISION, clip::VISION }

/// The fields of all of them.
#[derive(Debug, Deserialize)]
pub struct Fields {
    hidden_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    intermediate_size: Option<usize>,
    hidden_act: Option<Activation>,
    layer_norm_eps: Option<f32>,
    image_size: Option<Sides>,
    patch_size: Option<Sides>,
    num_channels: Option<usize>,
    qkv_bias: Option<bool>,
    pooler_output_size: Option<usize>,
    pooler_act: Option<String>,
    architectures: Option<Vec<String>>,
    id2label: Option<serde_json::Map<String, Value>>,
    num_labels: Option<usize>,
    pub(super) mask_ratio: Option<f64>,
    pub(super) use_swiglu_ffn: Option<bool>,
    pub(super) mlp_ratio: Option<f64>,
    pub(super) num_register_tokens: Option<usize>,
    pub(super) projection_dim: Option<usize>,
    pub(super) pool: Option<String>,
    #[serde(flatten)]
    pub(super) white: White,
}

/// One length for both sides, or height and width.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged)]
enum Sides {
    Both(usize),
    Each([usize; 2]),
}

impl Fields {
    /// What stands behind `For` in the name of the class that wrote the file.
    pub(super) fn class(&self) -> &str {
        self.architectures.as_ref().and_then(|names| names.first()).map_or("", String::as_str)
    }

    pub(super) fn hidden_act(&self) -> Option<Activation> {
        self.hidden_act
    }

    /// The number of classes.
    fn labels(&self) -> usize {
        self.id2label.as_ref().map(serde_json::Map::len).or(self.num_labels).unwrap_or(2)
    }

    /// The head of an image classifier that has one.
    fn head(&self, architecture: &VisionArchitecture) -> Result<Head, ConfigError> {
        let head = self.class().split_once("For").map_or("", |(_, head)| head);
        match head {
            "" => Ok(Head::None),
            "ImageClassification" if self.labels() > 0 => Ok(Head::Class(self.labels())),
            "ImageClassificationWithTeacher" if self.labels() > 0 => Ok(Head::Distilled(self.labels())),
            other if architecture.ignored.contains(&other) => Ok(Head::None),
            _ => Err(ConfigError::Value {
                field: "architectures",
                found: format!("`{}`", self.class()),
                allowed: "supported are the model without a head and ForImageClassification".into(),
            }),
        }
    }

    /// Refuses what would be computed in another way than here.
    fn check(&self) -> Result<(), ConfigError> {
        match self.pooler_act.as_deref() {
            None | Some("tanh") => Ok(()),
            Some(other) => Err(ConfigError::Value {
                field: "pooler_act",
                found: format!("`{other}`"),
                allowed: "only `tanh` is supported".into(),
            }),
        }
    }

    fn sides(field: &'static str, sides: Option<Sides>, default: usize) -> Result<[usize; 2], ConfigError> {
        let sides = match sides.unwrap_or(Sides::Both(default)) {
            Sides::Both(side) => [side; 2],
            Sides::Each(sides) => sides,
        };
        sides.iter().try_for_each(|side| size(field, *side).map(drop))?;
        Ok(sides)
    }

    fn block(&self, epsilon: f32) -> Result<BlockConfig, ConfigError> {
        let width = size("hidden_size", self.hidden_size.unwrap_or(768))?;
        let heads = config::heads(self.num_attention_heads.unwrap_or(12), width)?;
        let inner = size("intermediate_size", self.intermediate_size.unwrap_or(3072))?;
        let norm = NormConfig { centred: true, epsilon: self.layer_norm_eps.unwrap_or(epsilon) };
        let mut block = BlockConfig { norm_first: true, ..BlockConfig::plain(width, inner, heads, norm) };
        block.activation = self.hidden_act.unwrap_or(Activation::Gelu);
        block.biases.query_key_value = self.qkv_bias.unwrap_or(true);
        Ok(block)
    }
}

/// The vision encoder that a configuration names, if it names one.
pub fn architecture(config: &Value) -> Option<&'static VisionArchitecture> {
    let id = config.get("model_type")?.as_str()?;
    VISIONS.iter().find(|architecture| architecture.id == id)
}

impl VisionArchitecture {
    /// Reads the configuration.
    ///
    /// # Errors
    /// If a field is missing, or has a value that no encoder here has.
    pub fn config(&self, json: &Value) -> Result<VisionConfig, ConfigError> {
        let fields: Fields = config::parse(json)?;
        fields.check()?;
        let block = fields.block(self.epsilon)?;
        let pooled =
            Pooled::Dense(size("pooler_output_size", fields.pooler_output_size.unwrap_or(block.width))?);
        let plain = VisionConfig {
            image: Fields::sides("image_size", fields.image_size, 224)?,
            patch: Fields::sides("patch_size", fields.patch_size, 16)?,
            channels: size("num_channels", fields.num_channels.unwrap_or(3))?,
            patch_bias: true,
            patch_norms: false,
            distillation_token: false,
            fixed_positions: false,
            registers: 0,
            antialias: false,
            layers: size("num_hidden_layers", fields.num_hidden_layers.unwrap_or(12))?,
            embedding_norm: false,
            final_norm: FinalNorm::All,
            final_epsilon: block.norm.epsilon,
            block,
            pooled,
            head: fields.head(self)?,
            projection: None,
            mask_ratio: None,
        };
        let config = (self.adjust)(&fields, plain)?;
        if config.grid(config.image).contains(&0) {
            let allowed = format!("it must not be larger than image_size ({:?})", config.image);
            return Err(ConfigError::Value {
                field: "patch_size",
                found: format!("{:?}", config.patch),
                allowed,
            });
        }
        Ok(config)
    }
}

/// What methods need to know of a vision encoder.
pub(super) fn facts(architecture: &VisionArchitecture, config: &VisionConfig) -> ModelFacts {
    ModelFacts {
        kind: ModelKind::Vision,
        architecture: architecture.id.to_owned(),
        layers: config.layers,
        heads: config.block.heads,
        kv_heads: config.block.heads,
        head_dim: config.block.head_dim,
        width: config.block.width,
        vocabulary: config.head.classes().unwrap_or(0),
        context: config.tokens(),
        window: None,
        block_experts: None,
        tied_keys: config.block.white.is_some(),
        companions: Companions::default(),
    }
}

/// Builds the vision encoder that `config` describes from the tensors of `checkpoint`.
///
/// # Errors
/// If it is no vision encoder, the configuration is wrong, a tensor is missing, misshapen or unreadable, or
/// the memory would not suffice.
pub fn vision(
    config: &Value,
    checkpoint: &dyn Checkpoint,
    storage: &Storage,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<Vision, ModelError> {
    let architecture = architecture(config).ok_or_else(|| {
        let found = config.get("model_type").and_then(Value::as_str).unwrap_or_default().to_owned();
        ModelError::NoVision { found }
    })?;
    build(architecture, architecture.config(config)?, checkpoint, storage, progress)
}

/// The model with this configuration, of which the file has the last word where it lacks what is optional.
pub(super) fn build(
    architecture: &VisionArchitecture,
    mut settings: VisionConfig,
    checkpoint: &dyn Checkpoint,
    storage: &Storage,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<Vision, ModelError> {
    let source = Named::new(Stored(checkpoint), architecture.names);
    if matches!(settings.pooled, Pooled::Dense(_)) && !source.has("pooler.dense.weight") {
        settings.pooled = Pooled::Nothing;
    }
    if let Head::Class(labels) = settings.head
        && source.has("mean_norm.weight")
    {
        settings.head = Head::Mean(labels);
    }
    fits(weight_bytes(&settings.matrices(), storage, |name| source.native(name)), storage)?;
    Ok(Vision::new(settings, &Vars::new(&source, storage).with_progress(progress))?)
}

/// The inputs of a vision encoder, and of one that is trained on a part of the patches.
const KNOWN: [&str; 1] = ["pixel_values"];
const MASKED: [&str; 2] = ["pixel_values", "noise"];

/// Runs `model` once on the tensors of `file`: `last_hidden_state`, `hidden_states.N` and, as the model has
/// them, `pooler_output`, `image_embeds`, `logits`, `cls_logits` and `distillation_logits`. With `noise`
/// `[batch, patches]`, a masked autoencoder leaves out the patches with the most of it and also gives `mask`
/// and `ids_restore`; without, it sees all patches in their order.
///
/// # Errors
/// If an input is unknown, missing, misshapen or of a wrong type.
pub fn forward(model: &Vision, file: &dyn Checkpoint) -> Result<Outputs, ForwardError> {
    let known = if model.config().mask_ratio.is_some() { &MASKED[..] } else { &KNOWN };
    known_inputs(file, known)?;
    let pixels = pixels(file, model.config())?;
    let batch = pixels.dims()[0];
    let (patches, specials) = model.embed(pixels);
    let mask = Mask::read(file, model.config(), [batch, patches.dims()[1]])?;
    let patches = match &mask {
        Some(mask) => mask.apply(patches),
        None => patches,
    };
    let mut recorder = Recorder::new(Batched::whole(batch, None), None);
    let hidden = model.run(join(specials, patches), &mut recorder);
    let mut outputs = outputs(model, &hidden);
    let shape = [batch, hidden.dims()[1]];
    let states = recorder.states.into_iter().enumerate();
    outputs.extend(
        states.map(|(layer, state)| super::forward::named(format!("hidden_states.{layer}"), shape, state)),
    );
    outputs.extend(mask.into_iter().flat_map(Mask::outputs));
    Ok(outputs)
}

/// As [`forward`], with the token reducer of `plan` where it has one; the hidden states of the layers, whose
/// numbers of tokens then differ, are left out, and so is `noise`.
///
/// # Errors
/// As [`forward`], and if a method refuses the images.
pub fn forward_with(model: &Vision, file: &dyn Checkpoint, plan: &Plan) -> Result<Outputs, ForwardError> {
    let passes = Passes::new(plan, model.config().specials());
    if passes.begin(1).is_none() {
        return forward(model, file);
    }
    known_inputs(file, &KNOWN)?;
    let pixels = pixels(file, model.config())?;
    let batch = pixels.dims()[0];
    let Some(mut reducer) = passes.begin(batch) else { return forward(model, file) };
    let hidden = model.forward(pixels, &mut Reducing::new(batch, reducer.as_mut()));
    passes.finish()?;
    Ok(outputs_of(model, &hidden, reducer.sizes()))
}

/// What the original reports of the hidden states of a pass.
pub(super) fn outputs(model: &Vision, hidden: &Tensor<3>) -> Outputs {
    outputs_of(model, hidden, None)
}

fn outputs_of(model: &Vision, hidden: &Tensor<3>, sizes: Option<Tensor<2>>) -> Outputs {
    let mut outputs = vec![raw("last_hidden_state", hidden.clone())];
    outputs.extend(model.pooled(hidden).map(|pooled| raw("pooler_output", pooled)));
    outputs.extend(model.projected(hidden).map(|embeds| raw("image_embeds", embeds)));
    if let Some(logits) = model.logits(hidden, sizes) {
        outputs.push(raw("logits", logits.logits));
        let names = ["cls_logits", "distillation_logits"];
        outputs.extend(
            names.into_iter().zip(logits.parts.into_iter().flatten()).map(|(name, part)| raw(name, part)),
        );
    }
    outputs
}

pub(super) fn raw<const D: usize>(name: &str, tensor: Tensor<D>) -> (String, RawTensor) {
    let values = op::host(tensor);
    (name.to_owned(), RawTensor::from_f32(values.shape(), values.data()))
}

/// Refuses inputs that are not among the known ones.
pub(super) fn known_inputs(file: &dyn Checkpoint, known: &[&str]) -> Result<(), ForwardError> {
    match file.names().into_iter().find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err(ForwardError::UnknownInput { name, known: known.join(", ") }),
        None => Ok(()),
    }
}

/// The images of an input file.
pub(super) fn pixels(file: &dyn Checkpoint, config: &VisionConfig) -> Result<Tensor<4>, ForwardError> {
    let name = "pixel_values";
    let found = file.info(name).ok_or(ForwardError::NoPixels)?.shape;
    let fits = |&[batch, channels, height, width]: &[usize; 4]| {
        batch > 0 && channels == config.channels && !config.grid([height, width]).contains(&0)
    };
    let shape: [usize; 4] = match <[usize; 4]>::try_from(&found[..]) {
        Ok(shape) if fits(&shape) => shape,
        _ => {
            let [height, width] = config.patch;
            let wanted = format!("[batch, {}, height from {height}, width from {width}]", config.channels);
            return Err(ForwardError::Shape { name, found, wanted });
        }
    };
    let values = numbers(file, name)?;
    Ok(Tensor::from_data(TensorData::new(values, shape), &Device::flex()))
}

fn numbers(file: &dyn Checkpoint, name: &'static str) -> Result<Vec<f32>, ForwardError> {
    let tensor = file.read(name)?;
    match tensor.dtype {
        Dtype::F32 | Dtype::F16 | Dtype::Bf16 => Ok(tensor.to_f32(name)?),
        dtype => Err(ForwardError::Type { name, dtype, wanted: "floating-point numbers, such as F32" }),
    }
}

/// Which patches a masked autoencoder sees: those with the least noise, in the noise's order.
pub(super) struct Mask {
    shape: [usize; 2],
    /// The patches of each image, by their noise.
    order: Vec<Vec<usize>>,
    kept: usize,
}

impl Mask {
    pub(super) fn read(
        file: &dyn Checkpoint,
        config: &VisionConfig,
        [batch, patches]: [usize; 2],
    ) -> Result<Option<Self>, ForwardError> {
        let (Some(ratio), Some(info)) = (config.mask_ratio, file.info("noise")) else { return Ok(None) };
        if info.shape != [batch, patches] {
            let wanted = format!("{:?}, a number for each patch", [batch, patches]);
            return Err(ForwardError::Shape { name: "noise", found: info.shape, wanted });
        }
        let by_noise = |noise: &[f32]| {
            let mut order: Vec<usize> = (0..patches).collect();
            order.sort_by(|&a, &b| noise[a].total_cmp(&noise[b]));
            order
        };
        let order = numbers(file, "noise")?.chunks_exact(patches).map(by_noise).collect();
        let kept = ((patches as f64 * (1.0 - ratio)) as usize).min(patches);
        Ok(Some(Self { shape: [batch, patches], order, kept }))
    }

    fn apply(&self, patches: Tensor<3>) -> Tensor<3> {
        let [batch, count, width] = patches.dims();
        let kept = self.order.iter().enumerate().flat_map(|(image, order)| {
            order[..self.kept].iter().map(move |patch| (image * count + patch) as i64)
        });
        let kept: Vec<i64> = kept.collect();
        let index = Tensor::<1, Int>::from_data(TensorData::from(&kept[..]), &patches.device());
        patches.reshape([batch * count, width]).select(0, index).reshape([batch, self.kept, width])
    }

    /// 1 for each patch that is not seen, 0 for the others.
    pub(super) fn hidden(&self) -> Vec<f32> {
        let mut hidden = vec![1.0; self.shape[0] * self.shape[1]];
        for (image, order) in self.order.iter().enumerate() {
            order[..self.kept].iter().for_each(|patch| hidden[image * order.len() + patch] = 0.0);
        }
        hidden
    }

    pub(super) fn outputs(self) -> Outputs {
        let (mut mask, mut restore) = (Vec::new(), Vec::new());
        for order in &self.order {
            let mut rank = vec![0.0; order.len()];
            order.iter().enumerate().for_each(|(place, &patch)| rank[patch] = place as f32);
            mask.extend(rank.iter().map(|&place| if place < self.kept as f32 { 0.0f32 } else { 1.0 }));
            restore.extend(rank);
        }
        let tensor = |values: &[f32]| RawTensor::from_f32(self.shape.to_vec(), values);
        vec![("mask".into(), tensor(&mask)), ("ids_restore".into(), tensor(&restore))]
    }
}
