//! Files of the operating system.
//!
//! All of them are opened relative to an open directory and without following links, so that neither a renamed
//! path nor a planted link leads anywhere else; but for foreign files that are read, where a link is the user's own.

mod allocate;
mod lock;
#[cfg(target_os = "linux")]
mod ring;
mod scattered;
mod segment;
mod share;
#[cfg(all(test, not(miri)))]
mod tests;
pub(super) mod transfer;
mod unfinished;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::{Access, Allocation, Barrier, Caching, Lock, LockKind, Segment, Volume, check};
use crate::error::{Error, Result};
use segment::RealSegment;
pub(crate) use unfinished::Unfinished;

/// Directories and files belong to their owner alone.
const DIRECTORY_MODE: Mode = Mode::RWXU;
const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);

/// Every file is opened with these: never handed to another program, never waiting for a pipe.
const OPEN_FLAGS: OFlags = OFlags::CLOEXEC.union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

/// One directory of the file system.
pub(crate) struct RealVolume {
    path: PathBuf,
    directory: OwnedFd,
}

impl RealVolume {
    /// Makes the directory, for its owner only, and opens it; tells whether it existed already.
    ///
    /// What an existing directory holds is for the caller to judge, through [`Volume::list`].
    ///
    /// # Errors
    /// `AlreadyExists` if something that is not a directory stands there; `Io` for all else.
    pub(crate) fn create_dir(path: &Path) -> Result<(Self, bool)> {
        let existed = match rustix::fs::mkdir(path, DIRECTORY_MODE) {
            Ok(()) => false,
            Err(Errno::EXIST) => true,
            Err(errno) => return Err(Error::io("create the directory", path, errno.into())),
        };
        match Self::open_dir(path) {
            Ok(volume) => Ok((volume, existed)),
            Err(Error::Io { source, .. }) if existed && source.kind() == io::ErrorKind::NotADirectory => {
                Err(Error::AlreadyExists { path: path.to_owned() })
            }
            Err(error) => Err(error),
        }
    }

    /// Opens an existing directory; a link to one is followed here, and nowhere below.
    ///
    /// # Errors
    /// `Io` if there is none, or none that may be read.
    pub(crate) fn open_dir(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(directory) => Ok(Self { path: path.to_owned(), directory }),
            Err(errno) => Err(Error::io("open the directory", path, errno.into())),
        }
    }

    /// Opens the directory in which a file stands or is to be made, and tells its name there.
    ///
    /// # Errors
    /// `Io` if there is no such directory, `Invalid` for a path without a name at its end.
    pub(crate) fn open_dir_for(path: &Path) -> Result<(Self, String)> {
        let (directory, name) = parts(path)?;
        let here = directory.as_os_str().is_empty();
        Ok((Self::open_dir(if here { Path::new(".") } else { directory })?, name))
    }

    /// Removes the directory, which has to be empty.
    ///
    /// # Errors
    /// `Io` if it is not, or may not be removed.
    pub(crate) fn remove_dir(self) -> Result<()> {
        rustix::fs::rmdir(&self.path)
            .map_err(|errno| Error::io("remove the directory", &self.path, errno.into()))
    }

    /// Opens a file of another program for reading. A link is followed, as whoever named the directory has it there, but to a
    /// regular file only: a device may act on being opened and a pipe may wait, so what it is, is asked before and after.
    ///
    /// # Errors
    /// `Io` for what is not there, not a regular file, or not to be read.
    pub(crate) fn open_followed(&self, name: &str, caching: Caching) -> Result<Arc<dyn Segment>> {
        check::name(&self.path, name)?;
        let path = self.path_of(name);
        let failed = |source| Error::io("open", path.as_path(), source);
        let stat = |flags| rustix::fs::statat(&self.directory, name, flags);
        let kind = |mode| FileType::from_raw_mode(mode);
        match stat(AtFlags::empty()).map(|found| kind(found.st_mode)) {
            Ok(FileType::RegularFile) => {}
            Ok(kind) => return Err(failed(not_regular(&format!("a {kind:?}")))),
            Err(Errno::NOENT) if stat(AtFlags::SYMLINK_NOFOLLOW).is_ok() => {
                let what = "it is a link to a file that is not there; is a download unfinished?";
                return Err(failed(io::Error::new(io::ErrorKind::NotFound, what)));
            }
            Err(errno) => return Err(failed(errno.into())),
        }
        let (file, is_direct) = self.open_caching(name, OFlags::RDONLY, caching).map_err(failed)?;
        Ok(Arc::new(RealSegment::new(file, path, Access::Read, caching, is_direct)?))
    }

    /// Opens a file of the directory, never through a link, and refuses everything that is not a regular one.
    fn open_file(&self, name: &str, flags: OFlags, mode: Mode) -> Result<File, io::Error> {
        self.open_regular(name, flags | OFlags::NOFOLLOW, mode)
    }

    fn open_regular(&self, name: &str, flags: OFlags, mode: Mode) -> Result<File, io::Error> {
        let opened = rustix::fs::openat(&self.directory, name, flags | OPEN_FLAGS, mode);
        let file = File::from(opened.map_err(explained)?);
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode);
        if kind.is_file() { Ok(file) } else { Err(not_regular(&format!("a {kind:?}"))) }
    }
}

impl Volume for RealVolume {
    fn path(&self) -> &Path {
        &self.path
    }

    fn has_onlookers(&self) -> bool {
        true
    }

    fn create(&self, name: &str, len_bytes: u64, allocation: Allocation) -> Result<()> {
        check::name(&self.path, name)?;
        let path = self.path_of(name);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let file = self.open_file(name, flags, FILE_MODE).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => Error::AlreadyExists { path: path.clone() },
            io::ErrorKind::StorageFull => self.no_space(path.clone(), len_bytes),
            _ => Error::io("create", &path, source),
        })?;
        allocate::provide(&file, &path, len_bytes, allocation).inspect_err(|_| {
            // The first error is the one to tell; a file that cannot even be removed is found by `list`.
            let _removed = rustix::fs::unlinkat(&self.directory, name, AtFlags::empty());
        })
    }

    fn open(&self, name: &str, access: Access, caching: Caching) -> Result<Arc<dyn Segment>> {
        check::name(&self.path, name)?;
        let path = self.path_of(name);
        let flags = match access {
            Access::Read => OFlags::RDONLY,
            Access::Write => OFlags::RDWR,
        };
        let (file, is_direct) = self
            .open_caching(name, flags | OFlags::NOFOLLOW, caching)
            .map_err(|source| Error::io("open", path.as_path(), source))?;
        Ok(Arc::new(RealSegment::new(file, path, access, caching, is_direct)?))
    }

    fn list(&self) -> Result<Vec<String>> {
        let failed = |errno: Errno| Error::io("list", &self.path, errno.into());
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy();
            if name != "." && name != ".." {
                names.push(name.into_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn remove(&self, name: &str) -> Result<()> {
        check::name(&self.path, name)?;
        rustix::fs::unlinkat(&self.directory, name, AtFlags::empty())
            .map_err(|errno| Error::io("remove", self.path_of(name), errno.into()))
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        check::name(&self.path, from)?;
        check::name(&self.path, to)?;
        rustix::fs::renameat(&self.directory, from, &self.directory, to)
            .map_err(|errno| Error::io("rename", self.path_of(from), errno.into()))
    }

    fn sync_dir(&self, _barrier: Barrier) -> Result<()> {
        rustix::fs::fsync(&self.directory)
            .map_err(|errno| Error::io("make durable", &self.path, errno.into()))
    }

    fn sync_parent(&self, _barrier: Barrier) -> Result<()> {
        let failed = |errno: Errno| Error::io("make durable the parent of", &self.path, errno.into());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.directory, "..", flags, Mode::empty()) {
            Ok(parent) => rustix::fs::fsync(&parent).map_err(failed),
            // The parent may be closed to us for reading and hold our directory all the same.
            #[cfg(target_os = "linux")]
            Err(Errno::ACCESS) => rustix::fs::syncfs(&self.directory).map_err(failed),
            Err(errno) => Err(failed(errno)),
        }
    }

    fn subvolume(&self, name: &str) -> Result<Option<Arc<dyn Volume>>> {
        check::name(&self.path, name)?;
        match self.open_below(name) {
            Ok(directory) => Ok(Some(Arc::new(Self { path: self.path_of(name), directory }))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(Error::io("open the directory", self.path_of(name), not_directory(errno))),
        }
    }

    fn create_subvolume(&self, name: &str) -> Result<Arc<dyn Volume>> {
        check::name(&self.path, name)?;
        let path = self.path_of(name);
        match rustix::fs::mkdirat(&self.directory, name, DIRECTORY_MODE) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Err(Error::AlreadyExists { path }),
            Err(errno) => return Err(Error::io("create the directory", path, errno.into())),
        }
        match self.open_below(name) {
            Ok(directory) => Ok(Arc::new(Self { path, directory })),
            Err(errno) => Err(Error::io("open the directory", path, not_directory(errno))),
        }
    }

    fn remove_subvolume(&self, name: &str) -> Result<()> {
        check::name(&self.path, name)?;
        rustix::fs::unlinkat(&self.directory, name, AtFlags::REMOVEDIR)
            .map_err(|errno| Error::io("remove the directory", self.path_of(name), errno.into()))
    }

    fn can_share(&self) -> bool {
        share::can_share(&self.directory)
    }

    fn free_bytes(&self) -> Result<u64> {
        allocate::free_bytes(&self.directory)
            .map_err(|errno| Error::io("measure the free space of", &self.path, errno.into()))
    }

    fn try_lock(&self, name: &str, kind: LockKind) -> Result<Option<Box<dyn Lock>>> {
        check::name(&self.path, name)?;
        lock::try_lock(self, name, kind)
    }

    fn lock_holder(&self, name: &str) -> Option<u32> {
        lock::holder(self, name)
    }
}

impl RealVolume {
    /// Opens past the page cache if that is asked for and the file system can; tells which it became.
    fn open_caching(&self, name: &str, flags: OFlags, caching: Caching) -> io::Result<(File, bool)> {
        #[cfg(target_os = "linux")]
        if caching == Caching::Direct {
            match self.open_regular(name, flags | OFlags::DIRECT, Mode::empty()) {
                Err(refused) if transfer::is_invalid(&refused) => {}
                other => return other.map(|file| (file, true)),
            }
        }
        #[cfg(not(target_os = "linux"))]
        let _ = caching;
        self.open_regular(name, flags, Mode::empty()).map(|file| (file, false))
    }

    fn open_below(&self, name: &str) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::openat(&self.directory, name, flags, Mode::empty())
    }

    fn no_space(&self, path: PathBuf, needed: u64) -> Error {
        Error::NoSpace { path, needed, free: allocate::free_bytes(&self.directory).unwrap_or(0) }
    }
}

/// The directory and the name of a file.
fn parts(path: &Path) -> Result<(&Path, String)> {
    match (path.parent(), path.file_name().and_then(std::ffi::OsStr::to_str)) {
        (Some(directory), Some(name)) => Ok((directory, name.to_owned())),
        _ => Err(Error::invalid("file", path.display(), "a path that ends in a name in UTF-8")),
    }
}

/// Says in words what the system's number hides: with `O_NOFOLLOW`, "too many links" means "one link".
fn explained(errno: Errno) -> io::Error {
    if errno == Errno::LOOP { not_regular("a symbolic link") } else { errno.into() }
}

/// With `O_NOFOLLOW` and `O_DIRECTORY`, a link is "not a directory" or "too many links", by the kernel's version.
fn not_directory(errno: Errno) -> io::Error {
    if matches!(errno, Errno::LOOP | Errno::NOTDIR) {
        let what = "it is a symbolic link or a file, expected a directory";
        return io::Error::new(io::ErrorKind::NotADirectory, what);
    }
    errno.into()
}

fn not_regular(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("it is {what}, expected a regular file"))
}
