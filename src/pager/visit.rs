//! A walk over the bytes of a tensor's plane in element order, a block at a time and read ahead.

use std::ops::Range;
use std::sync::Arc;

use super::{Key, Pager};
use crate::error::Result;
use crate::format::directory::Init;
use crate::layout::{Piece, pieces};

/// What a walk comes to: a run of elements.
pub(crate) enum Run<'a> {
    /// The stored bytes of some elements.
    Bytes(&'a [u8]),
    /// A stretch that was never written and holds one value; nothing was read or filled for it.
    Constant { value: f32, elements: u64 },
}

impl Pager {
    /// Shows a range of a tensor's plane to `visit`, in element order, every update made so far included.
    pub(crate) fn for_each_run(
        &mut self,
        tensor: usize,
        plane: usize,
        range: Range<u64>,
        mut visit: impl FnMut(Run<'_>),
    ) -> Result<()> {
        let directory = Arc::clone(&self.directory);
        let mut ahead = pieces(&directory, tensor, range.clone()).peekable();
        for piece in pieces(&directory, tensor, range) {
            if let Some(value) = self.constant(tensor, &piece, plane)? {
                visit(Run::Constant { value, elements: piece.of_tensor.end - piece.of_tensor.start });
                continue;
            }
            while ahead.next_if(|next| next.of_tensor.start <= piece.of_tensor.start).is_some() {}
            let key = Key { block: piece.block, plane };
            self.prefetch(key)?;
            while let Some(next) = ahead.peek() {
                let constant = self.constant(tensor, next, plane)?.is_some();
                if !constant && !self.prefetch(Key { block: next.block, plane })? {
                    break;
                }
                ahead.next();
            }
            let Some(buffer) = self.lease(&[key])?.pop() else { break };
            visit(Run::Bytes(buffer.get(4 * piece.within.start..4 * piece.within.end).unwrap_or_default()));
            self.release(key, buffer, false)?;
        }
        Ok(())
    }

    /// The value that all elements of a piece have because nobody ever wrote its block.
    fn constant(&mut self, tensor: usize, piece: &Piece, plane: usize) -> Result<Option<f32>> {
        if self.frames.get(Key { block: piece.block, plane }).is_some() {
            return Ok(None);
        }
        let slot = self.place(Key { block: piece.block, plane })?.slot;
        if self.store.block_entry(slot)?.generation != 0 {
            return Ok(None);
        }
        if plane > 0 {
            let extent = self.directory.extents.get(piece.extent);
            return Ok(extent.and_then(|extent| extent.planes.get(plane)).map(|plane| plane.fill));
        }
        Ok(match self.directory.tensors.get(tensor).map(|tensor| tensor.init) {
            Some(Init::Zeros) => Some(0.0),
            Some(Init::Constant(value)) => Some(value),
            _ => None,
        })
    }
}
