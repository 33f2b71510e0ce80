//! What can go wrong in the command, and how it ends: exit code 2 for bad input, 130 for an
//! interrupt, 1 for what is our fault or the machine's.

use std::io;
use std::process::ExitCode;

use whit::embed::EmbedError;
use whit::generate::GenerateError;
use whit::generate::text::TextError;
use whit::load::LoadError;
use whit::load::image::ImageError;
use whit::methods::MethodError;
use whit::models::ModelError;
use whit::models::forward::ForwardError;
use whit::shrink::ShrinkError;
use whit::squeeze::SqueezeError;
use whit::train::TrainError;
use whit::world::WorldError;
use whit::world::folder::FolderError;

/// An error of the command: those of the library, and its own.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// Methods that were refused.
    #[error(transparent)]
    Method(#[from] MethodError),
    /// A model that could not be trained.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// A model's files that cannot be read, or a file that cannot be written.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A model that cannot be built.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A text model that cannot be opened.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A request that cannot be carried out.
    #[error(transparent)]
    Generate(#[from] GenerateError),
    /// Weights that cannot be changed.
    #[error(transparent)]
    Shrink(#[from] ShrinkError),
    /// A text that cannot be squeezed.
    #[error(transparent)]
    Squeeze(#[from] SqueezeError),
    /// Inputs of a forward pass that were refused.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// What cannot be embedded or classified.
    #[error(transparent)]
    Embed(#[from] EmbedError),
    /// A world that cannot be made.
    #[error(transparent)]
    World(#[from] WorldError),
    /// A folder of pictures that cannot be read or written.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// Something else that was asked for wrongly.
    #[error("{message}")]
    Input {
        /// What is wrong.
        message: String,
        /// What to do next.
        hint: String,
    },
    /// A file that cannot be read or written.
    #[error("cannot {action} {path}: {reason}")]
    File {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: String,
        /// The system's reason.
        reason: io::Error,
    },
    /// Standard output cannot be written.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

impl AppError {
    /// An error in what was asked for, with what to do next.
    pub fn input(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Input { message: message.into(), hint: hint.into() }
    }

    /// Makes an error of an image that cannot be used.
    pub fn image(reason: ImageError) -> Self {
        Self::Embed(reason.into())
    }

    /// Makes an error of a failed read or write of a file.
    pub fn file(action: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.display().to_string();
        move |reason| Self::File { action, path, reason }
    }

    /// What to do next, if there is something to say.
    fn hint(&self) -> Option<String> {
        match self {
            Self::Method(error) => Some(error.hint()),
            Self::Shrink(error) => error.hint(),
            Self::Embed(error) => error.hint(),
            Self::Input { hint, .. } => Some(hint.clone()),
            Self::File { reason, .. } if reason.kind() == io::ErrorKind::NotFound => {
                Some("check the spelling and the current folder".into())
            }
            Self::File { reason, .. } if reason.kind() == io::ErrorKind::PermissionDenied => {
                Some("choose a place that you may write to, or change its permissions".into())
            }
            _ => None,
        }
    }

    fn code(&self) -> u8 {
        match self {
            Self::Output(_) => 1,
            Self::Interrupted
            | Self::Folder(FolderError::Stopped(_))
            | Self::Load(LoadError::Interrupted)
            | Self::Shrink(ShrinkError::Load(LoadError::Interrupted)) => 130,
            _ => 2,
        }
    }

    /// Says what went wrong on standard error and gives the exit code. A reader that closed the pipe
    /// early has what it wanted, so that is no failure.
    pub fn report(&self) -> ExitCode {
        if matches!(self, Self::Output(reason) if reason.kind() == io::ErrorKind::BrokenPipe) {
            return ExitCode::SUCCESS;
        }
        eprintln!("error: {self}");
        if let Some(hint) = self.hint() {
            eprintln!("hint: {hint}");
        }
        ExitCode::from(self.code())
    }
}
