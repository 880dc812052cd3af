//! How a training program begins and ends: Ctrl-C, errors for a person, the last line.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};

use crate::people::note;

/// Exit status of a run that Ctrl-C ended, as a shell reports it.
const INTERRUPTED: u8 = 130;

/// Runs a program, which is told by the flag when Ctrl-C asks it to stop, and says whether all was done. Asked twice, the
/// process ends at once: what the last commit holds is safe. An error is told with its causes and, from the store, a hint.
pub fn run(program: impl FnOnce(&Arc<AtomicBool>) -> Result<bool>) -> ExitCode {
    match listen().and_then(|stop| program(&stop)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(INTERRUPTED),
        Err(error) => {
            note(&format!("error: {}", sentence(&error)));
            let hint = error.chain().find_map(|cause| cause.downcast_ref::<paramstore::Error>());
            if let Some(hint) = hint.map(paramstore::Error::hint).filter(|hint| !hint.is_empty()) {
                note(&format!("hint: {hint}"));
            }
            ExitCode::FAILURE
        }
    }
}

fn listen() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&stop);
    ctrlc::set_handler(move || {
        if asked.swap(true, Ordering::Relaxed) {
            std::process::exit(i32::from(INTERRUPTED));
        }
    })
    .context("cannot listen for Ctrl-C")?;
    Ok(stop)
}

/// An error and its causes, without those that a message repeats at its end already.
fn sentence(error: &anyhow::Error) -> String {
    error.chain().skip(1).map(ToString::to_string).fold(error.to_string(), |told, cause| {
        if told.ends_with(&cause) { told } else { told + ": " + &cause }
    })
}

/// Prints a report on standard output, where a reader that went away is no error, and on standard error what to do next
/// after `done` of `total` steps.
///
/// # Errors
/// If standard output cannot be written to.
pub fn report(text: &str, (done, total): (u64, u64)) -> Result<()> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        other => other.context("cannot write the report")?,
    }
    note(&if done >= total {
        format!("\nAll {done} steps are done. The same command with --steps {} continues the run.", 2 * done)
    } else {
        format!("\nStopped and committed at step {done} of {total}. The same command continues the run.")
    });
    Ok(())
}
