//! CLIP (Radford et al., 2021): a vision encoder and a text encoder that put images and texts into one space,
//! where a text's nearness to an image says how well it describes it.

use burn::tensor::Tensor;
use serde::Deserialize;
use serde_json::{Value, json};
use whit_kernels::op;

use super::ModelError;
use super::config::{self, ConfigError, size};
use super::encoder::{self, EncoderArchitecture, Kin, Pass};
use super::forward::{ForwardError, Outputs, Table};
use super::names::{Names, part};
use super::vision::{self, VisionArchitecture, raw};
use crate::load::Checkpoint;
use crate::nn::activation::Activation;
use crate::nn::attention::Batched;
use crate::nn::block::BlockConfig;
use crate::nn::decoder::NormConfig;
use crate::nn::encoder::{Counting, Encoder, EncoderConfig, End};
use crate::nn::vars::{Storage, VarsError};
use crate::nn::vision::{FinalNorm, Pooled, Vision, VisionConfig};

/// `model_type` of a model with both encoders.
pub const ID: &str = "clip";

pub(super) const VISION: VisionArchitecture = VisionArchitecture {
    id: "clip_vision_model",
    title: "CLIP's vision encoder",
    names: VISION_NAMES,
    epsilon: 1e-5,
    ignored: &[],
    adjust: |fields, mut config| {
        if fields.hidden_act().is_none() {
            config.block.activation = Activation::QuickGelu;
        }
        let projected = fields.class().ends_with("WithProjection");
        let projection = projected.then(|| size("projection_dim", fields.projection_dim.unwrap_or(512)));
        Ok(VisionConfig {
            patch_bias: false,
            embedding_norm: true,
            final_norm: FinalNorm::Class,
            pooled: Pooled::Class,
            projection: projection.transpose()?,
            ..config
        })
    },
};

pub(super) const TEXT: EncoderArchitecture = EncoderArchitecture {
    id: "clip_text_model",
    title: "CLIP's text encoder",
    kin: Kin::Other { config: text_config, names: TEXT_NAMES },
};

macro_rules! names {
    ($probe:literal, $prefixes:expr, [$($more:expr),* $(,)?]) => {
        &[Names {
            probe: $probe,
            prefixes: $prefixes,
            layers: &["encoder.layers.0."],
            parts: &[
                part("attention.self.query", "self_attn.q_proj"),
                part("attention.self.key", "self_attn.k_proj"),
                part("attention.self.value", "self_attn.v_proj"),
                part("attention.output.dense", "self_attn.out_proj"),
                part("attention.output.LayerNorm", "layer_norm1"),
                part("intermediate.dense", "mlp.fc1"),
                part("output.dense", "mlp.fc2"),
                part("output.LayerNorm", "layer_norm2"),
                $($more),*
            ],
        }]
    };
}

const VISION_NAMES: &[Names] = names!(
    "embeddings.class_embedding",
    &["vision_model.", ""],
    [
        part("embeddings.class_token", "embeddings.class_embedding"),
        part("embeddings.positions", "embeddings.position_embedding.weight"),
        part("embeddings.patches", "embeddings.patch_embedding"),
        part("embeddings.norm", "pre_layrnorm"),
        part("final_norm", "post_layernorm"),
        part("projection", "^visual_projection"),
    ]
);

const TEXT_NAMES: &[Names] = names!(
    "embeddings.token_embedding.weight",
    &["text_model.", ""],
    [
        part("embeddings.word_embeddings", "embeddings.token_embedding"),
        part("embeddings.position_embeddings", "embeddings.position_embedding"),
        part("final_norm", "final_layer_norm"),
        part("projection", "^text_projection"),
    ]
);

#[derive(Deserialize)]
struct TextConfig {
    vocab_size: Option<usize>,
    hidden_size: Option<usize>,
    intermediate_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    max_position_embeddings: Option<usize>,
    hidden_act: Option<Activation>,
    layer_norm_eps: Option<f32>,
    eos_token_id: Option<u32>,
    projection_dim: Option<usize>,
    architectures: Option<Vec<String>>,
}

fn text_config(json: &Value) -> Result<EncoderConfig, ConfigError> {
    let json: TextConfig = config::parse(json)?;
    let width = size("hidden_size", json.hidden_size.unwrap_or(512))?;
    let heads = config::heads(json.num_attention_heads.unwrap_or(8), width)?;
    let norm = NormConfig { centred: true, epsilon: json.layer_norm_eps.unwrap_or(1e-5) };
    let inner = size("intermediate_size", json.intermediate_size.unwrap_or(2048))?;
    let mut block = BlockConfig { norm_first: true, ..BlockConfig::plain(width, inner, heads, norm) };
    block.activation = json.hidden_act.unwrap_or(Activation::QuickGelu);
    let class = json.architectures.as_ref().and_then(|names| names.first());
    let projected = class.is_some_and(|name| name.ends_with("WithProjection"));
    let projection = projected.then(|| size("projection_dim", json.projection_dim.unwrap_or(512)));
    Ok(EncoderConfig {
        vocab_size: size("vocab_size", json.vocab_size.unwrap_or(49408))?,
        max_positions: size("max_position_embeddings", json.max_position_embeddings.unwrap_or(77))?,
        relative: None,
        types: 0,
        embedding_norm: false,
        final_norm: true,
        causal: true,
        block,
        layers: size("num_hidden_layers", json.num_hidden_layers.unwrap_or(12))?,
        counting: Counting::FromZero,
        pooler: false,
        // Before transformers 4.31, files gave the wrong token 2, and the largest id was meant.
        end: Some(match json.eos_token_id.unwrap_or(49407) {
            2 => End::Largest,
            id => End::Token(id),
        }),
        projection: projection.transpose()?,
        labels: None,
    })
}

/// Both encoders.
#[derive(Debug)]
pub struct Clip {
    /// The one for images.
    pub vision: Vision,
    /// The one for texts.
    pub text: Encoder,
    /// What cosines are multiplied with.
    pub scale: f32,
}

/// Whether `config` describes a model with both encoders.
pub fn is_clip(config: &Value) -> bool {
    config.get("model_type").and_then(Value::as_str) == Some(ID)
}

/// The configurations of both encoders.
///
/// # Errors
/// If a field has a value that no encoder here has.
pub fn configs(config: &Value) -> Result<(VisionConfig, EncoderConfig), ConfigError> {
    let space = config.get("projection_dim").and_then(Value::as_u64).unwrap_or(512);
    let part = |field: &str, class: &str| {
        let mut part = config.get(field).cloned().unwrap_or_else(|| json!({}));
        part["architectures"] = json!([class]);
        part["projection_dim"] = json!(space);
        part
    };
    let vision = VISION.config(&part("vision_config", "CLIPVisionModelWithProjection"))?;
    Ok((vision, text_config(&part("text_config", "CLIPTextModelWithProjection"))?))
}

/// Builds both encoders from the tensors of `checkpoint`.
///
/// # Errors
/// If the configuration is wrong, a tensor is missing, misshapen or unreadable, or the memory would not suffice.
pub fn clip(
    config: &Value,
    checkpoint: &dyn Checkpoint,
    storage: &Storage,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<Clip, ModelError> {
    let (vision, text) = configs(config)?;
    let vision = vision::build(&VISION, vision, checkpoint, storage, progress)?;
    let text = encoder::build(&TEXT, text, checkpoint, storage, progress)?;
    Ok(Clip { vision, text, scale: scale(checkpoint)? })
}

/// What cosines are multiplied with.
///
/// # Errors
/// If the tensor is missing or unreadable.
pub fn scale(checkpoint: &dyn Checkpoint) -> Result<f32, ModelError> {
    let name = "logit_scale";
    if checkpoint.info(name).is_none() {
        return Err(VarsError::Missing(name.into()).into());
    }
    let read = || checkpoint.read(name)?.to_f32(name);
    let values = read().map_err(VarsError::from)?;
    Ok(values.first().map_or(1.0, |scale| scale.exp()))
}

/// Rows of length one.
pub fn unit(rows: Tensor<2>) -> Tensor<2> {
    let length = rows.clone().powi_scalar(2).sum_dim(1).sqrt();
    rows / length.clamp_min(1e-12)
}

/// Runs one or both encoders on the tensors of `file`: `image_embeds` and `text_embeds` of length one; of both,
/// `logits_per_image` and `logits_per_text`; below `vision_model_output.` and `text_model_output.` the hidden
/// states of each and, as its `pooler_output`, its place in the shared space before it gets length one.
///
/// # Errors
/// If an input is unknown, missing, misshapen, of a wrong type, or has a value that the model has no row for.
pub fn forward(model: &Clip, file: &dyn Checkpoint) -> Result<Outputs, ForwardError> {
    const KNOWN: [&str; 4] = ["pixel_values", "input_ids", "attention_mask", "position_ids"];
    let has = |name| file.info(name).is_some();
    let mut outputs = Outputs::new();
    let images = if has("pixel_values") { Some(images(model, file, &mut outputs)?) } else { None };
    let texts = match images {
        Some(_) if !has("input_ids") => None,
        _ => Some(texts(model, &Table::new(file, &KNOWN)?, &mut outputs)?),
    };
    if let (Some(images), Some(texts)) = (&images, &texts) {
        let logits = texts.clone().matmul(images.clone().transpose()) * model.scale;
        outputs.push(raw("logits_per_image", logits.clone().transpose()));
        outputs.push(raw("logits_per_text", logits));
    }
    outputs.extend(images.map(|images| raw("image_embeds", images)));
    outputs.extend(texts.map(|texts| raw("text_embeds", texts)));
    Ok(outputs)
}

fn images(model: &Clip, file: &dyn Checkpoint, outputs: &mut Outputs) -> Result<Tensor<2>, ForwardError> {
    let pixels = vision::pixels(file, model.vision.config())?;
    let batch = pixels.dims()[0];
    let hidden = model.vision.forward(pixels, &mut Batched::whole(batch, None));
    let embeds = projected(model.vision.projected(&hidden));
    outputs.push(raw("vision_model_output.last_hidden_state", hidden));
    outputs.push(raw("vision_model_output.pooler_output", embeds.clone()));
    Ok(unit(embeds))
}

fn texts(model: &Clip, table: &Table<'_>, outputs: &mut Outputs) -> Result<Tensor<2>, ForwardError> {
    let pass = Pass::read(&model.text, table)?;
    let (last, _) = pass.run(&model.text);
    let states = pass.places(&model.text, last.clone());
    let [batch, length] = table.shape();
    let hidden = last.reshape([batch, length, model.text.config().block.width]);
    outputs.push(raw("text_model_output.last_hidden_state", hidden));
    let embeds = projected(model.text.projected(states));
    outputs.push(raw("text_model_output.pooler_output", embeds.clone()));
    Ok(unit(embeds))
}

fn projected(embeds: Option<Tensor<2>>) -> Tensor<2> {
    embeds.unwrap_or_else(|| unreachable!("both encoders are built with a projection"))
}

impl Clip {
    /// The bytes that the large weights hold.
    pub fn bytes(&self) -> usize {
        self.vision.bytes() + self.text.bytes()
    }

    /// How well each of some texts describes each of some images: `[images, texts]`, of embeddings
    /// `[images, values]` and `[texts, values]` of length one.
    pub fn logits(&self, images: Tensor<2>, texts: Tensor<2>) -> Vec<Vec<f32>> {
        let logits = op::host(images.matmul(texts.transpose()) * self.scale);
        logits.data().chunks(logits.width().max(1)).map(<[f32]>::to_vec).collect()
    }
}
