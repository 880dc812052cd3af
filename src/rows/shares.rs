//! How the memory for tables is divided.

use super::cache;
use super::log::Log;
use crate::error::{Error, Result};
use crate::format::directory::Directory;
use crate::layout::{RowTable, row_tables};
use crate::pager;
use crate::units::{to_u64, to_usize};

/// Memory for reads under way.
const STAGING_BYTES: u64 = 4 << 20;
/// Memory for records on their way from the log into blocks, where there is plenty.
const ARENA_BYTES: u64 = 32 << 20;
/// Memory for rows that are read ahead.
const AHEAD_BYTES: u64 = 64 << 20;
/// The part of the memory for tables that what is known of the batches to come takes: at 1 GiB, 40 batches of 26,000 rows.
const WINDOW_PART: u64 = 48;
/// Fewest records in memory with which it can be worked.
const FEWEST_RECORDS: u64 = 16;

/// The part of a budget that is for tables of rows: their share of all state, but for what the pager needs to stream.
pub(crate) fn budget_share(directory: &Directory, budget: u64) -> u64 {
    const STREAMING_BYTES: u64 = 64 << 20;
    let specs = row_tables(directory);
    if specs.is_empty() {
        return 0;
    }
    let dense = pager::dense_bytes(directory);
    let rows = specs.iter().map(RowTable::bytes).fold(0, u64::saturating_add).max(1);
    let streaming = pager::smallest_budget(directory).max(STREAMING_BYTES.min(budget / 4));
    let most = budget.saturating_sub(streaming);
    let total = u128::from(rows) + u128::from(dense);
    let share = u128::from(budget) * u128::from(rows) / total;
    u64::try_from(share).unwrap_or(most).max(budget / 8).min(most)
}

/// Refuses a budget that is too small for the store's tables beside all else.
pub(crate) fn check_budget(directory: &Directory, budget: u64) -> Result<()> {
    let share = budget_share(directory, budget);
    pager::check_budget(directory, budget - share)?;
    if directory.log_segment().is_none() {
        return Ok(());
    }
    shares(directory, share).map(drop).map_err(|error| match error {
        Error::Budget { what, .. } => {
            Error::Budget { what: format!("a store with {what}"), needed: smallest_budget(directory), budget }
        }
        other => other,
    })
}

/// The least memory with which a store can be opened.
pub(crate) fn smallest_budget(directory: &Directory) -> u64 {
    const STEP_BYTES: u64 = 64 << 10;
    let dense = pager::smallest_budget(directory);
    if directory.log_segment().is_none() {
        return dense;
    }
    let fits = |steps: u64| {
        let budget = steps * STEP_BYTES;
        let share = budget_share(directory, budget);
        budget - share >= dense && shares(directory, share).is_ok()
    };
    let (mut low, mut high) = (0, 1);
    while !fits(high) && high < 1 << 40 {
        (low, high) = (high, high * 2);
    }
    while low + 1 < high {
        let middle = low.midpoint(high);
        if fits(middle) { high = middle } else { low = middle }
    }
    high * STEP_BYTES
}

/// How many rows of each tensor of rows a budget holds in memory.
pub(crate) fn rows_in_memory(directory: &Directory, budget: u64) -> Vec<u64> {
    let shares = shares(directory, budget_share(directory, budget));
    shares.map_or_else(|_| Vec::new(), |shares| shares.records.into_iter().map(to_u64).collect())
}

fn shares(directory: &Directory, share: u64) -> Result<Shares> {
    let log = directory.log_segment().and_then(|at| directory.segments.get(at));
    Shares::of(&row_tables(directory), log.map_or(0, |log| log.bytes), share)
}

/// How the memory for tables is divided.
pub(super) struct Shares {
    pub(super) staging: usize,
    pub(super) arena: usize,
    pub(super) index: usize,
    pub(super) ahead: usize,
    /// What is known of the batches to come.
    pub(super) window: usize,
    /// Records in memory, for each table.
    pub(super) records: Vec<usize>,
}

impl Shares {
    pub(super) fn of(specs: &[RowTable], ring: u64, budget: u64) -> Result<Self> {
        let block = |spec: &RowTable| spec.rows_per_block() * spec.records.bytes();
        let largest_page = specs.iter().map(RowTable::page_bytes).max().unwrap_or(0);
        // A record in the log reaches into a page more than it needs at either end.
        let least_staging = to_u64(2 * largest_page + (16 << 10));
        let staging =
            (budget / 16).clamp(least_staging, STAGING_BYTES.max(least_staging)).next_multiple_of(4096);
        let arena =
            specs.iter().map(block).max().map_or(0, to_u64).max(staging).max((budget / 32).min(ARENA_BYTES));
        let index = budget / 8;
        // Not worth a thread where it would be a few rows.
        let ahead = if budget < 16 << 20 { 0 } else { (budget / 12).min(AHEAD_BYTES) };
        let window = budget / WINDOW_PART;
        let slot = |spec: &RowTable| to_u64(spec.records.bytes() + cache::SLOT_BYTES);
        let fixed = staging + arena + index + ahead + window + to_u64(Log::memory_bytes(ring));
        let needed = fixed + specs.iter().map(|spec| FEWEST_RECORDS * slot(spec)).sum::<u64>();
        let left = budget.saturating_sub(fixed);
        if budget < needed {
            return Err(Error::Budget { what: "tensors of rows".to_owned(), needed, budget });
        }
        let total = specs.iter().map(RowTable::bytes).fold(0, u64::saturating_add).max(1);
        let records = |spec: &RowTable| {
            let share = u128::from(left) * u128::from(spec.bytes()) / u128::from(total);
            let records = u64::try_from(share).unwrap_or(left) / slot(spec);
            to_usize(records.max(FEWEST_RECORDS).min(spec.rows).min(u64::from(u32::MAX) - 1))
        };
        Ok(Self {
            staging: to_usize(staging),
            arena: to_usize(arena),
            index: to_usize(index),
            ahead: to_usize(ahead),
            window: to_usize(window),
            records: specs.iter().map(records).collect(),
        })
    }
}
