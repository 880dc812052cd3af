//! The frames that are near, and which of them to let go. Pure bookkeeping.

use std::collections::{BTreeSet, HashMap};

use super::Key;
use crate::storage::Buffer;
use crate::units::to_u64;

/// Steps without use after which a frame makes room.
const STALE_STEPS: u64 = 2;

/// The memory of one plane of one block, and who has it.
pub(super) enum Frame {
    /// The I/O queue is filling it.
    Reading { bytes: usize },
    /// Nobody has it; `used` is false until the first lease after a read.
    Ready { buffer: Buffer, dirty: bool, used: bool },
    /// The I/O queue is writing it; afterwards it stays near or goes.
    Writing { bytes: usize, keep: bool },
    /// A lease has it; `dirty` is what it was before.
    Leased { dirty: bool },
}

/// A frame that nobody had, taken out.
pub(super) struct Ready {
    pub(super) buffer: Buffer,
    pub(super) dirty: bool,
    pub(super) used: bool,
}

/// Counts over all frames.
#[derive(Default, Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Totals {
    /// Bytes that were read, or are being read, and were not yet used.
    pub(super) ahead_bytes: u64,
    /// Bytes that were used and stay near.
    pub(super) hot_bytes: u64,
    /// Frames that leases have.
    pub(super) leased: u64,
    /// Frames that will give their memory back when their write has ended.
    pub(super) leaving: u64,
}

impl Totals {
    fn of(frame: &Frame) -> Self {
        let none = Self::default();
        match frame {
            Frame::Reading { bytes } => Self { ahead_bytes: to_u64(*bytes), ..none },
            Frame::Ready { buffer, used: false, .. } => Self { ahead_bytes: to_u64(buffer.len()), ..none },
            Frame::Ready { buffer, used: true, .. } => Self { hot_bytes: to_u64(buffer.len()), ..none },
            Frame::Writing { bytes, keep: true } => Self { hot_bytes: to_u64(*bytes), ..none },
            Frame::Writing { keep: false, .. } => Self { leaving: 1, ..none },
            Frame::Leased { .. } => Self { leased: 1, ..none },
        }
    }

    fn add(&mut self, other: Self) {
        self.ahead_bytes += other.ahead_bytes;
        self.hot_bytes += other.hot_bytes;
        self.leased += other.leased;
        self.leaving += other.leaving;
    }

    fn subtract(&mut self, other: Self) {
        self.ahead_bytes -= other.ahead_bytes;
        self.hot_bytes -= other.hot_bytes;
        self.leased -= other.leased;
        self.leaving -= other.leaving;
    }
}

/// How late a frame is needed again, as far as anybody knows: the highest goes first.
type Rank = (u8, u64);

struct Slot {
    frame: Frame,
    /// Order of last use, and the step it fell in.
    order: u64,
    step: u64,
    rank: Option<Rank>,
}

impl Slot {
    /// The rank of a frame that nobody has. With a plan (`due`) it is the position of the next use. Without one, what
    /// was used last goes first, clean before dirty: training sweeps in the same order again and again, so that it is
    /// needed again latest (Belady's MIN on a cyclic scan). What was read ahead is about to be used, and goes only
    /// when nothing else is left.
    fn rank(&self, due: Option<u64>) -> Option<Rank> {
        match (&self.frame, due) {
            (Frame::Ready { used: false, .. }, _) => Some((0, self.order)),
            (Frame::Ready { .. }, Some(due)) => Some((1, due)),
            (Frame::Ready { dirty: true, .. }, None) => Some((1, self.order)),
            (Frame::Ready { .. }, None) => Some((2, self.order)),
            _ => None,
        }
    }
}

#[derive(Default)]
pub(super) struct Frames {
    map: HashMap<Key, Slot>,
    /// The frames that nobody has, by rank.
    ranked: BTreeSet<(Rank, Key)>,
    order: u64,
    step: u64,
    totals: Totals,
}

impl Frames {
    pub(super) fn tick(&mut self) {
        self.step += 1;
    }

    pub(super) fn get(&self, key: Key) -> Option<&Frame> {
        self.map.get(&key).map(|slot| &slot.frame)
    }

    pub(super) fn totals(&self) -> Totals {
        self.totals
    }

    /// Puts a frame; `due` is the position of its next use where a plan is followed.
    pub(super) fn set(&mut self, key: Key, frame: Frame, due: Option<u64>) {
        self.remove(key);
        self.order += 1;
        self.totals.add(Totals::of(&frame));
        let mut slot = Slot { frame, order: self.order, step: self.step, rank: None };
        slot.rank = slot.rank(due);
        self.ranked.extend(slot.rank.map(|rank| (rank, key)));
        self.map.insert(key, slot);
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<Frame> {
        let slot = self.map.remove(&key)?;
        self.totals.subtract(Totals::of(&slot.frame));
        if let Some(rank) = slot.rank {
            self.ranked.remove(&(rank, key));
        }
        Some(slot.frame)
    }

    /// Takes a frame that nobody has, and its memory.
    pub(super) fn take_ready(&mut self, key: Key) -> Option<Ready> {
        if !matches!(self.get(key), Some(Frame::Ready { .. })) {
            return None;
        }
        match self.remove(key)? {
            Frame::Ready { buffer, dirty, used } => Some(Ready { buffer, dirty, used }),
            _ => None,
        }
    }

    /// Ranks all frames anew, after a plan was taken up or given up.
    pub(super) fn rank_all(&mut self, due: impl Fn(Key) -> Option<u64>) {
        self.ranked.clear();
        for (&key, slot) in &mut self.map {
            slot.rank = slot.rank(due(key));
            self.ranked.extend(slot.rank.map(|rank| (rank, key)));
        }
    }

    /// Asks that a frame being written stays near afterwards.
    pub(super) fn keep_after_write(&mut self, key: Key) {
        if let Some(slot) = self.map.get_mut(&key)
            && let Frame::Writing { keep, .. } = &mut slot.frame
        {
            let was = std::mem::replace(keep, true);
            if !was {
                self.totals.leaving -= 1;
                self.totals.add(Totals::of(&slot.frame));
            }
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &Frame)> {
        self.map.iter().map(|(&key, slot)| (key, &slot.frame))
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = Key> + '_ {
        self.map.keys().copied()
    }

    /// The memory of every frame that nobody has, in any order.
    pub(super) fn ready_mut(&mut self) -> impl Iterator<Item = (Key, &mut Buffer)> {
        self.map.iter_mut().filter_map(|(key, slot)| match &mut slot.frame {
            Frame::Ready { buffer, .. } => Some((*key, buffer)),
            _ => None,
        })
    }

    /// Frames with changes that the disk does not have, in block order.
    pub(super) fn dirty(&self) -> Vec<Key> {
        let dirty = |slot: &Slot| matches!(slot.frame, Frame::Ready { dirty: true, .. });
        let mut keys: Vec<_> = self.map.iter().filter(|(_, slot)| dirty(slot)).map(|(key, _)| *key).collect();
        keys.sort_unstable();
        keys
    }

    /// Frames that no step has used lately, in block order.
    pub(super) fn stale(&self) -> Vec<Key> {
        let stale =
            |slot: &Slot| matches!(slot.frame, Frame::Ready { .. }) && slot.step + STALE_STEPS < self.step;
        let mut keys: Vec<_> = self.map.iter().filter(|(_, slot)| stale(slot)).map(|(key, _)| *key).collect();
        keys.sort_unstable();
        keys
    }

    /// The frame to let go when memory is needed: the one of the highest rank that nobody waits for.
    pub(super) fn victim(&self, wanted: &[Key]) -> Option<Key> {
        self.ranked.iter().rev().map(|&(_, key)| key).find(|key| !wanted.contains(key))
    }

    /// Takes all memory out; nothing is in flight or leased.
    pub(super) fn take_all(&mut self) -> Vec<Buffer> {
        self.totals = Totals::default();
        self.ranked.clear();
        let frames = std::mem::take(&mut self.map).into_values();
        frames
            .filter_map(|slot| match slot.frame {
                Frame::Ready { buffer, .. } => Some(buffer),
                _ => None,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::BlockIndex;

    fn key(block: u64) -> Key {
        Key { block: BlockIndex(block), plane: 0 }
    }

    fn ready(dirty: bool, used: bool) -> Frame {
        Frame::Ready { buffer: Buffer::new(4096).unwrap(), dirty, used }
    }

    #[test]
    fn the_victim_of_a_cyclic_sweep_is_the_clean_frame_used_last() {
        let mut frames = Frames::default();
        frames.set(key(0), ready(false, true), None);
        frames.set(key(1), ready(false, true), None);
        frames.set(key(2), ready(true, true), None);
        frames.set(key(3), ready(false, false), None);
        frames.set(key(4), Frame::Reading { bytes: 4096 }, None);
        assert_eq!((frames.totals().ahead_bytes, frames.totals().hot_bytes), (8192, 12288));
        assert_eq!(frames.victim(&[]), Some(key(1)));
        assert_eq!(frames.victim(&[key(1)]), Some(key(0)));
        assert_eq!(frames.victim(&[key(0), key(1)]), Some(key(2)));
        assert_eq!(frames.victim(&[key(0), key(1), key(2)]), Some(key(3)));
        assert_eq!(frames.victim(&[key(0), key(1), key(2), key(3)]), None);
    }

    #[test]
    fn with_a_plan_the_victim_is_the_frame_that_is_due_last_whatever_it_is() {
        let mut frames = Frames::default();
        frames.set(key(0), ready(true, true), Some(7));
        frames.set(key(1), ready(false, true), Some(3));
        frames.set(key(2), ready(false, false), Some(9));
        assert_eq!(frames.victim(&[]), Some(key(0)));
        frames.set(key(0), ready(true, true), Some(2));
        assert_eq!(frames.victim(&[]), Some(key(1)));
        assert_eq!(frames.victim(&[key(0), key(1)]), Some(key(2)), "read ahead, and so about to be used");
        frames.rank_all(|_| None);
        assert_eq!(frames.victim(&[]), Some(key(1)), "without the plan, the clean one that was used");
    }

    #[test]
    fn totals_follow_every_change_of_a_frame_and_end_at_nothing() {
        let mut frames = Frames::default();
        frames.set(key(0), Frame::Writing { bytes: 4096, keep: false }, None);
        assert_eq!(frames.totals(), Totals { leaving: 1, ..Totals::default() });
        frames.keep_after_write(key(0));
        frames.keep_after_write(key(0));
        assert_eq!(frames.totals(), Totals { hot_bytes: 4096, ..Totals::default() });
        frames.set(key(0), ready(false, true), None);
        frames.set(key(0), Frame::Leased { dirty: false }, None);
        assert_eq!(frames.totals(), Totals { leased: 1, ..Totals::default() });
        frames.remove(key(0));
        assert_eq!((frames.totals(), frames.victim(&[])), (Totals::default(), None));
    }

    #[test]
    fn frames_become_stale_only_after_steps_without_use() {
        let mut frames = Frames::default();
        frames.set(key(0), ready(true, true), None);
        for _ in 0..STALE_STEPS {
            frames.tick();
            assert!(frames.stale().is_empty());
        }
        frames.set(key(1), ready(true, true), None);
        frames.tick();
        assert_eq!(frames.stale(), [key(0)]);
        assert_eq!(frames.dirty(), [key(0), key(1)]);
        for block in (2..40).rev() {
            frames.set(key(block), ready(true, true), None);
        }
        (0..=STALE_STEPS).for_each(|_| frames.tick());
        assert!(frames.stale().is_sorted() && frames.stale().len() == 40);
    }
}
