//! Architectures: one file each, made of the shared blocks in [`nn`](crate::nn).
//!
//! A file says how its `config.json` becomes a [`DecoderConfig`], and how its tensors are named
//! where they differ from the names that the blocks ask for. Adding one is a file and a word below.

mod bert;
pub mod clip;
mod config;
mod crate_bert;
pub mod crate_mae;
mod deit;
mod dinov2;
pub mod encoder;
pub mod forward;
mod names;
mod network;
mod roberta;
mod stored;
mod t5;
pub mod vision;
mod vit;
mod vit_mae;
mod white_box;
mod xlm_roberta;

pub use config::ConfigError;
pub use network::{Network, network};
use stored::Bare;
pub use stored::{Shared, Stored};

use std::fmt::{self, Debug};

use serde_json::Value;
use thiserror::Error;

use crate::load::Checkpoint;
use crate::methods::ModelFacts;
use crate::nn::decoder::{Decoder, DecoderConfig};
use crate::nn::vars::{Precision, Source, Storage, Vars, VarsError};

/// One architecture, as the list below knows it.
pub struct Architecture {
    /// `model_type` in `config.json`.
    pub id: &'static str,
    /// What people call the models that have it.
    pub title: &'static str,
    /// Reads the configuration.
    pub config: fn(&Value) -> Result<DecoderConfig, ConfigError>,
    /// Presents the checkpoint's tensors under the names that the blocks ask for.
    pub adapt: for<'a> fn(Box<dyn Source + 'a>, &DecoderConfig) -> Box<dyn Source + 'a>,
}

impl Debug for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Architecture").field("id", &self.id).field("title", &self.title).finish()
    }
}

macro_rules! architectures {
    ($($name:ident),* $(,)?) => {
        $(mod $name;)*

        /// Every architecture that Whit knows.
        pub static ARCHITECTURES: &[Architecture] = &[$($name::ARCHITECTURE),*];
    };
}

architectures! { llama, mistral, mixtral, qwen2, qwen3, gpt2, crate_gpt, minicpm }

/// The configuration of a model's first `layers` layers, read out by its own last norm and head. Such a part can
/// draft for the whole (LayerSkip, Elhoushi et al., 2024, arXiv 2404.16710).
///
/// # Errors
/// If the model has no more layers than that, or `layers` is 0.
pub fn first_layers(config: &Value, layers: usize) -> Result<Value, ModelError> {
    let field = if config.get("n_layer").is_some() { "n_layer" } else { "num_hidden_layers" };
    let all = (architecture(config)?.config)(config)?.layers;
    if layers == 0 || layers >= all {
        let (found, allowed) =
            (layers.to_string(), format!("a part of the model has 1 to {} layers", all - 1));
        return Err(ConfigError::Value { field, found, allowed }.into());
    }
    let mut part = config.clone();
    part[field] = layers.into();
    if let Some(types) = part.get_mut("layer_types").and_then(Value::as_array_mut) {
        types.truncate(layers);
    }
    Ok(part)
}

/// Why a model could not be built.
#[derive(Debug, Error)]
pub enum ModelError {
    /// `config.json` names an architecture that is not in the list.
    #[error("config.json: model_type `{found}` is not supported; supported: {}", known())]
    Unknown {
        /// The name in the file.
        found: String,
    },
    /// An encoder where a language model is needed.
    #[error("config.json: `{found}` is an encoder, which writes no text; a language model is needed")]
    NoDecoder {
        /// The name in the file.
        found: String,
    },
    /// Another model where a text encoder is needed.
    #[error(
        "config.json: `{found}` is no text encoder; supported: {}",
        encoder::ENCODERS.iter().map(|one| one.id).collect::<Vec<_>>().join(", ")
    )]
    NoEncoder {
        /// The name in the file.
        found: String,
    },
    /// Another model where a vision encoder is needed.
    #[error(
        "config.json: `{found}` is no vision encoder; supported: {}, {}",
        vision::VISIONS.iter().map(|one| one.id).collect::<Vec<_>>().join(", "),
        clip::ID
    )]
    NoVision {
        /// The name in the file.
        found: String,
    },
    /// A field of `config.json` is missing or wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A tensor is missing or wrong.
    #[error(transparent)]
    Vars(#[from] VarsError),
    /// The model needs more memory than there is.
    #[error(
        "the model needs {} as {precision}, but only {} of memory are free; \
         try a smaller --dtype (q8_0 or q4_k_m), or close other programs",
        crate::measure::bytes(*needed),
        crate::measure::bytes(*available)
    )]
    Memory {
        /// Bytes that the weights will hold.
        needed: u64,
        /// Bytes that are available.
        available: u64,
        /// The weight type asked for.
        precision: String,
    },
}

fn known() -> String {
    let decoders = ARCHITECTURES.iter().map(|architecture| architecture.id);
    let encoders = encoder::ENCODERS.iter().map(|one| one.id).chain(vision::VISIONS.iter().map(|one| one.id));
    decoders.chain(encoders).chain([clip::ID]).collect::<Vec<_>>().join(", ")
}

/// The architecture that a configuration names.
///
/// # Errors
/// [`ModelError::Unknown`], or a missing `model_type`.
pub fn architecture(config: &Value) -> Result<&'static Architecture, ModelError> {
    let id = config::text(config, "model_type")?;
    let found = ARCHITECTURES.iter().find(|architecture| architecture.id == id);
    let is_encoder = encoder::architecture(config).is_some()
        || vision::architecture(config).is_some()
        || clip::is_clip(config);
    let found_name = id.to_owned();
    found.ok_or(if is_encoder {
        ModelError::NoDecoder { found: found_name }
    } else {
        ModelError::Unknown { found: found_name }
    })
}

/// What methods need to know of the model that `config` describes.
///
/// # Errors
/// If the architecture is unknown or the configuration is wrong.
pub fn facts(config: &Value) -> Result<ModelFacts, ModelError> {
    if let Some(architecture) = encoder::architecture(config) {
        return Ok(encoder::facts(architecture, &architecture.config(config)?));
    }
    if let Some(architecture) = vision::architecture(config) {
        return Ok(vision::facts(architecture, &architecture.config(config)?));
    }
    if clip::is_clip(config) {
        return Ok(ModelFacts {
            architecture: clip::ID.to_owned(),
            ..vision::facts(&clip::VISION, &clip::configs(config)?.0)
        });
    }
    let architecture = architecture(config)?;
    let decoder = (architecture.config)(config)?;
    Ok(ModelFacts::decoder(architecture.id, &decoder))
}

/// Builds the model that `config` describes from the tensors of `checkpoint`.
///
/// `progress` is called with the number of values read after each tensor.
///
/// # Errors
/// If the architecture is unknown, the configuration is wrong, a tensor is missing, misshapen or
/// unreadable, or the memory would not suffice.
pub fn decoder(
    config: &Value,
    checkpoint: &dyn Checkpoint,
    storage: &Storage,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<Decoder, ModelError> {
    let architecture = architecture(config)?;
    build(architecture, (architecture.config)(config)?, checkpoint, storage, progress)
}

fn build(
    architecture: &Architecture,
    config: DecoderConfig,
    checkpoint: &dyn Checkpoint,
    storage: &Storage,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<Decoder, ModelError> {
    let stored = Stored(checkpoint);
    let named: Box<dyn Source> = if Bare::suits(&stored) { Box::new(Bare(stored)) } else { Box::new(stored) };
    let source = (architecture.adapt)(named, &config);
    fits(config.weight_bytes(storage, |name| source.native(name)), storage)?;
    Ok(Decoder::new(config, &Vars::new(source.as_ref(), storage).with_progress(progress))?)
}

/// Like [`decoder`], also for a checkpoint of the bare model (`LlamaModel` and its kin), which has no
/// output head; says whether there is a head, without which the logits mean nothing.
///
/// # Errors
/// As [`decoder`].
pub fn backbone(
    config: &Value,
    checkpoint: &dyn Checkpoint,
    storage: &Storage,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<(Decoder, bool), ModelError> {
    let architecture = architecture(config)?;
    let name = config.pointer("/architectures/0").and_then(Value::as_str).unwrap_or("ForCausalLM");
    let head = name.contains("ForCausalLM") || name.contains("LMHead");
    let mut settings = (architecture.config)(config)?;
    settings.tied |= !head;
    Ok((build(architecture, settings, checkpoint, storage, progress)?, head))
}

/// Refuses, before anything is read, a model whose weights would not fit into memory.
fn fits(needed: u64, storage: &Storage) -> Result<(), ModelError> {
    let Some(available) = crate::measure::memory::available() else { return Ok(()) };
    if needed <= available {
        return Ok(());
    }
    Err(ModelError::Memory { needed, available, precision: storage.to_string() })
}

/// Parses what `--dtype` takes: `native`, any weight type, or the mixture `q4_k_m`.
///
/// # Errors
/// The words that are allowed.
pub fn precision(word: &str, layers: usize) -> Result<Precision, String> {
    match word {
        "native" => Ok(Precision::Native),
        "q4_k_m" => Ok(Precision::Q4KM { layers }),
        other => other.parse().map(Precision::Fixed).map_err(|_| {
            format!("--dtype `{other}` is unknown; use native, f32, bf16, int8, q8_0, q4_0, q4_k, q5_k, q6_k or q4_k_m")
        }),
    }
}
