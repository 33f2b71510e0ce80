//! CRATE as a bidirectional text encoder (Yu et al., 2023, arXiv 2311.13110): BERT with white-box blocks. There are no
//! official files; here they have BERT's fields and names, `"model_type": "crate_bert"`, and a dictionary
//! `encoder.layer.N.output.dictionary.weight` in the place of the feed-forward part.

use serde::Deserialize;
use serde_json::Value;

use super::config::{self, ConfigError};
use super::encoder::{EncoderArchitecture, Kin, bert_config};
use super::names::{Names, part};
use crate::nn::block::BlockConfig;
use crate::nn::encoder::{Counting, EncoderConfig};
use crate::nn::white::WhiteConfig;

pub(super) const ENCODER: EncoderArchitecture =
    EncoderArchitecture { id: "crate_bert", title: "CRATE-BERT", kin: Kin::Other { config, names: NAMES } };

const NAMES: &[Names] = &[Names {
    probe: "embeddings.word_embeddings.weight",
    prefixes: &["", "bert."],
    layers: &["encoder.layer.0."],
    parts: &[part("classifier", "^classifier")],
}];

#[derive(Deserialize)]
struct White {
    ista: Option<f32>,
    lambd: Option<f32>,
    tied_output: Option<bool>,
}

fn config(json: &Value) -> Result<EncoderConfig, ConfigError> {
    let (plain, white) = (bert_config(json, 0, |_| Counting::FromZero)?, config::parse::<White>(json)?);
    let usual = WhiteConfig::default();
    let white = WhiteConfig {
        step: white.ista.unwrap_or(usual.step),
        sparsity: white.lambd.unwrap_or(usual.sparsity),
        tied_output: white.tied_output.unwrap_or(usual.tied_output),
    };
    let block = BlockConfig { feed_forward: plain.block.width, white: Some(white), ..plain.block };
    Ok(EncoderConfig { block, ..plain })
}
