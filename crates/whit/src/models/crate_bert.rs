//! CRATE as a bidirectional text encoder (Yu et al., 2023, arXiv 2311.13110): BERT with white-box blocks. There are no
//! official files; here they have BERT's fields and names, `"model_type": "crate_bert"`, and a dictionary
//! `encoder.layer.N.output.dictionary.weight` in the place of the feed-forward part.

use serde_json::Value;

use super::config::ConfigError;
use super::encoder::{EncoderArchitecture, Kin, bert_config};
use super::names::{Names, part};
use super::white_box::White;
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

fn config(json: &Value) -> Result<EncoderConfig, ConfigError> {
    let plain = bert_config(json, 0, |_| Counting::FromZero)?;
    let white = White::read(json)?.config(WhiteConfig::default().sparsity);
    let block = BlockConfig { feed_forward: plain.block.width, white: Some(white), ..plain.block };
    Ok(EncoderConfig { block, ..plain })
}
