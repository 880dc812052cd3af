//! Files that appear whole or not at all: without a name while they are written, so that nothing is left of one whose process
//! is killed; or under the name of a part, where the file system knows no files without names.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::FlockOperation;

use super::RealVolume;
#[cfg(target_os = "linux")]
use super::{FILE_MODE, RealSegment, allocate, transfer};
use crate::error::{Error, Result};
use crate::storage::{Access, Allocation, Caching, Segment, Volume, check};

/// What the name of a part ends in.
const PART: &str = ".part";

/// Tries at a lock that others hold for moments only, and the time between them.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(10);

/// A file on its way to its name.
pub(crate) struct Unfinished {
    /// The name that it is to have.
    name: String,
    /// The file, as long as it has no name.
    unnamed: Option<File>,
}

impl Unfinished {
    /// The name that the file has meanwhile if it has one: of this process alone, so that two exports to one place do not
    /// write into one file.
    fn part(&self) -> String {
        format!(".{}.{}{PART}", self.name, std::process::id())
    }
}

/// The name that a part was to have.
fn name_of_part(part: &str) -> Option<&str> {
    let (name, process) = part.strip_prefix('.')?.strip_suffix(PART)?.rsplit_once('.')?;
    (!process.is_empty() && process.bytes().all(|byte| byte.is_ascii_digit())).then_some(name)
}

impl RealVolume {
    /// Keeps others from taking the parts of this process for left ones, as long as the volume lives; and removes those of
    /// killed processes first, if no other process makes files here, and `is_ours` says so of the name that they were to have.
    pub(crate) fn clear_parts(&self, is_ours: impl Fn(&str) -> bool) -> Result<()> {
        let lock = |operation| rustix::fs::flock(&self.directory, operation).is_ok();
        // A file system that does not lock directories keeps what is left; nothing is removed by guessing.
        if lock(FlockOperation::NonBlockingLockExclusive) {
            for part in self.list()?.iter().filter(|name| name_of_part(name).is_some_and(&is_ours)) {
                self.remove(part)?;
            }
        }
        for _ in 0..TRIES {
            if lock(FlockOperation::NonBlockingLockShared) {
                break;
            }
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Begins a file of this length.
    pub(crate) fn begin_file(&self, name: &str, len_bytes: u64) -> Result<Unfinished> {
        check::name(&self.path, name)?;
        match self.unnamed_file(name, len_bytes)? {
            Some(file) => Ok(Unfinished { name: name.to_owned(), unnamed: Some(file) }),
            None => self.begin_part(name, len_bytes),
        }
    }

    fn begin_part(&self, name: &str, len_bytes: u64) -> Result<Unfinished> {
        let file = Unfinished { name: name.to_owned(), unnamed: None };
        self.create(&file.part(), len_bytes, Allocation::Full)?;
        Ok(file)
    }

    /// Opens a file that is being made, for writing.
    pub(crate) fn open_unfinished(&self, file: &Unfinished, caching: Caching) -> Result<Arc<dyn Segment>> {
        match &file.unnamed {
            None => self.open(&file.part(), Access::Write, caching),
            Some(unnamed) => self.open_unnamed(&file.name, unnamed, caching),
        }
    }

    /// Gives a file without a name that of its part, and closes it: for processes that make more files than they can have
    /// open.
    pub(crate) fn close_unfinished(&self, file: &mut Unfinished) -> Result<()> {
        if let Some(unnamed) = &file.unnamed {
            let part = file.part();
            self.link(unnamed, &part)?;
            file.unnamed = None;
        }
        Ok(())
    }

    /// Gives a file its name. What has the name already is replaced, or in the way.
    ///
    /// # Errors
    /// `AlreadyExists`, `Io`.
    pub(crate) fn publish(&self, mut file: Unfinished, replace: bool) -> Result<()> {
        if let (Some(unnamed), false) = (&file.unnamed, replace) {
            return self.link(unnamed, &file.name);
        }
        self.close_unfinished(&mut file)?;
        self.rename(&file.part(), &file.name)
    }

    /// Removes a file that will not get its name.
    pub(crate) fn discard(&self, file: &Unfinished) {
        if file.unnamed.is_none() {
            // On the way out of an error, which is what will be told.
            drop(self.remove(&file.part()));
        }
    }
}

#[cfg(target_os = "linux")]
impl RealVolume {
    /// A file of the directory that has no name; `None` where there are none.
    fn unnamed_file(&self, name: &str, len_bytes: u64) -> Result<Option<File>> {
        use rustix::fs::OFlags;
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let Ok(opened) = rustix::fs::openat(&self.directory, ".", flags, FILE_MODE) else { return Ok(None) };
        let file = File::from(opened);
        // It is opened once more, and named, by this path; a system without it is found out now and not at the end.
        if !path_of(&file).exists() {
            return Ok(None);
        }
        allocate::provide(&file, &self.path_of(name), len_bytes, Allocation::Full)?;
        Ok(Some(file))
    }

    fn open_unnamed(&self, name: &str, file: &File, caching: Caching) -> Result<Arc<dyn Segment>> {
        use rustix::fs::{Mode, OFlags};
        let path = self.path_of(name);
        let failed = |source| Error::io("open", path.as_path(), source);
        let open = |flags| {
            let flags = OFlags::RDWR | OFlags::CLOEXEC | flags;
            rustix::fs::open(path_of(file), flags, Mode::empty())
                .map(File::from)
                .map_err(std::io::Error::from)
        };
        let direct = (caching == Caching::Direct).then(|| open(OFlags::DIRECT));
        let (opened, is_direct) = match direct {
            Some(Ok(file)) => (file, true),
            Some(Err(error)) if !transfer::is_invalid(&error) => return Err(failed(error)),
            _ => (open(OFlags::empty()).map_err(failed)?, false),
        };
        Ok(Arc::new(RealSegment::new(opened, path, Access::Write, caching, is_direct)?))
    }

    fn link(&self, file: &File, name: &str) -> Result<()> {
        use rustix::fs::{AtFlags, CWD};
        use rustix::io::Errno;
        check::name(&self.path, name)?;
        let path = self.path_of(name);
        match rustix::fs::linkat(CWD, path_of(file), &self.directory, name, AtFlags::SYMLINK_FOLLOW) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Err(Error::AlreadyExists { path }),
            Err(errno) => return Err(Error::io("name", path, errno.into())),
        }
        // Its bytes are durable; some file systems keep the count of a file's names with the file.
        file.sync_all().map_err(|source| Error::io("make durable", path, source))
    }
}

/// By which the system knows an open file.
#[cfg(target_os = "linux")]
fn path_of(file: &File) -> PathBuf {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

#[cfg(not(target_os = "linux"))]
impl RealVolume {
    #[expect(clippy::unnecessary_wraps, clippy::unused_self, reason = "the same signature on every system")]
    fn unnamed_file(&self, _name: &str, _len_bytes: u64) -> Result<Option<File>> {
        Ok(None)
    }

    fn open_unnamed(&self, name: &str, _file: &File, caching: Caching) -> Result<Arc<dyn Segment>> {
        self.open(name, Access::Write, caching)
    }

    fn link(&self, _file: &File, name: &str) -> Result<()> {
        Err(Error::io("name", self.path_of(name), std::io::ErrorKind::Unsupported.into()))
    }
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;
    use crate::storage::Barrier;

    fn volume(keep: &tempfile::TempDir) -> RealVolume {
        RealVolume::open_dir(keep.path()).unwrap()
    }

    fn write(volume: &RealVolume, file: &Unfinished, byte: u8) {
        let segment = volume.open_unfinished(file, Caching::Cached).unwrap();
        segment.write_at(&[byte; 5000], 0).unwrap();
        segment.sync(Barrier("test")).unwrap();
    }

    #[test]
    fn file_has_its_name_when_it_is_published_and_not_before() {
        for (is_part, replace) in [(false, false), (false, true), (true, false), (true, true)] {
            let keep = tempfile::tempdir().unwrap();
            let volume = volume(&keep);
            let begin = if is_part { RealVolume::begin_part } else { RealVolume::begin_file };
            if replace {
                std::fs::write(keep.path().join("a"), "before").unwrap();
            }
            let mut file = begin(&volume, "a", 5000).unwrap();
            let is_named = file.unnamed.is_none();
            assert_eq!(volume.list().unwrap().len(), usize::from(replace) + usize::from(is_named));
            assert!(is_named || !is_part);
            write(&volume, &file, 7);
            if replace {
                assert_eq!(std::fs::read(keep.path().join("a")).unwrap(), b"before");
                volume.close_unfinished(&mut file).unwrap();
                assert_eq!(volume.list().unwrap(), [file.part(), "a".to_owned()]);
            }
            volume.publish(file, replace).unwrap();
            assert_eq!(volume.list().unwrap(), ["a"]);
            assert_eq!(std::fs::read(keep.path().join("a")).unwrap(), [7; 5000]);
            // One that is not published.
            let file = begin(&volume, "b", 5000).unwrap();
            volume.discard(&file);
            assert_eq!(volume.list().unwrap(), ["a"]);
        }
    }

    #[test]
    fn file_that_came_meanwhile_is_in_the_way() {
        let keep = tempfile::tempdir().unwrap();
        let volume = volume(&keep);
        let file = volume.begin_file("a", 10).unwrap();
        if file.unnamed.is_none() {
            eprintln!("skipped: the file system has no files without names");
            return;
        }
        std::fs::write(keep.path().join("a"), "theirs").unwrap();
        assert!(matches!(volume.publish(file, false), Err(Error::AlreadyExists { .. })));
        assert_eq!(std::fs::read(keep.path().join("a")).unwrap(), b"theirs");
    }

    #[test]
    fn parts_of_killed_processes_are_removed_and_those_of_live_ones_are_not() {
        let keep = tempfile::tempdir().unwrap();
        let names = [".a.7.part", ".a.x.part", ".a.part", ".b.7.part", "a.7.part", ".a.b.8.part"];
        for name in names {
            std::fs::write(keep.path().join(name), "left").unwrap();
        }
        let is_ours = |name: &str| name == "a" || name == "a.b";
        let other = volume(&keep);
        other.clear_parts(|_| false).unwrap();
        let own = volume(&keep);
        own.clear_parts(is_ours).unwrap();
        assert_eq!(own.list().unwrap().len(), names.len(), "another process is at work");
        drop((own, other));
        volume(&keep).clear_parts(is_ours).unwrap();
        let mut left = [".a.x.part", ".a.part", ".b.7.part", "a.7.part"];
        left.sort_unstable();
        assert_eq!(volume(&keep).list().unwrap(), left);
    }
}
