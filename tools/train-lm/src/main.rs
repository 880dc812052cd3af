//! Trains a GPT-style decoder whose parameters and optimizer state live in a paramstore.
//!
//! Only one part of the model is in memory at a time. The forward pass keeps what flows between the parts; the
//! backward pass computes each part again, from the last to the first, and hands its gradients to the store, which
//! updates parameters and moments at once while the next part is being read.

mod args;
mod config;
mod data;
mod model;
mod ops;
mod pass;
mod record;
mod report;
mod sample;
mod schedule;
mod setup;
mod start;
mod tokenizer;
mod train;
mod weights;

use std::process::ExitCode;

use clap::Parser as _;

use crate::args::Args;

fn main() -> ExitCode {
    let args = Args::parse();
    training::program::run(|stop| {
        let summary = train::run(&args, stop)?;
        let text = if args.json { format!("{}\n", summary.json()) } else { format!("\n{}", summary.text()) };
        training::program::report(&text, summary.steps)?;
        Ok(summary.complete())
    })
}
