//! WordNet's database (Debian's package `wordnet-base`) as a graph of synsets.
//!
//! A line of `data.noun`, `data.verb`, `data.adj` or `data.adv` is a synset: `offset file type words... pointers...`, as
//! wndb(5WN) describes. A pointer is a symbol, an offset, a part of speech, and four digits that tell which words of the
//! two synsets it joins, or 0000 for the synsets as a whole. Here pointers between words count as pointers between their
//! synsets, and the relations are the 18 of the benchmark WN18.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::triples::Named;

/// The files with synsets.
const FILES: [&str; 4] = ["data.noun", "data.verb", "data.adj", "data.adv"];

/// Symbols of pointers and the names of their relations in WN18.
const RELATIONS: [(&str, &str); 18] = [
    ("@", "hypernym"),
    ("~", "hyponym"),
    ("@i", "instance_hypernym"),
    ("~i", "instance_hyponym"),
    ("#m", "member_holonym"),
    ("%m", "member_meronym"),
    ("#p", "part_of"),
    ("%p", "has_part"),
    ("+", "derivationally_related_form"),
    ("$", "verb_group"),
    ("&", "similar_to"),
    ("^", "also_see"),
    (";c", "synset_domain_topic_of"),
    ("-c", "member_of_domain_topic"),
    (";r", "synset_domain_region_of"),
    ("-r", "member_of_domain_region"),
    (";u", "synset_domain_usage_of"),
    ("-u", "member_of_domain_usage"),
];

/// Reads a directory with WordNet's database: the triples, and the bytes that they were read from.
pub(crate) fn read(dir: &Path) -> Result<(Vec<Named>, Vec<u8>)> {
    let (mut named, mut all) = (Vec::new(), Vec::new());
    for file in FILES {
        let path = dir.join(file);
        let bytes = std::fs::read(&path).with_context(|| {
            format!(
                "cannot read {} (Debian's package wordnet-base has it; --wordnet names a directory)",
                path.display()
            )
        })?;
        // Glosses may hold bytes of Latin-1; what is read here is ASCII.
        let text = String::from_utf8_lossy(&bytes);
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.starts_with("  ")) {
            let of_line =
                synset(line).with_context(|| format!("line {} of {}", number + 1, path.display()))?;
            named.extend(of_line);
        }
        all.extend(bytes);
    }
    ensure!(!named.is_empty(), "the database in {} has no pointers", dir.display());
    Ok((named, all))
}

/// The triples of one synset.
fn synset(line: &str) -> Result<Vec<Named>> {
    let data = line.split('|').next().unwrap_or_default();
    let mut fields = data.split_whitespace();
    let mut next = |what: &'static str| fields.next().with_context(|| format!("{what} is missing"));
    let (offset, _file, kind) = (next("the offset")?, next("the file's number")?, next("the type")?);
    let words = usize::from_str_radix(next("the number of words")?, 16).context("the number of words")?;
    for _ in 0..words {
        next("a word")?;
        next("a word's number")?;
    }
    let pointers: usize = next("the number of pointers")?.parse().context("the number of pointers")?;
    let head = name(kind, offset);
    let mut named = Vec::new();
    for _ in 0..pointers {
        let (symbol, target) = (next("a pointer")?, next("a pointer's target")?);
        let (kind, _words) = (next("a pointer's part of speech")?, next("a pointer's words")?);
        if let Some((_, relation)) = RELATIONS.iter().find(|(of, _)| *of == symbol) {
            named.push((head.clone(), (*relation).to_owned(), name(kind, target)));
        }
    }
    Ok(named)
}

/// The name of a synset: its part of speech and its offset. Satellites of adjectives are adjectives.
fn name(kind: &str, offset: &str) -> String {
    format!("{}{offset}", if kind == "s" { "a" } else { kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> &'static Path {
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/wordnet"))
    }

    #[test]
    fn the_sample_is_read_as_triples_of_synsets() {
        let (named, bytes) = read(sample()).unwrap();
        let has = |head: &str, relation: &str, tail: &str| {
            named.contains(&(head.to_owned(), relation.to_owned(), tail.to_owned()))
        };
        assert!(has("n00001740", "hyponym", "n00001930"));
        assert!(has("n00001930", "hypernym", "n00001740"));
        assert!(has("v00002325", "derivationally_related_form", "n00831191"), "between words");
        assert!(has("a00003553", "similar_to", "a00003356"), "a satellite is an adjective");
        assert!(!named.iter().any(|(_, relation, _)| relation.contains("antonym")));
        assert!(bytes.len() > 1000);
    }

    #[test]
    fn a_line_that_ends_early_and_a_missing_file_are_named() {
        let error = synset("00001740 03 n 01 entity 0 003 ~ 00001930 n 0000").unwrap_err().to_string();
        assert!(error.contains("a pointer is missing"), "{error}");
        let error = read(Path::new("/nowhere")).unwrap_err().to_string();
        assert!(error.contains("wordnet-base"), "{error}");
    }
}
