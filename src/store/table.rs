//! The block table in memory: pages read when asked for, changed pages kept until the commit writes them.

use std::collections::HashMap;
use std::sync::Arc;

use super::decode_error;
use crate::error::Result;
use crate::format::page::{BlockEntry, Child, ENTRIES_PER_LEAF, Page, PageIndex, TableShape, TensorEntry};
use crate::format::{PAGE_BYTES, Uuid};
use crate::storage::Segment;
use crate::units::{SlotIndex, to_u64, to_usize};

/// Unchanged pages kept in memory (16 MiB); changed ones stay until the commit.
const CLEAN_PAGES_MAX: usize = 4096;

struct Cached {
    page: Page,
    dirty: bool,
}

pub(super) struct Table {
    shape: TableShape,
    offset: u64,
    uuid: Uuid,
    root: Child,
    pages: HashMap<PageIndex, Cached>,
    dirty: usize,
}

impl Table {
    pub(super) fn new(shape: TableShape, offset: u64, uuid: Uuid, root: Child) -> Self {
        Self { shape, offset, uuid, root, pages: HashMap::new(), dirty: 0 }
    }

    pub(super) fn bytes(&self) -> u64 {
        to_u64(self.pages.len()) * PAGE_BYTES
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.dirty > 0
    }

    pub(super) fn block(&mut self, meta: &Arc<dyn Segment>, slot: SlotIndex) -> Result<BlockEntry> {
        let (leaf, place) = TableShape::leaf_of(slot);
        let offset = TableShape::offset(self.offset, leaf, 0);
        self.page(meta, leaf)?.page.block(place).map_err(|e| decode_error(meta.path(), offset, e))
    }

    pub(super) fn tensor(&mut self, meta: &Arc<dyn Segment>, slot: SlotIndex) -> Result<TensorEntry> {
        let (leaf, place) = TableShape::leaf_of(slot);
        let offset = TableShape::offset(self.offset, leaf, 0);
        self.page(meta, leaf)?.page.tensor(place).map_err(|e| decode_error(meta.path(), offset, e))
    }

    pub(super) fn set_block(
        &mut self,
        meta: &Arc<dyn Segment>,
        slot: SlotIndex,
        entry: BlockEntry,
    ) -> Result<()> {
        let (leaf, place) = TableShape::leaf_of(slot);
        self.page(meta, leaf)?.page.set_block(place, entry);
        self.mark(leaf);
        Ok(())
    }

    pub(super) fn set_tensor(
        &mut self,
        meta: &Arc<dyn Segment>,
        slot: SlotIndex,
        entry: TensorEntry,
    ) -> Result<()> {
        let (leaf, place) = TableShape::leaf_of(slot);
        self.page(meta, leaf)?.page.set_tensor(place, entry);
        self.mark(leaf);
        Ok(())
    }

    /// If no entry of a slot's leaf was ever written: the first slot behind that leaf.
    pub(super) fn absent_until(
        &mut self,
        meta: &Arc<dyn Segment>,
        slot: SlotIndex,
    ) -> Result<Option<SlotIndex>> {
        let (leaf, place) = TableShape::leaf_of(slot);
        if self.pages.contains_key(&leaf) || self.child_of(meta, leaf)?.present {
            return Ok(None);
        }
        Ok(Some(SlotIndex(slot.0 - to_u64(place) + ENTRIES_PER_LEAF)))
    }

    fn mark(&mut self, index: PageIndex) {
        if let Some(cached) = self.pages.get_mut(&index)
            && !cached.dirty
        {
            cached.dirty = true;
            self.dirty += 1;
        }
    }

    fn child_of(&mut self, meta: &Arc<dyn Segment>, index: PageIndex) -> Result<Child> {
        match self.shape.parent_of(index) {
            None => Ok(self.root),
            Some((parent, place)) => {
                let offset = TableShape::offset(self.offset, parent, 0);
                self.page(meta, parent)?.page.child(place).map_err(|e| decode_error(meta.path(), offset, e))
            }
        }
    }

    /// The page in memory, read and checked if it was not; its parents come first.
    fn page(&mut self, meta: &Arc<dyn Segment>, index: PageIndex) -> Result<&mut Cached> {
        if !self.pages.contains_key(&index) {
            let child = self.child_of(meta, index)?;
            let page = if child.present { self.read(meta, index, child)? } else { Page::absent() };
            if self.pages.len() - self.dirty >= CLEAN_PAGES_MAX {
                self.pages.retain(|_, cached| cached.dirty);
            }
            self.pages.insert(index, Cached { page, dirty: false });
        }
        Ok(self.pages.entry(index).or_insert_with(|| Cached { page: Page::absent(), dirty: false }))
    }

    fn read(&self, meta: &Arc<dyn Segment>, index: PageIndex, child: Child) -> Result<Page> {
        let offset = TableShape::offset(self.offset, index, child.home);
        let mut bytes = vec![0; to_usize(PAGE_BYTES)];
        meta.read_at(&mut bytes, offset)?;
        let level = self.shape.level_of(index);
        Page::decode(&bytes, self.uuid, child, index, level).map_err(|e| decode_error(meta.path(), offset, e))
    }

    /// Writes every changed page and its parents into their other homes, leaves first, and returns the new root and
    /// the bytes written. Nothing is durable yet.
    pub(super) fn write_changed(&mut self, meta: &Arc<dyn Segment>, generation: u64) -> Result<(Child, u64)> {
        let mut root = self.root;
        let mut written = 0;
        for level in 0..self.shape.levels() {
            let mut changed: Vec<_> = self
                .pages
                .iter()
                .filter(|(index, cached)| cached.dirty && self.shape.level_of(**index) == level)
                .map(|(index, _)| *index)
                .collect();
            changed.sort_unstable();
            for index in changed {
                let old = self.child_of(meta, index)?;
                let home = if old.present { 1 - old.home } else { 0 };
                let offset = TableShape::offset(self.offset, index, home);
                let uuid = self.uuid;
                let (bytes, crc) = self.page(meta, index)?.page.seal(uuid, index, level, generation);
                meta.write_at(bytes, offset)?;
                written += PAGE_BYTES;
                let child = Child { present: true, home, crc };
                match self.shape.parent_of(index) {
                    None => root = child,
                    Some((parent, place)) => {
                        self.page(meta, parent)?.page.set_child(place, child);
                        self.mark(parent);
                    }
                }
            }
        }
        Ok((root, written))
    }

    /// Takes over what `write_changed` wrote, once a superblock names it.
    pub(super) fn committed(&mut self, root: Child) {
        self.root = root;
        self.dirty = 0;
        for cached in self.pages.values_mut() {
            cached.dirty = false;
        }
    }

    /// Forgets every change since the last commit.
    pub(super) fn discard(&mut self, root: Child) {
        self.root = root;
        self.dirty = 0;
        self.pages.clear();
    }
}
