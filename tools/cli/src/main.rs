//! `paramstore`: creates, inspects, compares, verifies, repairs, keeps, plans and measures parameter stores.

mod arguments;
mod bench;
mod checkpoint;
mod convert;
mod create;
mod diff;
mod export;
mod failure;
mod human;
mod hyperparameters;
mod import;
mod inspect;
mod plan;
mod quantity;
mod repair;
mod report;
mod schema;
mod shell;
mod show;
mod source;
mod style;
mod table;
mod terminal;
mod top;
mod verify;
mod whole;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

use arguments::{Arguments, Command};
use failure::Failure;

/// What a command has to say about the store beside its output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Sound,
    Damaged,
    /// Two stores are not the same.
    Different,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version go to standard output and are no errors; a closed pipe is none either.
            let _printed = error.print();
            return ExitCode::from(if error.use_stderr() { failure::USAGE } else { 0 });
        }
    };
    let mut out = io::BufWriter::new(io::stdout().lock());
    let result = run(&arguments.command, &mut out).and_then(|verdict| {
        terminal::ignore_closed_pipe(out.flush())?;
        Ok(verdict)
    });
    match result {
        Ok(Verdict::Sound) => ExitCode::SUCCESS,
        Ok(Verdict::Damaged) => ExitCode::from(failure::DAMAGED),
        Ok(Verdict::Different) => ExitCode::from(failure::DIFFERENT),
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            // What was found before the failure comes first.
            let _flushed = out.flush();
            terminal::complain(&failure);
            ExitCode::from(failure.status())
        }
    }
}

fn run(command: &Command, out: &mut dyn Write) -> Result<Verdict, Failure> {
    match command {
        Command::Create(arguments) => create::run(arguments, out),
        Command::Inspect(arguments) => inspect::run(arguments, out),
        Command::Verify(arguments) => verify::run(arguments, out),
        Command::Repair(arguments) => repair::run(arguments, out),
        Command::Checkpoint(arguments) => checkpoint::run(&arguments.command, out),
        Command::Convert(arguments) => convert::run(arguments, out),
        Command::Import(arguments) => import::run(arguments, out),
        Command::Export(arguments) => export::run(arguments, out),
        Command::Plan(arguments) => plan::run(arguments, out),
        Command::Bench(arguments) => bench::run(arguments, out),
        Command::Show(arguments) => show::run(arguments, out),
        Command::Diff(arguments) => diff::run(arguments, out),
        Command::Completions(arguments) => shell::completions(arguments, out),
        Command::Man(arguments) => shell::man(arguments, out),
        Command::Top(arguments) => top::run(arguments, out),
        Command::Report(arguments) => report::run(arguments, out),
    }
}
