//! The loops that make a whole transfer out of what the system does at once.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::io::Errno;

/// Linux moves a little less than 2 GiB per call; a round number below keeps direct transfers aligned.
const CALL_BYTES_MAX: usize = 1 << 30;

/// Fills the buffer from `offset` on, by as many calls as it takes.
///
/// `granule_bytes` is what offsets have to be multiples of: after a short transfer, the next one begins at the last
/// such place.
///
/// # Errors
/// `UnexpectedEof` where the file ends before the buffer does; otherwise what `read` said.
pub(in crate::storage) fn read_exact(
    buffer: &mut [u8],
    offset: u64,
    granule_bytes: usize,
    mut read: impl FnMut(&mut [u8], u64) -> io::Result<usize>,
) -> io::Result<()> {
    let len_bytes = buffer.len();
    let mut done = 0;
    while done < len_bytes {
        let end = len_bytes.min(done.saturating_add(CALL_BYTES_MAX));
        let moved = retry_interrupted(|| read(&mut buffer[done..end], offset + done as u64))?;
        let progress = whole(moved, granule_bytes, done + moved == len_bytes);
        if progress == 0 {
            let end = offset + (done + moved) as u64;
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("the file has become shorter, it has no byte {end}"),
            ));
        }
        done += progress;
    }
    Ok(())
}

/// Writes the buffer from `offset` on, by as many calls as it takes; `granule_bytes` as for [`read_exact`].
///
/// # Errors
/// `WriteZero` where the file system takes nothing more and does not say why; otherwise what `write` said.
pub(super) fn write_exact(
    buffer: &[u8],
    offset: u64,
    granule_bytes: usize,
    mut write: impl FnMut(&[u8], u64) -> io::Result<usize>,
) -> io::Result<()> {
    let len_bytes = buffer.len();
    let mut done = 0;
    while done < len_bytes {
        let end = len_bytes.min(done.saturating_add(CALL_BYTES_MAX));
        let moved = retry_interrupted(|| write(&buffer[done..end], offset + done as u64))?;
        let progress = whole(moved, granule_bytes, done + moved == len_bytes);
        if progress == 0 {
            return Err(io::Error::new(
                io::ErrorKind::WriteZero,
                format!("the file system took only {} of {len_bytes} bytes", done + moved),
            ));
        }
        done += progress;
    }
    Ok(())
}

/// The part of a short transfer that the next one can begin behind.
fn whole(moved: usize, granule_bytes: usize, is_last: bool) -> usize {
    if is_last { moved } else { moved - moved % granule_bytes }
}

fn retry_interrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// One positioned read.
pub(in crate::storage) fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    file.read_at(buffer, offset)
}

/// Whether the system said "invalid argument", its answer to a direct transfer that it cannot do.
pub(super) fn is_invalid(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::INVAL.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of `len` bytes whose calls are answered by a script: an error, or at most so many bytes.
    fn scripted<'a>(
        len: usize,
        script: &'a [Result<usize, io::ErrorKind>],
        asked: &'a mut Vec<(u64, usize)>,
    ) -> impl FnMut(usize, u64) -> io::Result<usize> + 'a {
        let mut steps = script.iter();
        move |wanted, offset| {
            asked.push((offset, wanted));
            let left = len.saturating_sub(usize::try_from(offset).unwrap());
            match steps.next() {
                Some(&Err(kind)) => Err(kind.into()),
                Some(&Ok(at_most)) => Ok(wanted.min(left).min(at_most)),
                None => Ok(wanted.min(left)),
            }
        }
    }

    #[test]
    fn short_and_interrupted_reads_go_on_where_they_stopped() {
        let mut asked = Vec::new();
        let script = [Err(io::ErrorKind::Interrupted), Ok(3), Ok(1)];
        let mut call = scripted(100, &script, &mut asked);
        let mut buffer = [0; 10];
        read_exact(&mut buffer, 20, 1, |part, at| {
            let moved = call(part.len(), at)?;
            for (byte, position) in part[..moved].iter_mut().zip(at..) {
                *byte = u8::try_from(position).unwrap();
            }
            Ok(moved)
        })
        .unwrap();
        drop(call);
        assert_eq!(buffer, [20, 21, 22, 23, 24, 25, 26, 27, 28, 29]);
        assert_eq!(asked, [(20, 10), (20, 10), (23, 7), (24, 6)]);
    }

    #[test]
    fn short_and_interrupted_writes_go_on_where_they_stopped() {
        let mut asked = Vec::new();
        let script = [Ok(4), Err(io::ErrorKind::Interrupted), Ok(5)];
        let mut call = scripted(100, &script, &mut asked);
        let mut written = Vec::new();
        write_exact(b"0123456789", 20, 1, |part, at| {
            let moved = call(part.len(), at)?;
            written.extend_from_slice(&part[..moved]);
            Ok(moved)
        })
        .unwrap();
        drop(call);
        assert_eq!(written, b"0123456789");
        assert_eq!(asked, [(20, 10), (24, 6), (24, 6), (29, 1)]);
    }

    #[test]
    fn short_direct_transfer_goes_on_at_the_last_whole_sector() {
        let mut asked = Vec::new();
        let script = [Ok(5000)];
        let mut call = scripted(20_000, &script, &mut asked);
        write_exact(&[0; 12_288], 4096, 4096, |part, at| call(part.len(), at)).unwrap();
        drop(call);
        assert_eq!(asked, [(4096, 12_288), (8192, 8192)]);
    }

    #[test]
    fn read_past_the_end_names_the_first_missing_byte() {
        for granule_bytes in [1, 4096] {
            let mut asked = Vec::new();
            let mut call = scripted(5000, &[], &mut asked);
            let error = read_exact(&mut [0; 8192], 0, granule_bytes, |part, at| call(part.len(), at));
            let error = error.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
            assert_eq!(error.to_string(), "the file has become shorter, it has no byte 5000");
        }
    }

    #[test]
    fn write_that_makes_no_progress_is_an_error_and_no_endless_loop() {
        let error = write_exact(&[0; 8192], 0, 4096, |_, _| Ok(100)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WriteZero);
        assert_eq!(error.to_string(), "the file system took only 100 of 8192 bytes");
    }

    #[test]
    fn error_of_the_system_is_passed_on() {
        let error = read_exact(&mut [0; 8], 0, 1, |_, _| Err(io::ErrorKind::PermissionDenied.into()));
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        let error = write_exact(&[0; 8], 0, 1, |_, _| Err(io::ErrorKind::StorageFull.into()));
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
