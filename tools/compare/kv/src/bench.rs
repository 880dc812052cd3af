//! Steps on some rows of a table, timed: gather, update, put with a commit.

use std::time::Instant;

use serde_json::{Value, json};

use crate::Outcome;
use crate::arguments::Arguments;
use crate::disk::{Traffic, allocated, peak_rss_bytes};
use crate::ids::Draw;
use crate::rule::Batch;
use crate::tables::{self, Mode, Table};

/// What one step needs beside the table.
pub(crate) struct Work {
    draw: Draw,
    dim: usize,
    batch: usize,
    gradients: Vec<f32>,
    drawn: Vec<f32>,
    records: Vec<f32>,
    /// Steps done.
    pub(crate) step: u64,
}

pub(crate) struct Times {
    pub(crate) distinct: usize,
    pub(crate) gather_s: f64,
    pub(crate) update_s: f64,
    pub(crate) put_s: f64,
}

impl Times {
    pub(crate) fn step_s(&self) -> f64 {
        self.gather_s + self.update_s + self.put_s
    }
}

impl Work {
    pub(crate) fn new(arguments: &Arguments) -> Outcome<Self> {
        let elements = arguments.batch * arguments.dim;
        let draw =
            Draw::new(arguments.rows, arguments.zipf, arguments.seed).ok_or("--zipf is no exponent")?;
        Ok(Self {
            draw,
            dim: arguments.dim,
            batch: arguments.batch,
            gradients: (0..251_u8).cycle().take(elements).map(|i| f32::from(i) * 1e-5).collect(),
            drawn: vec![0.0; elements],
            records: Vec::new(),
            step: 0,
        })
    }

    pub(crate) fn draw(&mut self) -> Vec<u64> {
        self.step += 1;
        self.draw.batch(self.batch)
    }

    /// One step, with its commit.
    pub(crate) fn take(&mut self, table: &mut dyn Table, mode: Mode) -> Outcome<Times> {
        let ids = self.draw();
        let start = Instant::now();
        let batch = Batch::new(&ids);
        self.records.resize(batch.rows.len() * 3 * self.dim, 0.0);
        table.get(&batch.rows, &mut self.records)?;
        batch.spread(&self.records, self.dim, &mut self.drawn);
        let gathered = Instant::now();
        batch.update(self.step, &mut self.records, self.dim, &self.gradients);
        let updated = Instant::now();
        table.put(&batch.rows, &self.records, self.step, mode)?;
        Ok(Times {
            distinct: batch.rows.len(),
            gather_s: (gathered - start).as_secs_f64(),
            update_s: (updated - gathered).as_secs_f64(),
            put_s: updated.elapsed().as_secs_f64(),
        })
    }

    /// The update alone, on records in memory.
    pub(crate) fn apply(&self, batch: &Batch, records: &mut [f32]) {
        batch.update(self.step, records, self.dim, &self.gradients);
    }
}

pub(crate) fn run(arguments: &Arguments) -> Outcome<()> {
    let start = Instant::now();
    let mut table = tables::create(arguments)?;
    table.load(arguments.rows)?;
    let load_s = start.elapsed().as_secs_f64();
    let loaded_bytes = allocated(&arguments.dir)?;
    eprintln!("loaded in {load_s:.1} s: {loaded_bytes} bytes");
    let mut work = Work::new(arguments)?;
    let mut modes = Vec::new();
    for (at, &mode) in arguments.modes.iter().enumerate() {
        // The caches are warm after the first mode.
        let warm_up = if at == 0 { arguments.warm_up } else { arguments.warm_up.min(10) };
        modes.push(measure(arguments, warm_up, mode, table.as_mut(), &mut work)?);
    }
    println!(
        "{}",
        json!({
            "system": arguments.system,
            "version": table.version(),
            "settings": table.settings(),
            "rows": arguments.rows,
            "dim": arguments.dim,
            "batch": arguments.batch,
            "zipf": arguments.zipf,
            "memory_bytes": arguments.memory,
            "load_s": load_s,
            "loaded_bytes": loaded_bytes,
            "disk_bytes": allocated(&arguments.dir)?,
            "peak_rss_bytes": peak_rss_bytes(),
            "modes": modes,
        })
    );
    Ok(())
}

fn measure(
    arguments: &Arguments,
    warm_up: u64,
    mode: Mode,
    table: &mut dyn Table,
    work: &mut Work,
) -> Outcome<Value> {
    let begun = Instant::now();
    let mut warm = 0;
    while warm < warm_up && begun.elapsed().as_secs_f64() < arguments.seconds {
        work.take(table, mode)?;
        warm += 1;
    }
    let before = Traffic::now(&arguments.dir)?;
    let begun = Instant::now();
    let mut rounds = Vec::new();
    while (rounds.len() as u64) < arguments.steps && begun.elapsed().as_secs_f64() < arguments.seconds {
        rounds.push(work.take(table, mode)?);
    }
    let own = Traffic::now(&arguments.dir)?.since(before);
    // What a mode without syncs still owes falls into its account of the disk, not into its time.
    let owed = Instant::now();
    table.sync()?;
    let owed_s = owed.elapsed().as_secs_f64();
    let all = Traffic::now(&arguments.dir)?.since(before);
    Ok(report(arguments, (mode, warm), &rounds, owed_s, (own, all)))
}

#[expect(clippy::cast_precision_loss, reason = "rates for people")]
fn report(
    arguments: &Arguments,
    (mode, warm_up): (Mode, u64),
    rounds: &[Times],
    owed_s: f64,
    (own, all): (Traffic, Traffic),
) -> Value {
    let seconds: f64 = rounds.iter().map(Times::step_s).sum();
    let distinct: usize = rounds.iter().map(|round| round.distinct).sum();
    let list = |of: fn(&Times) -> f64| rounds.iter().map(of).collect::<Vec<_>>();
    let mut sorted = list(Times::step_s);
    sorted.sort_unstable_by(f64::total_cmp);
    let median = sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN);
    let per_row = |bytes: u64| bytes as f64 / distinct as f64;
    let drawn = arguments.batch as f64;
    eprintln!(
        "{}: {:.0} drawn rows/s, median {:.0}",
        mode.name(),
        drawn * rounds.len() as f64 / seconds,
        drawn / median
    );
    json!({
        "mode": mode.name(),
        "warm_up": warm_up,
        "steps": rounds.len(),
        "rows_per_s": drawn * rounds.len() as f64 / seconds,
        "rows_per_s_median": drawn / median,
        "distinct_rows_per_batch": distinct as f64 / rounds.len() as f64,
        "bytes_read_per_row": per_row(own.process_read),
        "bytes_written_per_row": per_row(own.process_written),
        "disk_bytes_read_per_row": per_row(all.disk_read),
        "disk_bytes_written_per_row": per_row(all.disk_written),
        "sync_after_s": owed_s,
        "step_s": list(Times::step_s),
        "gather_s": list(|round| round.gather_s),
        "update_s": list(|round| round.update_s),
        "put_s": list(|round| round.put_s),
    })
}
