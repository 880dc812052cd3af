//! How threads wait for memory, reads, writes and each other's leases: the library's `Pager::until`, around a state of a
//! few frames without bytes.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use super::explore;
use super::queue::Queue;
use super::sync::{Arc, Condvar, Mutex, thread};
use super::wait::{Attempt, Stall, Waiter};
use crate::error::{Error, Result};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Frame {
    Reading,
    Ready,
    Writing,
    Leased,
}

/// What the I/O queue has done to a frame.
pub(super) enum Completion {
    Read(u8),
    Written(u8),
}

pub(super) struct State {
    pub(super) is_receiving: bool,
    frames: BTreeMap<u8, Frame>,
    /// Frames that there is memory for and that are not in the map.
    free: usize,
    /// Keys that somebody waits for; their frames stay.
    wanted: Vec<u8>,
    queue: Arc<Queue<Completion>>,
    stalls: u64,
}

pub(super) struct Pager {
    pub(super) state: Mutex<State>,
    pub(super) moved: Condvar,
    pub(super) queue: Arc<Queue<Completion>>,
}

/// What `until` asks of a state.
impl State {
    pub(super) fn drain(&mut self) -> Result<()> {
        while let Some(completion) = self.queue.try_recv() {
            self.take_in(completion)?;
        }
        Ok(())
    }

    #[expect(clippy::unnecessary_wraps, clippy::needless_pass_by_value, reason = "as the library's")]
    pub(super) fn take_in(&mut self, completion: Completion) -> Result<()> {
        match completion {
            Completion::Read(key) => assert_eq!(self.frames.insert(key, Frame::Ready), Some(Frame::Reading)),
            Completion::Written(key) => {
                assert_eq!(self.frames.remove(&key), Some(Frame::Writing));
                self.free += 1;
            }
        }
        Ok(())
    }

    pub(super) fn leased(&self) -> u64 {
        u64::try_from(self.frames.values().filter(|frame| **frame == Frame::Leased).count()).unwrap()
    }

    #[expect(clippy::unused_self, reason = "there is no plan")]
    pub(super) fn read_planned(&self) {}

    pub(super) fn count_stall(&mut self, _: Waiter, _: Stall, _: u64) {
        self.stalls += 1;
    }

    /// A lease: the frame at once, or after its read, or after room was made for it.
    fn try_lease(&mut self, key: u8, stuck: bool) -> Result<Attempt<()>> {
        match self.frames.get(&key) {
            Some(Frame::Ready) => {
                self.frames.insert(key, Frame::Leased);
                return Ok(Attempt::Done(()));
            }
            Some(Frame::Reading | Frame::Leased | Frame::Writing) => return Ok(Attempt::Wait(Stall::Read)),
            None => {}
        }
        if self.free > 0 {
            self.free -= 1;
            self.frames.insert(key, Frame::Reading);
            self.queue.submit_first(move || Completion::Read(key));
            return Ok(Attempt::Wait(Stall::Read));
        }
        if self.frames.values().any(|frame| *frame == Frame::Writing) {
            return Ok(Attempt::Wait(Stall::Write));
        }
        let may_go = |key: &u8, frame: &Frame| *frame == Frame::Ready && !self.wanted.contains(key);
        let ready = self.frames.iter().find(|(key, frame)| may_go(key, frame)).map(|(&key, _)| key);
        match ready {
            Some(victim) => {
                self.frames.insert(victim, Frame::Writing);
                self.queue.submit(move || Completion::Written(victim));
                Ok(Attempt::Wait(Stall::Write))
            }
            None if stuck => Err(Error::invalid("memory", "nothing that could go", "a frame")),
            None => Ok(Attempt::Wait(Stall::Write)),
        }
    }
}

impl Pager {
    fn new(frames: usize, io_threads: usize) -> Self {
        let queue = Arc::new(Queue::new(io_threads).unwrap());
        let frames_of = BTreeMap::new();
        let state = State {
            is_receiving: false,
            frames: frames_of,
            free: frames,
            wanted: Vec::new(),
            queue: Arc::clone(&queue),
            stalls: 0,
        };
        Self { state: Mutex::new(state), moved: Condvar::new(), queue }
    }

    fn lease(&self, key: u8) -> Result<()> {
        self.lock().wanted.push(key);
        let leased = self.until(Waiter::Caller, |state, stuck| state.try_lease(key, stuck));
        let mut state = self.lock();
        let at = state.wanted.iter().position(|&wanted| wanted == key);
        state.wanted.remove(at.unwrap());
        leased
    }

    fn release(&self, key: u8) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(state.frames.insert(key, Frame::Ready), Some(Frame::Leased));
        state.drain().unwrap();
        self.moved.notify_all();
    }

    /// Waits for everything that is being written, as a commit does.
    fn settle(&self) {
        let settled = self.until(Waiter::Caller, |state, _| {
            let writing = state.frames.values().any(|frame| *frame == Frame::Writing);
            Ok(if writing { Attempt::Wait(Stall::Write) } else { Attempt::Done(()) })
        });
        settled.unwrap();
    }
}

/// Threads that lease the same few blocks in different orders, with memory for fewer than there are: for one a thread,
/// as the smallest budget has it (with less, a thread that finds nothing in flight is told that the budget is too small).
fn threads_share(threads: u8, io_threads: usize) {
    let frames = usize::from(threads);
    let pager = Arc::new(Pager::new(frames, io_threads));
    let others: Vec<_> = (0..threads)
        .map(|number| {
            let pager = Arc::clone(&pager);
            thread::spawn(move || {
                for use_of in 0..3 {
                    let key = (number + use_of) % (threads + 1);
                    pager.lease(key).unwrap();
                    thread::yield_now();
                    pager.release(key);
                }
                pager.settle();
            })
        })
        .collect();
    for other in others {
        other.join().unwrap();
    }
    let state = pager.lock();
    assert_eq!((state.leased(), state.is_receiving), (0, false));
}

#[test]
fn every_thread_gets_its_leases_with_less_memory_than_blocks() {
    explore(4000, || threads_share(2, 1));
    explore(2000, || threads_share(3, 1));
    explore(4000, || threads_share(2, 2));
}
