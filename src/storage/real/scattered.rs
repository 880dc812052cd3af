//! Many small reads of one file at a time: by io_uring where the kernel lets us, by a few threads elsewhere.
//!
//! The ring only ever reads. Whatever it did not do whole, for any reason, is done once more by an ordinary read, which
//! also says what is wrong.

use std::fs::File;
use std::sync::Mutex;

use crate::error::Result;

/// A piece of a file, and the memory for it.
pub(super) type Piece<'a> = (u64, &'a mut [u8]);

/// Fewer pieces than this are read one after the other.
const FEW: usize = 4;
/// Reads at once by threads.
const THREADS: usize = 16;

/// Reads pieces of a file; `read` is the ordinary read of one of them.
pub(super) fn read(
    file: &File,
    pieces: &mut [Piece<'_>],
    read: impl Fn(&mut [u8], u64) -> Result<()> + Sync,
) -> Result<()> {
    if pieces.len() < FEW {
        return pieces.iter_mut().try_for_each(|(offset, buffer)| read(buffer, *offset));
    }
    #[cfg(target_os = "linux")]
    if let Some(missed) = super::ring::read(file, pieces) {
        let missed = missed.into_iter().filter_map(|at| Some((at, pieces.get(at)?.0)));
        for (at, offset) in missed.collect::<Vec<_>>() {
            if let Some((_, buffer)) = pieces.get_mut(at) {
                read(buffer, offset)?;
            }
        }
        return Ok(());
    }
    let _ = file;
    by_threads(pieces, read)
}

fn by_threads(pieces: &mut [Piece<'_>], read: impl Fn(&mut [u8], u64) -> Result<()> + Sync) -> Result<()> {
    let left = Mutex::new(pieces.iter_mut());
    let work = || loop {
        // The lock is given back before the read.
        let next = left.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next();
        let Some((offset, buffer)) = next else { return Ok(()) };
        read(buffer, *offset)?;
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (1..THREADS).map(|_| scope.spawn(work)).collect();
        let own = work();
        threads.into_iter().fold(own, |result, thread| result.and(thread.join().unwrap_or(Ok(()))))
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn file() -> File {
        let file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..1_000_000_u32).map(|i| i.to_le_bytes()[(i % 3) as usize]).collect();
        file.write_all_at(&bytes, 0).unwrap();
        file
    }

    fn check(run: impl FnOnce(&mut [Piece<'_>])) {
        let file = file();
        let mut memory = vec![0_u8; 300 * 700];
        let offset = |at: usize| (at as u64 * 7919) % 999_000;
        let mut pieces: Vec<Piece<'_>> =
            memory.chunks_mut(700).enumerate().map(|(at, piece)| (offset(at), piece)).collect();
        run(&mut pieces);
        for (offset, piece) in pieces {
            let mut expected = vec![0; piece.len()];
            file.read_exact_at(&mut expected, offset).unwrap();
            assert_eq!(piece, expected);
        }
    }

    #[test]
    fn every_piece_is_read_by_whatever_way() {
        let file = file();
        let ordinary = |buffer: &mut [u8], offset| {
            file.read_exact_at(buffer, offset).map_err(|e| crate::error::Error::io("read", "file", e))
        };
        check(|pieces| read(&file, pieces, ordinary).unwrap());
        check(|pieces| by_threads(pieces, ordinary).unwrap());
        check(|pieces| {
            pieces.chunks_mut(2).for_each(|few| read(&file, few, ordinary).unwrap());
        });
    }

    #[test]
    fn what_the_ring_does_not_read_whole_is_read_once_more_and_its_error_told() {
        let file = file();
        let mut memory = vec![0_u8; 8 * 100];
        let mut pieces: Vec<Piece<'_>> =
            memory.chunks_mut(100).enumerate().map(|(at, piece)| (999_650 + 50 * at as u64, piece)).collect();
        let asked = AtomicUsize::new(0);
        let error = read(&file, &mut pieces, |buffer, offset| {
            asked.fetch_add(1, Ordering::Relaxed);
            file.read_exact_at(buffer, offset).map_err(|e| crate::error::Error::io("read", "file", e))
        });
        assert!(error.is_err() && asked.load(Ordering::Relaxed) >= 1);
    }
}
