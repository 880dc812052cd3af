//! Notes for people who look on: a page that says what a writer does now, and a file of what each step took. Hints, never
//! trusted, never needed.

use super::checksum::{Uuid, crc32};
use super::codec::{Decoded, Reader, Writer};
use crate::units::{to_u64, to_usize};

/// Name of the file whose one page says what the writer does now.
pub(crate) const LIVE_FILE: &str = "live";
/// Name of the file with what steps took.
pub(crate) const METRICS_FILE: &str = "metrics";
/// Length of the page of [`LIVE_FILE`].
pub(crate) const LIVE_BYTES: u64 = 4096;
/// Length of [`METRICS_FILE`].
pub(crate) const METRICS_BYTES: u64 = to_u64_const(LEVELS * SLOTS * RECORD_BYTES);

/// Cells of the map of blocks, at most.
pub(crate) const CELLS_MAX: usize = 2048;
/// Counters on the page.
pub(crate) const COUNTERS: usize = 24;

const MAGIC: [u8; 8] = *b"PARSLIVE";
const MAP_AT: usize = 1024;
const CRC_AT: usize = 4092;

/// Bytes of the record of a step.
const RECORD_BYTES: usize = 128;
/// Records of each level; level `k` has the steps that are multiples of `4^k`.
const SLOTS: usize = 1024;
const LEVELS: usize = 8;

const fn to_u64_const(value: usize) -> u64 {
    value as u64
}

/// What a writer does now.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LivePage {
    pub(crate) uuid: Uuid,
    pub(crate) pid: u32,
    /// Milliseconds since 1970: when this was written, and when the store was opened.
    pub(crate) now_unix_ms: u64,
    pub(crate) opened_unix_ms: u64,
    pub(crate) step: u64,
    pub(crate) generation: u64,
    pub(crate) committed_step: u64,
    pub(crate) budget_bytes: u64,
    pub(crate) hot_bytes: u64,
    pub(crate) dirty_bytes: u64,
    pub(crate) counters: [u64; COUNTERS],
    /// Loss, validation loss, learning rate; NaN where nobody said.
    pub(crate) values: [f64; 3],
    /// Blocks of the store, and a byte for each run of them.
    pub(crate) blocks: u64,
    pub(crate) cells: Vec<u8>,
}

impl LivePage {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.raw(&MAGIC);
        w.raw(&self.uuid.0);
        w.u32(self.pid);
        w.u32(0);
        let numbers = [
            self.now_unix_ms,
            self.opened_unix_ms,
            self.step,
            self.generation,
            self.committed_step,
            self.budget_bytes,
            self.hot_bytes,
            self.dirty_bytes,
            self.blocks,
        ];
        numbers.into_iter().chain(self.counters).for_each(|number| w.u64(number));
        self.values.into_iter().for_each(|value| w.f64(value));
        w.zeros_to(MAP_AT);
        let cells = self.cells.get(..self.cells.len().min(CELLS_MAX)).unwrap_or_default();
        w.count(cells.len());
        w.raw(cells);
        w.zeros_to(CRC_AT);
        let crc = crc32(w.bytes());
        w.u32(crc);
        w.into_bytes()
    }

    /// Decodes a page that was read at once; one that was read while it was being written fails its checksum.
    pub(crate) fn decode(bytes: &[u8]) -> Decoded<Self> {
        let mut r = Reader::new("live page", bytes);
        let body = r.raw("body", CRC_AT)?;
        let crc = r.u32("checksum")?;
        r.end()?;
        let mut r = Reader::new("live page", body);
        if r.raw("magic", 8)? != MAGIC || crc != crc32(body) {
            return Err(r.error("checksum", format!("{crc:08x}"), format!("{:08x}", crc32(body))));
        }
        let mut uuid = Uuid([0; 16]);
        uuid.0.copy_from_slice(r.raw("uuid", 16)?);
        let pid = r.u32("process")?;
        r.u32("reserved")?;
        let mut numbers = [0; 9 + COUNTERS];
        for number in &mut numbers {
            *number = r.u64("number")?;
        }
        let mut values = [0.0; 3];
        for value in &mut values {
            *value = r.f64("value")?;
        }
        let mut r = Reader::new("map of blocks", body.get(MAP_AT..).unwrap_or_default());
        let count = r.count("cells", 1)?;
        if count > CELLS_MAX {
            return Err(r.error("cells", count, format!("at most {CELLS_MAX}")));
        }
        let cells = r.raw("cells", count)?.to_vec();
        let [now, opened, step, generation, committed, budget, hot, dirty, blocks, counters @ ..] = numbers;
        Ok(Self {
            uuid,
            pid,
            now_unix_ms: now,
            opened_unix_ms: opened,
            step,
            generation,
            committed_step: committed,
            budget_bytes: budget,
            hot_bytes: hot,
            dirty_bytes: dirty,
            counters,
            values,
            blocks,
            cells,
        })
    }
}

/// What a step took, and what its trainer said of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct StepNote {
    pub(crate) step: u64,
    pub(crate) generation: u64,
    pub(crate) unix_ms: u64,
    /// Nanoseconds: from the end of the step before to the end of this one; updating; waiting for reads, writes and updates;
    /// of the disk; of commits; then bytes read and written.
    pub(crate) numbers: [u64; 9],
    /// Loss, validation loss, learning rate; NaN where nobody said.
    pub(crate) values: [f64; 3],
}

impl StepNote {
    pub(crate) fn encode(&self, uuid: Uuid) -> Vec<u8> {
        let mut w = Writer::default();
        // Not 0, so that zeros are no record.
        w.u64(self.step.wrapping_add(1));
        w.u64(self.generation);
        w.u64(self.unix_ms);
        self.numbers.into_iter().for_each(|number| w.u64(number));
        self.values.into_iter().for_each(|value| w.f64(value));
        w.zeros_to(RECORD_BYTES - 4);
        let crc = note_crc(uuid, w.bytes());
        w.u32(crc);
        w.into_bytes()
    }

    fn decode(uuid: Uuid, bytes: &[u8]) -> Option<Self> {
        let (body, crc) = bytes.split_at_checked(RECORD_BYTES - 4)?;
        let mut r = Reader::new("note of a step", crc);
        if r.u32("checksum").ok()? != note_crc(uuid, body) {
            return None;
        }
        let mut r = Reader::new("note of a step", body);
        let mut next = || r.u64("number").ok();
        let (step, generation, unix_ms) = (next()?.checked_sub(1)?, next()?, next()?);
        let mut numbers = [0; 9];
        for number in &mut numbers {
            *number = next()?;
        }
        let mut values = [0.0; 3];
        for value in &mut values {
            *value = f64::from_bits(next()?);
        }
        Some(Self { step, generation, unix_ms, numbers, values })
    }
}

fn note_crc(uuid: Uuid, body: &[u8]) -> u32 {
    crc32(&[&uuid.0[..], body].concat())
}

/// Where the note of a step goes: offsets in the file, one for each level that has it.
pub(crate) fn places(step: u64) -> impl Iterator<Item = u64> {
    let level = move |k: usize| {
        let stride = 1_u64 << (2 * k);
        let slot = step / stride % to_u64(SLOTS);
        let is_in = step.is_multiple_of(stride);
        is_in.then_some((to_u64(k * SLOTS) + slot) * to_u64(RECORD_BYTES))
    };
    (0..LEVELS).map_while(level)
}

/// The notes in a file, ascending, of steps up to `last`: those of a run that was cut off and goes on are taken over one by one.
pub(crate) fn notes(uuid: Uuid, bytes: &[u8], last: u64) -> Vec<StepNote> {
    let records = bytes.get(..bytes.len().min(to_usize(METRICS_BYTES))).unwrap_or_default();
    let decoded = records.chunks_exact(RECORD_BYTES).filter_map(|record| StepNote::decode(uuid, record));
    let mut notes: Vec<_> = decoded.filter(|note| note.step <= last).collect();
    // Of two for a step, which the levels may have after a way back, the later one is true.
    notes.sort_by_key(|note| (note.step, std::cmp::Reverse(note.unix_ms)));
    notes.dedup_by_key(|note| note.step);
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: Uuid = Uuid([7; 16]);

    fn note(step: u64, loss: f64) -> StepNote {
        StepNote {
            step,
            generation: 3,
            unix_ms: 1000 + step,
            numbers: std::array::from_fn(|i| step + i as u64),
            values: [loss, f64::NAN, 1e-3],
        }
    }

    fn page(cells: usize) -> LivePage {
        LivePage {
            uuid: UUID,
            pid: 5,
            now_unix_ms: 6,
            opened_unix_ms: 7,
            step: 8,
            generation: 9,
            committed_step: 10,
            budget_bytes: 11,
            hot_bytes: 12,
            dirty_bytes: 13,
            counters: std::array::from_fn(|i| i as u64),
            values: [1.5, 2.5, 0.5],
            blocks: 1 << 40,
            cells: (0..cells).map(|i| u8::try_from(i % 64).unwrap()).collect(),
        }
    }

    #[test]
    fn a_page_comes_back_whole_and_with_any_byte_changed_not_at_all() {
        for cells in [0, 1, CELLS_MAX] {
            let bytes = page(cells).encode();
            assert_eq!(bytes.len(), 4096);
            assert_eq!(LivePage::decode(&bytes).unwrap(), page(cells));
            for at in (0..4096).step_by(61) {
                let mut other = bytes.clone();
                other[at] ^= 1;
                assert!(LivePage::decode(&other).is_err(), "byte {at}");
            }
        }
        assert!(LivePage::decode(&[0; 4096]).is_err() && LivePage::decode(&[]).is_err());
    }

    #[test]
    fn notes_of_a_long_run_are_dense_at_its_end_and_thin_at_its_beginning() {
        let mut file = vec![0; METRICS_BYTES.try_into().unwrap()];
        let last = 100_000;
        for step in 1..=last {
            let record = note(step, f64::from(u32::try_from(step).unwrap())).encode(UUID);
            for place in places(step).map(|place| usize::try_from(place).unwrap()) {
                file[place..place + RECORD_BYTES].copy_from_slice(&record);
            }
        }
        let found = notes(UUID, &file, last);
        assert!(found.is_sorted_by(|a, b| a.step < b.step));
        let steps: Vec<_> = found.iter().map(|note| note.step).collect();
        assert!((last - 1023..=last).all(|step| steps.binary_search(&step).is_ok()));
        assert!(
            steps.len() > 3000 && steps.iter().filter(|&&step| step < 50_000).count() >= 100,
            "{}",
            steps.len()
        );
        assert_eq!(found.last().unwrap().values[0].to_bits(), f64::from(100_000_u32).to_bits());
        assert_eq!(notes(UUID, &file, 77).len(), 0, "what is so old is thin");
        assert!(notes(Uuid([8; 16]), &file, last).is_empty(), "notes of another store");
    }

    #[test]
    fn steps_made_once_more_after_a_way_back_take_the_place_of_those_that_were_lost() {
        let mut file = vec![0; METRICS_BYTES.try_into().unwrap()];
        let mut put = |note: StepNote| {
            for place in places(note.step).map(|place| usize::try_from(place).unwrap()) {
                file[place..place + RECORD_BYTES].copy_from_slice(&note.encode(UUID));
            }
        };
        (1..=20).for_each(|step| put(note(step, 1.0)));
        (11..=12).for_each(|step| put(StepNote { unix_ms: 5000, ..note(step, 2.0) }));
        let found = notes(UUID, &file, 12);
        assert_eq!(found.len(), 12);
        assert!(found.iter().all(|note| (note.values[0] > 1.5) == (note.step > 10)));
    }
}
