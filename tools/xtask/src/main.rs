//! Long tests of this repository, which take minutes to hours and so are no part of `cargo test`.

mod crash;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about, version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Cuts the power of a simulated disk at random, and compares what the store makes of it with a model.
    Crash(crash::Crash),
    /// Leaves out each barrier of the store in turn; a campaign has to notice.
    Barriers(crash::Barriers),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Crash(arguments) => crash::crash(&arguments),
        Command::Barriers(arguments) => crash::barriers(&arguments),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}
