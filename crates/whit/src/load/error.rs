//! Everything that can be wrong with a model on disk, each with what to do about it.

use std::path::{Path, PathBuf};

use super::{ConfigError, GgufError, HubError, SafetensorsError};

/// Why a model, or a part of one, could not be loaded or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// Somebody asked to stop; nothing was written.
    #[error("interrupted; nothing was written")]
    Interrupted,
    /// The operating system refused to read or write.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was attempted, as a verb phrase: `open`, `read`, `write`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file is larger than any honest file of its kind.
    #[error(
        "{path} has {bytes} bytes; a file of this kind may have {limit} at most, so it is not what its name says"
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The largest size accepted.
        limit: u64,
    },
    /// A read beyond the end of the file.
    #[error(
        "{path} ends at byte {bytes}, but bytes {start}..{end} were asked for: the file is truncated, fetch it again"
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// First byte wanted.
        start: u64,
        /// One past the last byte wanted.
        end: u64,
    },
    /// The file is not the JSON that it should be.
    #[error(
        "{path} is not valid JSON for its purpose: {source}; fetch the file again or correct it at that place"
    )]
    Json {
        /// The file.
        path: PathBuf,
        /// The parser's reason with line and column.
        source: serde_json::Error,
    },
    /// A safetensors file breaks its format.
    #[error("{path}: {source}")]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: SafetensorsError,
    },
    /// A GGUF file breaks its format or holds something unsupported.
    #[error("{path}: {source}")]
    Gguf {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Box<GgufError>,
    },
    /// A configuration value is missing, of the wrong type or out of range.
    #[error("{path}: {source}")]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: ConfigError,
    },
    /// The tokenizer file cannot be used.
    #[error("{path} is not a usable tokenizer: {reason}; fetch it again from the model's source")]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// Text could not be encoded or decoded.
    #[error("the tokenizer failed on this input: {reason}")]
    Encoding {
        /// The reason.
        reason: String,
    },
    /// The tokenizer and the model disagree about the vocabulary.
    #[error(
        "the tokenizer has tokens up to id {highest}, but the model's vocabulary has {vocab_size} rows; \
         they do not belong together"
    )]
    Vocabulary {
        /// Highest token id of the tokenizer.
        highest: u32,
        /// Rows of the embedding.
        vocab_size: usize,
    },
    /// The chat template does not compile or does not render.
    #[error("the chat template of {path} {stage}: {reason}; try plain generation without it")]
    Template {
        /// Where the template came from.
        path: PathBuf,
        /// `does not compile` or `does not render`.
        stage: &'static str,
        /// The engine's reason.
        reason: String,
    },
    /// The checkpoint has no tensor of this name.
    #[error("the checkpoint has no tensor {name:?}{}", hint(.similar))]
    MissingTensor {
        /// The name asked for.
        name: String,
        /// The most similar name that exists.
        similar: Option<String>,
    },
    /// A tensor has another shape than the model needs.
    #[error(
        "tensor {name:?} has shape {found:?}, the model needs {wanted:?}: config and weights do not belong together"
    )]
    Misshapen {
        /// The tensor.
        name: String,
        /// Its shape in the file.
        found: Vec<usize>,
        /// The shape needed.
        wanted: Vec<usize>,
    },
    /// A tensor's element type cannot become floating point here.
    #[error("tensor {name:?} holds {dtype} values, which cannot be used as weights; wanted {wanted}")]
    WrongDtype {
        /// The tensor.
        name: String,
        /// Its type.
        dtype: super::Dtype,
        /// The types that would do.
        wanted: &'static str,
    },
    /// The path holds no model.
    #[error("{path} is not a model: {reason}")]
    NotAModel {
        /// The path.
        path: PathBuf,
        /// What is missing.
        reason: String,
    },
    /// The name is neither a path nor `owner/name`.
    #[error("{source_name:?} is no model folder, no .gguf file and no hub name of the form owner/name")]
    UnknownSource {
        /// What was given.
        source_name: String,
    },
    /// The hub or its local cache failed.
    #[error(transparent)]
    Hub(#[from] HubError),
}

fn hint(similar: &Option<String>) -> String {
    match similar {
        Some(name) => format!("; the most similar is {name:?}"),
        None => " or anything like it".to_owned(),
    }
}

impl LoadError {
    /// The system refused to `action` (read, write, create ...) the file at `path`.
    pub fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }

    pub(crate) fn safetensors(path: &Path, source: SafetensorsError) -> Self {
        Self::Safetensors { path: path.to_owned(), source }
    }

    pub(crate) fn gguf(path: &Path, source: GgufError) -> Self {
        Self::Gguf { path: path.to_owned(), source: Box::new(source) }
    }

    pub(crate) fn tokenizer(path: &Path, reason: impl ToString) -> Self {
        Self::Tokenizer { path: path.to_owned(), reason: reason.to_string() }
    }
}
