//! Records in memory: a fixed number of them, found by row, given up by how often and how soon they are used.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::changed::Changed;
use super::places::{BYTES_PER_SLOT, Places, spread};
use crate::error::Result;
use crate::radix::sort_by_bits;
use crate::storage::Buffer;
use crate::units::{to_u64, to_usize};

/// Bytes of memory beside the record that a slot takes: what is known of it, its place, its number among those that are free, and
/// the bit that says that it has changed.
pub(super) const SLOT_BYTES: usize = size_of::<Slot>() + BYTES_PER_SLOT + size_of::<u32>() + 1;
/// A row's heat never exceeds this: what was hot once cools in as many rounds of the hand.
const HOTTEST: u8 = 16;
/// What a use adds to it. With rows by Zipf's law, and a tenth of them in memory, this hits 1.5 points more than 1 (0.674 and
/// 0.689 of a batch's distinct rows; counting all uses ever, 0.707).
const WARMTH: u8 = 4;
/// No use is known.
pub(super) const NEVER: u32 = u32::MAX;

/// Spreads row numbers over a map.
#[derive(Default)]
pub(super) struct RowHasher(u64);

impl Hasher for RowHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(self.0 ^ u64::from(byte));
        }
    }

    fn write_u64(&mut self, row: u64) {
        self.0 = spread(row);
    }
}

/// A map from rows.
pub(super) type RowMap<V> = HashMap<u64, V, BuildHasherDefault<RowHasher>>;

/// What is known of a record in memory.
#[derive(Debug, Clone, Copy)]
struct Slot {
    row: u64,
    /// The last call that needed it.
    call: u32,
    /// The next batch that is known to need it, by its number in the window.
    next: u32,
    heat: u8,
    used: bool,
}

/// A slot that holds nothing.
const UNUSED: Slot = Slot { row: 0, call: 0, next: NEVER, heat: 0, used: false };

impl Slot {
    fn is_expected(&self, now: u32) -> bool {
        self.next != NEVER && self.next >= now
    }
}

pub(super) struct Cache {
    record_bytes: usize,
    memory: Buffer,
    slots: Vec<Slot>,
    capacity: usize,
    /// Whether there is a slot for every row of the table: each has the one of its number, and nothing is looked up.
    is_whole: bool,
    places: Places,
    free: Vec<u32>,
    /// Slots that hold a row.
    used: usize,
    hand: usize,
    changed: Changed,
    /// The number of the call at hand.
    call: u32,
    /// The number of the batch at hand.
    now: u32,
    /// How often a row has come or gone.
    moves: u64,
}

/// The slot of a row where each has its own.
fn own_slot(row: u64) -> u32 {
    u32::try_from(row).unwrap_or(NEVER)
}

impl Cache {
    /// Of `capacity` records of a table of `rows`.
    pub(super) fn new(record_bytes: usize, capacity: usize, rows: u64) -> Result<Self> {
        let memory = Buffer::new(record_bytes * capacity)?;
        let is_whole = rows <= to_u64(capacity);
        Ok(Self {
            record_bytes,
            memory,
            slots: if is_whole { vec![UNUSED; capacity] } else { Vec::with_capacity(capacity) },
            capacity,
            is_whole,
            places: Places::new(if is_whole { 0 } else { capacity }),
            free: Vec::new(),
            used: 0,
            hand: 0,
            changed: Changed::new(capacity),
            call: 0,
            now: 0,
            moves: 0,
        })
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// As long as this does not change, every row stays where it is.
    pub(super) fn moves(&self) -> u64 {
        self.moves
    }

    pub(super) fn dirty(&self) -> usize {
        self.changed.count()
    }

    /// Slots that hold nothing.
    pub(super) fn free(&self) -> usize {
        self.capacity - self.used
    }

    /// Begins a call: what it finds and claims stays until the next one.
    pub(super) fn begin(&mut self) {
        self.call += 1;
        if self.call == NEVER {
            self.call = 1;
            for slot in &mut self.slots {
                slot.call = 0;
            }
        }
    }

    /// The slot of a row.
    pub(super) fn find(&self, row: u64) -> Option<u32> {
        if self.is_whole {
            return Some(own_slot(row)).filter(|&at| self.holds(at, row));
        }
        self.places.find(row, |at| self.row(at))
    }

    fn holds(&self, at: u32, row: u64) -> bool {
        self.slots.get(to_usize(at.into())).is_some_and(|slot| slot.row == row && slot.used)
    }

    /// The slots of rows that the call at hand uses, [`NEVER`] for each that is not in memory. Looks them up in parts, so that
    /// the processor waits for many lines of memory at once.
    pub(super) fn touch_all(&mut self, rows: &[u64]) -> Vec<u32> {
        const PART: usize = 64;
        if self.is_whole && self.used == self.capacity {
            // Nothing to look up.
            let capacity = to_u64(self.capacity);
            return rows.iter().map(|&row| if row < capacity { own_slot(row) } else { NEVER }).collect();
        }
        let mut slots = Vec::with_capacity(rows.len());
        let mut guesses = [NEVER; PART];
        for part in rows.chunks(PART) {
            for (guess, &row) in guesses.iter_mut().zip(part) {
                *guess = if self.is_whole { own_slot(row) } else { self.places.guess(row) };
            }
            for (&guess, &row) in guesses.iter().zip(part) {
                let found = if self.holds(guess, row) { Some(guess) } else { self.find(row) };
                if let Some(at) = found.filter(|_| !self.is_whole) {
                    self.touch_slot(at);
                }
                slots.push(found.unwrap_or(NEVER));
            }
        }
        slots
    }

    /// The slot of a row that the call at hand uses.
    #[cfg(test)]
    fn touch(&mut self, row: u64) -> Option<u32> {
        self.touch_all(&[row]).first().copied().filter(|&at| at != NEVER)
    }

    /// The same for rows whose slots are known. Where every row has its own slot, no use of one has to be remembered.
    pub(super) fn touch_slots(&mut self, slots: &[u32]) {
        if !self.is_whole {
            for &at in slots {
                self.touch_slot(at);
            }
        }
    }

    fn touch_slot(&mut self, at: u32) {
        let (call, now) = (self.call, self.now);
        if let Some(slot) = self.slots.get_mut(to_usize(at.into())) {
            slot.heat = (slot.heat + WARMTH).min(HOTTEST);
            slot.call = call;
            if slot.next <= now {
                slot.next = NEVER;
            }
        }
    }

    /// Says which batch is at hand.
    pub(super) fn set_now(&mut self, now: u32) {
        self.now = now;
    }

    /// Says which batch needs what is in a slot next, if it is not known to be needed before.
    pub(super) fn set_next(&mut self, at: u32, next: u32) {
        let now = self.now;
        if let Some(slot) = self.slots.get_mut(to_usize(at.into())) {
            slot.next = if slot.next > now { slot.next.min(next) } else { next };
        }
    }

    /// Says that a batch will need rows, of which some are in memory.
    pub(super) fn expect_all(&mut self, rows: &[u64], batch: u32) {
        for &row in rows {
            self.expect(row, batch);
        }
    }

    /// Says that a batch will need a row; true if it is in memory.
    fn expect(&mut self, row: u64, batch: u32) -> bool {
        let now = self.now;
        let found = self.find(row).and_then(|at| self.slots.get_mut(to_usize(at.into())));
        found.map(|slot| slot.next = if slot.next > now { slot.next.min(batch) } else { batch }).is_some()
    }

    /// Slots for `count` rows that are not there, as far as free memory goes.
    pub(super) fn claim_free(&mut self, rows: &[u64]) -> Vec<u32> {
        let mut claimed = Vec::with_capacity(rows.len());
        for &row in rows {
            let at = match self.free.pop() {
                Some(at) => at,
                None if self.is_whole => own_slot(row),
                None if self.slots.len() < self.capacity => {
                    let at = u32::try_from(self.slots.len()).unwrap_or(NEVER);
                    self.slots.push(UNUSED);
                    at
                }
                None => break,
            };
            self.put(at, row);
            claimed.push(at);
        }
        claimed
    }

    fn put(&mut self, at: u32, row: u64) {
        self.moves += 1;
        let call = self.call;
        if let Some(slot) = self.slots.get_mut(to_usize(at.into())) {
            *slot = Slot { row, call, used: true, ..UNUSED };
            self.used += 1;
        }
        if !self.is_whole {
            self.places.insert(row, at);
        }
    }

    /// Chooses up to `count` slots that can be given up: not those of the call at hand; of those that no batch is known to
    /// need, the ones that were used least; when there are no others, those that are needed last.
    pub(super) fn victims(&mut self, count: usize) -> Vec<u32> {
        let mut victims = Vec::with_capacity(count);
        let (call, now) = (self.call, self.now);
        // Each round cools.
        for _ in 0..=HOTTEST {
            let mut is_warm = false;
            for _ in 0..self.slots.len() {
                if victims.len() >= count {
                    return victims;
                }
                let at = self.hand;
                self.hand = (self.hand + 1) % self.slots.len().max(1);
                let Some(slot) = self.slots.get_mut(at) else { break };
                if slot.call == call || !slot.used || slot.is_expected(now) {
                    continue;
                }
                if slot.heat > 0 {
                    slot.heat -= 1;
                    is_warm = true;
                    continue;
                }
                // Not twice in these rounds.
                slot.call = call;
                victims.push(u32::try_from(at).unwrap_or(NEVER));
            }
            if !is_warm {
                break;
            }
        }
        let expected = self.slots.iter().zip(0_u32..).filter(|(slot, _)| slot.call != call && slot.used);
        let mut expected: Vec<_> = expected.map(|(slot, at)| (slot.next, at)).collect();
        let lacking = count - victims.len();
        if lacking < expected.len() {
            expected.select_nth_unstable_by(lacking, |a, b| b.cmp(a));
        }
        victims.extend(expected.into_iter().map(|(_, at)| at).take(lacking));
        victims
    }

    /// Gives up a slot whose record is clean, or saved elsewhere.
    pub(super) fn give_up(&mut self, at: u32) {
        self.moves += 1;
        self.set_dirty(at, false);
        let row = self.row(at);
        if let Some(slot) = self.slots.get_mut(to_usize(at.into())) {
            slot.used = false;
            self.used -= 1;
            if !self.is_whole {
                self.places.remove(row, |at| self.slots.get(to_usize(at.into())).map_or(0, |slot| slot.row));
                self.free.push(at);
            }
        }
    }

    /// As [`give_up`](Self::give_up), for several slots.
    pub(super) fn give_up_all(&mut self, slots: &[u32]) {
        for &at in slots {
            self.give_up(at);
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.moves += 1;
        if self.is_whole {
            self.slots.fill(UNUSED);
        } else {
            self.slots.clear();
            self.places.clear();
        }
        self.free.clear();
        self.changed.clear();
        (self.hand, self.used) = (0, 0);
    }

    /// Up to `count` changed slots that the call at hand does not use, from the hand on.
    pub(super) fn dirty_ahead(&self, count: usize) -> Vec<u32> {
        let is_idle =
            |at: &u32| self.slots.get(to_usize((*at).into())).is_some_and(|slot| slot.call != self.call);
        self.changed.from(u32::try_from(self.hand).unwrap_or(0)).filter(is_idle).take(count).collect()
    }

    /// Rows in memory.
    pub(super) fn len(&self) -> usize {
        self.used
    }

    pub(super) fn row(&self, at: u32) -> u64 {
        self.slots.get(to_usize(at.into())).map_or(0, |slot| slot.row)
    }

    pub(super) fn is_dirty(&self, at: u32) -> bool {
        self.changed.contains(at)
    }

    pub(super) fn set_dirty(&mut self, at: u32, dirty: bool) {
        self.changed.set(at, dirty);
    }

    /// All changed records: row and slot, ascending by row.
    pub(super) fn all_dirty(&self) -> Vec<(u64, u32)> {
        let mut all: Vec<_> = self.changed.from(0).map(|at| (self.row(at), at)).collect();
        all.sort_unstable();
        all
    }

    pub(super) fn record(&self, at: u32) -> &[u8] {
        let start = to_usize(at.into()) * self.record_bytes;
        self.memory.get(start..start + self.record_bytes).unwrap_or_default()
    }

    pub(super) fn record_mut(&mut self, at: u32) -> &mut [u8] {
        let start = to_usize(at.into()) * self.record_bytes;
        self.memory.get_mut(start..start + self.record_bytes).unwrap_or_default()
    }

    /// The records of distinct slots, in the order of `slots`.
    pub(super) fn records_mut(&mut self, slots: &[u32]) -> Vec<&mut [u8]> {
        let (mut rest, mut position, record_bytes) = (&mut *self.memory, 0, self.record_bytes);
        let mut next = |at: u64| {
            let start = to_usize(at) * record_bytes;
            let (_, from) = std::mem::take(&mut rest).split_at_mut(start - position);
            let (record, after) = from.split_at_mut(record_bytes);
            (rest, position) = (after, start + record_bytes);
            record
        };
        if slots.is_sorted() {
            return slots.iter().map(|&at| next(at.into())).collect();
        }
        // Slot and place in one number.
        let mut order: Vec<u64> =
            slots.iter().zip(0_u64..).map(|(&at, place)| u64::from(at) << 32 | place).collect();
        let bits = usize::BITS - self.capacity.leading_zeros();
        sort_by_bits(&mut order, 32..32 + bits);
        let mut found: Vec<&mut [u8]> = slots.iter().map(|_| Default::default()).collect();
        for packed in order {
            let record = next(packed >> 32);
            if let Some(found) = found.get_mut(to_usize(packed & u64::from(u32::MAX))) {
                *found = record;
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::super::window::{Announced, Window};
    use super::*;

    fn filled(capacity: usize) -> Cache {
        let mut cache = Cache::new(16, capacity, u64::MAX).unwrap();
        cache.begin();
        let rows: Vec<_> = (0..).map(|row| 10 * row).take(capacity).collect();
        assert_eq!(cache.claim_free(&rows).len(), capacity);
        cache
    }

    #[test]
    fn what_a_call_uses_and_what_the_next_one_needs_stay() {
        let mut cache = filled(4);
        assert!(cache.claim_free(&[1]).is_empty() && cache.victims(4).is_empty());
        cache.begin();
        let needed = cache.touch(10).unwrap();
        assert!(cache.expect(20, 1) && !cache.expect(25, 1));
        let victims = cache.victims(2);
        let rows: Vec<_> = victims.iter().map(|&at| cache.row(at)).collect();
        assert_eq!(rows, [0, 30]);
        // With nothing else left, what is expected goes too; what is in use never does.
        let expected = cache.find(20).unwrap();
        assert_eq!(cache.victims(4), [expected]);
        assert!(cache.find(10) == Some(needed));
    }

    #[test]
    fn a_table_that_fits_has_its_rows_in_the_slots_of_their_numbers() {
        let mut cache = Cache::new(16, 4, 4).unwrap();
        cache.begin();
        assert_eq!((cache.touch_all(&[3, 1]), cache.claim_free(&[3, 1])), (vec![NEVER; 2], vec![3, 1]));
        assert_eq!(
            (cache.free(), cache.len(), cache.find(1), cache.find(2), cache.find(9)),
            (2, 2, Some(1), None, None)
        );
        cache.set_dirty(3, true);
        assert_eq!(cache.all_dirty(), [(3, 3)]);
        cache.give_up(3);
        assert_eq!(
            (cache.free(), cache.find(3), cache.dirty(), cache.claim_free(&[0, 3])),
            (3, None, 0, vec![0, 3])
        );
        cache.clear();
        assert_eq!((cache.free(), cache.find(1)), (4, None));
    }

    /// Misses of Belady's MIN, which knows all batches: each keeps its own rows, and gives up those that are needed last.
    fn fewest_misses(batches: &[Vec<u64>], capacity: usize) -> usize {
        let mut near: Vec<u64> = Vec::new();
        let mut misses = 0;
        for (at, batch) in batches.iter().enumerate() {
            let next = |row: &u64| batches.iter().skip(at + 1).position(|later| later.contains(row));
            let (mut own, mut others): (Vec<_>, Vec<_>) =
                near.into_iter().partition(|row| batch.contains(row));
            misses += batch.len() - own.len();
            own.clone_from(batch);
            others.sort_by_key(|row| next(row).unwrap_or(usize::MAX));
            others.truncate(capacity - own.len());
            near = own;
            near.extend(others);
        }
        misses
    }

    #[test]
    fn a_window_over_all_batches_misses_as_rarely_as_can_be_and_a_shorter_one_less_than_none() {
        let draw = |seed: u64| {
            let at = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 11;
            // A few rows often, many seldom.
            (at % 1000) * (at / 1000 % 1000) / 5000
        };
        let batches: Vec<Vec<u64>> = (0..150)
            .map(|batch| {
                let mut rows: Vec<u64> = (0..12).map(|at| draw(100 * batch + at)).collect();
                rows.sort_unstable();
                rows.dedup();
                rows
            })
            .collect();
        let misses = |ahead: usize| {
            let (mut cache, mut window) = (Cache::new(8, 40, u64::MAX).unwrap(), Window::new(1 << 20));
            let mut misses = 0;
            for (at, batch) in batches.iter().enumerate() {
                let new = if at == 0 { 1..=ahead } else { ahead..=ahead };
                for ahead in new.filter(|ahead| *ahead > 0) {
                    let Some(rows) = batches.get(at + ahead) else { continue };
                    if let Announced::As(number) = window.announce(rows, to_u64(ahead).try_into().unwrap()) {
                        cache.expect_all(rows, number);
                    }
                }
                let is_known = window.at_hand(batch);
                cache.set_now(window.now());
                while let Some((number, rows)) = window.link() {
                    cache.expect_all(&rows, number);
                }
                let next = is_known.then(|| window.next_uses().to_vec());
                cache.begin();
                let missing: Vec<u64> =
                    batch.iter().copied().filter(|&row| cache.touch(row).is_none()).collect();
                misses += missing.len();
                let victims = cache.victims(missing.len().saturating_sub(cache.free()));
                cache.give_up_all(&victims);
                assert_eq!(cache.claim_free(&missing).len(), missing.len());
                for (&row, next) in batch.iter().zip(next.unwrap_or_default()) {
                    let at = cache.find(row).unwrap();
                    cache.set_next(at, next);
                }
            }
            misses
        };
        let (none, short, all) = (misses(0), misses(5), misses(150));
        assert!(none > short && short > all, "{none}, {short}, {all}");
        // The first batch is not announced, and so its rows' next uses are not known.
        let fewest = fewest_misses(&batches, 40);
        assert!(all <= fewest + 6, "{all} of {fewest}");
    }

    #[test]
    fn rows_that_are_used_often_outlive_those_that_are_not() {
        let mut cache = filled(4);
        for _ in 0..3 {
            cache.begin();
            cache.touch(0);
            cache.touch(20);
        }
        cache.begin();
        let rows: Vec<_> = cache.victims(2).iter().map(|&at| cache.row(at)).collect();
        assert_eq!(rows, [10, 30]);
    }

    #[test]
    fn records_of_distinct_slots_are_given_in_the_order_asked_for() {
        let mut cache = filled(5);
        for at in 0..5 {
            cache.record_mut(at).fill(u8::try_from(at).unwrap());
        }
        let firsts: Vec<_> = cache.records_mut(&[4, 0, 2]).iter().map(|record| record[0]).collect();
        assert_eq!(firsts, [4, 0, 2]);
        cache.set_dirty(3, true);
        cache.set_dirty(1, true);
        assert_eq!((cache.dirty(), cache.all_dirty()), (2, vec![(10, 1), (30, 3)]));
        cache.give_up(3);
        assert_eq!((cache.dirty(), cache.find(30), cache.claim_free(&[7])), (1, None, vec![3]));
    }
}
