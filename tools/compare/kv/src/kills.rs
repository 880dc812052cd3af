//! What a kill leaves: steps until somebody ends the process, and a comparison with the same steps in memory.

use std::io::Write;

use serde_json::{Map, json};

use crate::Outcome;
use crate::arguments::Arguments;
use crate::bench::Work;
use crate::rule::{Batch, first_record};
use crate::tables;

/// Rows compared at once.
const CHUNK: u64 = 4096;

/// Prints the number of every batch after its commit.
pub(crate) fn until_killed(arguments: &Arguments) -> Outcome<()> {
    let mut table = tables::create(arguments)?;
    table.load(arguments.rows)?;
    let mut work = Work::new(arguments)?;
    let mode = *arguments.modes.first().ok_or("--modes is empty")?;
    let mut out = std::io::stdout();
    loop {
        let times = work.take(table.as_mut(), mode)?;
        writeln!(out, "{}", json!({"committed": work.step, "step_s": times.step_s(), "put_s": times.put_s}))?;
        out.flush()?;
    }
}

/// Compares every row with what it was after each batch, up to the one after the last that was acknowledged.
pub(crate) fn judge(arguments: &Arguments) -> Outcome<()> {
    let record_len = 3 * arguments.dim;
    let mut expected = vec![0.0; usize::try_from(arguments.rows)? * record_len];
    for (row, record) in (0..).zip(expected.chunks_exact_mut(record_len)) {
        first_record(row, record);
    }
    let table = tables::open(arguments)?;
    let found = contents(table.as_ref(), arguments.rows, record_len)?;
    let mut work = Work::new(arguments)?;
    let (mut alike, mut whole) = (Map::new(), None);
    for step in 0..=arguments.acknowledged + 1 {
        if step > 0 {
            step_in_memory(&mut work, &mut expected, record_len);
        }
        let rows = expected.chunks_exact(record_len).zip(found.chunks_exact(record_len));
        let same = rows.filter(|(expected, found)| expected == found).count();
        alike.insert(step.to_string(), same.into());
        if same as u64 == arguments.rows {
            whole = Some(step);
        }
    }
    println!(
        "{}",
        json!({
            "acknowledged": arguments.acknowledged,
            "mark": table.batch()?,
            "whole_after_batch": whole,
            "rows": arguments.rows,
            "rows_as_after_batch": alike,
        })
    );
    Ok(())
}

fn contents(table: &dyn tables::Table, rows: u64, record_len: usize) -> Outcome<Vec<f32>> {
    let mut found = vec![0.0; usize::try_from(rows)? * record_len];
    let chunk = usize::try_from(CHUNK)? * record_len;
    for (first, records) in (0..rows).step_by(usize::try_from(CHUNK)?).zip(found.chunks_mut(chunk)) {
        let ids: Vec<_> = (first..rows.min(first + CHUNK)).collect();
        table.get(&ids, records)?;
    }
    Ok(found)
}

fn step_in_memory(work: &mut Work, table: &mut [f32], record_len: usize) {
    let batch = Batch::new(&work.draw());
    let place = |row: u64| usize::try_from(row).unwrap_or(0) * record_len;
    let mut records: Vec<f32> = Vec::with_capacity(batch.rows.len() * record_len);
    for &row in &batch.rows {
        records.extend_from_slice(&table[place(row)..][..record_len]);
    }
    work.apply(&batch, &mut records);
    for (&row, record) in batch.rows.iter().zip(records.chunks_exact(record_len)) {
        table[place(row)..][..record_len].copy_from_slice(record);
    }
}
