//! The places at which the store waits until something is durable, by name.
//!
//! The tests of `simulation` leave out each of them in turn on a simulated disk, and have to notice.

use crate::storage::Barrier;

/// `create`: the absence of what an interrupted `create` left, before the name goes that tells what it was.
pub(crate) const CREATE_CLEARED: Barrier = Barrier("create: cleared");
/// `create`: the name `meta.new`, before there are names that only mean something beside it.
pub(crate) const CREATE_BEGUN: Barrier = Barrier("create: begun");
/// `create`: the length of the progress file, which no later write makes longer.
pub(crate) const CREATE_PROGRESS: Barrier = Barrier("create: progress file");
/// `create`: a segment's length and blocks, before any metadata names it.
pub(crate) const CREATE_SEGMENT: Barrier = Barrier("create: segment");
/// `create`: directory, record and first superblock, before they get the name `meta`.
pub(crate) const CREATE_META: Barrier = Barrier("create: metadata");
/// `create`: the names of all files, before `meta` is among them.
pub(crate) const CREATE_NAMES: Barrier = Barrier("create: names");
/// `commit`: blocks, before a superblock names them.
pub(crate) const COMMIT_SEGMENT: Barrier = Barrier("commit: segment");
/// `commit`: record and table, before a superblock names them.
pub(crate) const COMMIT_META: Barrier = Barrier("commit: table and record");
/// `commit`: the superblock, before the commit is said to be done.
pub(crate) const COMMIT_SUPERBLOCK: Barrier = Barrier("commit: superblock");
/// `open`: the superblock that was found, before anything is written that relies on it.
pub(crate) const OPEN_SUPERBLOCK: Barrier = Barrier("open: superblock");

/// `open`: the names that were found, `meta` above all, which `create` leaves to the `open` that follows it.
pub(crate) const OPEN_NAMES: Barrier = Barrier("open: names");
/// `open`: the name of the store's own directory, which `create` leaves to the `open` that follows it, too.
pub(crate) const OPEN_DIRECTORY: Barrier = Barrier("open: directory");
/// `drop_newest`: the newest superblock with older content, before that is said to be in force.
pub(crate) const DROP_SUPERBLOCK: Barrier = Barrier("drop: superblock");

/// `keep`: the name `meta.new`, before there are names that only mean something beside it.
pub(crate) const KEEP_BEGUN: Barrier = Barrier("keep: begun");
/// `keep`: a segment's length and blocks, before any metadata names it.
pub(crate) const KEEP_SEGMENT: Barrier = Barrier("keep: segment");
/// `keep`: all metadata, before it gets the name `meta`.
pub(crate) const KEEP_META: Barrier = Barrier("keep: metadata");
/// `keep`: the names of all files, before `meta` is among them.
pub(crate) const KEEP_NAMES: Barrier = Barrier("keep: names");
/// `keep`: the name of the checkpoint's directory, before the checkpoint is said to be kept.
pub(crate) const KEEP_DIRECTORY: Barrier = Barrier("keep: directory");
/// `keep`: the name of the directory of all checkpoints, before any is said to be kept.
pub(crate) const KEEP_CHECKPOINTS: Barrier = Barrier("keep: checkpoints");
/// `keep`: the name `meta`, before the checkpoint is said to be kept.
pub(crate) const KEEP_DONE: Barrier = Barrier("keep: done");
/// `prune`, and `keep` over what is left of another: the absence of `meta`, before anything that it names goes.
pub(crate) const PRUNE_BEGUN: Barrier = Barrier("prune: begun");
/// The same: the absence of all else, before the name goes that tells what it was.
pub(crate) const PRUNE_CLEARED: Barrier = Barrier("prune: cleared");
/// `prune`: the absence of the directory, before it is said to be gone.
pub(crate) const PRUNE_DONE: Barrier = Barrier("prune: done");

/// All of them.
#[cfg(any(test, feature = "simulation"))]
pub(crate) const ALL: &[Barrier] = &[
    CREATE_CLEARED,
    CREATE_BEGUN,
    CREATE_PROGRESS,
    CREATE_SEGMENT,
    CREATE_META,
    CREATE_NAMES,
    COMMIT_SEGMENT,
    COMMIT_META,
    COMMIT_SUPERBLOCK,
    OPEN_SUPERBLOCK,
    OPEN_NAMES,
    OPEN_DIRECTORY,
    KEEP_BEGUN,
    KEEP_SEGMENT,
    KEEP_META,
    KEEP_NAMES,
    KEEP_DIRECTORY,
    KEEP_CHECKPOINTS,
    KEEP_DONE,
    PRUNE_BEGUN,
    PRUNE_CLEARED,
    PRUNE_DONE,
    DROP_SUPERBLOCK,
];
