//! The words whose vectors point in the same direction.

use anyhow::Result;
use rayon::prelude::*;

use super::vocab::Vocab;
use crate::math::dot;
use crate::num::small;

/// Vectors that are in memory at a time.
const CHUNK: usize = 1024;

/// Words whose neighbours are shown for the text that ships with the repository.
const SHOWN: [&str; 8] = ["king", "wife", "sheep", "gold", "jerusalem", "sword", "bread", "egypt"];

/// The words whose neighbours are shown: those asked for, or some of the vocabulary.
pub(crate) fn shown(vocab: &Vocab, asked: &[String]) -> Vec<u32> {
    let known = |words: &mut dyn Iterator<Item = &str>| -> Vec<u32> {
        words.filter_map(|word| vocab.number(word)).collect()
    };
    let mut found = if asked.is_empty() {
        known(&mut SHOWN.into_iter())
    } else {
        known(&mut asked.iter().map(String::as_str))
    };
    if asked.is_empty() && found.len() < SHOWN.len() {
        // Another text: words of middling frequency.
        found = (1..=8).map(|i| small(i * vocab.len() / 32)).collect();
        found.dedup();
    }
    found
}

/// The `count` nearest words of each of some words by the cosine, nearest first; `vectors` reads those of some words.
pub(crate) fn nearest(
    len: usize,
    width: usize,
    of: &[u32],
    count: usize,
    mut vectors: impl FnMut(&[u32]) -> Result<Vec<f32>>,
) -> Result<Vec<Vec<(u32, f32)>>> {
    let mut queries = vectors(of)?;
    normalise(&mut queries, width);
    let mut found: Vec<Vec<(u32, f32)>> = vec![Vec::new(); of.len()];
    for start in (0..len).step_by(CHUNK) {
        let words: Vec<u32> = (small(start)..small(len.min(start + CHUNK))).collect();
        let mut rows = vectors(&words)?;
        normalise(&mut rows, width);
        let of_queries = found.par_iter_mut().zip(queries.par_chunks(width)).zip(of);
        of_queries.for_each(|((found, query), &asked)| {
            let others = words.iter().zip(rows.chunks(width)).filter(|(word, _)| **word != asked);
            found.extend(others.map(|(&word, row)| (word, dot(query, row))));
            found.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            found.truncate(count);
        });
    }
    Ok(found)
}

fn normalise(rows: &mut [f32], width: usize) {
    for row in rows.chunks_mut(width) {
        let norm = dot(row, row).sqrt();
        if norm > 0.0 {
            for x in row {
                *x /= norm;
            }
        }
    }
}

/// A line for each word: the word and its neighbours.
pub(crate) fn lines(vocab: &Vocab, of: &[u32], found: &[Vec<(u32, f32)>]) -> Vec<(String, String)> {
    let line = |found: &Vec<(u32, f32)>| {
        let words: Vec<_> =
            found.iter().map(|&(word, cosine)| format!("{} {cosine:.2}", vocab.word(word))).collect();
        words.join(", ")
    };
    of.iter().zip(found).map(|(&word, found)| (vocab.word(word).to_owned(), line(found))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_words_are_those_in_the_same_direction_whatever_their_length() {
        let table = [[1.0, 0.0], [10.0, 1.0], [0.0, 2.0], [-1.0, 0.0], [0.0, 0.0]];
        let read = |words: &[u32]| Ok(words.iter().flat_map(|&word| table[word as usize]).collect());
        let found = nearest(5, 2, &[0, 2], 2, read).unwrap();
        let words: Vec<Vec<u32>> =
            found.iter().map(|row| row.iter().map(|&(word, _)| word).collect()).collect();
        assert_eq!(words, [[1, 2], [1, 0]]);
        assert!((found[0][0].1 - 10.0 / 101f32.sqrt()).abs() < 1e-6);
    }

    #[test]
    fn words_of_another_text_are_found_and_those_asked_for_come_first() {
        let text: Vec<String> = (0..64).map(|i| format!("w{i}")).collect();
        let vocab = Vocab::count(text.iter().map(String::as_str), 1, 100);
        assert_eq!(shown(&vocab, &[]).len(), 8);
        let asked = ["w3".to_owned(), "unknown".to_owned()];
        assert_eq!(shown(&vocab, &asked), [vocab.number("w3").unwrap()]);
    }
}
