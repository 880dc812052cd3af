//! A listing of blocks that steps over never-written stretches.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::sync::Arc;

use crate::error::Result;
use crate::format::directory::Directory;
use crate::format::page::{BlockEntry, Page};
use crate::format::segment_file;
use crate::layout::{Occupants, block_of_slot, block_place};
use crate::param_store::ParamStore;
use crate::store::{Visit, Walk, decode_error, entries_of_leaf};
use crate::units::{SlotIndex, to_u64};

/// What a listing of blocks comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum BlockRun {
    /// One plane of one block that some generation wrote.
    Written(BlockWritten),
    /// Planes of blocks that hold their initial values and were never written.
    Absent(BlocksAbsent),
}

/// One plane of one block that some generation wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BlockWritten {
    /// The tensors that stand in the block.
    pub tensors: Vec<String>,
    /// The plane.
    pub plane: String,
    /// The block's number in the store.
    pub block: u64,
    /// The home (0 or 1) that holds it.
    pub home: u8,
    /// The generation that wrote it.
    pub generation: u64,
    /// The checksum over identity and bytes.
    pub crc: u32,
    /// The file.
    pub file: String,
    /// Offset of its first byte in the file.
    pub offset: u64,
    /// Its length in bytes, without padding.
    pub bytes: u64,
}

/// A stretch of blocks of which no plane was ever written, or single planes inside one block.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BlocksAbsent {
    /// The first block.
    pub first_block: u64,
    /// The last block.
    pub last_block: u64,
    /// How many planes of blocks these are in all.
    pub planes: u64,
}

/// The blocks of the committed generation in table order: block by block, the parameter plane first. See
/// [`ParamStore::blocks`].
pub struct Blocks<'a> {
    directory: Arc<Directory>,
    occupants: Occupants,
    path: PathBuf,
    walk: Option<Walk>,
    slots: u64,
    /// Where the never-written stretch at hand begins.
    absent_from: SlotIndex,
    found: VecDeque<Result<BlockRun>>,
    /// The generation is pinned, and stays the committed one, as long as the store is borrowed.
    _store: PhantomData<&'a ParamStore>,
}

impl ParamStore {
    /// Lists the blocks of the committed generation. Never-written stretches come as one item and cost nothing; a
    /// damaged table page comes as an error, and the listing goes on behind it.
    ///
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// use paramstore::inspect::BlockRun;
    ///
    /// store.write("w", &[1.0; 6])?;
    /// store.commit(b"")?;
    /// let runs: Vec<_> = store.blocks().collect::<Result<_, _>>()?;
    /// let BlockRun::Written(block) = &runs[0] else { panic!("`w` was written") };
    /// assert_eq!((block.tensors[0].as_str(), block.plane.as_str(), block.bytes), ("w", "param", 6 * 4));
    /// assert!(matches!(&runs[1], BlockRun::Absent(_))); // its momentum was not
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    #[must_use]
    pub fn blocks(&self) -> Blocks<'_> {
        let directory = self.directory();
        let pager = self.pager().lock();
        let store = pager.store();
        let superblock = store.superblock();
        let first = SlotIndex(to_u64(directory.tensors.len()));
        Blocks {
            occupants: Occupants::new(&directory),
            path: store.meta().path().to_owned(),
            walk: Walk::new(Arc::clone(store.meta()), superblock, first),
            slots: superblock.table_slots,
            absent_from: first,
            found: VecDeque::new(),
            directory,
            _store: PhantomData,
        }
    }
}

impl std::fmt::Debug for Blocks<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Blocks").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Blocks<'_> {
    /// Lists what stands before `slot` and was never written; the next such stretch begins at `next`.
    fn end_absent(&mut self, slot: SlotIndex, next: SlotIndex) {
        let start = std::mem::replace(&mut self.absent_from, next);
        let Some(last) = slot.0.checked_sub(1).filter(|&last| start.0 <= last) else { return };
        let block = |slot| block_of_slot(&self.directory, slot).map(|(_, block, _)| block.0);
        if let (Some(first_block), Some(last_block)) = (block(start), block(SlotIndex(last))) {
            let absent = BlocksAbsent { first_block, last_block, planes: slot.0 - start.0 };
            self.found.push_back(Ok(BlockRun::Absent(absent)));
        }
    }

    fn leaf(&mut self, first: SlotIndex, page: &Page) {
        let from = self.absent_from;
        for (slot, place) in entries_of_leaf(first, self.slots).skip_while(|(slot, _)| *slot < from) {
            let item = match page.block(place) {
                Ok(entry) if entry.generation == 0 => continue,
                Ok(entry) => self.written(slot, entry).map(|written| Ok(BlockRun::Written(written))),
                Err(error) => Some(Err(decode_error(&self.path, 0, error))),
            };
            self.end_absent(slot, SlotIndex(slot.0 + 1));
            self.found.extend(item);
        }
    }

    fn written(&self, slot: SlotIndex, entry: BlockEntry) -> Option<BlockWritten> {
        let (at, block, plane) = block_of_slot(&self.directory, slot)?;
        let place = block_place(self.directory.extents.get(at)?, block, plane)?;
        let segment = self.directory.segments.get(place.segment)?;
        let name = &self.directory.planes.get(usize::from(segment.plane))?.name;
        let tensors = self.occupants.names(&self.directory, at, block);
        Some(BlockWritten {
            tensors: tensors.into_iter().map(str::to_owned).collect(),
            plane: name.clone(),
            block: block.0,
            home: entry.home,
            generation: entry.generation,
            crc: entry.crc,
            file: segment_file(name, segment.index, entry.home),
            offset: place.offset,
            bytes: to_u64(place.bytes),
        })
    }
}

impl Iterator for Blocks<'_> {
    type Item = Result<BlockRun>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(item) = self.found.pop_front() {
                return Some(item);
            }
            let walk = self.walk.as_mut()?;
            match walk.next() {
                Some(Visit::Inner { .. }) => {}
                Some(Visit::Leaf { first, page, .. }) => self.leaf(first, &page),
                Some(Visit::Damaged { error, first, end }) => {
                    self.end_absent(first, end.max(self.absent_from));
                    self.found.push_back(Err(error));
                }
                None => {
                    self.walk = None;
                    self.end_absent(SlotIndex(self.slots), SlotIndex(self.slots));
                }
            }
        }
    }
}
