//! Trains embedding tables that live in a paramstore: words by skip-gram or GloVe, knowledge graphs by ComplEx, DistMult or
//! TransE.
//!
//! A step gathers the rows that a batch names, computes their gradients, and hands them back; the store updates rows and
//! optimizer state. Nothing of the tables is kept between steps but what the store's budget holds.

mod cli;
mod graph;
mod math;
mod named;
mod num;
mod random;
mod ranks;
mod run;
mod units;
mod words;

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use clap::Parser as _;

use crate::cli::Args;
use crate::run::report::{Summary, note};

/// Exit status of a run that Ctrl-C ended, as a shell reports it.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(code) => code,
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

/// An error and its causes, without those that a message repeats at its end already.
fn sentence(error: &anyhow::Error) -> String {
    error.chain().skip(1).map(ToString::to_string).fold(error.to_string(), |told, cause| {
        if told.ends_with(&cause) { told } else { told + ": " + &cause }
    })
}

fn run(args: &Args) -> Result<ExitCode> {
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&stop);
    ctrlc::set_handler(move || {
        if asked.swap(true, Ordering::Relaxed) {
            // Asked twice: what the last commit holds is safe.
            std::process::exit(i32::from(INTERRUPTED));
        }
    })
    .context("cannot listen for Ctrl-C")?;
    let summary = args.run(&stop)?;
    print(args.json(), &summary).context("cannot write the report")?;
    Ok(if summary.complete() { ExitCode::SUCCESS } else { ExitCode::from(INTERRUPTED) })
}

/// Prints the report on standard output, and what to do next on standard error.
fn print(json: bool, summary: &Summary) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    let written =
        if json { writeln!(out, "{}", summary.json()) } else { write!(out, "\n{}", summary.text()) };
    match written {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        other => other?,
    }
    let (done, total) = summary.steps;
    note(&if summary.complete() {
        format!("\nAll {done} steps are done. The same command with --steps {} continues the run.", 2 * done)
    } else {
        format!("\nStopped and committed at step {done} of {total}. The same command continues the run.")
    });
    Ok(())
}
