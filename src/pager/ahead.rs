//! Reading ahead of a walk over the pieces of a tensor, where no plan is followed.

use std::iter::Peekable;
use std::ops::Range;

use super::{Key, State};
use crate::error::Result;
use crate::format::directory::Directory;
use crate::layout::{Piece, pieces};

/// The same pieces as the walk's, some steps in front of it, as far as the streaming memory allows.
pub(crate) struct ReadAhead<I: Iterator<Item = Piece>> {
    pieces: Peekable<I>,
    planes: Range<usize>,
    /// One of them that is not read.
    without: Option<usize>,
    /// Whether a plan that is followed reads these blocks ahead by itself.
    is_planned: bool,
}

/// Reads planes of a range of a tensor ahead. `planes` counts as in [`Key`].
pub(crate) fn read_ahead(
    directory: &Directory,
    tensor: usize,
    range: Range<u64>,
    planes: Range<usize>,
) -> ReadAhead<impl Iterator<Item = Piece> + '_> {
    ReadAhead { pieces: pieces(directory, tensor, range).peekable(), planes, without: None, is_planned: true }
}

/// Reads planes of some blocks ahead, which come in ascending order of their elements and in no plan.
pub(crate) fn read_pieces_ahead<I: Iterator<Item = Piece>>(pieces: I, planes: Range<usize>) -> ReadAhead<I> {
    ReadAhead { pieces: pieces.peekable(), planes, without: None, is_planned: false }
}

impl<I: Iterator<Item = Piece>> ReadAhead<I> {
    /// The same without a plane that will be overwritten.
    pub(crate) fn without(mut self, plane: Option<usize>) -> Self {
        self.without = plane;
        self
    }

    /// Starts the reads that now fit; the walk is at `current`.
    pub(crate) fn advance(&mut self, state: &mut State, current: &Piece) -> Result<()> {
        if self.is_planned && state.follower.is_followed() {
            return Ok(());
        }
        while self.pieces.next_if(|next| next.of_tensor.start < current.of_tensor.start).is_some() {}
        while let Some(next) = self.pieces.peek() {
            for plane in self.planes.clone().filter(|&plane| self.without != Some(plane)) {
                if !state.start_ahead(Key { block: next.block, plane })? {
                    return Ok(());
                }
            }
            self.pieces.next();
        }
        Ok(())
    }
}
