//! Which store is to be read: a directory, one of its checkpoints, or the generation before the newest.

use std::path::{Path, PathBuf};

use paramstore::{Error, Options, ParamStore};

use crate::arguments::Generation;
use crate::failure::Failure;
use crate::inspect::MEMORY_BYTES;

/// Opens `STORE`, `STORE@CHECKPOINT` or `STORE@previous` for reading, with as much memory as its blocks need.
pub(crate) fn open(
    spec: &Path,
    checkpoint: Option<&str>,
    generation: Generation,
    memory: Option<u64>,
) -> Result<ParamStore, Failure> {
    let (path, behind) = split(spec);
    let (checkpoint, generation) = match (behind.as_deref(), checkpoint) {
        (None, checkpoint) => (checkpoint, generation),
        (Some("previous"), None) => (None, Generation::Previous),
        (Some(name), None) => (Some(name), generation),
        (Some(name), Some(other)) => {
            return Err(Failure::Usage(format!(
                "{}: got @{name} and checkpoint {other}, expected one",
                spec.display()
            )));
        }
    };
    let path = match checkpoint {
        None => path,
        Some(name) => {
            let kept = path.join("checkpoints").join(name);
            if !kept.is_dir() {
                return Err(Error::Unknown { kind: "checkpoint", name: name.to_owned() }.into());
            }
            kept
        }
    };
    open_at(&path, generation, memory)
}

/// Opens for reading, with as much memory as the blocks of the store need.
pub(crate) fn open_at(
    path: &Path,
    generation: Generation,
    memory: Option<u64>,
) -> Result<ParamStore, Failure> {
    let options = Options::new().generation(generation.into());
    let open = |bytes| ParamStore::open_read_only(path, &options.clone().memory_budget(bytes));
    Ok(match open(memory.unwrap_or(MEMORY_BYTES)) {
        Err(Error::Budget { needed, .. }) if memory.is_none() => open(needed)?,
        other => other?,
    })
}

/// The directory, and what stands behind the last `@` unless that is part of its name.
fn split(spec: &Path) -> (PathBuf, Option<String>) {
    let text = spec.to_string_lossy();
    match text.rsplit_once('@') {
        Some((path, behind)) if !spec.exists() && !behind.contains('/') && !path.is_empty() => {
            (PathBuf::from(path), Some(behind.to_owned()))
        }
        _ => (spec.to_owned(), None),
    }
}
