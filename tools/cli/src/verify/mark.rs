//! The file in which a look keeps how far it has come.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use paramstore::Damage;
use paramstore::inspect::{Finding, Verification};
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::whole;

/// Larger files are none of ours: a million findings take less.
const BYTES_MAX: u64 = 1 << 30;

/// What is known so far, as it stands in the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mark {
    uuid: Option<String>,
    first_generation: u64,
    last_generation: u64,
    entries_done: u64,
    complete: bool,
    table_pages: u64,
    blocks: u64,
    blocks_never_written: u64,
    bytes_read: u64,
    seconds: f64,
    damage_count: u64,
    damage: Vec<Place>,
}

/// A damaged place, as it stands in the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Place {
    tensors: Vec<String>,
    plane: Option<String>,
    block: Option<u64>,
    file: PathBuf,
    offset: u64,
    bytes: u64,
    what: String,
    got: String,
    expected: String,
}

/// What an earlier look left, if the file is there.
pub(super) fn read(path: &Path) -> Result<Option<Verification>, Failure> {
    let len = match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|error| refused(path, "cannot be read", &error))?.len(),
    };
    if len > BYTES_MAX {
        return Err(refused(path, "is no file of `verify --resume`", &format!("{len} bytes")));
    }
    let bytes = fs::read(path).map_err(|error| refused(path, "cannot be read", &error))?;
    let mark: Mark = serde_json::from_slice(&bytes)
        .map_err(|error| refused(path, "is no file of `verify --resume`", &error))?;
    Ok(Some(mark.into()))
}

/// Replaces the file as a whole.
pub(super) fn write(path: &Path, seen: &Verification) -> Result<(), Failure> {
    let failed = |error: &dyn std::fmt::Display| refused(path, "cannot be written", error);
    whole::write(path, &serde_json::to_vec(&Mark::from(seen))?).map_err(|error| failed(&error))
}

/// Removes the file: the look has come to its end.
pub(super) fn remove(path: &Path) -> Result<(), Failure> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(refused(path, "cannot be removed", &error)),
        _ => Ok(()),
    }
}

fn refused(path: &Path, what: &str, why: &dyn std::fmt::Display) -> Failure {
    Failure::Usage(format!("--resume: {} {what}: {why}", path.display()))
}

impl From<&Verification> for Mark {
    fn from(seen: &Verification) -> Self {
        let place = |finding: &Finding| Place {
            tensors: finding.tensors.clone(),
            plane: finding.plane.clone(),
            block: finding.block,
            file: finding.damage.path.clone(),
            offset: finding.damage.range.0,
            bytes: finding.damage.range.1,
            what: finding.damage.what.clone(),
            got: finding.damage.got.clone(),
            expected: finding.damage.expected.clone(),
        };
        Self {
            uuid: seen.uuid.clone(),
            first_generation: seen.first_generation,
            last_generation: seen.last_generation,
            entries_done: seen.entries_done,
            complete: seen.complete,
            table_pages: seen.table_pages,
            blocks: seen.blocks,
            blocks_never_written: seen.blocks_absent,
            bytes_read: seen.bytes_read,
            seconds: seen.seconds,
            damage_count: seen.findings_total,
            damage: seen.findings.iter().map(place).collect(),
        }
    }
}

impl From<Mark> for Verification {
    fn from(mark: Mark) -> Self {
        let finding = |place: Place| {
            let range = (place.offset, place.bytes);
            let damage = Damage::new(place.file, place.what, range, place.got, place.expected);
            Finding::new(damage, place.tensors, place.plane, place.block)
        };
        let mut seen = Self::default();
        seen.uuid = mark.uuid;
        seen.first_generation = mark.first_generation;
        seen.last_generation = mark.last_generation;
        seen.entries_done = mark.entries_done;
        seen.complete = mark.complete;
        seen.table_pages = mark.table_pages;
        seen.blocks = mark.blocks;
        seen.blocks_absent = mark.blocks_never_written;
        seen.bytes_read = mark.bytes_read;
        seen.seconds = mark.seconds;
        seen.findings_total = mark.damage_count;
        seen.findings = mark.damage.into_iter().map(finding).collect();
        seen
    }
}
