//! Text encoders: how the `config.json` of BERT and its kin becomes an [`EncoderConfig`], how their files
//! name tensors, and one forward pass under the peer's own names.

use std::ops::Range;

use burn::tensor::{Int, Tensor, TensorData};
use serde::Deserialize;
use serde_json::Value;
use whit_kernels::linear::WeightType;
use whit_kernels::op;

use super::config::{self, ConfigError, size};
use super::forward::{ForwardError, Outputs, Recorder, Table, named, shape};
use super::names::{self, Names};
use super::{ModelError, Stored, fits};
use crate::load::{Checkpoint, RawTensor};
use crate::methods::{Companions, ModelFacts, ModelKind};
use crate::nn::activation::Activation;
use crate::nn::attention::Batched;
use crate::nn::block::BlockConfig;
use crate::nn::decoder::NormConfig;
use crate::nn::encoder::{Counting, Encoder, EncoderConfig, EncoderTokens};
use crate::nn::inventory::weight_bytes;
use crate::nn::tempered::Tempered;
use crate::nn::vars::{Init, Source, Storage, Vars, VarsError};

/// One architecture of a text encoder.
#[derive(Debug)]
pub struct EncoderArchitecture {
    /// `model_type` in `config.json`.
    pub id: &'static str,
    /// What people call the models that have it.
    pub title: &'static str,
    /// Of which kin it is.
    pub kin: Kin,
}

/// How an architecture's configuration is read and its tensors are named.
#[derive(Debug)]
pub enum Kin {
    /// As BERT's.
    Bert {
        /// What stands before the names of the encoder's tensors where there is a head.
        prefix: &'static str,
        /// The padding token, where the file is silent.
        padding: u32,
        /// How positions are counted, given the padding token.
        counting: fn(u32) -> Counting,
    },
    /// In a way of its own.
    Other {
        /// Reads the configuration.
        config: fn(&Value) -> Result<EncoderConfig, ConfigError>,
        /// The names of its tensors, by family of files.
        names: &'static [Names],
    },
}

macro_rules! encoders {
    ($($name:ident :: $architecture:ident),* $(,)?) => {
        /// Every text encoder that Whit knows.
        pub static ENCODERS: &[EncoderArchitecture] = &[$(super::$name::$architecture),*];
    };
}

encoders! { bert::ENCODER, roberta::ENCODER, xlm_roberta::ENCODER, crate_bert::ENCODER, t5::ENCODER, t5::MULTILINGUAL, clip::TEXT }

#[derive(Deserialize)]
struct Config {
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    hidden_act: Option<Activation>,
    max_position_embeddings: usize,
    type_vocab_size: Option<usize>,
    layer_norm_eps: Option<f32>,
    pad_token_id: Option<u32>,
    position_embedding_type: Option<String>,
    is_decoder: Option<bool>,
    architectures: Option<Vec<String>>,
    id2label: Option<serde_json::Map<String, Value>>,
    num_labels: Option<usize>,
}

/// The encoder that a configuration names, if it names one.
pub fn architecture(config: &Value) -> Option<&'static EncoderArchitecture> {
    let id = config.get("model_type")?.as_str()?;
    ENCODERS.iter().find(|architecture| architecture.id == id)
}

impl EncoderArchitecture {
    /// Reads the configuration.
    ///
    /// # Errors
    /// If a field is missing, or has a value that no encoder here has.
    pub fn config(&self, json: &Value) -> Result<EncoderConfig, ConfigError> {
        match self.kin {
            Kin::Bert { padding, counting, .. } => bert_config(json, padding, counting),
            Kin::Other { config, .. } => config(json),
        }
    }
}

/// A configuration with BERT's fields.
pub(super) fn bert_config(
    json: &Value,
    padding: u32,
    counting: fn(u32) -> Counting,
) -> Result<EncoderConfig, ConfigError> {
    let json: Config = config::parse(json)?;
    json.check()?;
    let width = size("hidden_size", json.hidden_size)?;
    let heads = config::heads(json.num_attention_heads, width)?;
    let norm = NormConfig { centred: true, epsilon: json.layer_norm_eps.unwrap_or(1e-12) };
    let inner = size("intermediate_size", json.intermediate_size)?;
    let mut block = BlockConfig::plain(width, inner, heads, norm);
    block.activation = json.hidden_act.unwrap_or(Activation::Gelu);
    let config = EncoderConfig {
        vocab_size: size("vocab_size", json.vocab_size)?,
        max_positions: size("max_position_embeddings", json.max_position_embeddings)?,
        relative: None,
        types: size("type_vocab_size", json.type_vocab_size.unwrap_or(2))?,
        embedding_norm: true,
        final_norm: false,
        causal: false,
        block,
        layers: size("num_hidden_layers", json.num_hidden_layers)?,
        counting: counting(json.pad_token_id.unwrap_or(padding)),
        pooler: false,
        end: None,
        projection: None,
        labels: json.labels()?,
    };
    match config.context() {
        0 => Err(ConfigError::Value {
            field: "max_position_embeddings",
            found: config.max_positions.to_string(),
            allowed: "it must leave positions behind pad_token_id".into(),
        }),
        _ => Ok(config),
    }
}

impl Config {
    /// Refuses what would be computed in another way than here.
    fn check(&self) -> Result<(), ConfigError> {
        let refuse = |field, found: &str, allowed: &str| {
            Err(ConfigError::Value { field, found: format!("`{found}`"), allowed: allowed.into() })
        };
        match self.position_embedding_type.as_deref() {
            None | Some("absolute") => {}
            Some(other) => return refuse("position_embedding_type", other, "only `absolute` is supported"),
        }
        if self.is_decoder == Some(true) {
            return refuse("is_decoder", "true", "only encoders are supported");
        }
        let name = self.architectures.as_ref().and_then(|names| names.first());
        match name.map(|name| name.split_once("For").map_or("", |(_, head)| head)) {
            None | Some("" | "TokenClassification") => Ok(()),
            Some(_) => refuse(
                "architectures",
                name.map_or("", String::as_str),
                "supported are the model without a head and ForTokenClassification",
            ),
        }
    }

    /// The classes of a token classifier.
    fn labels(&self) -> Result<Option<usize>, ConfigError> {
        let name = self.architectures.as_ref().and_then(|names| names.first());
        if !name.is_some_and(|name| name.ends_with("ForTokenClassification")) {
            return Ok(None);
        }
        let listed = self.id2label.as_ref().map(serde_json::Map::len);
        size("num_labels", listed.or(self.num_labels).unwrap_or(2)).map(Some)
    }
}

/// What methods need to know of an encoder.
pub(super) fn facts(architecture: &EncoderArchitecture, config: &EncoderConfig) -> ModelFacts {
    ModelFacts {
        kind: ModelKind::Encoder,
        architecture: architecture.id.to_owned(),
        layers: config.layers,
        heads: config.block.heads,
        kv_heads: config.block.heads,
        head_dim: config.block.head_dim,
        width: config.block.width,
        vocabulary: config.vocab_size,
        context: config.context(),
        window: None,
        block_experts: None,
        tied_keys: config.block.white.is_some(),
        companions: Companions::default(),
    }
}

/// Builds the text encoder that `config` describes from the tensors of `checkpoint`.
///
/// # Errors
/// If it is no encoder, the configuration is wrong, a tensor is missing, misshapen or unreadable, or the
/// memory would not suffice.
pub fn encoder(
    config: &Value,
    checkpoint: &dyn Checkpoint,
    storage: &Storage,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<Encoder, ModelError> {
    let architecture = architecture(config).ok_or_else(|| {
        let found = config.get("model_type").and_then(Value::as_str).unwrap_or_default().to_owned();
        ModelError::NoEncoder { found }
    })?;
    build(architecture, architecture.config(config)?, checkpoint, storage, progress)
}

/// The model with this configuration, of which the file has the last word where it lacks the pooler.
pub(super) fn build(
    architecture: &EncoderArchitecture,
    mut settings: EncoderConfig,
    checkpoint: &dyn Checkpoint,
    storage: &Storage,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<Encoder, ModelError> {
    let stored = Stored(checkpoint);
    let source: Box<dyn Source> = match architecture.kin {
        Kin::Bert { prefix, .. } => Box::new(Named { stored, prefix }),
        Kin::Other { names, .. } => Box::new(names::Named::new(stored, names)),
    };
    settings.pooler = settings.labels.is_none() && source.has("pooler.dense.weight");
    fits(weight_bytes(&settings.matrices(), storage, |name| source.native(name)), storage)?;
    Ok(Encoder::new(settings, &Vars::new(source.as_ref(), storage).with_progress(progress))?)
}

/// A checkpoint whose tensors may stand below the architecture's name, and whose norms may have the names
/// that TensorFlow gave them.
struct Named<'a> {
    stored: Stored<'a>,
    prefix: &'static str,
}

impl Named<'_> {
    /// The name in the file; the plain one where there is none, for the message.
    fn place(&self, name: &str) -> String {
        let old =
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta");
        let below = |name: &str| format!("{}.{name}", self.prefix);
        let candidates = [name.to_owned(), below(name), old.clone(), below(&old)];
        let headed = self.stored.has(&below("embeddings.word_embeddings.weight"));
        let plain = if headed && !name.starts_with("classifier") { below(name) } else { name.to_owned() };
        candidates.into_iter().find(|name| self.stored.has(name)).unwrap_or(plain)
    }
}

impl Source for Named<'_> {
    fn check(&self, name: &str, shape: &[usize]) -> Result<(), VarsError> {
        self.stored.check(&self.place(name), shape)
    }

    fn has(&self, name: &str) -> bool {
        self.stored.has(&self.place(name))
    }

    fn rows(&self, name: &str, rows: Range<usize>, width: usize, init: Init) -> Result<Vec<f32>, VarsError> {
        self.stored.rows(&self.place(name), rows, width, init)
    }

    fn block_type(&self, name: &str) -> Option<WeightType> {
        self.stored.block_type(&self.place(name))
    }

    fn blocks(&self, name: &str, rows: Range<usize>) -> Result<Vec<u8>, VarsError> {
        self.stored.blocks(&self.place(name), rows)
    }

    fn native(&self, name: &str) -> WeightType {
        self.stored.native(&self.place(name))
    }
}

/// The inputs that a text encoder takes.
const KNOWN: [&str; 4] = ["input_ids", "attention_mask", "token_type_ids", "position_ids"];

/// Runs `model` once on the tensors of `file`: `last_hidden_state` and, as the model has them,
/// `pooler_output`, `text_embeds` and `logits`.
///
/// # Errors
/// If an input is unknown, missing, misshapen, of a wrong type, or has a value that the model has no row for.
pub fn forward(model: &Encoder, file: &dyn Checkpoint) -> Result<Outputs, ForwardError> {
    forward_at(model, file, Vec::new())
}

/// As [`forward`], with the temperature of each layer's attention; 1 for those behind the end.
///
/// # Errors
/// As [`forward`].
pub fn forward_at(
    model: &Encoder,
    file: &dyn Checkpoint,
    temperatures: Vec<f32>,
) -> Result<Outputs, ForwardError> {
    let config = model.config();
    let with_positions = config.max_positions > 0;
    let wanted = |name: &&str| match *name {
        "token_type_ids" => config.types > 0,
        "position_ids" => with_positions,
        _ => true,
    };
    let known: Vec<&str> = KNOWN.into_iter().filter(wanted).collect();
    let table = Table::new(file, &known)?;
    let (pass, shape) = (Pass::read(model, &table)?, shape(file)?);
    let (last, mut states) = pass.run_at(model, temperatures);
    if model.config().end.is_none() {
        states.pop(); // what leaves the last layer; the peer reports it normalised, but not for CLIP
        states.push(last.clone());
    }
    let mut outputs = Vec::with_capacity(states.len() + 4);
    outputs.extend(model.classified(last.clone()).map(|logits| named("logits".into(), shape, logits)));
    outputs.extend(pass.pooled(model, last.clone()));
    outputs.push(named("last_hidden_state".into(), shape, last));
    let states = states.into_iter().enumerate();
    outputs.extend(states.map(|(layer, state)| named(format!("hidden_states.{layer}"), shape, state)));
    Ok(outputs)
}

/// The tokens of one pass, row after row.
pub(super) struct Pass {
    shape: [usize; 2],
    ids: Vec<u32>,
    positions: Vec<u32>,
    types: Vec<u32>,
    mask: Option<TensorData>,
}

impl Pass {
    pub(super) fn read(model: &Encoder, table: &Table<'_>) -> Result<Self, ForwardError> {
        let config = model.config();
        let [batch, length] = table.shape();
        let ids = table.indices("input_ids", config.vocab_size as u32 - 1)?.ok_or(ForwardError::NoTokens)?;
        let largest = config.max_positions.saturating_sub(1) as u32;
        let positions = match table.indices("position_ids", largest)? {
            Some(positions) => positions,
            None => {
                table.fits(config.context())?;
                ids.chunks_exact(length).flat_map(|row| config.positions(row)).collect()
            }
        };
        let types = table.indices("token_type_ids", config.types.saturating_sub(1) as u32)?;
        let types = types.unwrap_or_else(|| vec![0; ids.len()]);
        Ok(Self { shape: [batch, length], ids, positions, types, mask: table.mask()? })
    }

    /// The hidden states of the last layer and those of every layer.
    pub(super) fn run(&self, model: &Encoder) -> (Tensor<2>, Vec<Tensor<2>>) {
        self.run_at(model, Vec::new())
    }

    fn run_at(&self, model: &Encoder, temperatures: Vec<f32>) -> (Tensor<2>, Vec<Tensor<2>>) {
        let [batch, length] = self.shape;
        let attention = Batched {
            causal: model.config().causal,
            bias: model.relative_bias(length),
            ..Batched::whole(batch, None)
        };
        let mut recorder = Tempered::new(Recorder::new(attention, self.mask.clone()), temperatures);
        let tokens = EncoderTokens { ids: &self.ids, positions: &self.positions, types: &self.types };
        (model.forward(tokens, &mut recorder), recorder.into_inner().states)
    }

    /// The states that stand for the rows, `[batch, width]`.
    pub(super) fn places(&self, model: &Encoder, last: Tensor<2>) -> Tensor<2> {
        let rows = self.ids.chunks_exact(self.shape[1]).enumerate();
        let places: Vec<i64> =
            rows.map(|(row, ids)| (row * self.shape[1] + model.pooled_place(ids)) as i64).collect();
        let index = Tensor::<1, Int>::from_data(TensorData::from(&places[..]), &last.device());
        last.select(0, index)
    }

    /// What the original reports of them.
    pub(super) fn pooled(&self, model: &Encoder, last: Tensor<2>) -> Outputs {
        let states = self.places(model, last);
        let raw = |name: &str, tensor: Tensor<2>| {
            let values = op::host(tensor);
            (name.to_owned(), RawTensor::from_f32(values.shape(), values.data()))
        };
        let pooled = model.pooled(states.clone()).map(|pooled| raw("pooler_output", pooled));
        let projected = model.projected(states).map(|embeds| raw("text_embeds", embeds));
        pooled.into_iter().chain(projected).collect()
    }
}
