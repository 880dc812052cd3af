//! What the user sees: the progress of a run, and the report at its end.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use training::people::{grouped, note, size};

/// Seconds between lines where standard error is not a terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Counters of the store, cumulative since it was opened.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Traffic {
    /// Bytes read from disk.
    pub(crate) read: u64,
    /// Bytes written to disk.
    pub(crate) written: u64,
    /// Seconds that the trainer waited for reads.
    pub(crate) stall_read_s: f64,
    /// Seconds that the trainer waited for writes.
    pub(crate) stall_write_s: f64,
    /// Seconds that the trainer waited for updates under way.
    pub(crate) stall_update_s: f64,
    /// Seconds during which the disk had something to do.
    pub(crate) disk_s: f64,
    /// Seconds that the store computed updates.
    pub(crate) update_s: f64,
}

impl Traffic {
    /// Seconds that the trainer waited in all.
    fn stall_s(&self) -> f64 {
        self.stall_read_s + self.stall_write_s + self.stall_update_s
    }

    /// What came after `earlier`.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            read: self.read - earlier.read,
            written: self.written - earlier.written,
            stall_read_s: self.stall_read_s - earlier.stall_read_s,
            stall_write_s: self.stall_write_s - earlier.stall_write_s,
            stall_update_s: self.stall_update_s - earlier.stall_update_s,
            disk_s: self.disk_s - earlier.disk_s,
            update_s: self.update_s - earlier.update_s,
        }
    }
}

/// The progress of a run: a bar on a terminal, a line now and then elsewhere.
pub(crate) struct Progress {
    bar: ProgressBar,
    terminal: bool,
    total: u64,
    started: Instant,
    line: Instant,
    /// Loss of the last steps, smoothed, in nats per token.
    loss: Option<f64>,
    tokens: u64,
}

impl Progress {
    /// Starts behind `done` of `total` steps.
    pub(crate) fn new(done: u64, total: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
        let style = "step {pos}/{len} {wide_bar} {eta} left\n{msg}";
        bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_position(done);
        bar.reset_eta();
        let now = Instant::now();
        let terminal = std::io::stderr().is_terminal();
        Self { bar, terminal, total, started: now, line: now, loss: None, tokens: 0 }
    }

    /// Shows a finished step.
    pub(crate) fn step(&mut self, step: u64, loss: f64, tokens: u64, traffic: Traffic) {
        self.tokens += tokens;
        let smooth = self.loss.map_or(loss, |before| 0.9 * before + 0.1 * loss);
        self.loss = Some(smooth);
        let seconds = self.started.elapsed().as_secs_f64();
        let message = format!(
            "loss {smooth:.3} | {:.0} tokens/s | read {}/s | write {}/s | stalled {:.1} s",
            per_second(self.tokens, seconds),
            size(per_second(traffic.read, seconds)),
            size(per_second(traffic.written, seconds)),
            traffic.stall_s(),
        );
        if self.terminal {
            self.bar.set_message(message);
            self.bar.set_position(step);
        } else if self.line.elapsed() >= LINE_EVERY || step == self.total {
            self.line = Instant::now();
            note(&format!("step {step}/{} | {message}", self.total));
        }
    }

    /// Ends the display: smoothed loss in nats per token, and seconds since the start.
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
    /// Bits of parameters and moments, as `--state` names them.
    pub(crate) state: Option<&'static str>,
    /// Seed of the run.
    pub(crate) seed: u64,
    /// Number of parameters.
    pub(crate) params: u64,
    /// Steps done, and steps at which the run is complete.
    pub(crate) steps: (u64, u64),
    /// Step from which this process went on; none for a new run.
    pub(crate) continued_from: Option<u64>,
    /// Smoothed training loss in nats per token; none if this process took no step.
    pub(crate) loss: Option<f64>,
    /// Bits per byte of the validation text before the first step and now; not now if the run was stopped.
    pub(crate) val: (f64, Option<f64>),
    /// Steps of this process, and bits per byte of the validation text after them.
    pub(crate) curve: Vec<(u64, f64)>,
    /// Entropy of single bytes and of single tokens, in bits per byte.
    pub(crate) unigram: (f64, f64),
    /// Tokens that this process trained on.
    pub(crate) tokens: u64,
    /// Tokens of the training text.
    pub(crate) text_tokens: usize,
    /// Seconds that this process spent on steps and commits, and on computing forward and backward passes.
    pub(crate) train_s: f64,
    /// Bytes of parameters and optimizer state.
    pub(crate) state_bytes: u64,
    /// Bytes given by `--memory`, and the part of it that is the store's budget.
    pub(crate) memory: (u64, u64),
    /// Bytes of activations for the batch, beside `--memory`.
    pub(crate) activation_bytes: u64,
    /// Largest resident memory of this process in bytes, where the system tells.
    pub(crate) peak_rss: Option<u64>,
    /// What training moved and waited for.
    pub(crate) traffic: Traffic,
    /// Commits by this process, and seconds they took.
    pub(crate) commits: (u64, f64),
    /// Digest of the store; none if the run was stopped.
    pub(crate) digest: Option<String>,
    /// The beginning of the held-out text and its continuation by the model.
    pub(crate) sample: Option<(String, String)>,
}

impl Summary {
    /// Whether all steps of the run are done.
    pub(crate) fn complete(&self) -> bool {
        self.steps.0 >= self.steps.1
    }

    /// The report for programs.
    pub(crate) fn json(&self) -> Value {
        let steps_taken = self.steps.0 - self.continued_from.unwrap_or(0);
        json!({
            "store": self.store,
            "state": self.state,
            "seed": self.seed,
            "params": self.params,
            "steps": self.steps.0,
            "steps_total": self.steps.1,
            "complete": self.complete(),
            "continued_from_step": self.continued_from,
            "loss": self.loss,
            "val_bits_per_byte_before": self.val.0,
            "val_bits_per_byte_after": self.val.1,
            "val_bits_per_byte_at": self.curve,
            "unigram_bits_per_byte": self.unigram.0,
            "token_unigram_bits_per_byte": self.unigram.1,
            "tokens": self.tokens,
            "tokens_per_s": per_second(self.tokens, self.train_s),
            "train_s": self.train_s,
            "step_s": if steps_taken == 0 { 0.0 } else { self.train_s / to_float(steps_taken) },
            "compute_s": self.compute_s(),
            "update_s": self.traffic.update_s,
            "stall_read_s": self.traffic.stall_read_s,
            "stall_write_s": self.traffic.stall_write_s,
            "stall_update_s": self.traffic.stall_update_s,
            "disk_s": self.traffic.disk_s,
            "state_bytes": self.state_bytes,
            "memory_bytes": self.memory.0,
            "budget_bytes": self.memory.1,
            "activation_bytes": self.activation_bytes,
            "fixed_bytes": FIXED_BYTES,
            "peak_rss_bytes": self.peak_rss,
            "bytes_read": self.traffic.read,
            "bytes_written": self.traffic.written,
            "commits": self.commits.0,
            "commit_s": self.commits.1,
            "digest": self.digest,
            "sample": self.sample.as_ref().map(|(_, text)| text),
        })
    }

    /// Seconds of training that were neither waiting nor committing: the passes, and updates that were made at once.
    fn compute_s(&self) -> f64 {
        (self.train_s - self.traffic.stall_s() - self.commits.1).max(0.0)
    }

    /// The report for people.
    pub(crate) fn text(&self) -> String {
        let mut rows = Vec::new();
        if self.tokens > 0 {
            rows.push(("trained", self.trained_row()));
        }
        if let (before, Some(after)) = self.val {
            rows.push(("validation", format!("{after:.3} bits per byte, {before:.3} before the first step")));
        }
        let (bytes, tokens) = self.unigram;
        rows.push((
            "unigram",
            format!(
                "{bytes:.3} bits per byte is the entropy of the text's bytes, {tokens:.3} that of its tokens"
            ),
        ));
        let times = to_float(self.state_bytes) / to_float(self.memory.0);
        let params = grouped(self.params);
        rows.push((
            "state",
            format!("{} for {params} parameters, {times:.1} times --memory", size_of(self.state_bytes)),
        ));
        rows.push(("memory", self.memory_row()));
        if self.tokens > 0 {
            rows.push(("time", self.time_row()));
            rows.push(("disk", self.disk_row()));
        }
        let digest = self.digest.as_ref().map_or_else(String::new, |digest| format!(", digest {digest}"));
        rows.push(("store", format!("{}, step {}{digest}", self.store, self.steps.0)));
        let mut out: String = rows.into_iter().fold(String::new(), |out, (name, row)| {
            out + &format!("{name:<12}{}\n", row.replace('\n', &format!("\n{:12}", "")))
        });
        if let Some((prompt, text)) = &self.sample {
            let heading = format!("\nSample: the model goes on after \"{}\"\n", prompt.trim());
            out = out + &heading + &indented(text);
        }
        out
    }

    fn trained_row(&self) -> String {
        format!(
            "{} tokens in {:.1} s, {:.0} tokens/s; the training text has {} tokens",
            grouped(self.tokens),
            self.train_s,
            per_second(self.tokens, self.train_s),
            grouped(self.text_tokens as u64),
        )
    }

    fn memory_row(&self) -> String {
        let peak = self.peak_rss.map_or_else(|| "not told by this system".to_owned(), size_of);
        let (given, budget) = self.memory;
        format!(
            "{} given, {} of it the store's budget; peak of the process {peak}\n\
             (expected: that, {} of activations for the batch, about {} of program and text)",
            size_of(given),
            size_of(budget),
            size_of(self.activation_bytes),
            size_of(FIXED_BYTES),
        )
    }

    fn disk_row(&self) -> String {
        format!(
            "{} read, {} written; {} commits in {:.1} s",
            size_of(self.traffic.read),
            size_of(self.traffic.written),
            self.commits.0,
            self.commits.1,
        )
    }

    fn time_row(&self) -> String {
        let Traffic { stall_read_s, stall_write_s, stall_update_s, disk_s, .. } = self.traffic;
        format!(
            "{:.1} s computing and {disk_s:.1} s of disk beside each other; waited {:.1} s: {stall_read_s:.1} s for \
             reads, {stall_update_s:.1} s for updates, {stall_write_s:.1} s for writes",
            self.compute_s(),
            self.traffic.stall_s(),
        )
    }
}

/// Memory of the program itself: code, the text that ships with it, tokens and tokenizer, buffers of the matrix
/// products, and what the allocator keeps.
pub(crate) const FIXED_BYTES: u64 = 48 << 20;

fn indented(text: &str) -> String {
    text.lines().fold(String::new(), |out, line| out + "  " + line + "\n")
}

fn per_second(n: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { to_float(n) / seconds } else { 0.0 }
}

#[expect(clippy::cast_precision_loss, reason = "for display")]
fn to_float(n: u64) -> f64 {
    n as f64
}

fn size_of(bytes: u64) -> String {
    size(to_float(bytes))
}
