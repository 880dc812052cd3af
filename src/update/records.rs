//! The update of records of rows.

use std::ops::Range;
use std::time::Instant;

use rayon::prelude::*;

use super::rows::{Chunk, RowUpdate};
use super::{Engine, on_threads};
use crate::error::Result;
use crate::format::elements::as_f32_mut;
use crate::format::records::{Records, mark};
use crate::kernel::{InstructionSet, MOST_PLANES};
use crate::layout::Named;
use crate::optim::CatchUp;
use crate::pager::elapsed_ns;
use crate::rows::Rows;

/// Rows that one thread takes at a time.
const ROWS: usize = 64;

/// Records to be updated.
pub(crate) struct RecordUpdate<'a> {
    pub(crate) tables: &'a Rows,
    pub(crate) records: &'a Records,
    /// The distinct rows, ascending.
    pub(crate) rows: &'a [u64],
    /// Their new mark.
    pub(crate) mark: u64,
    /// What they have missed.
    pub(crate) catch_up: Option<CatchUp>,
}

impl RowUpdate<'_> {
    /// Updates records. Returns how many elements of the summed gradients were NaN or infinite.
    pub(crate) fn run_records(&self, engine: &Engine, mut update: RecordUpdate<'_>) -> Result<u64> {
        let groups: Vec<&[Named]> = self.rows.groups().collect();
        let mut non_finite = 0;
        let mut compute_ns = 0;
        let RecordUpdate { tables, records: layout, rows, mark, catch_up } = &mut update;
        tables.with_records(self.tensor, rows, Some(*mark), |range: Range<usize>, mut records| {
            let start = Instant::now();
            if let Some(catch_up) = catch_up {
                prepare_from(catch_up, records.iter().map(|record| &**record));
            }
            let groups = groups.get(range).unwrap_or_default();
            let run = |(records, groups): (&mut [&mut [u8]], &[&[Named]])| {
                self.records(engine.isa, layout, catch_up.as_ref(), records, groups)
            };
            non_finite += if records.len() <= ROWS {
                run((&mut records, groups))
            } else {
                on_threads(engine.threads(), || {
                    records.par_chunks_mut(ROWS).zip(groups.par_chunks(ROWS)).map(run).sum::<u64>()
                })
            };
            compute_ns += elapsed_ns(start);
        })?;
        engine.pager.lock().stats_mut().compute_ns += compute_ns;
        Ok(non_finite)
    }

    fn records(
        &self,
        isa: InstructionSet,
        layout: &Records,
        catch_up: Option<&CatchUp>,
        records: &mut [&mut [u8]],
        groups: &[&[Named]],
    ) -> u64 {
        let width = self.rows.width();
        let mut memory = Chunk::default();
        let mut non_finite = 0;
        for (record, named) in records.iter_mut().zip(groups) {
            if let Some(catch_up) = catch_up {
                bring_up(isa, catch_up, layout, record);
            }
            let planes = planes_of(layout, as_f32_mut(record));
            non_finite += self.row(isa, named, 0..width, planes, &mut memory);
        }
        non_finite
    }
}

/// Cuts a record into its planes; those that it does not have are empty.
fn planes_of<'r>(layout: &Records, record: &'r mut [f32]) -> [&'r mut [f32]; 1 + MOST_PLANES] {
    let (mut rest, mut at) = (record, 0);
    std::array::from_fn(|plane| {
        let within = layout.within(plane);
        let (before, behind) =
            std::mem::take(&mut rest).split_at_mut_checked(within.end - at).unwrap_or_default();
        (rest, at) = (behind, within.end);
        before.get_mut(before.len() - within.len().min(before.len())..).unwrap_or_default()
    })
}

/// Updates of its tensor that a record has seen, or missed and been brought up to.
fn done(record: &[u8]) -> u64 {
    mark(record).saturating_sub(1)
}

/// Makes ready for some records.
pub(crate) fn prepare_from<'r>(catch_up: &mut CatchUp, records: impl Iterator<Item = &'r [u8]>) {
    if let Some(oldest) = records.map(done).min() {
        catch_up.prepare_from(oldest);
    }
}

/// Brings a record up to its tensor; its mark stays what it was.
pub(crate) fn bring_up(isa: InstructionSet, catch_up: &CatchUp, layout: &Records, record: &mut [u8]) {
    let done = done(record);
    if catch_up.missed(done) == 0 {
        return;
    }
    let mut planes = planes_of(layout, as_f32_mut(record));
    let [param, state @ ..] = &mut planes;
    let state = state.get_mut(..layout.planes.len() - 1).unwrap_or_default();
    catch_up.run(isa, done, param, state);
}
