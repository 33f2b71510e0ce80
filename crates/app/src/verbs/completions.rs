//! `whit completions`: scripts that complete the command line.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::context::Context;
use crate::error::AppError;

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The shell
    shell: Shell,
}

pub fn run(arguments: Arguments, _: &Context) -> Result<(), AppError> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut super::Cli::command(), "whit", &mut script);
    crate::output::text(&String::from_utf8_lossy(&script))
}
