//! Keeps the committed generation: its files, its metadata, its name.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::copy::Copier;
use super::list::clear;
use super::{EachBatch, Kind, Work, check_name, directory_of, foreign, judge, lock};
use crate::error::{Error, Result};
use crate::format::progress::PROGRESS_BYTES;
use crate::format::superblock::{RO_COMPAT_KEPT, RO_COMPAT_SPARSE, Superblock};
use crate::format::{
    CHECKPOINTS_DIRECTORY, LOCK_FILE, META_FILE, META_NEW_FILE, PAGE_BYTES, PROGRESS_FILE, pin_file,
    segment_file,
};
use crate::storage::{Access, Allocation, Caching, Volume};
use crate::store::create::{LOCK_BYTES, writer_version};
use crate::store::{BlockStore, barriers, decode_error, read_region};
use crate::units::to_u64;

/// What keeping the committed generation would take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeepCost {
    pub(crate) generation: u64,
    pub(crate) step: u64,
    /// Bytes of written planes of blocks, and of what counts of the log of rows.
    pub(crate) block_bytes: u64,
    /// Bytes of metadata and small files.
    pub(crate) meta_bytes: u64,
    /// Whether the file system can share blocks between files.
    pub(crate) can_share: bool,
    pub(crate) free_bytes: u64,
}

impl KeepCost {
    /// Bytes that have to be free.
    pub(crate) fn needed_bytes(&self) -> u64 {
        self.meta_bytes + if self.can_share { 0 } else { self.block_bytes }
    }
}

/// What was kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) generation: u64,
    pub(crate) step: u64,
    pub(crate) bytes_copied: u64,
    pub(crate) bytes_shared: u64,
    pub(crate) meta_bytes: u64,
}

/// Small files and the directory itself take about this much.
const SMALL_FILES_BYTES: u64 = 8 * PAGE_BYTES;

impl BlockStore {
    /// Says what `keep` would take. Reads the table of what was written.
    pub(crate) fn keep_cost(&self) -> Result<KeepCost> {
        self.check_sound()?;
        let (mut block_bytes, mut pages) = (0, 0);
        for page in self.pages() {
            let planes = self.planes_of(&page?)?;
            block_bytes += planes.iter().map(|plane| to_u64(plane.place.padded)).sum::<u64>();
            pages += 1;
        }
        block_bytes += self.log_ranges().iter().map(|&(_, bytes)| bytes).sum::<u64>();
        let superblock = self.superblock();
        let meta = superblock.directory.bytes + superblock.record.bytes + (pages + 4) * PAGE_BYTES;
        Ok(KeepCost {
            generation: superblock.generation,
            step: superblock.step,
            block_bytes,
            meta_bytes: meta + SMALL_FILES_BYTES,
            can_share: self.volume.can_share(),
            free_bytes: self.volume.free_bytes()?,
        })
    }

    /// Keeps the committed generation under a name. A failure removes what was made; after one of the last sync the
    /// checkpoint may be there all the same.
    pub(crate) fn keep(&mut self, name: &str, each_batch: EachBatch, work: &mut Work<'_>) -> Result<Kept> {
        check_name(name)?;
        if self.superblock().ro_compat & RO_COMPAT_KEPT != 0 {
            return Err(Error::Kept { path: self.path().to_owned() });
        }
        let found = directory_of(&self.volume)?;
        let is_first = found.is_none();
        let all = if let Some(all) = found {
            all
        } else {
            self.check_before(name, each_batch)?;
            self.volume.create_subvolume(CHECKPOINTS_DIRECTORY)?
        };
        let _lock = lock(&all)?;
        let existing = all.subvolume(name)?;
        if let Some(existing) = &existing {
            match judge(&existing.list()?) {
                Kind::Kept => {
                    // Who is told that it is there may rely on it; the `keep` that made it may have been killed.
                    all.sync_dir(barriers::KEEP_DIRECTORY)?;
                    all.sync_parent(barriers::KEEP_CHECKPOINTS)?;
                    existing.sync_dir(barriers::KEEP_DONE)?;
                    return Err(Error::AlreadyExists { path: existing.path().to_owned() });
                }
                Kind::Unfinished => clear(existing)?,
                Kind::Foreign => return Err(foreign(existing)),
            }
        }
        if !is_first {
            self.check_before(name, each_batch)?;
        }
        let target = existing.map_or_else(|| all.create_subvolume(name), Ok)?;
        let made = self.fill(&target, each_batch, work).and_then(|kept| {
            all.sync_dir(barriers::KEEP_DIRECTORY)?;
            all.sync_parent(barriers::KEEP_CHECKPOINTS)?;
            target.rename(META_NEW_FILE, META_FILE)?;
            Ok(kept)
        });
        match made {
            Ok(kept) => target.sync_dir(barriers::KEEP_DONE).map(|()| kept),
            Err(error) => {
                // Best effort: what is left behind is cleared by the next `keep` of this name, or by `prune`.
                if clear(&target).is_ok() {
                    drop(all.remove_subvolume(name));
                }
                Err(error)
            }
        }
    }

    /// Whether there is room, and whether the log of rows is whole, which nobody looks at where it is going to be shared.
    fn check_before(&mut self, name: &str, each_batch: EachBatch) -> Result<()> {
        let cost = self.keep_cost()?;
        let (needed, free) = (cost.needed_bytes(), cost.free_bytes);
        if needed > free {
            let path = self.volume.path_of(CHECKPOINTS_DIRECTORY).join(name);
            return Err(Error::NoSpace { path, needed, free });
        }
        each_batch(self, &mut |_, _| Ok(()))
    }

    /// Makes everything but the name `meta`, and makes it durable.
    fn fill(&mut self, target: &Arc<dyn Volume>, each_batch: EachBatch, work: &mut Work<'_>) -> Result<Kept> {
        target.create(META_NEW_FILE, self.meta.len_bytes()?, Allocation::Sparse)?;
        // Segments without it would be taken for those of a checkpoint that lost its `meta`.
        target.sync_dir(barriers::KEEP_BEGUN)?;
        for (name, bytes) in [
            (LOCK_FILE, LOCK_BYTES),
            (pin_file(0), LOCK_BYTES),
            (pin_file(1), LOCK_BYTES),
            (PROGRESS_FILE, PROGRESS_BYTES),
        ] {
            target.create(name, bytes, Allocation::Sparse)?;
        }
        let directory = Arc::clone(&self.directory);
        for segment in &directory.segments {
            let plane =
                directory.planes.get(usize::from(segment.plane)).map_or("", |plane| plane.name.as_str());
            for home in 0..segment.homes {
                let name = segment_file(plane, segment.index, home);
                target.create(&name, segment.bytes, Allocation::Sparse)?;
            }
        }
        let mut copier = Copier::new(work)?;
        let copied = self.copy_generation(target, each_batch, &mut copier);
        copier.finish();
        let (bytes_copied, bytes_shared, meta_bytes) = copied?;
        target.sync_dir(barriers::KEEP_NAMES)?;
        let superblock = self.superblock();
        Ok(Kept {
            generation: superblock.generation,
            step: superblock.step,
            bytes_copied,
            bytes_shared,
            meta_bytes,
        })
    }

    /// Copies or shares blocks, and writes the metadata. Returns the bytes of each.
    fn copy_generation(
        &mut self,
        target: &Arc<dyn Volume>,
        each_batch: EachBatch,
        copier: &mut Copier<'_, '_>,
    ) -> Result<(u64, u64, u64)> {
        let meta = target.open(META_NEW_FILE, Access::Write, Caching::Cached)?;
        let mut meta_bytes = PAGE_BYTES;
        let superblock = self.superblock().clone();
        for (what, region) in [("directory", superblock.directory), ("record", superblock.record)] {
            meta.write_at(&read_region(&self.meta, what, region)?, region.offset)?;
            meta_bytes += region.bytes;
        }
        copier.open_targets(self, target)?;
        for page in self.pages() {
            let page = page?;
            meta.write_at(page.page.bytes(), page.offset)?;
            meta_bytes += PAGE_BYTES;
            for plane in self.planes_of(&page)? {
                copier.add(self, &plane)?;
            }
        }
        copier.add_log(self, each_batch)?;
        copier.sync(self)?;
        let kept_unix_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let kept = Superblock {
            ro_compat: superblock.ro_compat | RO_COMPAT_KEPT | RO_COMPAT_SPARSE,
            created_unix_s: kept_unix_s,
            writer: writer_version(),
            ..superblock
        };
        kept.validate(meta.len_bytes()?).map_err(|e| decode_error(meta.path(), 0, e))?;
        meta.write_at(&kept.encode(), Superblock::slot_offset(kept.generation))?;
        meta.sync(barriers::KEEP_META)?;
        Ok((copier.bytes_copied(), copier.bytes_shared(), meta_bytes))
    }
}
