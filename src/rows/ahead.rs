//! Records that are read before they are asked for, in a thread of their own.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;

use super::cache::RowMap;
use super::fetch::{InLog, InPage, from_log, from_pages};
use super::log::LogReader;
use crate::error::Result;
use crate::format::Uuid;
use crate::storage::{Buffer, Queue, Segment};
use crate::units::to_usize;

/// Batches that are read ahead at once.
const BATCHES: usize = 2;
/// Memory for the reads of one batch that are under way.
const STAGING_BYTES: usize = 1 << 20;

/// Where a record stood when it was read; what stands there does not change, and a record that changes goes elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// At a position of the log.
    Log(u64),
    /// In its block, as written in a generation.
    Block(u64),
}

/// What is to be read: rows of a table with their tags, which count from 0, and where they stand.
pub(super) struct Wanted {
    pub(super) table: usize,
    pub(super) tensor: u32,
    pub(super) uuid: Uuid,
    pub(super) page_bytes: usize,
    pub(super) record_bytes: usize,
    pub(super) rows: Vec<(u64, u32, Standing)>,
    pub(super) in_log: Vec<InLog>,
    pub(super) in_pages: Vec<(Arc<dyn Segment>, Vec<InPage>)>,
    pub(super) log: LogReader,
}

/// Records that have arrived.
struct Arrived {
    table: usize,
    rows: RowMap<(Standing, usize)>,
    record_bytes: usize,
    records: Buffer,
    /// How many have been asked for.
    used: Cell<usize>,
    /// Batches of the table that were to be read ahead since.
    later: u32,
}

impl Arrived {
    /// Whether its batch has come; another one asks for a few of its rows at most.
    fn is_used(&self) -> bool {
        2 * self.used.get() >= self.rows.len()
    }

    /// Whether its batch may never come: the next one is told of before it comes, but not the one after that.
    fn is_late(&self) -> bool {
        self.later > 1
    }
}

/// A finished job: its memory, and what it read, if it read all of it.
struct Done {
    staging: Buffer,
    arrived: Option<Arrived>,
    bytes_read: u64,
}

/// A job under way.
struct Pending {
    table: usize,
    /// Ascending.
    rows: Vec<u64>,
    /// Memory of its records.
    bytes: usize,
    /// See [`Arrived::later`].
    later: u32,
}

pub(super) struct Ahead {
    queue: Queue<Done>,
    staging: Vec<Buffer>,
    /// Bytes of records of all batches.
    bytes: usize,
    pending: VecDeque<Pending>,
    arrived: Vec<Arrived>,
    /// Bytes that were read and have not been counted.
    bytes_read: u64,
}

impl Ahead {
    /// Reads in a thread of its own, with `bytes` of memory.
    pub(super) fn new(bytes: usize) -> Result<Self> {
        let staging = STAGING_BYTES.min(bytes / 4 / BATCHES) / 4096 * 4096;
        let bytes = bytes - staging * BATCHES;
        let staging = (0..BATCHES).map(|_| Buffer::new(staging)).collect::<Result<_>>()?;
        let (pending, arrived) = (VecDeque::new(), Vec::new());
        Ok(Self { queue: Queue::new(1)?, staging, bytes, pending, arrived, bytes_read: 0 })
    }

    /// How many records of that size can be read ahead for another batch of a table. What waits for batches that come before
    /// it stays: thrown away, it would be read twice.
    pub(super) fn room(&mut self, table: usize, record_bytes: usize) -> usize {
        self.pending.iter_mut().filter(|of| of.table == table).for_each(|of| of.later += 1);
        self.arrived.iter_mut().filter(|of| of.table == table).for_each(|of| of.later += 1);
        while self.pending.len() >= BATCHES {
            let Some(done) = self.queue.try_recv() else { return 0 };
            self.take_in(done);
        }
        self.arrived.retain(|arrived| !arrived.is_used() && !arrived.is_late());
        let taken = self.pending.iter().map(|pending| pending.bytes).sum::<usize>()
            + self.arrived.iter().map(|arrived| arrived.records.len()).sum::<usize>();
        self.bytes.saturating_sub(taken) / record_bytes
    }

    /// Whether a row is on its way, or has come for a batch that has not.
    pub(super) fn is_pending(&self, table: usize, row: u64) -> bool {
        let is_coming =
            |pending: &Pending| pending.table == table && pending.rows.binary_search(&row).is_ok();
        let has_come = |arrived: &Arrived| {
            arrived.table == table && !arrived.is_used() && arrived.rows.contains_key(&row)
        };
        self.pending.iter().any(is_coming) || self.arrived.iter().any(has_come)
    }

    /// Begins to read; there is room. `missing` are all rows of the batch, ascending, that were not in memory, also those
    /// for which there was no room, so that no other batch waits for them. Failures are left to the read that is made when
    /// the row is asked for.
    pub(super) fn begin(&mut self, wanted: Wanted, missing: Vec<u64>) -> Result<()> {
        let Some(mut staging) = self.staging.pop() else { return Ok(()) };
        let tags = wanted.rows.last().map_or(0, |&(_, tag, _)| to_usize(tag.into()) + 1);
        let records = Buffer::new(tags * wanted.record_bytes)?;
        self.pending.push_back(Pending {
            table: wanted.table,
            rows: missing,
            bytes: records.len(),
            later: 0,
        });
        self.queue.submit(move || {
            let read = read(wanted, &mut staging, records);
            let (arrived, bytes_read) = read.map_or((None, 0), |(arrived, bytes)| (Some(arrived), bytes));
            Done { staging, arrived, bytes_read }
        });
        Ok(())
    }

    /// Waits until none of some rows, ascending, is on its way. Returns the bytes that were read since it was asked last.
    pub(super) fn wait_for(&mut self, table: usize, rows: &[u64]) -> u64 {
        let is_needed = |pending: &Pending| {
            pending.table == table && rows.iter().any(|row| pending.rows.binary_search(row).is_ok())
        };
        // Jobs end in the order in which they began.
        let needed = self.pending.iter().rposition(is_needed).map_or(0, |last| last + 1);
        for _ in 0..needed {
            let Some(done) = self.queue.recv() else { break };
            self.take_in(done);
        }
        std::mem::take(&mut self.bytes_read)
    }

    fn take_in(&mut self, done: Done) {
        let Done { staging, arrived, bytes_read } = done;
        self.bytes_read += bytes_read;
        let later = self.pending.pop_front().map_or(0, |pending| pending.later);
        self.staging.push(staging);
        self.arrived.extend(arrived.map(|arrived| Arrived { later, ..arrived }));
    }

    /// A record that has arrived, if it stands where it stood.
    pub(super) fn record(&self, table: usize, row: u64, standing: Standing) -> Option<&[u8]> {
        let found = |arrived: &'_ Arrived| {
            let &(stood, at) = arrived.rows.get(&row).filter(|_| arrived.table == table)?;
            (stood == standing).then_some(at)
        };
        let (arrived, at) = self.arrived.iter().rev().find_map(|arrived| Some((arrived, found(arrived)?)))?;
        arrived.used.set(arrived.used.get() + 1);
        arrived.records.get(at * arrived.record_bytes..(at + 1) * arrived.record_bytes)
    }

    /// Forgets everything that is on its way or has arrived.
    pub(super) fn clear(&mut self) {
        while let Some(done) = self.queue.recv() {
            self.take_in(done);
        }
        self.arrived.clear();
    }
}

fn read(wanted: Wanted, staging: &mut Buffer, mut records: Buffer) -> Result<(Arrived, u64)> {
    let Wanted { table, tensor, uuid, page_bytes, record_bytes, rows, mut in_log, in_pages, log } = wanted;
    let mut take = |number: u32, bytes: &[u8]| {
        let start = to_usize(number.into()) * record_bytes;
        if let (Some(place), Some(bytes)) =
            (records.get_mut(start..start + record_bytes), bytes.get(..record_bytes))
        {
            place.copy_from_slice(bytes);
        }
    };
    let mut bytes_read = 0;
    for (file, wants) in &in_pages {
        bytes_read += from_pages(file, uuid, page_bytes, wants, staging, &mut take)?;
    }
    bytes_read += from_log(&log, tensor, record_bytes, &mut in_log, staging, &mut take)?;
    let place = |(row, tag, standing): (u64, u32, Standing)| (row, (standing, to_usize(tag.into())));
    let rows = rows.into_iter().map(place).collect();
    Ok((Arrived { table, rows, record_bytes, records, used: Cell::new(0), later: 0 }, bytes_read))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD_BYTES: usize = 64;

    /// What has arrived for a batch of a table, of so many records.
    fn arrived(table: usize, records: usize) -> Arrived {
        let rows = (0..records).map(|at| (at as u64, (Standing::Block(1), at))).collect();
        let records = Buffer::new(records * RECORD_BYTES).unwrap();
        Arrived { table, rows, record_bytes: RECORD_BYTES, records, used: Cell::new(0), later: 0 }
    }

    #[test]
    fn records_wait_for_their_batch_though_the_next_one_has_no_room() {
        let mut ahead = Ahead::new(1 << 20).unwrap();
        let all = ahead.room(0, RECORD_BYTES);
        ahead.arrived.push(arrived(0, all));
        assert_eq!(
            ahead.room(0, RECORD_BYTES),
            0,
            "of the next batch, which is told of before this one comes"
        );
        assert!(ahead.record(0, 7, Standing::Block(1)).is_some());
        for _ in 0..3 {
            assert_eq!(ahead.room(1, RECORD_BYTES), 0, "batches of another table are no later ones");
        }
        assert!(ahead.is_pending(0, 8));
        assert_eq!(ahead.room(0, RECORD_BYTES), all, "a batch that does not come");
        assert!(ahead.record(0, 7, Standing::Block(1)).is_none());
    }

    #[test]
    fn records_of_a_batch_that_has_come_give_way_to_the_next_one() {
        let mut ahead = Ahead::new(1 << 20).unwrap();
        let all = ahead.room(0, RECORD_BYTES);
        ahead.arrived.push(arrived(0, all / 2 + 1));
        let half = ahead.room(0, RECORD_BYTES);
        assert!(half > 0 && half < all / 2 + 1, "{half} of {all}");
        for row in 0..all as u64 / 2 {
            assert!(ahead.record(0, row, Standing::Block(1)).is_some());
            assert!(ahead.record(0, row, Standing::Log(1)).is_none(), "it stands elsewhere now");
        }
        assert_eq!(ahead.room(0, RECORD_BYTES), all);
    }
}
