//! Standard output and standard error, either of which may be closed or no terminal.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::failure::Failure;

/// Writes a value as indented JSON, and a line end.
pub(crate) fn json(out: &mut dyn Write, value: &impl Serialize) -> Result<(), Failure> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    Ok(writeln!(out)?)
}

/// A reader that has seen enough is no failure.
pub(crate) fn ignore_closed_pipe(result: io::Result<()>) -> Result<(), Failure> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// Says on standard error what went wrong and what to do next.
pub(crate) fn complain(failure: &Failure) {
    let hint = failure.hint();
    let hint = if hint.is_empty() { hint } else { format!("\nhint: {hint}") };
    // Whoever closed standard error does not want to know.
    let _told = writeln!(io::stderr(), "error: {failure}{hint}");
}

/// Writes lines on standard error that are no failure.
pub(crate) fn say(text: &str) {
    let _told = write!(io::stderr(), "{text}");
}

/// Says something on standard error that is no failure.
pub(crate) fn warn(text: &str) {
    let _told = writeln!(io::stderr(), "warning: {text}");
}

/// A bar on standard error that counts to `length`; invisible where standard error is no terminal.
pub(crate) fn progress(length: u64, template: &str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr_with_hz(10));
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style.progress_chars("=> "));
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}
