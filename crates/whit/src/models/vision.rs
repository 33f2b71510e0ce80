//! Vision encoders: how the `config.json` of ViT and its kin becomes a [`VisionConfig`], how their files name
//! tensors.

use serde::Deserialize;
use serde_json::Value;

use super::config::{self, ConfigError, size};
use super::names::{Named, Names};
use super::white_box::White;
use super::{ModelError, Stored, fits};
use crate::load::Checkpoint;
use crate::methods::{Companions, ModelFacts, ModelKind};
use crate::nn::activation::Activation;
use crate::nn::block::BlockConfig;
use crate::nn::decoder::NormConfig;
use crate::nn::inventory::weight_bytes;
use crate::nn::vars::{Source, Storage, Vars};
use crate::nn::vision::{FinalNorm, Head, Pooled, Vision, VisionConfig};

mod forward;

pub(super) use forward::{Mask, known_inputs, pixels, raw};
pub use forward::{forward, forward_with};

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
