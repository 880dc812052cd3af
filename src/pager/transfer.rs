//! Jobs for the I/O queue: fill a frame, write a frame. Each owns its frame's memory and checks its own bytes.

use std::sync::Arc;

use super::births::Birth;
use super::frames::Frame;
use super::{IoPath, Key, State};
use crate::error::{Error, Result};
use crate::format::Uuid;
use crate::format::checksum::{block_crc, crc32};
use crate::format::directory::Dtype;
use crate::layout::block_elements;
use crate::storage::{Buffer, Caching, Segment};
use crate::store::{Home, Written};
use crate::units::{SlotIndex, to_u64, to_usize};

/// A finished job.
pub(super) struct Completion {
    key: Key,
    buffer: Buffer,
    outcome: Outcome,
}

enum Outcome {
    Read { bytes: u64, result: Result<(), ReadFailure> },
    Written { slot: SlotIndex, bytes: u64, result: Result<Written> },
    ScratchWritten { bytes: u64, result: Result<u32> },
}

enum ReadFailure {
    Io(Error),
    Checksum { got: u32, expected: u32 },
}

/// Where the bytes of a frame come from.
enum Source {
    Birth { birth: Birth, dtype: Dtype, elements: usize },
    File { file: Arc<dyn Segment>, offset: u64, caching: Caching, check: Check },
}

#[derive(Clone, Copy)]
enum Check {
    Block { uuid: Uuid, slot: SlotIndex, generation: u64, crc: u32 },
    Scratch { crc: u32 },
}

impl Check {
    fn verify(self, bytes: &[u8]) -> Result<(), ReadFailure> {
        let (got, expected) = match self {
            Self::Block { uuid, slot, generation, crc } => (block_crc(uuid, slot, generation, bytes), crc),
            Self::Scratch { crc } => (crc32(bytes), crc),
        };
        if got == expected { Ok(()) } else { Err(ReadFailure::Checksum { got, expected }) }
    }
}

impl State {
    /// Starts to fill a frame from disk, or with its initial values where the block was never written.
    pub(super) fn start_read(&mut self, key: Key, mut buffer: Buffer) -> Result<()> {
        let (place, source) = match self.place(key).and_then(|place| Ok((place, self.source(key)?))) {
            Ok(found) => found,
            Err(error) => {
                self.pool.put(buffer);
                return Err(error);
            }
        };
        self.stats.blocks_missed += 1;
        match &source {
            Source::Birth { .. } => self.stats.blocks_born += 1,
            Source::File { caching: Caching::Direct, .. } => self.stats.reads_direct += 1,
            Source::File { caching: Caching::Cached, .. } => self.stats.reads_cached += 1,
        }
        self.set(key, Frame::Reading { bytes: buffer.len() });
        self.queue.submit_first(move || {
            let (bytes, result) = fill_buffer(&source, &mut buffer, place.bytes, place.padded);
            Completion { key, buffer, outcome: Outcome::Read { bytes, result } }
        });
        Ok(())
    }

    fn source(&mut self, key: Key) -> Result<Source> {
        let place = self.place(key)?;
        if self.is_scratch(key) {
            let Some(&crc) = self.scratch.get(&key.block) else {
                let elements = place.bytes / 4;
                let birth = Birth::constant(0.0, elements);
                return Ok(Source::Birth { birth, dtype: Dtype::F32, elements });
            };
            return self.file_source(place.segment, Home(0), place.offset, Check::Scratch { crc });
        }
        let entry = self.store.block_entry(place.slot)?;
        if entry.generation == 0 {
            return Ok(self.birth(key));
        }
        let uuid = self.store.uuid();
        let check = Check::Block { uuid, slot: place.slot, generation: entry.generation, crc: entry.crc };
        self.file_source(place.segment, Home(entry.home), place.offset, check)
    }

    /// The initial values of a block's plane.
    fn birth(&self, key: Key) -> Source {
        let index = self.directory.extents.partition_point(|e| e.first_block <= key.block.0) - 1;
        let extent = self.directory.extents.get(index);
        let elements = to_usize(extent.and_then(|e| block_elements(e, key.block)).unwrap_or(0));
        let copy = extent.and_then(|extent| self.directory.copy_plane(extent));
        let birth = if key.plane == 0 || copy == Some(key.plane) {
            self.births.of_block(&self.directory, index, key.block)
        } else {
            let fill = extent.and_then(|e| e.planes.get(key.plane));
            Birth::constant(fill.map_or(0.0, |plane| plane.fill), elements)
        };
        Source::Birth { birth, dtype: extent.map_or(Dtype::F32, |e| e.dtype(key.plane)), elements }
    }

    fn file_source(&mut self, segment: usize, home: Home, offset: u64, check: Check) -> Result<Source> {
        let mut caching = match self.path {
            IoPath::Mapped => Caching::Cached,
            IoPath::Direct | IoPath::Auto => Caching::Direct,
        };
        let mut file = self.store.segment(segment, home, caching)?;
        if self.path == IoPath::Auto && !file.is_direct() {
            caching = Caching::Cached;
            file = self.store.segment(segment, home, caching)?;
            self.is_cached = true;
        }
        Ok(Source::File { file, offset, caching, check })
    }

    /// Starts to write a changed frame into its home of the working generation; `keep` says whether it stays near.
    pub(super) fn write_out(&mut self, key: Key, keep: bool) -> Result<()> {
        let place = self.place(key)?;
        let scratch = self.is_scratch(key);
        let home = if scratch { Home(0) } else { self.store.write_home(place.slot)? };
        let caching = Caching::Direct;
        let file = self.store.segment(place.segment, home, caching)?;
        let (uuid, generation) = (self.store.uuid(), self.store.working_generation());
        let Some(Frame::Ready { mut buffer, .. }) = self.frames.remove(key) else {
            return Err(Error::invalid("frame to write", format!("{key:?}"), "one that nobody has"));
        };
        self.set(key, Frame::Writing { bytes: buffer.len(), keep });
        self.writes += 1;
        self.queue.submit(move || {
            if let Some(tail) = buffer.get_mut(place.bytes..place.padded) {
                tail.fill(0);
            }
            let crc = match buffer.get(..place.bytes) {
                Some(bytes) if scratch => crc32(bytes),
                bytes => block_crc(uuid, place.slot, generation, bytes.unwrap_or_default()),
            };
            let result = file.write_at(buffer.get(..place.padded).unwrap_or_default(), place.offset);
            let bytes = to_u64(place.padded);
            let outcome = if scratch {
                Outcome::ScratchWritten { bytes, result: result.map(|()| crc) }
            } else {
                let written = Written { segment: place.segment, home, caching, crc };
                Outcome::Written { slot: place.slot, bytes, result: result.map(|()| written) }
            };
            Completion { key, buffer, outcome }
        });
        Ok(())
    }

    /// Lets a frame go: at once if it is clean, after its write if not.
    pub(super) fn evict(&mut self, key: Key) -> Result<()> {
        if let Some(Frame::Ready { dirty: true, .. }) = self.frames.get(key) {
            return self.write_out(key, false);
        }
        if let Some(ready) = self.frames.take_ready(key) {
            self.pool.put(ready.buffer);
        }
        Ok(())
    }

    /// Takes in a finished job.
    pub(super) fn take_in(&mut self, completion: Completion) -> Result<()> {
        let Completion { key, buffer, outcome } = completion;
        match outcome {
            Outcome::Read { bytes, result: Ok(()) } => {
                self.stats.bytes_read += bytes;
                self.set(key, Frame::Ready { buffer, dirty: false, used: false });
                Ok(())
            }
            Outcome::Read { result: Err(failure), .. } => {
                self.frames.remove(key);
                self.pool.put(buffer);
                // Told to whoever leases the block; a block that was only read ahead may never be needed.
                let error = self.read_error(key, failure)?;
                self.failed.insert(key, error);
                Ok(())
            }
            Outcome::Written { slot, bytes, result } => {
                self.writes -= 1;
                self.stats.bytes_written += bytes;
                self.after_write(key, buffer);
                let result = result.and_then(|written| self.store.note_written(slot, written));
                result.inspect_err(|error| self.store.poison(error))
            }
            Outcome::ScratchWritten { bytes, result } => {
                self.writes -= 1;
                self.stats.bytes_written += bytes;
                self.after_write(key, buffer);
                let crc = result.inspect_err(|error| self.store.poison(error))?;
                self.scratch.insert(key.block, crc);
                Ok(())
            }
        }
    }

    fn after_write(&mut self, key: Key, buffer: Buffer) {
        if let Some(Frame::Writing { keep: true, .. }) = self.frames.get(key) {
            self.set(key, Frame::Ready { buffer, dirty: false, used: true });
        } else {
            self.frames.remove(key);
            self.pool.put(buffer);
        }
    }

    fn read_error(&mut self, key: Key, failure: ReadFailure) -> Result<Error> {
        let (got, expected) = match failure {
            ReadFailure::Io(error) => return Ok(error),
            ReadFailure::Checksum { got, expected } => (got, expected),
        };
        let place = self.place(key)?;
        let home =
            if self.is_scratch(key) { Home(0) } else { Home(self.store.block_entry(place.slot)?.home) };
        let path = self.store.segment(place.segment, home, Caching::Cached)?.path().to_owned();
        let what = crate::layout::describe_block(&self.directory, key.block, key.plane);
        let (got, expected) = (format!("checksum {got:08x}"), format!("{expected:08x}"));
        Ok(Error::damaged(path, what, (place.offset, to_u64(place.bytes)), got, expected))
    }
}

/// Fills a buffer from its source; returns the bytes that came from disk.
fn fill_buffer(
    source: &Source,
    buffer: &mut Buffer,
    bytes: usize,
    padded: usize,
) -> (u64, Result<(), ReadFailure>) {
    let Source::File { file, offset, caching, check } = source else {
        if let Source::Birth { birth, dtype, elements } = source {
            birth.fill(*dtype, *elements, buffer.get_mut(..bytes).unwrap_or_default());
        }
        return (0, Ok(()));
    };
    let result = match caching {
        Caching::Direct => {
            file.read_at(buffer.get_mut(..padded).unwrap_or_default(), *offset).map_err(ReadFailure::Io)
        }
        Caching::Cached => {
            let result = file.read_at(buffer.get_mut(..bytes).unwrap_or_default(), *offset);
            // The page cache keeps nothing of it: a limit of memory may count it, and then blocks drive each other out.
            file.forget(*offset, to_u64(padded));
            result.map_err(ReadFailure::Io)
        }
    };
    let result = result.and_then(|()| check.verify(buffer.get(..bytes).unwrap_or_default()));
    (to_u64(padded), result)
}
