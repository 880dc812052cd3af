//! From the log into the blocks, so that the log can be used again.

use std::thread;

use super::fetch::{InLog, from_log};
use super::index::{Entry, merged};
use super::log::{LogReader, Mark};
use super::{State, Table};
use crate::error::{Error, Result};
use crate::format::records::seal_page;
use crate::layout::{BlockPlace, Piece};
use crate::pager::{Key, Pager, ReadAhead, Waiter, read_pieces_ahead};
use crate::storage::Buffer;
use crate::units::{BlockIndex, to_u64, to_usize};

/// A pass over everything that stood in the log when it began.
pub(super) struct Pass {
    /// Where the log ended then.
    pub(super) mark: Mark,
    /// Blocks that are left, by table, the next one last.
    pub(super) left: Vec<(usize, u64)>,
    /// Blocks at the beginning.
    pub(super) blocks: usize,
}

/// A block that is to be folded: its rows in the log, the newest place of each, and its changed rows in memory.
struct Job {
    block: BlockIndex,
    entries: Vec<Entry>,
    changed: Vec<u32>,
}

impl State {
    /// Begins a pass over all blocks that have rows in the log.
    pub(super) fn begin_pass(&mut self) {
        let mut left = Vec::new();
        for (at, table) in self.tables.iter().enumerate() {
            let mut blocks = table.committed.blocks();
            blocks.extend(table.working.blocks());
            blocks.sort_unstable();
            blocks.dedup();
            left.extend(blocks.into_iter().map(|block| (at, block)));
        }
        left.reverse();
        self.pass = Some(Pass { mark: self.log.tail(), blocks: left.len(), left });
    }

    /// Goes on with the pass by up to `count` blocks. At its end everything before it is folded.
    pub(super) fn go_on(&mut self, pager: &Pager, count: usize) -> Result<()> {
        let Some(pass) = &mut self.pass else { return Ok(()) };
        let keep = pass.left.len().saturating_sub(count.max(1));
        let mut now = pass.left.split_off(keep);
        now.reverse();
        for part in now.chunk_by(|a, b| a.0 == b.0) {
            let blocks: Vec<_> = part.iter().map(|&(_, block)| block).collect();
            if let Err(error) = self.fold(pager, part.first().map_or(0, |&(table, _)| table), &blocks) {
                // Blocks of this pass are left that it does not know of any more.
                self.pass = None;
                return Err(error);
            }
        }
        if let Some(pass) = self.pass.take_if(|pass| pass.left.is_empty()) {
            self.log.folded_to(pass.mark);
        }
        Ok(())
    }

    /// Writes blocks of a table, ascending, with everything that is newer than they are: rows in the log and changed rows
    /// in memory, which are clean afterwards.
    pub(super) fn fold(&mut self, pager: &Pager, table: usize, blocks: &[u64]) -> Result<()> {
        let Some(of) = self.tables.get(table) else { return Ok(()) };
        if blocks.iter().any(|block| of.folded.contains(block)) {
            // What was read from them has the generation that it will have again, and may be something else.
            self.ahead.iter_mut().for_each(super::Ahead::clear);
        }
        let Some(of) = self.tables.get_mut(table) else { return Ok(()) };
        // Also if this fails half way: from here on they may be written.
        of.folded.extend(blocks);
        let changed = of.cache.all_dirty();
        let jobs: Vec<_> = blocks.iter().map(|&block| of.job(BlockIndex(block), &changed)).collect();
        run_jobs(self, pager, table, &jobs)?;
        pager.write_all()?;
        let Some(of) = self.tables.get_mut(table) else { return Ok(()) };
        pager.lock().stats_mut().row_blocks_folded += to_u64(jobs.len());
        for job in jobs {
            of.folded_now(&job);
        }
        Ok(())
    }
}

impl Table {
    fn job(&self, block: BlockIndex, changed: &[(u64, u32)]) -> Job {
        let entries = merged(self.committed.list(block.0), self.working.list(block.0));
        let rows = self.spec.rows_of(block);
        let from = changed.partition_point(|&(row, _)| row < rows.start);
        let to = changed.partition_point(|&(row, _)| row < rows.end);
        let changed = changed.get(from..to).unwrap_or_default().iter().map(|&(_, at)| at).collect();
        Job { block, entries, changed }
    }

    /// A block has been written with all that is newer than it was.
    fn folded_now(&mut self, job: &Job) {
        let block = job.block.0;
        let committed = self.committed.remove(block);
        if !committed.is_empty() {
            self.stash.insert(block, committed);
        }
        self.working.remove(block);
        for &at in &job.changed {
            self.cache.set_dirty(at, false);
        }
    }
}

/// Writes the blocks of jobs, some at a time, with what they need from the log: read by a thread of its own while the blocks before
/// them are written, if there is memory for both.
fn run_jobs(state: &mut State, pager: &Pager, table: usize, jobs: &[Job]) -> Result<()> {
    let State { tables, log, staging, arena, .. } = state;
    let Some(of) = tables.get(table) else { return Ok(()) };
    let source = Source { of, log: log.reader() };
    let pieces: Vec<_> = jobs.iter().map(|job| piece_of(job.block)).collect();
    let mut target = Target { of, pager, ahead: read_pieces_ahead(pieces.into_iter(), 0..1) };
    let record_bytes = of.spec.records.bytes();
    let half = arena.len() / 2;
    let (mut now, mut next) = arena.split_at_mut(half);
    if now.len() < of.spec.rows_per_block() * record_bytes || pager.is_in_place() {
        for group in groups(jobs, arena.len() / record_bytes) {
            source.read(group, staging, arena, pager)?;
            target.write(group, arena)?;
        }
        return Ok(());
    }
    let groups = groups(jobs, now.len() / record_bytes);
    if let Some(first) = groups.first() {
        source.read(first, staging, now, pager)?;
    }
    for (number, group) in (1..).zip(&groups) {
        let read = || groups.get(number).map_or(Ok(()), |group| source.read(group, staging, next, pager));
        thread::scope(|scope| {
            let thread = thread::Builder::new().name("paramstore-log".to_owned()).spawn_scoped(scope, read);
            let refused = |source| Error::Resource { what: "a thread that reads the log".to_owned(), source };
            let reading = thread.map_err(refused)?;
            let written = target.write(group, now);
            // A panic there goes on here.
            written.and(reading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })?;
        std::mem::swap(&mut now, &mut next);
    }
    Ok(())
}

/// Cuts jobs into runs of which none takes more than `room` records from the log, unless one job does.
fn groups(jobs: &[Job], room: usize) -> Vec<&[Job]> {
    let mut groups = Vec::new();
    let mut left = jobs;
    while !left.is_empty() {
        let mut records = 0;
        let fits = |job: &&Job| {
            records += job.entries.len();
            records <= room
        };
        let (group, rest) = left.split_at(left.iter().take_while(fits).count().max(1));
        groups.push(group);
        left = rest;
    }
    groups
}

/// The log, of which jobs need records.
struct Source<'a> {
    of: &'a Table,
    log: LogReader,
}

impl Source<'_> {
    /// Reads what jobs need into `arena`, a place for each of their entries, one after the other; what is in memory anyhow is left
    /// out.
    fn read(&self, jobs: &[Job], staging: &mut Buffer, arena: &mut [u8], pager: &Pager) -> Result<()> {
        let record_bytes = self.of.spec.records.bytes();
        let mut wants = Vec::new();
        let mut number = 0;
        for job in jobs {
            let first = self.of.spec.rows_of(job.block).start;
            for entry in &job.entries {
                let row = first + u64::from(entry.row_in_block);
                if self.of.cache.find(row).is_none() {
                    wants.push(InLog { at: entry.at, row, tag: number });
                }
                number += 1;
            }
        }
        let read = from_log(&self.log, self.of.tensor, record_bytes, &mut wants, staging, |tag, record| {
            let start = to_usize(tag.into()) * record_bytes;
            if let Some(place) = arena.get_mut(start..start + record_bytes) {
                place.copy_from_slice(record);
            }
        })?;
        pager.lock().stats_mut().bytes_read += read;
        Ok(())
    }
}

/// The blocks of a table.
struct Target<'a> {
    of: &'a Table,
    pager: &'a Pager,
    ahead: ReadAhead<std::vec::IntoIter<Piece>>,
}

impl Target<'_> {
    /// Writes the blocks of jobs, whose records from the log are in `arena`.
    fn write(&mut self, jobs: &[Job], arena: &[u8]) -> Result<()> {
        let Self { of, pager, ahead } = self;
        let record_bytes = of.spec.records.bytes();
        let mut number = 0;
        for job in jobs {
            let place = of.spec.block_place(pager.directory(), job.block);
            let place =
                place.ok_or_else(|| Error::invalid("block of rows", job.block.0, "a block of the table"))?;
            ahead.advance(&mut pager.lock(), &piece_of(job.block))?;
            let mut lease = pager.lease(&[Key { block: job.block, plane: 0 }], Waiter::Caller)?;
            if let Some(bytes) = lease.buffers().first_mut().and_then(|buffer| buffer.get_mut(..place.bytes))
            {
                overlay(of, job, bytes, |entry| {
                    let start = (number + entry) * record_bytes;
                    arena.get(start..start + record_bytes).unwrap_or_default()
                });
                seal(of, pager, &place, bytes);
            }
            number += job.entries.len();
            lease.release(|_| true)?;
        }
        Ok(())
    }
}

/// Writes the newest records of a block over those it has; `from_log` gives that of an entry by number.
fn overlay<'a>(of: &'a Table, job: &Job, bytes: &mut [u8], from_log: impl Fn(usize) -> &'a [u8]) {
    let first = of.spec.rows_of(job.block).start;
    let mut put = |row: u64, record: &[u8]| {
        let place = of.spec.place(row);
        let start = place.page * of.spec.page_bytes() + place.within;
        if let Some(target) = bytes.get_mut(start..start + record.len()) {
            target.copy_from_slice(record);
        }
    };
    for (number, entry) in job.entries.iter().enumerate() {
        let row = first + u64::from(entry.row_in_block);
        match of.cache.find(row) {
            Some(at) => put(row, of.cache.record(at)),
            None => put(row, from_log(number)),
        }
    }
    for &at in &job.changed {
        put(of.cache.row(at), of.cache.record(at));
    }
}

/// Gives all pages of a block their checksums, for the generation in which it will be written.
fn seal(of: &Table, pager: &Pager, place: &BlockPlace, bytes: &mut [u8]) {
    let state = pager.lock();
    let (uuid, generation) = (state.store().uuid(), state.store().working_generation());
    drop(state);
    for (number, page) in bytes.chunks_exact_mut(of.spec.page_bytes()).enumerate() {
        seal_page(uuid, place.slot, generation, number, page);
    }
}

fn piece_of(block: BlockIndex) -> Piece {
    // The pager looks at block and order alone.
    Piece { extent: 0, block, within: 0..0, of_tensor: block.0..block.0 + 1 }
}
