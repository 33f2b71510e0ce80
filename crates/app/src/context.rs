//! What every verb is given: the global options, resolved.

use clap::{ArgAction, Args};

use crate::device::DeviceName;
use crate::error::AppError;
use crate::output;

/// The options that all verbs share.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// Write JSON for programs instead of text for people
    #[arg(long, global = true)]
    pub json: bool,

    /// Threads to compute with [default: all, or WHIT_THREADS]
    #[arg(long, global = true, value_name = "COUNT")]
    pub threads: Option<usize>,

    /// Say more; -vv says even more
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,

    /// Where to compute
    #[arg(long, global = true, value_enum, default_value_t)]
    pub device: DeviceName,
}

/// The resolved global options.
#[derive(Clone, Debug)]
pub struct Context {
    /// Write JSON for programs instead of text for people.
    pub json: bool,
    /// 0 says what matters, 1 more, 2 everything.
    pub verbosity: u8,
    /// Where to compute.
    pub device: DeviceName,
}

impl Context {
    /// Checks the options and applies those that hold for the whole process.
    pub fn new(global: Global) -> Result<Self, AppError> {
        if let Some(count) = global.threads {
            set_threads(count)?;
        }
        Ok(Self { json: global.json, verbosity: global.verbose, device: global.device })
    }

    /// Writes a result: as JSON if that is wanted, else as text.
    pub fn emit(&self, value: &impl serde::Serialize, text: impl FnOnce() -> String) -> Result<(), AppError> {
        if self.json { output::json(value) } else { output::text(&text()) }
    }
}

fn set_threads(count: usize) -> Result<(), AppError> {
    const MOST: usize = 1024;
    if !(1..=MOST).contains(&count) {
        let message = format!("--threads does not take {count}");
        return Err(AppError::input(message, format!("give a count from 1 to {MOST}")));
    }
    whit_kernels::parallel::set_threads(count);
    Ok(())
}
