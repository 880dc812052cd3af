//! The log of rows: what rows have been since their blocks were last written.
//!
//! The log is a ring. Positions count bytes from the first that was ever written and never wrap; the record of a
//! generation names the first and the last of those that count. A batch stands in one piece and holds records of one
//! tensor, ascending; each record has a checksum of its own, so that one row can be read alone.

use super::checksum::{Uuid, bound};
use super::codec::{Decoded, FormatError, Reader, Writer};
use super::{PAGE_BYTES, checksum};
use crate::units::{to_u64, to_usize};

const MAGIC: [u8; 8] = *b"PSROWLOG";
/// Bytes of a batch in front of its ids.
pub(crate) const HEADER_BYTES: usize = 72;
/// Bytes in front of each record of a batch: its checksum, and zeros.
pub(crate) const RECORD_PREFIX_BYTES: usize = 8;
/// Largest batch.
pub(crate) const MAX_BATCH_BYTES: usize = 1 << 21;
/// Smallest and largest ring.
pub(crate) const MIN_RING_BYTES: u64 = 1 << 16;
/// See [`MIN_RING_BYTES`]: places are kept as 32 bits, in units of eight bytes.
pub(crate) const MAX_RING_BYTES: u64 = 1 << 35;
/// Largest position, and number of a batch: far beyond what can be reached, and the next ones can be counted.
const MAX_POSITION: u64 = 1 << 62;
/// In place of a tensor: nothing until the beginning of the ring.
const WRAP: u32 = u32::MAX;

/// Which part of the log counts in a generation, and what is known of the rows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct RowState {
    /// Position of the first batch.
    pub(crate) start: u64,
    /// Position behind the last batch.
    pub(crate) end: u64,
    /// Number of the first batch.
    pub(crate) sequence: u64,
    /// For each tensor of rows, in their order.
    pub(crate) counts: Vec<RowCounts>,
}

/// What is counted of a tensor of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct RowCounts {
    /// Rows that have been given values and have not expired.
    pub(crate) born: u64,
    /// Rows that have expired, each time.
    pub(crate) expired: u64,
    /// Sightings of ids that found a row which another id had come to first.
    pub(crate) collided: u64,
    /// Sightings of rows that had not been seen often enough to be updated.
    pub(crate) not_admitted: u64,
}

impl RowCounts {
    /// Their number.
    const COUNT: usize = 4;

    const fn words(self) -> [u64; Self::COUNT] {
        [self.born, self.expired, self.collided, self.not_admitted]
    }

    const fn of([born, expired, collided, not_admitted]: [u64; Self::COUNT]) -> Self {
        Self { born, expired, collided, not_admitted }
    }
}

impl RowState {
    /// Where the batches that count stand in a ring of this length: offset and length of one run, or two.
    pub(crate) fn ranges(&self, ring: u64) -> impl Iterator<Item = (u64, u64)> + use<> {
        let (offset, bytes) = (self.start % ring.max(1), (self.end - self.start).min(ring));
        let first = bytes.min(ring - offset);
        [(offset, first), (0, bytes - first)].into_iter().filter(|&(_, bytes)| bytes > 0)
    }

    pub(super) fn encode(&self, w: &mut Writer) {
        w.u64(self.start);
        w.u64(self.end);
        w.u64(self.sequence);
        w.count(self.counts.len());
        for word in self.counts.iter().flat_map(|counts| counts.words()) {
            w.u64(word);
        }
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Decoded<Self> {
        let (start, end) = (r.u64("row log start")?, r.u64("row log end")?);
        let bytes = end.checked_sub(start);
        if end > MAX_POSITION
            || bytes.is_none_or(|bytes| bytes > MAX_RING_BYTES)
            || start % PAGE_BYTES != 0
            || end % PAGE_BYTES != 0
        {
            return Err(r.error("row log", format!("{start} to {end}"), "pages in ascending order"));
        }
        let sequence = r.u64("row log sequence")?;
        if sequence > MAX_POSITION {
            return Err(r.error("row log sequence", sequence, format!("at most {MAX_POSITION}")));
        }
        let count = r.count("row tensor count", 8 * RowCounts::COUNT)?;
        let mut counts = Vec::with_capacity(count);
        for _ in 0..count {
            let mut words = [0; RowCounts::COUNT];
            for word in &mut words {
                *word = r.u64("row counts")?;
            }
            counts.push(RowCounts::of(words));
        }
        Ok(Self { start, end, sequence, counts })
    }
}

/// The head of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    /// Batches are numbered without gaps.
    pub(crate) sequence: u64,
    /// The generation that was being written.
    pub(crate) generation: u64,
    /// Where it stands.
    pub(crate) position: u64,
    /// Index of the tensor; `None` if the next batch stands at the beginning of the ring.
    pub(crate) tensor: Option<u32>,
    pub(crate) rows: u32,
    /// Bytes of each record.
    pub(crate) record_bytes: u32,
}

impl Head {
    /// Bytes from a record's beginning to the next one's.
    fn stride(&self) -> usize {
        RECORD_PREFIX_BYTES + to_usize(self.record_bytes.into())
    }

    /// Where the first record's prefix stands in the batch.
    fn first(&self) -> usize {
        HEADER_BYTES + 8 * to_usize(self.rows.into())
    }

    /// Where a record's prefix stands in the batch.
    pub(crate) fn place(&self, index: usize) -> usize {
        self.first() + index * self.stride()
    }

    /// Where a record stands in the batch, with its prefix.
    pub(crate) fn record_range(&self, index: usize) -> std::ops::Range<usize> {
        self.place(index)..self.place(index + 1)
    }

    /// Bytes of the head with its ids.
    pub(crate) fn ids_end(&self) -> usize {
        self.first()
    }

    /// Bytes of the batch, a whole number of pages.
    pub(crate) fn batch_bytes(&self) -> usize {
        self.place(to_usize(self.rows.into())).next_multiple_of(to_usize(PAGE_BYTES))
    }

    /// Writes head and ids into the front of a batch whose ids are there.
    pub(crate) fn seal(&self, uuid: Uuid, batch: &mut [u8]) {
        let mut w = Writer::default();
        w.raw(&MAGIC);
        w.raw(&uuid.0);
        w.u64(self.sequence);
        w.u64(self.generation);
        w.u64(self.position);
        w.u32(self.tensor.unwrap_or(WRAP));
        w.u32(self.rows);
        w.u32(self.record_bytes);
        w.u32(0);
        let fields = w.into_bytes();
        let ids = batch.get(HEADER_BYTES..self.ids_end()).unwrap_or_default();
        let crc = bound(&fields, ids);
        if let Some(head) = batch.get_mut(..HEADER_BYTES) {
            let (front, tail) = head.split_at_mut(fields.len());
            front.copy_from_slice(&fields);
            tail.fill(0);
            if let Some(place) = tail.first_chunk_mut() {
                *place = crc.to_le_bytes();
            }
        }
    }

    /// Decodes the fields; the checksum is for [`check`](Self::check), which needs the ids.
    pub(crate) fn decode(uuid: Uuid, bytes: &[u8]) -> Decoded<Self> {
        let mut r = Reader::new("row log batch", bytes);
        if r.raw("magic", 8)? != MAGIC || r.raw("uuid", 16)? != uuid.0 {
            return Err(r.error("magic", "other bytes", "a batch of this store"));
        }
        let (sequence, generation, position) = (r.u64("sequence")?, r.u64("generation")?, r.u64("position")?);
        let tensor = Some(r.u32("tensor")?).filter(|&tensor| tensor != WRAP);
        let (rows, record_bytes) = (r.u32("rows")?, r.u32("record bytes")?);
        let head = Self { sequence, generation, position, tensor, rows, record_bytes };
        let bytes = u64::from(rows) * (to_u64(RECORD_PREFIX_BYTES) + 8 + u64::from(record_bytes));
        if bytes + to_u64(HEADER_BYTES) > to_u64(MAX_BATCH_BYTES) || (tensor.is_none() && rows > 0) {
            let got = format!("{rows} rows of {record_bytes} bytes");
            return Err(r.error("rows", got, format!("a batch of at most {MAX_BATCH_BYTES} bytes")));
        }
        Ok(head)
    }

    /// Checks head and ids; `bytes` begins with both.
    pub(crate) fn check(&self, bytes: &[u8]) -> Decoded<()> {
        let fields = bytes.get(..HEADER_BYTES - 8).unwrap_or_default();
        let ids = bytes.get(HEADER_BYTES..self.ids_end()).unwrap_or_default();
        let stored = bytes.get(HEADER_BYTES - 8..).and_then(|rest| rest.first_chunk());
        let stored = stored.map_or(0, |bytes| u32::from_le_bytes(*bytes));
        let computed = bound(fields, ids);
        if stored == computed {
            return Ok(());
        }
        let (got, expected) = (format!("{computed:08x}"), format!("{stored:08x} as stored"));
        Err(FormatError::new("row log batch checksum", to_u64(HEADER_BYTES) - 8, got, expected))
    }
}

/// The ids of a batch; `bytes` begins with its head.
pub(crate) fn ids<'a>(head: &Head, bytes: &'a [u8]) -> impl Iterator<Item = u64> + use<'a> {
    let ids = bytes.get(HEADER_BYTES..head.ids_end()).unwrap_or_default();
    ids.chunks_exact(8).map(|id| id.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes)))
}

/// Checksum of a record in the log: over the store, tensor, row and position, and its bytes.
pub(crate) fn record_crc(uuid: Uuid, tensor: u32, row: u64, position: u64, record: &[u8]) -> u32 {
    let mut prefix = [0; 36];
    prefix[..16].copy_from_slice(&uuid.0);
    prefix[16..20].copy_from_slice(&tensor.to_le_bytes());
    prefix[20..28].copy_from_slice(&row.to_le_bytes());
    prefix[28..].copy_from_slice(&position.to_le_bytes());
    checksum::bound(&prefix, record)
}

/// Writes a record with its checksum into its place in a batch, which stands at `position`.
pub(crate) fn put_record(place: &mut [u8], uuid: Uuid, tensor: u32, row: u64, position: u64, record: &[u8]) {
    let crc = record_crc(uuid, tensor, row, position, record);
    let (prefix, target) = place.split_at_mut(RECORD_PREFIX_BYTES.min(place.len()));
    prefix.fill(0);
    if let Some(place) = prefix.first_chunk_mut() {
        *place = crc.to_le_bytes();
    }
    target.copy_from_slice(record);
}

/// The record that stands in a place, if it is whole and the one that is meant.
pub(crate) fn record_at(place: &[u8], uuid: Uuid, tensor: u32, row: u64, position: u64) -> Decoded<&[u8]> {
    let (prefix, record) = place.split_at(RECORD_PREFIX_BYTES.min(place.len()));
    let stored = prefix.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    let computed = record_crc(uuid, tensor, row, position, record);
    if stored == computed {
        return Ok(record);
    }
    let (got, expected) = (format!("{computed:08x}"), format!("{stored:08x} as stored"));
    Err(FormatError::new("row log record checksum", 0, got, expected))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: Uuid = Uuid([9; 16]);

    fn batch() -> (Head, Vec<u8>) {
        let head =
            Head { sequence: 3, generation: 7, position: 8192, tensor: Some(1), rows: 3, record_bytes: 24 };
        let mut batch = vec![0; head.batch_bytes()];
        for (index, row) in [5_u64, 6, 900].into_iter().enumerate() {
            batch[HEADER_BYTES + 8 * index..][..8].copy_from_slice(&row.to_le_bytes());
            let place = head.place(index);
            let position = 8192 + to_u64(place);
            put_record(
                &mut batch[place..place + 32],
                UUID,
                1,
                row,
                position,
                &[u8::try_from(index).unwrap(); 24],
            );
        }
        head.seal(UUID, &mut batch);
        (head, batch)
    }

    #[test]
    fn a_batch_is_read_back_as_it_was_written() {
        let (head, batch) = batch();
        assert_eq!(batch.len(), 4096);
        let read = Head::decode(UUID, &batch).unwrap();
        assert_eq!(read, head);
        read.check(&batch).unwrap();
        assert_eq!(ids(&read, &batch).collect::<Vec<_>>(), [5, 6, 900]);
        let place = head.place(2);
        let position = 8192 + to_u64(place);
        assert_eq!(record_at(&batch[place..place + 32], UUID, 1, 900, position).unwrap(), [2; 24]);
        for (tensor, row, position) in [(0, 900, position), (1, 901, position), (1, 900, position + 4096)] {
            record_at(&batch[place..place + 32], UUID, tensor, row, position).unwrap_err();
        }
    }

    #[test]
    fn every_bit_of_head_ids_and_records_counts() {
        let (head, batch) = batch();
        for bit in 0..8 * head.place(3) {
            let mut bad = batch.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let is_zeros = matches!(bit / 8, 60..64 | 68..72);
            let whole = Head::decode(UUID, &bad).is_ok_and(|read| read.check(&bad).is_ok() && read == head)
                && [5, 6, 900].into_iter().enumerate().all(|(index, row)| {
                    let place = head.place(index);
                    record_at(&bad[place..place + 32], UUID, 1, row, 8192 + to_u64(place)).is_ok()
                });
            let in_padding = bit / 8 >= head.ids_end()
                && (bit / 8 - head.ids_end()) % 32 >= 4
                && (bit / 8 - head.ids_end()) % 32 < 8;
            assert_eq!(whole, in_padding || (is_zeros && bit / 8 >= 68), "bit {bit}");
        }
    }

    #[test]
    fn a_state_of_the_log_that_cannot_be_is_refused() {
        let state = RowState {
            start: 4096,
            end: 12288,
            sequence: 9,
            counts: vec![RowCounts::of([1, 2, 3, 4]), RowCounts::of([5, 6, 7, 8])],
        };
        let encoded = |state: &RowState| {
            let mut w = Writer::default();
            state.encode(&mut w);
            w.into_bytes()
        };
        let decode = |bytes: &[u8]| RowState::decode(&mut Reader::new("record", bytes));
        assert_eq!(decode(&encoded(&state)).unwrap(), state);
        let end_of_all = u64::MAX - 4095;
        decode(&encoded(&RowState { sequence: u64::MAX, ..state.clone() })).unwrap_err();
        for (start, end) in
            [(4096, 0), (1, 4096), (0, 4097), (0, MAX_RING_BYTES + 4096), (end_of_all - 4096, end_of_all)]
        {
            decode(&encoded(&RowState { start, end, ..state.clone() })).unwrap_err();
        }
    }
}
