//! Records from disk: pages of blocks and pieces of the log, many small reads at a time.

use std::sync::Arc;

use super::log::LogReader;
use crate::error::{Error, Result};
use crate::format::records::{page_crc, stored_page_crc};
use crate::format::row_log::{RECORD_PREFIX_BYTES, record_at};
use crate::format::{PAGE_BYTES, Uuid};
use crate::storage::{Buffer, Segment};
use crate::units::{SlotIndex, to_u64, to_usize};

use super::index::offset_of;

/// A gap in the log that is read along rather than left out.
const GAP_BYTES: u64 = 16 << 10;

/// A record in a page of a block's home.
#[derive(Debug, Clone, Copy)]
pub(super) struct InPage {
    /// Where the page stands in the file.
    pub(super) offset: u64,
    pub(super) slot: SlotIndex,
    pub(super) generation: u64,
    /// Number of the page in its block.
    pub(super) number: usize,
    /// Where the record begins in the page.
    pub(super) within: usize,
    /// What the caller calls it.
    pub(super) tag: u32,
}

/// A record in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct InLog {
    pub(super) at: u32,
    pub(super) row: u64,
    /// What the caller calls it.
    pub(super) tag: u32,
}

/// Reads and checks pages of one file, and gives each wanted record to `take`. Wants of one page follow each other.
/// Returns the bytes read.
pub(super) fn from_pages(
    file: &Arc<dyn Segment>,
    uuid: Uuid,
    page_bytes: usize,
    wants: &[InPage],
    staging: &mut Buffer,
    mut take: impl FnMut(u32, &[u8]),
) -> Result<u64> {
    let pages: Vec<_> = wants.chunk_by(|a, b| a.offset == b.offset).collect();
    let offset = |wants: &&[InPage]| wants.first().map_or(0, |want| want.offset);
    let pieces: Vec<_> = pages.iter().map(|wants| (offset(wants), page_bytes)).collect();
    let mut damage = None;
    file.read_each(&pieces, staging, &mut |number, page| {
        let wants = pages.get(number).copied().unwrap_or_default();
        let Some(first) = wants.first() else { return };
        let computed = page_crc(uuid, first.slot, first.generation, first.number, page);
        if computed == stored_page_crc(page) {
            for want in wants {
                take(want.tag, page.get(want.within..).unwrap_or_default());
            }
        } else {
            damage.get_or_insert((*first, computed, stored_page_crc(page)));
        }
    })?;
    if let Some((first, computed, stored)) = damage {
        let what = format!("page {} of a block of rows", first.number);
        let (got, expected) = (format!("checksum {computed:08x}"), format!("{stored:08x}"));
        return Err(Error::damaged(file.path(), what, (first.offset, to_u64(page_bytes)), got, expected));
    }
    Ok(to_u64(pages.len() * page_bytes))
}

/// Reads and checks records of a tensor from the log, and gives each to `take`. Sorts the wants by place. Returns the bytes
/// read.
pub(super) fn from_log(
    log: &LogReader,
    tensor: u32,
    record_bytes: usize,
    wants: &mut [InLog],
    staging: &mut Buffer,
    mut take: impl FnMut(u32, &[u8]),
) -> Result<u64> {
    wants.sort_unstable();
    // Several pieces are under way at once.
    let longest = to_u64(staging.len() / 8).max(PAGE_BYTES);
    let runs = runs(wants, record_bytes, longest);
    let pieces: Vec<_> = runs.iter().map(|run| (run.start, to_usize(run.end - run.start))).collect();
    let mut damage = None;
    log.file.read_each(&pieces, staging, &mut |number, piece| {
        let Some(run) = runs.get(number) else { return };
        for want in wants.get(run.wants.clone()).unwrap_or_default() {
            let start = to_usize(offset_of(want.at) - run.start);
            let place = piece.get(start..start + RECORD_PREFIX_BYTES + record_bytes).unwrap_or_default();
            match record_at(place, log.uuid, tensor, want.row, log.position_of(want.at)) {
                Ok(record) => take(want.tag, record),
                Err(error) => {
                    damage.get_or_insert((*want, error));
                }
            }
        }
    })?;
    if let Some((want, error)) = damage {
        let range = (offset_of(want.at), to_u64(RECORD_PREFIX_BYTES + record_bytes));
        let what = format!("row {} in the log of rows", want.row);
        return Err(Error::damaged(log.file.path(), what, range, error.got, error.expected));
    }
    Ok(runs.iter().map(|run| run.end - run.start).sum())
}

/// Bytes of the log that are read in one piece.
struct LogRun {
    start: u64,
    end: u64,
    wants: std::ops::Range<usize>,
}

/// The runs that the wants, ascending, make up, none longer than `longest` unless a record is.
fn runs(wants: &[InLog], record_bytes: usize, longest: u64) -> Vec<LogRun> {
    let mut runs: Vec<LogRun> = Vec::new();
    for (number, want) in wants.iter().enumerate() {
        let start = offset_of(want.at) / PAGE_BYTES * PAGE_BYTES;
        let end =
            (offset_of(want.at) + to_u64(RECORD_PREFIX_BYTES + record_bytes)).next_multiple_of(PAGE_BYTES);
        match runs.last_mut() {
            Some(run) if start <= run.end + GAP_BYTES && end - run.start <= longest => {
                run.end = run.end.max(end);
                run.wants.end = number + 1;
            }
            _ => runs.push(LogRun { start, end, wants: number..number + 1 }),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::super::index::place_of;
    use super::*;

    #[test]
    fn neighbours_in_the_log_are_read_together_as_far_as_memory_goes() {
        let want = |offset: u64| InLog { at: place_of(offset), row: 0, tag: 0 };
        let wants = [want(8), want(4000), want(30_000), want(900_000)];
        let found: Vec<_> =
            runs(&wants, 776, 1 << 20).into_iter().map(|r| (r.start, r.end, r.wants)).collect();
        // The second reaches into the next page; the gap behind it is too long.
        assert_eq!(found, [(0, 8192, 0..2), (28_672, 32_768, 2..3), (897_024, 901_120, 3..4)]);
        let found: Vec<_> = runs(&wants, 776, 4096).into_iter().map(|r| r.wants).collect();
        assert_eq!(found, [0..1, 1..2, 2..3, 3..4]);
    }
}
