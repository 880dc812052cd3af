//! The sweep that `verify` makes over everything a generation consists of.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Instant;

use super::verify::{Finding, Verification, VerifyOptions, VerifyProgress};
use crate::error::{Damage, Error, Result};
use crate::format::checksum::block_crc;
use crate::format::directory::{Directory, Extent};
use crate::format::page::{BlockEntry, Page, PageIndex, TableShape};
use crate::format::{PAGE_BYTES, Uuid, segment_file};
use crate::layout::{BlockPlace, Occupants, block_of_slot, block_place};
use crate::rows::{LogPlace, check_log};
use crate::storage::{Buffer, Caching, Queue, Segment, Volume};
use crate::store::{BlockStore, Home, SlotState, Visit, Walk, decode_error, entries_of_leaf};
use crate::units::{BlockIndex, SlotIndex, to_u64, to_usize};

/// Most reads at once.
const FRAMES_MAX: u64 = 64;

/// A block's plane that is to be read and checked.
struct Job {
    slot: SlotIndex,
    file: Arc<dyn Segment>,
    place: BlockPlace,
    entry: BlockEntry,
    uuid: Uuid,
}

/// A block's plane that was read.
struct Done {
    buffer: Buffer,
    slot: SlotIndex,
    home: u8,
    /// What was found and what was expected, if they differ.
    seen: Option<Seen>,
}

/// What was found, and what was expected.
type Seen = (String, String);

/// A store under a pin that lasts until the deadline.
struct Look {
    store: BlockStore,
    directory: Arc<Directory>,
    occupants: Occupants,
    /// Reads at once, and bytes of each.
    frames: usize,
    frame_bytes: usize,
    deadline: Instant,
}

pub(super) struct Sweep<'a> {
    options: &'a VerifyOptions,
    progress: &'a mut dyn FnMut(&VerifyProgress<'_>),
    queue: Queue<Done>,
    free: Vec<Buffer>,
    in_flight: usize,
    /// By level of the table: the last page that was counted.
    pages_seen: Vec<Option<PageIndex>>,
    entries: u64,
    entries_done: u64,
    result: Verification,
    /// Whether an earlier look may have found the same.
    is_again: bool,
    start: Instant,
    seconds_before: f64,
}

impl<'a> Sweep<'a> {
    pub(super) fn new(
        options: &'a VerifyOptions,
        progress: &'a mut dyn FnMut(&VerifyProgress<'_>),
    ) -> Result<Self> {
        Ok(Self {
            queue: Queue::new(options.io_threads)?,
            options,
            progress,
            free: Vec::new(),
            in_flight: 0,
            pages_seen: Vec::new(),
            entries: 0,
            entries_done: 0,
            is_again: false,
            start: Instant::now(),
            seconds_before: options.earlier.as_ref().map_or(0.0, |earlier| earlier.seconds),
            result: options
                .earlier
                .clone()
                .unwrap_or_else(|| Verification { complete: true, ..Verification::default() }),
        })
    }

    pub(super) fn into_result(mut self) -> Verification {
        self.count_seconds();
        self.result
    }

    fn count_seconds(&mut self) {
        self.result.seconds = self.seconds_before + self.start.elapsed().as_secs_f64();
    }

    pub(super) fn run(&mut self, volume: &Arc<dyn Volume>) -> Result<()> {
        let mut next = Some(SlotIndex(self.result.entries_done));
        let mut is_first = true;
        while let Some(from) = next {
            let store = match BlockStore::open_unchecked(Arc::clone(volume), self.options.generation) {
                Ok(store) => store,
                Err(Error::Damaged(damage)) => {
                    self.result.complete = false;
                    self.find(|| of_metadata(*damage));
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
            let mut look = self.look(store);
            if std::mem::take(&mut is_first) {
                self.begin(&mut look)?;
            }
            self.result.last_generation = look.store.superblock().generation;
            next = self.entries_from(&mut look, from)?;
            while self.in_flight > 0 {
                self.take_in(&look);
            }
            // Nothing is under way: what is known now is all there is to know of the entries before the next one.
            self.entries_done = next.map_or(self.entries, |next| next.0);
            self.result.entries_done = self.entries_done;
            self.count_seconds();
            self.tell(true);
        }
        self.log(volume)
    }

    /// Checks the log of rows, renewing the look whenever the pin has been held for long enough.
    fn log(&mut self, volume: &Arc<dyn Volume>) -> Result<()> {
        let mut from: Option<LogPlace> = None;
        loop {
            let mut store = BlockStore::open_unchecked(Arc::clone(volume), self.options.generation)?;
            let until = Instant::now() + self.options.pin_time;
            let Some(check) = check_log(&mut store, from, until)? else { break };
            self.result.bytes_read += check.bytes_read;
            self.result.complete &= !check.is_cut_off;
            for (tensor, damage) in check.found {
                let tensor = tensor.and_then(|tensor| store.directory().tensors.get(tensor));
                let tensors = tensor.map(|tensor| tensor.name.clone()).into_iter().collect();
                self.find(|| Finding { tensors, ..of_metadata(damage) });
            }
            self.tell(false);
            if check.next.is_none() {
                break;
            }
            from = check.next;
        }
        self.count_seconds();
        Ok(())
    }

    fn look(&self, store: BlockStore) -> Look {
        let directory = Arc::clone(store.directory());
        let frame_bytes = directory.extents.iter().filter_map(largest_plane).max().unwrap_or(0);
        let frames = self.options.memory_bytes / to_u64(frame_bytes).max(1);
        Look {
            occupants: Occupants::new(&directory),
            directory,
            frames: to_usize(frames.clamp(1, FRAMES_MAX)),
            frame_bytes,
            deadline: Instant::now() + self.options.pin_time,
            store,
        }
    }

    /// Notes what there is to see once: identity, superblocks, lengths of files.
    fn begin(&mut self, look: &mut Look) -> Result<()> {
        let uuid = look.store.uuid().to_string();
        self.entries = look.store.superblock().table_slots;
        match self.result.uuid.take() {
            None => self.result.first_generation = look.store.superblock().generation,
            Some(earlier) if earlier == uuid && self.result.entries_done <= self.entries => {
                self.skip_pages(self.result.entries_done);
            }
            Some(earlier) => {
                let got = format!("{} entries of store {earlier}", self.result.entries_done);
                let expected = format!("one of store {uuid} with {} entries", self.entries);
                return Err(Error::invalid("earlier verification", got, expected));
            }
        }
        self.result.uuid = Some(uuid);
        self.is_again = self.options.earlier.is_some();
        let path = look.store.meta().path().to_owned();
        for (slot, state) in (0_u64..).zip(&look.store.found().slots) {
            if let SlotState::Damaged { why, .. } = state {
                self.find(|| {
                    of_metadata(Damage {
                        path: path.clone(),
                        what: format!("superblock {slot}, or what it names"),
                        range: (slot * PAGE_BYTES, PAGE_BYTES),
                        got: format!("a damaged one ({why})"),
                        expected: "a whole generation".to_owned(),
                    })
                });
            }
        }
        look.store.length_errors().into_iter().try_for_each(|error| self.find_error(error))?;
        self.is_again = false;
        Ok(())
    }

    /// Takes the table pages on the way to the entry before `next` as counted.
    fn skip_pages(&mut self, next: u64) {
        let Some((shape, last)) = TableShape::new(self.entries).zip(next.checked_sub(1)) else { return };
        let mut page = Some(TableShape::leaf_of(SlotIndex(last)).0);
        while let Some(index) = page {
            self.pages_seen.push(Some(index));
            page = shape.parent_of(index).map(|(parent, _)| parent);
        }
    }

    fn find(&mut self, make: impl FnOnce() -> Finding) {
        let has_room = self.result.findings.len() < self.options.findings_max;
        let finding = (has_room || self.is_again).then(make);
        if self.is_again && finding.as_ref().is_some_and(|finding| self.result.findings.contains(finding)) {
            return;
        }
        self.result.findings_total += 1;
        if has_room {
            self.result.findings.extend(finding);
        }
    }

    /// Notes an error that means damage, and hands back every other.
    fn find_error(&mut self, error: Error) -> Result<()> {
        let damage = match error {
            Error::Damaged(damage) => *damage,
            Error::Io { path, range: Some(range), source, .. } => Damage {
                path,
                what: "metadata".to_owned(),
                range,
                got: format!("no bytes ({source})"),
                expected: "readable bytes".to_owned(),
            },
            other => return Err(other),
        };
        self.find(|| of_metadata(damage));
        Ok(())
    }

    /// Checks the entries of the table from `from` on, until the pin has been held for long enough; returns where to
    /// go on.
    fn entries_from(&mut self, look: &mut Look, from: SlotIndex) -> Result<Option<SlotIndex>> {
        let superblock = look.store.superblock().clone();
        let meta = Arc::clone(look.store.meta());
        let Some(walk) = Walk::new(meta, &superblock, from) else { return Ok(None) };
        let mut done = from;
        for visit in walk {
            match visit {
                Visit::Inner { index, .. } => self.count_page(look, index),
                Visit::Damaged { error, first, end } => {
                    self.absent(look, done, first);
                    self.find_error(error)?;
                    self.result.complete = false;
                    done = end.max(done);
                }
                Visit::Leaf { index, first, page, .. } => {
                    self.absent(look, done, first);
                    self.count_page(look, index);
                    done = done.max(first);
                    let entries = entries_of_leaf(first, superblock.table_slots);
                    for (slot, place) in entries.skip_while(|(slot, _)| *slot < done) {
                        if slot > from && Instant::now() >= look.deadline {
                            return Ok(Some(slot));
                        }
                        self.entry(look, slot, &page, place)?;
                        self.entries_done = slot.0;
                    }
                    done = SlotIndex(first.0 + crate::format::page::ENTRIES_PER_LEAF);
                }
            }
        }
        self.absent(look, done, SlotIndex(superblock.table_slots));
        Ok(None)
    }

    /// Counts planes of blocks that were never written.
    fn absent(&mut self, look: &Look, from: SlotIndex, to: SlotIndex) {
        let first = from.0.max(to_u64(look.directory.tensors.len()));
        self.result.blocks_absent += to.0.saturating_sub(first);
    }

    /// Counts a page once, however often a renewed look comes by.
    fn count_page(&mut self, look: &Look, index: PageIndex) {
        let shape = TableShape::new(look.store.superblock().table_slots);
        let level = shape.map_or(0, |shape| shape.level_of(index));
        if self.pages_seen.len() <= level {
            self.pages_seen.resize(level + 1, None);
        }
        if let Some(seen) = self.pages_seen.get_mut(level)
            && seen.is_none_or(|seen| seen < index)
        {
            *seen = Some(index);
            self.result.table_pages += 1;
        }
    }

    fn entry(&mut self, look: &mut Look, slot: SlotIndex, page: &Page, place: usize) -> Result<()> {
        let decoded = if slot.0 < to_u64(look.directory.tensors.len()) {
            page.tensor(place).map(|_| None)
        } else {
            page.block(place).map(Some)
        };
        let entry = match decoded {
            Ok(None) => return Ok(()),
            Ok(Some(entry)) => entry,
            Err(error) => return self.find_error(decode_error(look.store.meta().path(), 0, error)),
        };
        let generation = look.store.superblock().generation;
        let Some(block) = place_of(look, slot).filter(|_| entry.generation > 0) else {
            self.result.blocks_absent += 1;
            return Ok(());
        };
        if entry.generation > generation {
            let seen =
                (format!("an entry of generation {}", entry.generation), format!("at most {generation}"));
            self.find(|| of_block(look, slot, entry.home, seen));
            return Ok(());
        }
        match look.store.segment(block.segment, Home(entry.home), Caching::Direct) {
            Ok(file) => {
                let uuid = look.store.uuid();
                self.submit(look, Job { slot, file, place: block, entry, uuid })
            }
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                let seen = ("no file".to_owned(), "the file that holds it".to_owned());
                self.find(|| of_block(look, slot, entry.home, seen));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn submit(&mut self, look: &Look, job: Job) -> Result<()> {
        while self.in_flight >= look.frames {
            self.take_in(look);
        }
        let mut buffer = match self.free.pop() {
            Some(buffer) => buffer,
            None => Buffer::new(look.frame_bytes)?,
        };
        self.in_flight += 1;
        self.result.blocks += 1;
        self.queue.submit(move || {
            let seen = check(&job, &mut buffer);
            Done { buffer, slot: job.slot, home: job.entry.home, seen }
        });
        Ok(())
    }

    /// Waits for a read and notes what it found.
    fn take_in(&mut self, look: &Look) {
        let Some(done) = self.queue.recv() else {
            self.in_flight = 0;
            return;
        };
        self.in_flight -= 1;
        self.free.push(done.buffer);
        self.result.bytes_read += place_of(look, done.slot).map_or(0, |place| to_u64(place.padded));
        if let Some(seen) = done.seen {
            self.find(|| of_block(look, done.slot, done.home, seen));
        }
        self.tell(false);
    }

    fn tell(&mut self, is_between: bool) {
        (self.progress)(&VerifyProgress {
            entries_done: self.entries_done,
            entries: self.entries,
            bytes_read: self.result.bytes_read,
            findings: self.result.findings_total,
            so_far: is_between.then_some(&self.result),
        });
    }
}

/// Bytes that the largest plane of an extent's blocks takes.
fn largest_plane(extent: &Extent) -> Option<usize> {
    let first = BlockIndex(extent.first_block);
    let planes = 0..extent.planes.len();
    planes.filter_map(|plane| block_place(extent, first, plane)).map(|place| place.padded).max()
}

fn place_of(look: &Look, slot: SlotIndex) -> Option<BlockPlace> {
    let (at, block, plane) = block_of_slot(&look.directory, slot)?;
    block_place(look.directory.extents.get(at)?, block, plane)
}

/// Reads a block's plane and checks it. Bytes that cannot be read are damage like those that are wrong.
fn check(job: &Job, buffer: &mut Buffer) -> Option<Seen> {
    let Job { slot, file, place, entry, uuid } = job;
    let expected = format!("checksum {:08x}", entry.crc);
    if let Err(error) = file.read_at(buffer.get_mut(..place.padded).unwrap_or_default(), place.offset) {
        let got = match error {
            Error::Io { source, .. } => source.to_string(),
            other => other.to_string(),
        };
        return Some((format!("no bytes ({got})"), expected));
    }
    let crc = block_crc(*uuid, *slot, entry.generation, buffer.get(..place.bytes).unwrap_or_default());
    (crc != entry.crc).then(|| (format!("checksum {crc:08x}"), expected))
}

fn of_metadata(damage: Damage) -> Finding {
    Finding { damage, tensors: Vec::new(), plane: None, block: None }
}

/// Names what stands at an entry of the table.
fn of_block(look: &Look, slot: SlotIndex, home: u8, (got, expected): Seen) -> Finding {
    let directory = &look.directory;
    let (at, block, plane) = block_of_slot(directory, slot).unwrap_or((0, BlockIndex(0), 0));
    let place = place_of(look, slot);
    let segment = place.and_then(|place| directory.segments.get(place.segment));
    let name = segment
        .and_then(|spec| directory.planes.get(usize::from(spec.plane)))
        .map(|plane| plane.name.clone());
    let file = segment.zip(name.as_ref()).map(|(spec, name)| segment_file(name, spec.index, home));
    let damage = Damage {
        path: look.store.path().join(file.unwrap_or_default()),
        what: crate::layout::describe_block(directory, block, plane),
        range: place.map_or((0, 0), |place| (place.offset, to_u64(place.bytes))),
        got,
        expected,
    };
    let tensors = look.occupants.names(directory, at, block).into_iter().map(str::to_owned).collect();
    Finding { damage, tensors, plane: name, block: Some(block.0) }
}
