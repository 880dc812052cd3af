//! THE WAY OUT. What can be done about a damaged store: whole copies of damaged blocks from elsewhere, or the generation
//! before. Says what is lost, and writes only when told to.
//!
//! # Example
//!
//! ```
//! # let dir = tempfile::tempdir().expect("a temporary directory");
//! # let path = dir.path().join("model.store");
//! # let group = paramstore::ParamGroup::new("all", paramstore::Optimizer::from_name("adamw")?);
//! # let schema = paramstore::Schema::new().group(group).tensor(paramstore::TensorSpec::new("w", &[2, 3]));
//! use std::os::unix::fs::FileExt;
//!
//! use paramstore::inspect::{BlockRun, VerifyOptions, verify};
//! use paramstore::repair::Repair;
//! use paramstore::{Options, ParamStore};
//!
//! let options = Options::new().memory_budget(4 << 20);
//! let mut store = ParamStore::create(&path, &schema, &options)?;
//! store.write("w", &[1.0; 6])?;
//! store.commit(b"")?;
//! let copy = store.keep("sound")?.path;
//!
//! // A bit of a block rots.
//! let run = store.blocks().find_map(|run| if let Ok(BlockRun::Written(block)) = run { Some(block) } else { None });
//! let block = run.expect("`w` was written");
//! drop(store);
//! let file = std::fs::File::options().write(true).open(path.join(&block.file))?;
//! file.write_all_at(&[0xff], block.offset)?;
//!
//! let look = VerifyOptions::new();
//! let mut repair = Repair::open(&path)?;
//! let seen = repair.verify(&look, |_| {})?;
//! assert_eq!(seen.findings[0].tensors, ["w"]);
//! let plan = repair.plan_rebuild(&copy, &seen)?;   // writes nothing
//! assert!(plan.is_complete() && plan.is_lossless());
//! let rebuilt = repair.rebuild(&copy, &seen)?;     // durable when it returns
//! assert_eq!(rebuilt.blocks, 1);
//! drop(repair);
//! assert!(verify(&path, &look, |_| {})?.is_sound());
//! assert_eq!(ParamStore::open(&path, &options)?.view("w")?[..], [1.0; 6]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod rebuild;

use std::path::Path;
use std::sync::Arc;

pub use rebuild::{Loss, RebuildPlan, Rebuilt};

use crate::error::{Error, Result};
use crate::inspect::verify::verify_in;
use crate::inspect::{Verification, VerifyOptions, VerifyProgress};
use crate::storage::{RealVolume, Volume};
use crate::store::{BlockStore, Generation, PinWait};

/// A store that is being repaired: nobody else writes to it as long as this lives. [Example](crate::repair#example).
pub struct Repair {
    volume: Arc<dyn Volume>,
    store: BlockStore,
    /// Whether all of the generation before the newest was read and found whole, and nothing was written since.
    previous_is_whole: bool,
}

/// What [`Repair::drop_newest`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Dropped {
    /// The generation in force: the newest, which has the content of the one before it now.
    pub generation: u64,
    /// The generation whose content that is.
    pub previous_generation: u64,
    /// Its step.
    pub step: u64,
    /// The step that was dropped.
    pub dropped_step: u64,
}

impl std::fmt::Debug for Repair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Repair").field("path", &self.store.path()).finish_non_exhaustive()
    }
}

impl Repair {
    /// Takes the writer's lock of a store. Changes nothing in it.
    ///
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// use paramstore::repair::Repair;
    ///
    /// assert!(matches!(Repair::open(&path), Err(paramstore::Error::Locked { .. }))); // `store` writes
    /// drop(store);
    /// Repair::open(&path)?;
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`ParamStore::open`](crate::ParamStore::open): a store of which no generation has whole metadata, or of which a
    /// file is missing or cut short, cannot be repaired here.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_in(Arc::new(RealVolume::open_dir(path.as_ref())?))
    }

    /// As [`open`](Self::open), in a volume of any kind.
    pub(crate) fn open_in(volume: Arc<dyn Volume>) -> Result<Self> {
        let store = BlockStore::open_writer(Arc::clone(&volume), PinWait::Unlimited)?;
        Ok(Self { volume, store, previous_is_whole: false })
    }

    /// The generation in force.
    ///
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// store.commit(b"")?;
    /// let generation = store.generation();
    /// drop(store);
    /// assert_eq!(paramstore::repair::Repair::open(&path)?.generation(), generation);
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.store.superblock().generation
    }

    /// The step of the generation in force.
    ///
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// store.begin_step()?.finish()?;
    /// store.commit(b"")?;
    /// drop(store);
    /// assert_eq!(paramstore::repair::Repair::open(&path)?.step(), 1);
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    #[must_use]
    pub fn step(&self) -> u64 {
        self.store.superblock().step
    }

    /// The step of the generation before the one in force, if its superblock is whole.
    ///
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// store.begin_step()?.finish()?;
    /// store.commit(b"")?;
    /// drop(store);
    /// assert_eq!(paramstore::repair::Repair::open(&path)?.previous_step()?, Some(0));
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// Disk errors.
    pub fn previous_step(&self) -> Result<Option<u64>> {
        Ok(self.store.older()?.map(|superblock| superblock.step))
    }

    /// Checks everything that a generation consists of, as [`verify`](crate::inspect::verify()) does.
    ///
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// use paramstore::inspect::VerifyOptions;
    /// use paramstore::repair::Repair;
    ///
    /// drop(store);
    /// let seen = Repair::open(&path)?.verify(&VerifyOptions::new(), |_| {})?;
    /// assert!(seen.is_sound() && seen.complete);
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`verify`](crate::inspect::verify()).
    pub fn verify(
        &mut self,
        options: &VerifyOptions,
        mut progress: impl FnMut(&VerifyProgress<'_>),
    ) -> Result<Verification> {
        let seen = verify_in(&self.volume, options, &mut progress)?;
        if options.is_of_previous() {
            self.previous_is_whole = seen.is_sound() && seen.complete;
        }
        Ok(seen)
    }

    /// Drops what the newest generation holds, so that what the one before it holds is in force: all steps between the two
    /// are lost. Unless [`verify`](Self::verify) has found the older generation whole, it is read and checked first, as
    /// `options` says; readers of the newest are waited for.
    ///
    /// When this returns, the drop is durable; a crash before leaves the content of either generation in force.
    ///
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// use paramstore::inspect::VerifyOptions;
    /// use paramstore::repair::Repair;
    ///
    /// store.write("w", &[1.0; 6])?;
    /// store.commit(b"epoch 1")?;
    /// store.write("w", &[2.0; 6])?;
    /// store.commit(b"epoch 2")?;
    /// drop(store);
    /// let dropped = Repair::open(&path)?.drop_newest(&VerifyOptions::new())?;
    /// assert_eq!(dropped.previous_generation + 1, dropped.generation);
    /// let store = paramstore::ParamStore::open(&path, &options)?;
    /// assert_eq!((store.user_record(), store.view("w")?[0]), (&b"epoch 1"[..], 1.0));
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is no older generation, or it is not whole either; disk errors.
    pub fn drop_newest(mut self, options: &VerifyOptions) -> Result<Dropped> {
        if !self.previous_is_whole {
            let seen = self.verify(&options.clone().generation(Generation::Previous), |_| {})?;
            if !self.previous_is_whole {
                let got = format!("{} damaged places in it", seen.findings_total);
                return Err(Error::invalid("generation to go back to", got, "a whole one"));
            }
        }
        let dropped_step = self.step();
        let now = self.store.drop_newest()?;
        Ok(Dropped {
            generation: now.generation,
            previous_generation: now.generation - 1,
            step: now.step,
            dropped_step,
        })
    }
}
