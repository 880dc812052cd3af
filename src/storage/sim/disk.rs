//! What is certain about a disk after a list of events, and what is not.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::event::{Event, FileId};
use super::image::{Bytes, Image, PAGE_BYTES};

/// The durable state of a directory, and everything done since that the medium may have or not.
#[derive(Clone)]
pub(crate) struct Disk {
    pub(super) files: Vec<File>,
    /// Durable names.
    pub(super) names: BTreeMap<String, FileId>,
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
    Link { name: String, file: FileId },
    Unlink { name: String },
    Rename { from: String, to: String, file: FileId },
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
    pub(super) fn apply(&self, names: &mut BTreeMap<String, FileId>) {
        match self {
            Self::Link { name, file } => drop(names.insert(name.clone(), *file)),
            Self::Unlink { name } => drop(names.remove(name)),
            Self::Rename { from, to, file } => {
                names.remove(from);
                names.insert(to.clone(), *file);
            }
        }
    }

    /// The change in words that do not depend on what came before.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Link { name, .. } => format!("+{name}"),
            Self::Unlink { name } => format!("-{name}"),
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
            is_linked: image.is_some(),
        };
        for (number, (name, content)) in (0..).zip(image.iter().flat_map(|image| &image.files)) {
            disk.names.insert(name.clone(), FileId(number));
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
            Event::Create { file, name, len_bytes } => {
                let at = file.0 as usize;
                if self.files.len() <= at {
                    self.files.resize(at + 1, File::default());
                }
                if let Some(slot) = self.files.get_mut(at) {
                    *slot = File { name: name.clone(), len: *len_bytes, ..File::default() };
                }
                self.changes.push(Change::Link { name: name.clone(), file: *file });
            }
            Event::Remove { name } => self.changes.push(Change::Unlink { name: name.clone() }),
            Event::Rename { file, from, to } => {
                self.changes.push(Change::Rename { from: from.clone(), to: to.clone(), file: *file });
            }
            Event::SyncDir { .. } => {
                self.is_linked = true;
                for change in self.changes.drain(..) {
                    change.apply(&mut self.names);
                }
            }
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

    /// A file's first name.
    pub(crate) fn name_of(&self, file: FileId) -> String {
        self.files.get(file.0 as usize).map_or_else(|| "?".to_owned(), |file| file.name.clone())
    }
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
