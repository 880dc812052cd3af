//! Records of rows: what a row of a table is in its page, and a page in its block.
//!
//! A record is everything that a row has: a mark of its last update, then its part of each plane. Pages have a checksum
//! of their own, so that one row can be read without the block around it.

use super::PAGE_BYTES;
use super::checksum::{Uuid, bound};
use super::codec::{Decoded, Reader, Writer};
use crate::units::{SlotIndex, to_u64, to_usize};

/// Largest page of records.
pub(crate) const MAX_PAGE_BYTES: u64 = 1 << 20;
/// Bytes in front of the records of a page: its checksum, and zeros.
pub(crate) const PAGE_HEADER_BYTES: usize = 8;
/// Elements in front of the planes of a record: the mark, a u64. It is 0 for a row that has its initial values, and else 1
/// more than the number of updates that its tensor had had after the row's last one.
const MARK_LEN: usize = 2;
/// Elements behind the mark where rows are found by hashed ids: [`Sightings`].
const SIGHTINGS_LEN: usize = 6;
/// Bytes in front of them.
const MARK_BYTES: usize = 4 * MARK_LEN;
/// Most planes of a record.
const MAX_PLANES: u8 = 16;

/// A plane's part of a record.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct RecordPlane {
    /// Index of the plane.
    pub(crate) plane: u16,
    /// Elements of each row.
    pub(crate) width: u32,
    /// Value of elements of a row that was never updated (the parameter plane asks the tensor's init instead).
    pub(crate) fill: f32,
}

/// What becomes of a row in steps that do not name it. [Example](crate::TensorSpec#example).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RowMode {
    /// Nothing: parameters and moments wait, as PyTorch's rules for sparse gradients have it.
    #[default]
    Lazy,
    /// What a dense run would have done to it, whose gradient was zeros: made up for when the row is named or read.
    CatchUp,
}

impl RowMode {
    const fn code(self) -> u8 {
        match self {
            Self::Lazy => 0,
            Self::CatchUp => 1,
        }
    }

    fn decode(r: &mut Reader<'_>) -> Decoded<Self> {
        match r.u8("row mode")? {
            0 => Ok(Self::Lazy),
            1 => Ok(Self::CatchUp),
            code => Err(r.error("row mode", code, "0 or 1")),
        }
    }

    /// `lazy` or `catch-up`.
    ///
    /// ```
    /// use paramstore::RowMode;
    ///
    /// assert_eq!((RowMode::Lazy.name(), RowMode::CatchUp.name()), ("lazy", "catch-up"));
    /// ```
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lazy => "lazy",
            Self::CatchUp => "catch-up",
        }
    }
}

/// What the records of an extent are.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Records {
    /// A power of two.
    pub(crate) page_bytes: u32,
    pub(crate) mode: RowMode,
    /// How often a row has to be seen before it is updated, where rows are found by hashed ids; else 0.
    pub(crate) admission: u32,
    /// The parameters, then the state in the optimizer's order.
    pub(crate) planes: Vec<RecordPlane>,
}

impl Records {
    /// Elements of a record: even, so that records are aligned to the u64 in front of them.
    pub(crate) fn len(&self) -> usize {
        let planes = self.planes.iter().map(|plane| to_usize(plane.width.into())).sum::<usize>();
        (self.header_len() + planes).next_multiple_of(2)
    }

    /// Elements in front of the planes.
    fn header_len(&self) -> usize {
        if self.is_hashed() { MARK_LEN + SIGHTINGS_LEN } else { MARK_LEN }
    }

    /// Whether rows are found by hashed ids.
    pub(crate) const fn is_hashed(&self) -> bool {
        self.admission > 0
    }

    /// Bytes of a record.
    pub(crate) fn bytes(&self) -> usize {
        4 * self.len()
    }

    /// Records of a page; 0 if not even one has room.
    pub(crate) fn per_page(&self) -> usize {
        (to_usize(self.page_bytes.into()) - PAGE_HEADER_BYTES) / self.bytes()
    }

    /// Where the elements of a plane stand in a record.
    pub(crate) fn within(&self, plane: usize) -> std::ops::Range<usize> {
        let width = |plane: &RecordPlane| to_usize(plane.width.into());
        let start = self.header_len() + self.planes.iter().take(plane).map(width).sum::<usize>();
        start..start + self.planes.get(plane).map_or(0, width)
    }

    pub(super) fn encode(&self, w: &mut Writer) {
        w.u32(self.page_bytes);
        w.u8(self.mode.code());
        w.u32(self.admission);
        w.u8(u8::try_from(self.planes.len()).unwrap_or(u8::MAX));
        for plane in &self.planes {
            w.u16(plane.plane);
            w.u32(plane.width);
            w.f32(plane.fill);
        }
    }

    /// Decodes what can be computed with: sizes are bounded.
    pub(super) fn decode(r: &mut Reader<'_>) -> Decoded<Self> {
        let page_bytes = r.u32("record page bytes")?;
        if !page_bytes.is_power_of_two() || !(PAGE_BYTES..=MAX_PAGE_BYTES).contains(&u64::from(page_bytes)) {
            return Err(r.error("record page bytes", page_bytes, "a power of two from 4096 to 1048576"));
        }
        let mode = RowMode::decode(r)?;
        let admission = r.u32("row admission")?;
        let count = r.u8("record plane count")?;
        if count == 0 || count > MAX_PLANES {
            return Err(r.error("record plane count", count, format!("1 to {MAX_PLANES}")));
        }
        let planes = (0..count).map(|_| decode_plane(r)).collect::<Decoded<Vec<_>>>()?;
        let records = Self { page_bytes, mode, admission, planes };
        if records.per_page() == 0 {
            let got = format!("records of {} bytes", records.bytes());
            return Err(r.error(
                "record planes",
                got,
                format!("records that fit pages of {page_bytes} bytes"),
            ));
        }
        Ok(records)
    }
}

fn decode_plane(r: &mut Reader<'_>) -> Decoded<RecordPlane> {
    let plane = r.u16("record plane")?;
    let width = r.u32("record plane width")?;
    if width == 0 || u64::from(width) > MAX_PAGE_BYTES {
        return Err(r.error("record plane width", width, format!("1 to {MAX_PAGE_BYTES}")));
    }
    Ok(RecordPlane { plane, width, fill: r.f32("record plane fill")? })
}

/// The mark of a record: 0 for a row that has its initial values.
pub(crate) fn mark(record: &[u8]) -> u64 {
    record.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Sets the mark of a record.
pub(crate) fn set_mark(record: &mut [u8], mark: u64) {
    if let Some(bytes) = record.first_chunk_mut() {
        *bytes = mark.to_le_bytes();
    }
}

/// What a record tells of the ids that were hashed to its row; all zeros as long as there were none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Sightings {
    /// The first of them.
    pub(crate) id: u64,
    /// Updates that the tensor had had after the last of them.
    pub(crate) last: u64,
    /// How many there were, duplicates counted, up to the largest number.
    pub(crate) count: u32,
}

/// What a record of hashed ids tells of them.
pub(crate) fn sightings(record: &[u8]) -> Sightings {
    let word =
        |at: usize| record.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |b| u64::from_le_bytes(*b));
    let count = record.get(MARK_BYTES + 16..).and_then(<[u8]>::first_chunk);
    let count = count.map_or(0, |bytes| u32::from_le_bytes(*bytes));
    Sightings { id: word(MARK_BYTES), last: word(MARK_BYTES + 8), count }
}

/// Sets it.
pub(crate) fn set_sightings(record: &mut [u8], sightings: Sightings) {
    let Sightings { id, last, count } = sightings;
    let words = [id, last, count.into()];
    let target = record.get_mut(MARK_BYTES..MARK_BYTES + 4 * SIGHTINGS_LEN).unwrap_or_default();
    for (target, word) in target.chunks_exact_mut(8).zip(words) {
        target.copy_from_slice(&word.to_le_bytes());
    }
}

/// Checksum of a page of records, kept in front of it: over the store, the block's slot and generation, the page's
/// number in the block, and the bytes behind it.
pub(crate) fn page_crc(uuid: Uuid, slot: SlotIndex, generation: u64, number: usize, page: &[u8]) -> u32 {
    let mut prefix = [0; 40];
    prefix[..16].copy_from_slice(&uuid.0);
    prefix[16..24].copy_from_slice(&slot.0.to_le_bytes());
    prefix[24..32].copy_from_slice(&generation.to_le_bytes());
    prefix[32..].copy_from_slice(&to_u64(number).to_le_bytes());
    bound(&prefix, page.get(4..).unwrap_or_default())
}

/// The checksum that a page carries.
pub(crate) fn stored_page_crc(page: &[u8]) -> u32 {
    page.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// Gives a page its checksum.
pub(crate) fn seal_page(uuid: Uuid, slot: SlotIndex, generation: u64, number: usize, page: &mut [u8]) {
    let crc = page_crc(uuid, slot, generation, number, page);
    if let Some(bytes) = page.first_chunk_mut() {
        *bytes = crc.to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(widths: &[u32], page_bytes: u32) -> Records {
        let plane = |(plane, &width)| RecordPlane { plane, width, fill: 0.0 };
        Records {
            page_bytes,
            mode: RowMode::CatchUp,
            admission: 0,
            planes: (0..).zip(widths).map(plane).collect(),
        }
    }

    #[test]
    fn a_record_holds_its_planes_one_after_the_other() {
        let adam = records(&[64, 64, 64], 4096);
        assert_eq!((adam.len(), adam.bytes(), adam.per_page()), (194, 776, 5));
        assert_eq!([0, 1, 2].map(|plane| adam.within(plane)), [2..66, 66..130, 130..194]);
        let odd = records(&[3, 1], 4096);
        assert_eq!((odd.len(), odd.within(1)), (6, 5..6));
        assert_eq!(records(&[2000], 4096).per_page(), 0);
    }

    #[test]
    fn sightings_stand_between_the_mark_and_the_planes() {
        let hashed = Records { admission: 3, ..records(&[4, 1], 4096) };
        assert_eq!((hashed.within(0), hashed.within(1), hashed.bytes()), (8..12, 12..13, 56));
        let mut record = vec![0xff; hashed.bytes()];
        let seen = Sightings { id: u64::MAX - 1, last: 1 << 40, count: 7 };
        set_mark(&mut record, 5);
        set_sightings(&mut record, seen);
        assert_eq!((mark(&record), sightings(&record)), (5, seen));
        assert!(record[4 * 8..].iter().all(|&byte| byte == 0xff));
        assert_eq!(sightings(&[0; 56]), Sightings::default());
    }

    #[test]
    fn what_could_not_be_computed_with_is_refused() {
        let good = records(&[64, 64], 8192);
        let encoded = |records: &Records| {
            let mut w = Writer::default();
            records.encode(&mut w);
            w.into_bytes()
        };
        let decode = |bytes: &[u8]| Records::decode(&mut Reader::new("records", bytes));
        assert_eq!(decode(&encoded(&good)).unwrap(), good);
        let wide = [u32::MAX; 3];
        let many = [1; 17];
        for (widths, page) in [(&[][..], 4096), (&[0], 4096), (&[4], 100), (&[4], 4097), (&[4], 1 << 21)] {
            decode(&encoded(&records(widths, page))).unwrap_err();
        }
        for (widths, page) in [(&wide[..], 4096), (&many, 4096), (&[1022], 4096)] {
            decode(&encoded(&records(widths, page))).unwrap_err();
        }
    }

    #[test]
    fn a_page_knows_where_it_belongs() {
        let uuid = Uuid([1; 16]);
        let mut page = vec![7; 4096];
        seal_page(uuid, SlotIndex(5), 3, 2, &mut page);
        let crc = |slot, generation, number| page_crc(uuid, SlotIndex(slot), generation, number, &page);
        assert_eq!(stored_page_crc(&page), crc(5, 3, 2));
        assert!([crc(6, 3, 2), crc(5, 4, 2), crc(5, 3, 1)].iter().all(|&other| other != crc(5, 3, 2)));
        set_mark(&mut page[8..], 77);
        assert_eq!(mark(&page[8..]), 77);
        assert_ne!(stored_page_crc(&page), page_crc(uuid, SlotIndex(5), 3, 2, &page));
    }
}
