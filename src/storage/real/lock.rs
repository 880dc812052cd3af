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

/// The process that holds a file's exclusive lock, from the kernel's list of locks.
#[cfg(target_os = "linux")]
pub(super) fn holder(volume: &RealVolume, name: &str) -> Option<u32> {
    let stat = rustix::fs::statat(&volume.directory, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    let (major, minor) = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
    let file = format!("{major:02x}:{minor:02x}:{}", stat.st_ino);
    holder_in(&std::fs::read_to_string("/proc/locks").ok()?, &file)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn holder(_volume: &RealVolume, _name: &str) -> Option<u32> {
    None
}

/// Finds the holder in lines like `3: FLOCK  ADVISORY  WRITE 4242 08:01:131 0 EOF`; those that wait have an arrow
/// behind the number, and a holder outside this process's namespace is process 0.
#[cfg(target_os = "linux")]
fn holder_in(locks: &str, file: &str) -> Option<u32> {
    locks.lines().find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        match fields[..] {
            [_, "FLOCK", _, "WRITE", pid, at, ..] if at == file => pid.parse().ok(),
            _ => None,
        }
    })
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

    #[cfg(target_os = "linux")]
    #[test]
    fn holder_is_the_process_of_the_exclusive_lock_on_that_file() {
        let locks = "1: POSIX  ADVISORY  WRITE 11 08:01:131 0 EOF\n2: FLOCK  ADVISORY  READ 12 08:01:131 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 13 08:01:132 0 EOF\n4: FLOCK  ADVISORY  WRITE 14 08:01:131 0 EOF\n\
                     4: -> FLOCK  ADVISORY  WRITE 15 08:01:133 0 EOF\n";
        assert_eq!(holder_in(locks, "08:01:131"), Some(14));
        assert_eq!(holder_in(locks, "08:01:133"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn own_exclusive_lock_is_seen_in_the_list_and_gone_after_its_release() {
        let keep = tempfile::tempdir().unwrap();
        let (volume, _) = RealVolume::create_dir(&keep.path().join("volume")).unwrap();
        let lock = volume.try_lock("lock", LockKind::Exclusive).unwrap().unwrap();
        let holder = volume.lock_holder("lock");
        // A kernel or sandbox that does not list locks tells nothing.
        assert!(holder.is_none_or(|pid| pid == std::process::id()), "{holder:?}");
        drop(lock);
        assert_eq!(volume.lock_holder("lock"), None);
    }

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
