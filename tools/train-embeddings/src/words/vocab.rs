//! The vocabulary, and the text as numbers of its words.

use std::collections::HashMap;

use anyhow::{Result, ensure};

use super::text::{Text, words};
use crate::num::float;

/// Marks the end of a line in a sequence of words.
pub(crate) const END: u32 = u32::MAX;

/// Distinct words that are counted at a time, for each word that the vocabulary may have.
const COUNTED: usize = 8;

/// The words that have vectors, by falling count.
pub(crate) struct Vocab {
    words: Vec<String>,
    counts: Vec<u64>,
    numbers: HashMap<String, u32>,
}

impl Vocab {
    /// Counts words and keeps the most frequent: at most `most`, each seen `least` times or more.
    ///
    /// Memory is bounded: whenever more than eight times `most` distinct words are counted, the rarest are forgotten,
    /// those seen once first, as fastText does.
    pub(crate) fn count<'a>(lines: impl Iterator<Item = &'a str>, least: u64, most: usize) -> Self {
        let mut counts: HashMap<String, u64> = HashMap::new();
        let mut forgotten = 0;
        for word in lines.flat_map(words) {
            *counts.entry(word).or_default() += 1;
            while counts.len() > COUNTED * most {
                forgotten += 1;
                counts.retain(|_, count| *count > forgotten);
            }
        }
        let mut order: Vec<_> = counts.into_iter().filter(|(_, count)| *count >= least).collect();
        order.sort_unstable_by(|(a, a_count), (b, b_count)| b_count.cmp(a_count).then_with(|| a.cmp(b)));
        order.truncate(most);
        let numbers = order.iter().zip(0..).map(|((word, _), number)| (word.clone(), number)).collect();
        let (words, counts) = order.into_iter().unzip();
        Self { words, counts, numbers }
    }

    /// Number of words.
    pub(crate) fn len(&self) -> usize {
        self.words.len()
    }

    /// A word.
    pub(crate) fn word(&self, number: u32) -> &str {
        &self.words[number as usize]
    }

    /// All words, by falling count.
    pub(crate) fn words(&self) -> &[String] {
        &self.words
    }

    /// How many times each word stands in the text.
    pub(crate) fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// The number of a word, if it is in the vocabulary.
    pub(crate) fn number(&self, word: &str) -> Option<u32> {
        self.numbers.get(word).copied()
    }

    /// The probability with which each word is kept when frequent words are thinned out: `sqrt(t/f) + t/f` for a
    /// frequency `f` above the threshold `t`; 0 as threshold keeps everything.
    pub(crate) fn keep(&self, threshold: f64) -> Vec<f64> {
        let total = float(self.counts.iter().sum());
        let keep = |&count: &u64| {
            let share = threshold * total / float(count);
            if threshold > 0.0 { (share.sqrt() + share).min(1.0) } else { 1.0 }
        };
        self.counts.iter().map(keep).collect()
    }

    /// The words of pieces of text as numbers, four bytes each; words without one are left out.
    fn encode(&self, pieces: &[&str]) -> Vec<u32> {
        let mut numbers = Vec::new();
        for line in pieces.iter().flat_map(|piece| piece.lines()) {
            let before = numbers.len();
            numbers.extend(words(line).filter_map(|word| self.number(&word)));
            if numbers.len() > before {
                numbers.push(END);
            }
        }
        numbers.shrink_to_fit();
        numbers
    }
}

/// The text as numbers of words.
pub(crate) struct Corpus {
    /// The vocabulary, counted on the part to train on.
    pub(crate) vocab: Vocab,
    /// The part to train on, each line ended by [`END`].
    pub(crate) train: Vec<u32>,
    /// The part held out, likewise.
    pub(crate) held: Vec<u32>,
}

impl Corpus {
    /// Counts the words of a text and turns it into numbers.
    pub(crate) fn new(text: &Text, least: u64, most: usize) -> Result<Self> {
        let (train, held) = text.pieces();
        let vocab = Vocab::count(train.iter().flat_map(|piece| piece.lines()), least, most);
        ensure!(
            vocab.len() >= 2,
            "the text has {} words that occur {least} times or more: give more text, or a smaller --min-count",
            vocab.len()
        );
        let (train, held) = (vocab.encode(&train), vocab.encode(&held));
        Ok(Self { vocab, train, held })
    }

    /// Words of the part to train on.
    pub(crate) fn words(&self) -> u64 {
        self.train.iter().filter(|&&word| word != END).count() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: [&str; 3] = ["a b a c", "b a d", "e"];

    #[test]
    fn words_stand_by_falling_count_and_then_in_order() {
        let vocab = Vocab::count(LINES.into_iter(), 1, 100);
        assert_eq!(vocab.words(), ["a", "b", "c", "d", "e"]);
        assert_eq!(vocab.counts(), [3, 2, 1, 1, 1]);
        assert_eq!((vocab.number("b"), vocab.number("x")), (Some(1), None));
        assert_eq!(Vocab::count(LINES.into_iter(), 2, 100).words(), ["a", "b"]);
        assert_eq!(Vocab::count(LINES.into_iter(), 1, 2).words(), ["a", "b"]);
    }

    #[test]
    fn counting_forgets_rare_words_rather_than_growing() {
        let rare: Vec<String> = (0..100).map(|i| format!("often w{i} often")).collect();
        let vocab = Vocab::count(rare.iter().map(String::as_str), 1, 2);
        assert_eq!(vocab.word(0), "often");
        assert_eq!(vocab.counts()[0], 200);
        assert_eq!(vocab.len(), 2);
    }

    #[test]
    fn frequent_words_are_thinned_out_and_rare_ones_kept() {
        let vocab = Vocab::count(["a a a a a a a a b b"].into_iter(), 1, 10);
        let keep = vocab.keep(0.2);
        assert!((keep[0] - (0.5 + 0.25)).abs() < 1e-12);
        assert!((keep[1] - 1.0).abs() < 1e-12);
        assert_eq!(vocab.keep(0.0), [1.0, 1.0]);
    }

    #[test]
    fn lines_end_and_unknown_words_are_left_out() {
        let vocab = Vocab::count(["a b"].into_iter(), 1, 10);
        assert_eq!(vocab.encode(&["a x b\nx\n", "b\n"]), [0, 1, END, 1, END]);
    }
}
