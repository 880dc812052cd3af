//! Page-aligned memory that goes back to the operating system when it is dropped.

use std::fmt;
use std::ops::{Deref, DerefMut};

use memmap2::MmapMut;

use super::mapped::Part;
use super::{Mapped, SECTOR_BYTES};
use crate::error::{Error, Result};

/// The size and alignment of a huge page on the machines that have them.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// An area of zeroed memory that begins at a multiple of [`SECTOR_BYTES`].
///
/// It is mapped and not taken from the heap: a heap keeps what it is given back, and the budget would not be a
/// number any more. Its pages become real when they are first touched, and are 2 MiB each where the area is large
/// enough and the system grants it.
pub(crate) struct Buffer(Part);

impl Buffer {
    /// How many buffers of a size [`side_by_side`](Self::side_by_side) makes: as many as fill a huge page.
    pub(crate) fn siblings(len_bytes: usize) -> usize {
        HUGE_PAGE_BYTES.div_ceil(len_bytes.max(1))
    }

    /// Maps `len_bytes` zeros.
    ///
    /// # Errors
    /// `Resource` if the system has no address space or memory left for it.
    pub(crate) fn new(len_bytes: usize) -> Result<Self> {
        let part = map_zeros(len_bytes, 1)?.pop();
        part.map(Self).ok_or_else(|| refused(len_bytes, std::io::ErrorKind::OutOfMemory.into()))
    }

    /// Maps zeros for several buffers of the same size, a multiple of [`SECTOR_BYTES`], as parts of one area. A disk is read into
    /// memory of huge pages at up to twice the speed, since a transfer is a few long runs of memory and not many pages; what
    /// is smaller than a huge page has none of its own.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub(crate) fn side_by_side(len_bytes: usize) -> Result<Vec<Self>> {
        debug_assert!((len_bytes as u64).is_multiple_of(SECTOR_BYTES), "parts begin where sectors do");
        Ok(map_zeros(len_bytes, Self::siblings(len_bytes))?.into_iter().map(Self).collect())
    }
}

fn refused(len_bytes: usize, source: std::io::Error) -> Error {
    Error::Resource { what: format!("a memory buffer of {len_bytes} bytes"), source }
}

/// Maps `len_bytes` zeros as many times as `count` says.
fn map_zeros(len_bytes: usize, count: usize) -> Result<Vec<Part>> {
    let refused = |source| refused(len_bytes, source);
    let too_large = || refused(std::io::ErrorKind::OutOfMemory.into());
    let all_bytes = len_bytes.checked_mul(count).ok_or_else(too_large)?;
    let slack_bytes = huge_page_slack(all_bytes);
    let mapped_bytes = all_bytes.checked_add(slack_bytes).ok_or_else(too_large)?.max(1);
    let map = MmapMut::map_anon(mapped_bytes).map_err(refused)?;
    let start = huge_page_start(&map, slack_bytes);
    debug_assert!((map.as_ptr().addr() as u64 + start as u64).is_multiple_of(SECTOR_BYTES));
    ask_for_huge_pages(&map, start, all_bytes, slack_bytes);
    Ok(Part::cut(map, start, len_bytes, count))
}

/// Asks for huge pages over the whole ones of the area, and for small pages in what is left, so that no page
/// reaches beyond the area and the memory in use is what was asked for.
#[cfg(target_os = "linux")]
fn ask_for_huge_pages(map: &MmapMut, start: usize, len_bytes: usize, slack_bytes: usize) {
    if slack_bytes == 0 {
        return;
    }
    let huge_bytes = len_bytes - len_bytes % HUGE_PAGE_BYTES;
    let tail = start + huge_bytes;
    // Advice only: a kernel without huge pages refuses it, and the buffer is as good, if slower to fill.
    let _advised = map.advise_range(memmap2::Advice::HugePage, start, huge_bytes);
    let _advised = map.advise_range(memmap2::Advice::NoHugePage, tail, map.len() - tail);
}

#[cfg(not(target_os = "linux"))]
fn ask_for_huge_pages(_map: &MmapMut, _start: usize, _len_bytes: usize, _slack_bytes: usize) {}

/// The address space to add so that the area can begin at a huge page: kernels before 6.7 do not align it.
#[cfg(target_os = "linux")]
fn huge_page_slack(len_bytes: usize) -> usize {
    if len_bytes >= HUGE_PAGE_BYTES && cfg!(not(miri)) { HUGE_PAGE_BYTES } else { 0 }
}

#[cfg(not(target_os = "linux"))]
fn huge_page_slack(_len_bytes: usize) -> usize {
    0
}

/// Where in the map the area begins; the slack is never touched and so never takes memory.
#[cfg(target_os = "linux")]
fn huge_page_start(map: &MmapMut, slack_bytes: usize) -> usize {
    if slack_bytes == 0 { 0 } else { map.as_ptr().addr().wrapping_neg() % HUGE_PAGE_BYTES }
}

#[cfg(not(target_os = "linux"))]
fn huge_page_start(_map: &MmapMut, _slack_bytes: usize) -> usize {
    0
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Mapped for Buffer {
    fn bytes(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").field("len_bytes", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_buffer_is_zeroed_aligned_and_exactly_as_long_as_asked() {
        let sizes: &[usize] =
            if cfg!(miri) { &[0, 1, 4096, 9000] } else { &[0, 1, 4096, 9000, 2 << 20, (3 << 20) + 5] };
        for &len_bytes in sizes {
            let mut buffer = Buffer::new(len_bytes).unwrap();
            assert_eq!(buffer.len(), len_bytes);
            assert_eq!(buffer.as_ptr().addr() % 4096, 0);
            assert!(buffer.iter().all(|&byte| byte == 0));
            buffer.fill(0xa5);
            assert!(buffer.iter().all(|&byte| byte == 0xa5));
        }
    }

    // Miri ends the program where the system would refuse.
    #[cfg(not(miri))]
    #[test]
    fn buffer_larger_than_the_address_space_is_an_error() {
        for len_bytes in [usize::MAX, usize::MAX / 2] {
            let error = Buffer::new(len_bytes).unwrap_err();
            assert!(matches!(error, Error::Resource { .. }), "{error}");
            assert!(error.to_string().contains(&len_bytes.to_string()), "{error}");
        }
    }

    #[cfg(all(target_os = "linux", not(miri)))]
    #[test]
    fn buffer_of_a_huge_page_or_more_begins_at_a_huge_page() {
        for len_bytes in [2 << 20, (5 << 20) + 4096] {
            assert_eq!(Buffer::new(len_bytes).unwrap().as_ptr().addr() % HUGE_PAGE_BYTES, 0);
        }
    }

    #[test]
    fn parts_of_one_area_are_apart_and_give_their_memory_back() {
        // Miri takes minutes for every byte.
        const STEP: usize = 4095;
        let len_bytes = 320 << 10;
        let mut parts = Buffer::side_by_side(len_bytes).unwrap();
        assert_eq!(parts.len(), 7);
        for (number, part) in (1..).zip(&mut parts) {
            assert_eq!((part.len(), part.as_ptr().addr() % 4096), (len_bytes, 0));
            assert!(part.iter().step_by(STEP).all(|&byte| byte == 0));
            part.fill(number);
        }
        for gone in [3, 0, 4] {
            drop(parts.remove(gone));
            let own = |part: &Buffer| part.iter().step_by(STEP).all(|&byte| byte == part[0]);
            assert!(parts.iter().all(own), "what others hold is theirs");
        }
        let numbers: Vec<_> = parts.iter().map(|part| part[0]).collect();
        assert_eq!(numbers, [2, 3, 5, 6]);
        // In one map, so that the memory of those that are gone would still be there.
        #[cfg(all(target_os = "linux", not(miri)))]
        {
            let resident = |part: &Buffer| {
                let mapping = mapping_of(part.as_ptr().addr()).unwrap();
                let line = mapping.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap().to_owned();
                line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
            };
            let last = parts.pop().unwrap();
            let before = resident(&last);
            drop(parts);
            assert!(resident(&last) < before, "{} of {before}", resident(&last));
            assert!(last.iter().all(|&byte| byte == 6));
        }
        assert_eq!(Buffer::side_by_side(2 << 20).unwrap().len(), 1);
    }

    /// The kernel's description of the mapping that holds an address.
    #[cfg(all(target_os = "linux", not(miri)))]
    fn mapping_of(address: usize) -> Option<String> {
        let text = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let range = |line: &str| {
            let (from, to) = line.split_once(' ')?.0.split_once('-')?;
            Some(usize::from_str_radix(from, 16).ok()?..usize::from_str_radix(to, 16).ok()?)
        };
        let mut lines =
            text.lines().skip_while(|line| !range(line).is_some_and(|range| range.contains(&address)));
        let first = lines.next()?;
        let rest = lines.take_while(|line| range(line).is_none());
        Some(std::iter::once(first).chain(rest).collect::<Vec<_>>().join("\n"))
    }

    #[cfg(all(target_os = "linux", not(miri)))]
    #[test]
    fn huge_pages_are_asked_for_inside_the_buffer_and_not_across_its_end() {
        if !std::fs::exists("/sys/kernel/mm/transparent_hugepage/enabled").unwrap() {
            return; // A kernel without huge pages has nothing to ask.
        }
        let buffer = Buffer::new((4 << 20) + 4096).unwrap();
        let has_flag = |offset: usize, wanted: &str| {
            let mapping = mapping_of(buffer.as_ptr().addr() + offset).unwrap();
            let flags = mapping.lines().find_map(|line| line.strip_prefix("VmFlags:")).unwrap();
            flags.split_whitespace().any(|flag| flag == wanted)
        };
        assert!(has_flag(0, "hg") && has_flag((4 << 20) - 1, "hg"));
        assert!(has_flag(4 << 20, "nh"));
    }

    #[cfg(all(target_os = "linux", not(miri)))]
    #[test]
    fn dropped_buffer_leaves_no_mapping_behind() {
        let buffer = Buffer::new(1 << 30).unwrap();
        // Another thread's mapping could take the place; in the middle of a gigabyte it is unlikely to.
        let middle = buffer.as_ptr().addr() + (512 << 20);
        assert!(mapping_of(middle).is_some());
        drop(buffer);
        assert!(mapping_of(middle).is_none());
    }
}
