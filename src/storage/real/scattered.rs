//! Many small reads of one file at a time: by io_uring where the kernel lets us, by a few threads elsewhere.
//!
//! The ring only ever reads. Whatever it did not do whole, for any reason, is done once more by an ordinary read, which
//! also says what is wrong.

use std::fs::File;
use std::sync::{Mutex, PoisonError};

use crate::error::Result;

/// Fewer pieces than this are read one after the other.
const FEW: usize = 4;
/// Reads at once.
pub(super) const DEPTH: usize = 64;
/// Reads at once by threads.
const THREADS: usize = 16;

/// Where pieces are read into: places of the same size, one for each read under way.
fn place_bytes(pieces: &[(u64, usize)]) -> usize {
    let longest = pieces.iter().map(|&(_, len)| len).max().unwrap_or(0);
    longest.next_multiple_of(4096).max(4096)
}

/// Reads pieces of a file into `memory` and shows each to `take`; `read` is the ordinary read of one of them.
pub(super) fn read(
    file: &File,
    pieces: &[(u64, usize)],
    memory: &mut [u8],
    take: &mut dyn FnMut(usize, &[u8]),
    read: impl Fn(&mut [u8], u64) -> Result<()> + Sync,
) -> Result<()> {
    let place = place_bytes(pieces);
    if pieces.len() < FEW || memory.len() < 2 * place {
        return one_by_one(pieces, 0..pieces.len(), memory, take, &read);
    }
    #[cfg(target_os = "linux")]
    if let Some(missed) = super::ring::read(file, pieces, memory, place, take) {
        return one_by_one(pieces, missed.into_iter(), memory, take, &read);
    }
    let _ = file;
    by_threads(pieces, memory, place, take, read)
}

fn one_by_one(
    pieces: &[(u64, usize)],
    numbers: impl Iterator<Item = usize>,
    memory: &mut [u8],
    take: &mut dyn FnMut(usize, &[u8]),
    read: &impl Fn(&mut [u8], u64) -> Result<()>,
) -> Result<()> {
    for number in numbers {
        let Some(&(offset, len)) = pieces.get(number) else { continue };
        let piece = memory.get_mut(..len).unwrap_or_default();
        read(piece, offset)?;
        take(number, piece);
    }
    Ok(())
}

/// Fills all places, then shows them, again and again.
fn by_threads(
    pieces: &[(u64, usize)],
    memory: &mut [u8],
    place: usize,
    take: &mut dyn FnMut(usize, &[u8]),
    read: impl Fn(&mut [u8], u64) -> Result<()> + Sync,
) -> Result<()> {
    let mut done = 0;
    for round in pieces.chunks(memory.len() / place) {
        let left = Mutex::new(round.iter().zip(memory.chunks_exact_mut(place)));
        let work = || loop {
            // The lock is given back before the read.
            let next = left.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((&(offset, len), place)) = next else { return Ok(()) };
            read(place.get_mut(..len).unwrap_or_default(), offset)?;
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (1..THREADS.min(round.len())).map(|_| scope.spawn(work)).collect();
            let own = work();
            threads.into_iter().fold(own, |result, thread| result.and(thread.join().unwrap_or(Ok(()))))
        })?;
        for (&(_, len), place) in round.iter().zip(memory.chunks_exact(place)) {
            take(done, place.get(..len).unwrap_or_default());
            done += 1;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::error::Error;

    fn file() -> File {
        let file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..1_000_000_u32).map(|i| (i * 31 / 7).to_le_bytes()[0]).collect();
        file.write_all_at(&bytes, 0).unwrap();
        file
    }

    fn ordinary(file: &File) -> impl Fn(&mut [u8], u64) -> Result<()> + '_ {
        move |buffer, offset| file.read_exact_at(buffer, offset).map_err(|e| Error::io("read", "file", e))
    }

    /// Shows that a way of reading shows every piece once, with its bytes.
    fn check(run: impl FnOnce(&File, &[(u64, usize)], &mut [u8], &mut dyn FnMut(usize, &[u8]))) {
        let file = file();
        let piece = |at: usize| ((at as u64 * 7919) % 990_000, 1 + at * 13 % 5000);
        let pieces: Vec<_> = (0..300).map(piece).collect();
        let mut seen = vec![0; pieces.len()];
        let mut memory = vec![0; 40 * 8192];
        run(&file, &pieces, &mut memory, &mut |number, bytes| {
            let (offset, len) = pieces[number];
            let mut expected = vec![0; len];
            file.read_exact_at(&mut expected, offset).unwrap();
            assert_eq!(bytes, expected);
            seen[number] += 1;
        });
        assert!(seen.iter().all(|&times| times == 1));
    }

    #[test]
    fn every_piece_is_shown_once_by_whatever_way() {
        check(|file, pieces, memory, take| read(file, pieces, memory, take, ordinary(file)).unwrap());
        check(|file, pieces, memory, take| {
            by_threads(pieces, memory, 8192, take, ordinary(file)).unwrap();
        });
        // Memory for one piece alone.
        check(|file, pieces, memory, take| {
            read(file, pieces, &mut memory[..8192], take, ordinary(file)).unwrap();
        });
    }

    #[test]
    fn what_the_ring_does_not_read_whole_is_read_once_more_and_its_error_told() {
        let file = file();
        let pieces: Vec<_> = (0..8).map(|at| (999_650 + 50 * at, 100)).collect();
        let asked = AtomicUsize::new(0);
        let mut seen = 0;
        let result = read(&file, &pieces, &mut vec![0; 1 << 16], &mut |_, _| seen += 1, |buffer, offset| {
            asked.fetch_add(1, Ordering::Relaxed);
            ordinary(&file)(buffer, offset)
        });
        assert!(result.is_err() && asked.load(Ordering::Relaxed) >= 1 && seen < 8);
    }
}
