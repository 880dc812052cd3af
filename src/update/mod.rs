//! MUSCLE. The update of a run of a tensor's elements: leases from the pager, kernels on all threads.

mod background;
mod spans;

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

pub(crate) use background::Background;
pub(crate) use spans::{Gradient, SPAN_LEN, measure, on_threads};

use crate::error::Result;
use crate::format::elements::{as_f32, as_f32_mut};
use crate::kernel::InstructionSet;
use crate::kernel::reduce::Preparation;
use crate::layout::{Piece, pieces};
use crate::optim::Prepared;
use crate::pager::{Key, Pager, Waiter, elapsed_ns, read_ahead};

/// What all updates of a store share: blocks to lease, threads and an instruction set to compute with.
#[derive(Clone)]
pub(crate) struct Engine {
    pub(crate) pager: Arc<Pager>,
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
    /// The parameter plane and the state planes; the scratch plane comes after them.
    pub(crate) planes: usize,
    pub(crate) rule: Prepared,
    pub(crate) prepare: Preparation,
}

impl Update {
    /// Updates block by block, blocks read ahead and written behind. Returns how many gradients were NaN or infinite.
    pub(crate) fn run(&self, engine: &Engine, gradient: Gradient<'_>, waiter: Waiter) -> Result<u64> {
        let directory = Arc::clone(engine.pager.directory());
        let leased = self.planes + usize::from(matches!(gradient, Gradient::Staged));
        let mut ahead = read_ahead(&directory, self.tensor, self.range.clone(), 0..leased);
        let mut non_finite = 0;
        for piece in pieces(&directory, self.tensor, self.range.clone()) {
            ahead.advance(&mut engine.pager.lock(), &piece)?;
            let part = match gradient {
                Gradient::Given(values) => Gradient::Given(slice_of(values, &piece, self.range.start)),
                other => other,
            };
            non_finite += self.run_piece(engine, &piece, part, waiter)?;
        }
        Ok(non_finite)
    }

    /// Updates one block's part of a tensor.
    fn run_piece(
        &self,
        engine: &Engine,
        piece: &Piece,
        gradient: Gradient<'_>,
        waiter: Waiter,
    ) -> Result<u64> {
        let staged = matches!(gradient, Gradient::Staged);
        let planes = 0..self.planes + usize::from(staged);
        let keys: Vec<_> = planes.map(|plane| Key { block: piece.block, plane }).collect();
        let mut lease = engine.pager.lease(&keys, waiter)?;
        let start = Instant::now();
        let bytes = 4 * piece.within.start..4 * piece.within.end;
        let (changed, rest) = lease.buffers().split_at_mut(self.planes);
        let gradient = match rest.first() {
            Some(buffer) => Gradient::Given(as_f32(buffer.get(bytes.clone()).unwrap_or_default())),
            None => gradient,
        };
        let slices = changed.iter_mut().map(|b| as_f32_mut(b.get_mut(bytes.clone()).unwrap_or_default()));
        let slices = slices.collect();
        let non_finite = spans::update(self, engine, slices, gradient, piece.of_tensor.start);
        engine.pager.lock().stats_mut().compute_ns += elapsed_ns(start);
        lease.release(self.planes)?;
        Ok(non_finite)
    }
}

/// The part of `values`, which begin at element `start` of the tensor, that belongs to a piece.
pub(crate) fn slice_of<'v>(values: &'v [f32], piece: &Piece, start: u64) -> &'v [f32] {
    let from = crate::units::to_usize(piece.of_tensor.start - start);
    values.get(from..from + piece.within.len()).unwrap_or_default()
}
