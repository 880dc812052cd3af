//! Makes room in the log without touching blocks: what still counts of its oldest part is appended once more.
//!
//! Rows that are used often are appended by every commit, so that most of an old batch counts no longer. As long as that
//! is so, it is cheaper to move the few that do than to write the blocks of all of them.

use super::State;
use super::index::Entry;
use crate::error::Result;
use crate::pager::Pager;
use crate::units::{to_u64, to_usize};

impl State {
    /// Bytes in the log that count, about.
    fn live_bytes(&self) -> u64 {
        let bytes =
            |table: &super::Table| (table.committed.len() + table.working.len()) * table.spec.records.bytes();
        self.tables.iter().map(|table| to_u64(bytes(table))).sum()
    }

    /// Whether less than half of what is used of the log counts.
    pub(super) fn is_mostly_dead(&self) -> bool {
        2 * self.live_bytes() < self.log.used_bytes()
    }

    /// Moves what counts of about `bytes` of the oldest part of the committed log to its end.
    pub(super) fn move_on(&mut self, pager: &Pager, bytes: u64) -> Result<()> {
        let tensors = pager.directory().tensors.len();
        let mut at = self.log.first();
        let until = at.position.saturating_add(bytes);
        while at.position < until.min(self.log.committed_end()) {
            let Self { tables, log, .. } = self;
            let (head, next) = log.read_batch(at, tensors)?;
            let table = tables.iter_mut().find(|table| Some(table.tensor) == head.tensor);
            let Some(table) = table else {
                // The end of the ring.
                log.folded_to(next);
                at = next;
                continue;
            };
            pager.lock().stats_mut().bytes_read += to_u64(head.batch_bytes());
            let mut moved: Vec<(u64, Vec<u8>)> = Vec::new();
            for (row, place, record) in log.records_of(&head)? {
                let standing = table.spec.place(row);
                let is_live = table.in_log(standing.block.0, standing.row_in_block) == Some(place);
                if !is_live {
                    continue;
                }
                match table.cache.find(row) {
                    // It is saved with the others that have changed.
                    Some(slot) => table.cache.set_dirty(slot, true),
                    None => moved.push((row, record.to_vec())),
                }
            }
            if !moved.is_empty() {
                let record_bytes = to_usize(head.record_bytes.into());
                if !log.has_room(moved.len(), record_bytes) {
                    return Ok(());
                }
                let mut state = pager.lock();
                let before = log.tail().position;
                let records: Vec<_> = moved.iter().map(|(row, record)| (*row, record.as_slice())).collect();
                let places = log.append(state.store_mut(), table.tensor, record_bytes, &records)?;
                state.stats_mut().row_log_bytes_written += log.tail().position - before;
                for (&(row, _), at) in records.iter().zip(places) {
                    let standing = table.spec.place(row);
                    let entry = Entry { row_in_block: standing.row_in_block, at };
                    table.working.set(standing.block.0, entry);
                }
            }
            log.folded_to(next);
            at = next;
        }
        Ok(())
    }
}
