//! What `bench rows` found, as text and as JSON.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::super::machine;
use super::super::report::median;
use super::{Measured, Round};
use crate::arguments::RowsArguments;
use crate::human::{bytes, grouped as count};

#[expect(clippy::cast_precision_loss, reason = "a time for people")]
fn seconds(ns: u64) -> f64 {
    ns as f64 * 1e-9
}

struct Sums {
    seconds: f64,
    limit_s: f64,
    drawn: f64,
    distinct: f64,
    read: f64,
    written: f64,
    hit: f64,
    missed: f64,
}

#[expect(clippy::cast_precision_loss, reason = "sums for people")]
fn sums(arguments: &RowsArguments, measured: &Measured) -> Sums {
    let sum = |of: fn(&Round) -> f64| measured.rounds.iter().map(of).sum::<f64>();
    Sums {
        seconds: sum(Round::step_s),
        limit_s: sum(Round::limit_s),
        drawn: arguments.batch as f64 * measured.rounds.len() as f64,
        distinct: sum(|round| round.distinct as f64),
        read: sum(|round| round.stats.bytes_read as f64),
        written: sum(|round| {
            let stats = &round.stats;
            (stats.bytes_written + stats.row_log_bytes_written + stats.meta_bytes_written) as f64
        }),
        hit: sum(|round| round.stats.rows_hit as f64),
        missed: sum(|round| round.stats.rows_missed as f64),
    }
}

/// The share of rows of each batch that the batch found in memory. A step needs each row twice, for the gathering and for
/// the update, which always finds it.
fn hit_rate(sums: &Sums) -> f64 {
    1.0 - sums.missed / f64::midpoint(sums.hit, sums.missed).max(1.0)
}

pub(super) fn to_json(arguments: &RowsArguments, measured: &Measured) -> Value {
    let sums = sums(arguments, measured);
    let list = |of: fn(&Round) -> f64| measured.rounds.iter().map(of).collect::<Vec<_>>();
    let usage = &measured.usage;
    json!({
        "date": machine::date(),
        "machine": machine::describe(),
        "version": env!("CARGO_PKG_VERSION"),
        "rows": arguments.rows,
        "dim": arguments.dim,
        "batch": arguments.batch,
        "zipf": arguments.zipf,
        "optimizer": arguments.optimizer,
        "memory_bytes": arguments.memory,
        "lookahead": arguments.lookahead,
        "commit_every": arguments.commit_every,
        "warm_up": arguments.warm_up,
        "step_s": list(Round::step_s),
        "gather_s": list(|round| round.gather_s),
        "update_s": list(|round| round.update_s),
        "commit_s": list(|round| round.commit_s),
        "limit_s": list(Round::limit_s),
        "stall_read_s": list(|round| seconds(round.stats.stall_read_ns)),
        "compute_s": list(|round| seconds(round.stats.compute_ns)),
        "limit": if measured.rounds.iter().any(|round| round.stats.rows_missed > 0) { "random reads" } else { "memory" },
        "rows_per_s": sums.drawn / sums.seconds,
        "limit_rows_per_s": sums.drawn / sums.limit_s,
        "ratio": sums.limit_s / sums.seconds,
        "distinct_rows_per_batch": sums.distinct / f64::from(u32::try_from(measured.rounds.len()).unwrap_or(u32::MAX)),
        "hit_rate": hit_rate(&sums),
        "min_hit_rate": measured.min_hit_rate,
        "bytes_read_per_row": sums.read / sums.distinct,
        "bytes_written_per_row": sums.written / sums.distinct,
        "record_bytes": usage.record_bytes,
        "page_bytes": usage.page_bytes,
        "memory_rows": usage.memory_rows,
        "rows_in_log": usage.in_log,
        "log_bytes": measured.log_bytes.1,
        "log_bytes_used": measured.log_bytes.0,
        "fill_s": measured.fill_s,
        "peak_rss_bytes": measured.peak_rss_bytes,
    })
}

pub(super) fn to_text(arguments: &RowsArguments, measured: &Measured, out: &mut dyn Write) -> io::Result<()> {
    let sums = sums(arguments, measured);
    let usage = &measured.usage;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "figures for people")]
    let whole = |x: f64| count(x.clamp(0.0, 1e18) as u64);
    let ms = |of: fn(&Round) -> f64| 1e3 * median(&measured.rounds.iter().map(of).collect::<Vec<_>>());
    writeln!(
        out,
        "{} rows of {} with {}, records of {} bytes, pages of {}",
        count(arguments.rows),
        arguments.dim,
        arguments.optimizer,
        usage.record_bytes,
        bytes(usage.page_bytes)
    )?;
    writeln!(
        out,
        "memory {} for {} rows; log {} of {} in use, {} rows",
        bytes(arguments.memory),
        count(usage.memory_rows),
        bytes(measured.log_bytes.0),
        bytes(measured.log_bytes.1),
        count(usage.in_log)
    )?;
    writeln!(out, "all rows given values in {:.1} s", measured.fill_s)?;
    writeln!(out)?;
    writeln!(
        out,
        "rows/s        {:>12}   drawn; {} of a batch of {} are distinct",
        whole(sums.drawn / sums.seconds),
        whole(sums.distinct / f64::from(u32::try_from(measured.rounds.len()).unwrap_or(u32::MAX))),
        count(arguments.batch)
    )?;
    let limit = if sums.missed > 0.0 {
        "random reads of what was missed"
    } else {
        "the same in memory alone: gather, update, scatter"
    };
    writeln!(out, "limit         {:>12}   {limit}", whole(sums.drawn / sums.limit_s))?;
    writeln!(out, "ratio         {:>12.2}", sums.limit_s / sums.seconds)?;
    writeln!(
        out,
        "hit rate      {:>12.4}   of a batch's distinct rows; the best possible {:.4}",
        hit_rate(&sums),
        measured.min_hit_rate
    )?;
    writeln!(out, "read          {:>12.0}   bytes for each distinct row", sums.read / sums.distinct)?;
    writeln!(
        out,
        "written       {:>12.0}   bytes for each distinct row, commits and folding included",
        sums.written / sums.distinct
    )?;
    writeln!(
        out,
        "step          {:>12.1}   ms, median: gather {:.1}, update {:.1}, commit {:.1}; of it waiting for reads {:.1}, computing {:.1}",
        ms(Round::step_s),
        ms(|round| round.gather_s),
        ms(|round| round.update_s),
        ms(|round| round.commit_s),
        ms(|round| seconds(round.stats.stall_read_ns)),
        ms(|round| seconds(round.stats.compute_ns))
    )?;
    writeln!(out, "peak memory   {:>12}", bytes(measured.peak_rss_bytes))
}
