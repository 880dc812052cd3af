//! Copies the planes of blocks into the files of a checkpoint, or lets the two share them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::{EachBatch, Plane, Work};
use crate::error::{Error, Result};
use crate::format::checksum::block_crc;
use crate::format::{Uuid, segment_file};
use crate::storage::{Access, Buffer, Caching, Queue, Segment, Volume};
use crate::store::{BlockStore, Home, barriers};
use crate::units::{to_u64, to_usize};

/// A file of the checkpoint.
struct Target {
    file: Arc<dyn Segment>,
    /// The file of the store, once a plane of it is needed.
    source: Option<Arc<dyn Segment>>,
    is_shared: bool,
    /// Where the last plane so far ends.
    end: u64,
    run: Run,
}

/// Planes that stand together and are copied at once.
#[derive(Default)]
struct Run {
    offset: u64,
    len_bytes: u64,
    planes: Vec<Plane>,
}

/// A finished copy.
struct Done {
    buffer: Buffer,
    len_bytes: u64,
    result: Result<(), Failure>,
}

enum Failure {
    Io(Error),
    Checksum { path: PathBuf, plane: Box<Plane>, got: u32 },
}

pub(super) struct Copier<'w, 'a> {
    work: &'w mut Work<'a>,
    queue: Queue<Done>,
    targets: BTreeMap<(usize, u8), Target>,
    run_bytes_max: u64,
    in_flight: usize,
    bytes_copied: u64,
    bytes_shared: u64,
}

impl<'w, 'a> Copier<'w, 'a> {
    pub(super) fn new(work: &'w mut Work<'a>) -> Result<Self> {
        let queue = Queue::new(work.threads)?;
        let run_bytes_max = work.buffers.iter().map(|buffer| to_u64(buffer.len())).min().unwrap_or(0);
        let targets = BTreeMap::new();
        Ok(Self { work, queue, targets, run_bytes_max, in_flight: 0, bytes_copied: 0, bytes_shared: 0 })
    }

    pub(super) fn bytes_copied(&self) -> u64 {
        self.bytes_copied
    }

    pub(super) fn bytes_shared(&self) -> u64 {
        self.bytes_shared
    }

    /// Opens the files of the checkpoint, which have their lengths and no bytes.
    pub(super) fn open_targets(&mut self, store: &BlockStore, target: &Arc<dyn Volume>) -> Result<()> {
        for (at, segment) in store.directory.segments.iter().enumerate() {
            let plane = store.directory.planes.get(usize::from(segment.plane));
            let plane = plane.map_or("", |plane| plane.name.as_str());
            for home in 0..segment.homes {
                let name = segment_file(plane, segment.index, home);
                let file = target.open(&name, Access::Write, Caching::Direct)?;
                let target = Target { file, source: None, is_shared: false, end: 0, run: Run::default() };
                self.targets.insert((at, home), target);
            }
        }
        Ok(())
    }

    /// Takes the next plane; within each file they come in ascending order.
    pub(super) fn add(&mut self, store: &mut BlockStore, plane: &Plane) -> Result<()> {
        let (key, bytes) = ((plane.place.segment, plane.entry.home), to_u64(plane.place.padded));
        let Some(target) = self.targets.get_mut(&key) else {
            return Err(Error::invalid("home of a block", key.1, "one that its segment has"));
        };
        if target.source.is_none() {
            let source = store.segment(key.0, Home(key.1), Caching::Direct)?;
            target.is_shared = target.file.share_from(&*source)?;
            target.source = Some(source);
        }
        if target.is_shared {
            // What the generation does not have is given back: it would stay allocated for the checkpoint alone.
            if plane.place.offset > target.end {
                target.file.punch(target.end, plane.place.offset - target.end)?;
            }
            target.end = plane.place.offset + bytes;
            self.bytes_shared += bytes;
            (self.work.progress)(self.bytes_copied + self.bytes_shared);
            return Ok(());
        }
        let run = &mut target.run;
        let follows =
            run.offset + run.len_bytes == plane.place.offset && run.len_bytes + bytes <= self.run_bytes_max;
        if !follows && run.len_bytes > 0 {
            self.submit(store, key)?;
        }
        if let Some(Target { run, .. }) = self.targets.get_mut(&key) {
            if run.len_bytes == 0 {
                run.offset = plane.place.offset;
            }
            run.len_bytes += bytes;
            run.planes.push(*plane);
        }
        Ok(())
    }

    /// Takes what counts of the log of rows; where it is copied, batch by batch, each checked.
    pub(super) fn add_log(&mut self, store: &mut BlockStore, each_batch: EachBatch) -> Result<()> {
        let bytes = store.log_ranges().iter().map(|&(_, bytes)| bytes).sum::<u64>();
        let Some(at) = store.directory.log_segment().filter(|_| bytes > 0) else { return Ok(()) };
        let source = store.segment(at, Home(0), Caching::Direct)?;
        let Some(target) = self.targets.get_mut(&(at, 0)) else { return Ok(()) };
        target.is_shared = target.file.share_from(&*source)?;
        if target.is_shared {
            target.end = target.file.len_bytes()?;
            self.bytes_shared += bytes;
        } else {
            each_batch(store, &mut |offset, batch| target.file.write_at(batch, offset))?;
            self.bytes_copied += bytes;
        }
        (self.work.progress)(self.bytes_copied + self.bytes_shared);
        Ok(())
    }

    /// Starts to copy what stands together in a file.
    fn submit(&mut self, store: &BlockStore, key: (usize, u8)) -> Result<()> {
        while self.work.buffers.is_empty() {
            self.take_in(store)?;
        }
        let Some(target) = self.targets.get_mut(&key) else { return Ok(()) };
        let run = std::mem::take(&mut target.run);
        let (Some(source), Some(buffer)) = (target.source.clone(), self.work.buffers.pop()) else {
            return Ok(());
        };
        let (file, uuid) = (Arc::clone(&target.file), store.uuid());
        self.in_flight += 1;
        self.queue.submit(move || copy(&source, &file, &run, uuid, buffer));
        Ok(())
    }

    fn take_in(&mut self, store: &BlockStore) -> Result<()> {
        let Some(done) = self.queue.recv() else {
            let what = "memory to copy blocks";
            return Err(Error::invalid(what, "none", "a buffer that holds a plane"));
        };
        self.in_flight -= 1;
        self.work.buffers.push(done.buffer);
        match done.result {
            Ok(()) => {
                self.bytes_copied += done.len_bytes;
                (self.work.progress)(self.bytes_copied + self.bytes_shared);
                Ok(())
            }
            Err(Failure::Io(error)) => Err(error),
            Err(Failure::Checksum { path, plane, got }) => Err(store.wrong_checksum(&path, &plane, got)),
        }
    }

    /// Copies what is left, and makes every file durable.
    pub(super) fn sync(&mut self, store: &BlockStore) -> Result<()> {
        let keys: Vec<_> = self.targets.keys().copied().collect();
        for key in keys {
            if self.targets.get(&key).is_some_and(|target| target.run.len_bytes > 0) {
                self.submit(store, key)?;
            }
        }
        while self.in_flight > 0 {
            self.take_in(store)?;
        }
        for target in self.targets.values() {
            let len_bytes = target.file.len_bytes()?;
            if target.is_shared && target.end < len_bytes {
                target.file.punch(target.end, len_bytes - target.end)?;
            }
            // The same handle that wrote, which is told of errors of delayed writes.
            target.file.sync(barriers::KEEP_SEGMENT)?;
        }
        Ok(())
    }

    /// Takes all memory back, whatever became of the copies.
    pub(super) fn finish(self) {
        while let Some(done) = self.queue.recv() {
            self.work.buffers.push(done.buffer);
        }
    }
}

/// Reads a run, checks every plane in it, and writes it: damage is never kept.
fn copy(
    source: &Arc<dyn Segment>,
    target: &Arc<dyn Segment>,
    run: &Run,
    uuid: Uuid,
    mut buffer: Buffer,
) -> Done {
    let attempt = |bytes: &mut [u8]| -> Result<(), Failure> {
        source.read_at(bytes, run.offset).map_err(Failure::Io)?;
        for plane in &run.planes {
            let start = to_usize(plane.place.offset - run.offset);
            let whole = bytes.get(start..start + plane.place.bytes).unwrap_or_default();
            let got = block_crc(uuid, plane.slot, plane.entry.generation, whole);
            if got != plane.entry.crc {
                let path = source.path().to_owned();
                return Err(Failure::Checksum { path, plane: Box::new(*plane), got });
            }
        }
        target.write_at(bytes, run.offset).map_err(Failure::Io)
    };
    let (whole, expected) = (buffer.len(), format!("at least {} bytes", run.len_bytes));
    let result = if let Some(bytes) = buffer.get_mut(..to_usize(run.len_bytes)) {
        attempt(bytes)
    } else {
        Err(Failure::Io(Error::invalid("memory to copy blocks", format!("{whole} bytes"), expected)))
    };
    Done { buffer, len_bytes: run.len_bytes, result }
}
