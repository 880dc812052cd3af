//! Typed views of tensors: in place where the bytes stand together on disk, gathered otherwise.

use std::collections::HashMap;
use std::ops::{Deref, Range};

use super::frames::Frame;
use super::pool::Reservation;
use super::wait::{Attempt, Stall, Waiter};
use super::{Access, IoPath, Key, Pager, State, read_ahead};
use crate::error::{Error, Result};
use crate::format::checksum::block_crc;
use crate::format::directory::{Directory, Dtype};
use crate::format::elements::{as_f32, as_f32_mut, as_u16};
use crate::kernel::InstructionSet;
use crate::layout::{BlockPlace, Piece, block_elements, describe_block, pieces};
use crate::precision::{Half, lane};
use crate::storage::{Buffer, Caching, Mapped};
use crate::store::Home;
use crate::units::{SlotIndex, to_u64, to_usize};

/// A tensor's parameters as a slice. It borrows the store, so that no step can change them meanwhile.
///
/// Zero-copy (a read-only memory map) where the parameters are f32, all blocks of the tensor stand together in one home and
/// most of them are not in memory already; otherwise gathered, and widened to f32, into memory that counts against the budget
/// until the view is dropped.
///
/// # Example
///
/// ```
#[doc = include_str!("../examples/store.txt")]
/// store.write("w", &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])?;
/// let w = store.view("w")?;
/// let (rows, []) = w.as_chunks::<3>() else { unreachable!() };
/// assert_eq!(rows[1], [4.0, 5.0, 6.0]);
/// assert!(!w.is_zero_copy()); // what was just written is in memory already
/// # Ok::<(), paramstore::Error>(())
/// ```
pub struct View<'a> {
    bytes: Bytes,
    _store: std::marker::PhantomData<&'a ()>,
}

/// A tensor's parameters in bf16 or f16 as a slice of their patterns, in native byte order: half the bytes of a [`View`],
/// and zero-copy or gathered under the same conditions.
///
/// # Example
///
/// ```
/// use paramstore::precision::Half;
/// use paramstore::{InstructionSet, Optimizer, Options, ParamGroup, ParamStore, Precision, Schema, TensorSpec};
///
/// # let dir = tempfile::tempdir().expect("a temporary directory");
/// # let path = dir.path().join("model.store");
/// let group = ParamGroup::new("all", Optimizer::from_name("lion")?);
/// let tensor = TensorSpec::new("w", &[2]).precision(Precision::BF16);
/// let schema = Schema::new().group(group).tensor(tensor);
/// let mut store = ParamStore::create(&path, &schema, &Options::new().memory_budget(4 << 20))?;
/// store.write("w", &[1.0, -2.0])?;
/// let half = store.view_half("w")?;
/// assert_eq!((half.kind(), &half[..]), (Half::Bf16, &[0x3f80, 0xc000][..]));
/// assert!(!half.is_zero_copy()); // what was just written is in memory already
///
/// let mut wide = [0.0; 2];
/// paramstore::precision::widen(InstructionSet::detect(), half.kind(), &half, &mut wide);
/// assert_eq!(wide, [1.0, -2.0]);
/// # Ok::<(), paramstore::Error>(())
/// ```
pub struct HalfView<'a> {
    bytes: Bytes,
    kind: Half,
    _store: std::marker::PhantomData<&'a ()>,
}

/// The bytes of a view, and which of them are the elements.
enum Bytes {
    InPlace(Box<dyn Mapped>, Range<usize>),
    Gathered { buffer: Buffer, len: usize, _reservation: Reservation },
}

impl Bytes {
    fn is_in_place(&self) -> bool {
        matches!(self, Self::InPlace(..))
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let bytes = match self {
            Self::InPlace(map, range) => map.bytes().get(range.clone()),
            Self::Gathered { buffer, len, .. } => buffer.get(..*len),
        };
        bytes.unwrap_or_default()
    }
}

impl View<'_> {
    /// Whether the elements are seen where they stand on disk. [Example](Self#example).
    #[must_use]
    pub fn is_zero_copy(&self) -> bool {
        self.bytes.is_in_place()
    }
}

impl Deref for View<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        as_f32(&self.bytes)
    }
}

impl HalfView<'_> {
    /// Whether the elements are seen where they stand on disk. [Example](Self#example).
    #[must_use]
    pub fn is_zero_copy(&self) -> bool {
        self.bytes.is_in_place()
    }

    /// Which format the patterns are of. [Example](Self#example).
    #[must_use]
    pub fn kind(&self) -> Half {
        self.kind
    }
}

impl Deref for HalfView<'_> {
    type Target = [u16];

    fn deref(&self) -> &[u16] {
        as_u16(&self.bytes)
    }
}

impl std::fmt::Debug for HalfView<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (len, zero_copy) = (self.len(), self.is_zero_copy());
        f.debug_struct("HalfView")
            .field("kind", &self.kind)
            .field("len", &len)
            .field("zero_copy", &zero_copy)
            .finish()
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

/// A block that a map shows: where it begins in the map, and what the table says of it.
struct Shown {
    block: crate::units::BlockIndex,
    place: BlockPlace,
    generation: u64,
    crc: u32,
}

impl Pager {
    /// A view of a range of a tensor's plane.
    pub(crate) fn view<'a>(&self, tensor: usize, plane: usize, range: Range<u64>) -> Result<View<'a>> {
        self.lock().store.check_sound()?;
        let is_f32 = self.dtype_of(tensor, plane) == Dtype::F32;
        let in_place = if is_f32 { self.stand_together(tensor, plane, &range)? } else { None };
        let fill = |out: &mut [u8]| self.read_into(tensor, plane, range.clone(), as_f32_mut(out));
        let bytes = self.view_bytes(plane, &range, 4, in_place, fill)?;
        Ok(View { bytes, _store: std::marker::PhantomData })
    }

    /// A view of a range of a tensor's plane of 16-bit floats; `None` if it is not one.
    pub(crate) fn view_half<'a>(
        &self,
        tensor: usize,
        plane: usize,
        range: Range<u64>,
    ) -> Result<Option<HalfView<'a>>> {
        self.lock().store.check_sound()?;
        let kind = match self.dtype_of(tensor, plane) {
            Dtype::Bf16 => Half::Bf16,
            Dtype::F16 => Half::F16,
            _ => return Ok(None),
        };
        let in_place = self.stand_together(tensor, plane, &range)?;
        let fill = |out: &mut [u8]| self.read_bytes_into((tensor, plane), range.clone(), 2, out);
        let bytes = self.view_bytes(plane, &range, 2, in_place, fill)?;
        Ok(Some(HalfView { bytes, kind, _store: std::marker::PhantomData }))
    }

    /// The bytes of a range of elements of `size` bytes: mapped where they stand together, or gathered by `fill`.
    fn view_bytes(
        &self,
        plane: usize,
        range: &Range<u64>,
        size: usize,
        together: Option<Together>,
        fill: impl FnOnce(&mut [u8]) -> Result<()>,
    ) -> Result<Bytes> {
        let len = to_usize(range.end - range.start).saturating_mul(size);
        match together {
            Some(together) if !together.in_memory => self.map_in_place(plane, len, size, &together),
            Some(together) => match self.gather(len, fill) {
                Err(Error::Budget { .. }) => self.map_in_place(plane, len, size, &together),
                gathered => gathered,
            },
            None => self.gather(len, fill),
        }
    }

    /// Fills memory of the budget with `len` bytes.
    fn gather(&self, len: usize, fill: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<Bytes> {
        let reservation = self.reserve(to_u64(len.next_multiple_of(4096)))?;
        let mut buffer = Buffer::new(len)?;
        fill(buffer.get_mut(..len).unwrap_or_default())?;
        Ok(Bytes::Gathered { buffer, len, _reservation: reservation })
    }

    /// The type of a tensor's plane.
    fn dtype_of(&self, tensor: usize, plane: usize) -> Dtype {
        let extent = self.directory.tensors.get(tensor).map(|tensor| to_usize(tensor.extent.into()));
        let extent = extent.and_then(|extent| self.directory.extents.get(extent));
        extent.map_or(Dtype::F32, |extent| extent.dtype(plane))
    }

    /// Copies a range of a tensor's plane, blocks read ahead.
    pub(crate) fn read_into(
        &self,
        tensor: usize,
        plane: usize,
        range: Range<u64>,
        out: &mut [f32],
    ) -> Result<()> {
        let isa = InstructionSet::detect();
        self.for_each_piece(tensor, plane, range, out, 1, |piece, buffer, now| {
            let source = lane(self.dtype(piece, plane), buffer, self.block_elements(piece));
            source.read(isa, piece.within.start, now);
        })
    }

    /// Copies a range of the elements of a tensor's plane as they stand, `size` bytes each.
    pub(crate) fn read_bytes_into(
        &self,
        (tensor, plane): (usize, usize),
        range: Range<u64>,
        size: usize,
        out: &mut [u8],
    ) -> Result<()> {
        self.for_each_piece(tensor, plane, range, out, size, |piece, buffer, now| {
            let within = size * piece.within.start..size * piece.within.end;
            now.copy_from_slice(buffer.get(within).unwrap_or_default());
        })
    }

    /// Copies a range of a tensor's plane piece by piece, blocks read ahead: `copy` gets a piece, the bytes of its block's
    /// plane, and the part of `out`, which has `size` items for each element, that belongs to it.
    fn for_each_piece<T>(
        &self,
        tensor: usize,
        plane: usize,
        range: Range<u64>,
        mut out: &mut [T],
        size: usize,
        mut copy: impl FnMut(&Piece, &mut [u8], &mut [T]),
    ) -> Result<()> {
        self.enter(&Access {
            tensor,
            range: range.clone(),
            planes: plane..plane + 1,
            blank: false,
            copy: None,
        });
        let mut ahead = read_ahead(&self.directory, tensor, range.clone(), plane..plane + 1);
        for piece in pieces(&self.directory, tensor, range) {
            ahead.advance(&mut self.lock(), &piece)?;
            let mut lease = self.lease(&[Key { block: piece.block, plane }], Waiter::Caller)?;
            let (now, later) = out.split_at_mut((size * piece.within.len()).min(out.len()));
            if let Some(buffer) = lease.buffers().first_mut() {
                copy(&piece, buffer, now);
            }
            out = later;
            lease.release(|_| false)?;
        }
        Ok(())
    }

    /// Takes memory for a gathered view out of the budget; what is needed to stream blocks stays.
    fn reserve(&self, bytes: u64) -> Result<Reservation> {
        self.until(Waiter::Caller, |state, stuck| {
            if bytes + state.pool.streaming_bytes() <= state.pool.budget_bytes() {
                loop {
                    if let Some(reservation) = state.pool.reserve(bytes) {
                        return Ok(Attempt::Done(reservation));
                    }
                    match state.try_room(stuck)? {
                        Attempt::Done(true) => {}
                        Attempt::Done(false) => break,
                        Attempt::Wait(stall) => return Ok(Attempt::Wait(stall)),
                    }
                }
            }
            Err(Error::Budget {
                what: "a gathered view (read a range, or `read_into` your own memory)".to_owned(),
                needed: bytes + state.pool.streaming_bytes(),
                budget: state.pool.budget_bytes(),
            })
        })
    }

    /// The blocks of a range, if they stand together and the disk has the newest.
    fn stand_together(&self, tensor: usize, plane: usize, range: &Range<u64>) -> Result<Option<Together>> {
        self.until(Waiter::Caller, |state, stuck| {
            state.try_stand_together(&self.directory, tensor, plane, range.clone(), stuck)
        })
    }

    /// Maps `len` bytes where they stand, in elements of `size` bytes.
    fn map_in_place(&self, plane: usize, len: usize, size: usize, together: &Together) -> Result<Bytes> {
        let (offset, end) = (together.first.offset, together.last.offset);
        let mapped = to_usize(end - offset) + together.last.bytes;
        let file = self.lock().store.segment(together.first.segment, together.home, Caching::Cached)?;
        let map = file.map(offset, mapped)?;
        for block in &together.shown {
            self.check_in_place(block, plane, offset, map.as_ref(), file.path())?;
        }
        let stats = &mut self.lock().stats;
        stats.bytes_read += to_u64(mapped);
        stats.reads_cached += to_u64(together.shown.len());
        let begin = together.begin * size;
        Ok(Bytes::InPlace(map, begin..begin + len))
    }

    fn check_in_place(
        &self,
        shown: &Shown,
        plane: usize,
        base: u64,
        map: &dyn Mapped,
        path: &std::path::Path,
    ) -> Result<()> {
        let Shown { block, place, generation, crc } = shown;
        let state = self.lock();
        let uuid = state.store.uuid();
        if state.checked.contains(place.slot, (*generation, *crc)) {
            return Ok(());
        }
        drop(state);
        let start = to_usize(place.offset - base);
        let bytes = map.bytes().get(start..start + place.bytes).unwrap_or_default();
        let got = block_crc(uuid, place.slot, *generation, bytes);
        if got != *crc {
            let what = describe_block(&self.directory, *block, plane);
            let range = (place.offset, to_u64(place.bytes));
            let (got, expected) = (format!("checksum {got:08x}"), format!("{crc:08x}"));
            return Err(Error::damaged(path, what, range, got, expected));
        }
        self.lock().checked.insert(place.slot, (*generation, *crc));
        Ok(())
    }

    /// The type of a plane of a piece's block.
    pub(crate) fn dtype(&self, piece: &Piece, plane: usize) -> Dtype {
        self.directory.extents.get(piece.extent).map_or(Dtype::F32, |extent| extent.dtype(plane))
    }

    /// Elements of a block.
    pub(crate) fn block_elements(&self, piece: &Piece) -> usize {
        let extent = self.directory.extents.get(piece.extent);
        to_usize(extent.and_then(|extent| block_elements(extent, piece.block)).unwrap_or(0))
    }
}

/// Blocks that stand together in one home.
struct Together {
    shown: Vec<Shown>,
    first: BlockPlace,
    last: BlockPlace,
    home: Home,
    /// First element of the range in the first block.
    begin: usize,
    /// Whether frames have most of it, which a map would read once more.
    in_memory: bool,
}

impl State {
    fn try_stand_together(
        &mut self,
        directory: &Directory,
        tensor: usize,
        plane: usize,
        range: Range<u64>,
        stuck: bool,
    ) -> Result<Attempt<Option<Together>>> {
        let mut found: Option<(Together, usize)> = None;
        let (elements, mut in_memory) = (range.end - range.start, 0);
        for piece in pieces(directory, tensor, range) {
            let key = Key { block: piece.block, plane };
            match self.frames.get(key) {
                Some(Frame::Ready { dirty: true, .. }) => return Ok(Attempt::Done(None)),
                Some(Frame::Ready { .. }) => in_memory += to_u64(piece.within.len()),
                None => {}
                Some(_) if stuck => return Ok(Attempt::Done(None)),
                Some(_) => return Ok(Attempt::Wait(Stall::Write)),
            }
            let place = self.place(key)?;
            let entry = self.store.block_entry(place.slot)?;
            let apart = found.as_ref().is_some_and(|(f, extent)| {
                // Small blocks in few bits have padding behind them.
                let end = f.last.offset + to_u64(f.last.bytes);
                *extent != piece.extent || f.home.0 != entry.home || end != place.offset
            });
            if entry.generation == 0 || apart || self.path == IoPath::Direct {
                return Ok(Attempt::Done(None));
            }
            let (together, _) = found.get_or_insert_with(|| {
                let begin = piece.within.start;
                let home = Home(entry.home);
                let (first, last) = (place, place);
                (Together { shown: Vec::new(), first, last, home, begin, in_memory: false }, piece.extent)
            });
            together.last = place;
            together.shown.push(Shown {
                block: piece.block,
                place,
                generation: entry.generation,
                crc: entry.crc,
            });
        }
        let in_memory = 2 * in_memory > elements;
        Ok(Attempt::Done(found.map(|(together, _)| Together { in_memory, ..together })))
    }
}
