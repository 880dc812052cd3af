//! The order in which a step uses blocks, known from the step before: when each is due, and what the best possible
//! replacement would save. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::Key;
use crate::format::directory::Directory;
use crate::layout::pieces;
use crate::units::to_u64;

/// What a caller used: planes of a range of a tensor's elements, in the order of its pieces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) tensor: usize,
    pub(crate) range: Range<u64>,
    /// Counts as in [`Key`].
    pub(crate) planes: Range<usize>,
    /// Whether the first use of each block overwrites it, so that reading it ahead would be for nothing.
    pub(crate) blank: bool,
    /// A plane of which each use overwrites all.
    pub(crate) copy: Option<usize>,
}

impl Access {
    /// The planes of the blocks in their order of use.
    pub(super) fn keys<'a>(&'a self, directory: &'a Directory) -> impl Iterator<Item = Key> + 'a {
        let planes = self.planes.clone();
        pieces(directory, self.tensor, self.range.clone())
            .flat_map(move |piece| planes.clone().map(move |plane| Key { block: piece.block, plane }))
    }
}

/// No further use in this step.
const NEVER: u32 = u32::MAX;

/// Bytes that a plan may take: more, and a step goes without one.
pub(super) fn plan_bytes_max(budget: u64) -> u64 {
    budget / 32
}

/// What is to be read for a use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ToRead {
    Block(Key),
    /// It is overwritten whole, or near since an earlier use.
    Nothing,
    /// Neither in this step nor in the next.
    Unknown,
}

/// The uses of one step, which comes again and again. Positions count uses from the first step that follows the plan
/// on, so that they never fall.
#[derive(Debug)]
pub(super) struct Plan {
    /// The distinct keys, ascending.
    keys: Vec<Key>,
    /// The uses in order, as indexes of keys, and whether each overwrites all.
    uses: Vec<u32>,
    blank: Vec<bool>,
    /// For each use, the next one of the same key in the step.
    next: Vec<u32>,
    /// For each key, its first use in a step, and the first one that is still to come in this step.
    first: Vec<u32>,
    due: Vec<u32>,
    /// The position of this step's first use.
    base: u64,
}

impl Plan {
    /// Makes the plan of a step that has just ended; `None` if it would take more than `bytes_max`.
    pub(super) fn new(accesses: &[Access], directory: &Directory, bytes_max: u64) -> Option<Self> {
        const BYTES_PER_USE: usize = size_of::<Key>() + 4 + 4 + 1;
        let uses_max = usize::try_from(bytes_max).ok()?.checked_div(BYTES_PER_USE)?.min(NEVER as usize - 1);
        let mut sequence = Vec::new();
        let mut blank = Vec::new();
        for access in accesses {
            let room = uses_max - sequence.len();
            sequence.extend(access.keys(directory).take(room + 1));
            let new = sequence.get(blank.len()..).unwrap_or_default();
            let is_blank = |key: &Key| access.blank || access.copy == Some(key.plane);
            blank.extend(new.iter().map(is_blank).collect::<Vec<_>>());
            if sequence.len() > uses_max {
                return None;
            }
        }
        Some(Self::of(sequence, blank))
    }

    /// The plan of a sequence of uses.
    fn of(sequence: Vec<Key>, blank: Vec<bool>) -> Self {
        let mut keys = sequence.clone();
        keys.sort_unstable();
        keys.dedup();
        let index = |key: &Key| u32::try_from(keys.partition_point(|other| other < key)).unwrap_or(NEVER);
        let uses: Vec<u32> = sequence.iter().map(index).collect();
        drop(sequence);
        let mut first = vec![NEVER; keys.len()];
        let mut next = vec![NEVER; uses.len()];
        for (at, (&key, next)) in uses.iter().zip(&mut next).enumerate().rev() {
            if let Some(first) = first.get_mut(key as usize) {
                *next = std::mem::replace(first, u32::try_from(at).unwrap_or(NEVER));
            }
        }
        let due = vec![NEVER; keys.len()];
        Self { keys, uses, blank, next, first, due, base: 0 }
    }

    fn len(&self) -> u64 {
        to_u64(self.uses.len())
    }

    /// Bytes of memory that it takes.
    pub(super) fn bytes(&self) -> u64 {
        to_u64(self.keys.len() * (size_of::<Key>() + 8) + self.uses.len() * 9)
    }

    fn find(&self, key: Key) -> Option<usize> {
        self.keys.binary_search(&key).ok()
    }

    /// Begins the next step.
    pub(super) fn begin(&mut self) {
        self.base += self.len();
        self.due.clone_from(&self.first);
    }

    /// Takes note of a use.
    pub(super) fn note(&mut self, key: Key) {
        if let Some(at) = self.find(key)
            && let Some(due) = self.due.get_mut(at)
            && let Some(&next) = self.next.get(*due as usize)
        {
            *due = next;
        }
    }

    /// The position of a key's next use; the highest of all if it has none.
    pub(super) fn due(&self, key: Key) -> u64 {
        let Some(at) = self.find(key) else { return u64::MAX };
        match (self.due.get(at), self.first.get(at)) {
            (Some(&NEVER), Some(&first)) => self.base + self.len() + u64::from(first),
            (Some(&due), _) => self.base + u64::from(due),
            _ => u64::MAX,
        }
    }

    /// Whether a key is not used any more in this step.
    pub(super) fn is_done(&self, key: Key) -> bool {
        self.find(key).and_then(|at| self.due.get(at)).is_none_or(|&due| due == NEVER)
    }

    /// The position of this step's first use.
    pub(super) fn start(&self) -> u64 {
        self.base
    }

    /// The position of the next step's first use.
    pub(super) fn end(&self) -> u64 {
        self.base + self.len()
    }

    /// What is to be read for the use at a position.
    pub(super) fn to_read(&self, position: u64) -> ToRead {
        let within = position.checked_sub(self.base).filter(|&at| at < 2 * self.len());
        let at = within.and_then(|within| usize::try_from(within % self.len()).ok());
        let key = at.and_then(|at| self.keys.get(*self.uses.get(at)? as usize)).copied();
        let (Some(at), Some(key)) = (at, key) else { return ToRead::Unknown };
        let is_blank = self.blank.get(at).copied().unwrap_or(false);
        if is_blank || self.due(key) != position { ToRead::Nothing } else { ToRead::Block(key) }
    }

    /// The share of uses that the best possible replacement finds in memory when the step comes again and again and
    /// nothing is read ahead: Belady's MIN, which lets go what is due last, with `memory` bytes and `bytes` for a key.
    pub(super) fn min_hit_rate(&self, memory: u64, bytes: impl Fn(Key) -> u64) -> f64 {
        let mut cache = Cache { memory, used: 0, due: BTreeSet::new(), place: BTreeMap::new() };
        let mut hits = 0_u64;
        // The first round fills the cache, the second is counted.
        for round in 0..2 {
            for (at, &index) in self.uses.iter().enumerate() {
                let (Some(&key), Some(&next)) = (self.keys.get(index as usize), self.next.get(at)) else {
                    continue;
                };
                let first = self.first.get(index as usize).copied().unwrap_or(0);
                let next = if next == NEVER { self.len() + u64::from(first) } else { u64::from(next) };
                let hit = cache.take(index, bytes(key), round * self.len() + next);
                hits += u64::from(hit && round == 1);
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
        if self.uses.is_empty() { 1.0 } else { hits as f64 / self.uses.len() as f64 }
    }
}

/// The memory of Belady's MIN.
struct Cache {
    memory: u64,
    used: u64,
    due: BTreeSet<(u64, u32)>,
    /// For each key in memory, when it is due and its bytes.
    place: BTreeMap<u32, (u64, u64)>,
}

impl Cache {
    /// Uses a key that is due again at `due`; whether it was in memory.
    fn take(&mut self, key: u32, bytes: u64, due: u64) -> bool {
        let hit = self.drop_key(key);
        self.due.insert((due, key));
        self.place.insert(key, (due, bytes));
        self.used += bytes;
        while self.used > self.memory
            && let Some(&(_, last)) = self.due.last()
        {
            self.drop_key(last);
        }
        hit
    }

    fn drop_key(&mut self, key: u32) -> bool {
        let Some((due, bytes)) = self.place.remove(&key) else { return false };
        self.used -= bytes;
        self.due.remove(&(due, key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::BlockIndex;

    fn key(block: u64) -> Key {
        Key { block: BlockIndex(block), plane: 0 }
    }

    /// A plan of uses of blocks of one byte.
    fn plan(blocks: &[u64]) -> Plan {
        Plan::of(blocks.iter().map(|&block| key(block)).collect(), vec![false; blocks.len()])
    }

    #[test]
    fn a_key_is_due_at_its_next_use_in_this_step_and_then_in_the_next_one() {
        let mut plan = plan(&[5, 6, 5, 7]);
        assert_eq!(plan.due(key(5)), 4, "before the first step begins");
        plan.begin();
        assert_eq!([5, 6, 7].map(|block| plan.due(key(block))), [4, 5, 7]);
        plan.note(key(5));
        assert_eq!((plan.due(key(5)), plan.is_done(key(5))), (6, false));
        plan.note(key(5));
        assert_eq!((plan.due(key(5)), plan.is_done(key(5))), (8, true));
        plan.note(key(5));
        assert_eq!(plan.due(key(5)), 8, "a use that the plan does not know changes nothing");
        assert_eq!(plan.due(key(9)), u64::MAX);
        plan.begin();
        assert_eq!((plan.due(key(5)), plan.due(key(6))), (8, 9));
    }

    #[test]
    fn what_is_to_be_read_is_named_once_and_at_its_next_use_only() {
        let mut plan = plan(&[5, 6, 5]);
        plan.begin();
        assert_eq!(plan.to_read(3), ToRead::Block(key(5)));
        assert_eq!(plan.to_read(4), ToRead::Block(key(6)));
        assert_eq!(plan.to_read(5), ToRead::Nothing, "near since its first use");
        plan.note(key(5));
        assert_eq!(plan.to_read(3), ToRead::Nothing, "used already");
        assert_eq!(plan.to_read(5), ToRead::Block(key(5)));
        assert_eq!(plan.to_read(9), ToRead::Unknown, "beyond the next step");
        assert_eq!(plan.to_read(0), ToRead::Unknown, "the step before");
    }

    /// The least misses of any replacement, by trying all of them.
    fn misses_of_the_best(uses: &[u64], memory: usize, cache: &BTreeSet<u64>, from: usize) -> usize {
        let Some((&block, rest)) = uses.split_first() else { return 0 };
        if cache.contains(&block) {
            return misses_of_the_best(rest, memory, cache, from.saturating_sub(1));
        }
        let counted = usize::from(from == 0);
        let mut larger = cache.clone();
        larger.insert(block);
        if larger.len() <= memory {
            return counted + misses_of_the_best(rest, memory, &larger, from.saturating_sub(1));
        }
        let without = |gone: &u64| {
            let mut left = larger.clone();
            left.remove(gone);
            misses_of_the_best(rest, memory, &left, from.saturating_sub(1))
        };
        counted + larger.iter().map(without).min().unwrap_or(0)
    }

    #[test]
    fn the_bound_of_a_cyclic_scan_is_the_share_that_fits_less_one() {
        let scan: Vec<u64> = (0..10).collect();
        for memory in 1..10_u32 {
            // MIN keeps memory - 1 blocks for ever and lets the others pass; it can do a little better by turns.
            let bound = plan(&scan).min_hit_rate(u64::from(memory), |_| 1);
            let kept = f64::from(memory - 1) / 9.0;
            assert!((bound - kept).abs() < 0.1 + 1e-9, "{memory}: {bound}, {kept}");
        }
        assert!((plan(&scan).min_hit_rate(10, |_| 1) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn no_other_replacement_has_fewer_misses_than_the_bound() {
        for uses in [vec![0, 1, 2, 3, 2, 1, 0], vec![0, 1, 0, 2, 3, 1], vec![0, 1, 2, 0, 1, 3, 3]] {
            for memory in 1..4 {
                let bound = plan(&uses).min_hit_rate(to_u64(memory), |_| 1);
                // The same two rounds; what comes after them is not known to either.
                let twice: Vec<u64> = uses.iter().chain(&uses).copied().collect();
                let best = misses_of_the_best(&twice, memory, &BTreeSet::new(), uses.len());
                #[expect(clippy::cast_precision_loss, reason = "a few uses")]
                let best = 1.0 - best as f64 / uses.len() as f64;
                assert!(bound <= best + 1e-12, "{uses:?} in {memory}: {bound} above the best, {best}");
            }
        }
    }
}
