//! Reads everything that a generation consists of and checks every checksum.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::sweep::Sweep;
use crate::error::{Damage, Result};
use crate::storage::{RealVolume, Volume};
use crate::store::Generation;

/// How [`verify`] reads.
///
/// # Example
///
/// ```
#[doc = include_str!("../examples/store.txt")]
/// use std::time::Duration;
///
/// use paramstore::Generation;
/// use paramstore::inspect::{VerifyOptions, verify};
///
/// store.write("w", &[1.0; 6])?;
/// store.commit(b"")?;
/// let options = VerifyOptions::new()
///     .memory(8 << 20)
///     .io_threads(2)
///     .findings_max(10)
///     .pin_time(Duration::from_millis(100))
///     .generation(Generation::Newest);
/// let mut so_far = None;
/// let seen = verify(&path, &options, |progress| so_far = progress.so_far.cloned().or(so_far.take()))?;
/// assert!(seen.is_sound() && seen.complete);
/// assert_eq!(seen.blocks, 1); // the parameters; the momentum was never written
///
/// // Cut off, a look goes on by what was told last, or what was saved of it.
/// let again = verify(&path, &VerifyOptions::new().resume(so_far.unwrap_or(seen)), |_| {})?;
/// assert!(again.is_sound());
/// # Ok::<(), paramstore::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct VerifyOptions {
    pub(super) memory_bytes: u64,
    pub(super) io_threads: usize,
    pub(super) findings_max: usize,
    pub(super) pin_time: Duration,
    pub(super) generation: Generation,
    pub(super) earlier: Option<Verification>,
}

impl Default for VerifyOptions {
    fn default() -> Self {
        Self {
            memory_bytes: 128 << 20,
            io_threads: 8,
            findings_max: 1000,
            pin_time: Duration::from_millis(500),
            generation: Generation::Newest,
            earlier: None,
        }
    }
}

impl VerifyOptions {
    /// The defaults: 128 MiB of memory, eight reads at once, the first 1,000 findings told in full. [Example](Self#example).
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes of memory for blocks on their way; one block is read in any case. [Example](Self#example).
    #[must_use]
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory_bytes = bytes;
        self
    }

    /// Threads that read and check, 1 to 64. [Example](Self#example).
    #[must_use]
    pub fn io_threads(mut self, threads: usize) -> Self {
        self.io_threads = threads.clamp(1, 64);
        self
    }

    /// How many findings are told in full; all of them are counted. [Example](Self#example).
    #[must_use]
    pub fn findings_max(mut self, findings: usize) -> Self {
        self.findings_max = findings;
        self
    }

    /// How long a generation is pinned before the look is renewed (default half a second). A writer never waits for
    /// longer than this and the reads that are under way. [Example](Self#example).
    #[must_use]
    pub fn pin_time(mut self, time: Duration) -> Self {
        self.pin_time = time;
        self
    }

    /// Lets everything happen in the caller's thread.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn in_place(mut self) -> Self {
        self.io_threads = 0;
        self
    }

    /// Which committed generation to look at. [Example](Self#example).
    #[must_use]
    pub fn generation(mut self, generation: Generation) -> Self {
        self.generation = generation;
        self
    }

    /// Whether it is the previous generation.
    pub(crate) fn is_of_previous(&self) -> bool {
        self.generation == Generation::Previous
    }

    /// Goes on where an earlier look at the same store ended, by what [`VerifyProgress::so_far`] told last. Both
    /// superblocks, the directory, the record and the lengths of files are looked at anew. [Example](Self#example).
    #[must_use]
    pub fn resume(mut self, earlier: Verification) -> Self {
        self.earlier = Some(earlier);
        self
    }
}

/// How far [`verify`] has come.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct VerifyProgress<'a> {
    /// Entries of the block table that are done.
    pub entries_done: u64,
    /// Entries of the block table.
    pub entries: u64,
    /// Bytes of blocks read so far.
    pub bytes_read: u64,
    /// Findings so far.
    pub findings: u64,
    /// All that is known so far, told whenever the pin is renewed: what [`VerifyOptions::resume`] takes, should this look
    /// be cut off.
    pub so_far: Option<&'a Verification>,
}

/// One damaged place.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// File, byte range, what was found and what was expected.
    pub damage: Damage,
    /// The tensors that stand there; none for metadata.
    pub tensors: Vec<String>,
    /// The plane, for a block.
    pub plane: Option<String>,
    /// The block's number in the store.
    pub block: Option<u64>,
}

impl Finding {
    /// A damaged place: the tensors and the plane that stand there, and the number of the block.
    ///
    /// ```
    /// use paramstore::Damage;
    /// use paramstore::inspect::Finding;
    ///
    /// // As a program that saves findings reads one back.
    /// let damage = Damage::new("param.0", "block", (4096, 512), "0x01", "0x02");
    /// let finding = Finding::new(damage, vec!["w".to_owned()], Some("param".to_owned()), Some(3));
    /// assert_eq!((finding.tensors[0].as_str(), finding.block), ("w", Some(3)));
    /// ```
    #[must_use]
    pub fn new(damage: Damage, tensors: Vec<String>, plane: Option<String>, block: Option<u64>) -> Self {
        Self { damage, tensors, plane, block }
    }
}

/// What [`verify`] saw.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct Verification {
    /// The store's identity, if its metadata could be read.
    pub uuid: Option<String>,
    /// The generation that was committed when the look began.
    pub first_generation: u64,
    /// The generation that was committed when it ended; not the same beside a writer at work.
    pub last_generation: u64,
    /// Entries of the block table, counted from the first, that have been checked; all of them in a result.
    pub entries_done: u64,
    /// Whether everything could be followed: false where damaged metadata hides what is below it.
    pub complete: bool,
    /// Table pages that were read.
    pub table_pages: u64,
    /// Planes of blocks that were read.
    pub blocks: u64,
    /// Planes of blocks that were never written and so have nothing to check.
    pub blocks_absent: u64,
    /// Bytes of blocks that were read, padding included.
    pub bytes_read: u64,
    /// Damaged places in the order in which they were found, up to the limit of the options.
    pub findings: Vec<Finding>,
    /// All damaged places.
    pub findings_total: u64,
    /// Seconds that it took.
    pub seconds: f64,
}

impl Verification {
    /// Whether nothing was found. [Example](VerifyOptions#example).
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.findings_total == 0
    }
}

/// Reads everything that the committed generation consists of, and checks every checksum: both superblocks, directory,
/// record, table pages, and every written plane of every block. Reads several blocks at once, never writes, needs no
/// lock, and goes on after damage.
///
/// Works beside a writer: the generation is pinned for half a second at a time, and then the one that is committed by
/// now takes its place, so that each block is checked as some committed generation has it. The planes that were never
/// written, and homes that no committed generation names, hold nothing and are not read. [Example](VerifyOptions#example).
///
/// # Errors
/// [`NotAStore`](crate::Error::NotAStore), [`Unsupported`](crate::Error::Unsupported), [`Io`](crate::Error::Io) where the
/// files cannot be looked at; [`Invalid`](crate::Error::Invalid) for a previous generation that is not there, or an earlier
/// look at another store. Damage is no error: it is in the result.
pub fn verify(
    path: impl AsRef<Path>,
    options: &VerifyOptions,
    mut progress: impl FnMut(&VerifyProgress<'_>),
) -> Result<Verification> {
    verify_in(&(Arc::new(RealVolume::open_dir(path.as_ref())?) as Arc<dyn Volume>), options, &mut progress)
}

/// As [`verify`], in a volume of any kind.
pub(crate) fn verify_in(
    volume: &Arc<dyn Volume>,
    options: &VerifyOptions,
    progress: &mut dyn FnMut(&VerifyProgress<'_>),
) -> Result<Verification> {
    let mut sweep = Sweep::new(options, progress)?;
    sweep.run(volume)?;
    Ok(sweep.into_result())
}
