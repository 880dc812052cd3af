//! The batches that are known to come, and when each of their rows is needed next: with that, rows are given up as Belady's
//! MIN does ("A study of replacement algorithms for a virtual-storage computer", 1966), as far as the window reaches. Batches
//! behind it wait until there is memory for their uses: only which rows they are is known.

use std::collections::VecDeque;

use super::cache::{NEVER, RowMap};
use super::packed::Packed;
use crate::units::to_usize;

/// Calls in a row that were those of no batch, after which what was said is taken for forgotten by the caller too; and how many
/// more for each batch that comes before the first one that is known.
const STRANGE_MOST: u32 = 64;
const CALLS_OF_A_BATCH: u32 = 4;
/// What a use of a row takes: the number of the batch that uses it next.
const USE_BYTES: usize = size_of::<u32>();
/// What a bucket of the map takes, seven of eight of which are filled at most.
const BUCKET_BYTES: usize = size_of::<(u64, (u32, u32))>() + 1;

/// A batch to come, or the one at hand.
struct Batch {
    /// Ascends from batch to batch.
    number: u32,
    rows: Packed,
    /// The number of the next batch that uses each of the rows; of a batch that waits, nothing.
    next: Vec<u32>,
    /// Whether its rows are being read.
    begun: bool,
}

impl Batch {
    fn kept_bytes(&self) -> usize {
        self.rows.bytes() + size_of::<Self>()
    }
}

/// What became of a batch that was announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Announced {
    /// It was known.
    Known,
    /// It has this number.
    As(u32),
    /// It would have this number, but there is no memory for it.
    Unkept(u32),
}

pub(super) struct Window {
    /// The first may be the one at hand.
    batches: VecDeque<Batch>,
    /// How many of them, from the first on, do not wait.
    linked: usize,
    /// The last batch that does not wait and uses a row, by number, and the row's place in it.
    last: RowMap<(u32, u32)>,
    /// The number of the batch at hand.
    now: u32,
    strange: u32,
    uses: usize,
    uses_most: usize,
    rows_most: usize,
    /// Bytes of batches, but for their uses.
    kept_bytes: usize,
    kept_most: usize,
}

impl Window {
    /// A window in that many bytes of memory, which are taken when a batch is announced.
    pub(super) fn new(bytes: usize) -> Self {
        let buckets = (bytes / 2 / BUCKET_BYTES).checked_ilog2().map_or(0, |log| 1 << log);
        let rest = bytes - buckets * BUCKET_BYTES;
        Self {
            batches: VecDeque::new(),
            linked: 0,
            last: RowMap::default(),
            now: 0,
            strange: 0,
            uses: 0,
            uses_most: rest / 2 / USE_BYTES,
            rows_most: buckets / 8 * 7,
            kept_bytes: 0,
            kept_most: rest / 2,
        }
    }

    /// The number of the batch at hand.
    pub(super) fn now(&self) -> u32 {
        self.now
    }

    /// Takes in that a batch comes `ahead` after the one at hand. Where that place is taken by other rows, the caller has
    /// gone on to a batch that it has not asked for yet, and this one comes last.
    pub(super) fn announce(&mut self, rows: &[u64], ahead: u32) -> Announced {
        let at_least = self.now.saturating_add(ahead);
        let is_it = |batch: &&Batch| batch.number >= at_least && batch.number <= at_least + 1;
        if self.batches.iter().filter(is_it).any(|batch| batch.rows.is(rows)) {
            return Announced::Known;
        }
        let behind = self.batches.back().map_or(0, |batch| batch.number.saturating_add(1));
        let number = at_least.max(behind).min(NEVER - 1);
        let room = (self.kept_most - self.kept_bytes).checked_sub(size_of::<Batch>());
        let Some(packed) = room.and_then(|room| Packed::of(rows, room)) else {
            return Announced::Unkept(number);
        };
        let batch = Batch { number, rows: packed, next: Vec::new(), begun: false };
        self.kept_bytes += batch.kept_bytes();
        self.batches.push_back(batch);
        if self.linked + 1 == self.batches.len() {
            self.link();
        }
        Announced::As(number)
    }

    /// Ends the waiting of the batch that has waited longest, if there is memory for its uses. Returns its number and its
    /// rows.
    pub(super) fn link(&mut self) -> Option<(u32, Vec<u64>)> {
        let batch = self.batches.get_mut(self.linked)?;
        let (number, rows) = (batch.number, batch.rows.len());
        if self.uses + rows > self.uses_most || self.last.len() + rows > self.rows_most {
            return None;
        }
        let rows: Vec<u64> = batch.rows.iter().collect();
        batch.next = vec![NEVER; rows.len()];
        self.linked += 1;
        self.uses += rows.len();
        self.last.reserve(self.rows_most.saturating_sub(self.last.len()));
        for (&row, place) in rows.iter().zip(0..) {
            if let Some((user, at)) = self.last.insert(row, (number, place))
                && let Some(next) = self.next_of(user, at)
            {
                *next = number;
            }
        }
        Some((number, rows))
    }

    fn next_of(&mut self, number: u32, place: u32) -> Option<&mut u32> {
        let at = self.batches.binary_search_by_key(&number, |batch| batch.number).ok()?;
        self.batches.get_mut(at)?.next.get_mut(to_usize(place.into()))
    }

    /// Says which rows a call asks for. If they are those of a batch that was announced, that is the one at hand now, those in
    /// front of it are gone, and others may have room.
    pub(super) fn at_hand(&mut self, rows: &[u64]) -> bool {
        let Some(at) = self.batches.iter().position(|batch| batch.rows.is(rows)) else {
            self.be_patient();
            return false;
        };
        self.strange = 0;
        for _ in 0..at {
            self.pop();
        }
        self.now = self.batches.front().map_or(self.now, |batch| batch.number);
        true
    }

    /// Counts a call that is that of no batch.
    fn be_patient(&mut self) {
        let Some(first) = self.batches.front() else { return };
        let before = first.number.saturating_sub(self.now);
        self.strange += 1;
        if self.strange > STRANGE_MOST.saturating_add(before.saturating_mul(CALLS_OF_A_BATCH)) {
            self.clear();
        }
    }

    /// The numbers of the batches that use the rows of the one at hand next, as far as that is known.
    pub(super) fn next_uses(&self) -> &[u32] {
        let at_hand = self.batches.front().filter(|batch| batch.number == self.now);
        at_hand.map_or(&[], |batch| &batch.next)
    }

    fn pop(&mut self) {
        let Some(gone) = self.batches.pop_front() else { return };
        self.kept_bytes -= gone.kept_bytes();
        if self.linked == 0 {
            return;
        }
        self.linked -= 1;
        self.uses -= gone.rows.len();
        for row in gone.rows.iter() {
            if self.last.get(&row).is_some_and(|&(number, _)| number == gone.number) {
                self.last.remove(&row);
            }
        }
    }

    /// The rows of the batch that follows the one at hand, if nobody has asked for them here before.
    pub(super) fn take_following(&mut self) -> Option<Vec<u64>> {
        let now = self.now;
        let following = self.batches.iter_mut().find(|batch| batch.number > now)?;
        (!std::mem::replace(&mut following.begun, true)).then(|| following.rows.iter().collect())
    }

    /// Forgets what was announced.
    pub(super) fn clear(&mut self) {
        self.batches.clear();
        self.last = RowMap::default();
        (self.linked, self.uses, self.kept_bytes, self.strange) = (0, 0, 0, 0);
        self.now = self.now.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The next uses of the rows of a batch that comes to hand, if it is known.
    fn come<'a>(window: &'a mut Window, rows: &[u64]) -> Option<&'a [u32]> {
        let known = window.at_hand(rows);
        while window.link().is_some() {}
        known.then(|| window.next_uses())
    }

    #[test]
    fn each_use_knows_the_next_one() {
        let mut window = Window::new(1 << 16);
        assert_eq!(window.announce(&[1, 2, 3], 1), Announced::As(1));
        assert_eq!(window.announce(&[2, 9], 2), Announced::As(2));
        assert_eq!(window.announce(&[1, 2], 3), Announced::As(3));
        assert_eq!(window.announce(&[2, 9], 2), Announced::Known);
        assert_eq!(come(&mut window, &[7]), None);
        assert_eq!(come(&mut window, &[1, 2, 3]), Some(&[3, 2, NEVER][..]));
        assert_eq!(window.take_following(), Some(vec![2, 9]));
        assert_eq!(window.take_following(), None);
        // Said before its own gathering, when the batch at hand is still the one before.
        assert_eq!(window.announce(&[3], 2), Announced::As(4));
        assert_eq!(come(&mut window, &[1, 2, 3]), Some(&[3, 2, 4][..]));
        // A batch that did not come is passed over.
        assert_eq!(come(&mut window, &[1, 2]), Some(&[NEVER, NEVER][..]));
        assert_eq!((window.now(), window.uses, window.last.len()), (3, 3, 3));
    }

    #[test]
    fn batches_behind_the_window_come_into_it_in_time() {
        // Memory for the uses of fifteen batches of these, and for the rows of more.
        let mut window = Window::new(1 << 14);
        let batch = |at: u32| (u64::from(at)..u64::from(at) + 100).collect::<Vec<u64>>();
        for at in 1..=25 {
            assert_eq!(window.announce(&batch(at), at), Announced::As(at));
        }
        assert_eq!((window.linked, window.batches.len()), (15, 25));
        for at in 1..=25 {
            let next = come(&mut window, &batch(at)).map(<[u32]>::to_vec).unwrap();
            // The first row is used no more, the others by the next batch.
            let expected = if at < 25 { at + 1 } else { NEVER };
            assert_eq!((next[0], next[1], next[99]), (NEVER, expected, expected), "{at}");
            assert_eq!(window.take_following(), (at < 25).then(|| batch(at + 1)));
        }
        assert_eq!((window.linked, window.uses, window.kept_bytes), (1, 100, 100 + size_of::<Batch>()));
    }

    #[test]
    fn a_batch_that_is_far_ahead_is_waited_for() {
        let mut window = Window::new(1 << 16);
        // Of a table that is filled first, and of batches before the first one that is announced.
        for call in 0..1000 {
            assert_eq!(come(&mut window, &[call]), None);
        }
        assert_eq!(window.announce(&[7, 8], 300), Announced::As(300));
        for call in 0..600 {
            assert_eq!(come(&mut window, &[call]), None);
        }
        assert_eq!(come(&mut window, &[7, 8]), Some(&[NEVER; 2][..]));
    }

    #[test]
    fn a_batch_whose_uses_are_too_many_is_read_ahead_all_the_same() {
        let mut window = Window::new(4096);
        let large: Vec<u64> = (0..300).collect();
        let none: &[u32] = &[];
        assert_eq!(window.announce(&large, 1), Announced::As(1));
        assert_eq!(window.announce(&[5], 2), Announced::As(2));
        assert_eq!(window.take_following(), Some(large.clone()));
        assert_eq!(come(&mut window, &large), Some(none));
        assert_eq!(window.take_following(), Some(vec![5]));
        assert_eq!(come(&mut window, &[5]), Some(&[NEVER][..]));
        let larger: Vec<u64> = (0..10_000).collect();
        assert_eq!(window.announce(&larger, 1), Announced::Unkept(3));
    }

    #[test]
    fn memory_is_bounded_and_what_nobody_comes_for_is_forgotten() {
        let bytes = 1 << 14;
        let mut window = Window::new(bytes);
        for batch in 1..1000 {
            let rows: Vec<u64> = (10 * u64::from(batch)..).take(10).collect();
            assert_ne!(window.announce(&rows, batch), Announced::Known);
            let buckets = window.last.capacity() / 7 * 8;
            let taken = window.uses * USE_BYTES + buckets * BUCKET_BYTES + window.kept_bytes;
            assert!(taken <= bytes, "{taken}");
        }
        let (linked, known) = (window.linked, window.batches.len());
        assert!(linked > 20 && known > 2 * linked, "{linked} of {known}");
        for call in 0..u64::from(STRANGE_MOST + CALLS_OF_A_BATCH) {
            assert_eq!(come(&mut window, &[call]), None);
        }
        assert_eq!((window.linked, window.batches.len()), (linked, known));
        assert_eq!(come(&mut window, &[0]), None);
        assert_eq!((window.batches.len(), window.last.capacity(), window.take_following()), (0, 0, None));
    }
}
