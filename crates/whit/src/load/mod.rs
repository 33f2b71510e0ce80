//! Model folders, safetensors, GGUF and tokenizers; every way a file can be wrong has a named error.
//!
//! [`open`] finds a model, checks everything about it that can be checked without reading its tensors, and
//! returns [`ModelFiles`]: the configuration in Hugging Face's terms, the tokenizer, the chat template, and a
//! [`Checkpoint`] from which tensors are read one by one.

mod blocks;
mod chat;
mod config;
pub mod embedded;
mod error;
pub(crate) mod file;
mod folder;
mod generation;
pub mod gguf;
mod hub;
pub mod image;
pub mod packed;
pub mod safetensors;
mod tensor;
mod timm;
mod tokenizer;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use chat::{ChatTemplate, Message, SpecialTokens};
pub use config::{ConfigError, Settings};
pub use error::LoadError;
pub use file::{Source, write_atomic};
pub use generation::GenerationConfig;
pub use gguf::GgufError;
pub use hub::HubError;
pub use safetensors::{Safetensors, SafetensorsError};
pub use tensor::{Checkpoint, Dtype, RawTensor, TensorInfo};
#[cfg(test)]
pub(crate) use tokenizer::tests::byte_level_json;
pub use tokenizer::{Encoded, Tokenizer};

/// How [`open`] may find a model.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Never use the network.
    pub offline: bool,
    /// Access token for the hub; without it `HF_TOKEN` or the token file of the cache counts.
    pub token: Option<String>,
    /// Branch, tag or commit on the hub; `main` without it.
    pub revision: Option<String>,
    /// Show no progress of downloads.
    pub quiet: bool,
}

/// Everything that belongs to a model. The tensors are still on the disk.
#[derive(Debug)]
pub struct ModelFiles {
    /// The configuration in Hugging Face's terms, also for GGUF files.
    pub config: serde_json::Value,
    /// The sampling settings the authors recommend.
    pub generation: GenerationConfig,
    /// The tokenizer, if the model has one.
    pub tokenizer: Option<Tokenizer>,
    /// The chat template, if the model has one.
    pub chat_template: Option<ChatTemplate>,
    /// The tensors.
    pub weights: Arc<dyn Checkpoint>,
    /// Where the model came from.
    pub origin: Origin,
}

/// Where a model came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A folder in the Hugging Face layout.
    Folder(PathBuf),
    /// A GGUF file.
    Gguf(PathBuf),
    /// A model of the hub, in the local cache.
    Hub {
        /// `owner/name`.
        name: String,
        /// Its folder in the cache.
        folder: PathBuf,
    },
}

impl Origin {
    /// The file that holds the configuration.
    pub fn config_path(&self) -> PathBuf {
        match self {
            Self::Folder(folder) | Self::Hub { folder, .. } => folder.join("config.json"),
            Self::Gguf(path) => path.clone(),
        }
    }

    /// The folder in which the model's files lie together, if they do.
    pub fn folder(&self) -> Option<&Path> {
        match self {
            Self::Folder(folder) | Self::Hub { folder, .. } => Some(folder),
            Self::Gguf(_) => None,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) | Self::Gguf(path) => path.display().fmt(f),
            Self::Hub { name, .. } => f.write_str(name),
        }
    }
}

/// Opens a model: a folder, a `.gguf` file, or the hub name `owner/name`.
///
/// What exists on the disk under the name is preferred to the hub.
///
/// # Errors
/// [`LoadError`] saying which file is at fault, in what way, and what to do.
pub fn open(source: &str, options: &Options) -> Result<ModelFiles, LoadError> {
    let path = Path::new(source);
    if path.is_dir() {
        return open_folder(path, Origin::Folder(path.to_owned()));
    }
    if path.exists() || source.ends_with(".gguf") {
        return open_file(path);
    }
    if !hub::is_name(source) {
        return Err(LoadError::UnknownSource { source_name: source.to_owned() });
    }
    let folder = hub::Hub::new(options)?.locate(source, options.revision.as_deref())?;
    open_folder(&folder, Origin::Hub { name: source.to_owned(), folder: folder.clone() })
}

/// A folder in the Hugging Face layout, or one whose only model is a GGUF file.
fn open_folder(path: &Path, origin: Origin) -> Result<ModelFiles, LoadError> {
    if !path.join("config.json").exists()
        && let [file] = folder::files_ending(path, ".gguf")?.as_slice()
    {
        return gguf::open(file);
    }
    folder::open(path, origin)
}

fn open_file(path: &Path) -> Result<ModelFiles, LoadError> {
    if path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf")) {
        return gguf::open(path);
    }
    let reason = "give the folder that holds config.json, or a .gguf file".into();
    Err(LoadError::NotAModel { path: path.to_owned(), reason })
}
