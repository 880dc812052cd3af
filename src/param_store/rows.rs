//! Rows of matrices: what a lookup of embeddings reads.

use std::ops::Range;

use rayon::prelude::*;

use super::ParamStore;
use crate::error::{Error, Result};
use crate::format::elements::{as_f32, as_f32_mut};
use crate::layout::{PARAM_PLANE, Rows};
use crate::pager::{Key, Run, Waiter, read_pieces_ahead};
use crate::precision::lane;
use crate::rows::{RowUse, Rows as Tables};
use crate::units::{to_u64, to_usize};
use crate::update::on_threads;

/// Reading some rows of a tensor of two dimensions.
impl ParamStore {
    /// Copies rows of a tensor `[rows, width]` into `out`, which has the shape `[ids.len(), width]`: row `ids[i]` goes
    /// to `out[i * width..][..width]`. Ids may come in any order and repeat; every update made so far is in them,
    /// committed or not, also of a step under way.
    ///
    /// Each block that holds one of the rows is visited once, in ascending order, and no other block is read; beside a few
    /// blocks of the budget this takes 16 bytes of memory for each id.
    ///
    /// # Errors
    /// [`Error::Unknown`] for the name; [`Error::Invalid`] for a tensor that has not two dimensions, an id that is no row
    /// of it, or another length of `out`, and nothing was read then; disk errors.
    pub fn gather_rows(&self, name: &str, ids: &[u64], out: &mut [f32]) -> Result<()> {
        self.gather_rows_plane(name, PARAM_PLANE, ids, out)
    }

    /// As [`gather_rows`](Self::gather_rows), for any plane of the tensor, e.g. `exp_avg`.
    ///
    /// # Errors
    /// As [`gather_rows`](Self::gather_rows); [`Error::Unknown`] for a plane that the tensor does not have.
    pub fn gather_rows_plane(&self, name: &str, plane: &str, ids: &[u64], out: &mut [f32]) -> Result<()> {
        let (tensor, rows) = self.checked_rows("memory for rows", name, ids, out.len())?;
        let plane = self.plane_index(tensor, plane)?;
        if let Some(tables) = self.table_of(tensor) {
            return self.gather_records(tables, tensor, plane, &rows, out);
        }
        self.background().settle(tensor);
        let (pager, directory, width) = (self.pager(), self.directory(), rows.width());
        let blocks = rows.touched(&directory, tensor).map(|touched| touched.piece);
        let mut ahead = read_pieces_ahead(blocks, plane..plane + 1);
        for touched in rows.touched(&directory, tensor) {
            let piece = &touched.piece;
            ahead.advance(&mut pager.lock(), piece)?;
            let mut lease = pager.lease(&[Key { block: piece.block, plane }], Waiter::Caller)?;
            let Some(buffer) = lease.buffers().first_mut() else { continue };
            let values = lane(pager.dtype(piece, plane), buffer, pager.block_elements(piece));
            for part in rows.parts(touched.named, piece.of_tensor.clone()) {
                for named in part.named {
                    let start = named.position * width + part.columns.start;
                    if let Some(target) = out.get_mut(start..start + part.columns.len()) {
                        values.read(self.engine.isa, piece.within.start + part.within.start, target);
                    }
                }
            }
            lease.release(|_| false)?;
        }
        Ok(())
    }

    /// Copies a plane of records; each thread takes a part of `out`.
    fn gather_records(
        &self,
        tables: &Tables,
        tensor: usize,
        plane: usize,
        rows: &Rows,
        out: &mut [f32],
    ) -> Result<()> {
        const PART: usize = 256;
        let width = rows.width();
        let within = tables.within(tensor, plane)?;
        let mut number_of = vec![usize::MAX; out.len() / width];
        for (number, named) in rows.groups().enumerate() {
            for named in named {
                if let Some(place) = number_of.get_mut(named.position) {
                    *place = number;
                }
            }
        }
        let threads = self.engine.threads();
        tables.with_records(tensor, &rows.distinct(), None, |range, records| {
            let copy = |(out, numbers): (&mut [f32], &[usize])| {
                for (out, number) in out.chunks_exact_mut(width).zip(numbers) {
                    let record = number.checked_sub(range.start).and_then(|number| records.get(number));
                    if let Some(values) = record.and_then(|record| as_f32(record).get(within.clone())) {
                        out.copy_from_slice(values);
                    }
                }
            };
            if number_of.len() <= PART {
                copy((out, &number_of));
            } else {
                let parts = out.par_chunks_mut(PART * width).zip(number_of.par_chunks(PART));
                on_threads(threads, || parts.for_each(copy));
            }
        })
    }

    /// Copies elements of a plane of a tensor of rows, past the cache.
    pub(super) fn read_table(
        tables: &Tables,
        tensor: usize,
        plane: usize,
        range: Range<u64>,
        out: &mut [f32],
    ) -> Result<()> {
        let width = to_u64(tables.within(tensor, plane)?.len()).max(1);
        let rows = range.start / width..range.end.div_ceil(width);
        // Runs begin with the first row, the range perhaps within it.
        let (mut skip, mut done) = (to_usize(range.start % width), 0);
        tables.for_each_run(tensor, plane, rows, |run| {
            let len = match run {
                Run::Bytes(bytes) => bytes.len() / 4,
                Run::Constant { elements, .. } => to_usize(*elements),
            };
            let now = skip.min(len)..len;
            skip -= now.start;
            let len = now.len().min(out.len() - done);
            let target = out.get_mut(done..done + len).unwrap_or_default();
            done += len;
            match run {
                Run::Bytes(bytes) => {
                    let bytes = bytes.get(4 * now.start..4 * (now.start + len)).unwrap_or_default();
                    for (target, bytes) in target.iter_mut().zip(bytes.chunks_exact(4)) {
                        *target = bytes.first_chunk().map_or(0.0, |bytes| f32::from_le_bytes(*bytes));
                    }
                }
                Run::Constant { value, .. } => target.fill(*value),
            }
        })
    }

    /// Sets elements of the parameters of a tensor of rows.
    pub(super) fn write_rows(&mut self, tensor: usize, range: Range<u64>, values: &[f32]) -> Result<()> {
        const AT_ONCE: usize = 4096;
        let entry = self.pager().lock().store_mut().tensor_entry(tensor)?;
        let Some(tables) = self.table_of(tensor) else { return Ok(()) };
        let within = tables.within(tensor, 0)?;
        let width = to_u64(within.len()).max(1);
        let rows: Vec<_> = (range.start / width..range.end.div_ceil(width)).collect();
        for part in rows.chunks(AT_ONCE) {
            tables.with_records(tensor, part, Some(entry.steps + 1), |numbers, records| {
                for (row, record) in part.get(numbers).unwrap_or_default().iter().zip(records) {
                    let target = as_f32_mut(record).get_mut(within.clone()).unwrap_or_default();
                    for (element, target) in (row * width..).zip(target) {
                        let at = element.checked_sub(range.start).map(to_usize);
                        if let Some(value) = at.and_then(|at| values.get(at)) {
                            *target = *value;
                        }
                    }
                }
            })?;
        }
        Ok(())
    }

    /// What each tensor of rows takes of memory and log, in the schema's order.
    #[must_use]
    pub fn row_uses(&self) -> Vec<RowUse> {
        self.tables().map_or_else(Vec::new, Tables::usage)
    }

    /// Bytes in use of the log of rows, and its length; both 0 in a store without tensors of rows.
    #[must_use]
    pub fn row_log_bytes(&self) -> (u64, u64) {
        self.tables().map_or((0, 0), Tables::log_bytes)
    }

    /// Says that [`gather_rows`](Self::gather_rows) and [`apply_rows`](crate::Step::apply_rows) will need these rows in a
    /// later batch: the first after the one at hand (`ahead` 1), the one after that (2), and so on. Rows of the first are
    /// read while the caller goes on; rows that are in memory already are not given up for others before their batch has
    /// come. Nothing waits; unknown names and rows, and errors, are left to the call itself.
    pub fn prefetch_rows(&self, name: &str, ids: &[u64], ahead: u32) {
        let Some(&tensor) = self.names.get(name) else { return };
        if let Some(tables) = self.table_of(tensor) {
            // What fails here fails again, and is told, when the rows are asked for.
            drop(tables.expect(tensor, ids, ahead));
        }
    }

    /// The rows that a call names, if they are rows of a matrix and `len` elements are as many as theirs; `what` the
    /// elements are is for the message.
    pub(crate) fn checked_rows(
        &self,
        what: &str,
        name: &str,
        ids: &[u64],
        len: usize,
    ) -> Result<(usize, Rows)> {
        let tensor = self.tensor_index(name)?;
        let shape = self.directory.tensors.get(tensor).map_or(&[][..], |tensor| &tensor.shape);
        let &[rows, width] = shape else {
            let what = format!("rows of tensor {name:?}");
            return Err(Error::invalid(what, format!("the shape {shape:?}"), "a tensor of two dimensions"));
        };
        if let Some((position, id)) = ids.iter().enumerate().find(|&(_, &id)| id >= rows) {
            let got = format!("{id} at position {position}");
            return Err(Error::invalid(
                format!("row id of tensor {name:?}"),
                got,
                format!("ids below {rows}"),
            ));
        }
        let expected = to_u64(ids.len()).saturating_mul(width);
        if to_u64(len) != expected {
            let expected = format!("{expected} elements, {} rows of {width}", ids.len());
            return Err(Error::invalid(
                format!("{what} of tensor {name:?}"),
                format!("{len} elements"),
                expected,
            ));
        }
        Ok((tensor, Rows::new(ids, rows, width)))
    }
}
