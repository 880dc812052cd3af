//! The way back: the working generation becomes what a checkpoint holds.

use std::iter::Peekable;
use std::path::PathBuf;
use std::sync::Arc;

use super::{Plane, TablePage, Work};
use crate::error::{Error, Result};
use crate::format::Uuid;
use crate::format::checksum::block_crc;
use crate::format::page::{BlockEntry, TensorEntry};
use crate::format::record::Record;
use crate::format::records::{Records, seal_page};
use crate::format::row_log::RowState;
use crate::layout::block_of_slot;
use crate::storage::{Buffer, Caching, Queue};
use crate::store::{BlockStore, Committed, Home, Visit, Walk, Written, decode_error, entries_of_leaf};
use crate::units::{SlotIndex, to_u64, to_usize};

/// What going back to a checkpoint would take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct BackCost {
    /// Planes of blocks that differ and are copied, and their bytes.
    pub(crate) planes: u64,
    pub(crate) bytes: u64,
    /// Planes that are what they were.
    pub(crate) planes_same: u64,
    /// Planes that were first written after the checkpoint, and become unwritten again.
    pub(crate) planes_unborn: u64,
}

/// An entry of the table that differs.
enum Difference {
    Tensor(usize, TensorEntry),
    Block(Plane),
    Unborn(SlotIndex),
}

/// A copy that has ended.
struct Done {
    slot: SlotIndex,
    /// What the checkpoint says of it, where that stays in force: of frozen tensors.
    keep: Option<BlockEntry>,
    len_bytes: u64,
    buffer: Buffer,
    result: Result<Written, Failure>,
}

enum Failure {
    Read(Error),
    Write(Error),
    Checksum { path: PathBuf, plane: Box<Plane>, got: u32 },
}

impl BlockStore {
    /// Refuses a checkpoint that is not one of this store's.
    pub(crate) fn check_checkpoint(&self, kept: &Self) -> Result<()> {
        let (ours, theirs) = (self.superblock(), kept.superblock());
        let wrong = |what: &str, got: String, expected: String| {
            Err(Error::damaged(kept.meta().path(), what, (0, crate::format::PAGE_BYTES), got, expected))
        };
        if theirs.uuid != ours.uuid {
            return wrong("uuid of a checkpoint", theirs.uuid.to_string(), ours.uuid.to_string());
        }
        if theirs.generation > ours.generation {
            let expected = format!("at most {}, that of the store", ours.generation);
            return wrong("generation of a checkpoint", theirs.generation.to_string(), expected);
        }
        let is_same = kept.directory == self.directory && theirs.directory == ours.directory;
        if !is_same || theirs.table_slots != ours.table_slots || theirs.table_offset != ours.table_offset {
            let got = format!("checksum {:08x}", theirs.directory.crc);
            return wrong("directory of a checkpoint", got, format!("{:08x}", ours.directory.crc));
        }
        Ok(())
    }

    /// Says what going back would take. Reads both tables.
    pub(crate) fn back_cost(&self, kept: &Self) -> Result<BackCost> {
        self.check_checkpoint(kept)?;
        let mut cost = BackCost::default();
        let mut differences = Differences::new(self, kept);
        while let Some(found) = differences.next_leaf(self, kept, &mut cost)? {
            for difference in &found {
                cost.count(difference);
            }
        }
        cost.bytes += kept.log_ranges().iter().map(|&(_, bytes)| bytes).sum::<u64>();
        Ok(cost)
    }

    /// Gives all blocks and tensors of the working generation what a checkpoint has of them. Nothing is uncommitted before.
    ///
    /// Blocks with the same generation and checksum are the same bytes, wherever they stand. A failure leaves a working
    /// generation to be discarded; one of a write stops the handle.
    pub(crate) fn restore(&mut self, kept: &mut Self, work: &mut Work<'_>) -> Result<BackCost> {
        self.check_writable("go back to a checkpoint")?;
        self.check_checkpoint(kept)?;
        let mut cost = BackCost::default();
        let mut restorer = Restorer { queue: Queue::new(work.threads)?, work, in_flight: 0, bytes: 0 };
        let restored = restorer.restore(self, kept, &mut cost);
        restorer.finish();
        cost.bytes += kept.log_ranges().iter().map(|&(_, bytes)| bytes).sum::<u64>();
        restored.map(|()| cost)
    }

    /// Commits what has been restored, with a checkpoint's record; `rows` is where its rows stand in this log.
    pub(crate) fn commit_restored(&mut self, kept: &Self, rows: Option<RowState>) -> Result<Committed> {
        self.commit(Record { rows, ..kept.record().clone() }, kept.superblock().step)
    }
}

/// What a block's bytes are in another generation: pages of records carry theirs in their checksums.
fn move_to(records: Option<&Records>, uuid: Uuid, slot: SlotIndex, generation: u64, bytes: &mut [u8]) {
    let Some(records) = records else { return };
    for (number, page) in bytes.chunks_exact_mut(to_usize(records.page_bytes.into())).enumerate() {
        seal_page(uuid, slot, generation, number, page);
    }
}

impl BackCost {
    fn count(&mut self, difference: &Difference) {
        match difference {
            Difference::Tensor(..) => {}
            Difference::Unborn(_) => self.planes_unborn += 1,
            Difference::Block(plane) => {
                self.planes += 1;
                self.bytes += to_u64(plane.place.padded);
            }
        }
    }
}

/// Walks over the leaves that either of two tables has.
struct Differences {
    ours: Peekable<Leaves>,
    kept: Peekable<Leaves>,
}

/// The leaves of a table that were ever written.
struct Leaves(Option<Walk>);

impl Iterator for Leaves {
    type Item = Result<(SlotIndex, TablePage)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.0.as_mut()?.next()? {
                Visit::Damaged { error, .. } => return Some(Err(error)),
                Visit::Inner { .. } => {}
                Visit::Leaf { offset, page, first, .. } => {
                    return Some(Ok((first, TablePage { offset, page, first: Some(first) })));
                }
            }
        }
    }
}

impl Differences {
    fn new(ours: &BlockStore, kept: &BlockStore) -> Self {
        let leaves = |store: &BlockStore| {
            Leaves(Walk::new(Arc::clone(&store.meta), &store.committed, SlotIndex(0))).peekable()
        };
        Self { ours: leaves(ours), kept: leaves(kept) }
    }

    /// What differs in the next leaf; planes that do not are counted.
    fn next_leaf(
        &mut self,
        ours: &BlockStore,
        kept: &BlockStore,
        cost: &mut BackCost,
    ) -> Result<Option<Vec<Difference>>> {
        let first = |leaves: &mut Peekable<Leaves>| match leaves.peek() {
            Some(Ok((first, _))) => Some(*first),
            // An error is met when it is taken.
            Some(Err(_)) => Some(SlotIndex(0)),
            None => None,
        };
        let Some(at) = first(&mut self.ours).into_iter().chain(first(&mut self.kept)).min() else {
            return Ok(None);
        };
        let here =
            |leaf: &Result<(SlotIndex, TablePage)>| leaf.as_ref().map_or(true, |(first, _)| *first == at);
        let leaf_of_ours = self.ours.next_if(here).transpose()?.map(|(_, page)| page);
        let leaf_of_kept = self.kept.next_if(here).transpose()?.map(|(_, page)| page);
        let tensors = to_u64(ours.directory.tensors.len());
        let mut found = Vec::new();
        for (slot, place) in entries_of_leaf(at, ours.committed.table_slots) {
            if slot.0 < tensors {
                let has = tensor(ours, leaf_of_ours.as_ref(), place)?;
                let wants = tensor(kept, leaf_of_kept.as_ref(), place)?;
                if has.steps != wants.steps || has.mu_product.to_bits() != wants.mu_product.to_bits() {
                    found.push(Difference::Tensor(to_usize(slot.0), wants));
                }
                continue;
            }
            let has = block(ours, leaf_of_ours.as_ref(), place)?;
            let wants = block(kept, leaf_of_kept.as_ref(), place)?;
            match (wants.generation, (wants.generation, wants.crc) == (has.generation, has.crc)) {
                (0, _) if has.generation > 0 => found.push(Difference::Unborn(slot)),
                (0, _) => {}
                (_, true) => cost.planes_same += 1,
                (_, false) => found.push(Difference::Block(kept.plane(slot, wants)?)),
            }
        }
        Ok(Some(found))
    }
}

fn block(store: &BlockStore, leaf: Option<&TablePage>, place: usize) -> Result<BlockEntry> {
    let Some(leaf) = leaf else { return Ok(BlockEntry::default()) };
    leaf.page.block(place).map_err(|e| decode_error(store.meta.path(), leaf.offset, e))
}

fn tensor(store: &BlockStore, leaf: Option<&TablePage>, place: usize) -> Result<TensorEntry> {
    let Some(leaf) = leaf else { return Ok(TensorEntry { steps: 0, mu_product: 1.0 }) };
    leaf.page.tensor(place).map_err(|e| decode_error(store.meta.path(), leaf.offset, e))
}

/// Copies planes from a checkpoint into homes of the working generation.
struct Restorer<'w, 'a> {
    queue: Queue<Done>,
    work: &'w mut Work<'a>,
    in_flight: usize,
    bytes: u64,
}

impl Restorer<'_, '_> {
    fn restore(&mut self, store: &mut BlockStore, kept: &mut BlockStore, cost: &mut BackCost) -> Result<()> {
        let mut differences = Differences::new(store, kept);
        while let Some(found) = differences.next_leaf(store, kept, cost)? {
            for difference in found {
                cost.count(&difference);
                match difference {
                    Difference::Tensor(tensor, entry) => store.set_tensor_entry(tensor, entry)?,
                    Difference::Unborn(slot) => store.set_unborn(slot)?,
                    Difference::Block(plane) => self.submit(store, kept, plane)?,
                }
            }
        }
        while self.in_flight > 0 {
            self.take_in(store, kept)?;
        }
        Ok(())
    }

    fn submit(&mut self, store: &mut BlockStore, kept: &mut BlockStore, plane: Plane) -> Result<()> {
        while self.work.buffers.is_empty() {
            self.take_in(store, kept)?;
        }
        let Some(mut buffer) = self.work.buffers.pop() else { return Ok(()) };
        let Plane { slot, entry, place } = plane;
        let (segment, caching) = (place.segment, Caching::Direct);
        let files = kept.segment(segment, Home(entry.home), Caching::Direct).and_then(|source| {
            let home = store.write_home(slot)?;
            Ok((source, home, store.segment(segment, home, caching)?))
        });
        let (source, home, target) = match files {
            Ok(files) => files,
            Err(error) => {
                self.work.buffers.push(buffer);
                return Err(error);
            }
        };
        let (uuid, generation) = (store.uuid(), store.working_generation());
        let extent =
            block_of_slot(&store.directory, slot).and_then(|(at, ..)| store.directory.extents.get(at));
        let records = extent.and_then(|extent| extent.records.clone());
        let is_frozen = extent.is_some_and(|extent| store.directory.is_frozen(extent));
        let keep = is_frozen.then_some(entry);
        self.in_flight += 1;
        self.queue.submit(move || {
            let attempt = |padded: &mut [u8]| {
                source.read_at(padded, place.offset).map_err(Failure::Read)?;
                let bytes = padded.get_mut(..place.bytes).unwrap_or_default();
                let got = block_crc(uuid, slot, entry.generation, bytes);
                if got != entry.crc {
                    let path = source.path().to_owned();
                    return Err(Failure::Checksum { path, plane: Box::new(plane), got });
                }
                move_to(records.as_ref(), uuid, slot, generation, bytes);
                let crc = block_crc(uuid, slot, generation, bytes);
                target.write_at(padded, place.offset).map_err(Failure::Write)?;
                Ok(Written { segment, home, caching, crc })
            };
            let result = attempt(buffer.get_mut(..place.padded).unwrap_or_default());
            Done { slot, keep, len_bytes: to_u64(place.padded), buffer, result }
        });
        Ok(())
    }

    fn take_in(&mut self, store: &mut BlockStore, kept: &BlockStore) -> Result<()> {
        let Some(done) = self.queue.recv() else {
            let what = "memory to copy blocks";
            return Err(Error::invalid(what, "none", "a buffer that holds a plane"));
        };
        self.in_flight -= 1;
        self.work.buffers.push(done.buffer);
        match done.result {
            Ok(written) => {
                self.bytes += done.len_bytes;
                (self.work.progress)(self.bytes);
                store.note_written(done.slot, written)?;
                // Else the same checkpoint would differ from then on, and there is no second home.
                done.keep.map_or(Ok(()), |entry| store.keep_entry(done.slot, entry))
            }
            Err(Failure::Read(error)) => Err(error),
            Err(Failure::Write(error)) => {
                store.poison(&error);
                Err(error)
            }
            Err(Failure::Checksum { path, plane, got }) => Err(kept.wrong_checksum(&path, &plane, got)),
        }
    }

    /// Takes all memory back, whatever became of the copies.
    fn finish(self) {
        while let Some(done) = self.queue.recv() {
            self.work.buffers.push(done.buffer);
        }
    }
}
