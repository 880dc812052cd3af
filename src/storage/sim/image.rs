//! A disk as it is found when the power comes back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::disk::parent;
use crate::error::Result;
use crate::storage::{Access, Allocation, Caching, Volume};

/// Bytes that are written back together by a page cache.
pub(super) const PAGE_BYTES: usize = 4096;

/// The bytes of a page.
pub(super) type Bytes = [u8; PAGE_BYTES];

/// The files of a directory and those below it, by path, and what is in them; pages are shared between images, and those of zeros left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Image {
    /// Whether the directory itself is there; where it is not, the program that comes next makes it anew.
    pub(super) is_linked: bool,
    pub(super) files: BTreeMap<String, Content>,
    pub(super) directories: BTreeSet<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) len_bytes: u64,
    pub(super) pages: BTreeMap<u64, Arc<Bytes>>,
}

impl Image {
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// Makes the files in an empty directory.
    pub(super) fn write_to(&self, top: &Arc<dyn Volume>) -> Result<()> {
        let mut directories = BTreeMap::from([("", Arc::clone(top))]);
        for path in &self.directories {
            let above = directories.get(parent(path)).unwrap_or(top);
            let made = above.create_subvolume(last(path))?;
            directories.insert(path, made);
        }
        for (path, content) in &self.files {
            let volume = directories.get(parent(path)).unwrap_or(top);
            let name = last(path);
            volume.create(name, content.len_bytes, Allocation::Sparse)?;
            let file = volume.open(name, Access::Write, Caching::Cached)?;
            for (&number, page) in &content.pages {
                let offset = number * PAGE_BYTES as u64;
                let left = content.len_bytes.saturating_sub(offset);
                let len = usize::try_from(left).map_or(PAGE_BYTES, |left| left.min(PAGE_BYTES));
                file.write_at(page.get(..len).unwrap_or_default(), offset)?;
            }
        }
        Ok(())
    }
}

/// The last part of a path.
fn last(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}
