//! Kept checkpoints: a generation as a store of its own, in a directory of the store's.
//!
//! A checkpoint is there as soon as its `meta` is, and what stands beside that name was durable before. So `keep` and
//! `prune` are what `create` is: everything else first and last, the name in between.

mod back;
mod copy;
mod list;
mod make;

pub(crate) use back::BackCost;
pub(crate) use list::{Checkpoint, CheckpointState, checkpoints, open_checkpoint, prune};

use std::sync::Arc;

use super::{BlockStore, Visit, Walk, decode_error, entries_of_leaf};
use crate::error::{Error, Result};
use crate::format::page::{BlockEntry, Page};
use crate::format::{
    CHECKPOINTS_DIRECTORY, LOCK_FILE, META_FILE, META_NEW_FILE, is_checkpoint_name, is_store_file,
};
use crate::layout::{BlockPlace, block_of_slot, block_place, describe_block};
use crate::storage::{Buffer, Lock, LockKind, Volume};
use crate::units::{SlotIndex, to_u64};

/// What the copying of blocks needs: memory, threads, and somebody to tell how far it is.
pub(crate) struct Work<'a> {
    /// Each holds at least the largest plane of a block; there is one or more.
    pub(crate) buffers: Vec<Buffer>,
    /// 0: everything happens in the caller's thread.
    pub(crate) threads: usize,
    /// Is told the bytes of blocks that are done.
    pub(crate) progress: &'a mut dyn FnMut(u64),
}

/// Shows each batch of the committed generation's log of rows, checked, by its offset in the log and its bytes.
pub(crate) type EachBatch = fn(&mut BlockStore, take: &mut dyn FnMut(u64, &[u8]) -> Result<()>) -> Result<()>;

/// A plane of a block that some generation wrote.
#[derive(Debug, Clone, Copy)]
struct Plane {
    slot: SlotIndex,
    entry: BlockEntry,
    place: BlockPlace,
}

/// A page of the table: where it stands in the metadata file, and of a leaf the first entry.
struct TablePage {
    offset: u64,
    page: Page,
    first: Option<SlotIndex>,
}

impl BlockStore {
    /// The pages of the committed generation's table that were ever written, each before those below it.
    fn pages(&self) -> impl Iterator<Item = Result<TablePage>> + use<> {
        let walk = Walk::new(Arc::clone(&self.meta), &self.committed, SlotIndex(0));
        walk.into_iter().flatten().map(|visit| match visit {
            Visit::Damaged { error, .. } => Err(error),
            Visit::Inner { offset, page, .. } => Ok(TablePage { offset, page, first: None }),
            Visit::Leaf { offset, page, first, .. } => Ok(TablePage { offset, page, first: Some(first) }),
        })
    }

    /// The planes of blocks that a leaf says were written, in table order: within each file, ascending.
    fn planes_of(&self, page: &TablePage) -> Result<Vec<Plane>> {
        let tensors = to_u64(self.directory.tensors.len());
        let mut planes = Vec::new();
        let entries =
            page.first.into_iter().flat_map(|first| entries_of_leaf(first, self.committed.table_slots));
        for (slot, place) in entries.filter(|(slot, _)| slot.0 >= tensors) {
            let entry = page.page.block(place);
            let entry = entry.map_err(|e| decode_error(self.meta.path(), page.offset, e))?;
            if entry.generation > 0 {
                planes.push(self.plane(slot, entry)?);
            }
        }
        Ok(planes)
    }

    fn plane(&self, slot: SlotIndex, entry: BlockEntry) -> Result<Plane> {
        let generation = self.committed.generation;
        if entry.generation > generation {
            let (got, expected) =
                (format!("generation {}", entry.generation), format!("at most {generation}"));
            return Err(Error::damaged(self.meta.path(), self.what(slot), (0, 0), got, expected));
        }
        let place = block_of_slot(&self.directory, slot)
            .and_then(|(at, block, plane)| block_place(self.directory.extents.get(at)?, block, plane));
        let place = place.ok_or_else(|| Error::invalid("entry of the table", slot.0, "that of a block"))?;
        Ok(Plane { slot, entry, place })
    }

    /// What stands at an entry of the table, in words.
    fn what(&self, slot: SlotIndex) -> String {
        match block_of_slot(&self.directory, slot) {
            Some((_, block, plane)) => describe_block(&self.directory, block, plane),
            None => format!("entry {} of the table", slot.0),
        }
    }

    fn wrong_checksum(&self, path: &std::path::Path, plane: &Plane, got: u32) -> Error {
        let range = (plane.place.offset, to_u64(plane.place.bytes));
        let (got, expected) = (format!("checksum {got:08x}"), format!("{:08x}", plane.entry.crc));
        Error::damaged(path, self.what(plane.slot), range, got, expected)
    }
}

fn check_name(name: &str) -> Result<()> {
    if is_checkpoint_name(name) {
        return Ok(());
    }
    let expected = "1 to 64 of A-Z a-z 0-9 . _ - without . or - in front, and not \"lock\"";
    Err(Error::invalid("name of a checkpoint", format!("{name:?}"), expected))
}

/// What a directory below `checkpoints` is, by its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Has a `meta`.
    Kept,
    /// What an interrupted `keep` or `prune` left.
    Unfinished,
    /// Neither; not ours to remove.
    Foreign,
}

fn judge(names: &[String]) -> Kind {
    let has = |wanted: &str| names.iter().any(|name| name == wanted);
    if has(META_FILE) {
        Kind::Kept
    } else if names.is_empty() || (has(META_NEW_FILE) && names.iter().all(|name| is_store_file(name))) {
        Kind::Unfinished
    } else {
        Kind::Foreign
    }
}

fn foreign(volume: &Arc<dyn Volume>) -> Error {
    let reason = "it has neither `meta` nor `meta.new`, so it is no checkpoint and not touched; look at its files, and \
                  move them away";
    Error::NotAStore { path: volume.path().to_owned(), reason: reason.to_owned() }
}

/// The directory of all checkpoints, if there is one.
fn directory_of(volume: &Arc<dyn Volume>) -> Result<Option<Arc<dyn Volume>>> {
    volume.subvolume(CHECKPOINTS_DIRECTORY)
}

/// Lets one process at a time make and remove checkpoints.
fn lock(directory: &Arc<dyn Volume>) -> Result<Box<dyn Lock>> {
    let holder = || Some("another process that keeps or prunes a checkpoint".to_owned());
    directory
        .try_lock(LOCK_FILE, LockKind::Exclusive)?
        .ok_or_else(|| Error::Locked { path: directory.path().to_owned(), holder: holder() })
}
