//! The update of records of rows.

use std::ops::Range;
use std::time::Instant;

use rayon::prelude::*;

use super::rows::{Chunk, RowUpdate};
use super::{Engine, on_threads};
use crate::error::Result;
use crate::format::elements::as_f32_mut;
use crate::format::records::RECORD_HEADER_LEN;
use crate::kernel::{InstructionSet, MOST_PLANES};
use crate::layout::Named;
use crate::pager::elapsed_ns;
use crate::rows::Rows;

/// Rows that one thread takes at a time.
const ROWS: usize = 64;

impl RowUpdate<'_> {
    /// Updates records, whose new mark is given. Returns how many elements of the summed gradients were NaN or infinite.
    pub(crate) fn run_records(&self, engine: &Engine, tables: &Rows, rows: &[u64], mark: u64) -> Result<u64> {
        let groups: Vec<&[Named]> = self.rows.groups().collect();
        let mut non_finite = 0;
        let mut compute_ns = 0;
        tables.with_records(self.tensor, rows, Some(mark), |range: Range<usize>, mut records| {
            let start = Instant::now();
            let groups = groups.get(range).unwrap_or_default();
            let run = |(records, groups): (&mut [&mut [u8]], &[&[Named]])| {
                self.records(engine.isa, records, groups)
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

    fn records(&self, isa: InstructionSet, records: &mut [&mut [u8]], groups: &[&[Named]]) -> u64 {
        let width = self.rows.width();
        let mut memory = Chunk::default();
        let mut non_finite = 0;
        for (record, named) in records.iter_mut().zip(groups) {
            let mut rest = as_f32_mut(record).get_mut(RECORD_HEADER_LEN..).unwrap_or_default();
            let mut planes: [&mut [f32]; 1 + MOST_PLANES] = Default::default();
            for plane in planes.iter_mut().take(self.planes) {
                (*plane, rest) = rest.split_at_mut_checked(width).unwrap_or_default();
            }
            non_finite += self.row(isa, named, 0..width, planes, &mut memory);
        }
        non_finite
    }
}
