//! `paramstore report`: what a store is and how its training went, as one page that needs nothing else.

mod blocks;
mod charts;
mod curves;
mod gather;
mod histogram;
mod html;
mod page;

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use crate::failure::Failure;
use crate::human::bytes;
use crate::{Verdict, terminal, whole};

/// What every report has near its beginning, and other files do not.
const MARK: &str = "<meta name=\"generator\" content=\"paramstore report\">";
/// How far that is looked for.
const MARK_WITHIN: u64 = 1024;

/// Write a page about a store: settings, tensors, disk, blocks, times, loss, checkpoints
///
/// Makes one HTML file of the committed generation and of what its trainers said, without scripts, fonts or pictures from
/// elsewhere: it can be sent as it is. Never writes to the store and never takes the write lock, so it works beside a training run. Of
/// more than 20,000 tensors the first 20,000 are listed; curves have at most 2,000 points.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  paramstore report run1
  paramstore report run1 --stats -o run1.html --force
  paramstore report run1/checkpoints/best -o best.html")]
pub(crate) struct ReportArguments {
    /// Directory of the store
    store: PathBuf,
    /// The file to write; an earlier report is replaced
    #[arg(short, long, value_name = "FILE", default_value = "report.html")]
    output: PathBuf,
    /// Read all values, for statistics of the tensors and histograms of their planes; of the 2,000 largest tensors
    #[arg(long)]
    stats: bool,
    /// Replace FILE even if it is no report: it is one if its first 1,024 bytes say that `paramstore report` made it
    #[arg(long)]
    force: bool,
    /// Print JSON about what was written
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &ReportArguments, out: &mut dyn Write) -> Result<Verdict, Failure> {
    let output = &arguments.output;
    // Before anything that takes time.
    check_target(output, arguments.force)?;
    let gathered = gather::gather(&arguments.store, arguments.stats)?;
    let page = page::page(&gathered);
    whole::write(output, page.as_bytes()).map_err(|error| at(output, &error))?;
    let len = u64::try_from(page.len()).unwrap_or(u64::MAX);
    if arguments.json {
        let value = json!({
            "path": arguments.store.display().to_string(),
            "output": output.display().to_string(),
            "bytes": len,
            "generation": gathered.summary.generation,
            "step": gathered.summary.step,
            "tensors": gathered.summary.tensors,
            "tensors_listed": gathered.tensors.len(),
            "steps_in_curves": gathered.history.len(),
        });
        terminal::json(out, &value)?;
    } else {
        writeln!(out, "{}: {}, generation {}", output.display(), bytes(len), gathered.summary.generation)?;
    }
    if gathered.summary.recovery.damaged {
        terminal::warn("a superblock, or what it names, is damaged; the page says which");
        return Ok(Verdict::Damaged);
    }
    Ok(Verdict::Sound)
}

/// An error of the output, with its path.
fn at(path: &Path, error: &io::Error) -> Failure {
    Failure::Output(io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

/// Refuses to replace what somebody else made.
fn check_target(path: &Path, force: bool) -> Result<(), Failure> {
    if path.is_dir() {
        return Err(Failure::Usage(format!("--output {} is a directory", path.display())));
    }
    let mut head = Vec::new();
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(_) if force => return Ok(()),
        Err(error) => return Err(at(path, &error)),
        Ok(file) => file.take(MARK_WITHIN).read_to_end(&mut head).map_err(|error| at(path, &error))?,
    };
    if force || String::from_utf8_lossy(&head).contains(MARK) {
        return Ok(());
    }
    Err(Failure::InTheWay(path.to_owned()))
}

#[cfg(test)]
mod tests;
