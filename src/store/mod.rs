//! THE OBJECT. Bytes, files and places become the blocks of a store with a committed and a working generation.

pub(crate) mod barriers;
mod commit;
mod create;
mod drop;
mod keep;
mod open;
mod pins;
mod segments;
mod table;
mod walk;

use std::collections::{BTreeSet, HashSet};
use std::path::Path;
use std::sync::Arc;

pub(crate) use commit::Committed;
pub(crate) use create::{Creation, create, first_superblock};
pub(crate) use keep::{BackCost, Checkpoint, CheckpointState, Work, checkpoints, open_checkpoint, prune};
pub use open::Generation;
pub(crate) use open::{Found, SlotState};
pub(crate) use pins::PinWait;
pub(crate) use segments::Home;
pub(crate) use walk::{Visit, Walk, entries_of_leaf};

use crate::error::{Error, Result};
use crate::format::FormatError;
use crate::format::directory::Directory;
use crate::format::page::{BlockEntry, TensorEntry};
use crate::format::progress::Progress;
use crate::format::record::Record;
use crate::format::superblock::Superblock;
use crate::format::{Uuid, checksum};
use crate::layout::block_of_slot;
use crate::storage::{Access, Caching, Lock, Segment, Volume};
use crate::units::SlotIndex;

/// An open store: the committed generation on disk, and what has been written since.
pub(crate) struct BlockStore {
    volume: Arc<dyn Volume>,
    directory: Arc<Directory>,
    meta: Arc<dyn Segment>,
    segments: segments::Segments,
    table: table::Table,
    committed: Superblock,
    committed_crc: u32,
    record: Record,
    found: Found,
    access: Holder,
    progress: Option<Arc<dyn Segment>>,
    /// Homes of segments written since the last commit: what it has to make durable.
    written: BTreeSet<(usize, u8, Caching)>,
    poison: Option<String>,
}

/// By what right the store is open.
enum Holder {
    /// Reads the generation that the lock pins.
    Reader { _pin: Box<dyn Lock> },
    /// The only writer. `reuse` is held while homes of the generation before the committed one may be overwritten.
    Writer { _lock: Box<dyn Lock>, reuse: Option<Box<dyn Lock>>, wait: PinWait },
}

impl BlockStore {
    pub(crate) fn path(&self) -> &Path {
        self.volume.path()
    }

    pub(crate) fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }

    pub(crate) fn superblock(&self) -> &Superblock {
        &self.committed
    }

    /// Groups and user record of the committed generation.
    pub(crate) fn record(&self) -> &Record {
        &self.record
    }

    /// What `open` found.
    pub(crate) fn found(&self) -> &Found {
        &self.found
    }

    pub(crate) fn uuid(&self) -> Uuid {
        self.committed.uuid
    }

    /// The generation that is being written, one after the committed one.
    pub(crate) fn working_generation(&self) -> u64 {
        self.committed.generation + 1
    }

    pub(crate) fn is_writer(&self) -> bool {
        matches!(self.access, Holder::Writer { .. })
    }

    /// Remembers a failure after which the disk's content is unknown to this handle.
    pub(crate) fn poison(&mut self, cause: &Error) {
        self.poison.get_or_insert_with(|| cause.to_string());
    }

    /// Refuses to go on after a failure.
    pub(crate) fn check_sound(&self) -> Result<()> {
        match &self.poison {
            Some(cause) => Err(Error::Poisoned { cause: cause.clone() }),
            None => Ok(()),
        }
    }

    /// Refuses to change a store that is open for reading, or after a failure.
    pub(crate) fn check_writable(&self, action: &'static str) -> Result<()> {
        if !self.is_writer() {
            return Err(Error::ReadOnly { action });
        }
        self.check_sound()
    }

    pub(crate) fn block_entry(&mut self, slot: SlotIndex) -> Result<BlockEntry> {
        self.table.block(&self.meta, slot)
    }

    /// If this entry and those behind it up to some slot were never written, and that is known without reading them:
    /// that slot.
    pub(crate) fn absent_until(&mut self, slot: SlotIndex) -> Result<Option<SlotIndex>> {
        self.table.absent_until(&self.meta, slot)
    }

    pub(crate) fn tensor_entry(&mut self, tensor: usize) -> Result<TensorEntry> {
        self.table.tensor(&self.meta, SlotIndex(crate::units::to_u64(tensor)))
    }

    /// Sets a tensor's clock in the working generation.
    pub(crate) fn set_tensor_entry(&mut self, tensor: usize, entry: TensorEntry) -> Result<()> {
        self.table.set_tensor(&self.meta, SlotIndex(crate::units::to_u64(tensor)), entry)
    }

    /// The home to which a block's plane goes in the working generation; what a durable superblock names is never
    /// overwritten. Waits for readers of the generation whose homes are taken over.
    pub(crate) fn write_home(&mut self, slot: SlotIndex) -> Result<Home> {
        self.check_writable("write a block")?;
        self.take_over_homes()?;
        let entry = self.block_entry(slot)?;
        Ok(if entry.generation == 0 {
            Home(0)
        } else if entry.generation == self.working_generation() {
            Home(entry.home)
        } else if self.homes_of(slot) == 1 {
            let expected = "values that are written before the first commit, or a new store";
            return Err(Error::invalid("write of a frozen tensor", "a committed block", expected));
        } else {
            Home(1 - entry.home)
        })
    }

    /// How many homes the block's plane of a slot has.
    fn homes_of(&self, slot: SlotIndex) -> u8 {
        let extent = block_of_slot(&self.directory, slot).and_then(|(at, ..)| self.directory.extents.get(at));
        if extent.is_some_and(|extent| self.directory.is_frozen(extent)) { 1 } else { 2 }
    }

    /// Enters a finished write into the table of the working generation.
    pub(crate) fn note_written(&mut self, slot: SlotIndex, write: Written) -> Result<()> {
        let Written { segment, home, caching, crc } = write;
        let generation = self.working_generation();
        self.written.insert((segment, home.0, caching));
        self.table.set_block(&self.meta, slot, BlockEntry { generation, crc, home: home.0 })
    }

    /// Says of a block's plane that has just been written that it is what another copy of the store has, also by its
    /// generation.
    pub(crate) fn keep_entry(&mut self, slot: SlotIndex, copied: BlockEntry) -> Result<()> {
        let home = self.block_entry(slot)?.home;
        self.table.set_block(&self.meta, slot, BlockEntry { home, ..copied })
    }

    /// Makes a block's plane one that was never written, in the working generation: it has its initial values again.
    ///
    /// Only for a generation that is committed before anything else is written: until then home 0, where a plane goes
    /// that was never written, may be what the committed generation names.
    fn set_unborn(&mut self, slot: SlotIndex) -> Result<()> {
        self.table.set_block(&self.meta, slot, BlockEntry::default())
    }

    /// The directory of files.
    pub(crate) fn volume(&self) -> &Arc<dyn Volume> {
        &self.volume
    }

    /// An open file of a segment's home.
    pub(crate) fn segment(
        &mut self,
        segment: usize,
        home: Home,
        caching: Caching,
    ) -> Result<Arc<dyn Segment>> {
        self.segments.get(&self.volume, segment, home, caching, self.is_writer())
    }

    /// The file of the log of rows; `None` in a store without one.
    pub(crate) fn log_file(&mut self) -> Result<Option<Arc<dyn Segment>>> {
        let Some(segment) = self.directory.log_segment() else { return Ok(None) };
        self.segment(segment, Home(0), Caching::Direct).map(Some)
    }

    /// Where the batches of the committed generation stand in the log of rows: offset and length of each run.
    pub(crate) fn log_ranges(&self) -> Vec<(u64, u64)> {
        let segment = self.directory.log_segment().and_then(|at| self.directory.segments.get(at));
        match (segment, &self.record.rows) {
            (Some(segment), Some(rows)) => rows.ranges(segment.bytes).collect(),
            _ => Vec::new(),
        }
    }

    /// Writes to the log of rows, for the next commit to make durable, where the committed generation has nothing that
    /// counts. Waits for readers of the generation before it.
    pub(crate) fn write_log(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.check_writable("write to the log of rows")?;
        self.take_over_homes()?;
        let (Some(segment), Some(file)) = (self.directory.log_segment(), self.log_file()?) else {
            return Err(Error::invalid("log of rows", "none", "a store with tensors of rows"));
        };
        file.write_at(bytes, offset).inspect_err(|error| self.poison(error))?;
        self.written.insert((segment, 0, Caching::Direct));
        Ok(())
    }

    /// Pages of the table that stand in memory.
    pub(crate) fn table_bytes(&self) -> u64 {
        self.table.bytes()
    }

    /// Forgets the working generation: the next read sees the committed one.
    pub(crate) fn discard_working(&mut self) -> Result<()> {
        self.check_writable("roll back")?;
        self.table.discard(self.committed.root);
        self.note_progress(self.committed.step);
        Ok(())
    }

    /// Leaves a note of the last finished step for people; it is never needed for recovery, so that a failure to
    /// write it is no failure of the step.
    pub(crate) fn note_progress(&mut self, step: u64) {
        let note = Progress {
            uuid: self.uuid(),
            generation: self.committed.generation,
            step,
            pid: std::process::id(),
        };
        if let Some(file) = &self.progress
            && file.write_at(&note.encode(), 0).is_err()
        {
            self.progress = None;
        }
    }

    /// The metadata file.
    pub(crate) fn meta(&self) -> &Arc<dyn Segment> {
        &self.meta
    }

    /// Checks that every segment is there with exactly its length.
    pub(crate) fn check_lengths(&mut self) -> Result<()> {
        self.length_errors().into_iter().next().map_or(Ok(()), Err)
    }

    /// What is wrong with the lengths of the segments, one error for each file.
    pub(crate) fn length_errors(&mut self) -> Vec<Error> {
        let writer = self.is_writer();
        let homes = self.segments.homes().into_iter();
        let check = |(segment, home)| self.segments.check_length(&self.volume, segment, home, writer).err();
        homes.filter_map(check).collect()
    }

    /// The process that has the store open for writing, where the operating system tells. Touches no lock.
    pub(crate) fn writer_process(&self) -> Option<u32> {
        self.volume.lock_holder(crate::format::LOCK_FILE)
    }

    /// What every regular file in the store's directory takes: the segments, then the others by name.
    pub(crate) fn files(&mut self) -> Result<Vec<FileUse>> {
        let mut files = self.segments.files(&self.volume)?;
        let known: HashSet<_> = files.iter().map(|file| file.name.clone()).collect();
        for name in self.volume.list()?.into_iter().filter(|name| !known.contains(name)) {
            // What is no regular file, or not ours to read, is none of the store's.
            if let Ok(file) = self.volume.open(&name, Access::Read, Caching::Cached) {
                files.push(FileUse::of(name, None, file.as_ref())?);
            }
        }
        Ok(files)
    }
}

/// A block's plane that has been written: where, through which handle, and the checksum of what was written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Written {
    pub(crate) segment: usize,
    pub(crate) home: Home,
    /// Errors of delayed writes are reported to the handle that wrote, so the same one is made durable.
    pub(crate) caching: Caching,
    pub(crate) crc: u32,
}

/// What one file takes on disk.
pub(crate) struct FileUse {
    pub(crate) name: String,
    /// Index of its plane, for segments.
    pub(crate) plane: Option<u16>,
    pub(crate) len_bytes: u64,
    pub(crate) allocated_bytes: u64,
}

impl FileUse {
    fn of(name: String, plane: Option<u16>, segment: &dyn Segment) -> Result<Self> {
        Ok(Self { name, plane, len_bytes: segment.len_bytes()?, allocated_bytes: segment.allocated_bytes()? })
    }
}

/// Adds the file to an error of decoding.
pub(crate) fn decode_error(path: &Path, base: u64, error: FormatError) -> Error {
    if error.unsupported {
        return Error::Unsupported { path: path.to_owned(), what: format!("{}: {}", error.what, error.got) };
    }
    Error::damaged(path, error.what, (base + error.offset, 1), error.got, error.expected)
}

/// Reads a region of the metadata file and checks its checksum.
fn read_region(
    meta: &Arc<dyn Segment>,
    name: &str,
    region: crate::format::superblock::Region,
) -> Result<Vec<u8>> {
    let mut bytes = vec![0; crate::units::to_usize(region.bytes)];
    meta.read_at(&mut bytes, region.offset)?;
    let crc = checksum::crc32(&bytes);
    if crc != region.crc {
        let range = (region.offset, region.bytes);
        let (got, expected) = (format!("checksum {crc:08x}"), format!("{:08x}", region.crc));
        return Err(Error::damaged(meta.path(), name, range, got, expected));
    }
    Ok(bytes)
}
