//! Any model that `whit forward` runs.

use serde_json::Value;

use super::clip::{self, Clip};
use super::forward::{self, ForwardError, Inputs, Outputs};
use super::{ModelError, backbone, encoder, vision};
use crate::load::Checkpoint;
use crate::nn::decoder::Decoder;
use crate::nn::encoder::Encoder;
use crate::nn::vars::Storage;
use crate::nn::vision::Vision;

/// A model of any kind that one forward pass can be made of.
#[derive(Debug)]
pub enum Network {
    /// A causal language model, and whether it has an output head.
    Decoder(Box<Decoder>, bool),
    /// A text encoder.
    Encoder(Box<Encoder>),
    /// A vision encoder.
    Vision(Box<Vision>),
    /// One of each.
    Clip(Box<Clip>),
}

/// Builds the model that `config` describes, whatever its kind.
///
/// # Errors
/// If the architecture is unknown, the configuration is wrong, a tensor is missing, misshapen or
/// unreadable, or the memory would not suffice.
pub fn network(
    config: &Value,
    checkpoint: &dyn Checkpoint,
    storage: &Storage,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<Network, ModelError> {
    if encoder::architecture(config).is_some() {
        return Ok(Network::Encoder(Box::new(encoder::encoder(config, checkpoint, storage, progress)?)));
    }
    if vision::architecture(config).is_some() {
        return Ok(Network::Vision(Box::new(vision::vision(config, checkpoint, storage, progress)?)));
    }
    if clip::is_clip(config) {
        return Ok(Network::Clip(Box::new(clip::clip(config, checkpoint, storage, progress)?)));
    }
    let (model, head) = backbone(config, checkpoint, storage, progress)?;
    Ok(Network::Decoder(Box::new(model), head))
}

impl Network {
    /// One forward pass on the tensors of `file`.
    ///
    /// # Errors
    /// If an input is unknown, missing, misshapen, of a wrong type, or has a value that the model has no row for.
    pub fn forward(&self, file: &dyn Checkpoint) -> Result<Outputs, ForwardError> {
        match self {
            Self::Decoder(model, head) => Ok(forward::forward(model, *head, &Inputs::read(file, model)?)),
            Self::Encoder(model) => encoder::forward(model, file),
            Self::Vision(model) => vision::forward(model, file),
            Self::Clip(model) => clip::forward(model, file),
        }
    }
}
