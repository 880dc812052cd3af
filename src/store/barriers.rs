//! The places at which the store waits until something is durable, by name.
//!
//! [`crate::tests`] leaves out each of them in turn on a simulated disk, and has to notice.

use crate::storage::Barrier;

/// `create`: a segment's length and blocks, before any metadata names it.
pub(crate) const CREATE_SEGMENT: Barrier = Barrier("create: segment");
/// `create`: directory, record and first superblock, before they get the name `meta`.
pub(crate) const CREATE_META: Barrier = Barrier("create: metadata");
/// `create`: the names of all files, before `meta` is among them.
pub(crate) const CREATE_NAMES: Barrier = Barrier("create: names");
/// `create`: the name `meta`, before the store is said to exist.
pub(crate) const CREATE_RENAME: Barrier = Barrier("create: rename");
/// `commit`: blocks, before a superblock names them.
pub(crate) const COMMIT_SEGMENT: Barrier = Barrier("commit: segment");
/// `commit`: record and table, before a superblock names them.
pub(crate) const COMMIT_META: Barrier = Barrier("commit: table and record");
/// `commit`: the superblock, before the commit is said to be done.
pub(crate) const COMMIT_SUPERBLOCK: Barrier = Barrier("commit: superblock");
/// `open`: the superblock that was found, before anything is written that relies on it.
pub(crate) const OPEN_SUPERBLOCK: Barrier = Barrier("open: superblock");
