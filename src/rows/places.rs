//! In which slot of the memory is a row? Open addressing with linear probing (Knuth, "The art of computer programming", vol. 3,
//! 6.4): 12 bytes a slot, and mostly one line of the cache for a row.

use crate::units::to_usize;

/// Entries for each two slots.
const ENTRIES_PER_TWO_SLOTS: usize = 3;
/// Bytes that a slot takes here.
pub(super) const BYTES_PER_SLOT: usize = ENTRIES_PER_TWO_SLOTS * size_of::<u64>() / 2;

/// Slots by row. Which row a slot has is asked of the caller, who has it anyhow.
pub(super) struct Places {
    /// A part of the row's hash above the number of the slot, from 1; 0 where there is nothing.
    entries: Vec<u64>,
}

/// Spreads row numbers. Rows are ours and not an attacker's to choose beyond making himself slow.
pub(super) const fn spread(row: u64) -> u64 {
    let z = row.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (z ^ (z >> 32)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

/// An entry, which is not 0.
const fn entry(hash: u64, slot: u32) -> u64 {
    hash << 32 | (slot as u64 + 1)
}

/// The slot of an entry.
#[expect(clippy::cast_possible_truncation, reason = "the lower half is the slot, and one")]
const fn slot_of(entry: u64) -> u32 {
    (entry as u32).wrapping_sub(1)
}

impl Places {
    /// For that many slots, numbered from 0, the last number that fits 32 bits left out.
    pub(super) fn new(slots: usize) -> Self {
        Self { entries: vec![0; slots * ENTRIES_PER_TWO_SLOTS / 2 + 2] }
    }

    /// Where the search for a row begins.
    fn home(&self, hash: u64) -> usize {
        to_usize(((u128::from(hash) * self.entries.len() as u128) >> 64) as u64)
    }

    fn next(&self, at: usize) -> usize {
        if at + 1 < self.entries.len() { at + 1 } else { 0 }
    }

    /// Where the entry of a row is.
    fn position(&self, row: u64, row_of: impl Fn(u32) -> u64) -> Option<usize> {
        let hash = spread(row);
        let mut at = self.home(hash);
        loop {
            let found = *self.entries.get(at)?;
            if found == 0 {
                return None;
            }
            if (found ^ hash << 32) >> 32 == 0 && row_of(slot_of(found)) == row {
                return Some(at);
            }
            at = self.next(at);
        }
    }

    /// The slot that a row probably has, if it has one: that of the entry with which the search for it begins.
    pub(super) fn guess(&self, row: u64) -> u32 {
        self.entries.get(self.home(spread(row))).map_or(u32::MAX, |&entry| slot_of(entry))
    }

    /// The slot of a row.
    pub(super) fn find(&self, row: u64, row_of: impl Fn(u32) -> u64) -> Option<u32> {
        let at = self.position(row, row_of)?;
        self.entries.get(at).map(|&found| slot_of(found))
    }

    /// Enters a row that is not there, in a slot that no other row has.
    pub(super) fn insert(&mut self, row: u64, slot: u32) {
        let hash = spread(row);
        let mut at = self.home(hash);
        // A third is empty, for there are no more rows than slots.
        while self.entries.get(at).is_some_and(|&found| found != 0) {
            at = self.next(at);
        }
        if let Some(place) = self.entries.get_mut(at) {
            *place = entry(hash, slot);
        }
    }

    /// Takes a row out. What stands behind it moves up, so that no search ends too early.
    pub(super) fn remove(&mut self, row: u64, row_of: impl Fn(u32) -> u64) {
        let Some(mut hole) = self.position(row, &row_of) else { return };
        let size = self.entries.len();
        let behind = |from: usize, to: usize| if to >= from { to - from } else { to + size - from };
        let mut at = hole;
        loop {
            at = self.next(at);
            let found = self.entries.get(at).copied().unwrap_or(0);
            if found == 0 {
                break;
            }
            let home = self.home(spread(row_of(slot_of(found))));
            if behind(home, at) >= behind(hole, at) {
                self.entries.swap(hole, at);
                hole = at;
            }
        }
        if let Some(place) = self.entries.get_mut(hole) {
            *place = 0;
        }
    }

    pub(super) fn clear(&mut self) {
        self.entries.fill(0);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::splitmix::mix;

    #[test]
    fn rows_come_and_go_as_in_a_map() {
        for slots in [1_u32, 2, 7, 100] {
            let (mut places, mut map) = (Places::new(slots as usize), HashMap::new());
            let mut rows = vec![u64::MAX; slots as usize];
            for at in 0..4000_u64 {
                // A few rows, so that they come again, some of them far apart.
                let row = (mix(at) % (3 * u64::from(slots))) << (at % 3 * 20);
                let known = map.get(&row).copied();
                let row_of = |slot: u32| rows[slot as usize];
                assert_eq!(places.find(row, row_of), known);
                assert_eq!(places.entries.iter().filter(|&&entry| entry != 0).count(), map.len());
                if known.is_some() {
                    places.remove(row, row_of);
                    map.remove(&row);
                } else if let Some(free) = (0..slots).find(|slot| !map.values().any(|used| used == slot)) {
                    rows[free as usize] = row;
                    places.insert(row, free);
                    map.insert(row, free);
                }
            }
            assert!(
                map.iter().all(|(&row, &slot)| places.find(row, |slot| rows[slot as usize]) == Some(slot))
            );
            places.clear();
            assert_eq!(places.find(0, |slot| rows[slot as usize]), None);
        }
    }

    /// Three entries in which all rows begin at the same place.
    #[test]
    fn a_search_goes_past_what_moved_up_round_the_end() {
        let mut places = Places::new(2);
        let size = places.entries.len();
        let last: Vec<u64> = (0..).filter(|&row| places.home(spread(row)) == size - 1).take(2).collect();
        places.insert(last[0], 0);
        places.insert(last[1], 1);
        let row_of = |slot: u32| last[slot as usize];
        places.remove(last[0], row_of);
        assert_eq!((places.find(last[1], row_of), places.find(last[0], row_of)), (Some(1), None));
        assert_eq!(places.entries.iter().filter(|&&entry| entry != 0).count(), 1);
        assert_eq!(slot_of(places.entries[size - 1]), 1, "where its search begins");
    }
}
