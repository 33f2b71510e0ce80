//! Text encoders: how the `config.json` of BERT and its kin becomes an [`EncoderConfig`], how their files
//! name tensors, and one forward pass under the peer's own names.

use std::ops::Range;

use burn::tensor::Tensor;
use serde::Deserialize;
use serde_json::Value;
use whit_kernels::linear::WeightType;
use whit_kernels::op;

use super::config::{self, ConfigError, size};
use super::forward::{ForwardError, Outputs, Recorder, Table, named, shape};
use super::{ModelError, Stored, fits};
use crate::load::{Checkpoint, RawTensor};
use crate::methods::{Companions, ModelFacts, ModelKind};
use crate::nn::activation::Activation;
use crate::nn::attention::Batched;
use crate::nn::decoder::NormConfig;
use crate::nn::encoder::{BlockConfig, Counting, Encoder, EncoderConfig, EncoderTokens};
use crate::nn::inventory::weight_bytes;
use crate::nn::vars::{Init, Source, Storage, Vars, VarsError};

/// One architecture of a text encoder.
#[derive(Debug)]
pub struct EncoderArchitecture {
    /// `model_type` in `config.json`.
    pub id: &'static str,
    /// What people call the models that have it.
    pub title: &'static str,
    /// What stands before the names of the encoder's tensors where there is a head.
    pub prefix: &'static str,
    /// The padding token, where the file is silent.
    pub padding: u32,
    /// How positions are counted, given the padding token.
    pub counting: fn(u32) -> Counting,
}

macro_rules! encoders {
    ($($name:ident),* $(,)?) => {
        /// Every text encoder that Whit knows.
        pub static ENCODERS: &[EncoderArchitecture] = &[$(super::$name::ENCODER),*];
    };
}

encoders! { bert, roberta, xlm_roberta }

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
        let json: Config = config::parse(json)?;
        json.check()?;
        let (width, heads) =
            (size("hidden_size", json.hidden_size)?, size("num_attention_heads", json.num_attention_heads)?);
        if width % heads != 0 {
            let allowed = format!("it must divide hidden_size ({width})");
            return Err(ConfigError::Value {
                field: "num_attention_heads",
                found: heads.to_string(),
                allowed,
            });
        }
        let block = BlockConfig {
            width,
            heads,
            feed_forward: size("intermediate_size", json.intermediate_size)?,
            norm: NormConfig { centred: true, epsilon: json.layer_norm_eps.unwrap_or(1e-12) },
            activation: json.hidden_act.unwrap_or(Activation::Gelu),
        };
        let config = EncoderConfig {
            vocab_size: size("vocab_size", json.vocab_size)?,
            max_positions: size("max_position_embeddings", json.max_position_embeddings)?,
            types: size("type_vocab_size", json.type_vocab_size.unwrap_or(2))?,
            block,
            layers: size("num_hidden_layers", json.num_hidden_layers)?,
            counting: (self.counting)(json.pad_token_id.unwrap_or(self.padding)),
            pooler: false,
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
        head_dim: config.block.width / config.block.heads,
        width: config.block.width,
        vocabulary: config.vocab_size,
        context: config.context(),
        window: None,
        block_experts: None,
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
    let source = Named { stored: Stored(checkpoint), prefix: architecture.prefix };
    let mut settings = architecture.config(config)?;
    settings.pooler = settings.labels.is_none() && source.has("pooler.dense.weight");
    fits(weight_bytes(&settings.matrices(), storage, |name| source.native(name)), storage)?;
    Ok(Encoder::new(settings, &Vars::new(&source, storage).with_progress(progress))?)
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
/// `pooler_output` and `logits`.
///
/// # Errors
/// If an input is unknown, missing, misshapen, of a wrong type, or has a value that the model has no row for.
pub fn forward(model: &Encoder, file: &dyn Checkpoint) -> Result<Outputs, ForwardError> {
    let config = model.config();
    let table = Table::new(file, &KNOWN)?;
    let [batch, length] = shape(file)?;
    let ids = table.indices("input_ids", config.vocab_size as u32 - 1)?.ok_or(ForwardError::NoTokens)?;
    let positions = match table.indices("position_ids", config.max_positions as u32 - 1)? {
        Some(positions) => positions,
        None => {
            table.fits(config.context())?;
            ids.chunks_exact(length).flat_map(|row| config.positions(row)).collect()
        }
    };
    let types = table.indices("token_type_ids", config.types as u32 - 1)?;
    let types = types.unwrap_or_else(|| vec![0; ids.len()]);
    let mut recorder = Recorder::new(Batched::whole(batch, None), table.mask()?);
    let tokens = EncoderTokens { ids: &ids, positions: &positions, types: &types };
    let last = model.forward(tokens, &mut recorder);
    Ok(outputs(model, [batch, length], last, recorder.states))
}

fn outputs(model: &Encoder, shape: [usize; 2], last: Tensor<2>, states: Vec<Tensor<2>>) -> Outputs {
    let mut outputs = Vec::with_capacity(states.len() + 3);
    outputs.extend(model.classified(last.clone()).map(|logits| named("logits".into(), shape, logits)));
    outputs.extend(pooled(model, shape, last.clone()));
    outputs.push(named("last_hidden_state".into(), shape, last));
    let states = states.into_iter().enumerate();
    outputs.extend(states.map(|(layer, state)| named(format!("hidden_states.{layer}"), shape, state)));
    outputs
}

/// The state of every row's first token, pooled: `[batch, width]`.
fn pooled(model: &Encoder, [batch, length]: [usize; 2], last: Tensor<2>) -> Option<(String, RawTensor)> {
    let width = last.dims()[1];
    let first = last.reshape([batch, length, width]).slice([0..batch, 0..1]).reshape([batch, width]);
    let values = op::host(model.pooled(first)?);
    Some(("pooler_output".into(), RawTensor::from_f32(vec![batch, values.width()], values.data())))
}
