//! Ordinary folders of pictures, read and written: what `whit world` writes, and what users bring. A folder has a
//! `metadata.jsonl` that names its files, or one folder for each class, or pictures with captions in `.txt`
//! files beside them.

mod item;
mod read;
pub mod sheet;
mod tensors;
pub mod write;

use std::io;
use std::path::PathBuf;

pub use read::Folder;
pub(crate) use read::planes;
pub use write::{Collection, Export, Format, Written};

/// Why a folder of pictures cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// No picture of that number.
    #[error("there is no picture {number}; the collection has {count}, counted from 0")]
    NoSuchPicture {
        /// The one asked for.
        number: usize,
        /// How many there are.
        count: usize,
    },
    /// A file or folder that cannot be read or written.
    #[error("cannot use {path}: {reason}")]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
    /// A file that is no picture, or a broken one.
    #[error("{path} is no picture that can be read (PNG, JPEG, GIF or WebP): {reason}")]
    NotAPicture {
        /// Which one.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A line of the metadata that does not say what it must.
    #[error("line {line} of {path} is wrong: {reason}")]
    BadLine {
        /// The metadata file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A picture that cannot be stored.
    #[error("cannot encode a picture: {0}")]
    Encode(String),
    /// A pair that cannot be made.
    #[error(transparent)]
    Degrade(#[from] crate::world::degrade::DegradeError),
    /// A folder that holds something else.
    #[error(
        "{0} holds files that were not made with these settings; give another folder, or the settings that its \
         world.json names"
    )]
    Other(PathBuf),
    /// A run that was stopped.
    #[error("stopped; run the same command again to go on in {0}")]
    Stopped(PathBuf),
    /// Nothing to learn from.
    #[error(
        "{0} holds no pictures; it needs a metadata.jsonl with a `file_name` on each line, a folder of pictures \
         for each class, or pictures"
    )]
    Empty(PathBuf),
}

impl FolderError {
    /// Makes an error of a failed use of a file.
    pub(crate) fn file(path: &std::path::Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |reason| Self::File { path, reason }
    }
}
