//! The batches that are known to come, and when each of their rows is needed next: with that, rows are given up as Belady's
//! MIN does ("A study of replacement algorithms for a virtual-storage computer", 1966), as far as the window reaches.

use std::collections::VecDeque;

use super::cache::{NEVER, RowMap};
use crate::units::to_usize;

/// Calls in a row that were those of no batch, after which what was said is taken for forgotten by the caller too.
const STRANGE_MOST: u32 = 64;
/// What a use of a row takes: the row, and the number of the batch that uses it next.
const USE_BYTES: usize = 12;
/// What a bucket of the map takes, seven of eight of which are filled at most.
const BUCKET_BYTES: usize = size_of::<(u64, (u32, u32))>() + 1;

/// A batch to come, or the one at hand.
struct Batch {
    /// Ascends from batch to batch.
    number: u32,
    /// Distinct and ascending.
    rows: Vec<u64>,
    /// The number of the next batch that uses each of them.
    next: Vec<u32>,
    /// Whether its rows are being read.
    begun: bool,
}

/// What became of a batch that was announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Announced {
    /// It was known.
    Known,
    /// It has this number.
    As(u32),
}

pub(super) struct Window {
    /// The first may be the one at hand.
    batches: VecDeque<Batch>,
    /// The last batch in the window that uses a row, by number, and the row's place in it.
    last: RowMap<(u32, u32)>,
    /// The number of the batch at hand.
    now: u32,
    strange: u32,
    uses: usize,
    uses_most: usize,
    rows_most: usize,
}

impl Window {
    /// A window in that many bytes of memory, which are taken when a batch is announced.
    pub(super) fn new(bytes: usize) -> Self {
        let buckets = (bytes / 2 / BUCKET_BYTES).checked_ilog2().map_or(0, |log| 1 << log);
        Self {
            batches: VecDeque::new(),
            last: RowMap::default(),
            now: 0,
            strange: 0,
            uses: 0,
            uses_most: (bytes - buckets * BUCKET_BYTES) / USE_BYTES,
            rows_most: buckets / 8 * 7,
        }
    }

    /// The number of the batch at hand.
    pub(super) fn now(&self) -> u32 {
        self.now
    }

    /// Takes in that a batch comes `ahead` after the one at hand. Where that place is taken by other rows, the caller has
    /// gone on to a batch that it has not asked for yet, and this one comes last. Without memory for it, its number is all that
    /// is made of it.
    pub(super) fn announce(&mut self, rows: &[u64], ahead: u32) -> Announced {
        let at_least = self.now.saturating_add(ahead);
        let is_it = |batch: &&mut Batch| batch.number >= at_least && batch.number <= at_least + 1;
        if self.batches.iter_mut().filter(is_it).any(|batch| batch.rows == rows) {
            return Announced::Known;
        }
        let behind = self.batches.back().map_or(0, |batch| batch.number.saturating_add(1));
        let number = at_least.max(behind).min(NEVER - 1);
        if self.uses + rows.len() > self.uses_most || self.last.len() + rows.len() > self.rows_most {
            return Announced::As(number);
        }
        self.last.reserve(self.rows_most.saturating_sub(self.last.len()));
        for (&row, place) in rows.iter().zip(0..) {
            if let Some((user, at)) = self.last.insert(row, (number, place))
                && let Some(next) = self.next_of(user, at)
            {
                *next = number;
            }
        }
        self.uses += rows.len();
        self.batches.push_back(Batch {
            number,
            rows: rows.to_vec(),
            next: vec![NEVER; rows.len()],
            begun: false,
        });
        Announced::As(number)
    }

    fn next_of(&mut self, number: u32, place: u32) -> Option<&mut u32> {
        let at = self.batches.binary_search_by_key(&number, |batch| batch.number).ok()?;
        self.batches.get_mut(at)?.next.get_mut(to_usize(place.into()))
    }

    /// Says which rows a call asks for. If they are those of a batch of the window, that is the one at hand now, and those
    /// in front of it are gone. Returns the numbers of the batches that use its rows next.
    pub(super) fn at_hand(&mut self, rows: &[u64]) -> Option<&[u32]> {
        let Some(at) = self.batches.iter().position(|batch| batch.rows == rows) else {
            self.strange += 1;
            if self.strange > STRANGE_MOST && !self.batches.is_empty() {
                self.clear();
            }
            return None;
        };
        self.strange = 0;
        for _ in 0..at {
            self.pop();
        }
        let batch = self.batches.front()?;
        self.now = batch.number;
        Some(&batch.next)
    }

    fn pop(&mut self) {
        let Some(gone) = self.batches.pop_front() else { return };
        self.uses -= gone.rows.len();
        for row in &gone.rows {
            if self.last.get(row).is_some_and(|&(number, _)| number == gone.number) {
                self.last.remove(row);
            }
        }
    }

    /// The rows of the batch that follows the one at hand, if nobody has asked for them here before.
    pub(super) fn take_following(&mut self) -> Option<&[u64]> {
        let now = self.now;
        let following = self.batches.iter_mut().find(|batch| batch.number > now)?;
        (!std::mem::replace(&mut following.begun, true)).then_some(&following.rows)
    }

    /// Forgets what was announced.
    pub(super) fn clear(&mut self) {
        self.batches.clear();
        self.last = RowMap::default();
        (self.uses, self.strange) = (0, 0);
        self.now = self.now.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_use_knows_the_next_one() {
        let mut window = Window::new(1 << 16);
        assert_eq!(window.announce(&[1, 2, 3], 1), Announced::As(1));
        assert_eq!(window.announce(&[2, 9], 2), Announced::As(2));
        assert_eq!(window.announce(&[1, 2], 3), Announced::As(3));
        assert_eq!(window.announce(&[2, 9], 2), Announced::Known);
        assert_eq!(window.at_hand(&[7]), None);
        assert_eq!(window.at_hand(&[1, 2, 3]), Some(&[3, 2, NEVER][..]));
        assert_eq!(window.take_following(), Some(&[2, 9][..]));
        assert_eq!(window.take_following(), None);
        // Said before its own gathering, when the batch at hand is still the one before.
        assert_eq!(window.announce(&[3], 2), Announced::As(4));
        assert_eq!(window.at_hand(&[1, 2, 3]), Some(&[3, 2, 4][..]));
        // A batch that did not come is passed over.
        assert_eq!(window.at_hand(&[1, 2]), Some(&[NEVER, NEVER][..]));
        assert_eq!((window.now(), window.uses, window.last.len()), (3, 3, 3));
    }

    #[test]
    fn memory_is_bounded_and_what_nobody_comes_for_is_forgotten() {
        let bytes = 1 << 14;
        let mut window = Window::new(bytes);
        for batch in 1..1000 {
            let rows: Vec<u64> = (10 * u64::from(batch)..).take(10).collect();
            assert_ne!(window.announce(&rows, batch), Announced::Known);
            let taken = window.uses * USE_BYTES + window.last.capacity() / 7 * 8 * BUCKET_BYTES;
            assert!(taken <= bytes, "{taken}");
        }
        assert!(window.batches.len() > 20, "{}", window.batches.len());
        for call in 0..=u64::from(STRANGE_MOST) {
            assert_eq!(window.at_hand(&[call]), None);
        }
        assert_eq!((window.batches.len(), window.last.capacity(), window.take_following()), (0, 0, None));
    }
}
