//! GloVe (Pennington, Socher, Manning, 2014): vectors whose scalar products are the logarithms of co-occurrences.
//!
//! Each word has a row in the table `word` and one in the table `context`, whose last element is a bias. The loss of a pair
//! with weight `x` is
//!
//! ```text
//! 0.5 * min(1, (x / 100)^0.75) * (w . c + b_w + b_c - ln x)^2
//! ```
//!
//! and each pair is visited in both directions. A word's vector is the sum of its two rows, without their biases.

use anyhow::Result;
use rayon::prelude::*;

use super::cooccurrence::{Pair, Pairs};
use super::neighbours;
use super::probe::{Probe, corrections, verdict};
use super::sampler::noise;
use super::vocab::Corpus;
use crate::math::{add_scaled, dot};
use crate::named::Named;
use crate::num::{float, index, single, single_of};
use crate::random::{mix, permuted};
use crate::run::{Batch, Init, Model, Outcome, Table, Tables, Verdict};
use training::people::grouped;

/// The weight from which on pairs count in full, and the power with which lighter ones count less.
const FULL: f32 = 100.0;
const POWER: f32 = 0.75;
/// What Adagrad's sums start with, as in the authors' program.
pub(crate) const INITIAL: f64 = 1.0;
/// The tables, in their order.
const WORD: usize = 0;
const CONTEXT: usize = 1;
/// Neighbours shown for a word.
const NEIGHBOURS: usize = 6;

/// What a run can be told.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Elements of a vector.
    pub(crate) dim: usize,
    /// Words on each side that count.
    pub(crate) window: usize,
    /// Distinct pairs at most.
    pub(crate) pairs: usize,
    /// Pairs in a batch.
    pub(crate) batch: usize,
    /// Seed of the order.
    pub(crate) seed: u64,
    /// Words whose neighbours are shown.
    pub(crate) shown: Vec<String>,
}

/// The model and the pairs that it is trained on.
pub(crate) struct Glove {
    settings: Settings,
    corpus: Corpus,
    pairs: Pairs,
}

/// The pairs of a batch.
#[derive(Debug)]
pub(crate) struct Examples {
    words: Named,
    contexts: Named,
    weights: Vec<f32>,
}

impl Glove {
    /// Counts the pairs of a text.
    pub(crate) fn new(corpus: Corpus, settings: Settings) -> Self {
        let pairs = Pairs::count(&corpus.train, settings.window, settings.pairs);
        Self { settings, corpus, pairs }
    }

    /// Elements of a row: the vector and its bias.
    fn width(&self) -> usize {
        self.settings.dim + 1
    }

    /// Pairs in both directions.
    fn directed(&self) -> u64 {
        2 * self.pairs.pairs.len() as u64
    }

    /// The vectors of words, without biases.
    fn vectors(&self, tables: &Tables, words: &[u32]) -> Result<Vec<f32>> {
        let ids: Vec<u64> = words.iter().map(|&word| u64::from(word)).collect();
        let (rows, contexts) = (tables.gather(WORD, &ids)?, tables.gather(CONTEXT, &ids)?);
        let sums = rows
            .chunks(self.width())
            .zip(contexts.chunks(self.width()))
            .flat_map(|(row, context)| row.iter().zip(context).take(self.settings.dim).map(|(a, b)| a + b));
        Ok(sums.collect())
    }
}

/// How much a pair counts.
fn importance(weight: f32) -> f32 {
    if weight < FULL { (weight / FULL).powf(POWER) } else { 1.0 }
}

/// The model's logarithm of a pair's weight: the scalar product of two rows, the last elements being added instead.
fn predicted(word: &[f32], context: &[f32]) -> f32 {
    match (word.split_last(), context.split_last()) {
        (Some((bias, word)), Some((other, context))) => dot(word, context) + bias + other,
        _ => 0.0,
    }
}

/// Loss of a pair, and its derivative by the predicted logarithm.
fn example(word: &[f32], context: &[f32], weight: f32) -> (f32, f32) {
    let (error, importance) = (predicted(word, context) - weight.ln(), importance(weight));
    (0.5 * importance * error * error, importance * error)
}

/// Adds the gradient of a row, given the derivative by the predicted logarithm and the other row.
fn add_gradient(row: &mut [f32], derivative: f32, other: &[f32]) {
    if let (Some((bias, row)), Some((_, other))) = (row.split_last_mut(), other.split_last()) {
        add_scaled(row, derivative, other);
        *bias += derivative;
    }
}

impl Model for Glove {
    type Examples = Examples;
    const UNIT: &'static str = "pairs";

    fn tables(&self) -> Vec<Table> {
        let reach = 0.5 / single_of(self.width());
        let init = Init::Uniform { low: -reach, high: reach };
        let table = |name| Table { name, rows: self.corpus.vocab.len() as u64, width: self.width(), init };
        vec![table("word"), table("context")]
    }

    fn steps_per_epoch(&self) -> u64 {
        self.directed().div_ceil(self.settings.batch as u64).max(1)
    }

    fn most_rows(&self) -> Vec<u64> {
        vec![self.settings.batch as u64; 2]
    }

    fn scratch_bytes(&self) -> u64 {
        // Weights and derivatives.
        16 * self.settings.batch as u64
    }

    fn batch(&self, step: u64) -> Batch<Examples> {
        let (epoch, batch) = (step / self.steps_per_epoch(), step % self.steps_per_epoch());
        let (count, each) = (self.directed(), self.settings.batch as u64);
        let key = mix(self.settings.seed, epoch);
        let visited = (batch * each..(batch * each + each).min(count)).map(|i| {
            let at = permuted(i, count, key);
            let Pair { low, high, weight } = self.pairs.pairs[index(at / 2)];
            let (word, context) = if at.is_multiple_of(2) { (low, high) } else { (high, low) };
            (u64::from(word), u64::from(context), weight)
        });
        let (mut words, mut contexts, mut weights) = (Vec::new(), Vec::new(), Vec::new());
        for (word, context, weight) in visited {
            words.push(word);
            contexts.push(context);
            weights.push(weight);
        }
        let examples = Examples { words: Named::new(&words), contexts: Named::new(&contexts), weights };
        Batch { ids: vec![examples.words.ids().to_vec(), examples.contexts.ids().to_vec()], examples }
    }

    fn gradients(&self, examples: &Examples, rows: &[Vec<f32>]) -> Result<Outcome> {
        let Examples { words, contexts, weights } = examples;
        let width = self.width();
        let word = |place| words.row(&rows[WORD], width, place);
        let context = |place| contexts.row(&rows[CONTEXT], width, place);
        let results: Vec<(f32, f32)> = weights
            .par_iter()
            .enumerate()
            .with_min_len(256)
            .map(|(place, &weight)| example(word(place), context(place), weight))
            .collect();
        let of_words = words.sum(width, |place, row| add_gradient(row, results[place].1, context(place)));
        let of_contexts = contexts.sum(width, |place, row| add_gradient(row, results[place].1, word(place)));
        let loss = results.iter().map(|&(loss, _)| f64::from(loss)).sum();
        let count = weights.len() as u64;
        Ok(Outcome { gradients: vec![of_words, of_contexts], loss, terms: count, examples: count })
    }

    fn describe(&self) -> Vec<(String, String)> {
        let (vocab, dropped) = (&self.corpus.vocab, self.pairs.dropped);
        let words = format!(
            "{} words to train on and {} held out; {} distinct words",
            grouped(self.corpus.words()),
            grouped(self.corpus.held.len() as u64),
            grouped(vocab.len() as u64)
        );
        let kept = grouped(self.pairs.pairs.len() as u64);
        let pairs = if dropped == 0 {
            format!("{kept} pairs")
        } else {
            format!("{kept} pairs; {} lighter ones were dropped (--pairs)", grouped(dropped))
        };
        vec![("Text".to_owned(), words), ("Pairs".to_owned(), pairs)]
    }

    fn judge(&self, tables: &Tables) -> Result<Verdict> {
        let vocab = &self.corpus.vocab;
        let probe = Probe::new(&self.corpus, &noise(vocab.counts()));
        let (asked, correction, width) = (probe.ask(), corrections(vocab), self.width());
        let words = tables.gather(WORD, asked.centres.ids())?;
        let contexts = tables.gather(CONTEXT, asked.candidates.ids())?;
        // Biases know only of pairs that occur, and promise too much of rare words: the scalar product stands for how much
        // likelier than by their frequencies two words are near each other, and the frequency is added instead.
        let frequency: Vec<f32> = vocab.counts().iter().map(|&count| single(float(count).ln())).collect();
        let dim = self.settings.dim;
        let ranks = probe.rank(|centre, place| {
            let word = &asked.centres.row(&words, width, centre)[..dim];
            let context = &asked.candidates.row(&contexts, width, place)[..dim];
            let candidate = probe.candidate(place);
            dot(word, context) + frequency[candidate] + correction[candidate]
        });
        let shown = neighbours::shown(vocab, &self.settings.shown);
        let found = neighbours::nearest(vocab.len(), self.settings.dim, &shown, NEIGHBOURS, |words| {
            self.vectors(tables, words)
        })?;
        Ok(verdict(ranks, probe.baseline(vocab), neighbours::lines(vocab, &shown, &found)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gradient_is_the_slope_of_the_loss() {
        for weight in [0.3, 7.0, 250.0] {
            let word: Vec<f32> = (0..5i16).map(|i| 0.3 - 0.1 * f32::from(i)).collect();
            let context: Vec<f32> = (0..5i16).map(|i| 0.2 * f32::from(i) - 0.5).collect();
            let (_, derivative) = example(&word, &context, weight);
            let mut gradient = vec![0.0; 5];
            add_gradient(&mut gradient, derivative, &context);
            for i in 0..5 {
                let loss = |by: f32| {
                    let mut moved = word.clone();
                    moved[i] += by;
                    f64::from(example(&moved, &context, weight).0)
                };
                let slope = (loss(0.01) - loss(-0.01)) / 0.02;
                let got = f64::from(gradient[i]);
                assert!((got - slope).abs() < 1e-3 * (1.0 + slope.abs()), "{weight} {i}: {got} {slope}");
            }
        }
    }

    #[test]
    fn light_pairs_count_less() {
        assert!((importance(100.0) - 1.0).abs() < 1e-6 && (importance(5000.0) - 1.0).abs() < 1e-6);
        assert!((importance(6.25) - 0.125).abs() < 1e-6);
    }

    #[test]
    fn an_epoch_visits_every_pair_in_both_directions() {
        let corpus = Corpus::new(&super::super::text::Text::load(&[]).unwrap(), 500, 50).unwrap();
        let settings = Settings { dim: 4, window: 2, pairs: 100_000, batch: 100, seed: 1, shown: Vec::new() };
        let glove = Glove::new(corpus, settings);
        let mut seen = Vec::new();
        for step in 0..glove.steps_per_epoch() {
            let Examples { words, contexts, weights } = glove.batch(step).examples;
            let pair = |place| (words.ids()[words.slot(place)], contexts.ids()[contexts.slot(place)]);
            seen.extend((0..weights.len()).map(pair));
        }
        let of_pair =
            |pair: &Pair| [(pair.low.into(), pair.high.into()), (pair.high.into(), pair.low.into())];
        let mut expected: Vec<(u64, u64)> = glove.pairs.pairs.iter().flat_map(of_pair).collect();
        seen.sort_unstable();
        expected.sort_unstable();
        assert_eq!(seen, expected);
    }
}
