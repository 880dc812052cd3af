//! The steps that a row has missed, made up for.

use super::{Idle, Optimizer, Prepared, TensorClock};
use crate::error::{Error, Result};
use crate::kernel::{InstructionSet, MOST_PLANES};

/// Elements that run through all missed steps at a time: they stay in the first-level cache.
const CHUNK_LEN: usize = 1024;
/// A gradient of a step without one.
static ZEROS: [f32; CHUNK_LEN] = [0.0; CHUNK_LEN];
/// Steps whose scalars are kept ready.
const READY: u64 = 4096;

/// What a dense run would have done to rows in steps that did not name them: their gradients were zeros.
#[derive(Debug, Clone)]
pub(crate) struct CatchUp {
    optimizer: Optimizer,
    idle: Idle,
    /// Steps that the tensor has taken.
    steps: u64,
    /// Scalars of the steps after `first`.
    scalars: Vec<Prepared>,
    first: u64,
}

impl Optimizer {
    /// How rows of a tensor that has taken some steps catch up with it.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] about `what` if the rule has no such form with these hyperparameters.
    pub(crate) fn catch_up(&self, steps: u64, what: impl Into<String>) -> Result<CatchUp> {
        const EXPECTED: &str = "sgd, adagrad, rowwiseadagrad, adadelta, rmsprop, adam or adamw, where only sgd may have \
                                coupled weight decay (or lazy rows, see `RowMode`)";
        let idle = self.idle().ok_or_else(|| Error::invalid(what, self.for_rows(), EXPECTED))?;
        Ok(CatchUp { optimizer: *self, idle, steps, scalars: Vec::new(), first: steps })
    }
}

impl CatchUp {
    /// Whether missed steps change nothing.
    pub(crate) fn changes_nothing(&self) -> bool {
        self.idle == Idle::default()
    }

    /// Steps that a row has missed which was as the tensor after `done` of its steps.
    pub(crate) const fn missed(&self, done: u64) -> u64 {
        self.steps.saturating_sub(done)
    }

    /// Computes the scalars of all steps after the first `done`, as far back as is worth it: rows that have missed more
    /// compute their own.
    pub(crate) fn prepare_from(&mut self, done: u64) {
        if self.idle.one_by_one == 0 {
            return;
        }
        let first = done.max(self.steps.saturating_sub(READY));
        if first < self.first {
            let scalars = (first..self.first).map(|steps| self.of(steps));
            self.scalars = scalars.chain(self.scalars.iter().copied()).collect();
            self.first = first;
        }
    }

    /// Scalars of the step after `steps`.
    fn of(&self, steps: u64) -> Prepared {
        let clock = TensorClock { steps, ..TensorClock::default() };
        self.optimizer.prepare(clock).0
    }

    fn scalars(&self, steps: u64) -> Prepared {
        let ready = steps.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        ready.and_then(|at| self.scalars.get(at).copied()).unwrap_or_else(|| self.of(steps))
    }

    /// Runs a row, which was as the tensor after `done` of its steps, through those that it has missed: the first of them
    /// one by one, with the bits of a dense run; the rest at once.
    pub(crate) fn run(&self, isa: InstructionSet, done: u64, param: &mut [f32], state: &mut [&mut [f32]]) {
        let missed = self.missed(done);
        if missed == 0 || self.changes_nothing() {
            return;
        }
        let one_by_one = missed.min(self.idle.one_by_one);
        let mut start = 0;
        while start < param.len() {
            let end = param.len().min(start + CHUNK_LEN);
            let zeros = ZEROS.get(..end - start).unwrap_or_default();
            let param = param.get_mut(start..end).unwrap_or_default();
            let planes = state.len();
            let mut parts: [&mut [f32]; MOST_PLANES] = Default::default();
            for (part, plane) in parts.iter_mut().zip(state.iter_mut()) {
                *part = plane.get_mut(start..end).unwrap_or_default();
            }
            let state = parts.get_mut(..planes).unwrap_or_default();
            for steps in done..done + one_by_one {
                let _finite = self.scalars(steps).run(isa, param, zeros, state);
            }
            self.idle.run(missed - one_by_one, param, state);
            start = end;
        }
    }
}
