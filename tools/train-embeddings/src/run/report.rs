//! What the user sees: the progress of a run, and the report at its end.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Map, Value, json};
use training::people::{grouped, note, size};

use super::Verdict;
use crate::num::float;

/// Seconds between lines where standard error is not a terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Counters of the store, cumulative since it was opened.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Traffic {
    /// Bytes read from disk.
    pub(crate) read: u64,
    /// Bytes written to disk.
    pub(crate) written: u64,
    /// Seconds that the trainer waited for the store.
    pub(crate) stall_s: f64,
}

impl Traffic {
    /// What came after `earlier`.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            read: self.read - earlier.read,
            written: self.written - earlier.written,
            stall_s: self.stall_s - earlier.stall_s,
        }
    }
}

/// The progress of a run: a bar on a terminal, a line now and then elsewhere.
pub(crate) struct Progress {
    bar: ProgressBar,
    terminal: bool,
    total: u64,
    unit: &'static str,
    started: Instant,
    line: Instant,
    /// Loss of the last steps, smoothed.
    loss: Option<f64>,
    examples: u64,
}

impl Progress {
    /// Starts behind `done` of `total` steps.
    pub(crate) fn new(done: u64, total: u64, unit: &'static str) -> Self {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
        let style = "step {pos}/{len} {wide_bar} {eta} left\n{msg}";
        bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_position(done);
        bar.reset_eta();
        let now = Instant::now();
        let terminal = std::io::stderr().is_terminal();
        Self { bar, terminal, total, unit, started: now, line: now, loss: None, examples: 0 }
    }

    /// Shows a finished step.
    pub(crate) fn step(&mut self, step: u64, loss: f64, examples: u64, traffic: Traffic) {
        self.examples += examples;
        let smooth = self.loss.map_or(loss, |before| 0.95 * before + 0.05 * loss);
        self.loss = Some(smooth);
        let due = self.line.elapsed() >= LINE_EVERY || step == self.total;
        if !self.terminal && !due {
            return;
        }
        let seconds = self.started.elapsed().as_secs_f64();
        let message = format!(
            "loss {smooth:.4} | {:.0} {}/s | read {}/s | write {}/s | stalled {:.1} s",
            per_second(self.examples, seconds),
            self.unit,
            size(per_second(traffic.read, seconds)),
            size(per_second(traffic.written, seconds)),
            traffic.stall_s,
        );
        if self.terminal {
            self.bar.set_message(message);
            self.bar.set_position(step);
        } else {
            self.line = Instant::now();
            note(&format!("step {step}/{} | {message}", self.total));
        }
    }

    /// Ends the display: smoothed loss, and seconds since the start.
    pub(crate) fn end(self) -> (Option<f64>, f64) {
        self.bar.abandon();
        (self.loss, self.started.elapsed().as_secs_f64())
    }
}

/// Everything about a run that the report shows.
#[derive(Debug)]
pub(crate) struct Summary {
    /// Directory of the store.
    pub(crate) store: String,
    /// What examples are counted in.
    pub(crate) unit: &'static str,
    /// Number of parameters.
    pub(crate) params: u64,
    /// Bytes of parameters and optimizer state.
    pub(crate) state_bytes: u64,
    /// Steps done, and steps at which the run is complete.
    pub(crate) steps: (u64, u64),
    /// Step from which this process went on; none for a new run.
    pub(crate) continued_from: Option<u64>,
    /// Smoothed training loss; none if this process took no step.
    pub(crate) loss: Option<f64>,
    /// Examples that this process trained on.
    pub(crate) examples: u64,
    /// Seconds that this process spent on steps and commits.
    pub(crate) train_s: f64,
    /// Seconds that this process spent on judging.
    pub(crate) judge_s: f64,
    /// Bytes given by `--memory`, and the part of it that is the store's budget.
    pub(crate) memory: (u64, u64),
    /// Largest resident memory of this process in bytes, where the system tells.
    pub(crate) peak_rss: Option<u64>,
    /// What training moved and waited for.
    pub(crate) traffic: Traffic,
    /// Commits by this process, and seconds they took.
    pub(crate) commits: (u64, f64),
    /// Digest of the store; none if the run was stopped.
    pub(crate) digest: Option<String>,
    /// How good the model is; empty if the run was stopped.
    pub(crate) verdict: Verdict,
}

impl Summary {
    /// Whether all steps of the run are done.
    pub(crate) fn complete(&self) -> bool {
        self.steps.0 >= self.steps.1
    }

    /// The report for programs.
    pub(crate) fn json(&self) -> Value {
        let scores: Map<String, Value> =
            self.verdict.scores.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        json!({
            "store": self.store,
            "params": self.params,
            "state_bytes": self.state_bytes,
            "steps": self.steps.0,
            "steps_total": self.steps.1,
            "complete": self.complete(),
            "continued_from_step": self.continued_from,
            "loss": self.loss,
            "examples": self.examples,
            "examples_per_s": per_second(self.examples, self.train_s),
            "train_s": self.train_s,
            "judge_s": self.judge_s,
            "stall_s": self.traffic.stall_s,
            "memory_bytes": self.memory.0,
            "budget_bytes": self.memory.1,
            "peak_rss_bytes": self.peak_rss,
            "bytes_read": self.traffic.read,
            "bytes_written": self.traffic.written,
            "commits": self.commits.0,
            "commit_s": self.commits.1,
            "scores": scores,
            "digest": self.digest,
        })
    }

    /// The report for people.
    pub(crate) fn text(&self) -> String {
        let mut rows = Vec::new();
        if self.examples > 0 {
            rows.push(("trained".to_owned(), self.trained_row()));
        }
        let state = format!("{} for {} parameters", size_of(self.state_bytes), grouped(self.params));
        rows.push(("state".to_owned(), state));
        let peak = self.peak_rss.map_or_else(|| "not told by this system".to_owned(), size_of);
        let (given, budget) = self.memory;
        let memory = format!(
            "{} given, {} of it the store's budget; peak of the process {peak}",
            size_of(given),
            size_of(budget)
        );
        rows.push(("memory".to_owned(), memory));
        let digest = self.digest.as_ref().map_or_else(String::new, |digest| format!(", digest {digest}"));
        rows.push(("store".to_owned(), format!("{}, step {}{digest}", self.store, self.steps.0)));
        rows.extend(self.verdict.lines.iter().cloned());
        rows.into_iter().fold(String::new(), |out, (name, row)| {
            out + &format!("{name:<12}{}\n", row.replace('\n', &format!("\n{:12}", "")))
        })
    }

    fn trained_row(&self) -> String {
        format!(
            "{} {} in {:.1} s, {:.0} {}/s; {} read, {} written; {} commits in {:.1} s",
            grouped(self.examples),
            self.unit,
            self.train_s,
            per_second(self.examples, self.train_s),
            self.unit,
            size_of(self.traffic.read),
            size_of(self.traffic.written),
            self.commits.0,
            self.commits.1,
        )
    }
}

fn per_second(n: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { float(n) / seconds } else { 0.0 }
}

fn size_of(bytes: u64) -> String {
    size(float(bytes))
}
