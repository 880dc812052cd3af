//! The text of a run: files, or the one that ships with the repository.

use std::borrow::Cow;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// The King James Bible (`tools/train-lm/data/README.md` names the source).
pub const DEFAULT_TEXT: &str = include_str!("../../train-lm/data/king-james-bible.txt");

/// Reads files one after the other, or takes the text that ships with the repository if there are none.
///
/// # Errors
/// A file that cannot be read, or is not UTF-8.
pub fn load(files: &[PathBuf]) -> Result<Cow<'static, str>> {
    if files.is_empty() {
        return Ok(DEFAULT_TEXT.into());
    }
    let mut text = String::new();
    for path in files {
        let bytes =
            std::fs::read(path).with_context(|| format!("cannot read the text {}", path.display()))?;
        match std::str::from_utf8(&bytes) {
            Ok(part) => text.push_str(part),
            Err(error) => bail!(
                "the text {} is not UTF-8 at byte {}: convert it first",
                path.display(),
                error.valid_up_to()
            ),
        }
    }
    Ok(text.into())
}
