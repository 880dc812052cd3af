//! Which generations are being read, across processes, without anything that a killed reader could leave behind.
//!
//! There are two lock files, one for each parity of generations. A reader of generation g holds a shared lock on
//! the file of g's parity. While the working generation is g + 1, its writes go to homes that generation g - 1 used,
//! so the writer first takes the file of that parity exclusively, and gives it back when g + 1 is committed. The
//! operating system drops the locks of a process that dies.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{BlockStore, Holder};
use crate::error::{Error, Result};
use crate::format::pin_file;
use crate::storage::{Lock, LockKind, Volume};

/// How long a writer waits for readers of a generation whose homes it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum PinWait {
    /// As long as a reader lives.
    #[default]
    Unlimited,
    /// Until this much time has passed, then an error.
    Limit(Duration),
}

/// Time between two looks at a lock. Where nothing but the fuzzer's own thread could move, there is nothing to wait for.
const RETRY: Duration = Duration::from_millis(if cfg!(feature = "fuzzing") { 0 } else { 2 });

/// Tries to pin a generation for reading; `None` if the writer is already reusing its homes.
pub(super) fn try_pin(volume: &Arc<dyn Volume>, generation: u64) -> Result<Option<Box<dyn Lock>>> {
    volume.try_lock(pin_file(generation), LockKind::Shared)
}

/// Waits until nobody reads a generation, and keeps new readers of its parity out as long as the lock is held.
pub(super) fn wait_for_readers(
    volume: &Arc<dyn Volume>,
    generation: u64,
    wait: PinWait,
) -> Result<Box<dyn Lock>> {
    let start = Instant::now();
    loop {
        if let Some(lock) = volume.try_lock(pin_file(generation), LockKind::Exclusive)? {
            return Ok(lock);
        }
        if let PinWait::Limit(limit) = wait
            && start.elapsed() >= limit
        {
            let path = volume.path().to_owned();
            return Err(Error::Pinned { path, generation, waited_s: start.elapsed().as_secs_f64() });
        }
        pause(volume);
    }
}

/// Waits a moment before the next look at a lock.
pub(super) fn pause(volume: &Arc<dyn Volume>) {
    volume.pause(RETRY);
}

impl BlockStore {
    /// Makes sure that nobody reads the generation whose homes the working generation overwrites.
    pub(super) fn take_over_homes(&mut self) -> Result<()> {
        let working = self.committed.generation + 1;
        let Holder::Writer { reuse, wait, .. } = &mut self.access else {
            return Err(Error::ReadOnly { action: "write a block" });
        };
        if reuse.is_none() {
            *reuse = Some(wait_for_readers(&self.volume, working.saturating_sub(2), *wait)?);
        }
        Ok(())
    }

    /// How long this writer waits for readers.
    pub(super) fn pin_wait(&self) -> PinWait {
        match &self.access {
            Holder::Writer { wait, .. } => *wait,
            Holder::Reader { .. } => PinWait::Unlimited,
        }
    }

    /// Lets readers pin generations of that parity again, after a commit.
    pub(super) fn give_back_homes(&mut self) {
        if let Holder::Writer { reuse, .. } = &mut self.access {
            *reuse = None;
        }
    }
}
