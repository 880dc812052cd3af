//! A short measurement of a disk, with the transfers that a training step makes.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::storage::{Access, Allocation, Barrier, Buffer, Caching, Queue, RealVolume, Segment, Volume};
use crate::units::to_u64;

/// Bytes of each transfer: a block of the default size.
const BLOCK_BYTES: usize = 4 << 20;
/// Transfers under way.
const IN_FLIGHT: u64 = 8;
const IO_THREADS: usize = 4;

/// What a disk did in a short measurement. Speeds of disks vary from hour to hour.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct DiskSpeed {
    /// Whether the transfers went past the page cache.
    pub is_direct: bool,
    /// Bytes read per second while nothing is written.
    pub read_bytes_per_s: f64,
    /// Bytes per second in each direction while one home is read and the other written, as a step does.
    pub step_bytes_per_s: f64,
    /// Bytes written by the measurement.
    pub bytes_written: u64,
    /// Seconds that the measurement took.
    pub seconds: f64,
}

/// Measures the disk below a directory: allocates two files of `bytes` there, writes both, reads one while writing the
/// other, and reads one alone. Their names are removed before anything is written, so that nothing stays behind
/// even if the process is killed. Each part ends after `limit` at the latest.
///
/// ```
/// use std::time::Duration;
///
/// # let dir = tempfile::tempdir().expect("a temporary directory");
/// let speed = paramstore::inspect::measure_disk(dir.path(), 1 << 20, Duration::from_millis(50))?;
/// assert!(speed.read_bytes_per_s > 0.0 && speed.step_bytes_per_s > 0.0);
/// # Ok::<(), paramstore::Error>(())
/// ```
///
/// # Errors
/// [`Error::NoSpace`], [`Error::Io`].
pub fn measure_disk(directory: impl AsRef<Path>, bytes: u64, limit: Duration) -> Result<DiskSpeed> {
    let start = Instant::now();
    let blocks = (bytes / to_u64(BLOCK_BYTES)).max(1);
    let files = scratch_files(directory.as_ref(), blocks * to_u64(BLOCK_BYTES))?;
    let [first, second] = &files;
    let queue = Queue::new(IO_THREADS)?;
    let mut run = Run { queue, free: Vec::new(), blocks, limit, bytes_written: 0 };
    // Space that was allocated and never written is slower the first time; a store pays that only once.
    run.pass(None, Some(first))?;
    run.pass(None, Some(second))?;
    let step = run.pass(Some(first), Some(second))?;
    let read = run.pass(Some(first), None)?;
    Ok(DiskSpeed {
        is_direct: first.is_direct() && second.is_direct(),
        read_bytes_per_s: read,
        step_bytes_per_s: step,
        bytes_written: run.bytes_written,
        seconds: start.elapsed().as_secs_f64(),
    })
}

/// Two allocated files without names.
fn scratch_files(directory: &Path, bytes: u64) -> Result<[Arc<dyn Segment>; 2]> {
    let name = format!(".paramstore-measure-{}", std::process::id());
    let path = directory.join(&name);
    let (volume, existed) = RealVolume::create_dir(&path)?;
    if existed {
        return Err(Error::AlreadyExists { path });
    }
    let free = volume.free_bytes();
    let result = free.and_then(|free| {
        let needed = bytes.saturating_mul(2);
        if needed > free {
            return Err(Error::NoSpace { path: directory.to_owned(), needed, free });
        }
        let open = |name: &str| {
            volume.create(name, bytes, Allocation::Full)?;
            let file = volume.open(name, Access::Write, Caching::Direct);
            volume.remove(name)?;
            file
        };
        Ok([open("a")?, open("b")?])
    });
    let removed = volume.remove_dir();
    let files = result?;
    removed?;
    Ok(files)
}

struct Transfer {
    buffer: Buffer,
    result: Result<()>,
}

struct Run {
    queue: Queue<Transfer>,
    free: Vec<Buffer>,
    blocks: u64,
    limit: Duration,
    bytes_written: u64,
}

impl Run {
    /// Reads one file and writes another, block by block, and returns the bytes per second of each of them.
    fn pass(&mut self, read: Option<&Arc<dyn Segment>>, write: Option<&Arc<dyn Segment>>) -> Result<f64> {
        let start = Instant::now();
        let mut done = 0;
        let mut in_flight = 0;
        let mut outcome = Ok(());
        while done < self.blocks && (done == 0 || start.elapsed() < self.limit) && outcome.is_ok() {
            let offset = done * to_u64(BLOCK_BYTES);
            for (file, is_write) in [(read, false), (write, true)] {
                let Some(file) = file.cloned() else { continue };
                while in_flight >= IN_FLIGHT {
                    outcome = outcome.and(self.take_in(&mut in_flight));
                }
                let mut buffer = match self.free.pop() {
                    Some(buffer) => buffer,
                    None => noise()?,
                };
                in_flight += 1;
                self.queue.submit(move || {
                    let result = if is_write {
                        file.write_at(&buffer, offset)
                    } else {
                        file.read_at(&mut buffer, offset)
                    };
                    Transfer { buffer, result }
                });
            }
            done += 1;
        }
        while in_flight > 0 {
            outcome = outcome.and(self.take_in(&mut in_flight));
        }
        outcome?;
        let bytes = done * to_u64(BLOCK_BYTES);
        if let Some(file) = write {
            file.sync(Barrier("measure: file"))?;
            self.bytes_written += bytes;
        }
        #[expect(clippy::cast_precision_loss, reason = "a speed for people")]
        Ok(bytes as f64 / start.elapsed().as_secs_f64().max(1e-9))
    }

    fn take_in(&mut self, in_flight: &mut u64) -> Result<()> {
        let Some(transfer) = self.queue.recv() else {
            *in_flight = 0;
            return Ok(());
        };
        *in_flight -= 1;
        self.free.push(transfer.buffer);
        transfer.result
    }
}

/// A buffer that no disk compresses: random bytes from an LCG (Knuth's MMIX constants).
fn noise() -> Result<Buffer> {
    let mut buffer = Buffer::new(BLOCK_BYTES)?;
    let mut state = to_u64(buffer.as_ptr().addr());
    for word in buffer.chunks_exact_mut(8) {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        word.copy_from_slice(&(state ^ (state >> 29)).to_le_bytes());
    }
    Ok(buffer)
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;

    #[test]
    fn a_measurement_leaves_nothing_behind_and_moves_what_it_says() {
        let dir = tempfile::tempdir().unwrap();
        let speed = measure_disk(dir.path(), 8 << 20, Duration::from_secs(5)).unwrap();
        assert!(speed.read_bytes_per_s > 0.0 && speed.step_bytes_per_s > 0.0, "{speed:?}");
        assert_eq!(speed.bytes_written, 3 * (8 << 20));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_measurement_larger_than_the_disk_is_refused_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let error = measure_disk(dir.path(), 1 << 60, Duration::from_secs(5)).unwrap_err();
        assert!(matches!(error, Error::NoSpace { .. }), "{error}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn noise_does_not_repeat_within_a_page() {
        let buffer = noise().unwrap();
        let words: std::collections::HashSet<_> = buffer[..4096].chunks(8).collect();
        assert_eq!(words.len(), 512);
        assert_eq!(buffer.len(), BLOCK_BYTES);
    }
}
