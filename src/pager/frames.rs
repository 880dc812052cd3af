//! The frames that are near, and which of them to let go. Pure bookkeeping.

use std::collections::HashMap;

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
    Writing { keep: bool },
    /// A lease has it; `dirty` is what it was before.
    Leased { dirty: bool },
}

impl Frame {
    /// Bytes that were read and not yet used.
    fn ahead_bytes(&self) -> u64 {
        match self {
            Self::Reading { bytes } => to_u64(*bytes),
            Self::Ready { buffer, used: false, .. } => to_u64(buffer.len()),
            _ => 0,
        }
    }

    /// Bytes that were used and stay near.
    fn hot_bytes(&self) -> u64 {
        match self {
            Self::Ready { buffer, used: true, .. } => to_u64(buffer.len()),
            _ => 0,
        }
    }
}

struct Slot {
    frame: Frame,
    /// Order of last use, and the step it fell in.
    order: u64,
    step: u64,
}

#[derive(Default)]
pub(super) struct Frames {
    map: HashMap<Key, Slot>,
    order: u64,
    step: u64,
    ahead_bytes: u64,
    hot_bytes: u64,
}

impl Frames {
    pub(super) fn tick(&mut self) {
        self.step += 1;
    }

    pub(super) fn get(&self, key: Key) -> Option<&Frame> {
        self.map.get(&key).map(|slot| &slot.frame)
    }

    pub(super) fn set(&mut self, key: Key, frame: Frame) {
        self.order += 1;
        self.ahead_bytes += frame.ahead_bytes();
        self.hot_bytes += frame.hot_bytes();
        let old = self.map.insert(key, Slot { frame, order: self.order, step: self.step });
        if let Some(old) = old {
            self.forget(&old.frame);
        }
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<Frame> {
        let frame = self.map.remove(&key)?.frame;
        self.forget(&frame);
        Some(frame)
    }

    fn forget(&mut self, frame: &Frame) {
        self.ahead_bytes -= frame.ahead_bytes();
        self.hot_bytes -= frame.hot_bytes();
    }

    /// Bytes of frames that were read ahead and not yet used.
    pub(super) fn ahead_bytes(&self) -> u64 {
        self.ahead_bytes
    }

    /// Bytes of frames that were used and stay near.
    pub(super) fn hot_bytes(&self) -> u64 {
        self.hot_bytes
    }

    /// Asks that a frame being written stays near afterwards.
    pub(super) fn keep_after_write(&mut self, key: Key) {
        if let Some(slot) = self.map.get_mut(&key)
            && let Frame::Writing { keep } = &mut slot.frame
        {
            *keep = true;
        }
    }

    /// Whether a frame is being written that will give its memory back.
    pub(super) fn has_leaving(&self) -> bool {
        self.map.values().any(|slot| matches!(slot.frame, Frame::Writing { keep: false }))
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

    /// Frames that no step has used lately.
    pub(super) fn stale(&self) -> Vec<Key> {
        let stale =
            |slot: &Slot| matches!(slot.frame, Frame::Ready { .. }) && slot.step + STALE_STEPS < self.step;
        self.map.iter().filter(|(_, slot)| stale(slot)).map(|(key, _)| *key).collect()
    }

    /// The frame to let go when a lease needs memory: clean before dirty, and among those the one used last. Training
    /// sweeps in the same order again and again, so what was used last is needed again latest (Belady's MIN on a
    /// cyclic scan); frames that were read ahead and not yet used go only when nothing else is left.
    pub(super) fn victim(&self, protect: &[Key]) -> Option<Key> {
        let rank = |key: &Key, slot: &Slot| match slot.frame {
            Frame::Ready { dirty, used, .. } if !protect.contains(key) => Some((used, !dirty, slot.order)),
            _ => None,
        };
        let ranked = self.map.iter().filter_map(|(key, slot)| rank(key, slot).map(|rank| (rank, *key)));
        ranked.max().map(|(_, key)| key)
    }

    /// Takes all memory out; nothing is in flight or leased.
    pub(super) fn take_all(&mut self) -> Vec<Buffer> {
        (self.ahead_bytes, self.hot_bytes) = (0, 0);
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
        frames.set(key(0), ready(false, true));
        frames.set(key(1), ready(false, true));
        frames.set(key(2), ready(true, true));
        frames.set(key(3), ready(false, false));
        frames.set(key(4), Frame::Reading { bytes: 4096 });
        assert_eq!((frames.ahead_bytes(), frames.hot_bytes()), (8192, 12288));
        assert_eq!(frames.victim(&[]), Some(key(1)));
        assert_eq!(frames.victim(&[key(1)]), Some(key(0)));
        assert_eq!(frames.victim(&[key(0), key(1)]), Some(key(2)));
        assert_eq!(frames.victim(&[key(0), key(1), key(2)]), Some(key(3)));
        assert_eq!(frames.victim(&[key(0), key(1), key(2), key(3)]), None);
    }

    #[test]
    fn frames_become_stale_only_after_steps_without_use() {
        let mut frames = Frames::default();
        frames.set(key(0), ready(true, true));
        for _ in 0..STALE_STEPS {
            frames.tick();
            assert!(frames.stale().is_empty());
        }
        frames.set(key(1), ready(true, true));
        frames.tick();
        assert_eq!(frames.stale(), [key(0)]);
        assert_eq!(frames.dirty(), [key(0), key(1)]);
    }
}
