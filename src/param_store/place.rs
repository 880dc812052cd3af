//! Where a store is made from something else: under another name, until it is whole.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::format::{LOCK_FILE, META_FILE, is_note_file, is_store_file};
use crate::storage::{Barrier, LockKind, RealVolume, Volume};

const LEFT_GONE: Barrier = Barrier("new store: the end of what was left");
const STORE_NAMED: Barrier = Barrier("new store: its name");

/// The place of a store that is being made. Dropped before it is published, it is cleared.
pub(crate) struct Place {
    parent: RealVolume,
    name: String,
    /// The name that it has meanwhile.
    unfinished_name: String,
    /// The directory in which the store is made.
    pub(crate) unfinished: PathBuf,
    is_published: bool,
}

impl Place {
    /// Takes a place where nothing is, or an empty directory. The store is made beside it, under a name that ends in `suffix`;
    /// what was interrupted and left there is removed.
    pub(crate) fn take(to: &Path, suffix: &str) -> Result<Self> {
        let (parent, name) = RealVolume::open_dir_for(to)?;
        if parent.list()?.contains(&name) {
            let is_empty = match parent.subvolume(&name) {
                Ok(Some(directory)) => directory.list()?.is_empty(),
                _ => false,
            };
            if !is_empty {
                return Err(Error::AlreadyExists { path: to.to_owned() });
            }
        }
        let unfinished_name = format!("{name}{suffix}");
        let unfinished = parent.path().join(&unfinished_name);
        let mut place = Self { parent, name, unfinished_name, unfinished, is_published: true };
        place.clear()?;
        place.is_published = false;
        Ok(place)
    }

    /// Removes what there is of a store that was not finished, and nothing else.
    fn clear(&self) -> Result<()> {
        let Some(left) = self.parent.subvolume(&self.unfinished_name)? else { return Ok(()) };
        let names = left.list()?;
        if !names.iter().all(|name| is_store_file(name) || is_note_file(name)) {
            let expected = "what was interrupted left, and nothing else";
            let what = format!("directory {}", self.unfinished.display());
            return Err(Error::invalid(what, "files that are no store's", expected));
        }
        let Some(_lock) = left.try_lock(LOCK_FILE, LockKind::Exclusive)? else {
            return Err(Error::Locked { path: self.unfinished.clone(), holder: None });
        };
        // Without `meta` it is no store, whatever comes back of the rest after a crash.
        if names.iter().any(|name| name == META_FILE) {
            left.remove(META_FILE)?;
            left.sync_dir(LEFT_GONE)?;
        }
        for name in left.list()?.iter().filter(|name| *name != LOCK_FILE) {
            left.remove(name)?;
        }
        left.remove(LOCK_FILE)?;
        self.parent.remove_subvolume(&self.unfinished_name)
    }

    /// Gives the store its name, for good when this returns.
    pub(crate) fn publish(mut self) -> Result<()> {
        self.parent.rename(&self.unfinished_name, &self.name)?;
        self.is_published = true;
        self.parent.sync_dir(STORE_NAMED)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.is_published {
            // On the way out of an error, which is what will be told.
            drop(self.clear());
        }
    }
}
