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
    let mut read = 0;
    let pages: Vec<_> = wants.chunk_by(|a, b| a.offset == b.offset).collect();
    for round in pages.chunks((staging.len() / page_bytes).max(1)) {
        let mut parts = staging.chunks_exact_mut(page_bytes);
        let mut pieces: Vec<(u64, &mut [u8])> =
            round.iter().filter_map(|wants| Some((wants.first()?.offset, parts.next()?))).collect();
        file.read_scattered(&mut pieces)?;
        for (wants, (offset, page)) in round.iter().zip(&pieces) {
            let Some(first) = wants.first() else { continue };
            let computed = page_crc(uuid, first.slot, first.generation, first.number, page);
            if computed != stored_page_crc(page) {
                let what = format!("page {} of a block of rows", first.number);
                let (got, expected) =
                    (format!("checksum {computed:08x}"), format!("{:08x}", stored_page_crc(page)));
                return Err(Error::damaged(file.path(), what, (*offset, to_u64(page_bytes)), got, expected));
            }
            for want in *wants {
                take(want.tag, page.get(want.within..).unwrap_or_default());
            }
        }
        read += to_u64(round.len() * page_bytes);
    }
    Ok(read)
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
    let mut left: &[InLog] = wants;
    let mut read = 0;
    while !left.is_empty() {
        let runs = runs(left, record_bytes, to_u64(staging.len()));
        let mut rest: &mut [u8] = staging;
        let mut pieces = Vec::with_capacity(runs.len());
        for run in &runs {
            let (piece, after) = rest.split_at_mut(to_usize(run.end - run.start));
            pieces.push((run.start, piece));
            rest = after;
        }
        log.file.read_scattered(&mut pieces)?;
        for (run, (_, piece)) in runs.iter().zip(&pieces) {
            let (now, later) = left.split_at(run.wants);
            left = later;
            for want in now {
                let start = to_usize(offset_of(want.at) - run.start);
                let place = piece.get(start..start + RECORD_PREFIX_BYTES + record_bytes).unwrap_or_default();
                let record = record_at(place, log.uuid, tensor, want.row, log.position_of(want.at));
                let record = record.map_err(|e| {
                    let range = (offset_of(want.at), to_u64(place.len()));
                    let what = format!("row {} in the log of rows", want.row);
                    Error::damaged(log.file.path(), what, range, e.got, e.expected)
                })?;
                take(want.tag, record);
            }
            read += run.end - run.start;
        }
        if runs.is_empty() {
            return Err(Error::invalid("memory for reads of rows", staging.len(), "room for a record"));
        }
    }
    Ok(read)
}

/// Bytes of the log that are read in one piece.
struct LogRun {
    start: u64,
    end: u64,
    wants: usize,
}

/// The first runs that the wants, ascending, make up, as many as fit.
fn runs(wants: &[InLog], record_bytes: usize, room: u64) -> Vec<LogRun> {
    let mut runs: Vec<LogRun> = Vec::new();
    let mut used = 0;
    for want in wants {
        let start = offset_of(want.at) / PAGE_BYTES * PAGE_BYTES;
        let end =
            (offset_of(want.at) + to_u64(RECORD_PREFIX_BYTES + record_bytes)).next_multiple_of(PAGE_BYTES);
        let joins = runs.last().is_some_and(|run| start <= run.end + GAP_BYTES);
        let more = match runs.last() {
            Some(run) if joins => end.saturating_sub(run.end),
            _ => end - start,
        };
        if used + more > room {
            break;
        }
        used += more;
        match runs.last_mut() {
            Some(run) if joins => {
                run.end = run.end.max(end);
                run.wants += 1;
            }
            _ => runs.push(LogRun { start, end, wants: 1 }),
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
        let found: Vec<_> = runs(&wants, 776, 1 << 20).iter().map(|r| (r.start, r.end, r.wants)).collect();
        // The second reaches into the next page; the gap behind it is too long.
        assert_eq!(found, [(0, 8192, 2), (28_672, 32_768, 1), (897_024, 901_120, 1)]);
        let found: Vec<_> = runs(&wants, 776, 12_000).iter().map(|r| r.wants).collect();
        assert_eq!(found, [2]);
        assert!(runs(&wants, 776, 4000).is_empty());
    }
}
