//! The memory of the pager: a fixed number of bytes, handed out in a few sizes and taken back.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Result;
use crate::storage::Buffer;
use crate::units::{to_u64, to_usize};

/// Size of the memory that holds `bytes`: at most an eighth more, so that few sizes are in use.
pub(super) fn class_of(bytes: usize) -> usize {
    let step = (bytes.next_power_of_two() / 8).max(4096);
    bytes.next_multiple_of(step)
}

/// Bytes of a budget that stay free for blocks on their way, so that reading, computing and writing overlap even
/// while the rest is full of hot blocks; `block_bytes` is the memory of the largest block.
///
/// Four blocks: one on its way in, one being updated, one on its way out, and one to spare. More does not make a sweep
/// faster (24 to 128 MiB measured alike), memory that was used a moment ago is still in the cache, and what is not
/// streamed through keeps blocks hot.
pub(super) fn streaming_bytes(budget: u64, block_bytes: u64) -> u64 {
    const ENOUGH_BYTES: u64 = 24 << 20;
    const ENOUGH_BLOCKS: u64 = 4;
    (budget / 2).min(block_bytes.saturating_mul(ENOUGH_BLOCKS).max(ENOUGH_BYTES))
}

/// Smaller memory than this is not transferred often enough to be placed with care.
const SMALLEST_SIBLING: usize = 64 << 10;

/// Bytes that are taken from the budget until this is dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    used: Arc<AtomicU64>,
    bytes: u64,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

pub(super) struct Pool {
    budget: u64,
    /// Memory of the largest block with all its planes.
    block_bytes: u64,
    /// Bytes of the budget that something else takes.
    aside: u64,
    /// Bytes of all buffers and reservations, free buffers included.
    used: Arc<AtomicU64>,
    free: BTreeMap<usize, Vec<Buffer>>,
    free_bytes: u64,
}

impl Pool {
    pub(super) fn new(budget: u64, block_bytes: u64) -> Self {
        Self { budget, block_bytes, aside: 0, used: Arc::default(), free: BTreeMap::new(), free_bytes: 0 }
    }

    /// The whole budget.
    pub(super) fn whole_budget_bytes(&self) -> u64 {
        self.budget
    }

    /// The part of the budget that is for frames and views.
    pub(super) fn budget_bytes(&self) -> u64 {
        self.budget - self.aside
    }

    /// Sets a part of the budget aside; [`fits`](Self::fits) says whether what is used fits the rest.
    pub(super) fn set_aside(&mut self, bytes: u64) {
        self.aside = bytes.min(self.budget);
    }

    /// Whether everything fits the budget, as far as giving back free memory can bring it there.
    pub(super) fn fits(&mut self) -> bool {
        self.make_room(0)
    }

    pub(super) fn used_bytes(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Bytes that can be handed out without taking anything away from anybody.
    pub(super) fn available_bytes(&self) -> u64 {
        (self.budget_bytes() + self.free_bytes).saturating_sub(self.used_bytes())
    }

    /// As [`streaming_bytes`], of this pool.
    pub(super) fn streaming_bytes(&self) -> u64 {
        streaming_bytes(self.budget_bytes(), self.block_bytes)
    }

    /// A buffer of at least `bytes`, or `None` if the budget has no room.
    pub(super) fn take(&mut self, bytes: usize) -> Result<Option<Buffer>> {
        let class = class_of(bytes);
        self.pop(class..=class).map_or_else(|| self.take_new(class), |buffer| Ok(Some(buffer)))
    }

    /// As [`take`](Self::take), but a free buffer of up to four times the size where one of its own would take the memory of others
    /// and there is plenty: what a shorter block at the end of a tensor needs is not worth new memory from the system, twice.
    pub(super) fn take_or_larger(&mut self, bytes: usize) -> Result<Option<Buffer>> {
        let class = class_of(bytes);
        let has_room = self.used_bytes() + to_u64(class) <= self.budget_bytes();
        let most = if has_room { class } else { to_usize(self.streaming_bytes() / 8).min(4 * class) };
        let free = self.pop(class..=most.max(class));
        free.map_or_else(|| self.take_new(class), |buffer| Ok(Some(buffer)))
    }

    /// The smallest free buffer of these sizes.
    fn pop(&mut self, classes: RangeInclusive<usize>) -> Option<Buffer> {
        let buffer = self.free.range_mut(classes).find_map(|(_, list)| list.pop())?;
        self.free_bytes -= to_u64(buffer.len());
        Some(buffer)
    }

    /// New memory from the system.
    fn take_new(&mut self, class: usize) -> Result<Option<Buffer>> {
        if let Some(buffer) = self.take_with_siblings(class)? {
            return Ok(Some(buffer));
        }
        if !self.make_room(to_u64(class)) {
            return Ok(None);
        }
        let buffer = Buffer::new(class)?;
        self.used.fetch_add(to_u64(class), Ordering::Relaxed);
        Ok(Some(buffer))
    }

    /// A buffer that lies with others of its size, which become free, in a huge page, if there is plenty of room.
    fn take_with_siblings(&mut self, class: usize) -> Result<Option<Buffer>> {
        let bytes = to_u64(Buffer::siblings(class) * class);
        if class < SMALLEST_SIBLING || bytes > self.streaming_bytes() / 4 || !self.make_room(bytes) {
            return Ok(None);
        }
        let mut buffers = Buffer::side_by_side(class)?;
        self.used.fetch_add(bytes, Ordering::Relaxed);
        let own = buffers.pop();
        for buffer in buffers {
            self.put(buffer);
        }
        Ok(own)
    }

    /// Takes bytes from the budget for memory that the pool does not hand out itself.
    pub(super) fn reserve(&mut self, bytes: u64) -> Option<Reservation> {
        if !self.make_room(bytes) {
            return None;
        }
        self.used.fetch_add(bytes, Ordering::Relaxed);
        Some(Reservation { used: Arc::clone(&self.used), bytes })
    }

    /// Gives free buffers of other sizes back to the operating system until `bytes` more fit the budget.
    fn make_room(&mut self, bytes: u64) -> bool {
        if bytes > self.available_bytes() {
            return false;
        }
        while self.used_bytes() + bytes > self.budget_bytes() {
            let Some(mut largest) = self.free.last_entry() else { return false };
            if largest.get_mut().pop().is_some() {
                let class = to_u64(*largest.key());
                self.free_bytes -= class;
                self.used.fetch_sub(class, Ordering::Relaxed);
            } else {
                largest.remove();
            }
        }
        true
    }

    /// Forgets memory that was handed out and never came back, e.g. in a panic; nothing is handed out or reserved now.
    pub(super) fn recount(&mut self) {
        self.used.store(self.free_bytes, Ordering::Relaxed);
    }

    pub(super) fn put(&mut self, buffer: Buffer) {
        self.free_bytes += to_u64(buffer.len());
        self.free.entry(buffer.len()).or_default().push(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handed_out_memory_never_exceeds_the_budget() {
        let mut pool = Pool::new(64 << 10, 4096);
        let mut held = Vec::new();
        while let Some(buffer) = pool.take(16 << 10).unwrap() {
            held.push(buffer);
        }
        assert_eq!(held.len(), 4);
        assert!(pool.reserve(1).is_none());
        pool.put(held.pop().unwrap());
        assert_eq!((pool.used_bytes(), pool.available_bytes()), (64 << 10, 16 << 10));
        let small = pool.take(4096).unwrap().unwrap();
        assert_eq!((small.len(), pool.used_bytes()), (4096, 52 << 10));
        let reservation = pool.reserve(12 << 10).unwrap();
        assert!(pool.take(4096).unwrap().is_none());
        drop(reservation);
        assert!(pool.take(4096).unwrap().is_some());
    }

    #[test]
    fn a_larger_buffer_serves_where_its_own_would_cost_others_theirs() {
        const BUDGET: u64 = 2 << 20;
        let free = |bytes: usize, count: usize| {
            let mut pool = Pool::new(BUDGET, 4096);
            let held: Vec<_> = (0..count).map(|_| pool.take(bytes).unwrap().unwrap()).collect();
            for buffer in held {
                pool.put(buffer);
            }
            pool
        };
        let len = |pool: &mut Pool, bytes| pool.take_or_larger(bytes).unwrap().unwrap().len();
        let mut full = free(32 << 10, 64);
        assert_eq!(len(&mut full, 12 << 10), 32 << 10);
        assert_eq!((full.used_bytes(), full.available_bytes()), (BUDGET, BUDGET - (32 << 10)));
        assert_eq!(len(&mut full, 32 << 10), 32 << 10);
        assert_eq!(len(&mut full, 4 << 10), 4 << 10, "32 KiB are more than four times the size");
        let mut large = free(256 << 10, 8);
        assert_eq!(len(&mut large, 200 << 10), 224 << 10, "a large part of what is streamed through");
        assert_eq!(len(&mut free(32 << 10, 1), 12 << 10), 12 << 10, "there is room for one of its own");
    }

    #[test]
    fn what_is_small_comes_several_at_a_time_where_there_is_plenty_and_counts_whole() {
        let (class, budget) = (256 << 10, 64 << 20);
        let mut pool = Pool::new(budget, 1 << 20);
        let first = pool.take(class).unwrap().unwrap();
        assert_eq!((pool.used_bytes(), pool.available_bytes()), (2 << 20, budget - (256 << 10)));
        let held: Vec<_> = (0..255).map(|_| pool.take(class).unwrap().unwrap()).collect();
        assert_eq!((pool.used_bytes(), pool.available_bytes()), (budget, 0));
        assert!(pool.take(class).unwrap().is_none());
        held.into_iter().chain([first]).for_each(|buffer| pool.put(buffer));
        // Another size takes the place of some of them.
        let other = pool.take(3 << 20).unwrap().unwrap();
        assert_eq!(
            (other.len(), pool.used_bytes(), pool.available_bytes()),
            (3 << 20, budget, budget - (3 << 20))
        );
        // With little, one at a time.
        let mut pool = Pool::new(8 << 20, 1 << 20);
        let _one = pool.take(class).unwrap().unwrap();
        assert_eq!(pool.used_bytes(), 256 << 10);
    }

    #[test]
    fn sizes_grow_by_at_most_an_eighth() {
        for bytes in [1, 4096, 4097, 70_000, 1 << 20, (1 << 20) + 1, 1_064_960] {
            let class = class_of(bytes);
            assert!(class >= bytes && class.is_multiple_of(4096), "{bytes}");
            assert!(class <= bytes + bytes / 4 + 4096, "{bytes}");
        }
        assert_eq!(class_of(1 << 20), 1 << 20);
    }
}
