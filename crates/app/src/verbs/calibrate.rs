//! `whit calibrate`: what a method should be set to on a model.

use clap::{Args, Subcommand};

use super::{calibrate_diffrate, calibrate_tidaldecode};
use crate::context::Context;
use crate::error::AppError;

/// Measure on a model what a method should be set to
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    method: Method,
}

#[derive(Debug, Subcommand)]
enum Method {
    /// The layers in which TidalDecode selects: by how alike the best keys of layers are, and by what is lost
    Tidaldecode(calibrate_tidaldecode::Arguments),
    /// How many tokens each block of a vision transformer prunes and merges at a wanted cost; writes DiffRate's schedule
    Diffrate(calibrate_diffrate::Arguments),
}

pub fn run(arguments: Arguments, context: &Context) -> Result<(), AppError> {
    match arguments.method {
        Method::Tidaldecode(arguments) => calibrate_tidaldecode::run(&arguments, context),
        Method::Diffrate(arguments) => calibrate_diffrate::run(&arguments, context),
    }
}
