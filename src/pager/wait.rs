//! Waiting without holding the lock.
//!
//! `tests/models` compiles this very file once more, around a smaller state and with the locks of a model checker.

use std::time::Instant;

use super::stats::elapsed_ns;
use super::sync::{MutexGuard, PoisonError};
use super::{Pager, State};
use crate::error::Result;

/// What a wait is for, to count it under its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stall {
    Read,
    Write,
}

/// Who waits: time of a thread that works in the background is nobody's loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waiter {
    Caller,
    Background,
}

/// What an attempt came to.
pub(super) enum Attempt<T> {
    Done(T),
    /// Something has to move first.
    Wait(Stall),
}

/// Lets another thread receive completions after a panic of a job, which goes on through the receiver.
struct Receiving<'p>(&'p Pager);

impl Drop for Receiving<'_> {
    fn drop(&mut self) {
        self.0.lock().is_receiving = false;
        self.0.notify();
    }
}

impl Pager {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // What could be left half done by a panic under the lock is bookkeeping of frames; a step that panicked has
        // to be rolled back, which makes that new.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells those who wait that something has moved.
    pub(super) fn notify(&self) {
        // Where all is done in place nobody waits, and the call would be most of what a small lease costs.
        if !self.queue.is_in_place() {
            self.moved.notify_all();
        }
    }

    /// Makes an attempt again and again until it is done, with the lock given back in between. The attempt is told
    /// when nothing is left that could move: then it must not wait.
    pub(super) fn until<T>(
        &self,
        waiter: Waiter,
        mut attempt: impl FnMut(&mut State, bool) -> Result<Attempt<T>>,
    ) -> Result<T> {
        let mut state = self.lock();
        loop {
            state.drain()?;
            let stuck = self.is_stuck(&state);
            let stall = match attempt(&mut state, stuck)? {
                Attempt::Done(value) => {
                    state.read_planned();
                    self.notify();
                    return Ok(value);
                }
                Attempt::Wait(stall) => stall,
            };
            let start = Instant::now();
            state = self.wait(state)?;
            state.count_stall(waiter, stall, elapsed_ns(start));
        }
    }

    /// Whether nothing is in flight and nobody has a lease that could end.
    fn is_stuck(&self, state: &State) -> bool {
        !state.is_receiving && self.queue.in_flight() == 0 && state.leased() == 0
    }

    /// Waits until something has moved: one thread receives what the I/O queue has done, others wait for that thread
    /// or for the end of a lease.
    fn wait<'s>(&'s self, mut state: MutexGuard<'s, State>) -> Result<MutexGuard<'s, State>> {
        if state.is_receiving || self.queue.in_flight() == 0 {
            if self.is_stuck(&state) {
                return Ok(state);
            }
            return Ok(self.moved.wait(state).unwrap_or_else(PoisonError::into_inner));
        }
        state.is_receiving = true;
        drop(state);
        let receiving = Receiving(self);
        let completion = self.queue.recv();
        let mut state = self.lock();
        // Under the same lock as the completion is taken in: in between nothing would seem to be in flight.
        std::mem::forget(receiving);
        state.is_receiving = false;
        self.notify();
        if let Some(completion) = completion {
            state.take_in(completion)?;
        }
        Ok(state)
    }
}
