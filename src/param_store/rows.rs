//! Rows of matrices: what a lookup of embeddings reads.

use super::ParamStore;
use crate::error::{Error, Result};
use crate::format::elements::as_f32;
use crate::layout::{PARAM_PLANE, Rows};
use crate::pager::{Key, Waiter, read_pieces_ahead};
use crate::units::to_u64;

/// Reading some rows of a tensor of two dimensions.
impl ParamStore {
    /// Copies rows of a tensor `[rows, width]` into `out`, which has the shape `[ids.len(), width]`: row `ids[i]` goes
    /// to `out[i * width..][..width]`. Ids may come in any order and repeat; every update made so far is in them,
    /// committed or not, also of a step under way.
    ///
    /// Each block that holds one of the rows is visited once, in ascending order, and no other block is read; beside a few
    /// blocks of the budget this takes 16 bytes of memory for each id.
    ///
    /// # Errors
    /// [`Error::Unknown`] for the name; [`Error::Invalid`] for a tensor that has not two dimensions, an id that is no row
    /// of it, or another length of `out`, and nothing was read then; disk errors.
    pub fn gather_rows(&self, name: &str, ids: &[u64], out: &mut [f32]) -> Result<()> {
        self.gather_rows_plane(name, PARAM_PLANE, ids, out)
    }

    /// As [`gather_rows`](Self::gather_rows), for any plane of the tensor, e.g. `exp_avg`.
    ///
    /// # Errors
    /// As [`gather_rows`](Self::gather_rows); [`Error::Unknown`] for a plane that the tensor does not have.
    pub fn gather_rows_plane(&self, name: &str, plane: &str, ids: &[u64], out: &mut [f32]) -> Result<()> {
        let (tensor, rows) = self.checked_rows("memory for rows", name, ids, out.len())?;
        let plane = self.plane_index(tensor, plane)?;
        self.background().settle(tensor);
        let (pager, directory, width) = (self.pager(), self.directory(), rows.width());
        let blocks = rows.touched(&directory, tensor).map(|touched| touched.piece);
        let mut ahead = read_pieces_ahead(blocks, plane..plane + 1);
        for touched in rows.touched(&directory, tensor) {
            let piece = &touched.piece;
            ahead.advance(&mut pager.lock(), piece)?;
            let mut lease = pager.lease(&[Key { block: piece.block, plane }], Waiter::Caller)?;
            let bytes = 4 * piece.within.start..4 * piece.within.end;
            let buffer = lease.buffers().first().and_then(|buffer| buffer.get(bytes));
            let values = as_f32(buffer.unwrap_or_default());
            for part in rows.parts(touched.named, piece.of_tensor.clone()) {
                let source = values.get(part.within).unwrap_or_default();
                for named in part.named {
                    let start = named.position * width + part.columns.start;
                    if let Some(target) = out.get_mut(start..start + source.len()) {
                        target.copy_from_slice(source);
                    }
                }
            }
            lease.release(|_| false)?;
        }
        Ok(())
    }

    /// The rows that a call names, if they are rows of a matrix and `len` elements are as many as theirs; `what` the
    /// elements are is for the message.
    pub(crate) fn checked_rows(
        &self,
        what: &str,
        name: &str,
        ids: &[u64],
        len: usize,
    ) -> Result<(usize, Rows)> {
        let tensor = self.tensor_index(name)?;
        let shape = self.directory.tensors.get(tensor).map_or(&[][..], |tensor| &tensor.shape);
        let &[rows, width] = shape else {
            let what = format!("rows of tensor {name:?}");
            return Err(Error::invalid(what, format!("the shape {shape:?}"), "a tensor of two dimensions"));
        };
        if let Some((position, id)) = ids.iter().enumerate().find(|&(_, &id)| id >= rows) {
            let got = format!("{id} at position {position}");
            return Err(Error::invalid(
                format!("row id of tensor {name:?}"),
                got,
                format!("ids below {rows}"),
            ));
        }
        let expected = to_u64(ids.len()).saturating_mul(width);
        if to_u64(len) != expected {
            let expected = format!("{expected} elements, {} rows of {width}", ids.len());
            return Err(Error::invalid(
                format!("{what} of tensor {name:?}"),
                format!("{len} elements"),
                expected,
            ));
        }
        Ok((tensor, Rows::new(ids, rows, width)))
    }
}
