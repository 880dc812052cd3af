//! A walk over the bytes of a tensor's plane in element order, a block at a time and read ahead.

use std::ops::Range;

use super::{Key, Pager, State, Waiter};
use crate::error::Result;
use crate::format::directory::{Dtype, Init};
use crate::format::elements::bytes_of;
use crate::kernel::InstructionSet;
use crate::layout::{Piece, block_place, pieces};
use crate::precision::{lane, stored};
use crate::units::{SlotIndex, to_usize};

/// What a walk comes to: a run of elements.
pub(crate) enum Run<'a> {
    /// Some elements, as the bytes of an f32 plane, or of a plane that is kept as it is.
    Bytes(&'a [u8]),
    /// A stretch that was never written and holds one value; nothing was read or filled for it.
    Constant { value: f32, elements: u64 },
}

/// A stretch that is being put together.
#[derive(Default)]
struct Stretch {
    value: f32,
    elements: u64,
}

impl Stretch {
    fn end(&mut self, visit: &mut impl FnMut(Run<'_>)) {
        let Self { value, elements } = std::mem::take(self);
        if elements > 0 {
            visit(Run::Constant { value, elements });
        }
    }

    fn extend(&mut self, value: f32, elements: u64, visit: &mut impl FnMut(Run<'_>)) {
        if self.value.to_bits() != value.to_bits() {
            self.end(visit);
        }
        *self = Self { value, elements: self.elements + elements };
    }
}

impl Pager {
    /// Shows a range of a tensor's plane to `visit`, in element order, every update made so far included.
    pub(crate) fn for_each_run(
        &self,
        tensor: usize,
        plane: usize,
        range: Range<u64>,
        mut visit: impl FnMut(Run<'_>),
    ) -> Result<()> {
        let mut births = NeverWritten { tensor, plane, until: SlotIndex(0) };
        let mut births_ahead = NeverWritten { ..births };
        let mut ahead = pieces(&self.directory, tensor, range.clone()).peekable();
        let mut stretch = Stretch::default();
        for piece in pieces(&self.directory, tensor, range) {
            let mut state = self.lock();
            if let Some(value) = births.constant(&mut state, &piece)? {
                stretch.extend(value, piece.of_tensor.end - piece.of_tensor.start, &mut visit);
                continue;
            }
            while ahead.next_if(|next| next.of_tensor.start <= piece.of_tensor.start).is_some() {}
            let key = Key { block: piece.block, plane };
            state.start_ahead(key)?;
            while let Some(next) = ahead.peek() {
                let constant = births_ahead.constant(&mut state, next)?.is_some();
                if !constant && !state.start_ahead(Key { block: next.block, plane })? {
                    break;
                }
                ahead.next();
            }
            drop(state);
            stretch.end(&mut visit);
            let mut lease = self.lease(&[key], Waiter::Caller)?;
            if let Some(buffer) = lease.buffers().first_mut() {
                self.show(&piece, plane, buffer, &mut visit);
            }
            lease.release(|_| false)?;
        }
        stretch.end(&mut visit);
        Ok(())
    }

    /// Begins to read what [`for_each_run`](Self::for_each_run) will show of a range, as far as memory is free.
    pub(crate) fn begin_runs(&self, tensor: usize, plane: usize, range: Range<u64>) -> Result<()> {
        let mut births = NeverWritten { tensor, plane, until: SlotIndex(0) };
        for piece in pieces(&self.directory, tensor, range) {
            let mut state = self.lock();
            let is_constant = births.constant(&mut state, &piece)?.is_some();
            if !is_constant && !state.start_ahead(Key { block: piece.block, plane })? {
                break;
            }
        }
        Ok(())
    }

    /// Shows what a block's plane has of a piece.
    fn show(&self, piece: &Piece, plane: usize, buffer: &mut [u8], visit: &mut impl FnMut(Run<'_>)) {
        let dtype = self.dtype(piece, plane);
        if let Some(size) = dtype.element_bytes().filter(|_| dtype == Dtype::F32 || !dtype.is_trainable()) {
            let size = to_usize(size);
            let bytes = size * piece.within.start..size * piece.within.end;
            return visit(Run::Bytes(buffer.get(bytes).unwrap_or_default()));
        }
        let plane = lane(dtype, buffer, self.block_elements(piece));
        let mut values = [0.0; SHOWN_LEN];
        for first in piece.within.clone().step_by(SHOWN_LEN) {
            let values = values.get_mut(..SHOWN_LEN.min(piece.within.end - first)).unwrap_or_default();
            plane.read(InstructionSet::detect(), first, values);
            visit(Run::Bytes(bytes_of(values)));
        }
    }
}

/// Elements of a plane in few bits that are shown at a time.
const SHOWN_LEN: usize = 4096;

/// Tells which pieces of a plane hold one value because nobody ever wrote their block; asked in ascending order.
struct NeverWritten {
    tensor: usize,
    plane: usize,
    /// Slots before this one are known to be absent.
    until: SlotIndex,
}

impl NeverWritten {
    /// The value that all elements of a piece have.
    fn constant(&mut self, state: &mut State, piece: &Piece) -> Result<Option<f32>> {
        let key = Key { block: piece.block, plane: self.plane };
        let extent = state.directory.extents.get(piece.extent);
        let place = extent.and_then(|extent| block_place(extent, key.block, key.plane));
        let (Some(value), Some(slot)) = (self.value(state, piece), place.map(|place| place.slot)) else {
            return Ok(None);
        };
        if state.frames.get(key).is_some() {
            return Ok(None);
        }
        if slot < self.until {
            return Ok(Some(value));
        }
        if let Some(until) = state.store.absent_until(slot)? {
            self.until = until;
            return Ok(Some(value));
        }
        Ok((state.store.block_entry(slot)?.generation == 0).then_some(value))
    }

    /// The initial value, where it is the same for all elements.
    fn value(&self, state: &State, piece: &Piece) -> Option<f32> {
        let extent = state.directory.extents.get(piece.extent)?;
        if !extent.dtype(self.plane).is_trainable() {
            return None;
        }
        let value = match state.directory.tensors.get(self.tensor)?.init {
            _ if self.plane > 0 && state.directory.copy_plane(extent) != Some(self.plane) => {
                extent.planes.get(self.plane)?.fill
            }
            Init::Zeros => 0.0,
            Init::Constant(value) => value,
            _ => return None,
        };
        Some(stored(extent.dtype(self.plane), value))
    }
}
