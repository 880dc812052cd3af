//! The checks that every backend makes before it acts, so that all refuse the same things in the same words.

use std::io;
use std::path::Path;

use super::{SECTOR_BYTES, Segment};
use crate::error::{Error, Result};

/// The longest file name that common file systems take.
const NAME_BYTES_MAX: usize = 255;

/// Refuses a name that is not one plain path component, so that nothing outside the directory is ever reached.
pub(super) fn name(directory: &Path, name: &str) -> Result<()> {
    let is_plain = !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && name != "."
        && name != ".."
        && !name.contains(['/', '\0']);
    if is_plain {
        return Ok(());
    }
    Err(Error::invalid(
        format!("file name in {}", directory.display()),
        format!("{name:?}"),
        "1 to 255 bytes without '/', and neither \".\" nor \"..\"",
    ))
}

/// Refuses a byte range that does not lie inside the file.
pub(super) fn inside(
    action: &'static str,
    path: &Path,
    offset: u64,
    len_bytes: usize,
    file_bytes: u64,
) -> Result<()> {
    let range = (offset, len_bytes as u64);
    match offset.checked_add(range.1) {
        Some(end) if end <= file_bytes => Ok(()),
        _ => Err(Error::io_at(action, path, range, past_end(file_bytes))),
    }
}

/// The refusal of a range that the file ends before.
pub(super) fn past_end(file_bytes: u64) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, format!("the file ends at byte {file_bytes}"))
}

/// Refuses a direct transfer that is not whole sectors between sector addresses.
pub(super) fn aligned(action: &'static str, path: &Path, offset: u64, buffer: &[u8]) -> Result<()> {
    let address = buffer.as_ptr().addr() as u64;
    let len_bytes = buffer.len() as u64;
    let is_aligned = [offset, len_bytes, address].iter().all(|number| number.is_multiple_of(SECTOR_BYTES));
    if is_aligned || buffer.is_empty() {
        return Ok(());
    }
    Err(Error::invalid(
        format!("direct {action} of {}", path.display()),
        format!("{len_bytes} bytes at byte {offset}, buffer address {address:#x}"),
        format!("multiples of {SECTOR_BYTES}"),
    ))
}

/// Refuses a map that does not begin at a sector.
pub(super) fn map_offset(path: &Path, offset: u64) -> Result<()> {
    if offset.is_multiple_of(SECTOR_BYTES) {
        return Ok(());
    }
    Err(Error::invalid(
        format!("offset of a map of {}", path.display()),
        offset,
        format!("a multiple of {SECTOR_BYTES}"),
    ))
}

/// Refuses to share bytes between files of different lengths: files keep theirs.
pub(super) fn same_length(path: &Path, len_bytes: u64, source: &dyn Segment) -> Result<()> {
    let got = source.len_bytes()?;
    if got == len_bytes {
        return Ok(());
    }
    let what = format!("file to share bytes with {}", path.display());
    Err(Error::invalid(what, format!("{got} bytes"), format!("{len_bytes} bytes")))
}

/// Refuses a hole that is not whole sectors inside the file.
pub(super) fn hole(path: &Path, offset: u64, len_bytes: u64, file_bytes: u64) -> Result<()> {
    let end = offset.checked_add(len_bytes);
    let is_whole = offset.is_multiple_of(SECTOR_BYTES) && len_bytes.is_multiple_of(SECTOR_BYTES);
    if is_whole && len_bytes > 0 && end.is_some_and(|end| end <= file_bytes) {
        return Ok(());
    }
    Err(Error::invalid(
        format!("hole in {}", path.display()),
        format!("{len_bytes} bytes at byte {offset}"),
        format!("whole sectors of {SECTOR_BYTES} bytes inside its {file_bytes} bytes"),
    ))
}
