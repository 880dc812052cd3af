//! A disk that loses power: what was not made durable may be there afterwards, or not, or in part.
//!
//! [`SimVolume`] is a directory in memory that writes down everything that could leave a trace on a disk, as
//! [`Event`]s. [`Disk`] is what a list of events has made certain and what not, and makes from it an [`Image`]: one of
//! the many states in which the disk may be found when the power comes back. Nothing here is random; which image it is
//! to be is for the caller to say.

mod disk;
mod event;
mod image;
#[cfg(test)]
mod tests;
mod unsynced;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{
    Access, Allocation, Barrier, Buffer, Caching, LOCK_FILE_BYTES, Lock, LockKind, Mapped, MemoryVolume,
    Segment, Volume, memory::share_pages,
};
use crate::error::{Error, Result};

pub(crate) use disk::Disk;
pub(crate) use event::{DirectoryId, Event, FileId};
pub(crate) use image::Image;
pub(crate) use unsynced::{Item, ItemKey, Picks, torn};

/// A directory in memory that remembers what was done to it; clones are handles on the same one.
///
/// What a program sees is what the page cache would show it: every write at once. Only [`Disk`] knows the difference.
#[derive(Clone)]
pub(crate) struct SimVolume {
    memory: Arc<dyn Volume>,
    directory: DirectoryId,
    /// What the paths of its names begin with: nothing, or `below/`.
    prefix: String,
    record: Arc<Mutex<Record>>,
}

/// What has happened since the power came.
struct Record {
    events: Vec<Event>,
    names: BTreeMap<String, FileId>,
    directories: BTreeMap<String, DirectoryId>,
    files: u32,
    directories_made: u32,
    /// A barrier that does nothing, and does not say so.
    left_out: Option<Barrier>,
    /// The sync, counted from now, that fails and loses track of what it was to make durable.
    failing_sync: Option<usize>,
}

impl Record {
    fn new_file(&mut self, name: &str) -> FileId {
        let id = FileId(self.files);
        self.files += 1;
        self.names.insert(name.to_owned(), id);
        id
    }

    fn new_directory(&mut self, name: &str) -> DirectoryId {
        self.directories_made += 1;
        let id = DirectoryId(self.directories_made);
        self.directories.insert(name.to_owned(), id);
        id
    }

    fn fails_now(&mut self) -> bool {
        match self.failing_sync {
            Some(0) => {
                self.failing_sync = None;
                true
            }
            Some(left) => {
                self.failing_sync = Some(left - 1);
                false
            }
            None => false,
        }
    }
}

impl SimVolume {
    /// An empty directory that was just made: its own name is not durable either.
    pub(crate) fn new(path: &str) -> Self {
        Self::with_memory(MemoryVolume::new(path))
    }

    pub(super) fn with_memory(memory: MemoryVolume) -> Self {
        let record = Record {
            events: Vec::new(),
            names: BTreeMap::new(),
            directories: BTreeMap::new(),
            files: 0,
            directories_made: 0,
            left_out: None,
            failing_sync: None,
        };
        Self {
            memory: Arc::new(memory),
            directory: DirectoryId::TOP,
            prefix: String::new(),
            record: Arc::new(Mutex::new(record)),
        }
    }

    /// A directory below this one.
    fn below(&self, memory: Arc<dyn Volume>, directory: DirectoryId, name: &str) -> Arc<dyn Volume> {
        let prefix = format!("{}/", self.path_from_top(name));
        Arc::new(Self { memory, directory, prefix, record: Arc::clone(&self.record) })
    }

    fn path_from_top(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// A directory as it is found when the power comes back; all of it is durable.
    ///
    /// # Errors
    /// None that memory does not have.
    pub(crate) fn from_image(path: &str, image: &Image) -> Result<Self> {
        Self::with_memory(MemoryVolume::new(path)).filled(image)
    }

    /// As [`from_image`](Self::from_image), on a disk whose files can share bytes.
    pub(crate) fn sharing(path: &str, image: Option<&Image>) -> Result<Self> {
        let volume = Self::with_memory(MemoryVolume::with_sharing(path, u64::MAX));
        image.map_or(Ok(volume.clone()), |image| volume.filled(image))
    }

    fn filled(self, image: &Image) -> Result<Self> {
        let volume = self;
        image.write_to(&volume.memory)?;
        let mut record = volume.lock();
        for path in &image.directories {
            record.new_directory(path);
        }
        for name in image.names() {
            record.new_file(name);
        }
        drop(record);
        Ok(volume)
    }

    /// Makes a barrier do nothing from now on.
    pub(crate) fn leave_out(&self, barrier: Option<Barrier>) {
        self.lock().left_out = barrier;
    }

    /// Lets a sync fail after `later` others, in the way of a kernel that marks pages clean when it could not write
    /// them: the program goes on seeing its bytes, and no later sync makes them durable unless they are written anew.
    pub(crate) fn fail_sync(&self, later: Option<usize>) {
        self.lock().failing_sync = later;
    }

    /// Everything so far, oldest first.
    pub(crate) fn events(&self) -> Vec<Event> {
        self.lock().events.clone()
    }

    /// How many events there are.
    pub(crate) fn event_count(&self) -> usize {
        self.lock().events.len()
    }

    /// Nothing panics half way through a change, so that a poisoned lock still guards whole data.
    fn lock(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Volume for SimVolume {
    fn path(&self) -> &Path {
        self.memory.path()
    }

    fn create(&self, name: &str, len_bytes: u64, allocation: Allocation) -> Result<()> {
        let mut record = self.lock();
        self.memory.create(name, len_bytes, allocation)?;
        let name = self.path_from_top(name);
        let file = record.new_file(&name);
        record.events.push(Event::Create { file, directory: self.directory, name, len_bytes });
        Ok(())
    }

    fn open(&self, name: &str, access: Access, caching: Caching) -> Result<Arc<dyn Segment>> {
        let record = self.lock();
        let inner = self.memory.open(name, access, caching)?;
        let file = record.names.get(&self.path_from_top(name)).copied().unwrap_or(FileId(u32::MAX));
        Ok(Arc::new(SimSegment { inner, file, record: Arc::clone(&self.record) }))
    }

    fn list(&self) -> Result<Vec<String>> {
        self.memory.list()
    }

    fn remove(&self, name: &str) -> Result<()> {
        let mut record = self.lock();
        self.memory.remove(name)?;
        let name = self.path_from_top(name);
        record.names.remove(&name);
        record.events.push(Event::Remove { directory: self.directory, name });
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        let mut record = self.lock();
        self.memory.rename(from, to)?;
        let (from, to) = (self.path_from_top(from), self.path_from_top(to));
        if let Some(file) = record.names.remove(&from) {
            record.names.insert(to.clone(), file);
            record.events.push(Event::Rename { file, directory: self.directory, from, to });
        }
        Ok(())
    }

    fn sync_dir(&self, barrier: Barrier) -> Result<()> {
        let mut record = self.lock();
        if record.left_out != Some(barrier) {
            let name = self.prefix.trim_end_matches('/').to_owned();
            record.events.push(Event::SyncDir { directory: self.directory, name, barrier });
        }
        Ok(())
    }

    fn sync_parent(&self, barrier: Barrier) -> Result<()> {
        let mut record = self.lock();
        if record.left_out != Some(barrier) {
            let name = self.prefix.trim_end_matches('/').to_owned();
            record.events.push(Event::SyncParent { directory: self.directory, name, barrier });
        }
        Ok(())
    }

    fn subvolume(&self, name: &str) -> Result<Option<Arc<dyn Volume>>> {
        let record = self.lock();
        let Some(memory) = self.memory.subvolume(name)? else { return Ok(None) };
        let id = record.directories.get(&self.path_from_top(name)).copied();
        Ok(Some(self.below(memory, id.unwrap_or(DirectoryId(u32::MAX - 1)), name)))
    }

    fn create_subvolume(&self, name: &str) -> Result<Arc<dyn Volume>> {
        let mut record = self.lock();
        let memory = self.memory.create_subvolume(name)?;
        let path = self.path_from_top(name);
        let made = record.new_directory(&path);
        record.events.push(Event::MakeDirectory { made, directory: self.directory, name: path });
        Ok(self.below(memory, made, name))
    }

    fn remove_subvolume(&self, name: &str) -> Result<()> {
        let mut record = self.lock();
        self.memory.remove_subvolume(name)?;
        let name = self.path_from_top(name);
        record.directories.remove(&name);
        record.events.push(Event::Remove { directory: self.directory, name });
        Ok(())
    }

    fn can_share(&self) -> bool {
        self.memory.can_share()
    }

    fn free_bytes(&self) -> Result<u64> {
        self.memory.free_bytes()
    }

    fn try_lock(&self, name: &str, kind: LockKind) -> Result<Option<Box<dyn Lock>>> {
        let mut record = self.lock();
        let lock = self.memory.try_lock(name, kind)?;
        // Taking a lock may make the file, or make it longer.
        if lock.is_some() && kind == LockKind::Exclusive {
            let (name, directory, len_bytes) = (self.path_from_top(name), self.directory, LOCK_FILE_BYTES);
            match record.names.get(&name).copied() {
                None => {
                    let file = record.new_file(&name);
                    record.events.push(Event::Create { file, directory, name, len_bytes });
                }
                Some(file) => record.events.push(Event::Extend { file, len_bytes }),
            }
        }
        Ok(lock)
    }
}

struct SimSegment {
    inner: Arc<dyn Segment>,
    file: FileId,
    record: Arc<Mutex<Record>>,
}

impl SimSegment {
    fn lock(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Segment for SimSegment {
    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn is_direct(&self) -> bool {
        self.inner.is_direct()
    }

    fn len_bytes(&self) -> Result<u64> {
        self.inner.len_bytes()
    }

    fn allocated_bytes(&self) -> Result<u64> {
        self.inner.allocated_bytes()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.inner.read_at(buffer, offset)
    }

    fn write_at(&self, buffer: &[u8], offset: u64) -> Result<()> {
        let mut record = self.lock();
        self.inner.write_at(buffer, offset)?;
        if !buffer.is_empty() {
            record.events.push(Event::Write { file: self.file, offset, bytes: buffer.into() });
        }
        Ok(())
    }

    /// Shared bytes are as durable as written ones: not before a sync.
    fn share_from(&self, source: &dyn Segment) -> Result<bool> {
        // The same bytes once more, for the events.
        if !self.inner.share_from(source)? {
            return Ok(false);
        }
        share_pages(self, source, self.len_bytes()?)?;
        Ok(true)
    }

    fn punch(&self, offset: u64, len_bytes: u64) -> Result<()> {
        let mut record = self.lock();
        let mut bytes = Buffer::new(usize::try_from(len_bytes).unwrap_or(0))?;
        bytes.fill(1);
        if self.inner.read_at(&mut bytes, offset).is_ok() && bytes.iter().all(|&byte| byte == 0) {
            return self.inner.punch(offset, len_bytes);
        }
        self.inner.punch(offset, len_bytes)?;
        bytes.fill(0);
        record.events.push(Event::Write { file: self.file, offset, bytes: bytes[..].into() });
        Ok(())
    }

    fn sync(&self, barrier: Barrier) -> Result<()> {
        let mut record = self.lock();
        if record.fails_now() {
            record.events.push(Event::LoseSync { file: self.file });
            let source = io::Error::other("the simulated disk lost a sync");
            return Err(Error::io("make durable", self.path(), source));
        }
        self.inner.sync(barrier)?;
        if record.left_out != Some(barrier) {
            record.events.push(Event::Sync { file: self.file, barrier });
        }
        Ok(())
    }

    fn map(&self, offset: u64, len_bytes: usize) -> Result<Box<dyn Mapped>> {
        self.inner.map(offset, len_bytes)
    }
}
