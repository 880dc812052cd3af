//! The bookkeeping of a pager. Nothing here waits.

use std::collections::HashMap;
use std::sync::Arc;

use super::births::Births;
use super::follow::Follower;
use super::frames::{Frame, Frames};
use super::plan::{Access, Plan, plan_bytes_max};
use super::pool::Pool;
use super::transfer::Completion;
use super::view::Checked;
use super::wait::{Attempt, Stall, Waiter};
use super::{IoPath, Key, Settings, Stats};
use crate::error::{Error, Result};
use crate::format::directory::{Directory, Extent};
use crate::layout::{BlockPlace, block_place};
use crate::storage::{Buffer, Queue};
use crate::store::BlockStore;
use crate::units::{BlockIndex, to_u64};

pub(crate) struct State {
    pub(super) store: BlockStore,
    pub(super) directory: Arc<Directory>,
    pub(super) births: Births,
    /// Memory of all blocks.
    whole_bytes: u64,
    pub(super) frames: Frames,
    pub(super) pool: Pool,
    pub(super) queue: Arc<Queue<Completion>>,
    pub(super) path: IoPath,
    /// Whether blocks are read through the page cache.
    pub(super) is_cached: bool,
    /// Blocks whose scratch plane was written out in this step, with the checksum of it.
    pub(super) scratch: HashMap<BlockIndex, u32>,
    /// Reads that failed, told to whoever leases the block.
    pub(super) failed: HashMap<Key, Error>,
    pub(super) checked: Checked,
    pub(super) follower: Follower,
    /// Keys that somebody waits for; their frames stay.
    pub(super) wanted: Vec<Key>,
    /// Whether a thread waits for the next completion.
    pub(super) is_receiving: bool,
    /// Writes in flight.
    pub(super) writes: u64,
    pub(super) commits: CommitRhythm,
    pub(super) stats: Stats,
}

/// How often the caller commits, to write what the next commit needs before it is asked for.
#[derive(Debug, Default)]
pub(super) struct CommitRhythm {
    /// Steps that began since the last commit.
    steps: u64,
    /// Steps before the last commit, and before the one before it.
    intervals: [Option<u64>; 2],
}

impl CommitRhythm {
    fn step(&mut self) {
        self.steps += 1;
    }

    fn commit(&mut self) {
        if self.steps > 0 {
            self.intervals = [Some(self.steps), self.intervals[0]];
            self.steps = 0;
        }
    }

    /// Whether a commit is likely to follow this step.
    fn is_due(&self) -> bool {
        self.intervals == [Some(self.steps); 2]
    }
}

impl State {
    pub(super) fn new(store: BlockStore, settings: Settings, queue: Arc<Queue<Completion>>) -> Self {
        let directory = Arc::clone(store.directory());
        Self {
            births: Births::new(&directory),
            whole_bytes: super::whole_bytes(&directory),
            frames: Frames::default(),
            pool: Pool::new(settings.budget_bytes, super::block_bytes_max(&directory)),
            queue,
            path: settings.path,
            is_cached: settings.path == IoPath::Mapped,
            scratch: HashMap::new(),
            failed: HashMap::new(),
            checked: Checked::default(),
            follower: Follower::default(),
            wanted: Vec::new(),
            is_receiving: false,
            writes: 0,
            commits: CommitRhythm::default(),
            stats: Stats::default(),
            directory,
            store,
        }
    }

    pub(crate) fn store(&self) -> &BlockStore {
        &self.store
    }

    pub(crate) fn store_mut(&mut self) -> &mut BlockStore {
        &mut self.store
    }

    /// Counters since the store was opened, with the memory in use now.
    pub(crate) fn stats(&self) -> Stats {
        let held_bytes = self.pool.used_bytes() + self.follower.plan().map_or(0, Plan::bytes);
        let disk_ns = u64::try_from(self.queue.busy_time().as_nanos()).unwrap_or(u64::MAX);
        Stats { held_bytes, disk_ns, table_bytes: self.store.table_bytes(), ..self.stats }
    }

    pub(crate) fn stats_mut(&mut self) -> &mut Stats {
        &mut self.stats
    }

    pub(super) fn count_stall(&mut self, waiter: Waiter, stall: Stall, ns: u64) {
        match (waiter, stall) {
            (Waiter::Caller, Stall::Read) => self.stats.stall_read_ns += ns,
            (Waiter::Caller, Stall::Write) => self.stats.stall_write_ns += ns,
            (Waiter::Background, _) => {}
        }
    }

    /// The extent that holds a block.
    pub(super) fn extent(&self, block: BlockIndex) -> Option<&Extent> {
        let after = self.directory.extents.partition_point(|extent| extent.first_block <= block.0);
        self.directory.extents.get(after.checked_sub(1)?)
    }

    pub(super) fn place(&self, key: Key) -> Result<BlockPlace> {
        self.extent(key.block)
            .and_then(|extent| block_place(extent, key.block, key.plane))
            .ok_or_else(|| Error::invalid("block", format!("{key:?}"), "a block of this store"))
    }

    pub(super) fn is_scratch(&self, key: Key) -> bool {
        self.extent(key.block).is_some_and(|extent| key.plane >= extent.planes.len())
    }

    /// Puts a frame, ranked by the plan where one is followed.
    pub(super) fn set(&mut self, key: Key, frame: Frame) {
        let due = self.follower.due(key);
        self.frames.set(key, frame, due);
    }

    fn rank_frames(&mut self) {
        let follower = &self.follower;
        self.frames.rank_all(|key| follower.due(key));
    }

    pub(super) fn is_near(&self, key: Key) -> bool {
        matches!(self.frames.get(key), Some(Frame::Ready { .. }))
    }

    /// Bytes of the budget that blocks on their way take if they can have them: more than the pool keeps for them where they are
    /// read through the page cache, for a block that is copied from there is on its way for longer.
    pub(super) fn wanted_streaming_bytes(&self) -> u64 {
        const ENOUGH_BYTES_CACHED: u64 = 128 << 20;
        let needed = self.pool.streaming_bytes();
        if self.is_cached {
            needed.max(ENOUGH_BYTES_CACHED.min(self.pool.budget_bytes() / 2))
        } else {
            needed
        }
    }

    pub(super) fn put_memory(&mut self, buffer: Buffer) {
        self.pool.put(buffer);
    }

    /// Frames that leases have.
    pub(super) fn leased(&self) -> u64 {
        self.frames.totals().leased
    }

    pub(super) fn is_writing(&self) -> bool {
        self.writes > 0
    }

    /// Whether the budget has room for all blocks.
    pub(super) fn is_whole(&self) -> bool {
        self.whole_bytes <= self.pool.budget_bytes()
    }

    /// Whether hot frames take memory that blocks on their way need.
    pub(super) fn is_too_hot(&self) -> bool {
        let budget = self.pool.budget_bytes();
        !self.is_whole() && self.frames.totals().hot_bytes + self.wanted_streaming_bytes() > budget
    }

    /// Whether a frame that has just been changed is what the next commit will need of it.
    pub(super) fn is_final(&self, key: Key) -> bool {
        self.commits.is_due() && self.follower.is_done(key) && !self.is_scratch(key)
    }

    pub(super) fn begin_step(&mut self) -> Result<()> {
        self.frames.tick();
        self.commits.step();
        for key in self.frames.stale() {
            self.evict(key)?;
        }
        Ok(())
    }

    pub(super) fn begin_plan(&mut self) {
        if self.follower.begin(plan_bytes_max(self.pool.whole_budget_bytes())) {
            self.rank_frames();
            self.read_planned();
        }
    }

    pub(super) fn end_plan(&mut self) {
        let was_followed = self.follower.is_followed();
        let directory = Arc::clone(&self.directory);
        self.follower.end(&directory, plan_bytes_max(self.pool.whole_budget_bytes()));
        self.pool.set_aside(self.follower.plan().map_or(0, Plan::bytes));
        if was_followed || self.follower.is_followed() {
            self.rank_frames();
        }
    }

    /// Stops reading ahead until the next step begins.
    pub(super) fn stop_plan(&mut self) {
        self.follower.abandon();
        self.rank_frames();
    }

    pub(super) fn enter(&mut self, access: &Access) {
        if !self.follower.enter(access) {
            self.rank_frames();
        }
    }

    /// Starts the reads that the plan asks for next, as far as memory is free for them.
    pub(super) fn read_planned(&mut self) {
        while let Some(key) = self.follower.next_ahead() {
            let skip = self.is_scratch(key);
            if skip || matches!(self.start_ahead(key), Ok(true)) {
                self.follower.advance();
                continue;
            }
            return;
        }
    }

    /// Makes room for what the plan itself takes.
    pub(super) fn try_fit_budget(&mut self, stuck: bool) -> Result<Attempt<()>> {
        while !self.pool.fits() {
            match self.try_room(stuck)? {
                Attempt::Done(true) => {}
                Attempt::Done(false) => break,
                Attempt::Wait(stall) => return Ok(Attempt::Wait(stall)),
            }
        }
        Ok(Attempt::Done(()))
    }

    /// Makes some room: waits for memory that is leaving, or lets the frame go that is least needed. False if there is
    /// none left to let go.
    pub(super) fn try_room(&mut self, stuck: bool) -> Result<Attempt<bool>> {
        if self.frames.totals().leaving > 0 {
            return Ok(Attempt::Wait(Stall::Write));
        }
        match self.frames.victim(&self.wanted) {
            Some(victim) => self.evict(victim).map(|()| Attempt::Done(true)),
            None if stuck => Ok(Attempt::Done(false)),
            None => Ok(Attempt::Wait(Stall::Write)),
        }
    }

    pub(super) fn try_forget_scratch(&mut self, stuck: bool) -> Attempt<()> {
        let gradients: Vec<_> = self.frames.keys().filter(|&key| self.is_scratch(key)).collect();
        let mut moving = false;
        for key in gradients {
            match self.frames.take_ready(key) {
                Some(ready) => self.pool.put(ready.buffer),
                None => moving = true,
            }
        }
        if moving && !stuck {
            return Attempt::Wait(Stall::Write);
        }
        self.scratch.clear();
        Attempt::Done(())
    }

    /// Starts to write every changed frame; frames stay near. Returns the bytes of these writes.
    pub(super) fn write_dirty(&mut self) -> Result<u64> {
        let mut bytes = 0;
        for key in self.frames.dirty() {
            if !self.is_scratch(key) {
                bytes += to_u64(self.place(key)?.padded);
                self.write_out(key, true)?;
            }
        }
        Ok(bytes)
    }

    /// Takes note of a commit.
    pub(crate) fn note_commit(&mut self) {
        self.commits.commit();
    }

    /// Forgets everything that is not committed; nothing is in flight.
    pub(super) fn roll_back(&mut self) -> Result<()> {
        for buffer in self.frames.take_all() {
            self.pool.put(buffer);
        }
        self.pool.recount();
        self.scratch.clear();
        self.failed.clear();
        self.wanted.clear();
        self.store.discard_working()
    }

    pub(super) fn min_hit_rate(&self) -> Option<f64> {
        let bytes = |key| self.place(key).map_or(0, |place| to_u64(super::pool::class_of(place.padded)));
        let plan = self.follower.plan()?;
        Some(plan.min_hit_rate(self.pool.budget_bytes(), bytes))
    }

    /// Takes in what has finished, without waiting.
    pub(super) fn drain(&mut self) -> Result<()> {
        while let Some(completion) = self.queue.try_recv() {
            self.take_in(completion)?;
        }
        Ok(())
    }
}
