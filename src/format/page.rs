//! Table pages: a tree of fixed shape whose leaves hold one 16-byte entry for each slot.

use super::PAGE_BYTES;
use super::checksum::{Uuid, page_crc};
use super::codec::{Decoded, FormatError, Reader, Writer};
use crate::units::{SlotIndex, to_usize};

const MAGIC: u32 = u32::from_le_bytes(*b"PTBL");
const HEADER_BYTES: usize = 32;
const ENTRY_BYTES: usize = 16;
const CHILD_BYTES: usize = 8;

/// Entries of one leaf page.
pub(crate) const ENTRIES_PER_LEAF: u64 = 254;
/// Children of one inner page.
pub(crate) const CHILDREN_PER_PAGE: u64 = 508;

const PAGE: usize = 4096;
const _: () = assert!(HEADER_BYTES + ENTRY_BYTES * 254 == PAGE);
const _: () = assert!(HEADER_BYTES + CHILD_BYTES * 508 == PAGE);

/// What the table says of one plane of one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct BlockEntry {
    /// Generation that wrote it; 0 where it was never written and holds its initial values.
    pub(crate) generation: u64,
    /// Checksum over identity and bytes.
    pub(crate) crc: u32,
    /// The home (0 or 1) that holds it.
    pub(crate) home: u8,
}

/// What the table says of one tensor: the clock of its update rule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct TensorEntry {
    /// Updates applied to the tensor so far.
    pub(crate) steps: u64,
    /// NAdam's running product of momenta; 1 before the first update.
    pub(crate) mu_product: f32,
}

/// Where a child page stands and what its checksum is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Child {
    /// Whether the page was ever written; an absent page stands for zeros.
    pub(crate) present: bool,
    pub(crate) home: u8,
    pub(crate) crc: u32,
}

impl Child {
    pub(crate) fn encode(self, w: &mut Writer) {
        w.u32(self.crc);
        w.u8(self.home);
        w.u8(u8::from(self.present));
        w.u16(0);
    }

    pub(crate) fn decode(r: &mut Reader<'_>) -> Decoded<Self> {
        let crc = r.u32("child checksum")?;
        let home = r.u8("child home")?;
        let present = r.u8("child state")?;
        let reserved = r.u16("child reserved")?;
        if home > 1 || present > 1 || reserved != 0 {
            return Err(r.error(
                "child",
                format!("home {home}, state {present}, {reserved}"),
                "0 or 1, 0 or 1, 0",
            ));
        }
        Ok(Self { present: present == 1, home, crc })
    }
}

/// Number of a page, counted leaves first, then level by level; the root is the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PageIndex(pub(crate) u64);

/// The shape of the tree over a number of slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TableShape {
    /// First page of each level; level 0 are the leaves.
    starts: Vec<u64>,
    pages: u64,
}

impl TableShape {
    /// The shape for `slots` entries; `None` for no slots or more than the format can address.
    pub(crate) fn new(slots: u64) -> Option<Self> {
        if slots == 0 || slots > 1 << 48 {
            return None;
        }
        let mut starts = Vec::new();
        let mut first = 0;
        let mut count = slots.div_ceil(ENTRIES_PER_LEAF);
        loop {
            starts.push(first);
            first += count;
            if count == 1 {
                return Some(Self { starts, pages: first });
            }
            count = count.div_ceil(CHILDREN_PER_PAGE);
        }
    }

    pub(crate) fn pages(&self) -> u64 {
        self.pages
    }

    /// Levels of the tree, the leaves included.
    pub(crate) fn levels(&self) -> usize {
        self.starts.len()
    }

    /// Bytes of both homes of all pages.
    pub(crate) fn bytes(&self) -> Option<u64> {
        self.pages.checked_mul(2 * PAGE_BYTES)
    }

    pub(crate) fn root(&self) -> PageIndex {
        PageIndex(self.pages - 1)
    }

    pub(crate) fn level_of(&self, page: PageIndex) -> usize {
        self.starts.partition_point(|&start| start <= page.0) - 1
    }

    /// The leaf that holds a slot, and the entry's place in it.
    pub(crate) fn leaf_of(slot: SlotIndex) -> (PageIndex, usize) {
        (PageIndex(slot.0 / ENTRIES_PER_LEAF), to_usize(slot.0 % ENTRIES_PER_LEAF))
    }

    /// The parent of a page and the child's place in it; `None` for the root.
    pub(crate) fn parent_of(&self, page: PageIndex) -> Option<(PageIndex, usize)> {
        let level = self.level_of(page);
        let above = self.starts.get(level + 1)?;
        let within = page.0 - self.starts.get(level)?;
        Some((PageIndex(above + within / CHILDREN_PER_PAGE), to_usize(within % CHILDREN_PER_PAGE)))
    }

    /// Number of a page among those of its level.
    pub(crate) fn within_level(&self, page: PageIndex) -> u64 {
        page.0 - self.starts.get(self.level_of(page)).copied().unwrap_or(0)
    }

    /// The child at a place of an inner page; `None` past its last child, and for a leaf.
    pub(crate) fn child_of(&self, page: PageIndex, place: u64) -> Option<PageIndex> {
        let below = self.level_of(page).checked_sub(1)?;
        let (start, end) = (self.starts.get(below)?, self.starts.get(below + 1)?);
        let child = start + self.within_level(page).checked_mul(CHILDREN_PER_PAGE)?.checked_add(place)?;
        (place < CHILDREN_PER_PAGE && child < *end).then_some(PageIndex(child))
    }

    /// Offset of a page's home in the metadata file.
    pub(crate) fn offset(table_offset: u64, page: PageIndex, home: u8) -> u64 {
        table_offset + (2 * page.0 + u64::from(home)) * PAGE_BYTES
    }
}

/// One page in memory.
#[derive(Clone)]
pub(crate) struct Page {
    bytes: Box<[u8; PAGE]>,
}

impl Page {
    /// A page that was never written: all entries are zero.
    pub(crate) fn absent() -> Self {
        Self { bytes: Box::new([0; PAGE]) }
    }

    /// Wraps bytes read from disk after checking them against what the parent says.
    pub(crate) fn decode(
        bytes: &[u8],
        uuid: Uuid,
        expected: Child,
        index: PageIndex,
        level: usize,
    ) -> Decoded<Self> {
        let Ok(bytes) = <[u8; PAGE]>::try_from(bytes) else {
            return Err(FormatError::new("table page length", 0, bytes.len(), PAGE));
        };
        let crc = page_crc(uuid, &bytes);
        if crc != expected.crc {
            return Err(FormatError::new(
                format!("table page {} checksum", index.0),
                0,
                format!("{crc:08x}"),
                format!("{:08x} as its parent says", expected.crc),
            ));
        }
        let mut r = Reader::new("table page", &bytes);
        let magic = r.u32("magic")?;
        let at_level = r.u32("level")?;
        let at_index = r.u64("index")?;
        if magic != MAGIC || usize::try_from(at_level) != Ok(level) || at_index != index.0 {
            return Err(r.error(
                "header",
                format!("magic {magic:08x}, level {at_level}, index {at_index}"),
                format!("magic {MAGIC:08x}, level {level}, index {}", index.0),
            ));
        }
        Ok(Self { bytes: Box::new(bytes) })
    }

    /// Fills in the header before the page is written, and returns its bytes and checksum.
    pub(crate) fn seal(
        &mut self,
        uuid: Uuid,
        index: PageIndex,
        level: usize,
        generation: u64,
    ) -> (&[u8], u32) {
        let mut w = Writer::default();
        w.u32(MAGIC);
        w.count(level);
        w.u64(index.0);
        w.u64(generation);
        w.u64(0);
        self.bytes[..HEADER_BYTES].copy_from_slice(w.bytes());
        let crc = page_crc(uuid, &self.bytes[..]);
        (&self.bytes[..], crc)
    }

    /// The page as it stands on disk, once it was read or sealed.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..]
    }

    fn entry(&self, place: usize, size: usize) -> Reader<'_> {
        let start = HEADER_BYTES + place * size;
        Reader::new("table entry", self.bytes.get(start..start + size).unwrap_or_default())
    }

    fn set(&mut self, place: usize, size: usize, w: &Writer) {
        let start = HEADER_BYTES + place * size;
        if let Some(target) = self.bytes.get_mut(start..start + size) {
            target.copy_from_slice(w.bytes());
        }
    }

    pub(crate) fn block(&self, place: usize) -> Decoded<BlockEntry> {
        let mut r = self.entry(place, ENTRY_BYTES);
        let generation = r.u64("generation")?;
        let crc = r.u32("checksum")?;
        let home = r.u8("home")?;
        let reserved = r.raw("reserved", 3)?;
        if home > 1 || reserved != [0; 3] {
            return Err(r.error("home", home, "0 or 1"));
        }
        Ok(BlockEntry { generation, crc, home })
    }

    pub(crate) fn set_block(&mut self, place: usize, entry: BlockEntry) {
        let mut w = Writer::default();
        w.u64(entry.generation);
        w.u32(entry.crc);
        w.u8(entry.home);
        w.raw(&[0; 3]);
        self.set(place, ENTRY_BYTES, &w);
    }

    pub(crate) fn tensor(&self, place: usize) -> Decoded<TensorEntry> {
        let mut r = self.entry(place, ENTRY_BYTES);
        let steps = r.u64("steps")?;
        let mu_product = r.f32("mu_product")?;
        r.u32("reserved")?;
        Ok(TensorEntry { steps, mu_product: if steps == 0 { 1.0 } else { mu_product } })
    }

    pub(crate) fn set_tensor(&mut self, place: usize, entry: TensorEntry) {
        let mut w = Writer::default();
        w.u64(entry.steps);
        w.f32(entry.mu_product);
        w.u32(0);
        self.set(place, ENTRY_BYTES, &w);
    }

    pub(crate) fn child(&self, place: usize) -> Decoded<Child> {
        Child::decode(&mut self.entry(place, CHILD_BYTES))
    }

    pub(crate) fn set_child(&mut self, place: usize, child: Child) {
        let mut w = Writer::default();
        child.encode(&mut w);
        self.set(place, CHILD_BYTES, &w);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_one_leaf_is_its_own_root() {
        let shape = TableShape::new(254).unwrap();
        assert_eq!((shape.pages(), shape.levels(), shape.root()), (1, 1, PageIndex(0)));
        assert_eq!(shape.parent_of(PageIndex(0)), None);
    }

    #[test]
    fn every_page_but_the_root_has_a_parent_one_level_up() {
        let shape = TableShape::new(254 * 508 * 3 + 1).unwrap();
        assert_eq!(shape.levels(), 3);
        for page in 0..shape.pages() - 1 {
            let (parent, place) = shape.parent_of(PageIndex(page)).unwrap();
            assert_eq!(shape.level_of(parent), shape.level_of(PageIndex(page)) + 1);
            assert!(place < 508);
            assert_eq!(shape.child_of(parent, u64::try_from(place).unwrap()), Some(PageIndex(page)));
        }
        assert_eq!(shape.level_of(shape.root()), 2);
        assert_eq!((shape.child_of(shape.root(), 4), shape.child_of(PageIndex(0), 0)), (None, None));
    }

    #[test]
    fn a_trillion_parameters_need_a_table_of_under_a_hundred_megabytes() {
        let blocks = 1_000_000_000_000_u64.div_ceil(1 << 20);
        let shape = TableShape::new(3 * blocks).unwrap();
        assert!(shape.bytes().unwrap() < 100 << 20);
        assert_eq!(shape.levels(), 3);
    }

    #[test]
    fn a_page_is_bound_to_its_place() {
        let uuid = Uuid([1; 16]);
        let mut page = Page::absent();
        let entry = BlockEntry { generation: 5, crc: 77, home: 1 };
        page.set_block(253, entry);
        let (bytes, crc) = page.seal(uuid, PageIndex(4), 0, 5);
        let bytes = bytes.to_vec();
        let child = Child { present: true, home: 0, crc };
        let read = Page::decode(&bytes, uuid, child, PageIndex(4), 0).unwrap();
        assert_eq!(read.block(253).unwrap(), entry);
        assert_eq!(read.block(252).unwrap(), BlockEntry::default());
        assert!(Page::decode(&bytes, uuid, child, PageIndex(5), 0).is_err());
        assert!(Page::decode(&bytes, Uuid([2; 16]), child, PageIndex(4), 0).is_err());
    }
}
