//! How often words stand near each other: for each pair the sum of 1 / distance over the text.
//!
//! Memory is bounded by a number of pairs. Occurrences are collected as they come and merged when as many are waiting as pairs
//! may be held; if more distinct pairs remain than that, the lightest are dropped, and their number is told.

use super::vocab::END;
use crate::num::single_of;

/// A pair of words, the smaller number first, and how often they stand near each other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Pair {
    /// The smaller number.
    pub(crate) low: u32,
    /// The larger number, or the same.
    pub(crate) high: u32,
    /// Sum of the reciprocal distances.
    pub(crate) weight: f32,
}

/// All pairs of a text.
#[derive(Debug)]
pub(crate) struct Pairs {
    /// By word numbers, ascending.
    pub(crate) pairs: Vec<Pair>,
    /// Pairs that were dropped because there were too many.
    pub(crate) dropped: u64,
}

impl Pairs {
    /// Counts the pairs of a text within a window on each side, at most `most` distinct ones.
    pub(crate) fn count(words: &[u32], window: usize, most: usize) -> Self {
        let mut counted = Self { pairs: Vec::new(), dropped: 0 };
        let mut waiting = Vec::new();
        for line in words.split(|&word| word == END) {
            for (at, &word) in line.iter().enumerate() {
                for distance in 1..=window.min(at) {
                    let other = line[at - distance];
                    let weight = 1.0 / single_of(distance);
                    waiting.push(Pair { low: word.min(other), high: word.max(other), weight });
                }
            }
            if waiting.len() >= most {
                counted.merge(&mut waiting, most);
            }
        }
        counted.merge(&mut waiting, most);
        counted.pairs.shrink_to_fit();
        counted
    }

    /// Adds what is waiting, in the order in which it came.
    fn merge(&mut self, waiting: &mut Vec<Pair>, most: usize) {
        waiting.sort_by_key(|pair| (pair.low, pair.high));
        let before = std::mem::take(&mut self.pairs);
        let mut old = before.into_iter().peekable();
        for pair in waiting.drain(..) {
            let key = (pair.low, pair.high);
            while let Some(first) = old.next_if(|first| (first.low, first.high) <= key) {
                self.pairs.push(first);
            }
            match self.pairs.last_mut() {
                Some(last) if (last.low, last.high) == key => last.weight += pair.weight,
                _ => self.pairs.push(pair),
            }
        }
        self.pairs.extend(old);
        if self.pairs.len() > most {
            let mut weights: Vec<f32> = self.pairs.iter().map(|pair| pair.weight).collect();
            let surplus = weights.len() - most;
            let (_, &mut least, _) = weights.select_nth_unstable_by(surplus - 1, f32::total_cmp);
            let before = self.pairs.len();
            self.pairs.retain(|pair| pair.weight > least);
            self.dropped += (before - self.pairs.len()) as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(pairs: &Pairs, low: u32, high: u32) -> f32 {
        pairs.pairs.iter().find(|pair| (pair.low, pair.high) == (low, high)).map_or(0.0, |pair| pair.weight)
    }

    #[test]
    fn pairs_weigh_the_reciprocal_of_their_distance_and_end_with_the_line() {
        let pairs = Pairs::count(&[0, 1, 2, 0, END, 2, 1, END], 2, 100);
        assert!((weight(&pairs, 0, 1) - 1.5).abs() < 1e-6);
        assert!((weight(&pairs, 1, 2) - 2.0).abs() < 1e-6);
        assert!((weight(&pairs, 0, 2) - 1.5).abs() < 1e-6);
        assert!(weight(&pairs, 0, 0).abs() < 1e-6, "three words apart");
        assert_eq!((pairs.pairs.len(), pairs.dropped), (3, 0));
    }

    #[test]
    fn merging_early_gives_the_same_pairs_and_too_many_lose_their_lightest() {
        let words: Vec<u32> = (0..400).map(|i| if i % 9 == 8 { END } else { i * i % 13 }).collect();
        let (whole, parts) = (Pairs::count(&words, 4, 100_000), Pairs::count(&words, 4, 95));
        assert_eq!(whole.pairs.len(), parts.pairs.len());
        for (a, b) in whole.pairs.iter().zip(&parts.pairs) {
            assert_eq!((a.low, a.high), (b.low, b.high));
            assert!((a.weight - b.weight).abs() < 1e-3);
        }
        let few = Pairs::count(&words, 4, 10);
        assert!(few.pairs.len() <= 10 && few.dropped > 0);
    }
}
