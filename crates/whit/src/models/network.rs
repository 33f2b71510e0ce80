//! Any model that `whit forward` runs.

use serde_json::Value;

use super::clip::{self, Clip};
use super::forward::{self, ForwardError, Inputs, Outputs};
use super::{ModelError, backbone, crate_mae, encoder, vision};
use crate::load::Checkpoint;
use crate::methods::{MethodError, Plan};
use crate::nn::decoder::Decoder;
use crate::nn::encoder::Encoder;
use crate::nn::vars::Storage;
use crate::nn::vision::Vision;
use crate::nn::white_mae::WhiteMae;

/// A model of any kind that one forward pass can be made of.
#[derive(Debug)]
pub enum Network {
    /// A causal language model, and whether it has an output head.
    Decoder(Box<Decoder>, bool),
    /// A text encoder.
    Encoder(Box<Encoder>),
    /// A vision encoder.
    Vision(Box<Vision>),
    /// A vision encoder with the decoder of a masked autoencoder.
    Autoencoder(Box<WhiteMae>),
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
    if crate_mae::is_autoencoder(config) {
        let model = crate_mae::autoencoder(config, checkpoint, storage, progress)?;
        return Ok(Network::Autoencoder(Box::new(model)));
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

fn elsewhere(method: &'static str) -> ForwardError {
    let reason = "it does not run in a single forward pass of this model".into();
    ForwardError::Method(MethodError::Failed { method, reason })
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
            Self::Autoencoder(model) => crate_mae::forward(model, file),
            Self::Clip(model) => clip::forward(model, file),
        }
    }

    /// One forward pass with the methods of `plan`: token reducers in vision transformers, temperatures in text
    /// encoders.
    ///
    /// # Errors
    /// As [`Network::forward`], and if a method does not run in a single pass of this model.
    pub fn forward_with(&self, file: &dyn Checkpoint, plan: &Plan) -> Result<Outputs, ForwardError> {
        let Some(method) = plan.parts().first().map(|part| part.spec().id) else { return self.forward(file) };
        match self {
            Self::Encoder(model) => {
                let Some(scale) = plan.begin().scale else { return Err(elsewhere(method)) };
                let layers = 0..model.config().layers;
                encoder::forward_at(model, file, layers.map(|layer| scale.temperature(layer)).collect())
            }
            Self::Vision(model) => vision::forward_with(model, file, plan),
            Self::Decoder(..) | Self::Autoencoder(_) | Self::Clip(_) => Err(elsewhere(method)),
        }
    }
}
