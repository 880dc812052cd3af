//! Which slots hold a record that has changed? A bit for each: what a batch changes is noted without a line of memory for every
//! record, and a commit finds it without a look at every slot.

use crate::units::to_usize;

const BITS: usize = u64::BITS as usize;

/// A set of slots.
pub(super) struct Changed {
    words: Vec<u64>,
    count: usize,
}

impl Changed {
    /// None of the slots below `slots`.
    pub(super) fn new(slots: usize) -> Self {
        Self { words: vec![0; slots.div_ceil(BITS)], count: 0 }
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn contains(&self, at: u32) -> bool {
        let (word, bit) = place(at);
        self.words.get(word).is_some_and(|word| word & bit != 0)
    }

    pub(super) fn set(&mut self, at: u32, is_changed: bool) {
        let (word, bit) = place(at);
        let Some(word) = self.words.get_mut(word) else { return };
        if (*word & bit != 0) != is_changed {
            *word ^= bit;
            self.count = if is_changed { self.count + 1 } else { self.count - 1 };
        }
    }

    /// All of them from a slot on, ascending, then those below it.
    pub(super) fn from(&self, first: u32) -> impl Iterator<Item = u32> {
        let (split, bit) = place(first);
        let behind = !(bit - 1);
        let upper = self.words.iter().enumerate().skip(split);
        let upper = upper.map(move |(at, &word)| (at, if at == split { word & behind } else { word }));
        let lower = self.words.iter().enumerate().take(split + 1);
        let lower = lower.map(move |(at, &word)| (at, if at == split { word & !behind } else { word }));
        upper.chain(lower).flat_map(|(at, word)| slots_of(at, word))
    }

    pub(super) fn clear(&mut self) {
        self.words.fill(0);
        self.count = 0;
    }
}

/// The word of a slot, and its bit there.
fn place(at: u32) -> (usize, u64) {
    let at = to_usize(at.into());
    (at / BITS, 1 << (at % BITS))
}

/// The slots of a word's ones, ascending.
fn slots_of(at: usize, mut word: u64) -> impl Iterator<Item = u32> {
    let first = u32::try_from(at * BITS).unwrap_or(u32::MAX);
    std::iter::from_fn(move || {
        let bit = (word != 0).then(|| word.trailing_zeros())?;
        word &= word - 1;
        Some(first + bit)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::splitmix::mix;

    #[test]
    fn slots_come_and_go_as_in_a_set_and_are_shown_from_anywhere() {
        for slots in [1_u32, 63, 64, 65, 200] {
            let (mut changed, mut set) = (Changed::new(slots as usize), BTreeSet::new());
            for at in 0..1000_u64 {
                let slot = u32::try_from(mix(at) % u64::from(slots)).unwrap();
                let is_changed = !mix(at + 7).is_multiple_of(3);
                changed.set(slot, is_changed);
                if is_changed {
                    set.insert(slot)
                } else {
                    set.remove(&slot)
                };
                assert_eq!((changed.count(), changed.contains(slot)), (set.len(), is_changed));
                let first = u32::try_from(mix(at + 9) % u64::from(slots)).unwrap();
                let expected: Vec<_> = set.range(first..).chain(set.range(..first)).copied().collect();
                assert_eq!(changed.from(first).collect::<Vec<_>>(), expected, "from {first} of {slots}");
            }
            changed.clear();
            assert_eq!((changed.count(), changed.from(0).next()), (0, None));
            changed.set(slots + 200, true);
            assert_eq!(changed.count(), 0, "not a slot");
        }
    }
}
