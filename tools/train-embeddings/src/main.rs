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
mod words;

use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::Args;

fn main() -> ExitCode {
    let args = Args::parse();
    training::program::run(|stop| {
        let summary = args.run(stop)?;
        let text =
            if args.json() { format!("{}\n", summary.json()) } else { format!("\n{}", summary.text()) };
        training::program::report(&text, summary.steps)?;
        Ok(summary.complete())
    })
}
