//! Maps: files seen in place, and memory in parts.

#![expect(
    unsafe_code,
    reason = "a map of a file is only as constant as the file, and parts of a map are its owners' alone; the argument stands at \
              each block"
)]

use std::fs::File;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::slice;
use std::sync::Arc;

use memmap2::{MmapMut, MmapRaw};

use super::real::transfer;
use super::{Buffer, Mapped};
use crate::error::{Error, Result};

/// A part of private memory, of which nobody else has any.
pub(super) struct Part {
    map: Arc<MmapRaw>,
    start: usize,
    len_bytes: usize,
    /// Whether there are other parts.
    is_shared: bool,
}

impl Part {
    /// Cuts an anonymous map into `count` parts of `len_bytes`, one after the other from `start` on.
    ///
    /// # Panics
    /// If they do not lie in the map.
    pub(super) fn cut(map: MmapMut, start: usize, len_bytes: usize, count: usize) -> Vec<Self> {
        let end = len_bytes.checked_mul(count).and_then(|all| all.checked_add(start));
        assert!(end.is_some_and(|end| end <= map.len()), "parts in the map");
        let map = Arc::new(MmapRaw::from(map));
        let part = |number: usize| Self {
            map: Arc::clone(&map),
            start: start + number * len_bytes,
            len_bytes,
            is_shared: count > 1,
        };
        (0..count).map(part).collect()
    }
}

impl Deref for Part {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let first = self.map.as_ptr().wrapping_add(self.start);
        // SAFETY: the part lies in the map (`cut`), which is private memory that lives as long as `self.map` and holds zeros or
        // what was written; no other part has any of it, and who writes it borrows this one mutably.
        unsafe { slice::from_raw_parts(first, self.len_bytes) }
    }
}

impl DerefMut for Part {
    fn deref_mut(&mut self) -> &mut [u8] {
        let first = self.map.as_mut_ptr().wrapping_add(self.start);
        // SAFETY: as in `deref`; and this part is borrowed mutably.
        unsafe { slice::from_raw_parts_mut(first, self.len_bytes) }
    }
}

impl Drop for Part {
    /// Gives the memory back to the system while other parts stay; the last one takes the map along.
    fn drop(&mut self) {
        if self.is_shared {
            self.give_back();
        }
    }
}

impl Part {
    #[cfg(all(target_os = "linux", not(miri)))]
    fn give_back(&mut self) {
        let advice = memmap2::UncheckedAdvice::DontNeed;
        // SAFETY: the range is this part's own, as in `deref`, and the only borrow of it is this call's.
        let _advised = unsafe { self.map.unchecked_advise_range(advice, self.start, self.len_bytes) };
    }

    #[cfg(not(all(target_os = "linux", not(miri))))]
    #[expect(clippy::unused_self, reason = "the same call on every system")]
    fn give_back(&mut self) {}
}

/// Maps a range that lies inside the file, and makes every page of it present.
///
/// A page that cannot be read is an error here and not a signal later. Where the system cannot promise that (not
/// Linux, or a kernel before 5.14), the range is read into memory instead: a copy, and never a signal.
pub(super) fn map(file: &File, path: &Path, offset: u64, len_bytes: usize) -> Result<Box<dyn Mapped>> {
    #[cfg(target_os = "linux")]
    if len_bytes > 0
        && let Some(map) = linux::map(file, path, offset, len_bytes)?
    {
        return Ok(Box::new(map));
    }
    copy(file, path, offset, len_bytes)
}

/// Reads the range into a buffer of its own.
fn copy(file: &File, path: &Path, offset: u64, len_bytes: usize) -> Result<Box<dyn Mapped>> {
    let mut buffer = Buffer::new(len_bytes)?;
    transfer::read_exact(&mut buffer, offset, 1, |part, at| transfer::read_at(file, part, at))
        .map_err(|source| Error::io_at("read", path, (offset, len_bytes as u64), source))?;
    Ok(Box::new(buffer))
}

#[cfg(target_os = "linux")]
mod linux {
    use std::fs::File;
    use std::io;
    use std::path::Path;

    use memmap2::{Advice, Mmap, MmapOptions};
    use rustix::io::Errno;

    use crate::error::{Error, Result};
    use crate::storage::{Mapped, check};

    struct FileMap(Mmap);

    impl Mapped for FileMap {
        fn bytes(&self) -> &[u8] {
            &self.0
        }
    }

    /// A map with all pages present; `None` if the kernel cannot promise that.
    pub(super) fn map(
        file: &File,
        path: &Path,
        offset: u64,
        len_bytes: usize,
    ) -> Result<Option<impl Mapped + use<>>> {
        let failed = |source| Error::io_at("map", path, (offset, len_bytes as u64), source);
        // SAFETY: the bytes must not change while the map lives, and must stay readable. We rely on this:
        // - the range lies inside the file (checked by the caller), and no code of this crate ever shortens a file;
        // - the file is a regular one in the store's own directory, opened without following links;
        // - what is mapped is not written while the map lives. A reader maps the generation that it has pinned, which
        //   the writer leaves alone. The writer maps the newest bytes of a block, committed or not, as a view, which
        //   borrows the store so that no block can change. The map is read-only, so that nothing is written through it either.
        // What cannot be ruled out: a program that ignores the lock and writes (the bytes change under a `&[u8]`) or
        // shortens the file (SIGBUS at the next touch); and a page that was present, was evicted under memory
        // pressure, and can no longer be read from the medium (SIGBUS). The bytes are plain numbers under a
        // checksum, never lengths or pointers that are followed. Foreign files are therefore never mapped but read.
        let map = unsafe { MmapOptions::new().offset(offset).len(len_bytes).map(file) }.map_err(failed)?;
        match populate(&map) {
            Ok(()) => Ok(Some(FileMap(map))),
            Err(Errno::INVAL) => Ok(None),
            Err(Errno::FAULT | Errno::IO) => Err(failed(unreadable(file, offset, len_bytes))),
            Err(errno) => Err(failed(errno.into())),
        }
    }

    /// Makes all pages present; the kernel answers with an error where touching a page would raise a signal.
    fn populate(map: &Mmap) -> Result<(), Errno> {
        loop {
            let populated = map.advise(Advice::PopulateRead);
            match populated.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO)) {
                Err(Errno::INTR | Errno::AGAIN) => {}
                other => return other,
            }
        }
    }

    /// Says why a page could not be had; the kernel answers alike for a file cut short, a bad medium, and a hole
    /// that needs memory on a full `tmpfs`.
    fn unreadable(file: &File, offset: u64, len_bytes: usize) -> io::Error {
        match file.metadata() {
            Ok(metadata) if metadata.len() < offset.saturating_add(len_bytes as u64) => {
                check::past_end(metadata.len())
            }
            _ => io::Error::other(
                "a page cannot be read: the medium is bad, or the file has a hole on a full disk",
            ),
        }
    }

    #[cfg(all(test, not(miri)))]
    mod tests {
        use super::*;

        #[test]
        fn file_cut_short_between_the_check_and_the_map_is_an_error_and_no_signal() {
            let file = tempfile::tempfile().unwrap();
            file.set_len(3 * 4096).unwrap();
            file.set_len(4096).unwrap();
            let error = map(&file, Path::new("segment"), 0, 3 * 4096).err().unwrap();
            assert_eq!(
                error.to_string(),
                "cannot map segment at byte 0 (12288 bytes): the file ends at byte 4096"
            );
        }

        #[test]
        fn whole_file_is_mapped_in_place() {
            let file = tempfile::tempfile().unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, &[7; 8192], 0).unwrap();
            let map = map(&file, Path::new("segment"), 4096, 4096).unwrap().unwrap();
            assert_eq!(map.bytes(), [7; 4096]);
        }
    }
}

#[cfg(all(test, not(miri)))]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn copy_holds_the_bytes_of_the_range() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"0123456789", 4096).unwrap();
        assert_eq!(copy(&file, Path::new("segment"), 4096, 10).unwrap().bytes(), b"0123456789");
        assert!(copy(&file, Path::new("segment"), 4096, 11).is_err());
    }

    #[test]
    fn empty_range_is_an_empty_view() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(map(&file, Path::new("segment"), 0, 0).unwrap().bytes(), b"");
    }
}
