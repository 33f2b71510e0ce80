//! Training: the loop, optimisers and schedules, checkpoints, and the recipes of the shipped models.
//!
//! A [`recipes::Recipe`] says what is trained on what; [`run::Run`] does it. Everything random is a
//! function of the seed and the step's number, so a run that was stopped and resumed equals one
//! that was not, bit for bit.

pub mod align;
pub mod card;
pub mod checkpoint;
pub mod distill;
pub mod drafter;
pub mod evaluate;
pub mod exits;
pub mod export;
pub mod induction;
pub mod language;
pub mod log;
pub mod mae;
pub mod optimizer;
pub mod pair;
pub mod parameters;
pub mod plot;
pub mod rates;
pub mod recipes;
pub mod run;
pub mod schedule;
pub mod segment;
pub mod sentences;
pub mod sparsity;
pub mod squeeze;
pub mod vision;
pub mod vocabulary;
pub mod windows;

use std::path::{Path, PathBuf};

use crate::load::{LoadError, write_atomic};
use crate::world::corpus::CorpusError;

/// Why a model could not be trained.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A setting that cannot work, and why.
    #[error("{0}")]
    Setting(String),
    /// The text could not be read.
    #[error(transparent)]
    Corpus(#[from] CorpusError),
    /// A model or checkpoint file could not be read or written.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The network could not be built.
    #[error(transparent)]
    Model(#[from] crate::models::ModelError),
    /// The tokenizer could not be trained or used.
    #[error("the tokenizer failed: {0}")]
    Tokenizer(#[source] tokenizers::Error),
    /// A file of the run could not be read or written.
    #[error("cannot {action} {path}: {reason}")]
    File {
        /// What was attempted: `read`, `write`.
        action: &'static str,
        /// Which one.
        path: PathBuf,
        /// What the system said.
        reason: std::io::Error,
    },
    /// A checkpoint that belongs to another run.
    #[error("{path} is of another run ({what} differs); choose another --out, or leave --resume out")]
    OtherRun {
        /// The checkpoint.
        path: PathBuf,
        /// What differs.
        what: String,
    },
    /// The loss or a gradient is no longer a number.
    #[error(
        "the training diverged at step {step} (loss {loss}, gradient norm {norm}); lower the learning rate"
    )]
    Diverged {
        /// The step, from 0.
        step: u64,
        /// The loss there.
        loss: f32,
        /// The norm of the gradients there.
        norm: f32,
    },
}

impl TrainError {
    /// Names the file and the action that failed.
    fn file<'a>(action: &'static str, path: &'a Path) -> impl Fn(std::io::Error) -> Self + 'a {
        move |reason| Self::File { action, path: path.to_path_buf(), reason }
    }
}

/// Writes a whole file, with the folder that it is in; it is never half there.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(TrainError::file("create", folder))?;
    }
    let failed = |reason| LoadError::io("write", path, reason);
    Ok(write_atomic(path, |file| file.write_all(bytes).map_err(failed))?)
}
