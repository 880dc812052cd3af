//! Gives a new file its length, and its place on the disk.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use crate::error::{Error, Result};
use crate::storage::Allocation;

/// Offsets in files are signed numbers of 64 bits.
const FILE_BYTES_MAX: u64 = i64::MAX.cast_unsigned();

/// One allocation call covers at most this much, so that a signal in between costs at most one piece.
#[cfg(target_os = "linux")]
const PIECE_BYTES: u64 = 1 << 30;

/// Gives an empty file `len_bytes` zeros; on failure the file is of no use and to be removed.
///
/// `Full` allocates every block: a file system in the way of XFS or ext4 then cannot run full under the file. One
/// that writes each change to a new place (btrfs, ZFS) promises this for the first write only. Where the file system
/// does not know `fallocate`, zeros are written; on systems without that call the free space is checked and no more.
pub(super) fn provide(file: &File, path: &Path, len_bytes: u64, allocation: Allocation) -> Result<()> {
    let free =
        free_bytes(file).map_err(|errno| Error::io("measure the free space of", path, errno.into()))?;
    let no_space = || Error::NoSpace { path: path.to_owned(), needed: len_bytes, free };
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::StorageFull => no_space(),
        _ => Error::io_at("allocate", path, (0, len_bytes), source),
    };
    check_size_limit(len_bytes).map_err(failed)?;
    if allocation == Allocation::Full {
        // Asked beforehand, because an attempt that is bound to fail can take minutes on a large disk.
        if len_bytes > free {
            return Err(no_space());
        }
    }
    // First of all, so that a length which the file system cannot hold is refused before anything is allocated.
    file.set_len(len_bytes).map_err(failed)?;
    match allocation {
        Allocation::Full => allocate(file, len_bytes).map_err(failed),
        Allocation::Sparse => Ok(()),
    }
}

#[cfg(target_os = "linux")]
fn allocate(file: &File, len_bytes: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    let mut done = 0;
    while done < len_bytes {
        let piece = PIECE_BYTES.min(len_bytes - done);
        match fallocate(file, FallocateFlags::empty(), done, piece) {
            Ok(()) => done += piece,
            Err(Errno::INTR) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => return write_zeros(file, done, len_bytes),
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
#[expect(clippy::unnecessary_wraps, reason = "the same signature on every system")]
fn allocate(_file: &File, _len_bytes: u64) -> io::Result<()> {
    Ok(())
}

/// Allocates by writing.
#[cfg(target_os = "linux")]
fn write_zeros(file: &File, from: u64, to: u64) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
    let mut done = from;
    while done < to {
        let piece = usize::try_from(to - done).map_or(ZEROS.len(), |rest| rest.min(ZEROS.len()));
        file.write_all_at(&ZEROS[..piece], done)?;
        done += piece as u64;
    }
    Ok(())
}

/// Refuses a length above the process's file size limit (`ulimit -f`).
///
/// The kernel would answer with SIGXFSZ, which kills. Asking first turns it into an error; only a limit that is
/// lowered while a file is open is not seen, and against that a program can ignore the signal.
pub(super) fn check_size_limit(len_bytes: u64) -> io::Result<()> {
    if len_bytes > FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "no file can be that long"));
    }
    match getrlimit(Resource::Fsize).current {
        Some(limit) if len_bytes > limit => Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("this process may not make files above {limit} bytes; raise the limit (ulimit -f)"),
        )),
        _ => Ok(()),
    }
}

/// Bytes that this user can still allocate; `u64::MAX` where the file system does not count (`tmpfs` without a
/// limit, some network file systems).
pub(super) fn free_bytes(file: impl AsFd) -> Result<u64, Errno> {
    let stat = rustix::fs::fstatvfs(file)?;
    if stat.f_blocks == 0 {
        return Ok(u64::MAX);
    }
    let unit = if stat.f_frsize == 0 { stat.f_bsize } else { stat.f_frsize };
    Ok(stat.f_bavail.saturating_mul(unit))
}

#[cfg(all(test, target_os = "linux", not(miri)))]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn zeros_are_written_to_the_exact_length() {
        let file = tempfile::tempfile().unwrap();
        write_zeros(&file, 4096, 200_001).unwrap();
        let metadata = file.metadata().unwrap();
        assert_eq!(metadata.len(), 200_001);
        assert!(metadata.blocks() * 512 >= 200_001 - 4096);
    }

    #[test]
    fn length_of_a_full_file_is_exact_and_its_blocks_are_there() {
        for len_bytes in [0, 1, 4096, 1_000_003] {
            let file = tempfile::tempfile().unwrap();
            provide(&file, Path::new("segment"), len_bytes, Allocation::Full).unwrap();
            let metadata = file.metadata().unwrap();
            assert_eq!(metadata.len(), len_bytes);
            assert!(metadata.blocks() * 512 >= len_bytes);
        }
    }

    #[test]
    fn length_that_no_file_system_holds_is_an_error() {
        let file = tempfile::tempfile().unwrap();
        for len_bytes in [1 << 63, u64::MAX] {
            for allocation in [Allocation::Sparse, Allocation::Full] {
                let error = provide(&file, Path::new("segment"), len_bytes, allocation).unwrap_err();
                let Error::Io { action: "allocate", source, .. } = error else { panic!("{error}") };
                assert_eq!(source.kind(), io::ErrorKind::FileTooLarge);
            }
        }
        assert_eq!(file.metadata().unwrap().len(), 0);
    }
}
