//! Typed views of tensors: in place where the bytes stand together on disk, gathered otherwise.

use std::collections::HashMap;
use std::ops::{Deref, Range};

use super::frames::Frame;
use super::pool::Reservation;
use super::{IoPath, Key, Pager, read_ahead};
use crate::error::{Error, Result};
use crate::format::checksum::block_crc;
use crate::format::elements::{as_f32, as_f32_mut};
use crate::layout::{BlockPlace, Piece, block_elements, describe_block, pieces};
use crate::storage::{Buffer, Caching, Mapped};
use crate::store::Home;
use crate::units::{SlotIndex, to_u64, to_usize};

/// A tensor's parameters as a slice. It borrows the store, so that no step can change them meanwhile.
///
/// Zero-copy (a read-only memory map) where all blocks of the tensor stand together in one home; otherwise gathered
/// into memory that counts against the budget until the view is dropped.
pub struct View<'a> {
    bytes: Bytes,
    range: Range<usize>,
    _store: std::marker::PhantomData<&'a ()>,
}

enum Bytes {
    InPlace(Box<dyn Mapped>),
    Gathered { buffer: Buffer, _reservation: Reservation },
}

impl View<'_> {
    /// Whether the elements are seen where they stand on disk.
    #[must_use]
    pub fn is_zero_copy(&self) -> bool {
        matches!(self.bytes, Bytes::InPlace(_))
    }
}

impl Deref for View<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        let bytes = match &self.bytes {
            Bytes::InPlace(map) => map.bytes(),
            Bytes::Gathered { buffer, .. } => buffer,
        };
        as_f32(bytes.get(self.range.clone()).unwrap_or_default())
    }
}

impl std::fmt::Debug for View<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").field("len", &self.len()).field("zero_copy", &self.is_zero_copy()).finish()
    }
}

/// Blocks whose bytes have been checked in place since the store was opened: slot, generation and checksum.
#[derive(Default)]
pub(super) struct Checked(HashMap<SlotIndex, (u64, u32)>);

/// Entries kept; beyond, checks are simply made again.
const CHECKED_MAX: usize = 1 << 16;

impl Checked {
    fn contains(&self, slot: SlotIndex, version: (u64, u32)) -> bool {
        self.0.get(&slot) == Some(&version)
    }

    fn insert(&mut self, slot: SlotIndex, version: (u64, u32)) {
        if self.0.len() >= CHECKED_MAX {
            self.0.clear();
        }
        self.0.insert(slot, version);
    }
}

/// Mapped bytes, and which of them are the elements asked for.
type InPlace = (Box<dyn Mapped>, Range<usize>);

/// A block that a map shows: where it begins in the map, and what the table says of it.
struct Shown {
    block: crate::units::BlockIndex,
    place: BlockPlace,
    generation: u64,
    crc: u32,
}

impl Pager {
    /// A view of a range of a tensor's plane.
    pub(crate) fn view<'a>(&mut self, tensor: usize, plane: usize, range: Range<u64>) -> Result<View<'a>> {
        self.store.check_sound()?;
        let bytes = match self.map_in_place(tensor, plane, range.clone())? {
            Some((map, range)) => {
                return Ok(View { bytes: Bytes::InPlace(map), range, _store: std::marker::PhantomData });
            }
            None => to_usize(range.end - range.start).saturating_mul(4),
        };
        let Some(reservation) = self.reserve(to_u64(bytes.next_multiple_of(4096)))? else {
            return Err(Error::Budget {
                what: "a gathered view (read a range, or `read_into` your own memory)".to_owned(),
                needed: to_u64(bytes) + self.pool.streaming_bytes(),
                budget: self.pool.budget_bytes(),
            });
        };
        let mut buffer = Buffer::new(bytes)?;
        self.read_into(tensor, plane, range, as_f32_mut(buffer.get_mut(..bytes).unwrap_or_default()))?;
        let bytes = Bytes::Gathered { buffer, _reservation: reservation };
        let len = match &bytes {
            Bytes::Gathered { buffer, .. } => buffer.len(),
            Bytes::InPlace(map) => map.bytes().len(),
        };
        Ok(View { bytes, range: 0..len, _store: std::marker::PhantomData })
    }

    /// Copies a range of a tensor's plane, blocks read ahead.
    pub(crate) fn read_into(
        &mut self,
        tensor: usize,
        plane: usize,
        range: Range<u64>,
        out: &mut [f32],
    ) -> Result<()> {
        let directory = std::sync::Arc::clone(&self.directory);
        let mut ahead = read_ahead(&directory, tensor, range.clone(), plane..plane + 1);
        let mut out = out;
        for piece in pieces(&directory, tensor, range) {
            ahead.advance(self, &piece)?;
            let key = Key { block: piece.block, plane };
            let mut leased = self.lease(&[key])?;
            let Some(buffer) = leased.pop() else { break };
            let (now, later) = out.split_at_mut(piece.within.len().min(out.len()));
            if let Some(source) = buffer.get(4 * piece.within.start..4 * piece.within.end) {
                now.copy_from_slice(as_f32(source));
            }
            out = later;
            self.release(key, buffer, false)?;
        }
        Ok(())
    }

    /// Takes memory for a gathered view out of the budget; what is needed to stream blocks stays.
    fn reserve(&mut self, bytes: u64) -> Result<Option<Reservation>> {
        if bytes + self.pool.streaming_bytes() > self.pool.budget_bytes() {
            return Ok(None);
        }
        loop {
            if let Some(reservation) = self.pool.reserve(bytes) {
                return Ok(Some(reservation));
            }
            match self.frames.victim(&[]) {
                Some(victim) => {
                    self.evict(victim)?;
                    self.settle(victim)?;
                }
                None => return Ok(None),
            }
        }
    }

    /// Maps the bytes of a range where they stand, if they stand together and the disk has the newest.
    fn map_in_place(&mut self, tensor: usize, plane: usize, range: Range<u64>) -> Result<Option<InPlace>> {
        let directory = std::sync::Arc::clone(&self.directory);
        let mut shown: Vec<Shown> = Vec::new();
        let mut first: Option<(Piece, Home)> = None;
        for piece in pieces(&directory, tensor, range.clone()) {
            let key = Key { block: piece.block, plane };
            if matches!(self.frames.get(key), Some(Frame::Ready { dirty: true, .. })) {
                return Ok(None);
            }
            self.settle(key)?;
            let place = self.place(key)?;
            let entry = self.store.block_entry(place.slot)?;
            let together = first
                .as_ref()
                .is_none_or(|(first, home)| first.extent == piece.extent && home.0 == entry.home);
            if entry.generation == 0 || !together || self.path == IoPath::Direct {
                return Ok(None);
            }
            first.get_or_insert((piece.clone(), Home(entry.home)));
            shown.push(Shown { block: piece.block, place, generation: entry.generation, crc: entry.crc });
        }
        let (Some((piece, home)), Some(start), Some(end)) = (first, shown.first(), shown.last()) else {
            return Ok(None);
        };
        let (offset, segment) = (start.place.offset, start.place.segment);
        let len = to_usize(end.place.offset - offset) + end.place.bytes;
        let file = self.store.segment(segment, home, Caching::Cached)?;
        let map = file.map(offset, len)?;
        self.stats.bytes_read += to_u64(len);
        self.stats.reads_mapped += to_u64(shown.len());
        for block in &shown {
            self.check_in_place(block, plane, offset, map.as_ref(), file.path())?;
        }
        let begin = 4 * piece.within.start;
        let len = to_usize(range.end - range.start) * 4;
        Ok(Some((map, begin..begin + len)))
    }

    fn check_in_place(
        &mut self,
        shown: &Shown,
        plane: usize,
        base: u64,
        map: &dyn Mapped,
        path: &std::path::Path,
    ) -> Result<()> {
        let Shown { block, place, generation, crc } = shown;
        if self.checked.contains(place.slot, (*generation, *crc)) {
            return Ok(());
        }
        let start = to_usize(place.offset - base);
        let bytes = map.bytes().get(start..start + place.bytes).unwrap_or_default();
        let got = block_crc(self.store.uuid(), place.slot, *generation, bytes);
        if got != *crc {
            let what = describe_block(&self.directory, *block, plane);
            let range = (place.offset, to_u64(place.bytes));
            let (got, expected) = (format!("checksum {got:08x}"), format!("{crc:08x}"));
            return Err(Error::damaged(path, what, range, got, expected));
        }
        self.checked.insert(place.slot, (*generation, *crc));
        Ok(())
    }

    /// Elements of a block.
    pub(crate) fn block_elements(&self, piece: &Piece) -> usize {
        let extent = self.directory.extents.get(piece.extent);
        to_usize(extent.and_then(|extent| block_elements(extent, piece.block)).unwrap_or(0))
    }
}
