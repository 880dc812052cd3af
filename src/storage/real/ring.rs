//! Reads by io_uring, all of them answered before the call returns.

#![expect(unsafe_code, reason = "the kernel writes into memory that is handed to it by address")]

use std::fs::File;
use std::os::fd::AsRawFd;

use io_uring::{IoUring, opcode, types};

use super::scattered::DEPTH;

/// Reads pieces into places of `memory`, and shows each that was read whole to `take`. Returns the numbers of the others;
/// `None` where there is no ring to be had, and nothing was read.
pub(super) fn read(
    file: &File,
    pieces: &[(u64, usize)],
    memory: &mut [u8],
    place: usize,
    take: &mut dyn FnMut(usize, &[u8]),
) -> Option<Vec<usize>> {
    let depth = DEPTH.min(memory.len() / place).min(pieces.len());
    let mut ring = IoUring::new(u32::try_from(depth).ok()?).ok()?;
    let fd = types::Fd(file.as_raw_fd());
    let mut free: Vec<usize> = (0..depth).collect();
    // By place: the piece that is read into it.
    let mut reading = vec![0; depth];
    let mut missed = Vec::new();
    let mut ended = Vec::with_capacity(depth);
    let mut next = 0;
    while next < pieces.len() || free.len() < depth {
        while let (Some(&(offset, len)), Some(&at)) = (pieces.get(next), free.last()) {
            let buffer = memory.get_mut(at * place..at * place + len).unwrap_or_default();
            let entry = opcode::Read::new(fd, buffer.as_mut_ptr(), u32::try_from(buffer.len()).unwrap_or(0));
            let entry = entry.offset(offset).build().user_data(at as u64);
            let mut queue = ring.submission();
            // SAFETY: the place is part of memory that is borrowed from the caller for as long as this function runs. It is
            // no longer in `free`, so that nothing reads or writes it before the kernel has answered; and the function
            // does not return before every read that was submitted has been answered, nor unwind: what it calls while
            // reads are under way is `take`, which a guard keeps from unwinding. The file is borrowed as long.
            let pushed = unsafe { queue.push(&entry) };
            if pushed.is_err() {
                break;
            }
            free.pop();
            if let Some(piece) = reading.get_mut(at) {
                *piece = next;
            }
            next += 1;
        }
        // An error here (interrupted, out of resources for the moment) leaves what is under way under way.
        if ring.submit_and_wait(1).is_err() {
            std::thread::yield_now();
        }
        ended.extend(ring.completion().map(|done| (done.user_data(), done.result())));
        let guard = NoUnwinding;
        for (at, result) in ended.drain(..) {
            let at = usize::try_from(at).unwrap_or(0);
            let number = reading.get(at).copied().unwrap_or(0);
            let len = pieces.get(number).map_or(0, |&(_, len)| len);
            if usize::try_from(result) == Ok(len) {
                take(number, memory.get(at * place..at * place + len).unwrap_or_default());
            } else {
                missed.push(number);
            }
            free.push(at);
        }
        std::mem::forget(guard);
    }
    Some(missed)
}

/// Ends the process if it is dropped: by a panic, while the kernel may still write into memory that would be given back.
struct NoUnwinding;

impl Drop for NoUnwinding {
    fn drop(&mut self) {
        std::process::abort();
    }
}
