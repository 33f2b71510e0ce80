//! The `whit` command.

mod companions;
mod context;
mod device;
mod drafter;
mod embedded;
mod error;
mod interrupt;
mod machine;
mod model;
mod output;
mod sampling;
mod scenes;
mod search;
mod trace;
mod verbs;

use std::process::ExitCode;

/// Large buffers are reused instead of page-faulted.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match verbs::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(),
    }
}
