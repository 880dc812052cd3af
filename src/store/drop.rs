//! The way back by one generation, when what the newest superblock names is not whole.

use super::{BlockStore, barriers, open};
use crate::error::{Error, Result};
use crate::format::PAGE_BYTES;
use crate::format::superblock::Superblock;
use crate::units::to_usize;

/// What a superblock said that was dropped, and what the one in force says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DroppedGeneration {
    pub(crate) dropped: u64,
    pub(crate) dropped_step: u64,
    pub(crate) generation: u64,
    pub(crate) step: u64,
}

impl BlockStore {
    /// The superblock of the generation before the committed one, if it is whole.
    pub(crate) fn older(&self) -> Result<Option<Superblock>> {
        let older = open::older_superblock(&self.meta, self.committed.generation)?;
        Ok(older.map(|(superblock, _)| superblock))
    }

    /// Wipes the newest superblock, so that the generation before it is in force; the handle is used up.
    ///
    /// Nothing else is written: the next commit makes the dropped generation's number anew, in the homes that it had.
    /// The older superblock is made durable before the newer one goes. A crash leaves one or the other in force.
    pub(crate) fn drop_newest(mut self) -> Result<DroppedGeneration> {
        self.check_writable("drop a generation")?;
        let newest = self.committed.generation;
        let Some((older, crc)) = open::older_superblock(&self.meta, newest)? else {
            let got = format!("generation {newest} and no other");
            return Err(Error::invalid(
                "generation to go back to",
                got,
                "a store with two whole superblocks",
            ));
        };
        let step = older.step;
        let generation = older.generation;
        open::make_whole_and_durable(&self.meta, older, crc)?;
        // Readers of the generation to go back to keep it; those of the dropped one are waited for by the next writer.
        self.meta.write_at(&vec![0; to_usize(PAGE_BYTES)], Superblock::slot_offset(newest))?;
        self.meta.sync(barriers::DROP_SUPERBLOCK)?;
        let dropped =
            DroppedGeneration { dropped: newest, dropped_step: self.committed.step, generation, step };
        self.committed.generation = generation;
        self.note_progress(step);
        Ok(dropped)
    }
}
