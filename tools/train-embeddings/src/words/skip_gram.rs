//! Skip-gram with negative sampling over words and their character n-grams (Mikolov et al., 2013; Bojanowski et al., 2017).
//!
//! A word's vector is the mean of its rows in the table `input`: its own and those of its n-grams' buckets. Each word of
//! its context has a row in the table `output`. The loss of a word `v` with contexts `c` and negatives `n` is
//!
//! ```text
//! sum over c of -ln sigmoid(v . u_c)  +  m * sum over n of -ln sigmoid(-v . u_n)
//! ```
//!
//! with `m` contexts: the negatives of a word are shared by its contexts, which is the loss of as many negatives for
//! each context, and a fraction of the work.

use anyhow::Result;
use rayon::prelude::*;

use super::neighbours;
use super::ngrams::{LENGTHS, buckets};
use super::probe::Probe;
use super::sampler::{Alias, noise};
use super::vocab::{Corpus, END};
use crate::math::{add_scaled, dot, minus_log_sigmoid, sigmoid};
use crate::named::Named;
use crate::num::{index, single_of, small};
use crate::random::{Draws, mix, permuted};
use crate::run::{Batch, Init, Model, Outcome, Table, Tables, Verdict};

/// Words of a stretch of text; contexts end where it ends.
const STRETCH: usize = 128;
/// The tables, in their order.
const INPUT: usize = 0;
const OUTPUT: usize = 1;
/// Neighbours shown for a word.
const NEIGHBOURS: usize = 6;

/// What a run can be told.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Elements of a row.
    pub(crate) dim: usize,
    /// Rows for n-grams.
    pub(crate) buckets: u64,
    /// Words on each side at most.
    pub(crate) window: usize,
    /// Negatives of a word.
    pub(crate) negatives: usize,
    /// Words of text in a batch.
    pub(crate) batch: usize,
    /// Frequent words are thinned out to about this frequency.
    pub(crate) threshold: f64,
    /// Seed of order, contexts and negatives.
    pub(crate) seed: u64,
    /// Words whose neighbours are shown.
    pub(crate) shown: Vec<String>,
}

/// The model and the text that it is trained on.
pub(crate) struct SkipGram {
    settings: Settings,
    corpus: Corpus,
    noise: Alias,
    keep: Vec<f64>,
    /// For each word where its rows begin in `rows`.
    starts: Vec<usize>,
    /// Rows of all words, each word's own first.
    rows: Vec<u64>,
}

/// The examples of a batch: words in the middle, each with contexts and negatives.
#[derive(Debug, Default)]
pub(crate) struct Examples {
    /// The words, one place for each example.
    centres: Named,
    /// Rows of `input`: one run of places for each distinct word.
    input: Named,
    /// Where the run of each distinct word begins.
    input_starts: Vec<usize>,
    /// Rows of `output`: for each example its contexts, then its negatives.
    output: Named,
    /// For each example where its run begins, and how many contexts it has.
    runs: Vec<(usize, usize)>,
    /// Words of text that the batch covers.
    words: u64,
}

/// An example while a batch is put together.
struct Drawn {
    centre: u32,
    contexts: usize,
    /// Contexts, then negatives.
    outputs: Vec<u32>,
}

impl SkipGram {
    /// Prepares training on a text.
    pub(crate) fn new(corpus: Corpus, settings: Settings) -> Self {
        let len = corpus.vocab.len() as u64;
        let (mut starts, mut rows) = (vec![0], Vec::new());
        for (word, number) in corpus.vocab.words().iter().zip(0..) {
            rows.push(number);
            rows.extend(buckets(word, LENGTHS, settings.buckets).into_iter().map(|bucket| len + bucket));
            starts.push(rows.len());
        }
        let noise = noise(corpus.vocab.counts());
        let keep = corpus.vocab.keep(settings.threshold);
        Self { settings, corpus, noise, keep, starts, rows }
    }

    /// Rows of a word in `input`.
    fn rows_of(&self, word: u32) -> &[u64] {
        &self.rows[self.starts[word as usize]..self.starts[word as usize + 1]]
    }

    fn stretches(&self) -> u64 {
        self.corpus.train.len().div_ceil(STRETCH) as u64
    }

    /// Stretches of a batch.
    fn stretches_each(&self) -> u64 {
        self.settings.batch.div_ceil(STRETCH) as u64
    }

    /// The examples of one stretch of the text, drawn anew in each epoch.
    fn draw(&self, stretch: u64, epoch: u64) -> Vec<Drawn> {
        let start = index(stretch) * STRETCH;
        let text = &self.corpus.train[start..self.corpus.train.len().min(start + STRETCH)];
        let mut draws = Draws::new(mix(mix(self.settings.seed, epoch), stretch));
        let mut drawn = Vec::new();
        for line in text.split(|&word| word == END) {
            let kept: Vec<u32> =
                line.iter().copied().filter(|&word| draws.unit() < self.keep[word as usize]).collect();
            for (at, &centre) in kept.iter().enumerate() {
                let window = 1 + index(draws.below(self.settings.window as u64));
                let before = &kept[at.saturating_sub(window)..at];
                let after = &kept[at + 1..kept.len().min(at + 1 + window)];
                let mut outputs = [before, after].concat();
                let contexts = outputs.len();
                if contexts == 0 {
                    continue;
                }
                for _ in 0..self.settings.negatives {
                    let negative = self.noise.draw(&mut draws);
                    if !outputs[..contexts].contains(&negative) {
                        outputs.push(negative);
                    }
                }
                drawn.push(Drawn { centre, contexts, outputs });
            }
        }
        drawn
    }

    /// Sorts out which rows the examples name.
    fn examples(&self, drawn: &[Drawn], words: u64) -> Examples {
        let centres: Vec<u64> = drawn.iter().map(|example| u64::from(example.centre)).collect();
        let centres = Named::new(&centres);
        let (mut input, mut input_starts) = (Vec::new(), vec![0]);
        for &word in centres.ids() {
            input.extend(self.rows_of(small(index(word))));
            input_starts.push(input.len());
        }
        let (mut output, mut runs) = (Vec::new(), Vec::new());
        for example in drawn {
            runs.push((output.len(), example.contexts));
            output.extend(example.outputs.iter().map(|&word| u64::from(word)));
        }
        runs.push((output.len(), 0));
        let (input, output) = rayon::join(|| Named::new(&input), || Named::new(&output));
        Examples { centres, input, input_starts, output, runs, words }
    }

    /// Vectors of some words.
    fn vectors(&self, tables: &Tables, words: &[u32]) -> Result<Vec<f32>> {
        let named: Vec<u64> = words.iter().flat_map(|&word| self.rows_of(word)).copied().collect();
        let named = Named::new(&named);
        let rows = tables.gather(INPUT, named.ids())?;
        let (dim, mut place) = (self.settings.dim, 0);
        let mut vectors = vec![0.0; words.len() * dim];
        for (&word, vector) in words.iter().zip(vectors.chunks_mut(dim)) {
            let of_word = place..place + self.rows_of(word).len();
            place = of_word.end;
            mean(vector, of_word.map(|place| named.row(&rows, dim, place)));
        }
        Ok(vectors)
    }

    /// Ranks the contexts of held-out text, and those of the words' frequencies alone.
    fn score(&self, tables: &Tables) -> Result<(crate::ranks::Ranks, crate::ranks::Ranks)> {
        let probe = Probe::new(&self.corpus, &self.noise);
        let (asked, dim) = (probe.ask(), self.settings.dim);
        let centres: Vec<u32> = asked.centres.ids().iter().map(|&id| small(index(id))).collect();
        let inputs = self.vectors(tables, &centres)?;
        let outputs = tables.gather(OUTPUT, asked.candidates.ids())?;
        // The scalar product approaches the logarithm of the ratio of probabilities that the probe asks for.
        let score = |centre, place| {
            dot(asked.centres.row(&inputs, dim, centre), asked.candidates.row(&outputs, dim, place))
        };
        Ok((probe.rank(score), probe.baseline(&self.corpus.vocab)))
    }
}

/// The mean of rows.
fn mean<'a>(out: &mut [f32], rows: impl ExactSizeIterator<Item = &'a [f32]>) {
    let share = 1.0 / single_of(rows.len());
    rows.for_each(|row| add_scaled(out, 1.0, row));
    for x in out {
        *x *= share;
    }
}

/// Loss of one example, its coefficients (the derivative of the loss by each scalar product), and what they add to the
/// gradient of its word's vector.
fn example(
    hidden: &[f32],
    contexts: usize,
    outputs: &[&[f32]],
    coefficients: &mut [f32],
    gradient: &mut [f32],
) -> f32 {
    let weight = single_of(contexts);
    let mut loss = 0.0;
    for (i, (row, coefficient)) in outputs.iter().zip(coefficients).enumerate() {
        let score = dot(hidden, row);
        if i < contexts {
            *coefficient = sigmoid(score) - 1.0;
            loss += minus_log_sigmoid(score);
        } else {
            *coefficient = weight * sigmoid(score);
            loss += weight * minus_log_sigmoid(-score);
        }
        add_scaled(gradient, *coefficient, row);
    }
    loss
}

impl Model for SkipGram {
    type Examples = Examples;
    const UNIT: &'static str = "words";

    fn tables(&self) -> Vec<Table> {
        let (dim, words) = (self.settings.dim, self.corpus.vocab.len() as u64);
        let reach = 1.0 / single_of(dim);
        let init = Init::Uniform { low: -reach, high: reach };
        vec![
            Table { name: "input", rows: words + self.settings.buckets, width: dim, init },
            Table { name: "output", rows: words, width: dim, init: Init::Zeros },
        ]
    }

    fn steps_per_epoch(&self) -> u64 {
        self.stretches().div_ceil(self.stretches_each())
    }

    fn most_rows(&self) -> Vec<u64> {
        let mut rows: Vec<usize> = self.starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
        rows.sort_unstable_by(|a, b| b.cmp(a));
        let inputs: usize = rows.iter().take(self.settings.batch).sum();
        let outputs = self.settings.batch * (2 * self.settings.window + self.settings.negatives);
        vec![inputs as u64, outputs as u64]
    }

    fn scratch_bytes(&self) -> u64 {
        // For each word its vector, its gradient, and coefficients; for each distinct one the same again.
        let Settings { dim, batch, window, negatives, .. } = self.settings;
        (4 * batch * (4 * dim + 2 * (2 * window + negatives))) as u64
    }

    fn batch(&self, step: u64) -> Batch<Examples> {
        let (stretches, each) = (self.stretches(), self.stretches_each());
        let (epoch, index) = (step / self.steps_per_epoch(), step % self.steps_per_epoch());
        let key = mix(self.settings.seed, !epoch);
        let visited = index * each..(index * each + each).min(stretches);
        let words = visited.clone().count() * STRETCH;
        let drawn: Vec<Vec<Drawn>> =
            visited.into_par_iter().map(|index| self.draw(permuted(index, stretches, key), epoch)).collect();
        let drawn: Vec<Drawn> = drawn.into_iter().flatten().collect();
        let examples = self.examples(&drawn, words as u64);
        Batch { ids: vec![examples.input.ids().to_vec(), examples.output.ids().to_vec()], examples }
    }

    fn gradients(&self, examples: &Examples, rows: &[Vec<f32>]) -> Result<Outcome> {
        let dim = self.settings.dim;
        let (input, output) = (&rows[INPUT], &rows[OUTPUT]);
        let mut hidden = vec![0.0; examples.centres.ids().len() * dim];
        hidden.par_chunks_mut(dim).zip(examples.input_starts.par_windows(2)).for_each(|(hidden, places)| {
            mean(hidden, (places[0]..places[1]).map(|place| examples.input.row(input, dim, place)));
        });
        let count = examples.runs.len() - 1;
        let results: Vec<(f32, Vec<f32>, Vec<f32>)> = (0..count)
            .into_par_iter()
            .with_min_len(32)
            .map(|i| {
                let ((start, contexts), (end, _)) = (examples.runs[i], examples.runs[i + 1]);
                let outputs: Vec<&[f32]> =
                    (start..end).map(|place| examples.output.row(output, dim, place)).collect();
                let (mut coefficients, mut gradient) = (vec![0.0; outputs.len()], vec![0.0; dim]);
                let hidden = examples.centres.row(&hidden, dim, i);
                let loss = example(hidden, contexts, &outputs, &mut coefficients, &mut gradient);
                (loss, coefficients, gradient)
            })
            .collect();
        let loss = results.iter().map(|(loss, ..)| f64::from(*loss)).sum();
        let terms = examples.runs.iter().map(|&(_, contexts)| contexts as u64).sum();
        let owner = owners(examples);
        let of_output = examples.output.sum(dim, |place, row| {
            let i = owner[place] as usize;
            let coefficient = results[i].1[place - examples.runs[i].0];
            add_scaled(row, coefficient, examples.centres.row(&hidden, dim, i));
        });
        let of_words = examples.centres.sum(dim, |i, row| add_scaled(row, 1.0, &results[i].2));
        let word_of = input_owners(examples);
        let of_input = examples.input.sum(dim, |place, row| {
            let word = word_of[place] as usize;
            let share = 1.0 / single_of(examples.input_starts[word + 1] - examples.input_starts[word]);
            add_scaled(row, share, &of_words[word * dim..][..dim]);
        });
        Ok(Outcome { gradients: vec![of_input, of_output], loss, terms, examples: examples.words })
    }

    fn describe(&self) -> Vec<(String, String)> {
        let (vocab, held) = (&self.corpus.vocab, self.corpus.held.len());
        let words = format!(
            "{} words to train on and {held} held out; {} distinct words with {} n-grams",
            self.corpus.words(),
            vocab.len(),
            self.rows.len() - vocab.len()
        );
        vec![("Text".to_owned(), words)]
    }

    fn judge(&self, tables: &Tables) -> Result<Verdict> {
        let (ranks, baseline) = self.score(tables)?;
        let shown = neighbours::shown(&self.corpus.vocab, &self.settings.shown);
        let (len, dim) = (self.corpus.vocab.len(), self.settings.dim);
        let found = neighbours::nearest(len, dim, &shown, NEIGHBOURS, |words| self.vectors(tables, words))?;
        Ok(super::probe::verdict(ranks, baseline, neighbours::lines(&self.corpus.vocab, &shown, &found)))
    }
}

/// The example that each place of `output` belongs to.
fn owners(examples: &Examples) -> Vec<u32> {
    let mut owners = Vec::with_capacity(examples.output.places());
    for (i, runs) in examples.runs.windows(2).enumerate() {
        owners.resize(runs[1].0, small(i));
    }
    owners
}

/// The distinct word that each place of `input` belongs to.
fn input_owners(examples: &Examples) -> Vec<u32> {
    let mut owners = Vec::with_capacity(examples.input.places());
    for (i, &end) in examples.input_starts.iter().skip(1).enumerate() {
        owners.resize(end, small(i));
    }
    owners
}

#[cfg(test)]
#[path = "skip_gram_tests.rs"]
mod tests;
