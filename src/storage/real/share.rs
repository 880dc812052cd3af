//! Files that share bytes, where the file system can: XFS and btrfs among others.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use super::allocate;
use crate::error::{Error, Result};
use crate::storage::Segment;

/// Makes the bytes of `target` those of `source`, by sharing them; false where the file system cannot.
#[cfg(target_os = "linux")]
pub(super) fn share(target: &File, path: &Path, source: &dyn Segment) -> Result<bool> {
    use rustix::io::Errno;
    let Some(from) = source.os_file() else { return Ok(false) };
    match rustix::fs::ioctl_ficlone(target, from) {
        Ok(()) => Ok(true),
        // What the file systems say that cannot: another file system, no such call, not for these files.
        Err(
            Errno::OPNOTSUPP
            | Errno::XDEV
            | Errno::INVAL
            | Errno::NOTTY
            | Errno::NOSYS
            | Errno::PERM
            | Errno::TXTBSY,
        ) => Ok(false),
        Err(Errno::NOSPC | Errno::DQUOT) => Err(no_space(target, path)),
        Err(errno) => Err(Error::io("share bytes with", path, errno.into())),
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn share(_target: &File, _path: &Path, _source: &dyn Segment) -> Result<bool> {
    Ok(false)
}

#[cfg(target_os = "linux")]
pub(super) fn punch(file: &File, path: &Path, offset: u64, len_bytes: u64) -> Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    use rustix::io::Errno;
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    loop {
        match fallocate(file, flags, offset, len_bytes) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(Errno::NOSPC | Errno::DQUOT) => return Err(no_space(file, path)),
            Err(errno) => return Err(Error::io_at("give back", path, (offset, len_bytes), errno.into())),
        }
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn punch(_file: &File, path: &Path, offset: u64, len_bytes: u64) -> Result<()> {
    Err(Error::io_at("give back", path, (offset, len_bytes), io::ErrorKind::Unsupported.into()))
}

fn no_space(file: &File, path: &Path) -> Error {
    let free = allocate::free_bytes(file).unwrap_or(0);
    Error::NoSpace { path: path.to_owned(), needed: free.saturating_add(1), free }
}

/// Tries it on two files without names in a directory.
#[cfg(target_os = "linux")]
pub(super) fn can_share(directory: impl AsFd) -> bool {
    use rustix::fs::{Mode, OFlags, openat};
    let attempt = || -> io::Result<()> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let open = || openat(&directory, ".", flags, Mode::RUSR | Mode::WUSR);
        let (source, target) = (File::from(open()?), File::from(open()?));
        std::os::unix::fs::FileExt::write_all_at(&source, &[1; 4096], 0)?;
        Ok(rustix::fs::ioctl_ficlone(&target, &source)?)
    };
    attempt().is_ok()
}

#[cfg(not(target_os = "linux"))]
pub(super) fn can_share(_directory: impl AsFd) -> bool {
    false
}
