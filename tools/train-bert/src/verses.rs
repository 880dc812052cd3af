//! The task: of which book of the Bible is a verse? Verses are cut into training and validation, and batches are drawn
//! from them by seed and cursor alone.

use std::path::Path;

use anyhow::{Result, anyhow, ensure};
use candle_core::Tensor;
use tokenizers::{Tokenizer, TruncationParams};
use training::random::{mix, permuted};

use crate::bert::Batch;

/// One verse in this many is kept for validation.
const VAL_EVERY: usize = 20;

/// The verses of a run.
pub(crate) struct Verses<'a> {
    tokenizer: Tokenizer,
    /// Verses and the numbers of their books.
    train: Vec<(&'a str, usize)>,
    /// Those to validate on, in batches of about the same length: tokens and books.
    validation: Vec<Vec<(Vec<u32>, usize)>>,
    books: usize,
    seed: u64,
}

/// Turns text into tokens, the first and the last of which are marks, at most `tokens` of them.
pub(crate) fn tokenizer(path: &Path, tokens: usize) -> Result<Tokenizer> {
    let failed = |error: tokenizers::Error| anyhow!("cannot use the tokenizer {}: {error}", path.display());
    let mut tokenizer = Tokenizer::from_file(path).map_err(failed)?;
    let truncation = TruncationParams { max_length: tokens, ..TruncationParams::default() };
    tokenizer.with_truncation(Some(truncation)).map_err(failed)?;
    tokenizer.with_padding(None);
    Ok(tokenizer)
}

/// The tokens of a text.
pub(crate) fn encode(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
    let encoding =
        tokenizer.encode(text, true).map_err(|error| anyhow!("cannot tokenize {text:?}: {error}"))?;
    ensure!(!encoding.get_ids().is_empty(), "the tokenizer makes no token of {text:?}");
    Ok(encoding.get_ids().to_vec())
}

/// Verses and the numbers of their books, which are counted from 0 as they come. A line that ends in a number is the
/// heading of a chapter: "Genesis 1".
fn split(text: &str) -> (Vec<(&str, usize)>, usize) {
    let (mut verses, mut books) = (Vec::new(), Vec::<&str>::new());
    for line in text.lines().filter(|line| !line.is_empty()) {
        match line.rsplit_once(' ') {
            Some((book, chapter)) if chapter.bytes().all(|byte| byte.is_ascii_digit()) => {
                if books.last() != Some(&book) {
                    books.push(book);
                }
            }
            _ => verses.push((line, books.len().saturating_sub(1))),
        }
    }
    (verses, books.len())
}

impl<'a> Verses<'a> {
    /// Takes the verses of a text. `validate` of those that are kept apart are validated on, `batch` at a time.
    pub(crate) fn new(
        text: &'a str,
        tokenizer: Tokenizer,
        seed: u64,
        (validate, batch): (usize, usize),
    ) -> Result<Self> {
        let (verses, books) = split(text);
        ensure!(verses.len() >= 2 * VAL_EVERY && books > 1, "got {} verses of {books} books", verses.len());
        let is_kept = |at: usize| at % VAL_EVERY == VAL_EVERY / 2;
        let (mut train, mut kept) = (Vec::new(), Vec::new());
        for (at, verse) in verses.into_iter().enumerate() {
            if is_kept(at) { kept.push(verse) } else { train.push(verse) }
        }
        let count = validate.min(kept.len());
        let chosen = (0..count).map(|i| kept[i * kept.len() / count]);
        let chosen = chosen.map(|(verse, book)| Ok((encode(&tokenizer, verse)?, book)));
        let mut chosen = chosen.collect::<Result<Vec<_>>>()?;
        chosen.sort_by_key(|(ids, _)| ids.len());
        let validation = chosen.chunks(batch).map(<[_]>::to_vec).collect();
        Ok(Self { tokenizer, train, validation, books, seed })
    }

    pub(crate) fn books(&self) -> usize {
        self.books
    }

    /// Verses to train on and to validate on.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.train.len(), self.validation.iter().map(Vec::len).sum())
    }

    /// The batch at a cursor: each epoch visits all verses in an order of its own.
    #[expect(clippy::cast_possible_truncation, reason = "below the number of verses")]
    pub(crate) fn batch(&self, cursor: u64, size: usize) -> Result<Batch> {
        let count = self.train.len() as u64;
        let verses = (cursor..).take(size).map(|at| {
            let (verse, book) = self.train[permuted(at % count, count, mix(self.seed, at / count)) as usize];
            Ok((encode(&self.tokenizer, verse)?, book))
        });
        self.batch_of(&verses.collect::<Result<Vec<_>>>()?)
    }

    fn batch_of(&self, verses: &[(Vec<u32>, usize)]) -> Result<Batch> {
        let sequences: Vec<_> = verses.iter().map(|(ids, book)| (&ids[..], *book)).collect();
        Ok(Batch::new(&sequences, self.books)?)
    }

    /// Bits that a verse's book takes, by `loss` in nats, and the share of the verses whose book has the highest
    /// probability.
    pub(crate) fn validate(
        &self,
        log_probabilities: impl Fn(&Batch) -> Result<Tensor>,
    ) -> Result<(f64, f64)> {
        let (mut nats, mut right, mut count) = (0.0, 0u32, 0u32);
        for verses in &self.validation {
            let rows = log_probabilities(&self.batch_of(verses)?)?.to_vec2::<f32>()?;
            for (row, (_, book)) in rows.iter().zip(verses) {
                nats -= f64::from(row[*book]);
                right += u32::from(row.iter().all(|other| *other <= row[*book]));
                count += 1;
            }
        }
        Ok((nats / std::f64::consts::LN_2 / f64::from(count), f64::from(right) / f64::from(count)))
    }
}

#[cfg(test)]
mod tests {
    use training::text::DEFAULT_TEXT;

    use super::*;

    #[test]
    fn the_bible_has_31102_verses_in_66_books() {
        let (verses, books) = split(DEFAULT_TEXT);
        assert_eq!((verses.len(), books), (31_102, 66));
        assert_eq!(verses[0], ("In the beginning God created the heaven and the earth.", 0));
        assert_eq!(verses.last().unwrap().1, 65);
        let of_psalms = verses.iter().filter(|(_, book)| *book == 18).count();
        assert_eq!(of_psalms, 2461);
    }

    /// Words of one letter each, which are the tokens 0 to 25.
    fn made() -> Verses<'static> {
        let letters = "abcdefghijklmnopqrstuvwxyz";
        let vocab: [_; 26] = std::array::from_fn(|i| (letters[i..=i].to_owned(), u32::try_from(i).unwrap()));
        let model = tokenizers::models::wordpiece::WordPiece::builder().vocab(vocab).unk_token("a".into());
        let train = (0..26).map(|i| (&letters[i..=i], i % 2)).collect();
        let validation = vec![vec![(vec![1], 0), (vec![2, 3], 1)], vec![(vec![4], 1)]];
        Verses { tokenizer: Tokenizer::new(model.build().unwrap()), train, validation, books: 2, seed: 1 }
    }

    #[test]
    fn an_epoch_visits_every_verse_once_with_its_book() {
        let verses = made();
        let mut seen = Vec::new();
        for cursor in (0..26).step_by(13) {
            let batch = verses.batch(cursor, 13).unwrap();
            let books = batch.targets.to_vec2::<f32>().unwrap();
            let ids = batch.ids.to_vec2::<u32>().unwrap();
            assert!(ids.iter().zip(books).all(|(ids, books)| books[ids[0] as usize % 2] > 0.5));
            seen.extend(ids.concat());
        }
        seen.sort_unstable();
        assert!(seen.into_iter().eq(0..26));
    }

    #[test]
    fn validation_counts_bits_and_right_answers_by_verse() {
        // One bit, one bit, two bits; a tie counts as right.
        let answer = |batch: &Batch| {
            let rows = batch.ids.dim(0)?;
            let p: &[f32] = if rows == 2 { &[0.5, 0.5, 0.5, 0.5] } else { &[0.75, 0.25] };
            Ok(Tensor::from_vec(p.iter().map(|p| p.ln()).collect(), (rows, 2), &candle_core::Device::Cpu)?)
        };
        let (bits, right) = made().validate(answer).unwrap();
        assert!((bits - 4.0 / 3.0).abs() < 1e-6 && (right - 2.0 / 3.0).abs() < 1e-12, "{bits} {right}");
    }
}
