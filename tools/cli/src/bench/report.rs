//! What `bench sweep` prints.

use std::io::{self, Write};

use paramstore::Stats;
use paramstore::inspect::Plan;
use serde_json::{Value, json};

use super::machine;
use super::raw_copy::BUFFER_BYTES;
use super::sweep::{LimitKind, Measured, Round, io_threads};
use crate::arguments::{Path, SweepArguments};
use crate::human::{bytes, counted, grouped, percent, seconds};

/// Everything about a run, as machines read it.
pub(super) fn to_json(arguments: &SweepArguments, measured: &Measured) -> Value {
    let rounds = &measured.rounds;
    let (limit, depth, piece) = match measured.limit {
        LimitKind::RawCopy(setting) => ("raw_copy", Some(setting.queue_depth), Some(setting.piece_bytes)),
        LimitKind::MemoryPass => ("memory_pass", None, None),
    };
    let steps: Vec<_> = rounds.iter().map(|round| round.step_s).collect();
    let mean = Mean { rounds, params: arguments.params };
    json!({
        "params": arguments.params,
        "memory_bytes": measured.plan.budget_bytes,
        "optimizer": arguments.optimizer,
        "state": arguments.state,
        "path": path(arguments.path),
        "threads": threads(arguments),
        "io_threads": io_threads(arguments),
        "commit_every": arguments.commit_every,
        "steps": arguments.steps,
        "block_bytes": measured.block_bytes,
        "state_bytes": measured.plan.state_bytes,
        "limit": limit,
        "limit_queue_depth": depth,
        "limit_piece_bytes": piece,
        "limit_buffer_bytes": limit_buffer_bytes(measured.limit),
        "step_s": steps,
        "limit_s": rounds.iter().map(|round| round.limit_s).collect::<Vec<_>>(),
        "ratio": median(&ratios(rounds)),
        "mparams_per_s": mparams_per_s(arguments, rounds),
        "bytes_read_per_param": mean.per_param(|stats| stats.bytes_read),
        "bytes_written_per_param": mean.per_param(|stats| stats.bytes_written),
        "hit_rate": hit_rate(rounds),
        "min_hit_rate": measured.min_hit_rate,
        "stall_read_s": mean.seconds(|stats| stats.stall_read_ns),
        "stall_write_s": mean.seconds(|stats| stats.stall_write_ns),
        "stall_update_s": mean.seconds(|stats| stats.stall_update_ns),
        "disk_s": mean.seconds(|stats| stats.disk_ns),
        "compute_s": mean.seconds(|stats| stats.compute_ns),
        "commit_s": mean.seconds(|stats| stats.commit_ns),
        "peak_rss_bytes": measured.peak_rss_bytes,
        "machine": machine::describe(),
        "date": machine::date(),
        "version": env!("CARGO_PKG_VERSION"),
    })
}

/// What is going to be measured, and beside what.
pub(super) fn begin(
    arguments: &SweepArguments,
    plan: &Plan,
    limit: LimitKind,
    out: &mut dyn Write,
) -> io::Result<()> {
    let what = format!(
        "{} of {} in {}, {} of state, {} of memory",
        counted(arguments.params, "parameter"),
        arguments.optimizer,
        arguments.state,
        bytes(plan.state_bytes),
        bytes(plan.budget_bytes)
    );
    match limit {
        LimitKind::MemoryPass => writeln!(out, "hot: {what}; beside a pass over the same memory")?,
        LimitKind::RawCopy(setting) => writeln!(
            out,
            "cold: {what}; beside a raw copy of the same bytes ({} of {} at once)",
            counted(setting.queue_depth as u64, "piece"),
            bytes(setting.piece_bytes as u64)
        )?,
    }
    out.flush()
}

/// One line of progress.
pub(super) fn round(
    arguments: &SweepArguments,
    limit: LimitKind,
    round: &Round,
    out: &mut dyn Write,
) -> io::Result<()> {
    let rounds = std::slice::from_ref(round);
    let mean = Mean { rounds, params: arguments.params };
    writeln!(
        out,
        "step {:.3} s (commit {:.3} s)  {} {:.3} s  ratio {:.3}  {:.1} Mparam/s  read {:.2} B/p  written {:.2} B/p  \
         hits {:.3}  stall r {:.3} w {:.3}  compute {:.3}",
        round.step_s,
        mean.seconds(|stats| stats.commit_ns),
        limit_name(limit),
        round.limit_s,
        round.limit_s / round.step_s,
        mparams_per_s(arguments, rounds),
        mean.per_param(|stats| stats.bytes_read),
        mean.per_param(|stats| stats.bytes_written),
        hit_rate(rounds),
        mean.seconds(|stats| stats.stall_read_ns),
        mean.seconds(|stats| stats.stall_write_ns),
        mean.seconds(|stats| stats.compute_ns),
    )?;
    out.flush()
}

/// The summary for people.
pub(super) fn to_text(
    arguments: &SweepArguments,
    measured: &Measured,
    out: &mut dyn Write,
) -> io::Result<()> {
    let rounds = &measured.rounds;
    let mean = Mean { rounds, params: arguments.params };
    let name = limit_name(measured.limit);
    let kind = if measured.limit == LimitKind::MemoryPass { "hot" } else { "cold" };
    let spread = |values: &[f64]| {
        let (low, high) = values.iter().fold((f64::MAX, 0.0_f64), |(l, h), &x| (l.min(x), h.max(x)));
        (low, high)
    };
    let ratios = ratios(rounds);
    let (low, high) = spread(&ratios);
    let pairs = counted(rounds.len() as u64, "pair");
    writeln!(out, "\n{kind}: {name} / step {:.3} ({low:.3} to {high:.3} in {pairs})", median(&ratios))?;
    for (name, of) in [("step", (|r| r.step_s) as fn(&Round) -> f64), (name, |r| r.limit_s)] {
        let values: Vec<_> = rounds.iter().map(of).collect();
        let (low, high) = spread(&values);
        let median = seconds(median(&values));
        writeln!(out, "{name}: median {median} ({} to {})", seconds(low), seconds(high))?;
    }
    writeln!(
        out,
        "{:.1} million parameters per second; {:.2} bytes read and {:.2} written for each",
        mparams_per_s(arguments, rounds),
        mean.per_param(|stats| stats.bytes_read),
        mean.per_param(|stats| stats.bytes_written),
    )?;
    let best =
        measured.min_hit_rate.map_or_else(|| "not known".to_owned(), |rate| format!("{:.1} %", 100.0 * rate));
    writeln!(
        out,
        "{} of leases found their block in memory; the best possible: {best}",
        hit_percent(rounds)
    )?;
    writeln!(
        out,
        "of a step: {} computing, {} of disk, {} waiting for reads, {} for writes, {} for updates in the background; {} \
         in its commit (waits of it counted in both)",
        seconds(mean.seconds(|stats| stats.compute_ns)),
        seconds(mean.seconds(|stats| stats.disk_ns)),
        seconds(mean.seconds(|stats| stats.stall_read_ns)),
        seconds(mean.seconds(|stats| stats.stall_write_ns)),
        seconds(mean.seconds(|stats| stats.stall_update_ns)),
        seconds(mean.seconds(|stats| stats.commit_ns)),
    )?;
    if measured.limit == LimitKind::MemoryPass && arguments.commit_every <= arguments.steps + 1 {
        writeln!(
            out,
            "commits are in the steps, the pass has none: --commit-every above --steps leaves them out"
        )?;
    }
    if measured.limit != LimitKind::MemoryPass && arguments.path == Path::Mapped {
        writeln!(
            out,
            "the step goes through the page cache, the copy past it: hits there make a ratio above 1"
        )?;
    }
    writeln!(
        out,
        "peak resident {} bytes, of these {} of the limit's own",
        grouped(measured.peak_rss_bytes),
        grouped(limit_buffer_bytes(measured.limit))
    )?;
    writeln!(out, "the store was sound after all of it")
}

fn path(path: Path) -> &'static str {
    match path {
        Path::Auto => "auto",
        Path::Direct => "direct",
        Path::Mapped => "mapped",
    }
}

fn threads(arguments: &SweepArguments) -> usize {
    arguments.threads.map_or_else(machine::processors, usize::from)
}

fn limit_name(limit: LimitKind) -> &'static str {
    match limit {
        LimitKind::RawCopy(_) => "raw copy",
        LimitKind::MemoryPass => "memory pass",
    }
}

/// Memory that the limit takes beside the store's.
fn limit_buffer_bytes(limit: LimitKind) -> u64 {
    match limit {
        LimitKind::RawCopy(_) => BUFFER_BYTES as u64,
        LimitKind::MemoryPass => 0,
    }
}

/// By pair: the limit's time as a share of the step's.
fn ratios(rounds: &[Round]) -> Vec<f64> {
    rounds.iter().map(|round| round.limit_s / round.step_s).collect()
}

pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |index: usize| sorted.get(index).copied().unwrap_or(0.0);
    f64::midpoint(at(sorted.len().saturating_sub(1) / 2), at(sorted.len() / 2))
}

#[expect(clippy::cast_precision_loss, reason = "a speed for people")]
fn mparams_per_s(arguments: &SweepArguments, rounds: &[Round]) -> f64 {
    let steps: Vec<_> = rounds.iter().map(|round| round.step_s).collect();
    arguments.params as f64 / median(&steps) / 1e6
}

/// Hits and leases.
fn leases(rounds: &[Round]) -> (u64, u64) {
    let hits = rounds.iter().map(|round| round.stats.blocks_hit).sum::<u64>();
    (hits, hits + rounds.iter().map(|round| round.stats.blocks_missed).sum::<u64>())
}

#[expect(clippy::cast_precision_loss, reason = "a share of counts far below 2^52")]
fn hit_rate(rounds: &[Round]) -> f64 {
    let (hits, all) = leases(rounds);
    if all == 0 { 1.0 } else { hits as f64 / all as f64 }
}

fn hit_percent(rounds: &[Round]) -> String {
    let (hits, all) = leases(rounds);
    percent(hits, all)
}

/// Means over steps.
struct Mean<'a> {
    rounds: &'a [Round],
    params: u64,
}

#[expect(clippy::cast_precision_loss, reason = "means for people")]
impl Mean<'_> {
    fn of(&self, count: fn(&Stats) -> u64) -> f64 {
        let sum: u64 = self.rounds.iter().map(|round| count(&round.stats)).sum();
        sum as f64 / self.rounds.len().max(1) as f64
    }

    fn seconds(&self, ns: fn(&Stats) -> u64) -> f64 {
        self.of(ns) / 1e9
    }

    fn per_param(&self, bytes: fn(&Stats) -> u64) -> f64 {
        self.of(bytes) / self.params.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_middle_or_the_mean_of_both() {
        let cases: [(&[f64], f64); 4] =
            [(&[], 0.0), (&[3.0], 3.0), (&[9.0, 1.0, 2.0], 2.0), (&[4.0, 1.0, 2.0, 9.0], 3.0)];
        for (values, expected) in cases {
            assert!((median(values) - expected).abs() < 1e-12, "{values:?}");
        }
    }
}
