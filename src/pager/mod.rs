//! WHO IS NEAR. Leases of blocks under a hard memory budget, read-ahead and write-behind.
//!
//! A frame is the memory of one plane of one block. A lease takes frames out of the pager, a release gives them
//! back; in between nobody else can touch them. Reads and writes run on the I/O queue and own their frame's memory
//! while they do, so that one block is never touched through two ways at once.

mod ahead;
mod births;
mod frames;
mod hot;
mod lease;
mod pool;
mod stats;
mod transfer;
mod view;
mod visit;

use std::collections::HashMap;
use std::sync::Arc;

pub use stats::Stats;
pub use view::View;

pub(crate) use ahead::read_ahead;
pub(crate) use pool::streaming_bytes;
pub(crate) use stats::elapsed_ns;
pub(crate) use visit::Run;

use crate::error::{Error, Result};
use crate::format::directory::{Directory, Extent};
use crate::layout::{BlockPlace, block_place};
use crate::storage::{Buffer, Queue};
use crate::store::BlockStore;
use crate::units::BlockIndex;

use births::Births;
use frames::{Frame, Frames};
use pool::Pool;
use transfer::Completion;

/// How blocks travel between disk and memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum IoPath {
    /// Direct where the file system can, mapped elsewhere.
    #[default]
    Auto,
    /// Past the page cache (`O_DIRECT`).
    Direct,
    /// Reads through memory maps, writes through the page cache.
    Mapped,
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
    pub(crate) io_threads: usize,
    pub(crate) path: IoPath,
}

pub(crate) struct Pager {
    store: BlockStore,
    directory: Arc<Directory>,
    births: Births,
    frames: Frames,
    pool: Pool,
    queue: Queue<Completion>,
    path: IoPath,
    /// Blocks whose scratch plane was written out in this step, with the checksum of it.
    scratch: HashMap<BlockIndex, u32>,
    failed: HashMap<Key, Error>,
    checked: view::Checked,
    stats: Stats,
}

impl Pager {
    pub(crate) fn new(store: BlockStore, settings: Settings) -> Result<Self> {
        let directory = Arc::clone(store.directory());
        let births = Births::new(&directory);
        check_budget(&directory, settings.budget_bytes)?;
        Ok(Self {
            births,
            frames: Frames::default(),
            pool: Pool::new(settings.budget_bytes),
            queue: Queue::new(settings.io_threads)?,
            path: settings.path,
            scratch: HashMap::new(),
            failed: HashMap::new(),
            checked: view::Checked::default(),
            stats: Stats::default(),
            directory,
            store,
        })
    }

    pub(crate) fn store(&self) -> &BlockStore {
        &self.store
    }

    pub(crate) fn store_mut(&mut self) -> &mut BlockStore {
        &mut self.store
    }

    pub(crate) fn budget_bytes(&self) -> u64 {
        self.pool.budget_bytes()
    }

    /// Counters since the store was opened, with the memory in use now.
    pub(crate) fn stats(&self) -> Stats {
        Stats { held_bytes: self.pool.used_bytes(), table_bytes: self.store.table_bytes(), ..self.stats }
    }

    pub(crate) fn stats_mut(&mut self) -> &mut Stats {
        &mut self.stats
    }

    /// The extent that holds a block.
    fn extent(&self, block: BlockIndex) -> Option<&Extent> {
        let after = self.directory.extents.partition_point(|extent| extent.first_block <= block.0);
        self.directory.extents.get(after.checked_sub(1)?)
    }

    fn place(&self, key: Key) -> Result<BlockPlace> {
        self.extent(key.block)
            .and_then(|extent| block_place(extent, key.block, key.plane))
            .ok_or_else(|| Error::invalid("block", format!("{key:?}"), "a block of this store"))
    }

    fn is_scratch(&self, key: Key) -> bool {
        self.extent(key.block).is_some_and(|extent| key.plane >= extent.planes.len())
    }

    /// Marks the beginning of a step: frames that no recent step used make room, old gradients are forgotten.
    pub(crate) fn begin_step(&mut self) -> Result<()> {
        self.frames.tick();
        for key in self.frames.stale() {
            self.evict(key)?;
        }
        self.forget_scratch()
    }

    /// Drops all gradients; the scratch plane has no meaning between steps.
    pub(crate) fn forget_scratch(&mut self) -> Result<()> {
        let gradients: Vec<_> = self.frames.keys().filter(|&key| self.is_scratch(key)).collect();
        for key in gradients {
            self.settle(key)?;
            if let Some(Frame::Ready { buffer, .. }) = self.frames.remove(key) {
                self.pool.put(buffer);
            }
        }
        self.scratch.clear();
        Ok(())
    }

    /// Writes every changed frame and waits until the disk has taken all of them; frames stay near.
    pub(crate) fn write_all(&mut self) -> Result<()> {
        for key in self.frames.dirty() {
            if !self.is_scratch(key) {
                self.write_out(key, true)?;
            }
        }
        self.wait_idle()
    }

    /// Forgets everything that is not committed.
    pub(crate) fn roll_back(&mut self) -> Result<()> {
        self.store.check_writable("roll back")?;
        self.wait_idle()?;
        for buffer in self.frames.take_all() {
            self.pool.put(buffer);
        }
        self.pool.recount();
        self.scratch.clear();
        self.failed.clear();
        self.store.discard_working()
    }
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
    let block_bytes = |extent: &Extent| -> u64 {
        let elements = extent.block_elements.min(extent.elements);
        let planes = extent.planes.iter().chain(&extent.scratch);
        planes
            .filter_map(|plane| crate::format::directory::padded_bytes(plane.dtype, elements))
            .map(|bytes| crate::units::to_u64(pool::class_of(crate::units::to_usize(bytes))))
            .sum()
    };
    directory.extents.iter().map(block_bytes).max().unwrap_or(0).saturating_mul(3)
}

impl Drop for Pager {
    fn drop(&mut self) {
        // Reads and writes in flight own their memory and files; wait so that nothing runs on after the lock is gone.
        while self.queue.recv().is_some() {}
    }
}

/// The buffers of a lease, in the order of its keys.
pub(crate) type Leased = Vec<Buffer>;
