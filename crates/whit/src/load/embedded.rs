//! A model that a program carries in itself.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};

use super::{GenerationConfig, LoadError, ModelFiles, Origin, Safetensors, Source, Tokenizer};

/// The files of a model as bytes.
#[derive(Clone, Copy, Debug)]
pub struct Embedded {
    /// Its name, for messages.
    pub name: &'static str,
    /// `config.json`.
    pub config: &'static [u8],
    /// `model.safetensors`.
    pub weights: &'static [u8],
    /// `tokenizer.json`, where it reads texts.
    pub tokenizer: Option<&'static [u8]>,
}

impl Embedded {
    /// Opens it like a folder.
    ///
    /// # Errors
    /// As [`open`](super::open).
    pub fn open(&self) -> Result<ModelFiles, LoadError> {
        let path = |file: &str| PathBuf::from(self.name).join(file);
        let config: Value = serde_json::from_slice(self.config)
            .map_err(|source| LoadError::Json { path: path("config.json"), source })?;
        let generation = GenerationConfig::from_json(&json!({}), &config)
            .map_err(|source| LoadError::Config { path: path("config.json"), source })?;
        let tokenizer = |bytes| Tokenizer::from_source(&Source::memory("tokenizer.json", bytes));
        let tokenizer = self.tokenizer.map(tokenizer).transpose()?;
        let tokenizer =
            tokenizer.map(|tokenizer| tokenizer.with_eos(generation.eos_token_id.iter().copied()));
        let weights = Safetensors::from_source(Source::memory("model.safetensors", self.weights))?;
        Ok(ModelFiles {
            config,
            generation,
            tokenizer,
            chat_template: None,
            weights: Arc::new(weights),
            origin: Origin::Folder(PathBuf::from(self.name)),
        })
    }
}
