//! Updates that go on while the caller computes the next gradient.
//!
//! One thread takes updates in the order in which they came. A queued gradient is a copy, in memory of the budget, and
//! no more than a part of the budget waits: whoever has one more waits too.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use super::waiting::WaitingMemory;
use super::{BATCH, Engine, Gradient, Update, slice_of};
use crate::error::{Error, Result};
use crate::format::elements::{as_f32, as_f32_mut};
use crate::layout::{Piece, pieces};
use crate::pager::{Waiter, elapsed_ns};
use crate::storage::Buffer;
use crate::units::to_usize;

/// Elements up to which far blocks are queued together. A larger gradient waits block by block, in memory of the size that a
/// block in f32 has: of another size, each step would take the memory of blocks for it and give it back.
const QUEUED_TOGETHER: u64 = 16 << 10;

/// A queue of updates and the thread that makes them; the thread starts with the first one.
pub(crate) struct Background {
    engine: Engine,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Signalled when an update was queued or has ended.
    moved: Condvar,
}

#[derive(Default)]
struct State {
    queued: VecDeque<Queued>,
    /// The tensor that is being updated.
    running: Option<usize>,
    memory: WaitingMemory,
    /// Whether somebody waits until there is memory for another gradient.
    is_wanted: bool,
    non_finite: u64,
    error: Option<Error>,
    is_closing: bool,
}

struct Queued {
    update: Update,
    gradient: Buffer,
    elements: usize,
}

impl Background {
    pub(crate) fn new(engine: Engine) -> Self {
        Self { engine, shared: Arc::default(), thread: None }
    }

    /// Makes an update with a gradient that the caller keeps: parts whose blocks are in memory at once, the others in
    /// the background with a copy of their gradient. Returns the NaN and infinite gradients of the parts made at once.
    pub(crate) fn give(&mut self, update: &Update, gradient: &[f32]) -> Result<u64> {
        let directory = Arc::clone(self.engine.pager.directory());
        let capacity = self.engine.pager.gradient_bytes();
        let mut left = pieces(&directory, update.tensor, update.range.clone()).peekable();
        let mut non_finite = 0;
        while let Some(first) = left.next() {
            let mut part = first.of_tensor;
            let is_near = self.is_near(update, &part);
            // What is near goes together: to call up the threads for one block takes a tenth of its update.
            for _ in 1..BATCH {
                let goes_along = |next: &Piece| {
                    let fits = is_near || next.of_tensor.end - part.start <= QUEUED_TOGETHER;
                    fits && self.is_near(update, &next.of_tensor) == is_near
                };
                let Some(next) = left.next_if(goes_along) else { break };
                part.end = next.of_tensor.end;
            }
            let values = slice_of(gradient, &part, update.range.start);
            let update = Update { range: part, ..update.clone() };
            if is_near {
                non_finite += update.run(&self.engine, Gradient::Given(values), Waiter::Caller)?;
            } else {
                non_finite += self.give_far(update, values, capacity)?;
            }
        }
        Ok(non_finite)
    }

    fn is_near(&self, update: &Update, range: &Range<u64>) -> bool {
        self.engine.pager.are_near(update.tensor, range, 0..update.planes)
    }

    /// Queues an update with a copy of its gradient; one that is larger than all of the memory for them is made at once.
    fn give_far(&mut self, update: Update, values: &[f32], capacity: u64) -> Result<u64> {
        let bytes = crate::pager::memory_bytes(4 * values.len());
        if bytes > capacity {
            self.wait_idle()?;
            return update.run(&self.engine, Gradient::Given(values), Waiter::Caller);
        }
        self.shared.lock().is_wanted = true;
        self.wait_until(|state| state.memory.used_bytes() + bytes <= capacity || state.error.is_some());
        self.shared.lock().is_wanted = false;
        self.check()?;
        let mut memory = self.memory(bytes, capacity)?;
        as_f32_mut(memory.get_mut(..4 * values.len()).unwrap_or_default()).copy_from_slice(values);
        if let Err(error) = self.start() {
            self.engine.pager.give_memory(memory);
            return Err(error);
        }
        let mut state = self.shared.lock();
        state.memory.begin(&memory);
        state.queued.push_back(Queued { update, gradient: memory, elements: values.len() });
        drop(state);
        self.shared.moved.notify_all();
        Ok(0)
    }

    /// Memory for a gradient that there is room for.
    fn memory(&self, bytes: u64, capacity: u64) -> Result<Buffer> {
        let mut state = self.shared.lock();
        if let Some(buffer) = state.memory.take_spare(bytes) {
            return Ok(buffer);
        }
        let gone = state.memory.make_room(bytes, capacity);
        drop(state);
        self.shared.give_back(&self.engine, gone);
        self.engine.pager.take_memory(to_usize(bytes))
    }

    fn start(&mut self) -> Result<()> {
        if self.thread.is_none() {
            let (shared, engine) = (Arc::clone(&self.shared), self.engine.clone());
            let thread = thread::Builder::new()
                .name("paramstore-update".to_owned())
                .spawn(move || shared.run(&engine))
                .map_err(|source| Error::Resource { what: "the thread of updates".to_owned(), source })?;
            self.thread = Some(thread);
        }
        Ok(())
    }

    /// Waits until no update of a tensor is under way.
    pub(crate) fn settle(&self, tensor: usize) {
        let others = |state: &State| {
            state.running != Some(tensor) && state.queued.iter().all(|queued| queued.update.tensor != tensor)
        };
        self.wait_until(others);
    }

    /// Waits until nothing is under way, and leaves it to others to ask how it ended.
    pub(crate) fn settle_all(&self) {
        self.wait_until(|state| state.running.is_none() && state.queued.is_empty());
    }

    /// Waits until nothing is under way, and tells of an update that failed.
    pub(crate) fn wait_idle(&self) -> Result<()> {
        self.wait_until(|state| state.running.is_none() && state.queued.is_empty());
        self.check()
    }

    /// Tells, once, of an update that failed.
    pub(crate) fn check(&self) -> Result<()> {
        self.shared.lock().error.take().map_or(Ok(()), Err)
    }

    /// Forgets what has not begun, and waits for what has.
    pub(crate) fn cancel(&self) {
        let mut state = self.shared.lock();
        state.drop_queued();
        let spare = state.memory.take_all_spare();
        drop(state);
        self.shared.give_back(&self.engine, spare);
        self.wait_until(|state| state.running.is_none());
        let mut state = self.shared.lock();
        state.non_finite = 0;
        state.error = None;
    }

    /// The NaN and infinite gradients of updates made in the background since this was last asked.
    pub(crate) fn take_non_finite(&self) -> u64 {
        std::mem::take(&mut self.shared.lock().non_finite)
    }

    /// Waits, and counts the time as that of the caller.
    fn wait_until(&self, is_so: impl Fn(&State) -> bool) {
        let mut state = self.shared.lock();
        if is_so(&state) {
            return;
        }
        let start = Instant::now();
        while !is_so(&state) {
            state = self.shared.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        self.engine.pager.lock().stats_mut().stall_update_ns += elapsed_ns(start);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The life of the thread.
    fn run(&self, engine: &Engine) {
        while let Some(queued) = self.next() {
            let values = as_f32(queued.gradient.get(..4 * queued.elements).unwrap_or_default());
            let work = || queued.update.run(engine, Gradient::Given(values), Waiter::Background);
            // A panic in here would leave the caller waiting for ever; it is told as the error that it is.
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            let panicked =
                |_| Err(Error::io("update", "a block", std::io::Error::other("a panic; see above")));
            self.end(engine, queued, result.unwrap_or_else(panicked));
        }
    }

    fn next(&self) -> Option<Queued> {
        let mut state = self.lock();
        loop {
            if state.is_closing {
                return None;
            }
            if let Some(queued) = state.queued.pop_front() {
                state.running = Some(queued.update.tensor);
                return Some(queued);
            }
            state = self.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Gives the memory of a gradient back and takes note of what became of its update. After a failure nothing that
    /// waits is begun: the step has failed.
    fn end(&self, engine: &Engine, queued: Queued, result: Result<u64>) {
        let is_whole = engine.pager.is_whole();
        let mut state = self.lock();
        state.memory.end(queued.gradient);
        state.running = None;
        match result {
            Ok(non_finite) => state.non_finite += non_finite,
            Err(error) => {
                state.error.get_or_insert(error);
                state.drop_queued();
            }
        }
        // Where everything fits, all memory is for blocks in the end.
        let keeps = (state.is_wanted || !state.queued.is_empty()) && !is_whole;
        let spare = if keeps { Vec::new() } else { state.memory.take_all_spare() };
        drop(state);
        self.give_back(engine, spare);
    }

    fn give_back(&self, engine: &Engine, spare: Vec<Buffer>) {
        for buffer in spare {
            engine.pager.give_memory(buffer);
        }
        self.moved.notify_all();
    }
}

impl State {
    fn drop_queued(&mut self) {
        for queued in std::mem::take(&mut self.queued) {
            self.memory.end(queued.gradient);
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.cancel();
        self.shared.lock().is_closing = true;
        self.shared.moved.notify_all();
        if let Some(thread) = self.thread.take() {
            // The thread catches the panics of its updates, and there is nobody to tell of another.
            drop(thread.join());
        }
    }
}
