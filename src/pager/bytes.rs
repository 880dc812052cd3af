//! A walk over the elements of a tensor's plane as they stand, a block at a time and read ahead.

use std::ops::Range;

use super::{Key, Pager, Waiter, read_ahead};
use crate::error::Result;
use crate::layout::pieces;

impl Pager {
    /// Shows a range of a tensor's plane to `visit`, in element order, `size` bytes each, every update made so far included.
    pub(crate) fn for_each_bytes(
        &self,
        (tensor, plane): (usize, usize),
        range: Range<u64>,
        size: usize,
        mut visit: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut ahead = read_ahead(&self.directory, tensor, range.clone(), plane..plane + 1);
        for piece in pieces(&self.directory, tensor, range) {
            ahead.advance(&mut self.lock(), &piece)?;
            let mut lease = self.lease(&[Key { block: piece.block, plane }], Waiter::Caller)?;
            let within = size * piece.within.start..size * piece.within.end;
            let shown = lease.buffers().first().and_then(|buffer| buffer.get(within));
            visit(shown.unwrap_or_default())?;
            lease.release(|_| false)?;
        }
        Ok(())
    }
}
