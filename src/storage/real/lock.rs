//! Locks between processes: `flock`, which the system releases when its holder dies.

use std::fs::{File, TryLockError};

use rustix::fs::{AtFlags, OFlags};
use rustix::io::Errno;

use super::{FILE_MODE, Mode, RealVolume};
use crate::error::{Error, Result};
use crate::storage::{LOCK_FILE_BYTES, Lock, LockKind, Volume};

/// The lock stands with the open file and falls with it.
struct FileLock {
    _file: File,
}

impl Lock for FileLock {}

pub(super) fn try_lock(volume: &RealVolume, name: &str, kind: LockKind) -> Result<Option<Box<dyn Lock>>> {
    let failed = |source| Error::io("lock", volume.path_of(name), source);
    loop {
        let file = match kind {
            // Writable, because network file systems turn the lock into one that asks for it.
            LockKind::Exclusive => volume.open_file(name, OFlags::RDWR | OFlags::CREATE, FILE_MODE),
            LockKind::Shared => volume.open_file(name, OFlags::RDONLY, Mode::empty()),
        }
        .map_err(failed)?;
        let locked = match kind {
            LockKind::Exclusive => file.try_lock(),
            LockKind::Shared => file.try_lock_shared(),
        };
        match locked {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        // Between opening and locking the file may have been removed, and another be locked under its name.
        if has_name(volume, &file, name).map_err(|errno| failed(errno.into()))? {
            if kind == LockKind::Exclusive {
                provide_length(&file).map_err(failed)?;
            }
            return Ok(Some(Box::new(FileLock { _file: file })));
        }
    }
}

/// Whether the directory still knows this open file by this name.
fn has_name(volume: &RealVolume, file: &File, name: &str) -> Result<bool, Errno> {
    let opened = rustix::fs::fstat(file)?;
    match rustix::fs::statat(&volume.directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(named) => Ok(named.st_dev == opened.st_dev && named.st_ino == opened.st_ino),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}

fn provide_length(file: &File) -> std::io::Result<()> {
    if file.metadata()?.len() < LOCK_FILE_BYTES { file.set_len(LOCK_FILE_BYTES) } else { Ok(()) }
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;

    #[test]
    fn file_that_was_removed_or_replaced_while_open_has_lost_its_name() {
        let keep = tempfile::tempdir().unwrap();
        let (volume, _) = RealVolume::create_dir(&keep.path().join("volume")).unwrap();
        let make = || volume.open_file("lock", OFlags::RDWR | OFlags::CREATE, FILE_MODE).unwrap();
        let old = make();
        assert!(has_name(&volume, &old, "lock").unwrap());
        volume.remove("lock").unwrap();
        assert!(!has_name(&volume, &old, "lock").unwrap());
        let new = make();
        assert!(!has_name(&volume, &old, "lock").unwrap());
        assert!(has_name(&volume, &new, "lock").unwrap());
    }
}
