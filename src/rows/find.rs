//! From rows that are not in memory to where they stand, and from there into memory, now or ahead of time.

use std::sync::Arc;
use std::time::Instant;

use super::ahead::{Standing, Wanted};
use super::fetch::{InLog, InPage, from_log, from_pages};
use super::log::LogReader;
use super::{State, Table};
use crate::error::{Error, Result};
use crate::format::elements::as_f32_mut;
use crate::initial::fill_record;
use crate::pager::{Pager, elapsed_ns};
use crate::storage::{Caching, Segment};
use crate::store::Home;
use crate::units::to_u64;

/// Where rows stand that are not in memory.
struct Found<'a> {
    unborn: Vec<(u64, u32)>,
    /// Records that have been read ahead.
    arrived: Vec<(u32, &'a [u8])>,
    in_log: Vec<InLog>,
    in_pages: Vec<(Arc<dyn Segment>, Vec<InPage>)>,
}

impl State {
    /// Fills claimed slots with the records of their rows, ascending.
    pub(super) fn fetch(&mut self, pager: &Pager, table: usize, rows: &[u64], slots: &[u32]) -> Result<()> {
        let start = Instant::now();
        let mut read = self.ahead.as_mut().map_or(0, |ahead| ahead.wait_for(table, rows));
        let waited = elapsed_ns(start);
        let Self { tables, log, staging, ahead, .. } = self;
        let (Some(of), log) = (tables.get_mut(table), log.reader()) else { return Ok(()) };
        let mut found =
            of.find(pager, &log, rows.iter().copied().zip(slots.iter().copied()), |row, _, standing| {
                ahead.as_ref().and_then(|ahead| ahead.record(table, row, standing))
            })?;
        let record_bytes = of.spec.records.bytes();
        for &(row, at) in &found.unborn {
            let record = as_f32_mut(of.cache.record_mut(at));
            fill_record(&of.spec.records, of.spec.init, of.key, row, record);
        }
        for &(at, record) in &found.arrived {
            of.cache.record_mut(at).copy_from_slice(record);
        }
        let start = Instant::now();
        let (cache, uuid, page_bytes) = (&mut of.cache, log.uuid, of.spec.page_bytes());
        let mut take = |at: u32, bytes: &[u8]| {
            if let Some(bytes) = bytes.get(..record_bytes) {
                cache.record_mut(at).copy_from_slice(bytes);
            }
        };
        for (file, wants) in &found.in_pages {
            read += from_pages(file, uuid, page_bytes, wants, staging, &mut take)?;
        }
        read += from_log(&log, of.tensor, record_bytes, &mut found.in_log, staging, &mut take)?;
        let mut state = pager.lock();
        let stats = state.stats_mut();
        stats.bytes_read += read;
        stats.stall_read_ns += waited + elapsed_ns(start);
        Ok(())
    }

    /// Begins to read the rows of the batch that follows the one at hand, if it is known.
    pub(super) fn read_following(&mut self, pager: &Pager, table: usize) -> Result<()> {
        let Some(of) = self.tables.get_mut(table) else { return Ok(()) };
        let Some(rows) = of.window.take_following() else { return Ok(()) };
        self.read_ahead(pager, table, &rows)
    }

    /// Begins to read those of distinct rows, ascending, that are not in memory.
    pub(super) fn read_ahead(&mut self, pager: &Pager, table: usize, rows: &[u64]) -> Result<()> {
        let (Some(ahead), Some(of)) = (&mut self.ahead, self.tables.get_mut(table)) else { return Ok(()) };
        let record_bytes = of.spec.records.bytes();
        let room = ahead.room(table, record_bytes);
        let is_missing = |row: &u64| of.cache.find(*row).is_none() && !ahead.is_pending(table, *row);
        let missing: Vec<u64> = rows.iter().copied().filter(is_missing).collect();
        if missing.is_empty() || room == 0 {
            return Ok(());
        }
        let log = self.log.reader();
        let mut wanted = Vec::with_capacity(missing.len());
        let rows = missing.iter().copied().take(room).zip(0..);
        // Rows that stand nowhere are born when they are asked for.
        let Found { in_log, in_pages, .. } = of.find(pager, &log, rows, |row, tag, standing| {
            wanted.push((row, tag, standing));
            None
        })?;
        let wanted = Wanted {
            table,
            tensor: of.tensor,
            uuid: log.uuid,
            page_bytes: of.spec.page_bytes(),
            record_bytes,
            rows: wanted,
            in_log,
            in_pages,
            log,
        };
        ahead.begin(wanted, missing)
    }
}

impl Table {
    /// Finds out where rows, ascending, each with a tag, stand; `arrived` is asked for each that stands on disk.
    fn find<'a>(
        &self,
        pager: &Pager,
        log: &LogReader,
        rows: impl Iterator<Item = (u64, u32)>,
        mut arrived: impl FnMut(u64, u32, Standing) -> Option<&'a [u8]>,
    ) -> Result<Found<'a>> {
        let mut found =
            Found { unborn: Vec::new(), arrived: Vec::new(), in_log: Vec::new(), in_pages: Vec::new() };
        let mut in_homes: [Vec<(usize, InPage)>; 2] = [Vec::new(), Vec::new()];
        let mut state = pager.lock();
        let store = state.store_mut();
        let mut block = None;
        for (row, tag) in rows {
            let place = self.spec.place(row);
            if let Some(at) = self.in_log(place.block.0, place.row_in_block) {
                match arrived(row, tag, Standing::Log(log.position_of(at))) {
                    Some(record) => found.arrived.push((tag, record)),
                    None => found.in_log.push(InLog { at, row, tag }),
                }
                continue;
            }
            let known = block.filter(|&(number, _, _)| number == place.block);
            let (_, standing, entry) = if let Some(known) = known {
                known
            } else {
                let standing = self.spec.block_place(pager.directory(), place.block);
                let standing = standing.ok_or_else(|| Error::invalid("row", row, "a row of the table"))?;
                (place.block, standing, store.block_entry(standing.slot)?)
            };
            block = Some((place.block, standing, entry));
            if entry.generation == 0 {
                found.unborn.push((row, tag));
            } else if let Some(record) = arrived(row, tag, Standing::Block(entry.generation)) {
                found.arrived.push((tag, record));
            } else if let Some(list) = in_homes.get_mut(usize::from(entry.home)) {
                let offset = standing.offset + to_u64(place.page * self.spec.page_bytes());
                let (slot, generation, number) = (standing.slot, entry.generation, place.page);
                let want = InPage { offset, slot, generation, number, within: place.within, tag };
                list.push((standing.segment, want));
            }
        }
        for (home, list) in (0..).zip(&in_homes) {
            for part in list.chunk_by(|a, b| a.0 == b.0) {
                let Some(&(segment, _)) = part.first() else { continue };
                let file = store.segment(segment, Home(home), Caching::Direct)?;
                found.in_pages.push((file, part.iter().map(|&(_, want)| want).collect()));
            }
        }
        Ok(found)
    }
}
