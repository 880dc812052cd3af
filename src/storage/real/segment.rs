//! One open file.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::{allocate, scattered, share, transfer};
use crate::error::{Error, Result};
use crate::storage::{Access, Barrier, Caching, Mapped, SECTOR_BYTES, Segment, check, mapped};

/// The unit in which the system counts the blocks of a file, whatever the file system's own.
const STAT_BLOCK_BYTES: u64 = 512;

/// A regular file of a volume.
pub(super) struct RealSegment {
    file: File,
    path: PathBuf,
    access: Access,
    caching: Caching,
    /// Whether transfers still pass the page cache by; only ever goes from true to false.
    is_direct: AtomicBool,
    /// The length at opening. Files keep it, so that one which shrank later is found by the end of its data.
    len_bytes: u64,
}

impl RealSegment {
    /// Takes an open regular file.
    ///
    /// # Errors
    /// `Io` if it is to be written and longer than the process may write.
    pub(super) fn new(
        file: File,
        path: PathBuf,
        access: Access,
        caching: Caching,
        is_direct: bool,
    ) -> Result<Self> {
        let failed = |source| Error::io("open", &path, source);
        let len_bytes = file.metadata().map_err(failed)?.len();
        if access == Access::Write {
            allocate::check_size_limit(len_bytes).map_err(failed)?;
        }
        Ok(Self { file, path, access, caching, is_direct: AtomicBool::new(is_direct), len_bytes })
    }

    fn check(&self, action: &'static str, buffer: &[u8], offset: u64) -> Result<()> {
        check::inside(action, &self.path, offset, buffer.len(), self.len_bytes)?;
        match self.caching {
            Caching::Direct => check::aligned(action, &self.path, offset, buffer),
            Caching::Cached => Ok(()),
        }
    }

    /// Where a transfer can go on after it was cut short.
    fn granule_bytes(&self) -> usize {
        #[expect(clippy::cast_possible_truncation, reason = "4096 fits every usize")]
        const SECTOR: usize = SECTOR_BYTES as usize;
        if self.caching == Caching::Direct { SECTOR } else { 1 }
    }

    /// Makes a call, and once more through the page cache if the file system accepted the file for direct transfers
    /// but refuses the transfer itself (devices with sectors above 4 KiB, some layered file systems).
    fn attempt<T>(&self, mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        match call() {
            Err(refused) if self.caching == Caching::Direct && transfer::is_invalid(&refused) => {
                self.leave_direct()?;
                call()
            }
            other => other,
        }
    }

    #[cfg(target_os = "linux")]
    fn leave_direct(&self) -> io::Result<()> {
        let flags = rustix::fs::fcntl_getfl(&self.file)?;
        rustix::fs::fcntl_setfl(&self.file, flags - rustix::fs::OFlags::DIRECT)?;
        self.is_direct.store(false, Ordering::Relaxed);
        Ok(())
    }

    #[cfg(not(target_os = "linux"))]
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "the same call on every system")]
    fn leave_direct(&self) -> io::Result<()> {
        Ok(())
    }
}

impl Segment for RealSegment {
    fn path(&self) -> &Path {
        &self.path
    }

    fn is_direct(&self) -> bool {
        self.is_direct.load(Ordering::Relaxed)
    }

    fn len_bytes(&self) -> Result<u64> {
        let metadata = self.file.metadata();
        Ok(metadata.map_err(|source| Error::io("measure", &self.path, source))?.len())
    }

    fn allocated_bytes(&self) -> Result<u64> {
        let metadata = self.file.metadata();
        let blocks = metadata.map_err(|source| Error::io("measure", &self.path, source))?.blocks();
        Ok(blocks.saturating_mul(STAT_BLOCK_BYTES))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.check("read", buffer, offset)?;
        let range = (offset, buffer.len() as u64);
        transfer::read_exact(buffer, offset, self.granule_bytes(), |part, at| {
            self.attempt(|| transfer::read_at(&self.file, part, at))
        })
        .map_err(|source| Error::io_at("read", &self.path, range, source))
    }

    fn read_each(
        &self,
        pieces: &[(u64, usize)],
        memory: &mut [u8],
        take: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<()> {
        for &(offset, len) in pieces {
            let Some(piece) = memory.get(..len) else {
                let got = format!("{} bytes", memory.len());
                return Err(Error::invalid("memory for reads", got, format!("at least {len} bytes")));
            };
            self.check("read", piece, offset)?;
        }
        scattered::read(&self.file, pieces, memory, take, |buffer, offset| self.read_at(buffer, offset))
    }

    fn write_at(&self, buffer: &[u8], offset: u64) -> Result<()> {
        if self.access == Access::Read {
            return Err(Error::ReadOnly { action: "write" });
        }
        self.check("write", buffer, offset)?;
        let range = (offset, buffer.len() as u64);
        transfer::write_exact(buffer, offset, self.granule_bytes(), |part, at| {
            self.attempt(|| self.file.write_at(part, at))
        })
        .map_err(|source| match source.kind() {
            io::ErrorKind::StorageFull => Error::NoSpace {
                path: self.path.clone(),
                needed: range.1,
                free: allocate::free_bytes(&self.file).unwrap_or(0),
            },
            _ => Error::io_at("write", &self.path, range, source),
        })
    }

    fn share_from(&self, source: &dyn Segment) -> Result<bool> {
        if self.access == Access::Read {
            return Err(Error::ReadOnly { action: "write" });
        }
        check::same_length(&self.path, self.len_bytes, source)?;
        share::share(&self.file, &self.path, source)
    }

    fn punch(&self, offset: u64, len_bytes: u64) -> Result<()> {
        if self.access == Access::Read {
            return Err(Error::ReadOnly { action: "write" });
        }
        check::hole(&self.path, offset, len_bytes, self.len_bytes)?;
        share::punch(&self.file, &self.path, offset, len_bytes)
    }

    fn os_file(&self) -> Option<&File> {
        Some(&self.file)
    }

    fn sync(&self, _barrier: Barrier) -> Result<()> {
        // Not the standard library's call on Linux, which repeats an interrupted one.
        #[cfg(target_os = "linux")]
        let synced = rustix::fs::fdatasync(&self.file).map_err(io::Error::from);
        #[cfg(not(target_os = "linux"))]
        let synced = self.file.sync_data();
        synced.map_err(|source| Error::io("make durable", &self.path, source))
    }

    fn forget(&self, offset: u64, len_bytes: u64) {
        // Advice: whoever ignores it has the pages a while longer.
        #[cfg(target_os = "linux")]
        if let Some(len) = std::num::NonZeroU64::new(len_bytes) {
            let _advised = rustix::fs::fadvise(&self.file, offset, Some(len), rustix::fs::Advice::DontNeed);
        }
        #[cfg(not(target_os = "linux"))]
        let _ = (offset, len_bytes);
    }

    fn map(&self, offset: u64, len_bytes: usize) -> Result<Box<dyn Mapped>> {
        check::map_offset(&self.path, offset)?;
        check::inside("map", &self.path, offset, len_bytes, self.len_bytes()?)?;
        mapped::map(&self.file, &self.path, offset, len_bytes)
    }
}

#[cfg(all(test, target_os = "linux", not(miri)))]
mod tests {
    use rustix::fs::OFlags;
    use rustix::io::Errno;

    use super::*;
    use crate::storage::real::RealVolume;
    use crate::storage::{Allocation, Buffer, Volume};

    #[test]
    fn transfer_that_a_direct_file_refuses_goes_through_the_page_cache_from_then_on() {
        let keep = tempfile::tempdir().unwrap();
        let (volume, _) = RealVolume::create_dir(&keep.path().join("volume")).unwrap();
        volume.create("a", 2 * SECTOR_BYTES, Allocation::Full).unwrap();
        let (file, is_direct) = volume.open_caching("a", OFlags::RDWR, Caching::Direct).unwrap();
        let path = volume.path_of("a");
        let segment = RealSegment::new(file, path, Access::Write, Caching::Direct, is_direct).unwrap();
        assert_eq!(segment.is_direct(), is_direct);
        let mut answers = [Err(Errno::INVAL.into()), Ok(7)].into_iter();
        assert_eq!(segment.attempt(|| answers.next().unwrap()).unwrap(), 7);
        assert!(!segment.is_direct());
        assert!(!rustix::fs::fcntl_getfl(&segment.file).unwrap().contains(OFlags::DIRECT));
        let mut buffer = Buffer::new(4096).unwrap();
        buffer.fill(3);
        segment.write_at(&buffer, 4096).unwrap();
        buffer.fill(0);
        segment.read_at(&mut buffer, 4096).unwrap();
        assert!(buffer.iter().all(|&byte| byte == 3));
    }

    #[test]
    fn refusal_of_a_cached_file_is_not_tried_again() {
        let file = tempfile::tempfile().unwrap();
        let segment =
            RealSegment::new(file, "segment".into(), Access::Write, Caching::Cached, false).unwrap();
        let mut calls = 0;
        let outcome: io::Result<()> = segment.attempt(|| {
            calls += 1;
            Err(Errno::INVAL.into())
        });
        assert_eq!((outcome.is_err(), calls), (true, 1));
    }
}
