//! Ctrl-C: the first asks long work to stop at the next safe place, the second ends the process.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use crate::error::AppError;

/// The exit code of an interrupted process.
const CODE: i32 = 130;

/// The flag that Ctrl-C raises; the first call installs the handler.
pub fn flag() -> Arc<AtomicBool> {
    static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    let flag = FLAG.get_or_init(|| {
        let raised = Arc::new(AtomicBool::new(false));
        let handler = Arc::clone(&raised);
        let installed = ctrlc::set_handler(move || {
            if handler.swap(true, Ordering::SeqCst) {
                std::process::exit(CODE);
            }
        });
        if installed.is_err() {
            eprintln!("warning: Ctrl-C will end the process at once");
        }
        raised
    });
    Arc::clone(flag)
}

/// An error if Ctrl-C was pressed since the flag was last lowered.
pub fn check() -> Result<(), AppError> {
    if flag().load(Ordering::SeqCst) { Err(AppError::Interrupted) } else { Ok(()) }
}

/// Ends the process if Ctrl-C was pressed: for work that has nothing to put in order.
pub fn exit_if_pressed() {
    if flag().load(Ordering::SeqCst) {
        eprintln!("error: {}", AppError::Interrupted);
        std::process::exit(CODE);
    }
}
