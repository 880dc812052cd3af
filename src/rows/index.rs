//! Which rows stand in the log, and where, block by block of the table.

use super::cache::RowMap;

/// Units of places in the log.
pub(super) const UNIT_BYTES: u64 = 8;

/// About how much memory a row takes, with the room that its list has for more.
pub(super) const ROW_BYTES: usize = size_of::<Entry>() * 3 / 2;

/// A row in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its number among the rows of its block.
    pub(super) row_in_block: u32,
    /// Offset in the ring, in units of eight bytes.
    pub(super) at: u32,
}

/// Rows of a table in the log; each block has its own list, ascending by row.
#[derive(Debug, Default)]
pub(super) struct Index {
    blocks: RowMap<Vec<Entry>>,
    rows: usize,
}

impl Index {
    pub(super) fn len(&self) -> usize {
        self.rows
    }

    /// About how much memory it takes.
    pub(super) fn bytes(&self) -> usize {
        self.rows * ROW_BYTES + self.blocks.len() * 48
    }

    pub(super) fn get(&self, block: u64, row_in_block: u32) -> Option<u32> {
        let list = self.blocks.get(&block)?;
        let found = list.binary_search_by_key(&row_in_block, |entry| entry.row_in_block);
        found.ok().and_then(|at| list.get(at)).map(|entry| entry.at)
    }

    /// Enters where a row stands now.
    pub(super) fn set(&mut self, block: u64, entry: Entry) {
        let list = self.blocks.entry(block).or_default();
        match list.binary_search_by_key(&entry.row_in_block, |entry| entry.row_in_block) {
            Ok(at) => {
                if let Some(place) = list.get_mut(at) {
                    *place = entry;
                }
            }
            Err(at) => {
                list.insert(at, entry);
                self.rows += 1;
            }
        }
    }

    pub(super) fn list(&self, block: u64) -> &[Entry] {
        self.blocks.get(&block).map_or(&[], Vec::as_slice)
    }

    /// Takes a block's rows out.
    pub(super) fn remove(&mut self, block: u64) -> Vec<Entry> {
        let list = self.blocks.remove(&block).unwrap_or_default();
        self.rows -= list.len();
        list
    }

    /// Puts a list that was taken out back.
    pub(super) fn restore(&mut self, block: u64, list: Vec<Entry>) {
        self.rows += list.len();
        let replaced = self.blocks.insert(block, list);
        self.rows -= replaced.map_or(0, |list| list.len());
    }

    /// All blocks that have rows, ascending.
    pub(super) fn blocks(&self) -> Vec<u64> {
        let mut blocks: Vec<_> = self.blocks.keys().copied().collect();
        blocks.sort_unstable();
        blocks
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Takes in the rows of another, which are newer.
    pub(super) fn merge(&mut self, newer: Self) {
        for (block, list) in newer.blocks {
            for entry in list {
                self.set(block, entry);
            }
        }
    }
}

/// Two ascending lists as one; of a row that is in both, the newer entry.
pub(super) fn merged(old: &[Entry], new: &[Entry]) -> Vec<Entry> {
    let mut all = Vec::with_capacity(old.len() + new.len());
    let mut old = old.iter().copied().peekable();
    for &entry in new {
        while let Some(before) = old.next_if(|before| before.row_in_block < entry.row_in_block) {
            all.push(before);
        }
        old.next_if(|same| same.row_in_block == entry.row_in_block);
        all.push(entry);
    }
    all.extend(old);
    all.shrink_to_fit();
    all
}

/// The place of an offset in the ring; offsets are below 2^35.
pub(super) fn place_of(offset: u64) -> u32 {
    u32::try_from(offset / UNIT_BYTES).unwrap_or(u32::MAX)
}

/// The offset in the ring of a place.
pub(super) fn offset_of(at: u32) -> u64 {
    u64::from(at) * UNIT_BYTES
}

const _: () = assert!(crate::format::row_log::MAX_RING_BYTES / UNIT_BYTES <= 1 << 32);

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(row_in_block: u32, at: u32) -> Entry {
        Entry { row_in_block, at }
    }

    #[test]
    fn the_newest_place_of_a_row_is_the_one_that_counts() {
        let mut index = Index::default();
        for (block, row, at) in [(7, 3, 1), (7, 1, 2), (9, 3, 3), (7, 3, 4)] {
            index.set(block, entry(row, at));
        }
        assert_eq!(
            (index.len(), index.get(7, 3), index.get(7, 2), index.get(8, 3)),
            (3, Some(4), None, None)
        );
        assert_eq!((index.blocks(), index.list(7)), (vec![7, 9], &[entry(1, 2), entry(3, 4)][..]));
        let mut newer = Index::default();
        newer.set(7, entry(2, 8));
        newer.set(7, entry(3, 9));
        newer.set(1, entry(0, 10));
        index.merge(newer);
        assert_eq!(index.list(7), [entry(1, 2), entry(2, 8), entry(3, 9)]);
        assert_eq!((index.len(), index.blocks()), (5, vec![1, 7, 9]));
        assert_eq!((index.remove(7).len(), index.len()), (3, 2));
    }

    #[test]
    fn offsets_become_places_and_back() {
        for offset in [0, 8, 4096 + 72, (1 << 35) - 8] {
            assert_eq!(offset_of(place_of(offset)), offset);
        }
    }
}
