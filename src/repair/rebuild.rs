//! Damaged blocks get the bytes that another whole copy of the store has of them.

use std::path::Path;
use std::sync::Arc;

use super::Repair;
use crate::error::{Error, Result};
use crate::format::checksum::block_crc;
use crate::format::page::BlockEntry;
use crate::inspect::Verification;
use crate::layout::{BlockPlace, block_place, describe_block, plane_of_block};
use crate::storage::{Buffer, Caching, RealVolume, Volume};
use crate::store::{BlockStore, Generation, Home, Written};
use crate::units::{BlockIndex, to_u64};

/// What would be lost with a block's plane.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Loss {
    /// Tensors, plane and block, in words.
    pub what: String,
    /// The tensors that stand in the block.
    pub tensors: Vec<String>,
    /// The step of the checkpoint whose older content takes the place; `None` if it has no whole copy either.
    pub back_to_step: Option<u64>,
}

/// What a checkpoint can do for damaged blocks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RebuildPlan {
    /// Planes of blocks of which the checkpoint has the very bytes: nothing is lost.
    pub exact: u64,
    /// Planes of blocks of which it has older content, and those of which it has none.
    pub losses: Vec<Loss>,
    /// Damage that is not in a block, which no copy of blocks mends.
    pub metadata: u64,
}

impl RebuildPlan {
    /// Whether every damaged place gets its very bytes back. [Example](crate::repair#example).
    #[must_use]
    pub fn is_lossless(&self) -> bool {
        self.losses.is_empty() && self.metadata == 0
    }

    /// Whether there is a whole copy, of whatever age, for every damaged place. [Example](crate::repair#example).
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.metadata == 0 && self.losses.iter().all(|loss| loss.back_to_step.is_some())
    }
}

/// What [`Repair::rebuild`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rebuilt {
    /// Planes of blocks that were written.
    pub blocks: u64,
    /// The generation that has them, durable now.
    pub generation: u64,
}

/// A damaged plane of a block, and the whole copy of it.
struct Patch {
    place: BlockPlace,
    bytes: Buffer,
    /// What the copy says of it, where that stays in force: in a block of rows, and in one of frozen tensors.
    entry: Option<BlockEntry>,
    is_frozen: bool,
}

impl Repair {
    /// Looks for the damaged blocks of `seen` in another copy of this store: a kept checkpoint, which is a directory like
    /// the store's, or a copy made by other means. Writes nothing. [Example](crate::repair#example).
    ///
    /// # Errors
    /// As [`ParamStore::open_read_only`](crate::ParamStore::open_read_only) for the copy; [`Error::Invalid`] if it is one of
    /// another store, or `seen` does not list all that it counts.
    pub fn plan_rebuild(&mut self, copy: impl AsRef<Path>, seen: &Verification) -> Result<RebuildPlan> {
        let donor: Arc<dyn Volume> = Arc::new(RealVolume::open_dir(copy.as_ref())?);
        self.plan_rebuild_from(&donor, seen)
    }

    /// Writes the damaged blocks of `seen` anew, from another copy of this store, and commits them as the next generation:
    /// the step stays as it is. Where the copy has older content of a block, that takes its place, as the plan says.
    ///
    /// When this returns, the new generation is durable; a crash before leaves the damaged one in force.
    /// [Example](crate::repair#example).
    ///
    /// # Errors
    /// As [`plan_rebuild`](Self::plan_rebuild); [`Error::Invalid`] if the plan is not complete; disk errors.
    pub fn rebuild(&mut self, copy: impl AsRef<Path>, seen: &Verification) -> Result<Rebuilt> {
        let donor: Arc<dyn Volume> = Arc::new(RealVolume::open_dir(copy.as_ref())?);
        self.rebuild_from(&donor, seen)
    }

    /// As [`plan_rebuild`](Self::plan_rebuild), in a volume of any kind.
    pub(crate) fn plan_rebuild_from(
        &mut self,
        donor: &Arc<dyn Volume>,
        seen: &Verification,
    ) -> Result<RebuildPlan> {
        let mut plan = RebuildPlan::default();
        self.each_patch(donor, seen, &mut plan, &mut |_, _| Ok(()))?;
        Ok(plan)
    }

    /// As [`rebuild`](Self::rebuild), in a volume of any kind.
    pub(crate) fn rebuild_from(&mut self, donor: &Arc<dyn Volume>, seen: &Verification) -> Result<Rebuilt> {
        let plan = self.plan_rebuild_from(donor, seen)?;
        if !plan.is_complete() {
            let missing = plan.losses.iter().filter(|loss| loss.back_to_step.is_none()).count();
            let got = format!("none of {missing} blocks and {} places of metadata", plan.metadata);
            return Err(Error::invalid("copy to rebuild from", got, "one with every damaged block"));
        }
        // Read once more, rather than keep all of them in memory or write some before it is certain that none is missing.
        let mut blocks = 0;
        self.previous_is_whole = false;
        self.each_patch(donor, seen, &mut RebuildPlan::default(), &mut |store, patch| {
            blocks += 1;
            write_patch(store, &patch)
        })?;
        let record = self.store.record().clone();
        let step = self.store.superblock().step;
        let committed = self.store.commit(record, step)?;
        Ok(Rebuilt { blocks, generation: committed.generation })
    }

    /// Hands over a whole copy of each damaged block's plane that has one, and counts them.
    fn each_patch(
        &mut self,
        donor: &Arc<dyn Volume>,
        seen: &Verification,
        plan: &mut RebuildPlan,
        take: &mut dyn FnMut(&mut BlockStore, Patch) -> Result<()>,
    ) -> Result<()> {
        if to_u64(seen.findings.len()) < seen.findings_total {
            let got = format!("{} of {} damaged places", seen.findings.len(), seen.findings_total);
            return Err(Error::invalid("verification to repair by", got, "all of them, by `findings_max`"));
        }
        let mut donor = BlockStore::open_unchecked(Arc::clone(donor), Generation::Newest)?;
        self.check_kinship(&donor)?;
        for finding in &seen.findings {
            let Some((block, plane)) = finding.block.zip(finding.plane.as_deref()) else {
                plan.metadata += 1;
                continue;
            };
            let directory = Arc::clone(self.store.directory());
            let block = BlockIndex(block);
            let found = plane_of_block(&directory, block, plane).and_then(|(at, plane)| {
                let extent = directory.extents.get(at)?;
                let is_frozen = directory.is_frozen(extent);
                let keeps_entry = is_frozen || extent.records.is_some();
                Some((plane, block_place(extent, block, plane)?, keeps_entry, is_frozen))
            });
            let Some((plane, place, keeps_entry, is_frozen)) = found else {
                plan.metadata += 1;
                continue;
            };
            let damaged = self.store.block_entry(place.slot)?;
            let entry = donor.block_entry(place.slot)?;
            let copy = read_copy(&mut donor, &place, entry)?;
            let is_same = entry.generation == damaged.generation && entry.crc == damaged.crc;
            if copy.is_some() && is_same {
                plan.exact += 1;
            } else {
                plan.losses.push(Loss {
                    what: describe_block(&directory, block, plane),
                    tensors: finding.tensors.clone(),
                    back_to_step: copy.is_some().then_some(donor.superblock().step),
                });
            }
            if let Some(bytes) = copy {
                let entry = keeps_entry.then_some(entry);
                take(&mut self.store, Patch { place, bytes, entry, is_frozen })?;
            }
        }
        Ok(())
    }

    /// A copy of another store has other bytes at the same places.
    fn check_kinship(&self, donor: &BlockStore) -> Result<()> {
        if donor.uuid() == self.store.uuid() && donor.directory() == self.store.directory() {
            return Ok(());
        }
        let got = format!("store {}", donor.uuid());
        Err(Error::invalid("copy to rebuild from", got, format!("one of store {}", self.store.uuid())))
    }
}

/// The bytes of a block's plane in another copy of the store, if they are there and whole.
fn read_copy(donor: &mut BlockStore, place: &BlockPlace, entry: BlockEntry) -> Result<Option<Buffer>> {
    if entry.generation == 0 {
        return Ok(None);
    }
    let mut buffer = Buffer::new(place.padded)?;
    let file = donor.segment(place.segment, Home(entry.home), Caching::Cached)?;
    if file.read_at(buffer.get_mut(..place.padded).unwrap_or_default(), place.offset).is_err() {
        return Ok(None);
    }
    let bytes = buffer.get(..place.bytes).unwrap_or_default();
    let crc = block_crc(donor.uuid(), place.slot, entry.generation, bytes);
    Ok((crc == entry.crc).then_some(buffer))
}

/// Writes a block's plane by the rules of every other write: into the home that the committed generation does not use. A block
/// of frozen tensors has one home: what is damaged in it gets the bytes that it had, under the generation that wrote them.
fn write_patch(store: &mut BlockStore, patch: &Patch) -> Result<()> {
    let Patch { place, bytes, entry, is_frozen } = patch;
    let home = if *is_frozen { Home(0) } else { store.write_home(place.slot)? };
    let caching = Caching::Cached;
    let (uuid, generation) = (store.uuid(), store.working_generation());
    let crc = block_crc(uuid, place.slot, generation, bytes.get(..place.bytes).unwrap_or_default());
    let file = store.segment(place.segment, home, caching)?;
    let written = file.write_at(bytes.get(..place.padded).unwrap_or_default(), place.offset);
    written.inspect_err(|error| store.poison(error))?;
    store.note_written(place.slot, Written { segment: place.segment, home, caching, crc })?;
    // Of rows, the generation stands in the checksums of their pages, and what is in the log since then counts on.
    entry.map_or(Ok(()), |entry| store.keep_entry(place.slot, entry))
}
