//! THE WAY OUT. What can be done about a damaged store: whole copies of damaged blocks from elsewhere, or the generation
//! before. Says what is lost, and writes only when told to.

mod rebuild;

use std::path::Path;
use std::sync::Arc;

pub use rebuild::{Loss, RebuildPlan, Rebuilt};

use crate::error::{Error, Result};
use crate::inspect::verify::verify_in;
use crate::inspect::{Verification, VerifyOptions, VerifyProgress};
use crate::storage::{RealVolume, Volume};
use crate::store::{BlockStore, Generation, PinWait};

/// A store that is being repaired: nobody else writes to it as long as this lives.
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
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.store.superblock().generation
    }

    /// The step of the generation in force.
    #[must_use]
    pub fn step(&self) -> u64 {
        self.store.superblock().step
    }

    /// The step of the generation before the one in force, if its superblock is whole.
    ///
    /// # Errors
    /// Disk errors.
    pub fn previous_step(&self) -> Result<Option<u64>> {
        Ok(self.store.older()?.map(|superblock| superblock.step))
    }

    /// Checks everything that a generation consists of, as [`verify`](crate::inspect::verify()) does.
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
