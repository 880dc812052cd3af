//! The text: files or the one that ships with the repository, cut into a part to train on and a part that is held out.

use std::borrow::Cow;
use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::run::record::DataId;

/// One piece of the text in this many is held out.
const HELD_EVERY: usize = 20;

/// The text of a run.
pub(crate) struct Text {
    text: Cow<'static, str>,
}

impl Text {
    /// Reads files one after the other, or takes the text that ships with the repository if there are none.
    pub(crate) fn load(files: &[PathBuf]) -> Result<Self> {
        let text = training::text::load(files)?;
        ensure!(!text.trim().is_empty(), "the text has no words");
        Ok(Self { text })
    }

    /// What identifies the text.
    pub(crate) fn id(&self) -> DataId {
        DataId::of(self.text.as_bytes())
    }

    /// Cuts the text at line ends into pieces of a few KiB, spread over a part to train on and a part held out.
    pub(crate) fn pieces(&self) -> (Vec<&str>, Vec<&str>) {
        let target = (self.text.len() / 200).clamp(256, 8192);
        let (mut train, mut held) = (Vec::new(), Vec::new());
        let mut rest = &*self.text;
        let mut index = 0;
        while !rest.is_empty() {
            let cut = rest.bytes().enumerate().skip(target).find(|&(_, byte)| byte == b'\n');
            let (piece, tail) = rest.split_at(cut.map_or(rest.len(), |(at, _)| at + 1));
            if index % HELD_EVERY == HELD_EVERY / 2 {
                held.push(piece);
            } else {
                train.push(piece);
            }
            rest = tail;
            index += 1;
        }
        (train, held)
    }
}

/// The words of a line: runs of letters, digits and apostrophes within, in lower case.
pub(crate) fn words(line: &str) -> impl Iterator<Item = String> + '_ {
    line.split(|c: char| !c.is_alphanumeric() && c != '\'')
        .map(|word| word.trim_matches('\''))
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
}

#[cfg(test)]
mod tests {
    use training::text::DEFAULT_TEXT;

    use super::*;

    #[test]
    fn words_are_in_lower_case_without_marks() {
        let found: Vec<_> = words("And God's 'Spirit' moved; upon-the face (12) '").collect();
        assert_eq!(found, ["and", "god's", "spirit", "moved", "upon", "the", "face", "12"]);
    }

    #[test]
    fn the_parts_are_disjoint_and_complete() {
        let text = Text::load(&[]).unwrap();
        let (train, held) = text.pieces();
        let bytes = |pieces: &[&str]| pieces.iter().map(|piece| piece.len()).sum::<usize>();
        assert_eq!(bytes(&train) + bytes(&held), DEFAULT_TEXT.len());
        let share = DEFAULT_TEXT.len() / bytes(&held);
        assert!((17..24).contains(&share), "{share}");
    }

    #[test]
    fn a_missing_file_and_one_that_is_no_text_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("latin1.txt");
        std::fs::write(&path, b"caf\xe9").unwrap();
        for path in [dir.path().join("missing.txt"), path] {
            let error = Text::load(std::slice::from_ref(&path)).err().unwrap().to_string();
            assert!(error.contains(path.to_str().unwrap()), "{error}");
        }
    }
}
