//! The text, cut into training and validation tokens, and the batches drawn from it.
//!
//! A batch depends on the seed and the data cursor alone: each epoch visits every window of the training tokens
//! once, in an order given by a keyed permutation, so nothing has to be remembered but the cursor.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use sha2::{Digest, Sha256};
use training::random::{mix, permuted};

use crate::record::TextId;
use crate::tokenizer::Tokenizer;

/// One piece of the text in this many is kept for validation.
const VAL_EVERY: usize = 20;

/// The text of a run.
pub(crate) struct Text {
    text: std::borrow::Cow<'static, str>,
}

impl Text {
    /// Reads files one after the other, or takes the text that ships with the program if there are none.
    pub(crate) fn load(files: &[PathBuf]) -> Result<Self> {
        Ok(Self { text: training::text::load(files)? })
    }

    /// What identifies the text.
    pub(crate) fn id(&self) -> TextId {
        TextId { bytes: self.text.len() as u64, sha256: Sha256::digest(self.text.as_bytes()).into() }
    }

    /// Entropy of single bytes, in bits per byte: what a model without context could reach at best.
    pub(crate) fn byte_entropy(&self) -> f64 {
        let mut counts = [0u64; 256];
        self.text.bytes().for_each(|byte| counts[usize::from(byte)] += 1);
        entropy(&counts)
    }

    /// Cuts the text at line ends into pieces of a few KiB, spread over training and validation.
    fn pieces(&self) -> (Vec<&str>, Vec<&str>) {
        let target = (self.text.len() / 200).clamp(256, 8192);
        let (mut train, mut val) = (Vec::new(), Vec::new());
        let mut rest = &*self.text;
        let mut index = 0;
        while !rest.is_empty() {
            let cut = rest.bytes().enumerate().skip(target).find(|&(_, byte)| byte == b'\n');
            let (piece, tail) = rest.split_at(cut.map_or(rest.len(), |(at, _)| at + 1));
            if index % VAL_EVERY == VAL_EVERY / 2 {
                val.push(piece);
            } else {
                train.push(piece);
            }
            rest = tail;
            index += 1;
        }
        (train, val)
    }

    /// Trains a tokenizer on the training part.
    pub(crate) fn train_tokenizer(&self, vocab: usize) -> Result<Tokenizer> {
        Tokenizer::train(&self.pieces().0, vocab)
    }
}

/// The tokens of a run.
pub(crate) struct Corpus {
    train: Vec<u16>,
    val: Vec<u16>,
    /// Bytes of each token.
    token_bytes: Vec<u32>,
    seq: usize,
    seed: u64,
}

/// Sequences of tokens and of the tokens that follow them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Batch {
    /// Tokens that are read, sequence after sequence.
    pub(crate) inputs: Vec<u16>,
    /// The token after each of them.
    pub(crate) targets: Vec<u16>,
}

impl Corpus {
    /// Turns the text into tokens.
    pub(crate) fn new(text: &Text, tokenizer: &Tokenizer, seq: usize, seed: u64) -> Result<Self> {
        let (train, val) = text.pieces();
        let encode = |pieces: &[&str]| -> Result<Vec<u16>> {
            let mut tokens = Vec::new();
            for piece in pieces {
                tokens.extend(tokenizer.encode(piece)?);
            }
            tokens.shrink_to_fit();
            Ok(tokens)
        };
        let (train, val) = (encode(&train)?, encode(&val)?);
        for (tokens, part) in [(&train, "training"), (&val, "validation")] {
            ensure!(
                tokens.len() > 2 * seq,
                "the {part} part of the text has {} tokens, and sequences of {seq} need at least {}: give more \
                 text or a smaller --seq",
                tokens.len(),
                2 * seq + 1
            );
        }
        let token_bytes = tokenizer.pieces().iter().map(|piece| Ok(u32::try_from(piece.len())?));
        Ok(Self { train, val, token_bytes: token_bytes.collect::<Result<_>>()?, seq, seed })
    }

    /// Number of tokens for training and for validation.
    pub(crate) fn tokens(&self) -> (usize, usize) {
        (self.train.len(), self.val.len())
    }

    /// Bytes of text that the tokens stand for.
    pub(crate) fn bytes_of(&self, tokens: &[u16]) -> u64 {
        tokens.iter().map(|&token| u64::from(self.token_bytes[usize::from(token)])).sum()
    }

    /// Entropy of single tokens of the training part, in bits per byte of text.
    pub(crate) fn token_entropy(&self) -> f64 {
        let mut counts = vec![0u64; self.token_bytes.len()];
        self.train.iter().for_each(|&token| counts[usize::from(token)] += 1);
        #[expect(clippy::cast_precision_loss, reason = "lengths of texts are far below 2^53")]
        let tokens_per_byte = self.train.len() as f64 / self.bytes_of(&self.train) as f64;
        entropy(&counts) * tokens_per_byte
    }

    fn windows(&self) -> u64 {
        // One window less than fits, so that each epoch can start at another offset.
        ((self.train.len() - 1) / self.seq - 1).max(1) as u64
    }

    /// The batch at a data cursor: windows `cursor .. cursor + sequences` of the run.
    #[expect(clippy::cast_possible_truncation, reason = "window and offset are below the number of tokens")]
    pub(crate) fn batch(&self, cursor: u64, sequences: usize) -> Batch {
        let windows = self.windows();
        let starts = (0..sequences as u64).map(|i| {
            let (epoch, index) = ((cursor + i) / windows, (cursor + i) % windows);
            let key = mix(self.seed, epoch);
            let offset = mix(key, u64::MAX) % self.seq as u64;
            (permuted(index, windows, key) * self.seq as u64 + offset) as usize
        });
        cut(&self.train, starts, self.seq)
    }

    /// Validation windows, evenly spread over the validation tokens, at most `count`, in batches.
    pub(crate) fn validation(&self, count: usize, sequences: usize) -> Vec<Batch> {
        let windows = (self.val.len() - 1) / self.seq;
        let count = count.clamp(1, windows);
        let starts: Vec<usize> = (0..count).map(|i| i * windows / count * self.seq).collect();
        starts.chunks(sequences).map(|starts| cut(&self.val, starts.iter().copied(), self.seq)).collect()
    }

    /// The first tokens of a validation window, from which a sample is continued.
    pub(crate) fn prompt(&self, len: usize) -> &[u16] {
        &self.val[..len.min(self.val.len())]
    }
}

fn cut(tokens: &[u16], starts: impl Iterator<Item = usize>, seq: usize) -> Batch {
    let (mut inputs, mut targets) = (Vec::new(), Vec::new());
    for start in starts {
        inputs.extend(&tokens[start..start + seq]);
        targets.extend(&tokens[start + 1..=start + seq]);
    }
    Batch { inputs, targets }
}

/// Entropy of a distribution given by counts, in bits.
#[expect(clippy::cast_precision_loss, reason = "lengths of texts are far below 2^53")]
fn entropy(counts: &[u64]) -> f64 {
    let total = counts.iter().sum::<u64>() as f64;
    let parts = counts.iter().filter(|&&count| count > 0).map(|&count| count as f64 / total);
    -parts.map(|p| p * p.log2()).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use training::text::DEFAULT_TEXT;

    use super::*;

    fn corpus(seed: u64) -> Corpus {
        let text = Text { text: DEFAULT_TEXT[..60_000].into() };
        let tokenizer = text.train_tokenizer(300).unwrap();
        Corpus::new(&text, &tokenizer, 32, seed).unwrap()
    }

    #[test]
    fn the_entropy_of_equal_counts_is_the_logarithm_of_their_number() {
        assert!((entropy(&[3, 3, 3, 3, 0]) - 2.0).abs() < 1e-12);
        assert!(entropy(&[9, 0]).abs() < 1e-12);
        assert!((entropy(&[1, 3]) - 0.811_278_124_459_132_8).abs() < 1e-12);
    }

    #[test]
    fn a_batch_depends_on_the_cursor_and_the_seed_and_not_on_the_batches_before() {
        let one = corpus(1);
        let ahead = one.batch(40, 4);
        let single: Vec<Batch> = (40..44).map(|cursor| one.batch(cursor, 1)).collect();
        assert_eq!(ahead.inputs, single.iter().flat_map(|b| b.inputs.clone()).collect::<Vec<_>>());
        assert_eq!(corpus(1).batch(40, 4), ahead);
        assert_ne!(corpus(2).batch(40, 4), ahead);
        assert_ne!(one.batch(44, 4), ahead);
    }

    #[test]
    fn an_epoch_visits_every_window_once_and_the_next_starts_elsewhere() {
        let corpus = corpus(3);
        let windows = corpus.windows();
        let epoch = |from| {
            (0..windows).map(|i| corpus.batch(from + i, 1).inputs).collect::<std::collections::BTreeSet<_>>()
        };
        let first = epoch(0);
        assert!(first.len() as u64 >= windows - 1, "two windows of text may be equal, not more");
        assert_ne!(first, epoch(windows));
    }

    #[test]
    fn targets_follow_inputs_by_one_token() {
        let batch = corpus(1).batch(0, 3);
        assert_eq!(batch.inputs.len(), 96);
        for (inputs, targets) in batch.inputs.chunks(32).zip(batch.targets.chunks(32)) {
            assert_eq!(inputs[1..], targets[..31]);
        }
    }

    #[test]
    fn validation_and_training_text_are_disjoint_and_complete() {
        let text = Text::load(&[]).unwrap();
        let (train, val) = text.pieces();
        let bytes = |pieces: &[&str]| pieces.iter().map(|piece| piece.len()).sum::<usize>();
        assert_eq!(bytes(&train) + bytes(&val), DEFAULT_TEXT.len());
        let share = DEFAULT_TEXT.len() / bytes(&val);
        assert!((17..24).contains(&share), "{share}");
    }

    #[test]
    fn a_text_that_is_too_short_is_refused_with_what_is_missing() {
        let text = Text { text: "short\n".into() };
        let tokenizer = text.train_tokenizer(256).unwrap();
        let error = Corpus::new(&text, &tokenizer, 32, 1).err().unwrap().to_string();
        assert!(error.contains("need at least 65"), "{error}");
    }
}
