//! `paramstore bench`: measurements of this machine, each beside its limit in the same run.

mod machine;
mod raw_copy;
mod report;
mod rows;
mod scratch;
mod sweep;

use std::io::Write;

use crate::Verdict;
use crate::arguments::{BenchArguments, BenchCommand};
use crate::failure::Failure;

pub(crate) fn run(arguments: &BenchArguments, out: &mut dyn Write) -> Result<Verdict, Failure> {
    match &arguments.command {
        BenchCommand::Sweep(arguments) => sweep::run(arguments, out),
        BenchCommand::Rows(arguments) => rows::run(arguments, out),
    }
}
