//! MUSCLE. The update of a run of a tensor's elements: leases from the pager, kernels on all threads.

mod background;
mod records;
mod rows;
mod spans;
mod waiting;

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

pub(crate) use background::Background;
pub(crate) use records::{RecordUpdate, bring_up, prepare_from};
pub(crate) use rows::RowUpdate;
pub(crate) use spans::{Gradient, SPAN_LEN, measure, on_threads, split_off};

use crate::error::Result;
use crate::kernel::InstructionSet;
use crate::kernel::reduce::Preparation;
use crate::layout::{Piece, pieces};
use crate::optim::Prepared;
use crate::pager::{Key, Lease, Pager, Waiter, elapsed_ns, read_ahead};
use crate::precision::lane;
use crate::rows::Rows;
use crate::units::to_usize;

/// What all updates of a store share: blocks to lease, threads and an instruction set to compute with.
#[derive(Clone)]
pub(crate) struct Engine {
    pub(crate) pager: Arc<Pager>,
    /// In a store with tensors of rows.
    pub(crate) tables: Option<Arc<Rows>>,
    /// Without it, rayon's global pool.
    pub(crate) threads: Option<Arc<rayon::ThreadPool>>,
    pub(crate) isa: InstructionSet,
}

impl Engine {
    pub(crate) fn threads(&self) -> Option<&rayon::ThreadPool> {
        self.threads.as_deref()
    }
}

/// One update of a run of a tensor's elements.
#[derive(Clone)]
pub(crate) struct Update {
    pub(crate) tensor: usize,
    pub(crate) range: Range<u64>,
    /// The parameter plane, the state planes, and what rounding the parameters lost, if that is kept; then comes the copy, if
    /// there is one, and the scratch plane.
    pub(crate) planes: usize,
    /// Whether the last of these planes is what rounding lost.
    pub(crate) is_compensated: bool,
    /// The plane that becomes a copy of the parameters.
    pub(crate) copy: Option<usize>,
    pub(crate) rule: Prepared,
    pub(crate) prepare: Preparation,
    /// Random bits that narrow parameters are rounded with.
    pub(crate) rounding_key: u64,
}

impl Update {
    /// Updates block by block, blocks read ahead and written behind. Returns how many gradients were NaN or infinite.
    pub(crate) fn run(&self, engine: &Engine, gradient: Gradient<'_>, waiter: Waiter) -> Result<u64> {
        let directory = Arc::clone(engine.pager.directory());
        let leased = self.written() + usize::from(matches!(gradient, Gradient::Staged));
        let mut ahead = read_ahead(&directory, self.tensor, self.range.clone(), 0..leased).without(self.copy);
        let mut left = pieces(&directory, self.tensor, self.range.clone()).peekable();
        let mut batch = Vec::with_capacity(BATCH);
        let mut non_finite = 0;
        while left.peek().is_some() {
            batch.extend(left.by_ref().take(BATCH));
            // What is near is leased together: the threads are called up once for all of it.
            let keys: Vec<_> = batch.iter().flat_map(|piece| keys_of(piece, leased)).collect();
            if let Some(lease) = engine.pager.lease_near(&keys)? {
                non_finite += self.run_leased(engine, lease, &batch, gradient)?;
                batch.clear();
                continue;
            }
            for piece in batch.drain(..) {
                ahead.advance(&mut engine.pager.lock(), &piece)?;
                let keys: Vec<_> = keys_of(&piece, leased).collect();
                // Of a whole block, the copy is written anew: nothing of it is read.
                let is_whole = piece.within == (0..engine.pager.block_elements(&piece));
                let blank = self.copy.filter(|_| is_whole);
                let lease = engine.pager.lease_with_blank(&keys, blank, waiter)?;
                non_finite += self.run_leased(engine, lease, &[piece], gradient)?;
            }
        }
        Ok(non_finite)
    }

    /// Planes that it writes.
    fn written(&self) -> usize {
        self.planes + usize::from(self.copy.is_some())
    }

    /// Updates the blocks of some pieces, whose planes are leased in the same order.
    fn run_leased(
        &self,
        engine: &Engine,
        mut lease: Lease<'_>,
        pieces: &[Piece],
        gradient: Gradient<'_>,
    ) -> Result<u64> {
        let start = Instant::now();
        let mut buffers = lease.buffers().iter_mut();
        let mut spans = Vec::new();
        for piece in pieces {
            let elements = engine.pager.block_elements(piece);
            let mut part_of = |plane: usize| {
                let buffer = buffers.next().map(|buffer| &mut buffer[..]).unwrap_or_default();
                lane(engine.pager.dtype(piece, plane), buffer, elements).part(piece.within.clone())
            };
            let mut planes: Vec<_> = (0..self.planes).map(&mut part_of).collect();
            if let Some(lost) = planes.pop_if(|_| self.is_compensated)
                && let Some(params) = planes.first_mut()
            {
                *params = std::mem::take(params).compensated_by(lost);
            }
            planes.extend(self.copy.map(&mut part_of));
            let part = match gradient {
                Gradient::Given(values) => {
                    Gradient::Given(slice_of(values, &piece.of_tensor, self.range.start))
                }
                Gradient::Staged => Gradient::Given(part_of(self.written()).into_f32()),
                made @ Gradient::Made(_) => made,
            };
            spans::cut(planes, part, piece.of_tensor.start, &mut spans);
        }
        let non_finite = spans::update(self, engine, spans);
        engine.pager.lock().stats_mut().compute_ns += elapsed_ns(start);
        let unchanged = matches!(gradient, Gradient::Staged).then_some(self.written());
        lease.release(|at| unchanged.is_none_or(|planes| at % (planes + 1) != planes))?;
        Ok(non_finite)
    }
}

/// Blocks that are updated together where they are in memory: each time, all threads are called up and waited for.
const BATCH: usize = 16;

fn keys_of(piece: &Piece, planes: usize) -> impl Iterator<Item = Key> + use<> {
    let block = piece.block;
    (0..planes).map(move |plane| Key { block, plane })
}

/// The part of `values`, which begin at element `start` of the tensor, for a range of its elements.
pub(crate) fn slice_of<'v>(values: &'v [f32], range: &Range<u64>, start: u64) -> &'v [f32] {
    let [from, to] = [range.start, range.end].map(|at| to_usize(at - start));
    values.get(from..to).unwrap_or_default()
}
