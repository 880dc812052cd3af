//! The rows of a matrix that a call names, and the blocks that hold them. Pure.

use std::ops::Range;

use super::{Piece, pieces};
use crate::format::directory::Directory;
use crate::radix::sort_by_bits;
use crate::units::to_usize;

/// A row that a call names: ordered by row, then by its place among the ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Named {
    pub(crate) row: u64,
    pub(crate) position: usize,
}

/// Rows of a tensor of two dimensions, in the order in which they are visited: whatever the order of the ids, each
/// block once, and the places of a row that is named several times together and ascending.
#[derive(Debug)]
pub(crate) struct Rows {
    named: Vec<Named>,
    distinct: Vec<u64>,
    elements: u64,
    width: u64,
}

/// A run of elements in one block that holds all that the block has of the rows named: from the first element that
/// was not shown before to the end of the block or the tensor.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Touched<'r> {
    pub(crate) piece: Piece,
    pub(crate) named: &'r [Named],
}

/// What a run of elements has of one row.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RowPart<'r> {
    /// All places of the row among the ids.
    pub(crate) named: &'r [Named],
    /// Columns of the row.
    pub(crate) columns: Range<usize>,
    /// The same elements, counted from the beginning of the run.
    pub(crate) within: Range<usize>,
}

impl Rows {
    /// Sorts ids of rows, each below `rows`; a row has `width` elements, at least one.
    pub(crate) fn new(ids: &[u64], rows: u64, width: u64) -> Self {
        let named = sorted(ids, rows);
        let mut distinct: Vec<_> = named.iter().map(|named| named.row).collect();
        distinct.dedup();
        Self { named, distinct, elements: rows * width, width }
    }

    /// Elements of a row.
    pub(crate) fn width(&self) -> usize {
        to_usize(self.width)
    }

    /// Each row once, ascending.
    pub(crate) fn distinct(&self) -> &[u64] {
        &self.distinct
    }

    /// The places of each row, in the order of [`distinct`](Self::distinct).
    pub(crate) fn groups(&self) -> impl Iterator<Item = &[Named]> {
        self.named.chunk_by(|a, b| a.row == b.row)
    }

    /// The blocks that hold these rows of a tensor, ascending, each once.
    pub(crate) fn touched<'r>(
        &'r self,
        directory: &'r Directory,
        tensor: usize,
    ) -> impl Iterator<Item = Touched<'r>> {
        let (mut left, mut shown) = (self.named.as_slice(), 0);
        std::iter::from_fn(move || {
            let start = shown.max(left.first()?.row * self.width);
            let piece = pieces(directory, tensor, start..self.elements).next()?;
            shown = piece.of_tensor.end;
            let begun = left.partition_point(|named| named.row * self.width < shown);
            let ended = left.partition_point(|named| (named.row + 1) * self.width <= shown);
            let named = left.get(..begun)?;
            // A row that goes on in the next block is named there again.
            left = left.get(ended..)?;
            Some(Touched { piece, named })
        })
    }

    /// What a run of elements, none of which lies before the first row named, has of each row, ascending.
    pub(crate) fn parts<'r>(
        &self,
        named: &'r [Named],
        run: Range<u64>,
    ) -> impl Iterator<Item = RowPart<'r>> + use<'r> {
        let width = self.width;
        named.chunk_by(|a, b| a.row == b.row).map(move |named| {
            let first = named.first().map_or(0, |named| named.row * width);
            let (start, end) = (first.max(run.start), (first + width).min(run.end));
            let from = |origin: u64| to_usize(start - origin)..to_usize(end - origin);
            RowPart { named, columns: from(first), within: from(run.start) }
        })
    }

    /// Cuts a touched run in front of rows, so that no part names more than `most` places where a row allows it. Each
    /// part comes with its elements: from its first row to its last one.
    pub(crate) fn cut<'r>(
        &self,
        touched: &Touched<'r>,
        most: usize,
    ) -> impl Iterator<Item = (&'r [Named], Range<u64>)> + use<'r> {
        let (width, run, mut left) = (self.width, touched.piece.of_tensor.clone(), touched.named);
        std::iter::from_fn(move || {
            let last = left.get(most.max(1) - 1).or(left.last())?.row;
            let len = left.partition_point(|named| named.row <= last);
            let (named, rest) = left.split_at_checked(len)?;
            left = rest;
            let start = named.first()?.row * width;
            Some((named, start.max(run.start)..((last + 1) * width).min(run.end)))
        })
    }
}

/// Ids by row, then by position.
fn sorted(ids: &[u64], rows: u64) -> Vec<Named> {
    let bits = usize::BITS - ids.len().leading_zeros();
    if u64::BITS - rows.leading_zeros() + bits > u64::BITS {
        let mut named: Vec<_> =
            ids.iter().enumerate().map(|(position, &row)| Named { row, position }).collect();
        named.sort_unstable();
        return named;
    }
    // Row and position in one number.
    let mut packed: Vec<u64> =
        ids.iter().zip(0_u64..).map(|(&row, position)| row << bits | position).collect();
    // Positions ascend already.
    let bits_of_rows = u64::BITS - rows.saturating_sub(1).leading_zeros();
    sort_by_bits(&mut packed, bits..bits + bits_of_rows);
    let position = |packed: u64| to_usize(packed & ((1 << bits) - 1));
    packed.into_iter().map(|packed| Named { row: packed >> bits, position: position(packed) }).collect()
}
