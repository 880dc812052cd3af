//! The superblock: one page that makes a generation the committed one.

use super::checksum::{Uuid, crc32};
use super::codec::{Decoded, FormatError, Reader, Writer};
use super::{FORMAT_VERSION, PAGE_BYTES};
use crate::units::to_usize;

const MAGIC: [u8; 8] = *b"PARSTORE";
const ENDIAN_TAG: u32 = 0x0102_0304;
const GENERATION_AT: usize = 56;
const CRC_AT: usize = 4092;
const WRITER_BYTES: usize = 32;

/// Features that a reader may ignore and a writer must know.
pub(crate) const KNOWN_RO_COMPAT: u64 = RO_COMPAT_SPARSE | RO_COMPAT_KEPT;
/// The store's files are allocated when blocks are first written.
pub(crate) const RO_COMPAT_SPARSE: u64 = 1;
/// The store is a kept checkpoint of another, which nobody writes to.
pub(crate) const RO_COMPAT_KEPT: u64 = 2;
/// Features without which nothing can be read.
pub(crate) const KNOWN_INCOMPAT: u64 =
    INCOMPAT_ROWS | INCOMPAT_NARROW | INCOMPAT_FROZEN | INCOMPAT_COMPUTE | INCOMPAT_COMPENSATION;
/// Tensors of rows: extents of records, and a log.
pub(crate) const INCOMPAT_ROWS: u64 = 1;
/// Planes of other types than f32.
pub(crate) const INCOMPAT_NARROW: u64 = 2;
/// Some tensors are never updated, and have one home.
pub(crate) const INCOMPAT_FROZEN: u64 = 4;
/// Some tensors have a copy in 16 bits, which is written with them.
pub(crate) const INCOMPAT_COMPUTE: u64 = 8;
/// Some tensors keep what rounding their parameters lost, and are more than their parameters.
pub(crate) const INCOMPAT_COMPENSATION: u64 = 16;

/// Longest directory: read into memory at open, so that a sparse file of any length cannot ask for more.
pub(crate) const MAX_DIRECTORY_BYTES: u64 = 256 << 20;
/// Largest room for a record; the user's part has its own limit.
const MAX_RECORD_BYTES: u64 = 64 << 20;
/// Largest generation and step: far beyond what can be reached, and the next ones can be counted.
const MAX_COUNT: u64 = 1 << 63;

/// A byte range of the metadata file with its checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Region {
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
    pub(crate) crc: u32,
}

/// What a superblock says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Superblock {
    pub(crate) compat: u64,
    pub(crate) ro_compat: u64,
    pub(crate) incompat: u64,
    pub(crate) uuid: Uuid,
    pub(crate) generation: u64,
    /// Checksum field of the superblock of the generation before; 0 in the first.
    pub(crate) parent_crc: u32,
    /// Optimizer steps finished when the generation was committed.
    pub(crate) step: u64,
    /// Seconds since 1970 at creation, or when a checkpoint was kept; for people.
    pub(crate) created_unix_s: u64,
    pub(crate) directory: Region,
    /// The record in force: its offset names one of the two record homes.
    pub(crate) record: Region,
    /// Offset of record home 0; home 1 follows at `record_capacity`.
    pub(crate) record_offset: u64,
    /// Bytes reserved for each record home.
    pub(crate) record_capacity: u64,
    /// Offset of the table's first page.
    pub(crate) table_offset: u64,
    /// Entries in the table.
    pub(crate) table_slots: u64,
    pub(crate) root: super::page::Child,
    /// Version of the program that wrote this superblock.
    pub(crate) writer: String,
}

impl Superblock {
    /// Offset of the slot that holds a generation.
    pub(crate) fn slot_offset(generation: u64) -> u64 {
        (generation % 2) * PAGE_BYTES
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.raw(&MAGIC);
        w.u32(ENDIAN_TAG);
        w.u32(FORMAT_VERSION);
        w.u64(self.compat);
        w.u64(self.ro_compat);
        w.u64(self.incompat);
        w.raw(&self.uuid.0);
        w.u64(self.generation);
        w.u64(self.step);
        w.u64(self.created_unix_s);
        for region in [self.directory, self.record] {
            w.u64(region.offset);
            w.u64(region.bytes);
            w.u32(region.crc);
            w.u32(0);
        }
        w.u64(self.record_offset);
        w.u64(self.record_capacity);
        w.u64(self.table_offset);
        w.u64(self.table_slots);
        self.root.encode(&mut w);
        w.u32(self.parent_crc);
        w.u32(0);
        let writer = self.writer.as_bytes();
        let end = w.bytes().len() + WRITER_BYTES;
        w.raw(utf8_prefix(writer.get(..WRITER_BYTES).unwrap_or(writer)).as_bytes());
        w.zeros_to(end);
        w.zeros_to(CRC_AT);
        let crc = crc32(w.bytes());
        w.u32(crc);
        w.into_bytes()
    }

    /// Decodes and judges one slot: checksum first, then version and features, then the fields.
    pub(crate) fn decode(page: &[u8]) -> Decoded<Self> {
        let mut r = Reader::new("superblock", page);
        let magic = r.raw("magic", 8)?;
        if magic != MAGIC {
            return Err(r.error("magic", format!("{magic:02x?}"), format!("{MAGIC:02x?}")));
        }
        let endian = r.u32("endian tag")?;
        if endian != ENDIAN_TAG {
            return Err(r.error("endian tag", format!("{endian:#x}"), format!("{ENDIAN_TAG:#x}")));
        }
        superblock_crc(page)?;
        let version = r.u32("format version")?;
        if version != FORMAT_VERSION {
            return Err(FormatError::unsupported(
                "format version",
                format!("version {version} (this program knows version {FORMAT_VERSION})"),
            ));
        }
        Self::decode_fields(&mut r)
    }

    fn decode_fields(r: &mut Reader<'_>) -> Decoded<Self> {
        let compat = r.u64("compat features")?;
        let ro_compat = r.u64("ro_compat features")?;
        let incompat = r.u64("incompat features")?;
        // Before any other field is judged: a feature may give it another meaning, and a store that is too new must
        // not pass for a damaged one, whose older generation would be taken.
        let unknown = incompat & !KNOWN_INCOMPAT;
        if unknown != 0 {
            return Err(FormatError::unsupported("incompatible feature bits", format!("{unknown:#x}")));
        }
        let mut uuid = Uuid([0; 16]);
        uuid.0.copy_from_slice(r.raw("uuid", 16)?);
        let generation = r.u64("generation")?;
        let step = r.u64("step")?;
        if generation == 0 || generation > MAX_COUNT || step > MAX_COUNT {
            let got = format!("generation {generation}, step {step}");
            return Err(r.error("generation", got, "a generation of 1 to 2^63, a step of 0 to 2^63"));
        }
        let created_unix_s = r.u64("creation time")?;
        let directory = region(r)?;
        let record = region(r)?;
        let record_offset = r.u64("record offset")?;
        let record_capacity = r.u64("record capacity")?;
        let table_offset = r.u64("table offset")?;
        let table_slots = r.u64("table slots")?;
        let root = super::page::Child::decode(r)?;
        let parent_crc = r.u32("parent checksum")?;
        r.u32("reserved")?;
        let writer = r.raw("writer version", WRITER_BYTES)?;
        let writer = utf8_prefix(writer.split(|&b| b == 0).next().unwrap_or_default()).to_owned();
        Ok(Self {
            compat,
            ro_compat,
            incompat,
            uuid,
            generation,
            parent_crc,
            step,
            created_unix_s,
            directory,
            record,
            record_offset,
            record_capacity,
            table_offset,
            table_slots,
            root,
            writer,
        })
    }

    /// Checks that every region lies inside the metadata file and none overlaps another.
    pub(crate) fn validate(&self, file_bytes: u64) -> Decoded<()> {
        let bad = |field: &str, got: String, expected: String| {
            Err(FormatError::new(format!("superblock {field}"), 0, got, expected))
        };
        if self.directory.bytes > MAX_DIRECTORY_BYTES || self.record_capacity > MAX_RECORD_BYTES {
            let got = format!("{} bytes, records of {}", self.directory.bytes, self.record_capacity);
            let expected = format!("at most {MAX_DIRECTORY_BYTES} and {MAX_RECORD_BYTES} bytes");
            return bad("directory length", got, expected);
        }
        let mut end = 2 * PAGE_BYTES;
        let table =
            super::page::TableShape::new(self.table_slots).and_then(|shape| shape.bytes()).ok_or_else(
                || FormatError::new("superblock table slots", 0, self.table_slots, "a smaller table"),
            )?;
        let records = self.record_capacity.checked_mul(2);
        let parts = [
            ("directory", self.directory.offset, Some(self.directory.bytes)),
            ("records", self.record_offset, records),
            ("table", self.table_offset, Some(table)),
        ];
        for (name, offset, bytes) in parts {
            if offset != end {
                return bad(name, format!("offset {offset}"), format!("offset {end}"));
            }
            let next = bytes
                .and_then(|bytes| offset.checked_add(bytes))
                .and_then(|next| crate::units::round_up(next, PAGE_BYTES));
            end = match next {
                Some(next) if next <= file_bytes => next,
                _ => {
                    let got = format!("{bytes:?} bytes at {offset}");
                    return bad(name, got, format!("an end inside the file's {file_bytes} bytes"));
                }
            };
        }
        if end != file_bytes {
            return bad("file length", format!("{file_bytes} bytes"), format!("{end} bytes"));
        }
        let homes = [Some(self.record_offset), self.record_offset.checked_add(self.record_capacity)];
        if !homes.contains(&Some(self.record.offset)) || self.record.bytes > self.record_capacity {
            let got = format!("{} bytes at {}", self.record.bytes, self.record.offset);
            return bad("record", got, format!("at most {} bytes in a record home", self.record_capacity));
        }
        Ok(())
    }
}

/// The generation that a page with a superblock's magic names; no checksum vouches for it.
pub(crate) fn claimed_generation(page: &[u8]) -> Option<u64> {
    let rest = page.strip_prefix(&MAGIC)?;
    let at = GENERATION_AT - MAGIC.len();
    rest.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
}

/// Checks a superblock's own checksum and returns it.
pub(crate) fn superblock_crc(page: &[u8]) -> Decoded<u32> {
    let len = to_usize(PAGE_BYTES);
    if page.len() != len {
        return Err(FormatError::new("superblock length", 0, page.len(), len));
    }
    let (body, tail) = page.split_at(CRC_AT);
    let mut r = Reader::new("superblock", tail);
    let stored = r.u32("checksum")?;
    let computed = crc32(body);
    if stored != computed {
        return Err(FormatError::new(
            "superblock checksum",
            4092,
            format!("{computed:08x}"),
            format!("{stored:08x} as stored"),
        ));
    }
    Ok(stored)
}

/// The front of some bytes that is UTF-8: a name for people, which is no reason to refuse a store.
fn utf8_prefix(bytes: &[u8]) -> &str {
    bytes.utf8_chunks().next().map_or("", |chunk| chunk.valid())
}

fn region(r: &mut Reader<'_>) -> Decoded<Region> {
    let offset = r.u64("region offset")?;
    let bytes = r.u64("region length")?;
    let crc = r.u32("region checksum")?;
    r.u32("reserved")?;
    Ok(Region { offset, bytes, crc })
}
