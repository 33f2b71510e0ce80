//! CRATE-MAE (Pai et al., 2024): the white-box masked autoencoder, under the names of the official checkpoints. These
//! come without a `config.json`; it says `"model_type": "crate_mae"` and has the fields of ViT-MAE's, with the
//! original's `ista` (0.1) and `lambd` (0.5). As a vision encoder it is its encoder alone.

use burn::tensor::{Tensor, TensorData};
use serde::Deserialize;
use serde_json::Value;
use whit_kernels::op;

use super::config::{self, ConfigError, size, wrong};
use super::forward::{ForwardError, Outputs};
use super::names::{Named, Names, part};
use super::vision::{self, Fields, Mask, VisionArchitecture};
use super::white_box::whole_patches;
use super::{ModelError, Stored, fits};
use crate::load::{Checkpoint, RawTensor};
use crate::nn::attention::Batched;
use crate::nn::block::BlockConfig;
use crate::nn::inventory::weight_bytes;
use crate::nn::vars::{Source, Storage, Vars};
use crate::nn::vision::{Pooled, VisionConfig};
use crate::nn::white_mae::{WhiteMae, WhiteMaeConfig, loss};

pub(super) const VISION: VisionArchitecture = VisionArchitecture {
    id: "crate_mae",
    title: "CRATE-MAE",
    names: NAMES,
    epsilon: 1e-5,
    ignored: &["PreTraining"],
    adjust,
};

const NAMES: &[Names] = &[Names {
    probe: "cls_token",
    prefixes: &["", "module."],
    layers: &["blocks.0.layers.0."],
    parts: &[
        part("embeddings.class_token", "cls_token"),
        part("embeddings.patches", "patch_embed.proj"),
        part("attention.self.query", "0.fn.qkv"),
        part("attention.output.dense", "0.fn.to_out.0"),
        part("attention.output.LayerNorm", "0.norm"),
        part("output.dictionary", "1.fn"),
        part("output.LayerNorm", "1.norm"),
        part("final_norm", "norm"),
    ],
}];

/// The epsilon of the norms behind encoder and decoder; inside the blocks it is PyTorch's.
const LAST_EPSILON: f32 = 1e-6;

fn adjust(fields: &Fields, config: VisionConfig) -> Result<VisionConfig, ConfigError> {
    whole_patches(&config)?;
    let width = config.block.width;
    if !width.is_multiple_of(4) {
        return Err(wrong("hidden_size", width, "it must be divisible by 4, for the waves of the positions"));
    }
    let white = fields.white.config(0.5);
    let block = BlockConfig { feed_forward: width, white: Some(white), ..config.block };
    Ok(VisionConfig {
        fixed_positions: true,
        final_epsilon: LAST_EPSILON,
        pooled: Pooled::Nothing,
        block,
        ..config
    })
}

#[derive(Deserialize)]
struct Decoder {
    mask_ratio: Option<f64>,
    norm_pix_loss: Option<bool>,
    decoder_hidden_size: Option<usize>,
    decoder_num_hidden_layers: Option<usize>,
}

/// Reads the configuration of encoder and decoder.
///
/// # Errors
/// If a field has a value that cannot be.
pub fn config(json: &Value) -> Result<WhiteMaeConfig, ConfigError> {
    let encoder = VISION.config(json)?;
    let decoder: Decoder = config::parse(json)?;
    let (width, found) = (encoder.block.width, decoder.decoder_hidden_size);
    if let Some(found) = found.filter(|found| *found != width) {
        let allowed = format!("the decoder of CRATE-MAE is as wide as its encoder: hidden_size ({width})");
        return Err(wrong("decoder_hidden_size", found, allowed));
    }
    let mask_ratio = decoder.mask_ratio.unwrap_or(0.75);
    if !(mask_ratio > 0.0 && mask_ratio < 1.0) {
        return Err(wrong("mask_ratio", mask_ratio, "it must lie between 0 and 1, and be neither"));
    }
    let decoder_layers = decoder.decoder_num_hidden_layers.unwrap_or(encoder.layers);
    Ok(WhiteMaeConfig {
        decoder_layers: size("decoder_num_hidden_layers", decoder_layers)?,
        mask_ratio,
        normalised: decoder.norm_pix_loss.unwrap_or(false),
        encoder,
    })
}

/// Whether `config` is of such an autoencoder with its decoder.
pub fn is_autoencoder(config: &Value) -> bool {
    let class = config.pointer("/architectures/0").and_then(Value::as_str).unwrap_or_default();
    config.get("model_type").and_then(Value::as_str) == Some(VISION.id) && class.ends_with("ForPreTraining")
}

/// Builds encoder and decoder from the tensors of `checkpoint`.
///
/// # Errors
/// If the configuration is wrong, a tensor is missing, misshapen or unreadable, or the memory would not suffice.
pub fn autoencoder(
    json: &Value,
    checkpoint: &dyn Checkpoint,
    storage: &Storage,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<WhiteMae, ModelError> {
    let settings = config(json)?;
    let source = Named::new(Stored(checkpoint), NAMES);
    fits(weight_bytes(&settings.matrices(), storage, |name| source.native(name)), storage)?;
    Ok(WhiteMae::new(settings, &Vars::new(&source, storage).with_progress(progress))?)
}

/// Runs `model` once on the tensors of `file`: `last_hidden_state` of the encoder and `logits`, the values of the
/// patches. With `noise` `[batch, patches]` the patches with the most of it are hidden, and `mask`, `ids_restore` and
/// `loss` are given too; without, none is.
///
/// # Errors
/// If an input is unknown, missing, misshapen or of a wrong type.
pub fn forward(model: &WhiteMae, file: &dyn Checkpoint) -> Result<Outputs, ForwardError> {
    let encoder =
        VisionConfig { mask_ratio: Some(model.config().mask_ratio), ..model.config().encoder.clone() };
    vision::known_inputs(file, &["pixel_values", "noise"])?;
    let pixels = vision::pixels(file, &encoder)?;
    let target = model.target(pixels.clone());
    let [batch, patches, _] = target.dims();
    let mask = Mask::read(file, &encoder, [batch, patches])?;
    let hidden = mask.as_ref().map_or_else(|| vec![0.0; batch * patches], Mask::hidden);
    let hidden = Tensor::<2>::from_data(TensorData::new(hidden, [batch, patches]), &pixels.device());
    let attend = &mut Batched::whole(batch, None);
    let states = model.encode(pixels, hidden.clone(), attend);
    let predicted = model.decode(states.clone(), attend);
    let mut outputs =
        vec![vision::raw("last_hidden_state", states), vision::raw("logits", predicted.clone())];
    if let Some(mask) = mask {
        let loss = op::host(loss(predicted, target, hidden));
        outputs.push(("loss".into(), RawTensor::from_f32(vec![], loss.data())));
        outputs.extend(mask.outputs());
    }
    Ok(outputs)
}

#[cfg(test)]
mod tests {
    use burn::module::Module;
    use burn::tensor::Device;
    use serde_json::json;

    use super::*;
    use crate::nn::vars::Random;

    fn weights(settings: &WhiteMaeConfig, layers: usize) -> usize {
        let encoder = VisionConfig { layers, ..settings.encoder.clone() };
        let settings = WhiteMaeConfig { encoder, decoder_layers: layers, ..settings.clone() };
        let storage = Storage::Dense(Device::flex());
        WhiteMae::new(settings, &Vars::new(&Random { seed: 1 }, &storage)).unwrap().num_params()
    }

    /// The published count has a layer that is never used and two tables of positions, one of them twice.
    #[test]
    fn weights_are_as_many_as_published() {
        let settings = config(&json!({ "architectures": ["CrateMaeForPreTraining"] })).unwrap();
        let [one, two] = [1, 2].map(|layers| weights(&settings, layers));
        let table = 197 * 768;
        let learnt = one + 11 * (two - one) - table;
        let unused = 768 * 768 + 768;
        assert!(((learnt + unused) as f64 / 1e6 - 44.34).abs() < 0.01, "{learnt}");
        assert!(((learnt + unused + 2 * table) as f64 / 1e6 - 44.64).abs() < 0.01);
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let cases = [
            (json!({ "decoder_hidden_size": 512 }), "`decoder_hidden_size` is 512; the decoder"),
            (json!({ "mask_ratio": 0.0 }), "`mask_ratio` is 0"),
            (json!({ "mask_ratio": 1.0 }), "`mask_ratio` is 1"),
            (json!({ "mask_ratio": -0.5 }), "`mask_ratio` is -0.5"),
            (json!({ "image_size": 225 }), "`image_size` is [225, 225]"),
            (json!({ "num_attention_heads": 5 }), "`num_attention_heads` is 5"),
        ];
        for (fields, wanted) in cases {
            let error = config(&fields).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
    }
}
