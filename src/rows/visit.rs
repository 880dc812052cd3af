//! Reading a plane of a table in the order of its rows, past the cache.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use super::fetch::{InLog, from_log};
use super::index::merged;
use super::{Rows, State};
use crate::error::{Error, Result};
use crate::format::directory::Init;
use crate::format::elements::bytes_of_mut;
use crate::initial::fill_record;
use crate::pager::{Key, Pager, Run, Waiter};
use crate::units::{BlockIndex, to_u64, to_usize};

/// What is done to a copy of a record before it is shown.
pub(crate) type Change<'a> = dyn Fn(&mut [u8]) + 'a;

impl Rows {
    /// Shows the values that a plane has in a range of rows, in runs, ascending: with every change so far, committed or
    /// not, and with what `change` does to a copy of each record. Rows that were never given values cost next to nothing where their initial values are all the same.
    pub(crate) fn for_each_run(
        &self,
        tensor: usize,
        plane: usize,
        rows: Range<u64>,
        change: Option<&Change<'_>>,
        mut each: impl FnMut(&Run<'_>),
    ) -> Result<()> {
        let mut state = self.lock();
        let table = state.table_of(tensor)?;
        let live = state.live_blocks(table);
        let mut row = rows.start;
        while row < rows.end {
            if let Some((value, until)) = state.constant(&self.pager, (table, plane), row, &live, change)? {
                let until = until.min(rows.end);
                let width = state.width(table, plane);
                each(&Run::Constant { value, elements: (until - row).saturating_mul(to_u64(width)) });
                row = until;
                continue;
            }
            row = state.read_block(&self.pager, (table, plane), row..rows.end, change, &mut each)?;
        }
        Ok(())
    }
}

impl State {
    fn width(&self, table: usize, plane: usize) -> usize {
        self.tables.get(table).map_or(0, |of| of.spec.records.within(plane).len())
    }

    /// Blocks of which something is in the log, or changed in memory.
    pub(super) fn live_blocks(&self, table: usize) -> BTreeSet<u64> {
        let Some(of) = self.tables.get(table) else { return BTreeSet::new() };
        let changed = of.cache.all_dirty().into_iter().map(|(row, _)| of.spec.place(row).block.0);
        of.committed.blocks().into_iter().chain(of.working.blocks()).chain(changed).collect()
    }

    /// The end of the rows from this one on of which no block was ever given values; `None` if its own was.
    pub(super) fn unborn_until(
        &self,
        pager: &Pager,
        table: usize,
        row: u64,
        live: &BTreeSet<u64>,
    ) -> Result<Option<u64>> {
        let Some(of) = self.tables.get(table) else { return Ok(None) };
        let block = of.spec.place(row).block;
        let next_live = live.range(block.0..).next().copied().unwrap_or(u64::MAX);
        let Some(place) = of.spec.block_place(pager.directory(), block).filter(|_| next_live > block.0)
        else {
            return Ok(None);
        };
        let mut state = pager.lock();
        let blocks = match state.store_mut().absent_until(place.slot)? {
            // One entry for each block of rows.
            Some(until) => until.0 - place.slot.0,
            None if state.store_mut().block_entry(place.slot)?.generation == 0 => 1,
            None => return Ok(None),
        };
        let last = (block.0 + blocks).min(next_live).min(of.spec.blocks().end) - 1;
        Ok(Some(of.spec.rows_of(BlockIndex(last)).end))
    }

    /// If a row's plane has the same initial value everywhere, and neither its block nor those behind it up to some row
    /// were ever given values: that value, and that row.
    fn constant(
        &self,
        pager: &Pager,
        (table, plane): (usize, usize),
        row: u64,
        live: &BTreeSet<u64>,
        change: Option<&Change<'_>>,
    ) -> Result<Option<(f32, u64)>> {
        let Some(of) = self.tables.get(table) else { return Ok(None) };
        // What changes a record may make of each plane something of the parameters.
        let of_parameters = plane == 0 || change.is_some();
        if of_parameters && !matches!(of.spec.init, Init::Zeros | Init::Constant(_)) {
            return Ok(None);
        }
        let Some(until) = self.unborn_until(pager, table, row, live)? else { return Ok(None) };
        let mut record = vec![0.0_f32; of.spec.records.len()];
        fill_record(&of.spec.records, of.spec.init, of.key, row, &mut record);
        if let Some(change) = change {
            change(bytes_of_mut(&mut record));
        }
        let value = record.get(of.spec.records.within(plane).start).copied().unwrap_or(0.0);
        Ok(Some((value, until)))
    }

    /// Shows the values of the rows of one block, and returns the row behind them.
    fn read_block(
        &mut self,
        pager: &Pager,
        (table, plane): (usize, usize),
        rows: Range<u64>,
        change: Option<&Change<'_>>,
        each: &mut impl FnMut(&Run<'_>),
    ) -> Result<u64> {
        let Some(of) = self.tables.get(table) else { return Ok(rows.end) };
        let within = of.spec.records.within(plane);
        let bytes = 4 * within.start..4 * within.end;
        let first = rows.start;
        let mut values = vec![0_u8; of.spec.rows_per_block() * bytes.len()];
        let mut copy = vec![0.0_f32; of.spec.records.len()];
        let copy: &mut [u8] = bytes_of_mut(&mut copy);
        let end = self.records_of_block(pager, table, rows, |row, record| {
            let Some(record) = record.get(..copy.len()) else { return };
            copy.copy_from_slice(record);
            if let Some(change) = change {
                change(copy);
            }
            let (start, part) =
                (to_usize(row - first) * bytes.len(), copy.get(bytes.clone()).unwrap_or_default());
            if let Some(target) = values.get_mut(start..start + part.len()) {
                target.copy_from_slice(part);
            }
        })?;
        values.truncate(to_usize(end - first) * bytes.len());
        each(&Run::Bytes(&values));
        Ok(end)
    }

    /// Shows the records of the rows of one block, from the first of `rows` on, and returns the row behind them. Each
    /// row is shown once, from where it is right.
    pub(super) fn records_of_block(
        &mut self,
        pager: &Pager,
        table: usize,
        rows: Range<u64>,
        mut each: impl FnMut(u64, &[u8]),
    ) -> Result<u64> {
        let Self { tables, log, staging, .. } = self;
        let Some(of) = tables.get(table) else { return Ok(rows.end) };
        let spec = &of.spec;
        let record_bytes = spec.records.bytes();
        let block = spec.place(rows.start).block;
        let end = spec.rows_of(block).end.min(rows.end);
        let first = spec.rows_of(block).start;
        let logged: HashMap<u64, u32> = merged(of.committed.list(block.0), of.working.list(block.0))
            .into_iter()
            .map(|entry| (first + u64::from(entry.row_in_block), entry.at))
            .filter(|(row, _)| (rows.start..end).contains(row))
            .collect();
        let is_near = |row: u64| of.cache.find(row).is_some();
        let mut lease = pager.lease(&[Key { block, plane: 0 }], Waiter::Caller)?;
        if let Some(frame) = lease.buffers().first() {
            for row in (rows.start..end).filter(|row| !logged.contains_key(row) && !is_near(*row)) {
                let place = spec.place(row);
                let start = place.page * spec.page_bytes() + place.within;
                each(row, frame.get(start..start + record_bytes).unwrap_or_default());
            }
        }
        lease.release(|_| false)?;
        // All of them, so that damage to what stands there is told.
        let tag = |row: u64| u32::try_from(row - first).unwrap_or(u32::MAX);
        let mut wants: Vec<_> = logged.iter().map(|(&row, &at)| InLog { at, row, tag: tag(row) }).collect();
        let read = from_log(&log.reader(), of.tensor, record_bytes, &mut wants, staging, |tag, record| {
            let row = first + u64::from(tag);
            if !is_near(row) {
                each(row, record.get(..record_bytes).unwrap_or_default());
            }
        })?;
        for row in rows.start..end {
            if let Some(at) = of.cache.find(row) {
                each(row, of.cache.record(at));
            }
        }
        pager.lock().stats_mut().bytes_read += read;
        if end <= rows.start {
            return Err(Error::invalid("row", rows.start, "a row of its block"));
        }
        Ok(end)
    }
}
