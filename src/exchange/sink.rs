//! A new file, written from front to end under a name of its own, that appears whole or not at all.

use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::storage::{
    Barrier, Buffer, Caching, Queue, RealVolume, SECTOR_BYTES, Segment, Unfinished, Volume,
};
use crate::units::{to_u64, to_usize};

/// Bytes that are written at once where there is memory for it.
const PART_BYTES_MAX: u64 = 4 << 20;

/// Parts that are written at a time.
const DEPTH: u64 = 4;

/// Finished files without a name that are kept open; more get the names of parts.
const OPEN_MAX: usize = 64;

const FILE_WHOLE: Barrier = Barrier("export: the file's bytes");
const FILE_NAMED: Barrier = Barrier("export: the file's name");
const INDEX_GONE: Barrier = Barrier("export: the old index's end");

/// A directory that takes files, and the threads and buffers that write them.
pub(super) struct Target {
    volume: RealVolume,
    queue: Queue<(Buffer, Result<()>)>,
    spare: Vec<Buffer>,
    part_bytes: usize,
}

impl Target {
    /// Takes a directory, and removes what killed exports left of files whose names `is_ours` knows; buffers are of so many
    /// bytes in all.
    pub(super) fn new(volume: RealVolume, memory_bytes: u64, is_ours: impl Fn(&str) -> bool) -> Result<Self> {
        volume.clear_parts(is_ours)?;
        let share = memory_bytes / (DEPTH + 1);
        let part_bytes = to_usize((share - share % SECTOR_BYTES).clamp(SECTOR_BYTES, PART_BYTES_MAX));
        let spare = (0..=DEPTH).map(|_| Buffer::new(part_bytes)).collect::<Result<_>>()?;
        Ok(Self { volume, queue: Queue::new(to_usize(DEPTH))?, spare, part_bytes })
    }

    pub(super) fn path(&self) -> &Path {
        self.volume.path()
    }

    pub(super) fn names(&self) -> Result<Vec<String>> {
        self.volume.list()
    }

    /// Removes a file, for good when this returns.
    pub(super) fn remove(&self, name: &str) -> Result<()> {
        self.volume.remove(name)?;
        self.volume.sync_dir(INDEX_GONE)
    }

    /// Begins a file of this length.
    pub(super) fn begin(&mut self, name: &str, len_bytes: u64) -> Result<Sink<'_>> {
        let file = self.volume.begin_file(name, len_bytes)?;
        let buffer = self.spare.pop().map_or_else(|| Buffer::new(self.part_bytes), Ok)?;
        let mut sink = Sink {
            target: self,
            name: name.to_owned(),
            file: None,
            direct: None,
            cached: None,
            buffer: Some(buffer),
            filled: 0,
            at: 0,
        };
        let file = sink.file.insert(file);
        sink.direct = Some(sink.target.volume.open_unfinished(file, Caching::Direct)?);
        sink.cached = Some(sink.target.volume.open_unfinished(file, Caching::Cached)?);
        Ok(sink)
    }

    /// Gives finished files the names that they are to have, in this order, for good when this returns. What has a name
    /// already is replaced, or in the way.
    pub(super) fn publish(&self, files: Vec<Finished>, replace: bool) -> Result<()> {
        for Finished { file, .. } in files {
            self.volume.publish(file, replace)?;
        }
        self.volume.sync_dir(FILE_NAMED)
    }

    /// Removes what was finished and will not be published.
    pub(super) fn discard(&self, files: &[Finished]) {
        for Finished { file, .. } in files {
            self.volume.discard(file);
        }
    }

    /// Closes what would be more open files than a process should take for itself.
    pub(super) fn close(&self, files: &mut [Finished]) -> Result<()> {
        files
            .iter_mut()
            .skip(OPEN_MAX)
            .try_for_each(|Finished { file, .. }| self.volume.close_unfinished(file))
    }
}

/// A file that is whole and durable, and has not its name yet.
pub(super) struct Finished {
    file: Unfinished,
    pub(super) name: String,
}

/// A file on its way. Dropped before it is finished, it is removed.
pub(super) struct Sink<'t> {
    target: &'t mut Target,
    name: String,
    file: Option<Unfinished>,
    direct: Option<Arc<dyn Segment>>,
    cached: Option<Arc<dyn Segment>>,
    buffer: Option<Buffer>,
    filled: usize,
    at: u64,
}

impl Sink<'_> {
    /// Appends bytes.
    pub(super) fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let Some(buffer) = self.buffer.as_mut() else { return Err(self.gone()) };
            let room = buffer.get_mut(self.filled..).unwrap_or_default();
            let (now, later) = bytes.split_at(room.len().min(bytes.len()));
            if let Some(room) = room.get_mut(..now.len()) {
                room.copy_from_slice(now);
            }
            self.filled += now.len();
            bytes = later;
            if self.filled == self.target.part_bytes {
                self.submit()?;
            }
        }
        Ok(())
    }

    fn gone(&self) -> Error {
        Error::invalid(format!("export {}", self.name), "a write after a failure", "none")
    }

    /// Sends a full buffer on its way and takes another, of a write that has ended.
    fn submit(&mut self) -> Result<()> {
        if let (Some(buffer), Some(direct)) = (self.buffer.take(), &self.direct) {
            let (direct, at) = (Arc::clone(direct), self.at);
            self.at += to_u64(buffer.len());
            self.filled = 0;
            self.target.queue.submit(move || {
                let result = direct.write_at(&buffer, at);
                (buffer, result)
            });
        }
        self.buffer = match self.target.spare.pop() {
            Some(buffer) => Some(buffer),
            None => self.wait()?,
        };
        Ok(())
    }

    fn wait(&mut self) -> Result<Option<Buffer>> {
        let Some((buffer, result)) = self.target.queue.recv() else { return Ok(None) };
        result.map(|()| Some(buffer))
    }

    /// Writes what is left and makes the file durable, without its name.
    pub(super) fn finish(mut self) -> Result<Finished> {
        let whole = self.filled - self.filled % to_usize(SECTOR_BYTES);
        if let (Some(buffer), Some(direct), Some(cached)) = (&self.buffer, &self.direct, &self.cached) {
            direct.write_at(buffer.get(..whole).unwrap_or_default(), self.at)?;
            let rest = buffer.get(whole..self.filled).unwrap_or_default();
            cached.write_at(rest, self.at + to_u64(whole))?;
        }
        while let Some(buffer) = self.wait()? {
            self.target.spare.push(buffer);
        }
        if let Some(cached) = &self.cached {
            cached.sync(FILE_WHOLE)?;
        }
        let file = self.file.take().ok_or_else(|| self.gone())?;
        Ok(Finished { file, name: std::mem::take(&mut self.name) })
    }
}

impl Drop for Sink<'_> {
    fn drop(&mut self) {
        // Writes that still run own their buffers; the next file must not meet them.
        while let Some((buffer, _)) = self.target.queue.recv() {
            self.target.spare.push(buffer);
        }
        self.target.spare.extend(self.buffer.take());
        if let Some(file) = &self.file {
            self.target.volume.discard(file);
        }
    }
}
