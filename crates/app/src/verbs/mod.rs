//! The verbs: one file each, listed by one word below. A verb's file has `Arguments`, a set of
//! command-line arguments whose doc comment is the help, and `run(Arguments, &Context)`.

use clap::{Parser, Subcommand};

mod bench_squeeze;
mod calibrate_diffrate;
mod calibrate_tidaldecode;
mod tour;

use crate::context::{Context, Global};
use crate::error::AppError;

/// Makes the `mod` lines, the subcommands and their dispatch from one word a verb.
macro_rules! verbs {
    ($($verb:ident)*) => {
        $(mod $verb;)*

        #[derive(Debug, Subcommand)]
        #[expect(non_camel_case_types, reason = "each is named like its module")]
        enum Verb { $($verb($verb::Arguments),)* }

        impl Verb {
            fn run(self, context: &Context) -> Result<(), AppError> {
                match self { $(Self::$verb(arguments) => $verb::run(arguments, context),)* }
            }
        }
    };
}

verbs! {
    generate chat bench calibrate shrink squeeze classify embed forward train world methods explain doctor docs completions
}

/// One engine for generative models in which doing less work is a switch.
#[derive(Debug, Parser)]
#[command(name = "whit", version, infer_subcommands = true)]
struct Cli {
    #[command(flatten)]
    global: Global,

    #[command(subcommand)]
    verb: Option<Verb>,
}

/// Reads the command line and runs what it asks for.
pub fn run() -> Result<(), AppError> {
    let cli = Cli::parse();
    let context = Context::new(cli.global)?;
    match cli.verb {
        Some(verb) => verb.run(&context),
        None => tour::run(&context),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_every_verb_has_a_help() {
        let command = Cli::command();
        command.clone().debug_assert();
        for verb in command.get_subcommands() {
            assert!(verb.get_about().is_some(), "{} has no help", verb.get_name());
        }
    }
}
