//! In what order a generation becomes durable: data and table, barrier, superblock, barrier.

use super::{BlockStore, Home, barriers};
use crate::error::{Error, Result};
use crate::format::checksum::crc32;
use crate::format::record::Record;
use crate::format::superblock::{Region, Superblock};
use crate::units::to_u64;

/// What a commit did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Committed {
    pub(crate) generation: u64,
    /// Bytes of metadata written: table pages, record, superblock.
    pub(crate) meta_bytes: u64,
    /// Points at which everything before had to be durable: 2, or 1 if only the superblock changed.
    pub(crate) barriers: u32,
    /// Files made durable at these points.
    pub(crate) syncs: u32,
}

impl BlockStore {
    /// Makes the working generation the committed one. Every block has been written and noted before.
    ///
    /// A failure leaves it open which of the two generations the disk holds, so the handle is poisoned.
    pub(crate) fn commit(&mut self, record: Record, step: u64) -> Result<Committed> {
        self.check_writable("commit")?;
        self.take_over_homes()?;
        let result = self.write_generation(record, step);
        if let Err(error) = &result {
            self.poison(error);
        }
        result
    }

    fn write_generation(&mut self, record: Record, step: u64) -> Result<Committed> {
        let mut next = self.committed.clone();
        next.generation = self.working_generation();
        next.parent_crc = self.committed_crc;
        next.step = step;
        next.writer = super::create::writer_version();
        let mut report = Committed { generation: next.generation, meta_bytes: 0, barriers: 1, syncs: 1 };

        let record_changed = record != self.record;
        if record_changed {
            next.record = self.write_record(&record)?;
            report.meta_bytes += next.record.bytes;
        }
        let table_changed = self.table.is_dirty();
        if table_changed {
            let (root, bytes) = self.table.write_changed(&self.meta, next.generation)?;
            next.root = root;
            report.meta_bytes += bytes;
        }
        if record_changed || table_changed || !self.written.is_empty() {
            report.barriers += 1;
            report.syncs += self.sync_written()?;
        }
        let crc = self.write_superblock(&next)?;
        report.meta_bytes += crate::format::PAGE_BYTES;

        self.table.committed(next.root);
        self.written.clear();
        self.committed = next;
        self.committed_crc = crc;
        self.record = record;
        self.note_progress(self.committed.step);
        self.give_back_homes();
        Ok(report)
    }

    /// Writes the record into the home that the committed generation does not use.
    fn write_record(&mut self, record: &Record) -> Result<Region> {
        let current = &self.committed;
        let bytes = record.encode();
        if to_u64(bytes.len()) > current.record_capacity {
            return Err(Error::invalid(
                "user record and group settings",
                format!("{} bytes", bytes.len()),
                format!("at most {} bytes", current.record_capacity),
            ));
        }
        let other = current.record.offset == current.record_offset;
        let offset = current.record_offset + if other { current.record_capacity } else { 0 };
        self.meta.write_at(&bytes, offset)?;
        Ok(Region { offset, bytes: to_u64(bytes.len()), crc: crc32(&bytes) })
    }

    /// The first barrier: everything that the next superblock will name. Returns the number of files.
    fn sync_written(&mut self) -> Result<u32> {
        let mut files = 1;
        for (segment, home, caching) in self.written.clone() {
            self.segment(segment, Home(home), caching)?.sync(barriers::COMMIT_SEGMENT)?;
            files += 1;
        }
        self.meta.sync(barriers::COMMIT_META)?;
        Ok(files)
    }

    /// The second barrier: the superblock itself.
    fn write_superblock(&mut self, next: &Superblock) -> Result<u32> {
        let page = next.encode();
        self.meta.write_at(&page, Superblock::slot_offset(next.generation))?;
        self.meta.sync(barriers::COMMIT_SUPERBLOCK)?;
        crate::format::superblock::superblock_crc(&page)
            .map_err(|e| super::decode_error(self.meta.path(), 0, e))
    }
}
