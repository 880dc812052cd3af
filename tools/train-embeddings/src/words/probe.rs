//! The intrinsic score: how well vectors tell the words that really stood near a word from words drawn at random.
//!
//! Pairs of a word and one of its context are taken from the text that was held out, thinned out as in training. The true
//! context is ranked among itself and 100 words drawn from the noise distribution (counts to the power of 3/4). The best
//! possible order is by the ratio of a candidate's probability near the word to its probability as noise, so each model is
//! asked for the logarithm of that ratio, up to a constant. What the score measures is this prediction on unseen
//! text of the same kind, and nothing about meaning.

use rayon::prelude::*;

use super::sampler::{Alias, NOISE_POWER};
use super::vocab::{Corpus, END, Vocab};
use crate::named::Named;
use crate::num::{float, index, single};
use crate::random::{Draws, mix};
use crate::ranks::{Ranks, Tally};
use crate::run::Verdict;

/// Words drawn at random for each pair.
const CANDIDATES: usize = 100;
/// Pairs at most.
const PAIRS: usize = 20_000;
/// Words on each side of a word that are its context.
const WINDOW: usize = 5;
/// Frequent words are thinned out to about this frequency.
pub(crate) const THRESHOLD: f64 = 1e-4;
/// The pairs are the same for every seed of a run.
const KEY: u64 = 0x7072_6f62_6500;

/// Pairs from the held-out text with their candidates.
pub(crate) struct Probe {
    centres: Vec<u64>,
    /// For each pair the true context, then the words drawn at random.
    candidates: Vec<u64>,
}

/// The pairs whose vectors a model is asked for.
pub(crate) struct Asked {
    /// Words in the middle, one place for each pair.
    pub(crate) centres: Named,
    /// Candidates, [`Probe::each`] places for each pair.
    pub(crate) candidates: Named,
}

impl Probe {
    /// Takes pairs, evenly spread, from the text that was held out.
    pub(crate) fn new(corpus: &Corpus, noise: &Alias) -> Self {
        let pairs = pairs(&corpus.held, &corpus.vocab.keep(THRESHOLD));
        let taken = pairs.len().min(PAIRS);
        let (mut centres, mut candidates) = (Vec::new(), Vec::new());
        for i in 0..taken {
            let (centre, context) = pairs[i * pairs.len() / taken];
            centres.push(u64::from(centre));
            candidates.push(u64::from(context));
            let mut draws = Draws::new(mix(KEY, i as u64));
            for _ in 0..CANDIDATES {
                // A vocabulary of few words gives up after a while.
                let other = (0..64).map(|_| noise.draw(&mut draws)).find(|&other| other != context);
                candidates.push(u64::from(other.unwrap_or(context)));
            }
        }
        Self { centres, candidates }
    }

    /// Candidates of a pair, the true one first.
    pub(crate) const fn each() -> usize {
        CANDIDATES + 1
    }

    /// Which vectors are needed.
    pub(crate) fn ask(&self) -> Asked {
        Asked { centres: Named::new(&self.centres), candidates: Named::new(&self.candidates) }
    }

    /// Ranks the true contexts by a score of `(place of the centre, place of the candidate)`.
    pub(crate) fn rank(&self, score: impl Fn(usize, usize) -> f32 + Sync) -> Ranks {
        let rank = |pair: usize| {
            let places = pair * Self::each()..(pair + 1) * Self::each();
            let truth = score(pair, places.start);
            let mut tally = Tally::default();
            places.skip(1).for_each(|place| tally.add(truth, score(pair, place)));
            tally.rank()
        };
        let ranks: Vec<f64> = (0..self.centres.len()).into_par_iter().map(rank).collect();
        Ranks::of(ranks)
    }

    /// The ranks by the frequency of the candidates alone: what a model has to beat.
    pub(crate) fn baseline(&self, vocab: &Vocab) -> Ranks {
        let correction = corrections(vocab);
        let score = |(&count, correction): (&u64, &f32)| single(float(count).ln()) + correction;
        let scores: Vec<f32> = vocab.counts().iter().zip(&correction).map(score).collect();
        self.rank(|_, place| scores[self.candidate(place)])
    }

    /// The word at a candidate's place.
    pub(crate) fn candidate(&self, place: usize) -> usize {
        index(self.candidates[place])
    }
}

/// For each word what has to be added to the logarithm of its probability in the whole text to have that of its probability
/// in thinned-out text over its probability as noise, up to a constant.
pub(crate) fn corrections(vocab: &Vocab) -> Vec<f32> {
    let correct = |(&count, keep): (&u64, f64)| single(keep.ln() - NOISE_POWER * float(count).ln());
    vocab.counts().iter().zip(vocab.keep(THRESHOLD)).map(correct).collect()
}

/// The report on a model of words.
pub(crate) fn verdict(ranks: Ranks, baseline: Ranks, neighbours: Vec<(String, String)>) -> Verdict {
    let mut scores = ranks.scores("context_");
    scores.push(("frequency_mrr".to_owned(), baseline.mrr));
    let judged = format!(
        "{} pairs of held-out words, the true context among {} drawn at random: {}\n\
         (by frequency alone: MRR {:.3}; by chance: 0.051)",
        ranks.count,
        CANDIDATES,
        ranks.text(),
        baseline.mrr
    );
    let mut lines = vec![("contexts".to_owned(), judged)];
    lines.extend(neighbours);
    Verdict { scores, lines }
}

/// Pairs of a word and one of its context, in the order of the text.
fn pairs(words: &[u32], keep: &[f64]) -> Vec<(u32, u32)> {
    let mut pairs = Vec::new();
    let mut draws = Draws::new(KEY);
    for line in words.split(|&word| word == END) {
        let kept: Vec<u32> =
            line.iter().copied().filter(|&word| draws.unit() < keep[word as usize]).collect();
        for (at, &centre) in kept.iter().enumerate() {
            let reach = at.saturating_sub(WINDOW)..(at + WINDOW + 1).min(kept.len());
            pairs.extend(reach.filter(|&other| other != at).map(|other| (centre, kept[other])));
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::super::sampler::noise;
    use super::super::text::Text;
    use super::*;

    #[test]
    fn pairs_stay_within_a_line_and_a_window() {
        let words = [0, 1, END, 2, 3, 4, 5, 6, 7, 8, END];
        let pairs = pairs(&words, &[1.0; 9]);
        assert!(pairs.contains(&(0, 1)) && pairs.contains(&(2, 7)) && pairs.contains(&(8, 3)));
        assert!(!pairs.contains(&(1, 2)) && !pairs.contains(&(2, 8)));
        assert_eq!(pairs.len(), 2 + 40);
    }

    #[test]
    fn a_model_that_knows_the_truth_is_first_and_one_that_knows_nothing_is_in_the_middle() {
        let corpus = Corpus::new(&Text::load(&[]).unwrap(), 5, 10_000).unwrap();
        let noise = noise(corpus.vocab.counts());
        let probe = Probe::new(&corpus, &noise);
        let all = probe.rank(|_, place| if place % Probe::each() == 0 { 1.0 } else { 0.0 });
        assert!((all.mrr - 1.0).abs() < 1e-12 && all.count == PAIRS as u64);
        let none = probe.rank(|_, _| 0.0);
        assert!((none.mean - 51.0).abs() < 1e-9);
        let broken = probe.rank(|_, _| f32::NAN);
        assert!(broken.mean > 100.0, "a model of NaN is last: {}", broken.mean);
        let baseline = probe.baseline(&corpus.vocab);
        assert!(baseline.mrr < 0.1, "{}", baseline.mrr);
    }
}
