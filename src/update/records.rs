//! The update of records of rows.

use std::ops::Range;
use std::time::Instant;

use rayon::prelude::*;

use super::rows::{CHUNK_LEN, Chunk, RowUpdate};
use super::{Engine, on_threads};
use crate::error::Result;
use crate::format::elements::{as_f32, as_f32_mut};
use crate::format::records::{Records, mark, set_mark, set_sightings, sightings};
use crate::kernel::{InstructionSet, MOST_PLANES};
use crate::layout::Named;
use crate::optim::CatchUp;
use crate::pager::elapsed_ns;
use crate::rows::{Counted, Rows};
use crate::units::to_u64;

/// Rows that one thread takes at a time.
const ROWS: usize = 64;

/// Records to be updated.
pub(crate) struct RecordUpdate<'a> {
    pub(crate) tables: &'a Rows,
    pub(crate) layout: &'a Records,
    /// The distinct rows, ascending.
    pub(crate) rows: &'a [u64],
    /// The ids that were hashed to the rows, in the order of the gradients; empty where rows were named.
    pub(crate) ids: &'a [u64],
    /// Updates that the tensor has had with this one.
    pub(crate) updates: u64,
    /// What the rows have missed.
    pub(crate) catch_up: Option<CatchUp>,
}

impl RowUpdate<'_> {
    /// Updates records. Returns how many elements of the summed gradients were NaN or infinite.
    pub(crate) fn run_records(&self, engine: &Engine, mut update: RecordUpdate<'_>) -> Result<u64> {
        let groups: Vec<&[Named]> = self.rows.groups().collect();
        let mut non_finite = 0;
        let mut compute_ns = 0;
        let (tables, rows) = (update.tables, update.rows);
        tables.with_records(self.tensor, rows, |range: Range<usize>, mut records| {
            let start = Instant::now();
            if let Some(catch_up) = &mut update.catch_up {
                prepare_from(catch_up, records.iter().map(|record| &**record));
            }
            let groups = groups.get(range).unwrap_or_default();
            let run = |(records, groups): (&mut [&mut [u8]], &[&[Named]])| {
                self.records(engine.isa, &update, records, groups)
            };
            let (found, counted) = if records.len() <= ROWS {
                run((&mut records, groups))
            } else {
                on_threads(engine.threads(), || {
                    let parts =
                        records.par_chunks_mut(ROWS).zip(groups.par_chunks(ROWS)).with_max_len(1).map(run);
                    parts.reduce(Default::default, |a, b| (a.0 + b.0, a.1 + b.1))
                })
            };
            non_finite += found;
            compute_ns += elapsed_ns(start);
            Some(counted)
        })?;
        engine.pager.lock().stats_mut().compute_ns += compute_ns;
        Ok(non_finite)
    }

    fn records(
        &self,
        isa: InstructionSet,
        update: &RecordUpdate<'_>,
        records: &mut [&mut [u8]],
        groups: &[&[Named]],
    ) -> (u64, Counted) {
        let width = self.rows.width();
        if update.catch_up.is_none() && !self.rule.is_rowwise() && 2 * width <= CHUNK_LEN {
            return self.many(isa, update, records, groups);
        }
        let mut memory = Chunk::default();
        let (mut non_finite, mut counted) = (0, Counted::default());
        for (record, named) in records.iter_mut().zip(groups) {
            if !update.ids.is_empty() && !see(update, record, named, &mut counted) {
                continue;
            }
            if let Some(catch_up) = &update.catch_up {
                bring_up(isa, catch_up, update.layout, record);
            }
            let planes = planes_of(update.layout, as_f32_mut(record));
            non_finite += self.row(isa, named, 0..width, planes, &mut memory);
            counted.born += u64::from(mark(record) == 0);
            set_mark(record, update.updates.saturating_add(1));
        }
        (non_finite, counted)
    }

    /// The same for records without anything to catch up, several by one call of the rule: their planes are copied side by
    /// side and back, which lets the processor fetch the next records while it works on these.
    fn many(
        &self,
        isa: InstructionSet,
        update: &RecordUpdate<'_>,
        records: &mut [&mut [u8]],
        groups: &[&[Named]],
    ) -> (u64, Counted) {
        let width = self.rows.width();
        let mut memory = SideBySide::default();
        let mut taken = Vec::with_capacity(CHUNK_LEN / width);
        let (mut non_finite, mut counted) = (0, Counted::default());
        let parts = records.chunks_mut(CHUNK_LEN / width).zip(groups.chunks(CHUNK_LEN / width));
        for (records, groups) in parts {
            taken.clear();
            for (record, named) in records.iter_mut().zip(groups) {
                if update.ids.is_empty() || see(update, record, named, &mut counted) {
                    let to = taken.len() * width..(taken.len() + 1) * width;
                    let sum = memory.gradient.get_mut(to.clone()).unwrap_or_default();
                    self.sum(isa, named, &(0..width), sum);
                    let values = as_f32(record);
                    for (number, plane) in memory.planes.iter_mut().take(self.planes).enumerate() {
                        copy(plane.get_mut(to.clone()), values.get(update.layout.within(number)));
                    }
                    taken.push(record);
                }
            }
            let len = taken.len() * width;
            let mut planes = memory.planes.each_mut().map(|plane| plane.get_mut(..len).unwrap_or_default());
            let gradient = memory.gradient.get(..len).unwrap_or_default();
            non_finite += self.apply(isa, &mut planes, gradient, &mut memory.ready);
            for (at, record) in taken.drain(..).enumerate() {
                let from = at * width..(at + 1) * width;
                let values = as_f32_mut(record);
                for (number, plane) in memory.planes.iter().take(self.planes).enumerate() {
                    copy(values.get_mut(update.layout.within(number)), plane.get(from.clone()));
                }
                counted.born += u64::from(mark(record) == 0);
                set_mark(record, update.updates.saturating_add(1));
            }
        }
        (non_finite, counted)
    }
}

/// Planes of several records, each side by side, and their gradients: they stay in the first-level cache.
struct SideBySide {
    planes: [[f32; CHUNK_LEN]; 1 + MOST_PLANES],
    gradient: [f32; CHUNK_LEN],
    ready: [f32; CHUNK_LEN],
}

impl Default for SideBySide {
    fn default() -> Self {
        let zeros = [0.0; CHUNK_LEN];
        Self { planes: [zeros; 1 + MOST_PLANES], gradient: zeros, ready: zeros }
    }
}

fn copy(to: Option<&mut [f32]>, from: Option<&[f32]>) {
    if let (Some(to), Some(from)) = (to, from)
        && to.len() == from.len()
    {
        to.copy_from_slice(from);
    }
}

/// Notes that ids were hashed to a row. Returns whether it has been seen often enough to be updated.
fn see(update: &RecordUpdate<'_>, record: &mut [u8], named: &[Named], counted: &mut Counted) -> bool {
    let mut seen = sightings(record);
    for named in named {
        let id = update.ids.get(named.position).copied().unwrap_or(0);
        if seen.count == 0 {
            seen.id = id;
        }
        counted.collided += u64::from(seen.id != id);
        seen.count = seen.count.saturating_add(1);
    }
    seen.last = update.updates;
    set_sightings(record, seen);
    let is_admitted = seen.count >= update.layout.admission;
    if !is_admitted {
        counted.not_admitted += to_u64(named.len());
    }
    is_admitted
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
