//! An onlooker's side.

use std::path::Path;
use std::time::Duration;

use super::stats_of;
use crate::error::{Error, Result};
use crate::format::notes::{LIVE_BYTES, LIVE_FILE, LivePage, METRICS_BYTES, METRICS_FILE, StepNote, notes};
use crate::format::{META_FILE, PAGE_BYTES, Uuid, superblock};
use crate::pager::Stats;
use crate::storage::{Access, Caching, RealVolume, Volume};
use crate::units::to_usize;

/// How much of a run of blocks is in some state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cell {
    /// In memory: 0 none of it, 1 up to a third, 2 up to two thirds, 3 more.
    pub near: u8,
    /// In memory and changed since it was written.
    pub dirty: u8,
    /// On its way between disk and memory, or being updated.
    pub moving: u8,
}

/// What a writer does now, as it said last.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Live {
    /// Its process.
    pub pid: u32,
    /// When this was said, and when the store was opened: milliseconds since 1970.
    pub now_unix_ms: u64,
    /// See [`now_unix_ms`](Self::now_unix_ms).
    pub opened_unix_ms: u64,
    /// Steps finished.
    pub step: u64,
    /// The committed generation, and its step.
    pub generation: u64,
    /// See [`generation`](Self::generation).
    pub committed_step: u64,
    /// The memory budget in force, in bytes.
    pub budget_bytes: u64,
    /// Bytes in memory that stay there from use to use.
    pub hot_bytes: u64,
    /// Bytes in memory that have changed since they were written.
    pub dirty_bytes: u64,
    /// Counters since the store was opened: two readings give rates.
    pub stats: Stats,
    /// What the trainer said last: the loss on a batch.
    pub loss: Option<f64>,
    /// The loss on data that is not trained on.
    pub validation_loss: Option<f64>,
    /// The learning rate.
    pub lr: Option<f64>,
    /// Blocks of the store.
    pub blocks: u64,
    /// The blocks in at most 2,048 runs of the same length, in the order of the store.
    pub cells: Vec<Cell>,
}

/// What a step took, and what its trainer said of it.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct StepMetrics {
    /// The step.
    pub step: u64,
    /// The generation that was committed when it ended.
    pub generation: u64,
    /// When it ended, in milliseconds since 1970.
    pub unix_ms: u64,
    /// From the end of the step before it, of a program's first step from its beginning, to its own end.
    pub duration: Duration,
    /// Updating, on the threads that do it.
    pub compute: Duration,
    /// Waiting for reads.
    pub stall_read: Duration,
    /// Waiting for writes to give memory back.
    pub stall_write: Duration,
    /// Waiting for updates in the background.
    pub stall_update: Duration,
    /// While the disk had something to do.
    pub disk: Duration,
    /// In commits.
    pub commit: Duration,
    /// Bytes read from data segments.
    pub bytes_read: u64,
    /// Bytes written to data segments.
    pub bytes_written: u64,
    /// The loss on the step's batch.
    pub loss: Option<f64>,
    /// The loss on data that is not trained on.
    pub validation_loss: Option<f64>,
    /// The learning rate.
    pub lr: Option<f64>,
}

/// Tries to read a page that is being written.
const TRIES: u32 = 20;

/// What the last writer of a store said, which it may have done long ago: look at [`Live::now_unix_ms`]. `None` if none
/// ever did. Reads two pages, takes no lock, and never holds a writer up. [Example](crate::telemetry#example).
///
/// # Errors
/// [`Error::NotAStore`] or [`Error::Io`] if there is no store.
pub fn live(path: impl AsRef<Path>) -> Result<Option<Live>> {
    let volume = RealVolume::open_dir(path.as_ref())?;
    let uuid = uuid_of(&volume)?;
    for _ in 0..TRIES {
        let Some(bytes) = contents(&volume, LIVE_FILE, LIVE_BYTES) else { return Ok(None) };
        match LivePage::decode(&bytes) {
            Ok(page) if page.uuid == uuid => return Ok(Some(Live::of(&page))),
            Ok(_) => return Ok(None),
            // Read while it was being written, or never written.
            Err(_) => std::thread::sleep(Duration::from_micros(200)),
        }
    }
    Ok(None)
}

/// What the steps of a store took, ascending, up to step `last`: all of the last 1,024, of those before fewer and fewer. Empty
/// if no writer kept account. [Example](crate::telemetry#example).
///
/// # Errors
/// As [`live`].
pub fn history(path: impl AsRef<Path>, last: u64) -> Result<Vec<StepMetrics>> {
    let volume = RealVolume::open_dir(path.as_ref())?;
    let uuid = uuid_of(&volume)?;
    let bytes = contents(&volume, METRICS_FILE, METRICS_BYTES).unwrap_or_default();
    Ok(notes(uuid, &bytes, last).into_iter().map(StepMetrics::of).collect())
}

/// A file as it is now, if it is there and has its length.
fn contents(volume: &dyn Volume, name: &str, len_bytes: u64) -> Option<Vec<u8>> {
    let file = volume.open(name, Access::Read, Caching::Cached).ok()?;
    let mut bytes = vec![0; to_usize(file.len_bytes().ok().filter(|&len| len == len_bytes)?)];
    file.read_at(&mut bytes, 0).ok()?;
    Some(bytes)
}

/// Which store it is: by either superblock.
fn uuid_of(volume: &dyn Volume) -> Result<Uuid> {
    if volume.list()?.iter().all(|name| name != META_FILE) {
        let reason = format!("it has no file named `{META_FILE}`");
        return Err(Error::NotAStore { path: volume.path().to_owned(), reason });
    }
    let file = volume.open(META_FILE, Access::Read, Caching::Cached)?;
    let mut page = vec![0; to_usize(PAGE_BYTES)];
    for slot in 0..2 {
        file.read_at(&mut page, slot * PAGE_BYTES)?;
        if let Ok(superblock) = superblock::Superblock::decode(&page) {
            return Ok(superblock.uuid);
        }
    }
    let (got, expected) = ("neither of them whole", "one that is, for the identity of the store");
    Err(Error::damaged(file.path(), "superblocks", (0, 2 * PAGE_BYTES), got, expected))
}

impl Live {
    fn of(page: &LivePage) -> Self {
        let [loss, validation_loss, lr] = page.values.map(said);
        let cell = |&cell: &u8| Cell { near: cell & 3, dirty: cell >> 2 & 3, moving: cell >> 4 & 3 };
        Self {
            pid: page.pid,
            now_unix_ms: page.now_unix_ms,
            opened_unix_ms: page.opened_unix_ms,
            step: page.step,
            generation: page.generation,
            committed_step: page.committed_step,
            budget_bytes: page.budget_bytes,
            hot_bytes: page.hot_bytes,
            dirty_bytes: page.dirty_bytes,
            stats: stats_of(&page.counters),
            loss,
            validation_loss,
            lr,
            blocks: page.blocks,
            cells: page.cells.iter().map(cell).collect(),
        }
    }
}

impl StepMetrics {
    fn of(note: StepNote) -> Self {
        let [duration, compute, read, write, update, disk, commit, bytes_read, bytes_written] = note.numbers;
        let [loss, validation_loss, lr] = note.values.map(said);
        let ns = Duration::from_nanos;
        Self {
            step: note.step,
            generation: note.generation,
            unix_ms: note.unix_ms,
            duration: ns(duration),
            compute: ns(compute),
            stall_read: ns(read),
            stall_write: ns(write),
            stall_update: ns(update),
            disk: ns(disk),
            commit: ns(commit),
            bytes_read,
            bytes_written,
            loss,
            validation_loss,
            lr,
        }
    }
}

/// What was said, where something was.
fn said(value: f64) -> Option<f64> {
    (!value.is_nan()).then_some(value)
}
