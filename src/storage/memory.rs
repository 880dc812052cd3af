//! A volume in memory: for tests, and for tools that cannot see files (Miri).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{
    Access, Allocation, Barrier, Buffer, Caching, LOCK_FILE_BYTES, Lock, LockKind, Mapped, SECTOR_BYTES,
    Segment, Volume, check,
};
use crate::error::{Error, Result};

const PAGE_BYTES: usize = 4096;
const _: () = assert!(PAGE_BYTES as u64 == SECTOR_BYTES);

/// A directory whose files live as long as the last handle; cloning makes another handle on the same files.
///
/// Files are kept as pages, and pages of zeros that nobody wrote take no memory, so that a sparse file may be of any
/// length. `copy` makes another directory, whose pages are shared until one of the two writes. Nothing here outlives the
/// process: `sync`, `sync_dir` and `sync_parent` succeed and promise nothing.
#[derive(Clone)]
pub(crate) struct MemoryVolume {
    path: PathBuf,
    /// What the names of this directory begin with, seen from the topmost: nothing, or `below/`.
    prefix: String,
    disk: Arc<Disk>,
    tree: Arc<Mutex<Tree>>,
}

/// Everything below the topmost directory, by its path from there.
#[derive(Default)]
struct Tree {
    files: BTreeMap<String, Arc<MemoryFile>>,
    directories: BTreeSet<String>,
}

/// What all files of a volume share: the room that is left.
struct Disk {
    free_bytes: Mutex<u64>,
    can_share: bool,
}

struct MemoryFile {
    disk: Arc<Disk>,
    content: Mutex<Content>,
    holders: Mutex<Holders>,
}

#[derive(Clone)]
struct Content {
    len_bytes: u64,
    /// Bytes taken from the disk's room, in whole pages.
    allocated_bytes: u64,
    allocation: Allocation,
    pages: BTreeMap<u64, Arc<[u8; PAGE_BYTES]>>,
}

enum Holders {
    Shared(usize),
    Exclusive,
}

impl MemoryVolume {
    /// Makes an empty volume without a limit; `path` is for messages only.
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        Self::with_capacity(path, u64::MAX)
    }

    /// Makes an empty volume that runs full after `capacity_bytes` in pages of 4096.
    pub(crate) fn with_capacity(path: impl Into<PathBuf>, capacity_bytes: u64) -> Self {
        Self::with_disk(path.into(), Disk { free_bytes: Mutex::new(capacity_bytes), can_share: false })
    }

    /// As [`with_capacity`](Self::with_capacity); its files can share bytes, and take room all the same.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn with_sharing(path: impl Into<PathBuf>, capacity_bytes: u64) -> Self {
        Self::with_disk(path.into(), Disk { free_bytes: Mutex::new(capacity_bytes), can_share: true })
    }

    fn with_disk(path: PathBuf, disk: Disk) -> Self {
        Self { path, prefix: String::new(), disk: Arc::new(disk), tree: Arc::default() }
    }

    /// Makes another volume with the same files, which nobody has locked; from here on each goes its own way.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn copy(&self) -> Self {
        let disk = Disk { free_bytes: Mutex::new(u64::MAX), can_share: self.disk.can_share };
        let copy = Self::with_disk(self.path.clone(), disk);
        let tree = guard(&self.tree);
        for (name, file) in &tree.files {
            let content = guard(&file.content).clone();
            *guard(&copy.disk.free_bytes) -= content.allocated_bytes;
            guard(&copy.tree).files.insert(name.clone(), copy.file(content));
        }
        guard(&copy.tree).directories.clone_from(&tree.directories);
        drop(tree);
        copy
    }

    /// Gives a file another length, as no store does: what is cut off is gone, what is added reads as zeros.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn resize(&self, name: &str, len_bytes: u64) -> Result<()> {
        let file = self.find("resize", name)?;
        let mut content = guard(&file.content);
        content.len_bytes = len_bytes;
        content.pages.retain(|&number, _| number * SECTOR_BYTES < len_bytes);
        let within = usize::try_from(len_bytes % SECTOR_BYTES).unwrap_or(0);
        if let Some(last) = content.pages.get_mut(&(len_bytes / SECTOR_BYTES)) {
            Arc::make_mut(last)[within..].fill(0);
        }
        Ok(())
    }

    fn find(&self, action: &'static str, name: &str) -> Result<Arc<MemoryFile>> {
        let key = self.key(name)?;
        let tree = guard(&self.tree);
        let found = tree.files.get(&key).map(Arc::clone);
        let kind = if tree.directories.contains(&key) {
            io::ErrorKind::InvalidInput
        } else {
            io::ErrorKind::NotFound
        };
        found.ok_or_else(|| Error::io(action, self.path_of(name), kind.into()))
    }

    /// The path of a name from the topmost directory.
    fn key(&self, name: &str) -> Result<String> {
        check::name(self.path(), name)?;
        Ok(format!("{}{name}", self.prefix))
    }

    /// The directory with this path from the topmost one.
    fn below(&self, name: &str, key: &str) -> Self {
        Self { path: self.path.join(name), prefix: format!("{key}/"), ..self.clone() }
    }

    fn new_file(&self, name: &str, len_bytes: u64, allocation: Allocation) -> Result<Arc<MemoryFile>> {
        let path = self.path_of(name);
        let allocated_bytes = match allocation {
            Allocation::Full => len_bytes.checked_next_multiple_of(SECTOR_BYTES).unwrap_or(u64::MAX),
            Allocation::Sparse => 0,
        };
        self.disk.take(&path, allocated_bytes)?;
        Ok(self.file(Content { len_bytes, allocated_bytes, allocation, pages: BTreeMap::new() }))
    }

    fn file(&self, content: Content) -> Arc<MemoryFile> {
        Arc::new(MemoryFile {
            disk: Arc::clone(&self.disk),
            content: Mutex::new(content),
            holders: Mutex::new(Holders::Shared(0)),
        })
    }
}

/// Nothing below panics half way through a change, so that a poisoned lock still guards whole data.
fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Disk {
    fn take(&self, path: &Path, needed: u64) -> Result<()> {
        let mut free_bytes = guard(&self.free_bytes);
        match free_bytes.checked_sub(needed) {
            Some(rest) => {
                *free_bytes = rest;
                Ok(())
            }
            None => Err(Error::NoSpace { path: path.to_owned(), needed, free: *free_bytes }),
        }
    }
}

impl Volume for MemoryVolume {
    fn path(&self) -> &Path {
        &self.path
    }

    fn create(&self, name: &str, len_bytes: u64, allocation: Allocation) -> Result<()> {
        let key = self.key(name)?;
        let mut tree = guard(&self.tree);
        let is_gone = self.prefix.strip_suffix('/').is_some_and(|own| !tree.directories.contains(own));
        if is_gone {
            return Err(Error::io("create", self.path_of(name), io::ErrorKind::NotFound.into()));
        }
        if tree.files.contains_key(&key) || tree.directories.contains(&key) {
            return Err(Error::AlreadyExists { path: self.path_of(name) });
        }
        tree.files.insert(key, self.new_file(name, len_bytes, allocation)?);
        Ok(())
    }

    fn open(&self, name: &str, access: Access, caching: Caching) -> Result<Arc<dyn Segment>> {
        let file = self.find("open", name)?;
        Ok(Arc::new(MemorySegment { path: self.path_of(name), file, access, caching }))
    }

    fn list(&self) -> Result<Vec<String>> {
        let tree = guard(&self.tree);
        let within =
            tree.files.keys().chain(&tree.directories).filter_map(|key| key.strip_prefix(&self.prefix));
        let mut names: Vec<_> = within.filter(|name| !name.contains('/')).map(str::to_owned).collect();
        names.sort_unstable();
        Ok(names)
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.find("remove", name)?;
        guard(&self.tree).files.remove(&self.key(name)?);
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        let (from_key, to_key) = (self.key(from)?, self.key(to)?);
        let file = self.find("rename", from)?;
        let mut tree = guard(&self.tree);
        tree.files.remove(&from_key);
        tree.files.insert(to_key, file);
        Ok(())
    }

    fn sync_dir(&self, _barrier: Barrier) -> Result<()> {
        Ok(())
    }

    fn sync_parent(&self, _barrier: Barrier) -> Result<()> {
        Ok(())
    }

    fn subvolume(&self, name: &str) -> Result<Option<Arc<dyn Volume>>> {
        let key = self.key(name)?;
        let tree = guard(&self.tree);
        if tree.directories.contains(&key) {
            return Ok(Some(Arc::new(self.below(name, &key))));
        }
        if tree.files.contains_key(&key) {
            let kind = io::ErrorKind::NotADirectory;
            return Err(Error::io("open the directory", self.path_of(name), kind.into()));
        }
        Ok(None)
    }

    fn create_subvolume(&self, name: &str) -> Result<Arc<dyn Volume>> {
        let key = self.key(name)?;
        let mut tree = guard(&self.tree);
        if tree.files.contains_key(&key) || tree.directories.contains(&key) {
            return Err(Error::AlreadyExists { path: self.path_of(name) });
        }
        tree.directories.insert(key.clone());
        Ok(Arc::new(self.below(name, &key)))
    }

    fn remove_subvolume(&self, name: &str) -> Result<()> {
        let key = self.key(name)?;
        let mut tree = guard(&self.tree);
        let failed = |kind: io::ErrorKind| Error::io("remove the directory", self.path_of(name), kind.into());
        if !tree.directories.contains(&key) {
            return Err(failed(io::ErrorKind::NotFound));
        }
        let inside = format!("{key}/");
        if tree.files.keys().chain(&tree.directories).any(|other| other.starts_with(&inside)) {
            return Err(failed(io::ErrorKind::DirectoryNotEmpty));
        }
        tree.directories.remove(&key);
        Ok(())
    }

    fn can_share(&self) -> bool {
        self.disk.can_share
    }

    fn free_bytes(&self) -> Result<u64> {
        Ok(*guard(&self.disk.free_bytes))
    }

    fn try_lock(&self, name: &str, kind: LockKind) -> Result<Option<Box<dyn Lock>>> {
        let key = self.key(name)?;
        if kind == LockKind::Exclusive && !guard(&self.tree).files.contains_key(&key) {
            match self.create(name, LOCK_FILE_BYTES, Allocation::Sparse) {
                Ok(()) | Err(Error::AlreadyExists { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let file = self.find("lock", name)?;
        let mut holders = guard(&file.holders);
        *holders = match (kind, &*holders) {
            (LockKind::Exclusive, Holders::Shared(0)) => Holders::Exclusive,
            (LockKind::Shared, Holders::Shared(count)) => Holders::Shared(count + 1),
            _ => return Ok(None),
        };
        drop(holders);
        if kind == LockKind::Exclusive {
            let mut content = guard(&file.content);
            content.len_bytes = content.len_bytes.max(LOCK_FILE_BYTES);
        }
        Ok(Some(Box::new(MemoryLock { file })))
    }
}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        let content = self.content.get_mut().unwrap_or_else(PoisonError::into_inner);
        *guard(&self.disk.free_bytes) += content.allocated_bytes;
    }
}

struct MemoryLock {
    file: Arc<MemoryFile>,
}

impl Lock for MemoryLock {}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        let mut holders = guard(&self.file.holders);
        *holders = match *holders {
            Holders::Shared(count) => Holders::Shared(count.saturating_sub(1)),
            Holders::Exclusive => Holders::Shared(0),
        };
    }
}

struct MemorySegment {
    path: PathBuf,
    file: Arc<MemoryFile>,
    access: Access,
    caching: Caching,
}

impl MemorySegment {
    fn check(&self, action: &'static str, buffer: &[u8], offset: u64, file_bytes: u64) -> Result<()> {
        check::inside(action, &self.path, offset, buffer.len(), file_bytes)?;
        match self.caching {
            Caching::Direct => check::aligned(action, &self.path, offset, buffer),
            Caching::Cached => Ok(()),
        }
    }
}

/// Cuts a range into the parts that lie in one page each: page number, range in the page, range in the buffer.
fn pages_of(
    offset: u64,
    len_bytes: usize,
) -> impl Iterator<Item = (u64, std::ops::Range<usize>, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len_bytes {
            return None;
        }
        let at = offset + done as u64;
        let start = usize::try_from(at % SECTOR_BYTES).unwrap_or(0);
        let count = (PAGE_BYTES - start).min(len_bytes - done);
        let part = (at / SECTOR_BYTES, start..start + count, done..done + count);
        done += count;
        Some(part)
    })
}

impl Segment for MemorySegment {
    fn path(&self) -> &Path {
        &self.path
    }

    fn is_direct(&self) -> bool {
        false
    }

    fn len_bytes(&self) -> Result<u64> {
        Ok(guard(&self.file.content).len_bytes)
    }

    fn allocated_bytes(&self) -> Result<u64> {
        Ok(guard(&self.file.content).allocated_bytes)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let content = guard(&self.file.content);
        self.check("read", buffer, offset, content.len_bytes)?;
        for (number, in_page, in_buffer) in pages_of(offset, buffer.len()) {
            match content.pages.get(&number) {
                Some(page) => buffer[in_buffer].copy_from_slice(&page[in_page]),
                None => buffer[in_buffer].fill(0),
            }
        }
        Ok(())
    }

    fn write_at(&self, buffer: &[u8], offset: u64) -> Result<()> {
        if self.access == Access::Read {
            return Err(Error::ReadOnly { action: "write" });
        }
        let mut content = guard(&self.file.content);
        self.check("write", buffer, offset, content.len_bytes)?;
        let content = &mut *content;
        for (number, in_page, in_buffer) in pages_of(offset, buffer.len()) {
            if content.allocation == Allocation::Sparse && !content.pages.contains_key(&number) {
                self.file.disk.take(&self.path, SECTOR_BYTES)?;
                content.allocated_bytes += SECTOR_BYTES;
            }
            let page = content.pages.entry(number).or_insert_with(|| Arc::new([0; PAGE_BYTES]));
            Arc::make_mut(page)[in_page].copy_from_slice(&buffer[in_buffer]);
        }
        Ok(())
    }

    /// Copies, page by page, what is not zero.
    fn share_from(&self, source: &dyn Segment) -> Result<bool> {
        let len_bytes = self.len_bytes()?;
        check::same_length(&self.path, len_bytes, source)?;
        if self.access == Access::Read {
            return Err(Error::ReadOnly { action: "write" });
        }
        if !self.file.disk.can_share {
            return Ok(false);
        }
        share_pages(self, source, len_bytes)?;
        Ok(true)
    }

    fn punch(&self, offset: u64, len_bytes: u64) -> Result<()> {
        if self.access == Access::Read {
            return Err(Error::ReadOnly { action: "write" });
        }
        let mut content = guard(&self.file.content);
        check::hole(&self.path, offset, len_bytes, content.len_bytes)?;
        let range = offset / SECTOR_BYTES..(offset + len_bytes) / SECTOR_BYTES;
        let before = content.pages.len();
        content.pages.retain(|number, _| !range.contains(number));
        if content.allocation == Allocation::Sparse {
            let given = (before - content.pages.len()) as u64 * SECTOR_BYTES;
            content.allocated_bytes -= given;
            *guard(&self.file.disk.free_bytes) += given;
        }
        Ok(())
    }

    fn sync(&self, _barrier: Barrier) -> Result<()> {
        Ok(())
    }

    /// A copy, as constant as the contract asks: what is mapped is not written.
    fn map(&self, offset: u64, len_bytes: usize) -> Result<Box<dyn Mapped>> {
        check::map_offset(&self.path, offset)?;
        check::inside("map", &self.path, offset, len_bytes, self.len_bytes()?)?;
        let mut buffer = Buffer::new(len_bytes)?;
        let content = guard(&self.file.content);
        for (number, in_page, in_buffer) in pages_of(offset, len_bytes) {
            if let Some(page) = content.pages.get(&number) {
                buffer[in_buffer].copy_from_slice(&page[in_page]);
            }
        }
        Ok(Box::new(buffer))
    }
}

/// What sharing comes to where every file has its own pages: the pages that are not zero, through the target's own
/// writes.
pub(super) fn share_pages(target: &dyn Segment, source: &dyn Segment, len_bytes: u64) -> Result<()> {
    let mut offset = 0;
    // Aligned, for files that were opened for direct transfers.
    let mut page = Buffer::new(PAGE_BYTES)?;
    while offset < len_bytes {
        let count = usize::try_from(len_bytes - offset).map_or(PAGE_BYTES, |left| left.min(PAGE_BYTES));
        let part = &mut page[..count];
        source.read_at(part, offset)?;
        if part.iter().any(|&byte| byte != 0) {
            target.write_at(part, offset)?;
        }
        offset += SECTOR_BYTES;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clone_sees_the_same_files() {
        let volume = MemoryVolume::new("volume");
        let other = volume.clone();
        volume.create("a", 8192, Allocation::Full).unwrap();
        volume.open("a", Access::Write, Caching::Cached).unwrap().write_at(b"shared", 4090).unwrap();
        let mut bytes = [0; 6];
        other.open("a", Access::Read, Caching::Cached).unwrap().read_at(&mut bytes, 4090).unwrap();
        assert_eq!(&bytes, b"shared");
    }

    #[test]
    fn copy_goes_its_own_way_in_bytes_lengths_and_locks() {
        let volume = MemoryVolume::new("volume");
        volume.create("a", 8192, Allocation::Full).unwrap();
        volume.open("a", Access::Write, Caching::Cached).unwrap().write_at(&[7; 8192], 0).unwrap();
        let lock = volume.try_lock("a", LockKind::Exclusive).unwrap();
        let copy = volume.copy();
        copy.open("a", Access::Write, Caching::Cached).unwrap().write_at(b"copy", 0).unwrap();
        copy.resize("a", 4100).unwrap();
        copy.resize("a", 8192).unwrap();
        assert!(lock.is_some() && copy.try_lock("a", LockKind::Exclusive).unwrap().is_some());
        let read = |volume: &MemoryVolume| {
            let mut bytes = [0; 8192];
            volume.open("a", Access::Read, Caching::Cached).unwrap().read_at(&mut bytes, 0).unwrap();
            bytes
        };
        assert_eq!(read(&volume), [7; 8192]);
        let (bytes, tail) = (read(&copy), [7, 7, 7, 7, 0, 0]);
        assert_eq!((&bytes[..6], &bytes[4096..4102], bytes[8191]), (&b"copy\x07\x07"[..], &tail[..], 0));
    }

    #[test]
    fn sparse_file_of_an_exabyte_takes_the_pages_that_were_written() {
        let volume = MemoryVolume::new("volume");
        volume.create("giant", 1 << 60, Allocation::Sparse).unwrap();
        let segment = volume.open("giant", Access::Write, Caching::Cached).unwrap();
        segment.write_at(b"end", (1 << 60) - 3).unwrap();
        assert_eq!(segment.allocated_bytes().unwrap(), 4096);
    }

    #[test]
    fn write_to_a_sparse_file_on_a_full_disk_is_no_space() {
        let volume = MemoryVolume::with_capacity("volume", 2 * 4096);
        volume.create("a", 1 << 20, Allocation::Sparse).unwrap();
        let segment = volume.open("a", Access::Write, Caching::Cached).unwrap();
        segment.write_at(&[1; 8192], 0).unwrap();
        segment.write_at(&[2; 8192], 0).unwrap();
        let error = segment.write_at(&[1; 1], 8192).unwrap_err();
        assert!(matches!(error, Error::NoSpace { needed: 4096, free: 0, .. }), "{error}");
    }

    #[test]
    fn room_of_a_removed_file_comes_back_when_its_last_handle_goes() {
        let volume = MemoryVolume::with_capacity("volume", 4 * 4096);
        volume.create("a", 3 * 4096, Allocation::Full).unwrap();
        let segment = volume.open("a", Access::Read, Caching::Cached).unwrap();
        volume.remove("a").unwrap();
        assert_eq!(volume.free_bytes().unwrap(), 4096);
        drop(segment);
        assert_eq!(volume.free_bytes().unwrap(), 4 * 4096);
    }
}
