//! Which checkpoints there are, and their end.

use std::io::ErrorKind;
use std::sync::Arc;

use super::{Kind, check_name, directory_of, foreign, judge, lock};
use crate::error::{Error, Result};
use crate::format::superblock::{RO_COMPAT_KEPT, Superblock};
use crate::format::{META_FILE, META_NEW_FILE, is_checkpoint_name};
use crate::storage::{Access, Caching, Volume};
use crate::store::open::{no_superblock, open_meta, read_slots};
use crate::store::{BlockStore, Generation, barriers};

/// What stands below `checkpoints` under one name.
pub(crate) struct Checkpoint {
    pub(crate) name: String,
    pub(crate) state: CheckpointState,
    /// Bytes that the file system has allocated for its files, shared ones among them.
    pub(crate) allocated_bytes: u64,
}

pub(crate) enum CheckpointState {
    Kept(Box<Superblock>),
    /// What an interrupted `keep` or `prune` left, or one that is under way.
    Unfinished,
    /// Why it cannot be used.
    Damaged(String),
}

/// The checkpoints of a store, by name. Takes no lock and changes nothing.
pub(crate) fn checkpoints(volume: &Arc<dyn Volume>) -> Result<Vec<Checkpoint>> {
    let Some(all) = directory_of(volume)? else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for name in all.list()?.into_iter().filter(|name| is_checkpoint_name(name)) {
        let checkpoint = match all.subvolume(&name) {
            Ok(Some(checkpoint)) => checkpoint,
            // One that has just gone is gone; what is no directory is none of ours.
            Ok(None) => continue,
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotADirectory => continue,
            Err(error) => return Err(error),
        };
        let names = checkpoint.list()?;
        let mut allocated_bytes = 0;
        for file in &names {
            if let Ok(file) = checkpoint.open(file, Access::Read, Caching::Cached) {
                allocated_bytes += file.allocated_bytes()?;
            }
        }
        let state = match judge(&names) {
            Kind::Unfinished => CheckpointState::Unfinished,
            Kind::Foreign => CheckpointState::Damaged(foreign(&checkpoint).to_string()),
            Kind::Kept => match superblock(&checkpoint) {
                Ok(superblock) => CheckpointState::Kept(Box::new(superblock)),
                Err(error @ (Error::Damaged(_) | Error::Unsupported { .. } | Error::NotAStore { .. })) => {
                    CheckpointState::Damaged(error.to_string())
                }
                Err(error) => return Err(error),
            },
        };
        found.push(Checkpoint { name, state, allocated_bytes });
    }
    Ok(found)
}

fn superblock(checkpoint: &Arc<dyn Volume>) -> Result<Superblock> {
    let (slots, candidates) = read_slots(&open_meta(checkpoint, Access::Read)?)?;
    let Some((superblock, _)) = candidates.into_iter().next() else {
        return Err(no_superblock(checkpoint, &slots));
    };
    if superblock.ro_compat & RO_COMPAT_KEPT == 0 {
        let reason = "it is a store and no kept checkpoint".to_owned();
        return Err(Error::NotAStore { path: checkpoint.path().to_owned(), reason });
    }
    Ok(superblock)
}

fn unknown(name: &str) -> Error {
    Error::Unknown { kind: "checkpoint", name: name.to_owned() }
}

/// Opens a checkpoint of a store for reading.
pub(crate) fn open_checkpoint(volume: &Arc<dyn Volume>, name: &str) -> Result<BlockStore> {
    check_name(name)?;
    let all = directory_of(volume)?.ok_or_else(|| unknown(name))?;
    let checkpoint = all.subvolume(name)?.ok_or_else(|| unknown(name))?;
    match judge(&checkpoint.list()?) {
        Kind::Kept => {
            superblock(&checkpoint).and_then(|_| BlockStore::open_reader(checkpoint, Generation::Newest))
        }
        Kind::Unfinished => Err(unknown(name)),
        Kind::Foreign => Err(foreign(&checkpoint)),
    }
}

/// Removes a checkpoint, or what is left of one.
pub(crate) fn prune(volume: &Arc<dyn Volume>, name: &str) -> Result<()> {
    check_name(name)?;
    let all = directory_of(volume)?.ok_or_else(|| unknown(name))?;
    let _lock = lock(&all)?;
    let checkpoint = all.subvolume(name)?.ok_or_else(|| unknown(name))?;
    match judge(&checkpoint.list()?) {
        Kind::Kept => checkpoint.rename(META_FILE, META_NEW_FILE)?,
        Kind::Unfinished => {}
        Kind::Foreign => return Err(foreign(&checkpoint)),
    }
    clear(&checkpoint)?;
    drop(checkpoint);
    all.remove_subvolume(name)?;
    all.sync_dir(barriers::PRUNE_DONE)
}

/// Empties the directory of what has no `meta` any more.
///
/// First it has to be certain that `meta` will not come back, and at the end that nothing of what goes will come back
/// without `meta.new`, which tells what it was.
pub(super) fn clear(checkpoint: &Arc<dyn Volume>) -> Result<()> {
    let names = checkpoint.list()?;
    if names.is_empty() {
        return Ok(());
    }
    checkpoint.sync_dir(barriers::PRUNE_BEGUN)?;
    for name in names.iter().filter(|name| *name != META_NEW_FILE) {
        checkpoint.remove(name)?;
    }
    checkpoint.sync_dir(barriers::PRUNE_CLEARED)?;
    checkpoint.remove(META_NEW_FILE)
}
