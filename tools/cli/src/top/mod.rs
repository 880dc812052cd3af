//! `paramstore top`: what a writer does now, in a terminal, as text or as JSON. Only reads, and never holds the writer up.

mod json;
mod model;
mod screen;
mod view;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args;
use paramstore::telemetry;

use self::model::{Model, Reading, State, Writer};
use crate::arguments::Generation;
use crate::failure::Failure;
use crate::{Verdict, source, terminal};

/// Between two questions to the operating system who writes, each of which opens the store.
const WRITER_EVERY: Duration = Duration::from_secs(2);
/// Between two readings of what all steps took.
const HISTORY_EVERY: Duration = Duration::from_secs(1);
/// What a measurement of the disk writes and how long each part of it may take.
const MEASURE: (u64, Duration) = (128 << 20, Duration::from_secs(1));
/// Columns and rows of a frame as text.
const PLAIN: (u16, u16) = (100, 34);
/// How long a signal may wait for the end.
const PATIENCE: Duration = Duration::from_millis(100);

/// Watch a training run: steps, times, disk, memory, blocks, loss
///
/// Shows what the process that trains on STORE says of itself about ten times a second, and rates from the differences.
/// Never takes the write lock and writes nothing; works before the first step, and after the writer has ended. Shares are of
/// the time that passes; with threads in the background they may add up to more than all of it. Where standard output is no terminal, one
/// frame is printed as text, as with --once.
///
/// Keys: q, Esc or Ctrl-C quit, p pauses, r takes rates from now on.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  paramstore top run1
  paramstore top run1 --interval 0.2 --measure-disk
  paramstore top run1 --once
  paramstore top run1 --json | jq -c '[.step, .rates.steps_per_s]'")]
pub(crate) struct TopArguments {
    /// Directory of the store
    store: PathBuf,
    /// Seconds between two readings, 0.05 to 3600
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    interval: Duration,
    /// Print one frame as text, from two readings an interval apart while somebody writes, and end
    #[arg(long)]
    once: bool,
    /// Measure the disk below the store before the view begins, which writes 256 MiB there for a moment; rates are shown
    /// against that, else against the highest seen
    #[arg(long)]
    measure_disk: bool,
    /// Print a JSON object on a line for each interval; with --once, one
    #[arg(long)]
    json: bool,
}

fn interval(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.05..=3600.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "expected seconds, 0.05 to 3600".to_owned())
}

pub(crate) fn run(arguments: &TopArguments, out: &mut dyn Write) -> Result<Verdict, Failure> {
    let mut source = Source::new(&arguments.store);
    let limit = if arguments.measure_disk {
        let speed = paramstore::inspect::measure_disk(&arguments.store, MEASURE.0, MEASURE.1)?;
        Some(speed.step_bytes_per_s)
    } else {
        None
    };
    let mut model = Model::new(arguments.store.display().to_string(), limit);
    // A path that is no store is told before the terminal is taken.
    source.read(&mut model)?;
    let stop = Stop::listen();
    if arguments.once || !(arguments.json || std::io::stdout().is_terminal()) {
        if model.state() == State::Live {
            stop.sleep(arguments.interval)?;
            source.read(&mut model)?;
        }
        if arguments.json {
            json::write(&model, out)?;
        } else {
            out.write_all(view::plain(&model, PLAIN.0, PLAIN.1).as_bytes())?;
        }
        return Ok(Verdict::Sound);
    }
    if !arguments.json {
        return screen::run(model, &mut source, arguments.interval, &stop);
    }
    loop {
        json::write(&model, out)?;
        out.flush()?;
        stop.sleep(arguments.interval)?;
        source.read(&mut model)?;
    }
}

/// Where readings come from.
struct Source {
    path: PathBuf,
    writer: Writer,
    writer_at: Option<Instant>,
    history_at: Option<Instant>,
}

impl Source {
    fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), writer: Writer::Unknown, writer_at: None, history_at: None }
    }

    /// Reads anew.
    fn read(&mut self, model: &mut Model) -> Result<(), Failure> {
        let live = telemetry::live(&self.path)?;
        if is_due(self.writer_at, WRITER_EVERY) {
            self.writer = self.ask();
            self.writer_at = Some(Instant::now());
        }
        let step = live.as_ref().map_or(0, |live| live.step);
        if model.history.last().is_none_or(|last| last.step != step) && is_due(self.history_at, HISTORY_EVERY)
        {
            model.history = telemetry::history(&self.path, step)?;
            self.history_at = Some(Instant::now());
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let unix_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        model.take(Reading { unix_ms, live, writer: self.writer });
        Ok(())
    }

    /// Who writes; a store that cannot be opened now has no answer.
    fn ask(&self) -> Writer {
        let store = source::open_at(&self.path, Generation::Newest, None);
        let summary = store.and_then(|store| Ok(store.summary()?));
        summary.map_or(Writer::Unknown, |summary| summary.writer_process.into())
    }
}

fn is_due(last: Option<Instant>, every: Duration) -> bool {
    last.is_none_or(|last| last.elapsed() >= every)
}

/// Whether somebody asked the program to end.
struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Takes over Ctrl-C, the request to terminate, and the end of the terminal.
    fn listen() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        let handler = move || {
            asked.store(true, Ordering::Relaxed);
            // Whoever waits for a key of a terminal that is gone waits for ever, and busily.
            std::thread::sleep(10 * PATIENCE);
            screen::give_back();
            std::process::exit(i32::from(Failure::Stopped.status()));
        };
        if ctrlc::set_handler(handler).is_err() {
            terminal::warn("cannot listen for signals: end with q");
        }
        Self(stop)
    }

    fn check(&self) -> Result<(), Failure> {
        if self.0.load(Ordering::Relaxed) { Err(Failure::Stopped) } else { Ok(()) }
    }

    fn sleep(&self, time: Duration) -> Result<(), Failure> {
        let end = Instant::now() + time;
        loop {
            self.check()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(PATIENCE));
        }
    }
}

#[cfg(test)]
mod tests;
