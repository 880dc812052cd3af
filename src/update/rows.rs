//! The update of some rows of a tensor: gradients of the same row summed, then the optimizer's rule for rows.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use rayon::prelude::*;

use super::{BATCH, Engine, keys_of, on_threads, split_off};
use crate::error::Result;
use crate::format::elements::as_f32_mut;
use crate::kernel::reduce::{Preparation, accumulate, count_non_finite, prepare_gradient};
use crate::kernel::{InstructionSet, MOST_PLANES};
use crate::layout::{Named, Rows, Touched};
use crate::optim::Prepared;
use crate::pager::{Lease, Waiter, elapsed_ns, read_pieces_ahead};
use crate::units::to_usize;

/// Elements of gradients that one thread takes at a time, where rows allow it.
const ROWS_LEN: usize = 1 << 14;
/// Elements of a row that are summed and updated at a time: they stay in the first-level cache.
pub(super) const CHUNK_LEN: usize = 1024;

/// One update of some rows of a tensor.
pub(crate) struct RowUpdate<'a> {
    pub(crate) tensor: usize,
    pub(crate) rows: &'a Rows,
    /// One row for each id, in the order of the ids.
    pub(crate) gradients: &'a [f32],
    /// The parameter plane and the state planes.
    pub(crate) planes: usize,
    pub(crate) rule: Prepared,
    pub(crate) prepare: Preparation,
}

/// Rows of one block that one thread updates.
struct RowSpan<'p, 'r> {
    planes: Vec<&'p mut [f32]>,
    named: &'r [Named],
    /// The elements of the planes, in the tensor.
    run: Range<u64>,
}

impl RowUpdate<'_> {
    /// Updates the blocks that hold the rows, ascending and each once. Returns how many elements of the summed gradients
    /// were NaN or infinite.
    pub(crate) fn run(&self, engine: &Engine) -> Result<u64> {
        let directory = Arc::clone(engine.pager.directory());
        let blocks = self.rows.touched(&directory, self.tensor).map(|touched| touched.piece);
        let mut ahead = read_pieces_ahead(blocks, 0..self.planes);
        let mut left = self.rows.touched(&directory, self.tensor).peekable();
        let mut batch = Vec::with_capacity(BATCH);
        let mut non_finite = 0;
        while left.peek().is_some() {
            batch.extend(left.by_ref().take(BATCH));
            let keys: Vec<_> =
                batch.iter().flat_map(|touched| keys_of(&touched.piece, self.planes)).collect();
            if let Some(lease) = engine.pager.lease_near(&keys)? {
                non_finite += self.run_leased(engine, lease, &batch)?;
                batch.clear();
                continue;
            }
            for touched in batch.drain(..) {
                ahead.advance(&mut engine.pager.lock(), &touched.piece)?;
                let keys: Vec<_> = keys_of(&touched.piece, self.planes).collect();
                let lease = engine.pager.lease(&keys, Waiter::Caller)?;
                non_finite += self.run_leased(engine, lease, &[touched])?;
            }
        }
        Ok(non_finite)
    }

    /// Updates the rows in some blocks, whose planes are leased in the same order.
    fn run_leased(&self, engine: &Engine, mut lease: Lease<'_>, blocks: &[Touched<'_>]) -> Result<u64> {
        let start = Instant::now();
        let mut buffers = lease.buffers().iter_mut();
        let mut spans = Vec::new();
        for touched in blocks {
            let within = &touched.piece.within;
            let bytes = 4 * within.start..4 * within.end;
            let mut slice = || {
                let buffer = buffers.next().and_then(|buffer| buffer.get_mut(bytes.clone()));
                as_f32_mut(buffer.unwrap_or_default())
            };
            let planes = (0..self.planes).map(|_| slice()).collect();
            self.cut(planes, touched, &mut spans);
        }
        let isa = engine.isa;
        let non_finite = match spans.as_mut_slice() {
            [one] => one.run(self, isa),
            many => on_threads(engine.threads(), || {
                many.par_iter_mut().with_max_len(1).map(|span| span.run(self, isa)).sum()
            }),
        };
        engine.pager.lock().stats_mut().compute_ns += elapsed_ns(start);
        lease.release(|_| true)?;
        Ok(non_finite)
    }

    /// Cuts a block in front of rows into spans.
    fn cut<'p, 'r>(
        &self,
        mut planes: Vec<&'p mut [f32]>,
        touched: &Touched<'r>,
        spans: &mut Vec<RowSpan<'p, 'r>>,
    ) {
        let mut at = touched.piece.of_tensor.start;
        for (named, run) in self.rows.cut(touched, ROWS_LEN / self.rows.width()) {
            drop(split_off(&mut planes, to_usize(run.start - at)));
            let now = split_off(&mut planes, to_usize(run.end - run.start));
            at = run.end;
            spans.push(RowSpan { planes: now, named, run });
        }
    }

    /// The gradient of some columns of a row: the only one that was given, or the sum of several in the order of their
    /// places, each addition rounded, in `sum`.
    fn gradient<'s>(
        &'s self,
        isa: InstructionSet,
        named: &[Named],
        columns: &Range<usize>,
        sum: &'s mut [f32],
    ) -> &'s [f32] {
        match named {
            [] => &[],
            [only] => self.given(only, columns),
            _ => {
                let sum = sum.get_mut(..columns.len()).unwrap_or_default();
                self.sum(isa, named, columns, sum);
                sum
            }
        }
    }

    /// The gradient of some columns that was given at a place.
    fn given(&self, named: &Named, columns: &Range<usize>) -> &[f32] {
        let row = named.position * self.rows.width();
        self.gradients.get(row + columns.start..row + columns.end).unwrap_or_default()
    }

    /// As [`gradient`](Self::gradient), in `sum` in any case, which has as many elements.
    pub(super) fn sum(&self, isa: InstructionSet, named: &[Named], columns: &Range<usize>, sum: &mut [f32]) {
        let Some((first, others)) = named.split_first() else { return };
        sum.copy_from_slice(self.given(first, columns));
        for other in others {
            accumulate(isa, sum, self.given(other, columns), 1.0, false);
        }
    }
}

impl RowSpan<'_, '_> {
    /// Updates the rows one after the other, a chunk of columns at a time.
    fn run(&mut self, update: &RowUpdate<'_>, isa: InstructionSet) -> u64 {
        let mut memory = Chunk::default();
        let mut non_finite = 0;
        for part in update.rows.parts(self.named, self.run.clone()) {
            let mut planes = self.planes.iter_mut();
            let planes: [&mut [f32]; 1 + MOST_PLANES] = std::array::from_fn(|_| {
                planes.next().and_then(|plane| plane.get_mut(part.within.clone())).unwrap_or_default()
            });
            non_finite += update.row(isa, part.named, part.columns, planes, &mut memory);
        }
        non_finite
    }
}

/// What a chunk of a row's gradient passes through.
pub(super) struct Chunk {
    sum: [f32; CHUNK_LEN],
    ready: [f32; CHUNK_LEN],
    /// The same for rows that are needed whole.
    wide: Vec<f32>,
    wide_ready: Vec<f32>,
}

impl Default for Chunk {
    fn default() -> Self {
        Self { sum: [0.0; CHUNK_LEN], ready: [0.0; CHUNK_LEN], wide: Vec::new(), wide_ready: Vec::new() }
    }
}

impl RowUpdate<'_> {
    /// Updates some columns of a row, a chunk of them at a time; `planes` are cut to these columns, and those that the
    /// rule does not have are empty.
    pub(super) fn row(
        &self,
        isa: InstructionSet,
        named: &[Named],
        columns: Range<usize>,
        planes: [&mut [f32]; 1 + MOST_PLANES],
        memory: &mut Chunk,
    ) -> u64 {
        if self.rule.is_rowwise() {
            return self.whole_row(isa, named, columns, planes, memory);
        }
        let mut left = planes;
        let mut non_finite = 0;
        let mut start = columns.start;
        while start < columns.end {
            let len = CHUNK_LEN.min(columns.end - start);
            let mut now: [&mut [f32]; 1 + MOST_PLANES] = Default::default();
            for (now, left) in now.iter_mut().zip(&mut left) {
                (*now, *left) = std::mem::take(left).split_at_mut_checked(len).unwrap_or_default();
            }
            let gradient = self.gradient(isa, named, &(start..start + len), &mut memory.sum);
            start += len;
            non_finite += self.apply(isa, &mut now, gradient, &mut memory.ready);
        }
        non_finite
    }

    /// Runs the rule over planes by a gradient, which passes through `ready` where it has to be prepared. Returns how many of
    /// its elements were NaN or infinite.
    pub(super) fn apply(
        &self,
        isa: InstructionSet,
        planes: &mut [&mut [f32]; 1 + MOST_PLANES],
        gradient: &[f32],
        ready: &mut [f32],
    ) -> u64 {
        let [param, state @ ..] = planes;
        let state = state.get_mut(..self.planes - 1).unwrap_or_default();
        if self.prepare == Preparation::default() {
            return self.rule.run(isa, param, gradient, state);
        }
        // Counted before it is scaled, which can make an infinity of a number.
        let non_finite = count_non_finite(isa, gradient);
        let ready = ready.get_mut(..gradient.len()).unwrap_or_default();
        prepare_gradient(isa, ready, gradient, self.prepare);
        let _of_scaled = self.rule.run(isa, param, ready, state);
        non_finite
    }

    /// As [`row`](Self::row), for a rule that needs all columns at once.
    fn whole_row(
        &self,
        isa: InstructionSet,
        named: &[Named],
        columns: Range<usize>,
        mut planes: [&mut [f32]; 1 + MOST_PLANES],
        memory: &mut Chunk,
    ) -> u64 {
        let Chunk { wide, wide_ready, .. } = memory;
        wide.resize(columns.len(), 0.0);
        let gradient = self.gradient(isa, named, &columns, wide);
        wide_ready.resize(columns.len(), 0.0);
        self.apply(isa, &mut planes, gradient, wide_ready)
    }
}
