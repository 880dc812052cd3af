//! Rows of matrices: what a lookup of embeddings reads.

use std::ops::Range;
use std::sync::{Arc, PoisonError};

use rayon::prelude::*;

use super::ParamStore;
use crate::error::{Error, Result};
use crate::format::elements::{as_f32, as_f32_mut, bytes_of_mut};
use crate::format::records::{Records, mark, set_mark};
use crate::kernel::InstructionSet;
use crate::layout::{PARAM_PLANE, Rows};
use crate::optim::CatchUp;
use crate::pager::{Key, Run, Waiter, read_pieces_ahead};
use crate::precision::lane;
use crate::rows::{Counted, RowUse, Rows as Tables};
use crate::units::{to_u64, to_usize};
use crate::update::{bring_up, on_threads, prepare_from};

/// Reading some rows of a tensor of two dimensions.
impl ParamStore {
    /// Copies rows of a tensor `[rows, width]` into `out`, which has the shape `[ids.len(), width]`: row `ids[i]` goes
    /// to `out[i * width..][..width]`. Ids may come in any order and repeat; every update made so far is in them,
    /// committed or not, also of a step under way.
    ///
    /// Each block that holds one of the rows is visited once, in ascending order, and no other block is read; beside a few
    /// blocks of the budget this takes 40 bytes of memory for each id, 32 of them until four other batches of the tensor have come;
    /// and where rows catch up, as much as `out`.
    ///
    /// ```
    #[doc = include_str!("../examples/rows.txt")]
    /// store.write_range("words", 2 * 7, &[1.0, 2.0])?; // row 7
    /// let mut batch = [0.0; 3 * 2];
    /// store.gather_rows("words", &[7, 3, 7], &mut batch)?;
    /// assert_eq!(batch, [1.0, 2.0, 0.0, 0.0, 1.0, 2.0]);
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Unknown`] for the name; [`Error::Invalid`] for a tensor that has not two dimensions, an id that is no row
    /// of it, or another length of `out`, and nothing was read then; disk errors.
    pub fn gather_rows(&self, name: &str, ids: &[u64], out: &mut [f32]) -> Result<()> {
        self.gather_rows_plane(name, PARAM_PLANE, ids, out)
    }

    /// As [`gather_rows`](Self::gather_rows), for any plane of the tensor, e.g. `exp_avg`; one that an optimizer keeps by
    /// rows (`row_sum`) has one element for each row.
    ///
    /// ```
    /// use paramstore::{Optimizer, Options, ParamGroup, ParamStore, Schema, TensorSpec};
    ///
    /// # let dir = tempfile::tempdir().expect("a temporary directory");
    /// # let path = dir.path().join("rows.store");
    /// let group = ParamGroup::new("all", Optimizer::from_name("adagrad")?);
    /// let schema = Schema::new().group(group).tensor(TensorSpec::new("words", &[1000, 2]).rows());
    /// let schema = schema.row_log_bytes(64 << 10);
    /// let mut store = ParamStore::create(&path, &schema, &Options::new().memory_budget(4 << 20))?;
    /// let mut step = store.begin_step()?;
    /// step.apply_rows("words", &[7], &[3.0, 4.0])?;
    /// step.finish()?;
    /// let mut sum = [0.0; 2 * 2];
    /// store.gather_rows_plane("words", "sum", &[7, 8], &mut sum)?;
    /// assert_eq!(sum, [9.0, 16.0, 0.0, 0.0]); // squares of the gradients so far
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`gather_rows`](Self::gather_rows); [`Error::Unknown`] for a plane that the tensor does not have.
    pub fn gather_rows_plane(&self, name: &str, plane: &str, ids: &[u64], out: &mut [f32]) -> Result<()> {
        let plane = self.plane_index(self.tensor_index(name)?, plane)?;
        let (tensor, rows) = self.checked_rows("memory for rows", (name, plane), ids, out.len())?;
        if let Some(tables) = self.table_of(tensor) {
            return self.gather_records(tables, (tensor, plane), rows.as_ref(), out);
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
        (tables, layout): (&Tables, &Records),
        (tensor, plane): (usize, usize),
        rows: &Rows,
        out: &mut [f32],
    ) -> Result<()> {
        const PART: usize = 256;
        let mut catch_up = self.catch_up(tensor)?.filter(|catch_up| !catch_up.changes_nothing());
        let within = layout.within(plane);
        let width = within.len();
        // A thread of a pool that waited here, with the tables locked, would take on another gathering and lock them again.
        let is_alone = rayon::current_thread_index().is_some();
        let mut number_of = vec![usize::MAX; out.len() / width];
        for (number, named) in rows.groups().enumerate() {
            for named in named {
                if let Some(place) = number_of.get_mut(named.position) {
                    *place = number;
                }
            }
        }
        let (threads, isa) = (self.engine.threads(), self.engine.isa);
        tables.with_records(tensor, rows.distinct(), |range, records| {
            let caught_up = catch_up.as_mut().map(|catch_up| {
                prepare_from(catch_up, records.iter().map(|record| &**record));
                let mut values = vec![0.0; records.len() * width];
                let bring_up = |(values, records): (&mut [f32], &[&mut [u8]])| {
                    brought_up(isa, catch_up, layout, (plane, records), values);
                };
                if is_alone || records.len() <= PART {
                    bring_up((&mut values, &records));
                } else {
                    let parts = values.par_chunks_mut(PART * width).zip(records.par_chunks(PART));
                    on_threads(threads, || parts.for_each(bring_up));
                }
                values
            });
            let values_of = |number: usize| match &caught_up {
                Some(values) => values.get(number * width..(number + 1) * width),
                None => records.get(number).and_then(|record| as_f32(record).get(within.clone())),
            };
            let copy = |(out, numbers): (&mut [f32], &[usize])| {
                for (out, number) in out.chunks_exact_mut(width).zip(numbers) {
                    let record = number.checked_sub(range.start).and_then(values_of);
                    if let Some(values) = record {
                        out.copy_from_slice(values);
                    }
                }
            };
            if is_alone || number_of.len() <= PART {
                copy((out, &number_of));
            } else {
                let parts = out.par_chunks_mut(PART * width).zip(number_of.par_chunks(PART)).with_max_len(1);
                on_threads(threads, || parts.for_each(copy));
            }
            None
        })
    }

    /// Copies elements of a plane of a tensor of rows, past the cache.
    pub(crate) fn read_table(
        &self,
        tensor: usize,
        plane: usize,
        range: Range<u64>,
        out: &mut [f32],
    ) -> Result<()> {
        let Some((_, layout)) = self.table_of(tensor) else { return Ok(()) };
        let width = to_u64(layout.within(plane).len()).max(1);
        let rows = range.start / width..range.end.div_ceil(width);
        // Runs begin with the first row, the range perhaps within it.
        let (mut skip, mut done) = (to_usize(range.start % width), 0);
        self.for_each_run_of_rows(tensor, plane, rows, |run| {
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

    /// Shows a plane of some rows, in runs: what [`gather_rows_plane`](Self::gather_rows_plane) would give.
    pub(crate) fn for_each_run_of_rows(
        &self,
        tensor: usize,
        plane: usize,
        rows: Range<u64>,
        each: impl FnMut(&Run<'_>),
    ) -> Result<()> {
        let Some((tables, layout)) = self.table_of(tensor) else { return Ok(()) };
        match self.catch_up(tensor)?.filter(|catch_up| !catch_up.changes_nothing()) {
            None => tables.for_each_run(tensor, plane, rows, None, each),
            Some(mut catch_up) => {
                catch_up.prepare_from(0);
                let isa = self.engine.isa;
                let bring_up = |record: &mut [u8]| bring_up(isa, &catch_up, layout, record);
                tables.for_each_run(tensor, plane, rows, Some(&bring_up), each)
            }
        }
    }

    /// Sets elements of a plane of a tensor of rows, which catch up first if they do.
    pub(super) fn write_rows(
        &mut self,
        (tensor, plane): (usize, usize),
        range: Range<u64>,
        values: &[f32],
        mut catch_up: Option<CatchUp>,
    ) -> Result<()> {
        const AT_ONCE: usize = 4096;
        let entry = self.pager().lock().store_mut().tensor_entry(tensor)?;
        let isa = self.engine.isa;
        let Some((tables, layout)) = self.table_of(tensor) else { return Ok(()) };
        let within = layout.within(plane);
        let width = to_u64(within.len()).max(1);
        let rows: Vec<_> = (range.start / width..range.end.div_ceil(width)).collect();
        for part in rows.chunks(AT_ONCE) {
            tables.with_records(tensor, part, |numbers, records| {
                let mut counted = Counted::default();
                if let Some(catch_up) = &mut catch_up {
                    prepare_from(catch_up, records.iter().map(|record| &**record));
                }
                for (row, record) in part.get(numbers).unwrap_or_default().iter().zip(records) {
                    if let Some(catch_up) = &catch_up {
                        bring_up(isa, catch_up, layout, record);
                    }
                    let target = as_f32_mut(record).get_mut(within.clone()).unwrap_or_default();
                    for (element, target) in (row * width..).zip(target) {
                        let at = element.checked_sub(range.start).map(to_usize);
                        if let Some(value) = at.and_then(|at| values.get(at)) {
                            *target = *value;
                        }
                    }
                    counted.born += u64::from(mark(record) == 0);
                    set_mark(record, entry.steps.saturating_add(1));
                }
                Some(counted)
            })?;
        }
        Ok(())
    }

    /// The rows that ids are hashed to, in a tensor with hashed ids
    /// ([`TensorSpec::hashed_ids`](crate::TensorSpec::hashed_ids)): for [`gather_rows`](Self::gather_rows) and
    /// [`prefetch_rows`](Self::prefetch_rows). The same in every store with this seed, for a tensor
    /// of this name with as many rows.
    ///
    /// ```
    #[doc = include_str!("../examples/rows.txt")]
    /// let ids = [0xdead_beef_0bad_cafe, 42, 42];
    /// let rows = store.rows_of_ids("users", &ids)?;
    /// assert!(rows.iter().all(|&row| row < 1000) && rows[1] == rows[2]);
    /// let mut batch = [1.0; 3 * 2];
    /// store.gather_rows("users", &rows, &mut batch)?;
    /// assert_eq!(batch, [0.0; 6]);
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Unknown`] for the name; [`Error::Invalid`] for a tensor without hashed ids.
    pub fn rows_of_ids(&self, name: &str, ids: &[u64]) -> Result<Vec<u64>> {
        let tensor = self.check_hashed(name, true)?;
        self.table_of(tensor).map_or(Ok(Vec::new()), |(tables, _)| tables.rows_of_ids(tensor, ids))
    }

    /// Refuses a tensor with hashed ids, or one without.
    pub(crate) fn check_hashed(&self, name: &str, wanted: bool) -> Result<usize> {
        let tensor = self.tensor_index(name)?;
        let is_hashed = self.table_of(tensor).is_some_and(|(_, records)| records.is_hashed());
        if is_hashed == wanted {
            return Ok(tensor);
        }
        let what = format!("rows of tensor {name:?}");
        Err(if wanted {
            Error::invalid(
                what,
                "ids that are to be hashed",
                "numbers of rows: it was not created with hashed ids",
            )
        } else {
            Error::invalid(
                what,
                "numbers of rows",
                "ids that are to be hashed (`apply_ids`), as it was created",
            )
        })
    }

    /// Gives rows that have not been used for some time their initial values again, state too: as if they had never been
    /// updated. Those are rows whose last update (where ids are hashed, whose last sighting) lies at least `unseen_for`
    /// updates of the tensor back, an update being a step with a call for the tensor. Returns how many there were;
    /// [`row_uses`](Self::row_uses) counts them too. As with every change, [`commit`](Self::commit) makes it durable.
    ///
    /// Every record that was ever written is read, and those that expire pass through the memory for rows and the log: this
    /// takes the time of a pass over the table, and of an update of as many rows. Room in the store's files is
    /// not given back.
    ///
    /// ```
    #[doc = include_str!("../examples/rows.txt")]
    /// for row in [7, 8, 8] {
    ///     let mut step = store.begin_step()?;
    ///     step.apply_rows("words", &[row], &[1.0, 1.0])?;
    ///     step.apply_ids("users", &[], &[])?;
    ///     step.finish()?;
    /// }
    /// assert_eq!(store.expire_rows("words", 2)?, 1); // row 7: its last update is two updates back
    /// let mut both = [0.0; 2 * 2];
    /// store.gather_rows("words", &[7, 8], &mut both)?;
    /// assert_eq!(both, [0.0, 0.0, -1.0, -1.0]);
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Unknown`] for the name; [`Error::Invalid`] for a tensor that is not of rows; [`Error::ReadOnly`],
    /// [`Error::Mixed`], disk errors.
    pub fn expire_rows(&mut self, name: &str, unseen_for: u64) -> Result<u64> {
        self.check_can_change("expire rows")?;
        let tensor = self.tensor_index(name)?;
        let updates = self.pager().lock().store_mut().tensor_entry(tensor)?.steps;
        let Some((tables, _)) = self.table_of(tensor) else {
            return Err(Error::invalid(
                format!("tensor {name:?}"),
                "no tensor of rows",
                "one created by `rows`",
            ));
        };
        let Some(newest) = updates.checked_sub(unseen_for) else { return Ok(0) };
        let result = tables.expire(tensor, newest);
        if result.is_err() {
            self.mark_mixed();
        }
        result
    }

    /// What each tensor of rows takes of memory and log, in the schema's order.
    ///
    /// ```
    #[doc = include_str!("../examples/rows.txt")]
    /// let mut step = store.begin_step()?;
    /// step.apply_rows("words", &[7, 8], &[1.0; 4])?;
    /// step.apply_ids("users", &[42], &[1.0, 1.0])?; // seen once: not yet admitted
    /// step.finish()?;
    /// let uses = store.row_uses();
    /// assert_eq!((uses[0].rows, uses[0].changed), (1000, 2));
    /// assert_eq!((uses[1].admission, uses[1].not_admitted), (2, 1));
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    #[must_use]
    pub fn row_uses(&self) -> Vec<RowUse> {
        self.tables().map_or_else(Vec::new, Tables::usage)
    }

    /// Bytes in use of the log of rows, and its length; both 0 in a store without tensors of rows.
    ///
    /// ```
    #[doc = include_str!("../examples/rows.txt")]
    /// let mut step = store.begin_step()?;
    /// step.apply_rows("words", &[7], &[1.0, 1.0])?;
    /// step.apply_ids("users", &[], &[])?;
    /// step.finish()?;
    /// store.commit(b"")?; // appends the row to the log
    /// let (used, length) = store.row_log_bytes();
    /// assert!(0 < used && used < length);
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    #[must_use]
    pub fn row_log_bytes(&self) -> (u64, u64) {
        self.tables().map_or((0, 0), Tables::log_bytes)
    }

    /// Says that [`gather_rows`](Self::gather_rows) and [`apply_rows`](crate::Step::apply_rows) will need these rows in a
    /// later batch: the first after the one at hand (`ahead` 1), the one after that (2), and so on. Once for each batch is
    /// enough, in the order in which they will come.
    ///
    /// Rows of the batch that follows are read while the caller goes on. Rows that no known batch needs are given up before
    /// those that one does, and of the latter the ones that are needed last, which is the best that can be done (Belady,
    /// 1966): the more batches are known, the fewer rows have to be read. When each row is needed next is known of as many
    /// batches as a 48th of the memory for rows holds (at 1 GiB, 30 batches of 26,000 distinct rows); those behind them wait,
    /// a byte or two a row, until there is room. Of a batch for which even that is too much, the rows in memory are marked.
    /// Nothing waits; unknown names, batches with an unknown row, and errors are left to the call itself.
    ///
    /// ```
    #[doc = include_str!("../examples/rows.txt")]
    /// let batches = [vec![7, 8], vec![8, 9]];
    /// store.prefetch_rows("words", &batches[1], 1); // while the first batch is worked on
    /// let mut step = store.begin_step()?;
    /// step.apply_rows("words", &batches[0], &[1.0; 4])?;
    /// step.apply_ids("users", &[], &[])?;
    /// step.finish()?;
    /// let mut next = [0.0; 4];
    /// store.gather_rows("words", &batches[1], &mut next)?;
    /// assert_eq!(next, [-0.5, -0.5, 0.0, 0.0]);
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    pub fn prefetch_rows(&self, name: &str, ids: &[u64], ahead: u32) {
        let Some(&tensor) = self.names.get(name) else { return };
        let Some((tables, _)) = self.table_of(tensor) else { return };
        // What fails here fails again, and is told, when the rows are asked for.
        if let Ok((_, rows)) = self.named_rows(name, ids) {
            drop(tables.expect(tensor, rows.distinct(), ahead));
        }
    }

    /// The rows that a call names, if they are rows of a matrix and `len` elements are as many as theirs of a plane; `what`
    /// the elements are is for the message.
    pub(crate) fn checked_rows(
        &self,
        what: &str,
        (name, plane): (&str, usize),
        ids: &[u64],
        len: usize,
    ) -> Result<(usize, Arc<Rows>)> {
        let (tensor, rows) = self.named_rows(name, ids)?;
        let width =
            self.plane_elements(tensor, plane) / (self.elements(tensor) / to_u64(rows.width())).max(1);
        let expected = to_u64(ids.len()).saturating_mul(width);
        if to_u64(len) != expected {
            let expected = format!("{expected} elements, {} rows of {width}", ids.len());
            return Err(Error::invalid(
                format!("{what} of tensor {name:?}"),
                format!("{len} elements"),
                expected,
            ));
        }
        Ok((tensor, rows))
    }

    /// The rows that ids name, sorted: once for the calls that a batch comes in.
    fn named_rows(&self, name: &str, ids: &[u64]) -> Result<(usize, Arc<Rows>)> {
        let tensor = self.tensor_index(name)?;
        let shape = self.directory.tensors.get(tensor).map_or(&[][..], |tensor| &tensor.shape);
        let &[rows, width] = shape else {
            let what = format!("rows of tensor {name:?}");
            return Err(Error::invalid(what, format!("the shape {shape:?}"), "a tensor of two dimensions"));
        };
        let batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(batch) = batches.iter().find(|batch| batch.tensor == tensor && batch.ids == ids) {
            return Ok((tensor, Arc::clone(&batch.rows)));
        }
        // Others may look while this one sorts.
        drop(batches);
        if let Some((position, id)) = ids.iter().enumerate().find(|&(_, &id)| id >= rows) {
            let got = format!("{id} at position {position}");
            return Err(Error::invalid(
                format!("row id of tensor {name:?}"),
                got,
                format!("ids below {rows}"),
            ));
        }
        let rows = Arc::new(Rows::new(ids, rows, width));
        let mut batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        let mut of_tensor =
            (0..batches.len()).filter(|&at| batches.get(at).is_some_and(|b| b.tensor == tensor));
        if let Some(oldest) = of_tensor.nth(BATCHES - 1) {
            batches.remove(oldest);
        }
        batches.push_front(Batch { tensor, ids: ids.to_vec(), rows: Arc::clone(&rows) });
        Ok((tensor, rows))
    }
}

/// Batches of ids that are remembered of each tensor: the one at hand, and those that were said to come next.
const BATCHES: usize = 4;

/// Ids that were named, and their rows.
pub(super) struct Batch {
    tensor: usize,
    ids: Vec<u64>,
    rows: Arc<Rows>,
}

/// Copies a plane of records, brought up to their tensor.
fn brought_up(
    isa: InstructionSet,
    catch_up: &CatchUp,
    layout: &Records,
    (plane, records): (usize, &[&mut [u8]]),
    out: &mut [f32],
) {
    let within = layout.within(plane);
    let mut copy = vec![0.0; layout.len()];
    for (record, out) in records.iter().zip(out.chunks_exact_mut(within.len().max(1))) {
        copy.copy_from_slice(as_f32(record));
        bring_up(isa, catch_up, layout, bytes_of_mut(&mut copy));
        out.copy_from_slice(copy.get(within.clone()).unwrap_or_default());
    }
}
