//! The parts of a word, as fastText cuts and hashes them: a word's rows are its own and those of its character n-grams,
//! which share a fixed number of buckets.

/// Shortest and longest n-gram, in characters, the marks of the word's begin and end counted.
pub(crate) const LENGTHS: (usize, usize) = (3, 6);

/// FNV-1a over 32 bits, with fastText's quirk: bytes are widened with their sign.
pub(crate) fn hash(bytes: &[u8]) -> u32 {
    bytes.iter().fold(2_166_136_261, |hash, &byte| {
        let widened = i32::from(byte.cast_signed()).cast_unsigned();
        (hash ^ widened).wrapping_mul(16_777_619)
    })
}

/// The n-grams of `<word>`, ascending by their begin, then by their length; none that is a mark alone.
pub(crate) fn ngrams(word: &str, (least, most): (usize, usize)) -> Vec<String> {
    let marked = format!("<{word}>");
    let starts: Vec<usize> = marked.char_indices().map(|(at, _)| at).chain([marked.len()]).collect();
    let last = starts.len() - 1;
    let mut found = Vec::new();
    for begin in 0..last {
        for len in least..=most.min(last - begin) {
            if len == 1 && (begin == 0 || begin + 1 == last) {
                continue;
            }
            found.push(marked[starts[begin]..starts[begin + len]].to_owned());
        }
    }
    found
}

/// The buckets of a word's n-grams.
pub(crate) fn buckets(word: &str, lengths: (usize, usize), count: u64) -> Vec<u64> {
    if count == 0 {
        return Vec::new();
    }
    ngrams(word, lengths).iter().map(|ngram| u64::from(hash(ngram.as_bytes())) % count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_has_the_published_values() {
        // The reference values of FNV-1a, and two words with bytes above 127 from the tests of gensim, made with fastText.
        for (text, expected) in [
            ("", 0x811c_9dc5),
            ("a", 0xe40c_292c),
            ("foobar", 0xbf9c_f968),
            ("\u{434}\u{440}\u{443}\u{437}\u{435}\u{439}", 737_001_801),
            ("\u{43c}\u{430}\u{43b}\u{435}\u{43d}\u{44c}\u{43a}\u{438}\u{445}", 3_011_324_125),
        ] {
            assert_eq!(hash(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn the_ngrams_of_where_are_those_of_the_paper() {
        // Bojanowski et al., 2017, section 3.2.
        assert_eq!(ngrams("where", (3, 3)), ["<wh", "whe", "her", "ere", "re>"]);
        assert_eq!(ngrams("ab", LENGTHS), ["<ab", "<ab>", "ab>"]);
    }

    #[test]
    fn ngrams_are_cut_between_characters_and_marks_alone_are_none() {
        assert_eq!(ngrams("\u{e9}t", (3, 3)), ["<\u{e9}t", "\u{e9}t>"]);
        assert_eq!(ngrams("ab", (1, 1)), ["a", "b"]);
    }

    #[test]
    fn buckets_are_within_their_number_and_none_without() {
        assert!(buckets("jerusalem", LENGTHS, 10).iter().all(|&bucket| bucket < 10));
        assert_eq!(buckets("jerusalem", LENGTHS, 0), [0; 0]);
    }
}
