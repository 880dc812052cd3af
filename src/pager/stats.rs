//! Counters with names: the performance model of the store.

use std::time::Instant;

/// Counters since the store was opened; subtract two of them to see one step. Times are wall-clock nanoseconds;
/// stalls are those of the threads that call, not of the one that updates in the background.
///
/// # Example
///
/// ```
#[doc = include_str!("../examples/store.txt")]
/// let before = store.stats();
/// let mut step = store.begin_step()?;
/// step.apply("w", &[1.0; 6])?;
/// step.finish()?;
/// let took = store.stats().since(&before);
/// assert_eq!(took.blocks_born, 2);     // parameters and momentum, filled without a read
/// assert_eq!(took.bytes_read, 0);
/// assert!(took.hit_rate() <= 1.0 && took.row_hit_rate() == 1.0);
/// # Ok::<(), paramstore::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Bytes read from data segments.
    pub bytes_read: u64,
    /// Bytes written to data segments.
    pub bytes_written: u64,
    /// Bytes of metadata written by commits.
    pub meta_bytes_written: u64,
    /// Block planes that were leased and already in memory.
    pub blocks_hit: u64,
    /// Block planes that had to be read (or born) for a lease or ahead of one.
    pub blocks_missed: u64,
    /// Block planes that were born: filled with their initial values, without a read.
    pub blocks_born: u64,
    /// Rows of tensors of rows that a call needed, each counted once a call, and that were in memory already.
    pub rows_hit: u64,
    /// Rows that a call needed and that had to be read, or born.
    pub rows_missed: u64,
    /// Bytes written to the log of rows.
    pub row_log_bytes_written: u64,
    /// Blocks of rows that were written with what the log had of them.
    pub row_blocks_folded: u64,
    /// Reads that went past the page cache.
    pub reads_direct: u64,
    /// Reads through the page cache, of blocks in a map or into memory.
    pub reads_cached: u64,
    /// Time spent waiting for reads.
    pub stall_read_ns: u64,
    /// Time spent waiting for writes to give memory back.
    pub stall_write_ns: u64,
    /// Time spent waiting for updates that are made in the background.
    pub stall_update_ns: u64,
    /// Time spent in update kernels and reductions, those in the background included.
    pub compute_ns: u64,
    /// Time during which the disk had something to do: at least one block was being read or written, or made for the
    /// first time, its checksum included.
    pub disk_ns: u64,
    /// Time spent in commits, writing of hot blocks included.
    pub commit_ns: u64,
    /// Commits made.
    pub commits: u64,
    /// Bytes of memory held now: frames, gathered views, and buffers kept for reuse.
    pub held_bytes: u64,
    /// Bytes of block-table pages in memory now.
    pub table_bytes: u64,
}

impl Stats {
    /// What happened between an earlier reading and this one; `held_bytes` and `table_bytes` are those of now. Of readings from
    /// two openings of a store, which cannot be compared, no counter is below 0. [Example](Self#example).
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            bytes_read: self.bytes_read.saturating_sub(earlier.bytes_read),
            bytes_written: self.bytes_written.saturating_sub(earlier.bytes_written),
            meta_bytes_written: self.meta_bytes_written.saturating_sub(earlier.meta_bytes_written),
            blocks_hit: self.blocks_hit.saturating_sub(earlier.blocks_hit),
            blocks_missed: self.blocks_missed.saturating_sub(earlier.blocks_missed),
            blocks_born: self.blocks_born.saturating_sub(earlier.blocks_born),
            rows_hit: self.rows_hit.saturating_sub(earlier.rows_hit),
            rows_missed: self.rows_missed.saturating_sub(earlier.rows_missed),
            row_log_bytes_written: self.row_log_bytes_written.saturating_sub(earlier.row_log_bytes_written),
            row_blocks_folded: self.row_blocks_folded.saturating_sub(earlier.row_blocks_folded),
            reads_direct: self.reads_direct.saturating_sub(earlier.reads_direct),
            reads_cached: self.reads_cached.saturating_sub(earlier.reads_cached),
            stall_read_ns: self.stall_read_ns.saturating_sub(earlier.stall_read_ns),
            stall_write_ns: self.stall_write_ns.saturating_sub(earlier.stall_write_ns),
            stall_update_ns: self.stall_update_ns.saturating_sub(earlier.stall_update_ns),
            compute_ns: self.compute_ns.saturating_sub(earlier.compute_ns),
            disk_ns: self.disk_ns.saturating_sub(earlier.disk_ns),
            commit_ns: self.commit_ns.saturating_sub(earlier.commit_ns),
            commits: self.commits.saturating_sub(earlier.commits),
            ..*self
        }
    }

    /// The share of rows needed that were in memory already; 1 where none was needed. [Example](Self#example).
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
    pub fn row_hit_rate(&self) -> f64 {
        let needed = self.rows_hit + self.rows_missed;
        if needed == 0 { 1.0 } else { self.rows_hit as f64 / needed as f64 }
    }

    /// The share of leased block planes that were in memory already; 1 where nothing was leased. [Example](Self#example).
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
    pub fn hit_rate(&self) -> f64 {
        let leased = self.blocks_hit + self.blocks_missed;
        if leased == 0 { 1.0 } else { self.blocks_hit as f64 / leased as f64 }
    }
}

/// Nanoseconds since `start`.
pub(crate) fn elapsed_ns(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
