//! `whit docs`: writes what is generated from the methods' SPECs.

use std::fs;
use std::path::{Path, PathBuf};

use whit::methods::page;

use crate::context::Context;
use crate::error::AppError;

/// Write the generated pages: docs/methods/*.md and the README's table of methods
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The root of the repository
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    root: PathBuf,
}

pub fn run(arguments: Arguments, context: &Context) -> Result<(), AppError> {
    let readme = arguments.root.join("README.md");
    let spliced = page::splice(&read(&readme)?).ok_or_else(|| {
        let message = format!("{} has no place for the table of methods", readme.display());
        AppError::input(message, "give the root of Whit's repository with --root")
    })?;
    let mut written = vec![write(&readme, &spliced)?];
    for (path, contents) in page::pages() {
        written.push(write(&arguments.root.join(path), &contents)?);
    }
    context.emit(&written, || written.join("\n"))
}

fn read(path: &Path) -> Result<String, AppError> {
    fs::read_to_string(path).map_err(AppError::file("read", path))
}

fn write(path: &Path, contents: &str) -> Result<String, AppError> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(AppError::file("write", folder))?;
    }
    let temporary = path.with_extension("md.tmp");
    fs::write(&temporary, contents).map_err(AppError::file("write", &temporary))?;
    fs::rename(&temporary, path).map_err(AppError::file("write", path))?;
    Ok(path.display().to_string())
}
