//! What a commit wants of the tables, and what it leaves behind.

use super::ahead::Ahead;
use super::index::{Entry, Index, ROW_BYTES};
use super::log::Log;
use super::{Rows, State, Table, counting, wrong_counts};
use crate::error::Result;
use crate::format::row_log::RowState;
use crate::pager::Pager;
use crate::store::BlockStore;
use crate::units::{to_u64, to_usize};

/// Changed rows that are saved along when others have to be: a batch is a page at least.
const SPILL_ALONG: usize = 1024;

impl Rows {
    /// Brings every changed row to where a commit finds it, and returns what the record has to say. The pager writes
    /// blocks that were folded afterwards, like any others.
    pub(crate) fn prepare_commit(&self) -> Result<RowState> {
        let mut state = self.lock();
        state.clean(&self.pager)?;
        for table in 0..state.tables.len() {
            state.refold(&self.pager, table)?;
            state.save(&self.pager, table)?;
        }
        let counts = state.tables.iter().map(|table| table.counts[0]).collect();
        Ok(state.log.state(counts))
    }

    /// The working generation has been committed.
    pub(crate) fn committed(&self) {
        let mut state = self.lock();
        state.log.committed();
        for table in &mut state.tables {
            table.committed.merge(std::mem::take(&mut table.working));
            table.stash.clear();
            table.folded.clear();
            table.counts[1] = table.counts[0];
        }
    }

    /// Forgets everything that is not committed; the pager has forgotten its part.
    pub(crate) fn roll_back(&self) {
        let mut state = self.lock();
        state.log.discard();
        state.pass = None;
        state.ahead.iter_mut().for_each(Ahead::clear);
        for table in &mut state.tables {
            table.cache.clear();
            table.working.clear();
            let mut before = Index::default();
            for (block, entries) in table.stash.drain() {
                before.restore(block, entries);
            }
            table.committed.merge(before);
            table.folded.clear();
            table.counts[0] = table.counts[1];
        }
    }

    /// Begins anew with what the committed generation has, which is another one than it was.
    pub(crate) fn reload(&self) -> Result<()> {
        let mut state = self.lock();
        let mut pager = self.pager.lock();
        let store = pager.store_mut();
        let Some(rows) = store.record().rows.clone() else { return Ok(()) };
        state.pass = None;
        state.ahead.iter_mut().for_each(Ahead::clear);
        for table in &mut state.tables {
            table.cache.clear();
            table.stash.clear();
            table.folded.clear();
        }
        state.log.reopen(&rows);
        state.find(store, &rows)
    }

    /// Whether the log has room for so many bytes of batches.
    pub(crate) fn has_room(&self, bytes: u64) -> bool {
        self.lock().log.has_room_for_bytes(bytes)
    }

    /// Takes what a checkpoint has in its log over into this one, for a commit that follows at once; the blocks have been
    /// restored. Returns what its record has to say.
    pub(crate) fn restore(&self, kept: &mut BlockStore) -> Result<RowState> {
        let mut state = self.lock();
        let Some(theirs) = kept.record().rows.clone() else { return Ok(state.log.state(Vec::new())) };
        if theirs.counts.len() != state.tables.len() {
            return Err(wrong_counts(kept, theirs.counts.len(), state.tables.len()));
        }
        let Some(mut log) = Log::open(kept, &theirs)? else { return Ok(state.log.state(Vec::new())) };
        let mark = state.log.tail();
        state.log.folded_to(mark);
        let mut pager = self.pager.lock();
        let State { tables, log: own, .. } = &mut *state;
        let tensors = kept.directory().tensors.len();
        log.copy_to(tensors, own, pager.store_mut(), |head, rows| Ok(counting(tables, kept, head, rows)?.1))?;
        Ok(state.log.state(theirs.counts))
    }

    /// Folds everything that the log has, so that the next commit leaves it empty.
    pub(crate) fn fold_all(&self) -> Result<()> {
        let mut state = self.lock();
        state.begin_pass();
        let blocks = state.pass.as_ref().map_or(0, |pass| pass.blocks);
        state.go_on(&self.pager, blocks)
    }
}

/// The log, and what is known of it in memory, in parts: a pass over the blocks begins when so many of them are full, takes
/// as long as one more, and is ended at once if it takes two. The later it begins, the more rows share it.
const PARTS: u64 = 16;
const PASS_BEGINS: u64 = 13;
const PASS_ENDS: u64 = 15;

impl State {
    /// Folds a part of what stands in the log if much of it is in use: as much as keeps pace with what is appended, so that
    /// no commit has to fold everything.
    fn clean(&mut self, pager: &Pager) -> Result<()> {
        let ring = self.log.ring_bytes();
        let index =
            self.tables.iter().map(|table| table.committed.bytes() + table.working.bytes()).sum::<usize>();
        let is_index_full = |part: u64| index > self.index_bytes / to_usize(PARTS) * to_usize(part);
        let is_full = |part: u64| self.log.used_bytes() > ring / PARTS * part || is_index_full(part);
        let is_urgent = is_full(PASS_ENDS);
        let changed = |table: &Table| to_u64(table.cache.dirty() * table.spec.records.bytes());
        let appended = self.tables.iter().map(changed).sum::<u64>() + self.log.uncommitted_bytes();
        if self.pass.is_none() {
            if !is_full(PASS_BEGINS) {
                return Ok(());
            }
            if !is_index_full(PASS_BEGINS) && self.is_mostly_dead() && !is_urgent {
                // More than is appended, so that the log does not go on to fill.
                return self.move_on(pager, appended.saturating_mul(2));
            }
            self.begin_pass();
        }
        let Some(pass) = &self.pass else { return Ok(()) };
        // A pass is over by the time one part more of what fills first is full.
        let smallest = self.tables.iter().map(|table| table.spec.records.bytes()).min().unwrap_or(1).max(1);
        let of_log = (appended, ring);
        let of_index = (appended / to_u64(smallest) * to_u64(ROW_BYTES), to_u64(self.index_bytes));
        let share = |(more, of): (u64, u64)| {
            u128::from(more) * u128::from(PARTS) * u128::try_from(pass.blocks).unwrap_or(0)
                / u128::from(of.max(1))
        };
        let share = share(of_log).max(share(of_index));
        let count = if is_urgent { pass.blocks } else { usize::try_from(share).unwrap_or(pass.blocks) };
        self.go_on(pager, count)
    }

    /// Folds blocks once more that the working generation has written, and that have rows which are newer.
    fn refold(&mut self, pager: &Pager, table: usize) -> Result<()> {
        let Some(of) = self.tables.get(table) else { return Ok(()) };
        if of.folded.is_empty() {
            return Ok(());
        }
        let changed = of.cache.all_dirty().into_iter().map(|(row, _)| of.spec.place(row).block.0);
        let mut blocks: Vec<_> = changed.chain(of.working.blocks()).collect();
        blocks.retain(|block| of.folded.contains(block));
        blocks.sort_unstable();
        blocks.dedup();
        if blocks.is_empty() { Ok(()) } else { self.fold(pager, table, &blocks) }
    }

    /// Appends all changed rows to the log, or folds them if it has no room.
    fn save(&mut self, pager: &Pager, table: usize) -> Result<()> {
        let Some(of) = self.tables.get(table) else { return Ok(()) };
        let changed = of.cache.all_dirty();
        self.append(pager, table, &changed)
    }

    /// Saves the changed ones of some slots, and a few others along with them, so that their memory can be used.
    pub(super) fn spill(&mut self, pager: &Pager, table: usize, victims: &[u32]) -> Result<()> {
        let Some(of) = self.tables.get(table) else { return Ok(()) };
        let mut slots: Vec<_> = victims.iter().copied().filter(|&at| of.cache.is_dirty(at)).collect();
        slots.extend(of.cache.dirty_ahead(SPILL_ALONG.saturating_sub(slots.len())));
        let mut rows: Vec<_> = slots.into_iter().map(|at| (of.cache.row(at), at)).collect();
        rows.sort_unstable();
        rows.dedup();
        self.append(pager, table, &rows)
    }

    fn append(&mut self, pager: &Pager, table: usize, rows: &[(u64, u32)]) -> Result<()> {
        let Some(of) = self.tables.get_mut(table) else { return Ok(()) };
        if rows.is_empty() {
            return Ok(());
        }
        if !self.log.has_room(rows.len(), of.spec.records.bytes()) {
            let mut blocks: Vec<_> = rows.iter().map(|&(row, _)| of.spec.place(row).block.0).collect();
            blocks.dedup();
            return self.fold(pager, table, &blocks);
        }
        let mut state = pager.lock();
        let before = self.log.tail().position;
        let records: Vec<_> = rows.iter().map(|&(row, at)| (row, of.cache.record(at))).collect();
        let places = self.log.append(state.store_mut(), of.tensor, of.spec.records.bytes(), &records)?;
        state.stats_mut().row_log_bytes_written += self.log.tail().position - before;
        drop(state);
        for (&(row, at), place) in rows.iter().zip(places) {
            let standing = of.spec.place(row);
            of.working.set(standing.block.0, Entry { row_in_block: standing.row_in_block, at: place });
            of.cache.set_dirty(at, false);
        }
        Ok(())
    }
}
