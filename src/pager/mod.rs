//! WHO IS NEAR. Leases of blocks under a hard memory budget, read-ahead and write-behind.
//!
//! A frame is the memory of one plane of one block. A lease takes frames out of the pager and gives them back when it
//! ends; in between nobody else can touch them. Reads and writes run on the I/O queue and own their frame's memory
//! while they do, so that one block is never touched through two ways at once.
//!
//! Several threads may use a pager at once. All bookkeeping stands in one [`State`] behind a lock, which nobody holds
//! while a block is read, computed on or written. Whatever has to wait is written as an attempt that is made again
//! when something has moved ([`Pager::until`]).

mod ahead;
mod births;
mod bytes;
mod follow;
mod frames;
mod hot;
mod lease;
mod look;
mod plan;
mod pool;
mod state;
mod stats;
mod transfer;
mod view;
mod visit;
mod wait;

/// What `wait.rs` locks with; a model checker has its own.
mod sync {
    pub(super) use std::sync::{MutexGuard, PoisonError};
}

use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex};

pub use stats::Stats;
pub use view::{HalfView, View};

pub(crate) use ahead::{ReadAhead, read_ahead, read_pieces_ahead};
pub(crate) use lease::Lease;
pub(crate) use look::RunState;
pub(crate) use plan::Access;
pub(crate) use state::State;
pub(crate) use stats::elapsed_ns;
pub(crate) use visit::Run;
pub(crate) use wait::Waiter;

use crate::error::{Error, Result};
use crate::format::directory::{Directory, Extent, padded_bytes};
use crate::layout::pieces;
use crate::storage::{Buffer, Queue};
use crate::store::BlockStore;
use crate::units::{BlockIndex, to_u64, to_usize};

use transfer::Completion;
use wait::Attempt;

/// How blocks travel between disk and memory. [Example](crate::Options#example).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum IoPath {
    /// Direct where the file system can, through the page cache elsewhere.
    #[default]
    Auto,
    /// Past the page cache (`O_DIRECT`).
    Direct,
    /// Reads through the page cache, and shows views in place in maps; writes past the page cache where the file system can.
    /// Blocks on their way take up to 128 MiB of the memory budget, half of it at most; the page cache keeps a block for each I/O
    /// thread beside the budget, and what the system reads ahead.
    Mapped,
}

impl IoPath {
    /// Threads that read and write blocks unless [`Options::io_threads`](crate::Options::io_threads) says otherwise: 8, and
    /// half as many where each has a block in the page cache, for which a limit of memory may leave little room. (`Auto` keeps its 8
    /// on a file system without direct I/O, which shows only when blocks are read.)
    ///
    /// ```
    /// use paramstore::IoPath;
    ///
    /// assert_eq!((IoPath::Auto.io_threads(), IoPath::Mapped.io_threads()), (8, 4));
    /// ```
    #[must_use]
    pub fn io_threads(self) -> usize {
        match self {
            Self::Auto | Self::Direct => 8,
            Self::Mapped => 4,
        }
    }
}

/// One plane of one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) block: BlockIndex,
    /// Counts the planes of the block's extent; one past the last is the scratch plane.
    pub(crate) plane: usize,
}

/// Settings of a pager.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    /// Bytes of memory that frames and gathered views may take.
    pub(crate) budget_bytes: u64,
    /// 0: blocks are read and written in the thread that waits for them.
    pub(crate) io_threads: usize,
    pub(crate) path: IoPath,
}

pub(crate) struct Pager {
    directory: Arc<Directory>,
    state: Mutex<State>,
    /// Signalled when a frame, or memory, may have become free for somebody who waits.
    moved: Condvar,
    queue: Arc<Queue<Completion>>,
}

impl Pager {
    pub(crate) fn new(store: BlockStore, settings: Settings) -> Result<Self> {
        let directory = Arc::clone(store.directory());
        check_budget(&directory, settings.budget_bytes)?;
        let queue = Arc::new(Queue::new(settings.io_threads)?);
        let state = State::new(store, settings, Arc::clone(&queue));
        Ok(Self { directory, state: Mutex::new(state), moved: Condvar::new(), queue })
    }

    pub(crate) fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }

    /// Marks the beginning of a step: frames that no recent step used make room, old gradients are forgotten.
    pub(crate) fn begin_step(&self) -> Result<()> {
        let mut state = self.lock();
        state.begin_step()?;
        drop(state);
        self.forget_scratch()?;
        self.lock().begin_plan();
        Ok(())
    }

    /// Marks the end of a step that has finished: its uses are the plan of the next.
    pub(crate) fn end_step(&self) -> Result<()> {
        self.forget_scratch()?;
        self.lock().end_plan();
        self.until(Waiter::Caller, State::try_fit_budget)
    }

    /// Drops all gradients; the scratch plane has no meaning between steps.
    pub(crate) fn forget_scratch(&self) -> Result<()> {
        self.until(Waiter::Caller, |state, stuck| Ok(state.try_forget_scratch(stuck)))
    }

    /// Says what is going to be used next: in a step it is recorded, and compared with the plan.
    pub(crate) fn enter(&self, access: &Access) {
        self.lock().enter(access);
    }

    /// Writes every changed frame and waits until the disk has taken all of them, and those under way before; frames
    /// stay near. Returns the bytes of the writes that began now.
    pub(crate) fn write_all(&self) -> Result<u64> {
        let bytes = self.lock().write_dirty()?;
        self.until(Waiter::Caller, |state, _| {
            // Reads for the next step may go on.
            Ok(if state.is_writing() { Attempt::Wait(wait::Stall::Write) } else { Attempt::Done(()) })
        })?;
        Ok(bytes)
    }

    /// Forgets everything that is not committed.
    pub(crate) fn roll_back(&self) -> Result<()> {
        let mut state = self.lock();
        state.store().check_writable("roll back")?;
        // Nothing that is read from now on may stay.
        state.stop_plan();
        drop(state);
        self.wait_idle()?;
        self.lock().roll_back()
    }

    /// Whether all blocks of a range of a tensor are in memory.
    pub(crate) fn are_near(&self, tensor: usize, range: &Range<u64>, planes: Range<usize>) -> bool {
        let state = self.lock();
        pieces(&self.directory, tensor, range.clone())
            .all(|piece| planes.clone().all(|plane| state.is_near(Key { block: piece.block, plane })))
    }

    /// Whether everything is done in the caller's thread.
    pub(crate) fn is_in_place(&self) -> bool {
        self.queue.is_in_place()
    }

    /// Whether the budget has room for all blocks.
    pub(crate) fn is_whole(&self) -> bool {
        self.lock().is_whole()
    }

    /// Bytes of gradients that may wait for their update; 0 where the budget has no room for that, or where all is done
    /// in the caller's thread.
    pub(crate) fn gradient_bytes(&self) -> u64 {
        if self.is_in_place() {
            return 0;
        }
        // What no view takes, whichever way blocks are read.
        let streaming = self.lock().pool.streaming_bytes();
        // While gradients wait, an update has its block and a reader one plane, whatever views hold.
        let needed = self.directory.extents.iter().map(|e| block_bytes(e) + plane_bytes(e)).max();
        if streaming - streaming / 4 >= needed.unwrap_or(0) { streaming / 4 } else { 0 }
    }

    /// Memory of the budget to copy planes of blocks through, several at a time if there is room, and the threads to do
    /// it with.
    pub(crate) fn take_copy_memory(&self) -> Result<(Vec<Buffer>, usize)> {
        const MANY: u64 = 4;
        const RUN_BYTES: u64 = 1 << 20;
        let plane = self.directory.extents.iter().map(plane_bytes).max().unwrap_or(0);
        let free = self.lock().pool.streaming_bytes() / 2;
        let bytes =
            plane.max(RUN_BYTES.min(free / MANY / crate::format::PAGE_BYTES * crate::format::PAGE_BYTES));
        let count = (free / bytes.max(1)).clamp(1, MANY);
        let buffers = self.take_memories(to_usize(count), to_usize(bytes))?;
        let threads = if self.queue.is_in_place() { 0 } else { buffers.len() };
        Ok((buffers, threads))
    }

    /// Memory of the budget for each of up to `threads` threads that also hold one plane of a block at a time: `least` bytes
    /// times a power of two, at most `most`, the same for all. For one thread where all is done in the caller's.
    pub(crate) fn take_thread_memory(
        &self,
        threads: usize,
        least: usize,
        most: usize,
    ) -> Result<Vec<Buffer>> {
        let budget = self.lock().pool.budget_bytes();
        let plane = self.directory.extents.iter().map(plane_bytes).max().unwrap_or(0).max(1);
        let threads =
            if self.queue.is_in_place() { 1 } else { threads.min(to_usize(budget / 4 / plane)).max(1) };
        let mut bytes = most;
        while bytes > least && to_u64(bytes.saturating_mul(threads)) > budget / 8 {
            bytes /= 2;
        }
        self.take_memories(threads, bytes)
    }

    /// Up to `count` times memory of the budget, at least once.
    fn take_memories(&self, count: usize, bytes: usize) -> Result<Vec<Buffer>> {
        let mut buffers: Vec<Buffer> = Vec::new();
        for _ in 0..count {
            match self.take_memory(bytes) {
                Ok(buffer) => buffers.push(buffer),
                // Views may have the rest.
                Err(Error::Budget { .. }) if !buffers.is_empty() => break,
                Err(error) => {
                    for buffer in buffers {
                        self.give_memory(buffer);
                    }
                    return Err(error);
                }
            }
        }
        Ok(buffers)
    }

    /// Memory of the budget for something that is no block.
    pub(crate) fn take_memory(&self, bytes: usize) -> Result<Buffer> {
        let what = || "memory for what is no block (a gradient that waits, a copy of blocks)".to_owned();
        self.until(Waiter::Caller, |state, stuck| state.try_memory(bytes, stuck, what))
    }

    pub(crate) fn give_memory(&self, buffer: Buffer) {
        self.lock().put_memory(buffer);
        self.notify();
    }

    /// The share of uses that the best possible replacement finds in memory, for the last step that finished; `None`
    /// before there is one, and where it was too long to be recorded.
    pub(crate) fn min_hit_rate(&self) -> Option<f64> {
        self.lock().min_hit_rate()
    }
}

/// Memory that is taken for a number of bytes: a small gradient takes a whole page.
pub(crate) fn memory_bytes(bytes: usize) -> u64 {
    to_u64(pool::class_of(bytes))
}

/// Refuses a budget that cannot hold what every lease needs.
pub(crate) fn check_budget(directory: &Directory, budget: u64) -> Result<()> {
    let needed = smallest_budget(directory);
    if budget >= needed {
        return Ok(());
    }
    let what = "the largest block with all its planes, three times,".to_owned();
    Err(Error::Budget { what, needed, budget })
}

/// The least memory with which every lease can be had while one block is read and another written.
pub(crate) fn smallest_budget(directory: &Directory) -> u64 {
    block_bytes_max(directory).saturating_mul(3)
}

/// Memory of the largest block with all its planes.
fn block_bytes_max(directory: &Directory) -> u64 {
    directory.extents.iter().map(block_bytes).max().unwrap_or(0)
}

/// Memory of all blocks with all their planes; a budget of that size never has to let one go.
fn whole_bytes(directory: &Directory) -> u64 {
    directory
        .extents
        .iter()
        .map(|e| block_bytes(e).saturating_mul(e.elements.div_ceil(e.block_elements)))
        .sum()
}

/// Memory of all blocks of tensors that are not kept by rows.
pub(crate) fn dense_bytes(directory: &Directory) -> u64 {
    let dense = directory.extents.iter().filter(|extent| extent.records.is_none());
    dense.fold(0, |sum, e| sum.saturating_add(block_bytes(e).saturating_mul(e.blocks())))
}

/// Bytes of frames that stay in memory from step to step.
pub(crate) fn hot_bytes_max(directory: &Directory, budget: u64) -> u64 {
    if whole_bytes(directory) <= budget {
        budget
    } else {
        budget - pool::streaming_bytes(budget, block_bytes_max(directory))
    }
}

/// Memory of one block with all its planes.
fn block_bytes(extent: &Extent) -> u64 {
    planes_of_block(extent).sum()
}

/// Memory of the largest plane of a block.
fn plane_bytes(extent: &Extent) -> u64 {
    planes_of_block(extent).max().unwrap_or(0)
}

fn planes_of_block(extent: &Extent) -> impl Iterator<Item = u64> + '_ {
    let elements = extent.block_elements.min(extent.elements);
    let planes = extent.planes.iter().chain(&extent.scratch);
    planes
        .filter_map(move |plane| padded_bytes(plane.dtype, elements))
        .map(|bytes| to_u64(pool::class_of(to_usize(bytes))))
}

impl Drop for Pager {
    fn drop(&mut self) {
        // Reads and writes in flight own their memory and files; wait so that nothing runs on after the lock is gone.
        while self.queue.recv().is_some() {}
    }
}
