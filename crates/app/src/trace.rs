//! `--trace` of the verbs that look at images.

use std::path::{Path, PathBuf};

use whit::embed::trace::{self, Trace};
use whit::embed::{Classified, Images};
use whit::load::image::Picture;
use whit::load::{LoadError, write_atomic};
use whit::methods::Plan;
use whit::methods::reducers::{Passes, Recorder};
use whit::nn::reduce::Reduce;

use crate::error::AppError;

/// The name of the page in a folder.
const PAGE: &str = "index.html";

/// Writes down what methods do to images, and makes a page of it, or a folder of page and maps.
#[derive(Debug)]
pub struct Tracing {
    recorder: Recorder,
    trace: Trace,
    path: PathBuf,
    folder: bool,
}

/// Images with their names and what was found of them without and with methods.
pub type Found<'a> = (&'a str, &'a Picture, [Classified; 2]);

impl Tracing {
    /// A trace of `model`, to be written to `path`: a page, or where that is a folder or ends like one a folder.
    pub fn new(path: &Path, model: &str, images: &Images) -> Result<Self, AppError> {
        let folder = path.is_dir() || path.as_os_str().to_string_lossy().ends_with(['/', '\\']);
        let within = if folder { Some(path) } else { path.parent() };
        let within = within.filter(|within| !within.as_os_str().is_empty());
        if folder {
            std::fs::create_dir_all(path).map_err(AppError::file("write", path))?;
        } else if let Some(within) = within.filter(|within| !within.is_dir()) {
            let message = format!("--trace cannot write into {}: there is no such folder", within.display());
            return Err(AppError::input(message, "make the folder, or write somewhere else"));
        }
        let config = images.model().config().clone();
        let recorder = Recorder::new(config.layers);
        Ok(Self { recorder, trace: Trace::new(model.to_owned(), config), path: path.to_owned(), folder })
    }

    /// A pass that is written down.
    pub fn begin(&self, passes: &Passes<'_>, images: usize) -> Box<dyn Reduce> {
        passes.watched(images, &self.recorder)
    }

    /// Takes what the passes since the last call did to these images.
    pub fn take<'a>(&mut self, found: impl IntoIterator<Item = Found<'a>>, images: &Images) {
        for ((name, picture, classes), history) in found.into_iter().zip(self.recorder.take()) {
            self.trace.add(name.to_owned(), &images.preprocessor().view(picture), history, classes);
        }
    }

    /// Writes the page, and into a folder the maps too.
    pub fn write(&self, plan: &Plan) -> Result<(), AppError> {
        let page = trace::page(&self.trace, plan).map_err(AppError::image)?;
        if !self.folder {
            return write(&self.path, page.as_bytes());
        }
        write(&self.path.join(PAGE), page.as_bytes())?;
        let files = self.trace.files().map_err(AppError::image)?;
        files.iter().try_for_each(|(name, bytes)| write(&self.path.join(name), bytes))
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), AppError> {
    let failed = |reason| LoadError::io("write", path, reason);
    Ok(write_atomic(path, |file| file.write_all(bytes).map_err(failed))?)
}
