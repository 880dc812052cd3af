//! Kept checkpoints: generations by name, beside the one that is trained on.
//!
//! A checkpoint is a store of its own in the directory `checkpoints/NAME` of its store, made from the committed
//! generation. Everything that reads a store reads it ([`ParamStore::open_read_only`], [`inspect`](crate::inspect),
//! `paramstore verify`); nothing writes to it. Keeping, going back and pruning are methods of [`ParamStore`], each with
//! an estimate of what it will take, so that nobody has to spend it to know it.
//!
//! Where the file system can share blocks between files (XFS, btrfs), nothing is copied when a checkpoint is kept; the
//! blocks are then paid for when training first writes over them. Elsewhere the blocks are copied.
//!
//! ```
#![doc = include_str!("examples/store.txt")]
//! store.write("w", &[1.0; 6])?;
//! store.commit(b"epoch 1")?;
//! store.keep("best")?;
//! store.write("w", &[7.0; 6])?; // training goes astray
//! store.commit(b"epoch 2")?;
//! store.roll_back_to("best")?;
//! assert_eq!((store.user_record(), store.view("w")?[0]), (&b"epoch 1"[..], 1.0));
//!
//! let kept = paramstore::ParamStore::open_read_only(path.join("checkpoints/best"), &options)?;
//! assert_eq!(kept.view("w")?[..], [1.0; 6]); // a store like any other
//! # Ok::<(), paramstore::Error>(())
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use crate::error::{Error, Result};
use crate::format::CHECKPOINTS_DIRECTORY;
use crate::param_store::ParamStore;
use crate::rows::{Rows, each_batch};
use crate::storage::{RealVolume, Volume};
use crate::store::{self, BackCost, Work, open_checkpoint};

/// What [`ParamStore::keep`] would take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeepEstimate {
    /// The generation that would be kept: the committed one.
    pub generation: u64,
    /// Its step.
    pub step: u64,
    /// Bytes of blocks that would be read, checked and written; 0 where the file system shares blocks.
    pub bytes_to_copy: u64,
    /// Bytes of blocks that would be shared. Nothing is spent for them now, and up to this much by the training that
    /// follows, which gets places of its own for what it writes over.
    pub bytes_to_share: u64,
    /// Bytes of metadata and small files, about.
    pub bytes_metadata: u64,
    /// Bytes that are free to this user.
    pub bytes_free: u64,
}

impl KeepEstimate {
    /// Bytes that have to be free for it.
    ///
    /// ```
    #[doc = include_str!("examples/store.txt")]
    /// let estimate = store.keep_estimate()?;
    /// assert_eq!(estimate.bytes_needed(), estimate.bytes_to_copy + estimate.bytes_metadata);
    /// assert!(estimate.bytes_needed() <= estimate.bytes_free);
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    #[must_use]
    pub fn bytes_needed(&self) -> u64 {
        self.bytes_to_copy + self.bytes_metadata
    }
}

/// What [`ParamStore::keep`] did.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct KeepReport {
    /// The checkpoint's name.
    pub name: String,
    /// Its directory.
    pub path: PathBuf,
    /// The generation that was kept: the committed one, whatever has been changed since.
    pub generation: u64,
    /// Its step.
    pub step: u64,
    /// Bytes of blocks that were copied, their checksums checked.
    pub bytes_copied: u64,
    /// Bytes of blocks that are shared with the store. They were not read.
    pub bytes_shared: u64,
    /// Bytes of metadata written.
    pub bytes_metadata: u64,
    /// Seconds that it took.
    pub seconds: f64,
}

/// One entry of the list of checkpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Checkpoint {
    /// The name.
    pub name: String,
    /// Its directory.
    pub path: PathBuf,
    /// What stands there.
    pub state: CheckpointState,
    /// Bytes that the file system has allocated for its files; what it shares with the store is counted here and there.
    pub bytes_allocated: u64,
}

/// What stands in the directory of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CheckpointState {
    /// A checkpoint.
    #[non_exhaustive]
    Kept {
        /// Its generation.
        generation: u64,
        /// Its step.
        step: u64,
        /// Seconds since 1970 when it was kept.
        kept_unix_s: u64,
    },
    /// What an interrupted `keep` or `prune` left, or one that is under way. No checkpoint; `prune` removes it, and so
    /// does the next `keep` of this name.
    Interrupted,
    /// Something that cannot be used, and why.
    Damaged(String),
}

impl Checkpoint {
    /// The generation, if it is a checkpoint.
    ///
    /// ```
    #[doc = include_str!("examples/store.txt")]
    /// store.keep("first")?;
    /// assert_eq!(store.checkpoints()?[0].generation(), Some(store.generation()));
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    #[must_use]
    pub fn generation(&self) -> Option<u64> {
        match self.state {
            CheckpointState::Kept { generation, .. } => Some(generation),
            _ => None,
        }
    }
}

/// What [`ParamStore::roll_back_to`] would take.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RollbackEstimate {
    /// The checkpoint's generation.
    pub generation: u64,
    /// Its step.
    pub step: u64,
    /// The step that the store is at now.
    pub step_now: u64,
    /// Steps after the checkpoint's, committed or not, which would be forgotten.
    pub steps_lost: u64,
    /// Planes of blocks that differ.
    pub planes_to_copy: u64,
    /// Their bytes, which would be read, checked and written.
    pub bytes_to_copy: u64,
    /// Planes of blocks that are what they were at the checkpoint.
    pub planes_same: u64,
    /// Planes of blocks that were first written after the checkpoint, and would have their initial values again.
    pub planes_unborn: u64,
    /// Bytes that are free to this user. A store that was created sparse, or whose blocks are shared with a checkpoint,
    /// may need up to `bytes_to_copy` of them; any other none.
    pub bytes_free: u64,
}

/// What [`ParamStore::roll_back_to`] did.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct RollbackReport {
    /// The checkpoint's name.
    pub name: String,
    /// The generation that holds what the checkpoint holds, and is committed now.
    pub generation: u64,
    /// The step that the store is at again.
    pub step: u64,
    /// Steps that were forgotten.
    pub steps_lost: u64,
    /// Planes of blocks that were copied.
    pub planes_copied: u64,
    /// Their bytes.
    pub bytes_copied: u64,
    /// Planes of blocks that were what they had been.
    pub planes_same: u64,
    /// Planes of blocks that have their initial values again.
    pub planes_unborn: u64,
    /// Seconds that it took.
    pub seconds: f64,
}

/// Lists the checkpoints of the store in a directory, the oldest generation first, then what is none. Reads a page of
/// each; needs no lock, and not even a store that can be opened.
///
/// ```
#[doc = include_str!("examples/store.txt")]
/// use paramstore::checkpoint::{CheckpointState, list};
///
/// store.keep("first")?;
/// let kept = list(&path)?;
/// assert_eq!(kept[0].name, "first");
/// assert!(matches!(kept[0].state, CheckpointState::Kept { step: 0, .. }));
/// # Ok::<(), paramstore::Error>(())
/// ```
///
/// # Errors
/// [`Error::Io`] if the directories cannot be read.
pub fn list(path: impl AsRef<Path>) -> Result<Vec<Checkpoint>> {
    list_in(&(Arc::new(RealVolume::open_dir(path.as_ref())?) as Arc<dyn Volume>))
}

/// As [`list`], in a volume of any kind.
pub(crate) fn list_in(volume: &Arc<dyn Volume>) -> Result<Vec<Checkpoint>> {
    let path = volume.path().join(CHECKPOINTS_DIRECTORY);
    let checkpoint = |found: store::Checkpoint| Checkpoint {
        path: path.join(&found.name),
        name: found.name,
        bytes_allocated: found.allocated_bytes,
        state: match found.state {
            store::CheckpointState::Kept(superblock) => CheckpointState::Kept {
                generation: superblock.generation,
                step: superblock.step,
                kept_unix_s: superblock.created_unix_s,
            },
            store::CheckpointState::Unfinished => CheckpointState::Interrupted,
            store::CheckpointState::Damaged(why) => CheckpointState::Damaged(why),
        },
    };
    let mut all: Vec<_> = store::checkpoints(volume)?.into_iter().map(checkpoint).collect();
    all.sort_by_key(|checkpoint| match checkpoint.state {
        CheckpointState::Kept { generation, kept_unix_s, .. } => (generation, kept_unix_s),
        _ => (u64::MAX, 0),
    });
    Ok(all)
}

/// Removes a checkpoint, or what an interrupted `keep` or `prune` left of one. Blocks that it shares with the store or
/// with other checkpoints stay theirs; readers that have it open keep what they see. Returns the bytes that had been
/// allocated for its files.
///
/// When this returns, the checkpoint is gone for good; a crash before leaves it whole, or leaves something that is no
/// checkpoint and that `prune` removes.
///
/// ```
#[doc = include_str!("examples/store.txt")]
/// use paramstore::checkpoint::{list, prune};
///
/// store.keep("first")?;
/// drop(store); // it may be open all the same
/// prune(&path, "first")?;
/// assert_eq!(list(&path)?, []);
/// # Ok::<(), paramstore::Error>(())
/// ```
///
/// # Errors
/// [`Error::Unknown`], [`Error::Invalid`] for what can be no name, [`Error::NotAStore`] for a directory that is neither a
/// checkpoint nor what is left of one, [`Error::Locked`] beside another `keep` or `prune`, [`Error::Io`].
pub fn prune(path: impl AsRef<Path>, name: &str) -> Result<u64> {
    prune_in(&(Arc::new(RealVolume::open_dir(path.as_ref())?) as Arc<dyn Volume>), name)
}

/// As [`prune`], in a volume of any kind.
pub(crate) fn prune_in(volume: &Arc<dyn Volume>, name: &str) -> Result<u64> {
    let found = store::checkpoints(volume)?.into_iter().find(|checkpoint| checkpoint.name == name);
    store::prune(volume, name)?;
    Ok(found.map_or(0, |checkpoint| checkpoint.allocated_bytes))
}

impl ParamStore {
    /// Says what [`keep`](Self::keep) would take. Reads the table of what was written, and writes nothing that has a
    /// name.
    ///
    /// ```
    #[doc = include_str!("examples/store.txt")]
    /// store.write("w", &[1.0; 6])?;
    /// store.commit(b"")?;
    /// let estimate = store.keep_estimate()?;
    /// assert_eq!(estimate.generation, store.generation());
    /// assert!(estimate.bytes_to_copy + estimate.bytes_to_share > 0); // the block of `w`
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Poisoned`], disk errors and damage.
    pub fn keep_estimate(&self) -> Result<KeepEstimate> {
        let cost = self.pager().lock().store().keep_cost()?;
        let (bytes_to_copy, bytes_to_share) =
            if cost.can_share { (0, cost.block_bytes) } else { (cost.block_bytes, 0) };
        Ok(KeepEstimate {
            generation: cost.generation,
            step: cost.step,
            bytes_to_copy,
            bytes_to_share,
            bytes_metadata: cost.meta_bytes,
            bytes_free: cost.free_bytes,
        })
    }

    /// Keeps the committed generation under a name: 1 to 64 of `A-Z a-z 0-9 . _ -`, without `.` or `-` in front. What
    /// has been changed since the last commit is not in it, and stays as it is here.
    ///
    /// When this returns, the checkpoint is durable. A crash before leaves none, or the whole one. A store that is open
    /// for reading can be kept too, if its directory may be written to; a writer then waits before its second commit
    /// until this has ended.
    ///
    /// ```
    #[doc = include_str!("examples/store.txt")]
    /// store.write("w", &[1.0; 6])?;
    /// store.commit(b"")?;
    /// store.write("w", &[2.0; 6])?; // not committed: not in the checkpoint
    /// let report = store.keep("epoch-1")?;
    /// let kept = paramstore::ParamStore::open_read_only(&report.path, &options)?;
    /// assert_eq!((kept.view("w")?[0], store.view("w")?[0]), (1.0, 2.0));
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::AlreadyExists`], [`Error::NoSpace`] before anything is made, [`Error::Damaged`] for a block whose bytes are not what
    /// was written (damage is not kept where blocks are copied; shared ones are not read), and for such a batch in the log of rows, before
    /// anything is made, [`Error::Invalid`] for the name, [`Error::Locked`]
    /// beside another `keep` or `prune`, [`Error::Kept`] in a checkpoint, [`Error::Poisoned`], disk errors. The store is what it
    /// was, and what was made is removed.
    pub fn keep(&mut self, name: &str) -> Result<KeepReport> {
        self.keep_with(name, |_| {})
    }

    /// As [`keep`](Self::keep), and tells `progress` again and again how many bytes of blocks are done.
    ///
    /// ```
    #[doc = include_str!("examples/store.txt")]
    /// store.write("w", &[1.0; 6])?;
    /// store.commit(b"")?;
    /// let mut done = 0;
    /// let report = store.keep_with("epoch-1", |bytes| done = bytes)?;
    /// assert_eq!(done, report.bytes_copied + report.bytes_shared);
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`keep`](Self::keep).
    pub fn keep_with(&mut self, name: &str, mut progress: impl FnMut(u64)) -> Result<KeepReport> {
        let start = Instant::now();
        self.background().settle_all();
        let kept = self.with_work(&mut progress, |store, work| {
            store.pager().lock().store_mut().keep(name, each_batch, work)
        })?;
        Ok(KeepReport {
            name: name.to_owned(),
            path: self.path().join(CHECKPOINTS_DIRECTORY).join(name),
            generation: kept.generation,
            step: kept.step,
            bytes_copied: kept.bytes_copied,
            bytes_shared: kept.bytes_shared,
            bytes_metadata: kept.meta_bytes,
            seconds: start.elapsed().as_secs_f64(),
        })
    }

    /// Lists the checkpoints of this store; see [`list`].
    ///
    /// ```
    #[doc = include_str!("examples/store.txt")]
    /// store.keep("first")?;
    /// store.commit(b"")?;
    /// store.keep("second")?;
    /// let names: Vec<_> = store.checkpoints()?.into_iter().map(|kept| kept.name).collect();
    /// assert_eq!(names, ["first", "second"]); // the oldest generation first
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`list`].
    pub fn checkpoints(&self) -> Result<Vec<Checkpoint>> {
        list_in(&self.volume())
    }

    /// Removes a checkpoint of this store; see [`prune`].
    ///
    /// ```
    #[doc = include_str!("examples/store.txt")]
    /// store.keep("first")?;
    /// store.prune("first")?;
    /// assert_eq!(store.checkpoints()?, []);
    /// assert!(matches!(store.prune("first"), Err(paramstore::Error::Unknown { .. })));
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`prune`].
    pub fn prune(&mut self, name: &str) -> Result<u64> {
        prune_in(&self.volume(), name)
    }

    /// Says what [`roll_back_to`](Self::roll_back_to) would take. Reads the tables of both generations.
    ///
    /// ```
    #[doc = include_str!("examples/store.txt")]
    /// store.keep("start")?;
    /// let mut step = store.begin_step()?;
    /// step.apply("w", &[1.0; 6])?;
    /// step.finish()?;
    /// store.commit(b"")?;
    /// let estimate = store.roll_back_estimate("start")?;
    /// assert_eq!((estimate.step, estimate.steps_lost), (0, 1));
    /// assert_eq!(estimate.planes_unborn, 2); // parameters and momentum would be zeros again
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Invalid`] for what can be no name, [`Error::Damaged`] for a checkpoint that is not one of
    /// this store's, disk errors.
    pub fn roll_back_estimate(&self, name: &str) -> Result<RollbackEstimate> {
        let kept = open_checkpoint(&self.volume(), name)?;
        let cost = self.pager().lock().store().back_cost(&kept)?;
        let (generation, step) = (kept.superblock().generation, kept.superblock().step);
        let BackCost { planes, bytes, planes_same, planes_unborn } = cost;
        Ok(RollbackEstimate {
            generation,
            step,
            step_now: self.step(),
            steps_lost: self.step().saturating_sub(step),
            planes_to_copy: planes,
            bytes_to_copy: bytes,
            planes_same,
            planes_unborn,
            bytes_free: self.volume().free_bytes()?,
        })
    }

    /// Goes back to a checkpoint: parameters, moments, clocks, step, settings of the groups and user record are what they
    /// were, bit for bit, and training goes on from there as it went on then. Everything since is forgotten, committed or
    /// not; the checkpoint stays. Blocks that have not changed since are not touched.
    ///
    /// This is a commit: a crash before it returns leaves the last committed generation, or the one that is the
    /// checkpoint again.
    ///
    /// ```
    #[doc = include_str!("examples/store.txt")]
    /// store.keep("start")?;
    /// let mut step = store.begin_step()?;
    /// step.apply("w", &[1.0; 6])?;
    /// step.finish()?;
    /// store.commit(b"")?;
    /// let report = store.roll_back_to("start")?;
    /// assert_eq!((report.steps_lost, store.step(), store.view("w")?[0]), (1, 0, 0.0));
    /// assert_eq!(store.checkpoints()?.len(), 1); // it stays
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Invalid`] for what can be no name, [`Error::Damaged`] for a damaged checkpoint or one that is
    /// not this store's, [`Error::ReadOnly`], [`Error::Poisoned`], disk errors. What was not committed is gone after an error
    /// too, unless it came before anything was read; the committed generation is what it was. After a write that
    /// failed the handle is poisoned.
    pub fn roll_back_to(&mut self, name: &str) -> Result<RollbackReport> {
        self.roll_back_to_with(name, |_| {})
    }

    /// As [`roll_back_to`](Self::roll_back_to), and tells `progress` again and again how many bytes of blocks are done.
    ///
    /// ```
    #[doc = include_str!("examples/store.txt")]
    /// store.write("w", &[1.0; 6])?;
    /// store.commit(b"")?;
    /// store.keep("ones")?;
    /// store.write("w", &[2.0; 6])?;
    /// store.commit(b"")?;
    /// let mut done = 0;
    /// let report = store.roll_back_to_with("ones", |bytes| done = bytes)?;
    /// assert_eq!(done, report.bytes_copied);
    /// assert_eq!(store.view("w")?[..], [1.0; 6]);
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`roll_back_to`](Self::roll_back_to).
    pub fn roll_back_to_with(&mut self, name: &str, mut progress: impl FnMut(u64)) -> Result<RollbackReport> {
        let start = Instant::now();
        self.pager().lock().store().check_writable("go back to a checkpoint")?;
        let mut kept = open_checkpoint(&self.volume(), name)?;
        self.pager().lock().store().check_checkpoint(&kept)?;
        self.check_record(kept.record(), kept.meta().path())?;
        let before = self.step();
        self.rollback()?;
        self.make_room_for_rows(&mut kept)?;
        let result = self.with_work(&mut progress, |store, work| {
            let cost = store.pager().lock().store_mut().restore(&mut kept, work)?;
            let rows = store.tables().map(|tables| tables.restore(&mut kept)).transpose()?;
            let mut state = store.pager().lock();
            let committed = state.store_mut().commit_restored(&kept, rows)?;
            state.note_commit();
            drop(state);
            // The generation is committed; a handle that does not know what it has in the log is of no use.
            let reloaded = store.tables().map_or(Ok(()), Rows::reload);
            reloaded.inspect_err(|error| store.pager().lock().store_mut().poison(error))?;
            Ok((cost, committed))
        });
        let (cost, committed) = match result {
            Ok(back) => back,
            Err(error) => {
                // A handle that is poisoned refuses this, and has to be opened again in any case.
                drop(self.rollback());
                return Err(error);
            }
        };
        self.take_over_committed()?;
        Ok(RollbackReport {
            name: name.to_owned(),
            generation: committed.generation,
            step: self.step(),
            steps_lost: before.saturating_sub(self.step()),
            planes_copied: cost.planes,
            bytes_copied: cost.bytes,
            planes_same: cost.planes_same,
            planes_unborn: cost.planes_unborn,
            seconds: start.elapsed().as_secs_f64(),
        })
    }

    /// Empties the log of rows, by a commit that changes nothing else, where it has no room for what a checkpoint's has.
    fn make_room_for_rows(&mut self, kept: &mut store::BlockStore) -> Result<(), Error> {
        let bytes = kept.log_ranges().iter().map(|&(_, bytes)| bytes).sum();
        let Some(tables) = self.tables().filter(|tables| !tables.has_room(bytes)) else { return Ok(()) };
        // What is folded now can be overwritten after the commit after it.
        tables.fold_all()?;
        let user = self.user_record().to_vec();
        self.commit(&user)?;
        // Blocks that are near now are going to be written past the pager.
        self.rollback()?;
        Ok(())
    }

    fn volume(&self) -> Arc<dyn Volume> {
        Arc::clone(self.pager().lock().store().volume())
    }

    /// Lets something copy blocks, with memory of the budget.
    fn with_work<T>(
        &self,
        progress: &mut dyn FnMut(u64),
        run: impl FnOnce(&Self, &mut Work<'_>) -> Result<T, Error>,
    ) -> Result<T> {
        let (buffers, threads) = self.pager().take_copy_memory()?;
        let mut work = Work { buffers, threads, progress };
        let result = run(self, &mut work);
        for buffer in work.buffers {
            self.pager().give_memory(buffer);
        }
        result
    }
}
