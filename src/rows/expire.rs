//! Rows that have not been used for long become unborn again.

use super::{Counted, Rows, State};
use crate::error::Result;
use crate::format::elements::as_f32_mut;
use crate::format::records::{Records, mark, sightings};
use crate::initial::fill_record;
use crate::pager::Pager;
use crate::units::to_usize;

impl Rows {
    /// Gives rows their initial values again that were last used at update `newest` of their tensor, or before. Returns how
    /// many there were.
    pub(crate) fn expire(&self, tensor: usize, newest: u64) -> Result<u64> {
        let (table, live, rows) = {
            let state = self.lock();
            let table = state.table_of(tensor)?;
            (table, state.live_blocks(table), state.tables.get(table).map_or(0, |of| of.spec.rows))
        };
        let (mut row, mut expired) = (0, 0);
        while row < rows {
            let (old, behind) = {
                let mut state = self.lock();
                match state.unborn_until(&self.pager, table, row, &live)? {
                    Some(behind) => (Vec::new(), behind),
                    None => state.old_rows(&self.pager, table, row, newest)?,
                }
            };
            expired += self.reset(tensor, &old)?;
            row = behind;
        }
        Ok(expired)
    }

    fn reset(&self, tensor: usize, rows: &[u64]) -> Result<u64> {
        let (spec, key) = {
            let state = self.lock();
            let Some(of) = state.tables.get(state.table_of(tensor)?) else { return Ok(0) };
            (of.spec.clone(), of.key)
        };
        let mut expired = 0;
        self.with_records(tensor, rows, |range, records| {
            let mut counted = Counted::default();
            for (&row, record) in rows.get(range).unwrap_or_default().iter().zip(records) {
                counted.unborn += u64::from(mark(record) != 0);
                counted.expired += 1;
                fill_record(&spec.records, spec.init, key, row, as_f32_mut(record));
            }
            expired += counted.expired;
            Some(counted)
        })?;
        Ok(expired)
    }
}

impl State {
    /// The rows of a row's block, from it on, that were last used at update `newest` or before; and the row behind them.
    fn old_rows(&mut self, pager: &Pager, table: usize, row: u64, newest: u64) -> Result<(Vec<u64>, u64)> {
        let Some(of) = self.tables.get(table) else { return Ok((Vec::new(), u64::MAX)) };
        let (rows, records) = (of.spec.rows, of.spec.records.clone());
        let mut is_old = vec![false; of.spec.rows_per_block()];
        let end = self.records_of_block(pager, table, row..rows, |at, record| {
            if let Some(is_old) = is_old.get_mut(to_usize(at - row)) {
                *is_old = last_use(&records, record).is_some_and(|last| last <= newest);
            }
        })?;
        let old = (row..end).zip(&is_old).filter(|&(_, &is_old)| is_old).map(|(row, _)| row);
        Ok((old.collect(), end))
    }
}

/// Updates that the tensor had had after a row was last used; `None` for a row that nobody has used.
fn last_use(records: &Records, record: &[u8]) -> Option<u64> {
    let updated = mark(record).checked_sub(1);
    let seen = sightings(record);
    if records.is_hashed() && seen.count > 0 { Some(seen.last.max(updated.unwrap_or(0))) } else { updated }
}
