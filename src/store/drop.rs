//! The way back by one generation, when what the newest superblock names is not whole.

use super::{BlockStore, barriers, open, pins};
use crate::error::{Error, Result};
use crate::format::superblock::Superblock;

impl BlockStore {
    /// The superblock of the generation before the committed one, if it is whole.
    pub(crate) fn older(&self) -> Result<Option<Superblock>> {
        let older = open::older_superblock(&self.meta, self.committed.generation)?;
        Ok(older.map(|(superblock, _)| superblock))
    }

    /// Writes the newest superblock anew, with the content of the generation before it, and returns it; the handle is
    /// used up.
    ///
    /// Nothing else is written. The number stays, so that blocks are not written twice under one generation, by which
    /// kept checkpoints are compared (their checksums are compared as well). The older superblock is made durable before
    /// the newer one is touched: a crash leaves the one, the other, or a torn newer one, which `open` passes by.
    pub(crate) fn drop_newest(mut self) -> Result<Superblock> {
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
        open::make_whole_and_durable(&self.meta, older.clone(), crc)?;
        // Those who read the dropped generation: the next steps write where its blocks are, and wait for others.
        let _readers_gone = pins::wait_for_readers(&self.volume, newest, self.pin_wait())?;
        let writer = super::create::writer_version();
        let next = Superblock { generation: newest, parent_crc: crc, writer, ..older };
        self.meta.write_at(&next.encode(), Superblock::slot_offset(newest))?;
        self.meta.sync(barriers::DROP_SUPERBLOCK)?;
        self.note_progress(next.step);
        Ok(next)
    }
}
