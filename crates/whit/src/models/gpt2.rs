//! GPT-2 (Radford et al., 2019): learned positions, layer norms, and files in which matrices stand
//! transposed and queries, keys and values share one.

use std::ops::Range;

use serde::Deserialize;
use serde_json::Value;
use whit_kernels::linear::WeightType;

use super::Architecture;
use super::config::{self, ConfigError, size};
use crate::nn::activation::Activation;
use crate::nn::decoder::{Biases, DecoderConfig, Multipliers, NormConfig, Positions};
use crate::nn::vars::{Init, Source, VarsError};

pub(super) const ARCHITECTURE: Architecture = Architecture { id: "gpt2", title: "GPT-2", config, adapt };

#[derive(Deserialize)]
struct Config {
    vocab_size: usize,
    n_embd: usize,
    n_layer: usize,
    n_head: usize,
    n_positions: usize,
    n_inner: Option<usize>,
    activation_function: Option<Activation>,
    layer_norm_epsilon: Option<f32>,
    scale_attn_weights: Option<bool>,
    scale_attn_by_inverse_layer_idx: Option<bool>,
    tie_word_embeddings: Option<bool>,
}

pub(super) fn config(json: &Value) -> Result<DecoderConfig, ConfigError> {
    let json: Config = config::parse(json)?;
    let (width, heads) = (size("n_embd", json.n_embd)?, size("n_head", json.n_head)?);
    if width % heads != 0 {
        let allowed = format!("it must divide n_embd ({width})");
        return Err(ConfigError::Value { field: "n_head", found: heads.to_string(), allowed });
    }
    let layers = size("n_layer", json.n_layer)?;
    Ok(DecoderConfig {
        vocab_size: size("vocab_size", json.vocab_size)?,
        width,
        feed_forward: size("n_inner", json.n_inner.unwrap_or(4 * width))?,
        layers,
        heads,
        kv_heads: heads,
        head_dim: width / heads,
        norm: NormConfig { centred: true, epsilon: json.layer_norm_epsilon.unwrap_or(1e-5) },
        activation: json.activation_function.unwrap_or(Activation::GeluTanh),
        gated: false,
        biases: Biases { query_key_value: true, attention_output: true, feed_forward: true },
        query_key_norm: false,
        positions: Positions::Learned,
        windows: vec![None; layers],
        scales: (0..layers).map(|layer| json.scale(layer, width / heads)).collect(),
        tied: json.tie_word_embeddings.unwrap_or(true),
        experts: None,
        block_ffn: None,
        latent: None,
        white: None,
        multipliers: Multipliers::default(),
        max_positions: size("n_positions", json.n_positions)?,
    })
}

impl Config {
    fn scale(&self, layer: usize, head_dim: usize) -> f32 {
        let plain = if self.scale_attn_weights.unwrap_or(true) { (head_dim as f32).powf(-0.5) } else { 1.0 };
        let by_layer = self.scale_attn_by_inverse_layer_idx.unwrap_or(false);
        if by_layer { plain / (layer + 1) as f32 } else { plain }
    }
}

fn adapt<'a>(source: Box<dyn Source + 'a>, config: &DecoderConfig) -> Box<dyn Source + 'a> {
    Box::new(Renamed { source, width: config.width, parts: &PARTS })
}

/// GPT-2's tensors, or those of its kin, under the names of the shared blocks.
pub(super) struct Renamed<'a> {
    pub(super) source: Box<dyn Source + 'a>,
    pub(super) width: usize,
    pub(super) parts: &'static [Part],
}

/// The name that the shared blocks have for a part and the file's, whether it is stored `[inputs, outputs]`, and which
/// third it is of a matrix that queries, keys and values share.
pub(super) type Part = (&'static str, &'static str, bool, Option<usize>);

/// Where a variable lies in the file.
struct Place {
    name: String,
    /// The matrix is stored `[inputs, outputs]`.
    transposed: bool,
    /// Which third of the shared query-key-value matrix it is.
    third: Option<usize>,
}

const PARTS: [Part; 10] = [
    ("input_layernorm", "ln_1", false, None),
    ("post_attention_layernorm", "ln_2", false, None),
    ("self_attn.q_proj", "attn.c_attn", true, Some(0)),
    ("self_attn.k_proj", "attn.c_attn", true, Some(1)),
    ("self_attn.v_proj", "attn.c_attn", true, Some(2)),
    ("self_attn.o_proj", "attn.c_proj", true, None),
    ("mlp.up_proj", "mlp.c_fc", true, None),
    ("mlp.down_proj", "mlp.c_proj", true, None),
    ("norm", "ln_f", false, None),
    ("embed_tokens", "wte", false, None),
];

impl Renamed<'_> {
    fn place(&self, name: &str) -> Place {
        let (stem, leaf) = name.rsplit_once('.').unwrap_or((name, ""));
        let stem = stem.strip_prefix("model.").unwrap_or(stem);
        let (block, part) = match stem.strip_prefix("layers.").and_then(|rest| rest.split_once('.')) {
            Some((index, part)) => (format!("h.{index}."), part),
            None => (String::new(), stem),
        };
        let known = self.parts.iter().find(|(ours, ..)| *ours == part);
        let (theirs, transposed, third) = match known {
            Some((_, theirs, transposed, third)) => (*theirs, *transposed, *third),
            None if part == "embed_positions" => ("wpe", false, None),
            None => return Place { name: name.to_owned(), transposed: false, third: None },
        };
        let plain = format!("{block}{theirs}.{leaf}");
        // The files of the original release lack the outer name.
        let name = if self.source.has("wte.weight") { plain } else { format!("transformer.{plain}") };
        Place { name, transposed: transposed && leaf == "weight", third }
    }
}

impl Source for Renamed<'_> {
    fn check(&self, name: &str, shape: &[usize]) -> Result<(), VarsError> {
        let place = self.place(name);
        let mut shape = shape.to_vec();
        if place.third.is_some() {
            shape[0] *= 3;
        }
        if place.transposed {
            shape.reverse();
        }
        self.source.check(&place.name, &shape)
    }

    fn has(&self, name: &str) -> bool {
        self.source.has(&self.place(name).name)
    }

    fn rows(&self, name: &str, rows: Range<usize>, width: usize, init: Init) -> Result<Vec<f32>, VarsError> {
        let place = self.place(name);
        let first = place.third.unwrap_or(0) * self.width;
        let rows = first + rows.start..first + rows.end;
        if !place.transposed {
            return self.source.rows(&place.name, rows, width, init);
        }
        // Stored [inputs, outputs]: the wanted rows are columns.
        let all = self.source.rows(&place.name, 0..width, 1, init)?;
        let outputs = all.len() / width.max(1);
        Ok(rows
            .flat_map(|row| (0..width).map(move |column| column * outputs + row))
            .map(|at| all[at])
            .collect())
    }

    fn block_type(&self, name: &str) -> Option<WeightType> {
        let place = self.place(name);
        if place.transposed || place.third.is_some() { None } else { self.source.block_type(&place.name) }
    }

    fn blocks(&self, name: &str, rows: Range<usize>) -> Result<Vec<u8>, VarsError> {
        self.source.blocks(&self.place(name).name, rows)
    }

    fn native(&self, name: &str) -> WeightType {
        self.source.native(&self.place(name).name)
    }
}
