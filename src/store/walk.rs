//! A walk over the table pages of the committed generation: absent subtrees are skipped without visiting their
//! entries, damaged ones are reported and left out.

use std::sync::Arc;

use super::decode_error;
use crate::error::Error;
use crate::format::page::{CHILDREN_PER_PAGE, Child, ENTRIES_PER_LEAF, Page, PageIndex, TableShape};
use crate::format::superblock::Superblock;
use crate::format::{PAGE_BYTES, Uuid};
use crate::storage::Segment;
use crate::units::{SlotIndex, to_usize};

/// A page on the way from the root to the leaf at hand.
struct Open {
    page: Page,
    index: PageIndex,
    level: usize,
    offset: u64,
    /// The next child to visit.
    place: u64,
}

/// What the walk comes to.
pub(crate) enum Visit {
    /// An inner page that is whole, and its place in the metadata file.
    Inner { index: PageIndex, offset: u64, page: Page },
    /// A leaf that is whole, its first entry, and its place in the metadata file.
    Leaf { index: PageIndex, first: SlotIndex, offset: u64, page: Page },
    /// A page that is not whole: none of the entries below it, from `first` to before `end`, can be believed.
    Damaged { error: Error, first: SlotIndex, end: SlotIndex },
}

pub(crate) struct Walk {
    meta: Arc<dyn Segment>,
    shape: TableShape,
    offset: u64,
    uuid: Uuid,
    slots: u64,
    /// The root, before it was visited.
    root: Option<Child>,
    open: Vec<Open>,
    from: SlotIndex,
}

impl Walk {
    /// Walks over the entries from `from` on; `None` for a table without entries.
    pub(crate) fn new(meta: Arc<dyn Segment>, superblock: &Superblock, from: SlotIndex) -> Option<Self> {
        Some(Self {
            shape: TableShape::new(superblock.table_slots)?,
            meta,
            offset: superblock.table_offset,
            uuid: superblock.uuid,
            slots: superblock.table_slots,
            root: Some(superblock.root),
            open: Vec::new(),
            from,
        })
    }

    /// Entries below one page of a level, 0 being the leaves.
    fn span(level: usize) -> u64 {
        (0..level).fold(ENTRIES_PER_LEAF, |span, _| span.saturating_mul(CHILDREN_PER_PAGE))
    }

    fn visit(&mut self, index: PageIndex, level: usize, child: Child) -> Option<Visit> {
        let span = Self::span(level);
        let first = self.shape.within_level(index).saturating_mul(span);
        let end = first.saturating_add(span).min(self.slots);
        if !child.present || end <= self.from.0 {
            return None;
        }
        let offset = TableShape::offset(self.offset, index, child.home);
        let mut bytes = vec![0; to_usize(PAGE_BYTES)];
        let page = self.meta.read_at(&mut bytes, offset).and_then(|()| {
            let decoded = Page::decode(&bytes, self.uuid, child, index, level);
            decoded.map_err(|error| decode_error(self.meta.path(), offset, error))
        });
        Some(match page {
            Err(error) => Visit::Damaged { error, first: SlotIndex(first), end: SlotIndex(end) },
            Ok(page) if level == 0 => Visit::Leaf { index, first: SlotIndex(first), offset, page },
            Ok(page) => {
                let below = Self::span(level - 1);
                let place = self.from.0.saturating_sub(first) / below;
                self.open.push(Open { page: page.clone(), index, level, offset, place });
                Visit::Inner { index, offset, page }
            }
        })
    }

    /// The next child of the innermost open page, or `None` after its last.
    fn step(&mut self) -> Option<(PageIndex, usize, Result<Child, Error>)> {
        let open = self.open.last_mut()?;
        let place = open.place;
        open.place += 1;
        let index = self.shape.child_of(open.index, place)?;
        let child = open.page.child(to_usize(place));
        let child = child.map_err(|error| decode_error(self.meta.path(), open.offset, error));
        Some((index, open.level - 1, child))
    }
}

impl Iterator for Walk {
    type Item = Visit;

    fn next(&mut self) -> Option<Visit> {
        if let Some(root) = self.root.take() {
            let (index, level) = (self.shape.root(), self.shape.levels() - 1);
            if let Some(visit) = self.visit(index, level, root) {
                return Some(visit);
            }
        }
        while !self.open.is_empty() {
            match self.step() {
                None => drop(self.open.pop()),
                Some((index, level, Ok(child))) => {
                    if let Some(visit) = self.visit(index, level, child) {
                        return Some(visit);
                    }
                }
                Some((index, level, Err(error))) => {
                    let span = Self::span(level);
                    let first = self.shape.within_level(index).saturating_mul(span);
                    let end = first.saturating_add(span).min(self.slots);
                    return Some(Visit::Damaged { error, first: SlotIndex(first), end: SlotIndex(end) });
                }
            }
        }
        None
    }
}

/// The entries of a leaf that are in use, with their places.
pub(crate) fn entries_of_leaf(first: SlotIndex, slots: u64) -> impl Iterator<Item = (SlotIndex, usize)> {
    let end = slots.min(first.0.saturating_add(ENTRIES_PER_LEAF));
    (first.0..end).map(SlotIndex).zip(0..)
}
