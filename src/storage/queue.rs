//! A few threads that wait for the disk, so that nobody else has to; or none, where the order of operations has to be
//! the same in every run.
//!
//! `tests/models` compiles this very file once more, with the locks and threads of a model checker.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use super::sync::thread::{self, JoinHandle};
use super::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use crate::error::{Error, Result};

type Job<T> = Box<dyn FnOnce() -> T + Send>;

/// A pool of I/O threads: jobs go in, completions of type `T` come out.
///
/// Jobs begin in the order of submission, those of [`submit_first`](Self::submit_first) before the others;
/// completions arrive in the order in which the jobs end. The queue has no bound of its own: whoever submits holds a
/// bounded number of buffers. Dropping it waits for the jobs that run, and discards those that have not begun along
/// with all completions that nobody received.
///
/// A queue without threads runs a job when somebody waits for a completion, in his thread: as late as can be, and always
/// in the same order.
pub(crate) struct Queue<T: Send + 'static> {
    pub(super) shared: Arc<Shared<T>>,
    threads: Vec<JoinHandle<()>>,
}

pub(super) struct Shared<T> {
    state: Mutex<State<T>>,
    /// Signalled when a job is added, and when the queue closes.
    work: Condvar,
    /// Signalled when a job has ended, and when the last completion was received.
    ended: Condvar,
}

pub(super) struct State<T> {
    first: VecDeque<Job<T>>,
    rest: VecDeque<Job<T>>,
    ended: VecDeque<std::thread::Result<T>>,
    /// Submitted and not yet received.
    in_flight: usize,
    busy: Busy,
    pub(super) is_closing: bool,
}

/// The time during which at least one job ran.
#[derive(Default)]
struct Busy {
    running: usize,
    since: Option<Instant>,
    before: Duration,
}

impl Busy {
    fn begin(&mut self) {
        self.running += 1;
        self.since.get_or_insert_with(Instant::now);
    }

    fn end(&mut self) {
        self.running -= 1;
        if self.running == 0 {
            self.before = self.total();
            self.since = None;
        }
    }

    fn total(&self) -> Duration {
        self.before + self.since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

impl<T: Send + 'static> Queue<T> {
    /// Starts `threads` threads; with none, jobs run in the threads that wait for them.
    ///
    /// # Errors
    /// `Resource` if the system refuses one.
    pub(crate) fn new(threads: usize) -> Result<Self> {
        let state = State {
            first: VecDeque::new(),
            rest: VecDeque::new(),
            ended: VecDeque::new(),
            in_flight: 0,
            busy: Busy::default(),
            is_closing: false,
        };
        let shared =
            Arc::new(Shared { state: Mutex::new(state), work: Condvar::new(), ended: Condvar::new() });
        // Made before the threads: if one of them cannot start, dropping it ends the others.
        let mut queue = Self { shared, threads: Vec::with_capacity(threads) };
        for index in 0..threads {
            let shared = Arc::clone(&queue.shared);
            let thread = thread::Builder::new()
                .name(format!("paramstore-io-{index}"))
                .spawn(move || shared.run())
                .map_err(|source| Error::Resource { what: format!("I/O thread {index}"), source })?;
            queue.threads.push(thread);
        }
        Ok(queue)
    }

    /// Adds a job behind all others.
    pub(crate) fn submit(&self, job: impl FnOnce() -> T + Send + 'static) {
        let mut state = self.shared.lock();
        state.rest.push_back(Box::new(job));
        self.added(state);
    }

    /// Adds a job before those of [`submit`](Self::submit) and behind earlier ones of its own kind: for a read that
    /// somebody waits for, ahead of writes that nobody does.
    pub(crate) fn submit_first(&self, job: impl FnOnce() -> T + Send + 'static) {
        let mut state = self.shared.lock();
        state.first.push_back(Box::new(job));
        self.added(state);
    }

    /// Whether jobs run only while somebody waits for them.
    pub(crate) fn is_in_place(&self) -> bool {
        self.threads.is_empty()
    }

    fn added(&self, mut state: MutexGuard<'_, State<T>>) {
        state.in_flight += 1;
        drop(state);
        self.shared.work.notify_one();
    }

    /// Waits for the next completion; `None` if nothing is in flight.
    ///
    /// # Panics
    /// Goes on with the panic of a job that panicked: it surfaces here, once, and the queue stays usable.
    pub(crate) fn recv(&self) -> Option<T> {
        let mut state = self.shared.lock();
        if self.is_in_place()
            && state.ended.is_empty()
            && let Some(job) = state.begin()
        {
            drop(state);
            self.shared.run_job(job);
            state = self.shared.lock();
        }
        while state.ended.is_empty() && state.in_flight > 0 {
            state = self.shared.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        self.take(state)
    }

    /// The next completion if there is one, without waiting.
    ///
    /// # Panics
    /// As [`recv`](Self::recv).
    pub(crate) fn try_recv(&self) -> Option<T> {
        self.take(self.shared.lock())
    }

    fn take(&self, mut state: MutexGuard<'_, State<T>>) -> Option<T> {
        let ended = state.ended.pop_front()?;
        state.in_flight -= 1;
        if state.in_flight == 0 {
            // Others that wait in `recv` have nothing left to wait for.
            self.shared.ended.notify_all();
        }
        drop(state);
        match ended {
            Ok(value) => Some(value),
            Err(panic) => resume_unwind(panic),
        }
    }

    /// The time so far during which at least one job ran.
    pub(crate) fn busy_time(&self) -> Duration {
        self.shared.lock().busy.total()
    }

    /// Jobs submitted whose completion was not received yet.
    pub(crate) fn in_flight(&self) -> usize {
        self.shared.lock().in_flight
    }
}

impl<T> State<T> {
    fn begin(&mut self) -> Option<Job<T>> {
        let job = self.first.pop_front().or_else(|| self.rest.pop_front())?;
        self.busy.begin();
        Some(job)
    }
}

impl<T> Shared<T> {
    /// No user code runs under this lock, so that a poisoned state is whole all the same.
    pub(super) fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The life of one thread.
    fn run(&self) {
        while let Some(job) = self.next() {
            self.run_job(job);
        }
    }

    fn run_job(&self, job: Job<T>) {
        // The job is consumed and its panic goes on in `recv`, so that nobody sees what it left half done.
        let ended = catch_unwind(AssertUnwindSafe(job));
        let mut state = self.lock();
        state.busy.end();
        state.ended.push_back(ended);
        drop(state);
        self.ended.notify_one();
    }

    fn next(&self) -> Option<Job<T>> {
        let mut state = self.lock();
        loop {
            if state.is_closing {
                return None;
            }
            if let Some(job) = state.begin() {
                return Some(job);
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl<T: Send + 'static> Drop for Queue<T> {
    fn drop(&mut self) {
        self.shared.lock().is_closing = true;
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            // A thread catches every panic of its jobs, and there is nobody to tell of another.
            let _joined = thread.join();
        }
    }
}
