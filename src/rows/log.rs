//! The log of rows: batches appended to a ring, found again at open.

use std::sync::Arc;
use std::time::Instant;

use super::check::LogCheck;
use super::index::{offset_of, place_of};
use crate::error::{Error, Result};
use crate::format::directory::Directory;
use crate::format::row_log::{
    HEADER_BYTES, Head, MAX_BATCH_BYTES, MAX_RING_BYTES, RECORD_PREFIX_BYTES, RowCounts, RowState, ids,
    put_record, record_at,
};
use crate::format::{FormatError, PAGE_BYTES, Uuid};
use crate::storage::{Buffer, Segment};
use crate::store::BlockStore;
use crate::units::{to_u64, to_usize};

/// A place in the log, and the number of the batch there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) position: u64,
    pub(super) sequence: u64,
}

pub(super) struct Log {
    file: Arc<dyn Segment>,
    uuid: Uuid,
    ring: u64,
    /// Where the committed generation's batches begin, and where they end.
    start: Mark,
    end: Mark,
    /// Where the next batch goes.
    tail: Mark,
    /// Where the next generation's batches begin: everything before has been folded into blocks.
    next_start: Mark,
    batch: Buffer,
}

/// The log as it was at some moment.
pub(super) struct LogReader {
    pub(super) file: Arc<dyn Segment>,
    pub(super) uuid: Uuid,
    ring: u64,
    tail: u64,
}

impl LogReader {
    /// The position of an offset in the ring that stands in a batch that counts.
    pub(super) fn position_of(&self, at: u32) -> u64 {
        let lap = self.tail - self.tail % self.ring;
        let position = lap + offset_of(at);
        if position < self.tail { position } else { position.saturating_sub(self.ring) }
    }
}

impl Log {
    /// The log of an open store as the committed generation's record has it.
    pub(super) fn open(store: &mut BlockStore, state: &RowState) -> Result<Option<Self>> {
        let Some(file) = store.log_file()? else { return Ok(None) };
        let ring = store
            .directory()
            .log_segment()
            .and_then(|at| store.directory().segments.get(at))
            .map_or(0, |segment| segment.bytes);
        let start = Mark { position: state.start, sequence: state.sequence };
        if state.end - state.start > ring || ring > MAX_RING_BYTES {
            let got = format!("{} bytes in use", state.end - state.start);
            return Err(Error::damaged(file.path(), "log of rows", (0, 0), got, format!("at most {ring}")));
        }
        let batch = Buffer::new(max_batch(ring))?;
        let end = Mark { position: state.end, sequence: start.sequence };
        let uuid = store.uuid();
        Ok(Some(Self { file, uuid, ring, start, end, tail: end, next_start: start, batch }))
    }

    /// Memory that a log of this length takes.
    pub(super) fn memory_bytes(ring: u64) -> usize {
        max_batch(ring)
    }

    pub(super) fn ring_bytes(&self) -> u64 {
        self.ring
    }

    /// Where batches are appended.
    pub(super) fn tail(&self) -> Mark {
        self.tail
    }

    /// Bytes between the first batch that counts and the end.
    pub(super) fn used_bytes(&self) -> u64 {
        self.tail.position - self.next_start.position
    }

    /// What is needed to read records of batches that count now.
    pub(super) fn reader(&self) -> LogReader {
        LogReader { file: Arc::clone(&self.file), uuid: self.uuid, ring: self.ring, tail: self.tail.position }
    }

    fn rows_per_batch(&self, record_bytes: usize) -> usize {
        (self.batch.len() - HEADER_BYTES) / (8 + RECORD_PREFIX_BYTES + record_bytes)
    }

    /// Bytes that the working generation has appended.
    pub(super) fn uncommitted_bytes(&self) -> u64 {
        self.tail.position - self.end.position
    }

    /// Takes over what another committed generation's record says; [`scan`](Self::scan) has to follow.
    pub(super) fn reopen(&mut self, state: &RowState) {
        self.start = Mark { position: state.start, sequence: state.sequence };
        self.end = Mark { position: state.end, sequence: state.sequence };
        (self.tail, self.next_start) = (self.end, self.start);
    }

    /// Whether so many records can be appended.
    pub(super) fn has_room(&self, rows: usize, record_bytes: usize) -> bool {
        let per_batch = self.rows_per_batch(record_bytes);
        if per_batch == 0 {
            return false;
        }
        let batches = rows / per_batch + 1;
        let bytes = rows * (8 + RECORD_PREFIX_BYTES + record_bytes) + batches * (HEADER_BYTES + 4096);
        // Where the ring ends, what is left of it may be too short for a batch; once more for a checkpoint that is copied
        // back from here to another place.
        let wasted = 2 * (self.batch.len() + 4096);
        to_u64(bytes + wasted) <= self.ring - (self.tail.position - self.start.position)
    }

    /// Whether batches of so many bytes, as they stand in a log of the same length, can be appended.
    pub(super) fn has_room_for_bytes(&self, bytes: u64) -> bool {
        bytes + to_u64(2 * (self.batch.len() + 4096))
            <= self.ring - (self.tail.position - self.start.position)
    }

    /// Appends what counts of this log, a checkpoint's, to another one; `counting` says which of a batch's rows do, by number.
    /// Their blocks have just been restored in the working generation; so that they count beside these, they are said to be
    /// of the next. Rows that did not count any more must not come back by that.
    pub(super) fn copy_to(
        &mut self,
        tensors: usize,
        target: &mut Self,
        store: &mut BlockStore,
        mut counting: impl FnMut(&Head, &[u64]) -> Result<Vec<usize>>,
    ) -> Result<()> {
        let (file, uuid) = (Arc::clone(&self.file), self.uuid);
        let mut source = Buffer::new(self.batch.len())?;
        self.scan(tensors, |head, bytes, offset| {
            let rows: Vec<_> = ids(head, bytes).collect();
            let chosen = counting(head, &rows)?;
            if chosen.is_empty() {
                return Ok(());
            }
            let mut moved = Head { rows: u32::try_from(chosen.len()).unwrap_or(u32::MAX), ..*head };
            let bytes = moved.batch_bytes();
            if target.tail.position % target.ring + to_u64(bytes) > target.ring {
                target.wrap(store)?;
            }
            let Mark { position, sequence } = target.tail;
            (moved.sequence, moved.position) = (sequence, position);
            moved.generation = store.working_generation() + 1;
            file.read_at(source.get_mut(..head.batch_bytes()).unwrap_or_default(), offset)?;
            let batch = target.batch.get_mut(..bytes).unwrap_or_default();
            batch.fill(0);
            for (number, index) in chosen.into_iter().enumerate() {
                let row = rows.get(index).copied().unwrap_or(u64::MAX);
                let record = record_of(&source, head, uuid, (index, row), (&file, offset))?;
                put(batch, &moved, uuid, (number, row), record);
            }
            moved.seal(uuid, batch);
            store.write_log(position % target.ring, target.batch.get(..bytes).unwrap_or_default())?;
            target.tail = Mark { position: position + to_u64(bytes), sequence: sequence + 1 };
            Ok(())
        })
    }

    /// Appends records of a tensor, ascending by row, and returns their places in the ring. There is room for them.
    pub(super) fn append(
        &mut self,
        store: &mut BlockStore,
        tensor: u32,
        record_bytes: usize,
        rows: &[(u64, &[u8])],
    ) -> Result<Vec<u32>> {
        let mut places = Vec::with_capacity(rows.len());
        for part in rows.chunks(self.rows_per_batch(record_bytes).max(1)) {
            let mut head = Head {
                sequence: self.tail.sequence,
                generation: store.working_generation(),
                position: self.tail.position,
                tensor: Some(tensor),
                rows: u32::try_from(part.len()).unwrap_or(u32::MAX),
                record_bytes: u32::try_from(record_bytes).unwrap_or(u32::MAX),
            };
            if self.tail.position % self.ring + to_u64(head.batch_bytes()) > self.ring {
                self.wrap(store)?;
                (head.sequence, head.position) = (self.tail.sequence, self.tail.position);
            }
            let offset = self.tail.position % self.ring;
            let bytes = head.batch_bytes();
            let uuid = self.uuid;
            let Some(batch) = self.batch.get_mut(..bytes) else {
                return Err(Error::invalid("batch of rows", format!("{bytes} bytes"), "a smaller one"));
            };
            batch.fill(0);
            for (index, &(row, record)) in part.iter().enumerate() {
                put(batch, &head, uuid, (index, row), record);
                places.push(place_of(offset + to_u64(head.place(index))));
            }
            head.seal(uuid, batch);
            store.write_log(offset, self.batch.get(..bytes).unwrap_or_default())?;
            self.tail.position += to_u64(bytes);
            self.tail.sequence += 1;
        }
        Ok(places)
    }

    /// Says in the log that it goes on at the beginning of the ring.
    fn wrap(&mut self, store: &mut BlockStore) -> Result<()> {
        let offset = self.tail.position % self.ring;
        let generation = store.working_generation();
        let Mark { position, sequence } = self.tail;
        let head = Head { sequence, generation, position, tensor: None, rows: 0, record_bytes: 0 };
        let page = to_usize(PAGE_BYTES);
        if let Some(batch) = self.batch.get_mut(..page) {
            batch.fill(0);
            head.seal(self.uuid, batch);
        }
        store.write_log(offset, self.batch.get(..page).unwrap_or_default())?;
        self.tail = Mark { position: position - offset + self.ring, sequence: sequence + 1 };
        Ok(())
    }

    /// Everything before a place has been folded into blocks, in the working generation.
    pub(super) fn folded_to(&mut self, mark: Mark) {
        self.next_start = mark;
    }

    /// What the record of the next generation says of the log.
    pub(super) fn state(&self, counts: Vec<RowCounts>) -> RowState {
        let Mark { position: start, sequence } = self.next_start;
        RowState { start, end: self.tail.position, sequence, counts }
    }

    /// The working generation has been committed.
    pub(super) fn committed(&mut self) {
        (self.start, self.end) = (self.next_start, self.tail);
    }

    /// The working generation is forgotten.
    pub(super) fn discard(&mut self) {
        (self.next_start, self.tail) = (self.start, self.end);
    }

    /// Walks over the batches of the committed generation: `each` takes a head, the bytes that begin with it and hold its
    /// ids, and the offset. Afterwards the log knows its end.
    pub(super) fn scan(
        &mut self,
        tensors: usize,
        mut each: impl FnMut(&Head, &[u8], u64) -> Result<()>,
    ) -> Result<()> {
        let mut at = self.start;
        while at.position < self.end.position {
            let offset = at.position % self.ring;
            let head = self.read_head(at, offset, tensors)?;
            if head.tensor.is_some() {
                each(&head, &self.batch, offset)?;
                at.position += to_u64(head.batch_bytes());
            } else {
                at.position += self.ring - offset;
            }
            at.sequence += 1;
        }
        if at.position != self.end.position {
            let (got, expected) = (format!("end at {}", at.position), self.end.position);
            return Err(Error::damaged(self.file.path(), "log of rows", (0, 0), got, expected));
        }
        (self.end, self.tail) = (at, at);
        Ok(())
    }

    /// Where the first batch stands that counts in the working generation.
    pub(super) fn first(&self) -> Mark {
        self.next_start
    }

    /// Position behind the last batch of the committed generation.
    pub(super) fn committed_end(&self) -> u64 {
        self.end.position
    }

    /// Reads a batch of the committed generation whole, and returns its head and where the next one stands.
    pub(super) fn read_batch(&mut self, at: Mark, tensors: usize) -> Result<(Head, Mark)> {
        let offset = at.position % self.ring;
        let head = self.read_head(at, offset, tensors)?;
        let sequence = at.sequence + 1;
        if head.tensor.is_none() {
            return Ok((head, Mark { position: at.position + self.ring - offset, sequence }));
        }
        let bytes = head.batch_bytes();
        self.file.read_at(self.batch.get_mut(..bytes).unwrap_or_default(), offset)?;
        Ok((head, Mark { position: at.position + to_u64(bytes), sequence }))
    }

    /// The records of the batch that was read last: row, place in the ring, and bytes, which are checked.
    pub(super) fn records_of(&self, head: &Head) -> Result<Vec<(u64, u32, &[u8])>> {
        let offset = head.position % self.ring;
        let record = |(index, row): (usize, u64)| {
            let record = record_of(&self.batch, head, self.uuid, (index, row), (&self.file, offset))?;
            Ok((row, place_of(offset + to_u64(head.place(index))), record))
        };
        ids(head, &self.batch).enumerate().map(record).collect()
    }

    /// Reads and checks batches from a mark on (those before it may be no part of this generation any more) until a moment
    /// has come; returns where to go on. A head that is damaged is an error, a record a finding.
    pub(super) fn check(
        &mut self,
        tensors: usize,
        from: Option<Mark>,
        until: Instant,
        check: &mut LogCheck,
    ) -> Result<Option<Mark>> {
        let mut at = from.filter(|from| from.position > self.start.position).unwrap_or(self.start);
        while at.position < self.end.position {
            let offset = at.position % self.ring;
            let (head, next) = self.read_batch(at, tensors)?;
            if let Some(tensor) = head.tensor {
                check.bytes_read += to_u64(head.batch_bytes());
                for named in ids(&head, &self.batch).enumerate() {
                    match record_of(&self.batch, &head, self.uuid, named, (&self.file, offset)) {
                        Err(Error::Damaged(damage)) => {
                            check.found.push((Some(to_usize(tensor.into())), *damage));
                        }
                        other => drop(other?),
                    }
                }
            }
            at = next;
            if Instant::now() >= until && at.position < self.end.position {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    /// Shows every batch of the committed generation to `take`, whole and checked: its offset in the ring, and its bytes.
    pub(super) fn each_batch(
        &mut self,
        directory: &Directory,
        take: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut at = self.start;
        while at.position < self.end.position {
            let offset = at.position % self.ring;
            let (head, next) = self.read_batch(at, directory.tensors.len())?;
            for named in ids(&head, &self.batch).enumerate() {
                let record = record_of(&self.batch, &head, self.uuid, named, (&self.file, offset));
                record.map_err(|error| in_tensor(error, directory, &head))?;
            }
            take(offset, self.batch.get(..head.batch_bytes()).unwrap_or_default())?;
            at = next;
        }
        Ok(())
    }

    /// Reads and checks the head of a batch, with its ids.
    fn read_head(&mut self, at: Mark, offset: u64, tensors: usize) -> Result<Head> {
        let uuid = self.uuid;
        let damaged = |file: &Arc<dyn Segment>, e: FormatError| {
            Error::damaged(file.path(), e.what, (offset + e.offset, PAGE_BYTES), e.got, e.expected)
        };
        let first = to_usize(PAGE_BYTES).min(self.batch.len());
        let page = self.batch.get_mut(..first).unwrap_or_default();
        self.file.read_at(page, offset)?;
        let head = Head::decode(uuid, page).map_err(|e| damaged(&self.file, e))?;
        let left = (self.end.position - at.position).min(self.ring - offset);
        let fits = to_u64(head.batch_bytes()) <= left && head.batch_bytes() <= self.batch.len();
        let is_known = head.tensor.is_none_or(|tensor| to_usize(tensor.into()) < tensors);
        if head.sequence != at.sequence || head.position != at.position || !fits || !is_known {
            let got = format!("batch {} at {}, {} bytes", head.sequence, head.position, head.batch_bytes());
            let expected = format!("batch {} at {}, at most {left} bytes", at.sequence, at.position);
            let what = "batch in the log of rows";
            return Err(Error::damaged(self.file.path(), what, (offset, PAGE_BYTES), got, expected));
        }
        let end = head.ids_end().next_multiple_of(first);
        if let Some(more) = self.batch.get_mut(first..end)
            && !more.is_empty()
        {
            self.file.read_at(more, offset + to_u64(first))?;
        }
        head.check(&self.batch).map_err(|e| damaged(&self.file, e))?;
        Ok(head)
    }
}

/// The record of a row, by its number in a batch that was read whole, if it is whole; `from` is the file and the offset of
/// the batch in it.
fn record_of<'b>(
    batch: &'b [u8],
    head: &Head,
    uuid: Uuid,
    (index, row): (usize, u64),
    from: (&Arc<dyn Segment>, u64),
) -> Result<&'b [u8]> {
    let place = batch.get(head.record_range(index)).unwrap_or_default();
    let at = to_u64(head.place(index));
    record_at(place, uuid, head.tensor.unwrap_or(0), row, head.position + at).map_err(|e| {
        let (what, range) = (format!("row {row} in the log of rows"), (from.1 + at, to_u64(place.len())));
        Error::damaged(from.0.path(), what, range, e.got, e.expected)
    })
}

/// Says of damage in a batch which tensor it is in.
fn in_tensor(error: Error, directory: &Directory, head: &Head) -> Error {
    let tensor = head.tensor.and_then(|tensor| directory.tensors.get(to_usize(tensor.into())));
    match (error, tensor) {
        (Error::Damaged(mut damage), Some(tensor)) => {
            damage.what = format!("tensor {:?}, {}", tensor.name, damage.what);
            Error::Damaged(damage)
        }
        (error, _) => error,
    }
}

/// Puts a row, by its number in the batch, into a batch: its id and its record.
fn put(batch: &mut [u8], head: &Head, uuid: Uuid, (index, row): (usize, u64), record: &[u8]) {
    if let Some(id) = batch.get_mut(HEADER_BYTES + 8 * index..).and_then(|b| b.first_chunk_mut()) {
        *id = row.to_le_bytes();
    }
    let position = head.position + to_u64(head.place(index));
    if let Some(place) = batch.get_mut(head.record_range(index)) {
        put_record(place, uuid, head.tensor.unwrap_or(0), row, position, record);
    }
}

fn max_batch(ring: u64) -> usize {
    let quarter = ring / 4 / PAGE_BYTES * PAGE_BYTES;
    to_usize(quarter.min(to_u64(MAX_BATCH_BYTES)))
}
