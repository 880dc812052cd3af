//! Reads by io_uring, all of them answered before the call returns.

#![expect(unsafe_code, reason = "the kernel writes into memory that is handed to it by address")]

use std::fs::File;
use std::os::fd::AsRawFd;

use io_uring::{IoUring, opcode, types};

use super::scattered::Piece;

/// Reads under way at once.
const DEPTH: u32 = 64;

/// Reads what can be read, and returns the numbers of the pieces that were not read whole; `None` where there is no
/// ring to be had, and nothing was read.
pub(super) fn read(file: &File, pieces: &mut [Piece<'_>]) -> Option<Vec<usize>> {
    let mut ring = IoUring::new(DEPTH).ok()?;
    let fd = types::Fd(file.as_raw_fd());
    let mut missed = Vec::new();
    let mut in_flight = 0_u32;
    let mut next = 0;
    while next < pieces.len() || in_flight > 0 {
        while in_flight < DEPTH
            && let Some((offset, buffer)) = pieces.get_mut(next)
        {
            let Ok(len) = u32::try_from(buffer.len()) else {
                missed.push(next);
                next += 1;
                continue;
            };
            let entry = opcode::Read::new(fd, buffer.as_mut_ptr(), len).offset(*offset).build();
            let entry = entry.user_data(next as u64);
            let mut queue = ring.submission();
            // SAFETY: the memory is borrowed from the caller for as long as this function runs, nobody else touches it
            // meanwhile, and the function does not return, nor can it unwind, before every read that was submitted has
            // been answered. The file stays open as long: it is borrowed too.
            let pushed = unsafe { queue.push(&entry) };
            if pushed.is_err() {
                break;
            }
            next += 1;
            in_flight += 1;
        }
        // An error here (interrupted, out of resources for the moment) leaves what is under way under way.
        if ring.submit_and_wait(1).is_err() {
            std::thread::yield_now();
        }
        for done in ring.completion() {
            in_flight = in_flight.saturating_sub(1);
            let at = usize::try_from(done.user_data()).unwrap_or(usize::MAX);
            let len = pieces.get(at).map_or(0, |(_, buffer)| buffer.len());
            if usize::try_from(done.result()) != Ok(len) {
                missed.push(at);
            }
        }
    }
    Some(missed)
}
