//! What is certain about a disk after a list of events, and what is not.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::event::{DirectoryId, Event, FileId};
use super::image::{Bytes, Image, PAGE_BYTES};

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    File(FileId),
    Directory(DirectoryId),
}

/// Names, each in its directory. A directory that has lost its own name keeps them, and nobody comes to it.
pub(super) type Names = BTreeMap<(DirectoryId, String), Entry>;

/// The durable state of a directory and those below it, and everything done since that the medium may have or not.
#[derive(Clone)]
pub(crate) struct Disk {
    pub(super) files: Vec<File>,
    /// Durable names.
    pub(super) names: Names,
    /// Changes of names since they were last made durable, oldest first.
    pub(super) changes: Vec<Change>,
    /// Whether the directory itself is sure to be found.
    pub(super) is_linked: bool,
}

#[derive(Clone, Default)]
pub(super) struct File {
    /// The name it was first known by, for messages.
    pub(super) name: String,
    /// The length that is sure, and the one that a program sees.
    pub(super) durable_len: u64,
    pub(super) len: u64,
    pub(super) pages: BTreeMap<u64, Page>,
}

/// A page of a file.
#[derive(Clone, Default)]
pub(super) struct Page {
    /// What is sure to be there if nothing of `writes` came through; zeros if `None`.
    pub(super) durable: Option<Arc<Bytes>>,
    /// What may be there instead, oldest first.
    pub(super) writes: Vec<Write>,
    /// Whether the page cache holds the last write to be clean, so that a sync passes it by.
    is_clean: bool,
}

/// A write's part in one page.
#[derive(Clone)]
pub(super) struct Write {
    pub(super) start: usize,
    data: Arc<[u8]>,
    from: usize,
    len: usize,
}

#[derive(Clone)]
pub(super) enum Change {
    Link { directory: DirectoryId, name: String, entry: Entry },
    Unlink { directory: DirectoryId, name: String },
    Rename { directory: DirectoryId, from: String, to: String, file: FileId },
}

impl Write {
    pub(super) fn bytes(&self) -> &[u8] {
        self.data.get(self.from..self.from + self.len).unwrap_or_default()
    }

    pub(super) fn end(&self) -> usize {
        self.start + self.len
    }

    pub(super) fn apply(&self, page: &mut Bytes) {
        if let Some(target) = page.get_mut(self.start..self.end()) {
            target.copy_from_slice(self.bytes());
        }
    }
}

impl Page {
    pub(super) fn durable_bytes(&self) -> Bytes {
        self.durable.as_ref().map_or([0; PAGE_BYTES], |bytes| **bytes)
    }

    /// Makes the newest bytes the durable ones.
    fn settle(&mut self) {
        if self.writes.is_empty() || self.is_clean {
            return;
        }
        let mut bytes = self.durable_bytes();
        self.writes.drain(..).for_each(|write| write.apply(&mut bytes));
        self.durable = Some(Arc::new(bytes));
    }
}

impl Change {
    pub(super) fn apply(&self, names: &mut Names) {
        match self {
            Self::Link { directory, name, entry } => {
                names.insert((*directory, name.clone()), *entry);
            }
            Self::Unlink { directory, name } => {
                names.remove(&(*directory, name.clone()));
            }
            Self::Rename { directory, from, to, file } => {
                names.remove(&(*directory, from.clone()));
                names.insert((*directory, to.clone()), Entry::File(*file));
            }
        }
    }

    /// Whether it becomes durable when a directory is synced.
    fn is_in(&self, synced: DirectoryId) -> bool {
        match self {
            Self::Link { directory, .. }
            | Self::Unlink { directory, .. }
            | Self::Rename { directory, .. } => *directory == synced,
        }
    }

    /// Whether it makes or removes this name of a directory.
    fn is_of(&self, own_name: &str) -> bool {
        matches!(self, Self::Link { name, .. } | Self::Unlink { name, .. } if name == own_name)
    }

    /// The change in words that do not depend on what came before.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Link { name, .. } => format!("+{name}"),
            Self::Unlink { name, .. } => format!("-{name}"),
            Self::Rename { from, to, .. } => format!("{from}>{to}"),
        }
    }
}

impl Disk {
    /// A disk of which nothing is uncertain; without an image, an empty directory that was just made.
    pub(crate) fn new(image: Option<&Image>) -> Self {
        let mut disk = Self {
            files: Vec::new(),
            names: BTreeMap::new(),
            changes: Vec::new(),
            is_linked: image.is_some_and(|image| image.is_linked),
        };
        let mut above = BTreeMap::from([("", DirectoryId::TOP)]);
        for (number, path) in (1..).zip(image.iter().flat_map(|image| &image.directories)) {
            let made = DirectoryId(number);
            let directory = above.get(parent(path)).copied().unwrap_or(DirectoryId::TOP);
            above.insert(path, made);
            disk.names.insert((directory, path.clone()), Entry::Directory(made));
        }
        for (number, (name, content)) in (0..).zip(image.iter().flat_map(|image| &image.files)) {
            let directory = above.get(parent(name)).copied().unwrap_or(DirectoryId::TOP);
            disk.names.insert((directory, name.clone()), Entry::File(FileId(number)));
            let durable = |bytes: &Arc<Bytes>| Page { durable: Some(Arc::clone(bytes)), ..Page::default() };
            disk.files.push(File {
                name: name.clone(),
                durable_len: content.len_bytes,
                len: content.len_bytes,
                pages: content.pages.iter().map(|(&at, bytes)| (at, durable(bytes))).collect(),
            });
        }
        disk
    }

    /// Takes in what happened next.
    pub(crate) fn apply(&mut self, event: &Event) {
        match event {
            Event::Create { file, directory, name, len_bytes } => {
                let at = file.0 as usize;
                if self.files.len() <= at {
                    self.files.resize(at + 1, File::default());
                }
                if let Some(slot) = self.files.get_mut(at) {
                    *slot = File { name: name.clone(), len: *len_bytes, ..File::default() };
                }
                let entry = Entry::File(*file);
                self.changes.push(Change::Link { directory: *directory, name: name.clone(), entry });
            }
            Event::MakeDirectory { made, directory, name } => {
                let entry = Entry::Directory(*made);
                self.changes.push(Change::Link { directory: *directory, name: name.clone(), entry });
            }
            Event::Remove { directory, name } => {
                self.changes.push(Change::Unlink { directory: *directory, name: name.clone() });
            }
            Event::Rename { file, directory, from, to } => {
                let (from, to) = (from.clone(), to.clone());
                self.changes.push(Change::Rename { directory: *directory, from, to, file: *file });
            }
            Event::SyncDir { directory, .. } => self.settle(|change| change.is_in(*directory)),
            Event::SyncParent { directory: DirectoryId::TOP, .. } => self.is_linked = true,
            // More may come to a real disk with it: the other names beside this one.
            Event::SyncParent { name, .. } => self.settle(|change| change.is_of(name)),
            Event::Extend { file, .. }
            | Event::Write { file, .. }
            | Event::Sync { file, .. }
            | Event::LoseSync { file } => {
                if let Some(file) = self.files.get_mut(file.0 as usize) {
                    file.apply(event);
                }
            }
        }
    }

    /// Makes some changes of names durable.
    fn settle(&mut self, is_synced: impl Fn(&Change) -> bool) {
        self.changes.iter().filter(|change| is_synced(change)).for_each(|c| c.apply(&mut self.names));
        self.changes.retain(|change| !is_synced(change));
    }

    /// A file's first name.
    pub(crate) fn name_of(&self, file: FileId) -> String {
        self.files.get(file.0 as usize).map_or_else(|| "?".to_owned(), |file| file.name.clone())
    }
}

/// The path of the directory that holds a name: nothing for the topmost.
pub(super) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

impl File {
    fn apply(&mut self, event: &Event) {
        match event {
            Event::Extend { len_bytes, .. } => self.len = self.len.max(*len_bytes),
            Event::Write { offset, bytes, .. } => self.write(*offset, bytes),
            Event::Sync { .. } => {
                self.durable_len = self.len;
                self.pages.values_mut().for_each(Page::settle);
            }
            Event::LoseSync { .. } => self.pages.values_mut().for_each(|page| page.is_clean = true),
            _ => {}
        }
    }

    fn write(&mut self, offset: u64, data: &Arc<[u8]>) {
        let mut from = 0;
        while from < data.len() {
            let at = offset + from as u64;
            let start = usize::try_from(at % PAGE_BYTES as u64).unwrap_or(0);
            let len = (PAGE_BYTES - start).min(data.len() - from);
            let page = self.pages.entry(at / PAGE_BYTES as u64).or_default();
            page.is_clean = false;
            page.writes.push(Write { start, data: Arc::clone(data), from, len });
            from += len;
        }
    }
}
