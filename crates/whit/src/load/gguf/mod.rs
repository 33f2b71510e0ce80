//! GGUF, the single-file format of llama.cpp, versions 2 and 3, little-endian.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. A file is presented as if it were a Hugging
//! Face folder: its hyper-parameters become a configuration, its tensors bear Hugging Face's names and row order,
//! and its vocabulary becomes a tokenizer. [`save_with`] goes the other way.

mod config;
mod cursor;
mod error;
mod export;
mod metadata;
mod names;
mod parse;
mod pretokenizer;
mod rows;
mod tokenizer;
mod write;
mod write_config;
mod write_tokenizer;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use serde_json::json;

pub use error::GgufError;
pub use export::export;
pub(crate) use export::stored;
pub use metadata::{Metadata, Value};
pub use parse::{Head, Span, parse};
pub use write::{Model, save, save_with};

use super::{
    ChatTemplate, Checkpoint, Dtype, GenerationConfig, LoadError, ModelFiles, Origin, RawTensor, Source,
    SpecialTokens, TensorInfo, Tokenizer,
};
use names::Place;
use rows::Order;

/// The tensors of a GGUF file under Hugging Face's names and in its row order.
#[derive(Debug)]
pub struct Gguf {
    source: Source,
    places: BTreeMap<String, Place>,
}

impl Checkpoint for Gguf {
    fn names(&self) -> Vec<String> {
        self.places.keys().cloned().collect()
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        self.places.get(name).map(|place| place.span.info.clone())
    }

    fn read(&self, name: &str) -> Result<RawTensor, LoadError> {
        let Place { span, order } = self.places.get(name).ok_or_else(|| self.missing(name))?;
        let stored = self.source.read(span.start, span.len)?;
        let TensorInfo { dtype, shape } = span.info.clone();
        let bytes = order.restore(stored, shape[0]);
        Ok(RawTensor { dtype, shape, bytes })
    }

    fn read_rows(&self, name: &str, rows: Range<usize>) -> Result<RawTensor, LoadError> {
        let Place { span, order } = self.places.get(name).ok_or_else(|| self.missing(name))?;
        let (info, range) = span.info.rows(name, &rows)?;
        let TensorInfo { dtype, shape } = info;
        let bytes = match order {
            Order::Plain => self.source.read(span.start + range.start as u64, range.len() as u64)?,
            // Rows come from anywhere in their head.
            Order::Interleaved { .. } => self.read(name)?.bytes[range].to_vec(),
        };
        Ok(RawTensor { dtype, shape, bytes })
    }
}

/// Opens a GGUF file as a model.
///
/// # Errors
/// [`LoadError::Gguf`] naming what is wrong or unsupported; [`LoadError::Io`].
pub fn open(path: &Path) -> Result<ModelFiles, LoadError> {
    from_source(Source::open(path)?)
}

/// As [`open`], from any bytes.
///
/// # Errors
/// As [`open`].
pub fn from_source(source: Source) -> Result<ModelFiles, LoadError> {
    let path = source.path().to_owned();
    let wrong = |e| LoadError::gguf(&path, e);
    let head = parse(&source)?;
    let config = config::config(&head, rope_factors(&head, &source)?).map_err(wrong)?;
    let tokenizer = read_tokenizer(&head.metadata, &path)?;
    let chat_template = read_template(&head.metadata, tokenizer.as_ref(), &path)?;
    let mut generation = GenerationConfig::from_json(&json!({}), &config)
        .map_err(|source| LoadError::Config { path: path.clone(), source })?;
    if let Some(tokenizer) = &tokenizer {
        generation.eos_token_id = tokenizer.eos();
    }
    let architecture = config::architecture(&head.metadata).map_err(wrong)?;
    let heads = config::heads(&head.metadata, architecture).map_err(wrong)?;
    let places = names::map(&head.tensors, architecture, heads).map_err(wrong)?;
    let origin = Origin::Gguf(path);
    Ok(ModelFiles {
        config,
        generation,
        tokenizer,
        chat_template,
        weights: Arc::new(Gguf { source, places }),
        origin,
    })
}

fn rope_factors(head: &Head, source: &Source) -> Result<Option<Vec<f32>>, LoadError> {
    let Some(span) = head.tensors.get(names::ROPE_FACTORS) else { return Ok(None) };
    let bytes = source.read(span.start, span.len)?;
    let TensorInfo { dtype, shape } = span.info.clone();
    let factors = RawTensor { dtype, shape, bytes }.to_f32(names::ROPE_FACTORS)?;
    config::check_factors(head, &factors).map_err(|e| LoadError::gguf(source.path(), e))?;
    Ok(Some(factors))
}

fn read_tokenizer(metadata: &Metadata, path: &Path) -> Result<Option<Tokenizer>, LoadError> {
    let described = tokenizer::describe(metadata).map_err(|e| LoadError::gguf(path, e))?;
    let Some(described) = described else { return Ok(None) };
    let tokenizer = Tokenizer::from_json(described.json.to_string().as_bytes(), path)?;
    Ok(Some(tokenizer.with_eos(described.eos)))
}

fn read_template(
    metadata: &Metadata,
    tokenizer: Option<&Tokenizer>,
    path: &Path,
) -> Result<Option<ChatTemplate>, LoadError> {
    let wrong = |e| LoadError::gguf(path, e);
    let Some(source) = metadata.text_if("tokenizer.chat_template").map_err(wrong)? else { return Ok(None) };
    let token = |name: &str| {
        let key = format!("tokenizer.ggml.{name}_token_id");
        let id = metadata.usize_if(&key, 0..=u32::MAX as usize).ok()??;
        tokenizer?.token(id as u32)
    };
    let special =
        SpecialTokens { bos: token("bos"), eos: token("eos"), pad: token("padding"), unk: token("unknown") };
    ChatTemplate::new(source, special, path).map(Some)
}

#[cfg(test)]
mod tests;
