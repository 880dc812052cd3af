//! A byte-level BPE, trained on the text, that a run keeps in its user record as the list of its merges.

use anyhow::{Context, Result, anyhow, ensure};
use rayon::prelude::*;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    AddedToken, Model, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, Trainer,
};

/// Token ids fit into 16 bits.
pub(crate) const MAX_VOCAB: usize = 1 << 16;
/// The number of byte values, which are the first tokens.
const BYTES: usize = 256;

/// Turns text into token ids and back.
pub(crate) struct Tokenizer {
    bpe: BPE,
    merges: Vec<(u32, u32)>,
    /// The bytes of each token.
    pieces: Vec<Vec<u8>>,
}

/// Splits text into words as GPT-2 does, and writes their bytes as printable letters.
fn split() -> ByteLevel {
    ByteLevel::new(false, false, true)
}

fn pre_tokenize(line: &str) -> tokenizers::Result<PreTokenizedString> {
    let mut split_line = PreTokenizedString::from(line);
    split().pre_tokenize(&mut split_line)?;
    Ok(split_line)
}

impl Tokenizer {
    /// Trains a tokenizer of at most `vocab` tokens on pieces of text. The same text gives the same tokenizer.
    pub(crate) fn train(pieces: &[&str], vocab: usize) -> Result<Self> {
        ensure!(
            (BYTES..=MAX_VOCAB).contains(&vocab),
            "the vocabulary must have between {BYTES} and {MAX_VOCAB} tokens, got {vocab}"
        );
        let mut trainer = BpeTrainer::builder()
            .vocab_size(vocab)
            .min_frequency(2)
            .show_progress(false)
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .special_tokens(Vec::<AddedToken>::new())
            .build();
        let words = |piece: &str| -> tokenizers::Result<Vec<String>> {
            let mut words = Vec::new();
            for line in piece.split_inclusive('\n') {
                let line = pre_tokenize(line)?;
                let splits = line.get_splits(OffsetReferential::Original, OffsetType::None);
                words.extend(splits.into_iter().map(|(word, ..)| word.to_owned()));
            }
            Ok(words)
        };
        trainer.feed(pieces.iter(), words).map_err(|error| anyhow!(error))?;
        let mut bpe = BPE::default();
        trainer.train(&mut bpe).map_err(|error| anyhow!(error))?;
        Self::from_merges(merges_of(&bpe)?)
    }

    /// Builds the tokenizer from its merges.
    ///
    /// # Errors
    /// A merge that names a token which does not exist yet.
    pub(crate) fn from_merges(merges: Vec<(u32, u32)>) -> Result<Self> {
        let mut letters: Vec<(char, u8)> = (0..=255).map(|byte| (letter(byte), byte)).collect();
        letters.sort_unstable();
        let mut names: Vec<String> = letters.iter().map(|(letter, _)| letter.to_string()).collect();
        let mut pieces: Vec<Vec<u8>> = letters.iter().map(|&(_, byte)| vec![byte]).collect();
        let mut ids: tokenizers::models::bpe::Vocab = names.iter().cloned().zip(0..).collect();
        let mut named = Vec::with_capacity(merges.len());
        for &(left, right) in &merges {
            let at = |id: u32| usize::try_from(id).ok().filter(|&id| id < names.len());
            let (Some(l), Some(r)) = (at(left), at(right)) else {
                return Err(anyhow!(
                    "the tokenizer joins tokens {left} and {right}, and one of them does not exist"
                ));
            };
            named.push((names[l].clone(), names[r].clone()));
            let name = format!("{}{}", names[l], names[r]);
            // Two merges may lead to the same token.
            if !ids.contains_key(&name) {
                ids.insert(name.clone(), u32::try_from(names.len())?);
                let piece = [&pieces[l][..], &pieces[r]].concat();
                names.push(name);
                pieces.push(piece);
            }
        }
        let bpe = BPE::builder().vocab_and_merges(ids, named).build().map_err(|error| anyhow!(error))?;
        Ok(Self { bpe, merges, pieces })
    }

    /// The merges, in order, as pairs of token ids.
    pub(crate) fn merges(&self) -> &[(u32, u32)] {
        &self.merges
    }

    /// Number of tokens.
    pub(crate) fn vocab(&self) -> usize {
        self.pieces.len()
    }

    /// The bytes that each token stands for.
    pub(crate) fn pieces(&self) -> &[Vec<u8>] {
        &self.pieces
    }

    /// Turns text into tokens, line by line.
    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u16>> {
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        let encoded = lines.par_chunks(512).map(|lines| -> Result<Vec<u16>> {
            let mut ids = Vec::new();
            for line in lines {
                let line = pre_tokenize(line).map_err(|error| anyhow!(error))?;
                for (word, ..) in line.get_splits(OffsetReferential::Original, OffsetType::None) {
                    for token in self.bpe.tokenize(word).map_err(|error| anyhow!(error))? {
                        ids.push(u16::try_from(token.id)?);
                    }
                }
            }
            Ok(ids)
        });
        Ok(encoded.collect::<Result<Vec<_>>>()?.concat())
    }

    /// Turns tokens into text; what is not UTF-8 is replaced.
    pub(crate) fn decode(&self, tokens: &[u16]) -> String {
        let bytes: Vec<u8> =
            tokens.iter().flat_map(|&id| self.pieces[usize::from(id)].iter().copied()).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Reads the merges of a trained model, in order, as pairs of the ids that [`Tokenizer::from_merges`] gives.
fn merges_of(bpe: &BPE) -> Result<Vec<(u32, u32)>> {
    let json = serde_json::to_value(bpe)?;
    let merges = json["merges"].as_array().context("the trained tokenizer has no merges")?;
    let id = |name: &serde_json::Value| {
        let name = name.as_str().context("a merge of the trained tokenizer is not a pair of tokens")?;
        bpe.token_to_id(name).with_context(|| format!("the trained tokenizer has no token {name:?}"))
    };
    merges.iter().map(|merge| Ok((id(&merge[0])?, id(&merge[1])?))).collect()
}

/// The printable letter by which byte-level BPE writes a byte (as GPT-2 does).
fn letter(byte: u8) -> char {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if printable(byte) {
        return char::from(byte);
    }
    let shift = (0..byte).filter(|&earlier| !printable(earlier)).count();
    u32::try_from(shift)
        .ok()
        .and_then(|shift| char::from_u32(256 + shift))
        .unwrap_or(char::REPLACEMENT_CHARACTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "the cat sat on the mat.\nthe rat sat on the cat, and the mat ran.\n\n\u{fc}ber 12 mats\n";

    #[test]
    fn the_letters_are_those_of_the_tokenizers_crate() {
        let ours: std::collections::BTreeSet<char> = (0..=255).map(letter).collect();
        assert_eq!(ours, ByteLevel::alphabet().into_iter().collect());
    }

    #[test]
    fn text_survives_encoding_and_decoding() {
        let tokenizer = Tokenizer::train(&[TEXT], 300).unwrap();
        let tokens = tokenizer.encode(TEXT).unwrap();
        assert!(tokens.len() < TEXT.len() / 2, "{} tokens", tokens.len());
        assert_eq!(tokenizer.decode(&tokens), TEXT);
    }

    #[test]
    fn training_twice_gives_the_same_merges_and_rebuilding_gives_the_same_tokens() {
        let text = training::text::DEFAULT_TEXT.get(..200_000).unwrap();
        let first = Tokenizer::train(&[text], 1000).unwrap();
        let second = Tokenizer::train(&[text], 1000).unwrap();
        assert_eq!(first.merges(), second.merges());
        assert_eq!(first.vocab(), 1000);
        let rebuilt = Tokenizer::from_merges(first.merges().to_vec()).unwrap();
        assert_eq!(rebuilt.encode(text).unwrap(), first.encode(text).unwrap());
    }

    #[test]
    fn bytes_outside_the_training_text_are_encoded_too() {
        let tokenizer = Tokenizer::train(&[TEXT], 280).unwrap();
        let other = "\u{17d}lu\u{165}ou\u{10d}k\u{fd} k\u{16f}\u{148} \u{6f22}\u{5b57} \t\r\n";
        assert_eq!(tokenizer.decode(&tokenizer.encode(other).unwrap()), other);
    }

    #[test]
    fn a_merge_of_a_token_that_does_not_exist_is_refused() {
        assert!(Tokenizer::from_merges(vec![(0, 1), (257, 3)]).is_err());
    }
}
