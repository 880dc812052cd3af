//! Long tests of this repository, which take minutes to hours and so are no part of `cargo test`.

mod calls;
mod crash;
mod device;
mod kept;
mod kills;
mod powercut;
mod promise;
mod rng;
mod training;
mod worker;

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
    /// Kills a training process with SIGKILL at random times and system calls, and compares what it leaves with a
    /// training that nobody interrupted.
    Kills(kills::Kills),
    /// Takes the power away beneath a training process on ext4, XFS and btrfs in image files, and compares likewise.
    Powercut(powercut::PowerCut),
    /// Trains until it is killed.
    #[command(hide = true)]
    Worker(worker::Work),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Crash(arguments) => crash::crash(&arguments).map_err(|error| error.to_string()),
        Command::Barriers(arguments) => crash::barriers(&arguments).map_err(|error| error.to_string()),
        Command::Kills(arguments) => kills::kills(&arguments),
        Command::Powercut(arguments) => powercut::powercut(&arguments),
        Command::Worker(arguments) => Ok(worker::work(&arguments)),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_of_the_documents_is_understood() {
        documents::check("paramstore-xtask", 5, |words| Arguments::try_parse_from(words).map(drop));
    }
}
