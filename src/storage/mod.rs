//! FILES. The only floor that meets the operating system: it moves bytes and does not know what they mean.
//!
//! A [`Volume`] is one directory, a [`Segment`] one file in it. Both are narrow traits, so that the same store
//! runs on real files, in memory, and on disks that fail on demand.

mod available;
mod buffer;
mod check;
mod mapped;
#[cfg(any(test, feature = "simulation", feature = "fuzzing"))]
mod memory;
mod queue;
mod real;

#[cfg(test)]
mod contract;
#[cfg(any(test, feature = "simulation"))]
pub(crate) mod fault;
#[cfg(any(test, feature = "simulation"))]
pub(crate) mod sim;
#[cfg(test)]
mod tests;

/// What `queue.rs` locks and runs with; a model checker has its own.
mod sync {
    pub(super) use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
    pub(super) use std::thread;
}

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub(crate) use available::available_memory_bytes;
pub(crate) use buffer::Buffer;
#[cfg(any(test, feature = "simulation", feature = "fuzzing"))]
pub(crate) use memory::MemoryVolume;
pub(crate) use queue::Queue;
pub(crate) use real::{RealVolume, Unfinished};

use crate::error::Result;

/// Offsets, lengths and buffers of direct reads and writes are multiples of this many bytes.
pub(crate) const SECTOR_BYTES: u64 = 4096;

/// A lock file is at least this long, so that the holder can write into it who it is.
pub(crate) const LOCK_FILE_BYTES: u64 = 64;

/// How the bytes of a new file are provided for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Allocation {
    /// Every byte is allocated now; the file system cannot run full later.
    Full,
    /// The file has its length and no blocks; a later write may find the disk full.
    Sparse,
}

/// What an opened file is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Reads only.
    Read,
    /// Reads and writes.
    Write,
}

/// Whether transfers pass through the page cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Caching {
    /// Through the page cache: small metadata, and the source of maps.
    Cached,
    /// Past the page cache (`O_DIRECT`) where the file system can; otherwise through it.
    Direct,
}

/// Who may hold a lock file at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LockKind {
    /// One holder, and no shared ones.
    Exclusive,
    /// Any number of shared holders.
    Shared,
}

/// The name of a place in the code that waits for durability. Real files do not look at it; the simulated disk can
/// leave out one of them by name, to show that a test notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Barrier(pub(crate) &'static str);

/// A held lock; dropping it (or the death of the process) releases it.
pub(crate) trait Lock: Send + Sync {}

/// One directory of files.
pub(crate) trait Volume: Send + Sync {
    /// The directory, for messages.
    fn path(&self) -> &Path;

    /// The path of a file in it, for messages.
    fn path_of(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Makes a new file of `len_bytes` zeros, readable by its owner only. Neither the file's length nor its name
    /// is durable before `sync` and `sync_dir`.
    fn create(&self, name: &str, len_bytes: u64, allocation: Allocation) -> Result<()>;

    /// Opens an existing regular file; never follows a symbolic link. The file keeps the length that it has now.
    fn open(&self, name: &str, access: Access, caching: Caching) -> Result<Arc<dyn Segment>>;

    /// The names of everything in the directory, sorted; a name that is not UTF-8 has its bad bytes replaced.
    fn list(&self) -> Result<Vec<String>>;

    /// Removes a file.
    fn remove(&self, name: &str) -> Result<()>;

    /// Renames a file over another; durable after `sync_dir`.
    fn rename(&self, from: &str, to: &str) -> Result<()>;

    /// Makes the names in the directory durable, and not the directory's own.
    fn sync_dir(&self, barrier: Barrier) -> Result<()>;

    /// Makes the directory's own name durable, which stands in its parent.
    fn sync_parent(&self, barrier: Barrier) -> Result<()>;

    /// Opens a directory in this one, without following a link; `None` if nothing has the name.
    fn subvolume(&self, name: &str) -> Result<Option<Arc<dyn Volume>>>;

    /// Makes an empty directory in this one, for its owner only, and opens it. Its name is durable after `sync_dir` here,
    /// or `sync_parent` there.
    fn create_subvolume(&self, name: &str) -> Result<Arc<dyn Volume>>;

    /// Removes an empty directory in this one; durable after `sync_dir`.
    fn remove_subvolume(&self, name: &str) -> Result<()>;

    /// Whether two files of this file system can share bytes ([`Segment::share_from`]); found by trying it on files
    /// without names. False where that cannot be tried.
    fn can_share(&self) -> bool {
        false
    }

    /// Bytes that this user can still allocate; `u64::MAX` where the file system does not say.
    fn free_bytes(&self) -> Result<u64>;

    /// Tries to lock a file, without waiting; `None` if another holder is in the way.
    ///
    /// An exclusive lock makes the file where it is missing and leaves it at least [`LOCK_FILE_BYTES`] long. A shared
    /// lock reads only, and a missing file is an error. A process made by `fork` inherits the lock with the open file,
    /// and holds it until it ends or runs another program.
    fn try_lock(&self, name: &str, kind: LockKind) -> Result<Option<Box<dyn Lock>>>;

    /// Waits a moment before the next try at a lock.
    fn pause(&self, time: Duration) {
        std::thread::sleep(time);
    }

    /// Whether other processes can look into it.
    fn has_onlookers(&self) -> bool {
        false
    }

    /// The process that holds a file's exclusive lock, where the operating system tells; found without touching the
    /// lock, which even a shared attempt would take from under a process that asks for it at that moment.
    fn lock_holder(&self, name: &str) -> Option<u32> {
        let _ = name;
        None
    }
}

/// One open file. All calls take `&self` and may run on several threads at once.
pub(crate) trait Segment: Send + Sync {
    /// The file's path, for messages.
    fn path(&self) -> &Path;

    /// Whether transfers really pass the page cache by: `false` where [`Caching::Direct`] was asked for and the file
    /// system refused it.
    fn is_direct(&self) -> bool;

    /// The length in bytes.
    fn len_bytes(&self) -> Result<u64>;

    /// Bytes that the file system has really allocated.
    fn allocated_bytes(&self) -> Result<u64>;

    /// Reads exactly `buffer.len()` bytes; a file that ends earlier is an error. Opened [`Caching::Direct`], the
    /// offset, the length and the address of the buffer must be multiples of [`SECTOR_BYTES`], whatever
    /// [`is_direct`](Self::is_direct) says.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()>;

    /// Reads many small pieces, offset and length, several at a time where the system can, each as
    /// [`read_at`](Self::read_at) does; `memory` begins at an aligned address and holds the longest piece at least. Shows
    /// each piece, by its number and in any order, to `take`. Fails with the first error that it meets.
    fn read_each(
        &self,
        pieces: &[(u64, usize)],
        memory: &mut [u8],
        take: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<()> {
        for (number, &(offset, len)) in pieces.iter().enumerate() {
            let piece = memory.get_mut(..len).unwrap_or_default();
            self.read_at(piece, offset)?;
            take(number, piece);
        }
        Ok(())
    }

    /// Writes all of `buffer` inside the file's length, with the alignment that `read_at` asks for.
    fn write_at(&self, buffer: &[u8], offset: u64) -> Result<()>;

    /// Makes this file's bytes those of `source`, a file of the same length, by sharing them: nothing is copied, and
    /// whoever writes first gets bytes of its own. False, and nothing done, where the file system cannot.
    fn share_from(&self, source: &dyn Segment) -> Result<bool>;

    /// Gives a range of whole sectors back to the file system; it reads as zeros.
    fn punch(&self, offset: u64, len_bytes: u64) -> Result<()>;

    /// The operating system's file, where there is one.
    fn os_file(&self) -> Option<&std::fs::File> {
        None
    }

    /// Makes everything written so far durable (`fdatasync`). A failure is final: never retried.
    fn sync(&self, barrier: Barrier) -> Result<()>;

    /// Lets the operating system forget what it keeps of a byte range that was read and is not read again soon.
    fn forget(&self, offset: u64, len_bytes: u64) {
        let _ = (offset, len_bytes);
    }

    /// A read-only view of a byte range, every page of it present when this returns; `offset` is a multiple of
    /// [`SECTOR_BYTES`], and the bytes begin at such an address. Dropping the view gives its pages back to the
    /// operating system.
    fn map(&self, offset: u64, len_bytes: usize) -> Result<Box<dyn Mapped>>;
}

/// Bytes of a file seen in place.
pub(crate) trait Mapped: Send + Sync {
    /// The bytes.
    fn bytes(&self) -> &[u8];
}
