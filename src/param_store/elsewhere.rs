//! State from elsewhere, and to it: elements as they stand, planes beside the parameters, clocks and the step.

use std::ops::Range;

use super::ParamStore;
use crate::error::{Error, Result};
use crate::format::directory::{Dtype, Extent, Q8_BLOCK_ELEMENTS};
use crate::layout::pieces;
use crate::optim::TensorClock;
use crate::pager::{Key, Waiter};
use crate::precision::{Rounding, add_lost, lane};
use crate::units::to_usize;

impl ParamStore {
    /// Sets the elements of a tensor from `start` on, given as they stand on disk: little-endian, in the tensor's own
    /// [type](crate::TensorInfo::dtype), nothing rounded (and nothing lost by it, where that is kept). For weights that come from elsewhere, and the only way for types that
    /// are kept as they are.
    ///
    /// ```
    /// use paramstore::{Dtype, Optimizer, Options, ParamGroup, ParamStore, Schema, TensorSpec};
    ///
    /// # let dir = tempfile::tempdir().expect("a temporary directory");
    /// # let path = dir.path().join("model.store");
    /// let group = ParamGroup::new("all", Optimizer::from_name("adamw")?);
    /// let schema = Schema::new().group(group).tensor(TensorSpec::new("ids", &[2]).stored_as(Dtype::U32));
    /// let mut store = ParamStore::create(&path, &schema, &Options::new().memory_budget(4 << 20))?;
    /// store.write_bytes("ids", 1, &7_u32.to_le_bytes())?;
    /// let mut bytes = [0; 8];
    /// store.read_bytes("ids", 0, &mut bytes)?;
    /// assert_eq!(bytes, [0, 0, 0, 0, 7, 0, 0, 0]);
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Unknown`]; [`Error::Invalid`] for bytes that are not whole elements inside the tensor, for a tensor of rows, and
    /// for a frozen tensor after the first commit; [`Error::ReadOnly`], [`Error::Mixed`], disk errors.
    pub fn write_bytes(&mut self, name: &str, start: u64, bytes: &[u8]) -> Result<()> {
        self.check_can_change("write a tensor")?;
        let (tensor, range, size) = self.byte_range(name, start, bytes.len())?;
        self.check_may_write(tensor)?;
        self.background().settle(tensor);
        let result = self.write_elements(tensor, range, size, bytes);
        if result.is_err() {
            self.mark_mixed();
        }
        result
    }

    fn write_elements(&self, tensor: usize, range: Range<u64>, size: usize, mut bytes: &[u8]) -> Result<()> {
        let (directory, pager) = (self.directory(), self.pager());
        for piece in pieces(&directory, tensor, range.clone()) {
            let key = Key { block: piece.block, plane: 0 };
            let whole = piece.within == (0..pager.block_elements(&piece));
            let mut lease =
                if whole { pager.lease_blank(key)? } else { pager.lease(&[key], Waiter::Caller)? };
            let (now, later) = bytes.split_at((size * piece.within.len()).min(bytes.len()));
            let within = size * piece.within.start..size * piece.within.end;
            if let Some(target) = lease.buffers().first_mut().and_then(|buffer| buffer.get_mut(within)) {
                target.copy_from_slice(now);
            }
            bytes = later;
            lease.release(|_| true)?;
        }
        self.forget_lost(tensor, range.clone())?;
        self.renew_copy(tensor, range)
    }

    /// Sets what rounding a range of parameters lost to nothing, if the tensor keeps that.
    fn forget_lost(&self, tensor: usize, range: Range<u64>) -> Result<()> {
        let Some(plane) = self.compensation_plane(tensor) else { return Ok(()) };
        let (directory, pager) = (self.directory(), self.pager());
        for piece in pieces(&directory, tensor, range) {
            let key = Key { block: piece.block, plane };
            let whole = piece.within == (0..pager.block_elements(&piece));
            let mut lease =
                if whole { pager.lease_blank(key)? } else { pager.lease(&[key], Waiter::Caller)? };
            let within = 2 * piece.within.start..2 * piece.within.end;
            if let Some(lost) = lease.buffers().first_mut().and_then(|buffer| buffer.get_mut(within)) {
                lost.fill(0);
            }
            lease.release(|_| true)?;
        }
        Ok(())
    }

    /// Reads parameters as the next update takes them: with what rounding them lost, where that is kept.
    pub(crate) fn read_with_lost(&self, tensor: usize, range: Range<u64>, out: &mut [f32]) -> Result<()> {
        self.pager().read_into(tensor, 0, range.clone(), out)?;
        if let Some(plane) = self.compensation_plane(tensor) {
            let mut lost = vec![0.0; out.len()];
            self.pager().read_into(tensor, plane, range, &mut lost)?;
            add_lost(out, &lost);
        }
        Ok(())
    }

    /// Writes the copy of a range of parameters anew, if the tensor has one.
    pub(super) fn renew_copy(&self, tensor: usize, range: Range<u64>) -> Result<()> {
        let Some(plane) = self.copy_plane(tensor) else { return Ok(()) };
        let (directory, pager) = (self.directory(), self.pager());
        for piece in pieces(&directory, tensor, range) {
            let keys = [0, plane].map(|plane| Key { block: piece.block, plane });
            let mut lease = pager.lease(&keys, Waiter::Caller)?;
            if let [params, copy, ..] = lease.buffers() {
                let elements = pager.block_elements(&piece);
                let params = lane(pager.dtype(&piece, 0), params, elements).part(piece.within.clone());
                let copy = lane(pager.dtype(&piece, plane), copy, elements).part(piece.within.clone());
                let mut copy = copy;
                copy.write(self.engine().isa, 0, params.into_f32(), Rounding::Nearest);
            }
            lease.release(|at| at == 1)?;
        }
        Ok(())
    }

    /// Copies the elements of a tensor from `start` on as they stand on disk, every update made so far included: see
    /// [`write_bytes`](Self::write_bytes).
    ///
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// store.write("w", &[1.0; 6])?;
    /// let mut bytes = [0; 4];
    /// store.read_bytes("w", 5, &mut bytes)?; // the last element
    /// assert_eq!(f32::from_le_bytes(bytes), 1.0);
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Unknown`]; [`Error::Invalid`] for memory that does not hold whole elements inside the tensor, and for a tensor of
    /// rows; disk errors.
    pub fn read_bytes(&self, name: &str, start: u64, out: &mut [u8]) -> Result<()> {
        let (tensor, range, size) = self.byte_range(name, start, out.len())?;
        self.background().settle(tensor);
        self.pager().read_bytes_into((tensor, 0), range, size, out)
    }

    /// Which elements some bytes of a tensor are, and how many bytes each has.
    fn byte_range(&self, name: &str, start: u64, len: usize) -> Result<(usize, Range<u64>, usize)> {
        let tensor = self.tensor_index(name)?;
        self.check_dense(tensor, "bytes")?;
        let dtype = self.extent_of(tensor).map(|extent| extent.dtype(0));
        let size = to_usize(dtype.and_then(Dtype::element_bytes).unwrap_or(1));
        if !len.is_multiple_of(size) {
            let (got, expected) = (format!("{len} bytes"), format!("a multiple of {size}"));
            return Err(Error::invalid(format!("elements of tensor {name:?}"), got, expected));
        }
        let (tensor, range) = self.checked_range(name, start, len / size)?;
        Ok((tensor, range, size))
    }

    /// Sets the elements of a plane from `start` on: moments of a run from elsewhere. Planes of fewer bits get the nearest
    /// values; in one of 8 bits the range begins at a multiple of 256 elements, and ends at one or with the tensor. Of a tensor of
    /// rows, a plane that the optimizer keeps by rows (`row_sum`) has one element for each; its clock is set
    /// ([`set_tensor_clock`](Self::set_tensor_clock)) before.
    ///
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// store.write_plane_range("w", "momentum_buffer", 3, &[1.0, 2.0, 3.0])?; // of the second row
    /// let mut momentum = [0.0; 6];
    /// store.read_plane_into("w", "momentum_buffer", &mut momentum)?;
    /// assert_eq!(momentum, [0.0, 0.0, 0.0, 1.0, 2.0, 3.0]);
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`write_range`](Self::write_range); [`Error::Unknown`] for a plane that the tensor does not have.
    pub fn write_plane_range(&mut self, name: &str, plane: &str, start: u64, values: &[f32]) -> Result<()> {
        self.check_can_change("write a plane")?;
        let tensor = self.tensor_index(name)?;
        let plane = self.plane_index(tensor, plane)?;
        if plane == 0 {
            return self.write_range(name, start, values);
        }
        let range = self.checked_plane_range(tensor, plane, start, values.len())?;
        let is_q8 = |extent: &Extent| extent.dtype(plane).is_q8();
        if self.extent_of(tensor).is_some_and(is_q8) {
            self.check_multiples(tensor, &range, "moments of 8 bits")?;
        }
        let catch_up = self.catch_up(tensor)?;
        let result = if self.table_of(tensor).is_some() {
            self.write_rows((tensor, plane), range, values, catch_up)
        } else {
            self.background().settle(tensor);
            self.write_plane(tensor, plane, range, values)
        };
        if result.is_err() {
            self.mark_mixed();
        }
        result
    }

    /// As [`read_plane_into`](Self::read_plane_into), for the elements from `start` on.
    ///
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// store.write_plane_range("w", "momentum_buffer", 3, &[1.0, 2.0, 3.0])?;
    /// let mut last = [0.0; 2];
    /// store.read_plane_range_into("w", "momentum_buffer", 4, &mut last)?;
    /// assert_eq!(last, [2.0, 3.0]);
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`read_plane_into`](Self::read_plane_into).
    pub fn read_plane_range_into(&self, name: &str, plane: &str, start: u64, out: &mut [f32]) -> Result<()> {
        let tensor = self.tensor_index(name)?;
        let plane = self.plane_index(tensor, plane)?;
        let range = self.checked_plane_range(tensor, plane, start, out.len())?;
        self.read_planes_range(tensor, plane, range, out)
    }

    /// Sets what a tensor's rule keeps beside its planes: the updates made to it so far. For a run that goes on from elsewhere.
    /// Rows that catch up are written after that, for what was written before would have missed these updates.
    ///
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// use paramstore::optim::TensorClock;
    ///
    /// // With the moments from elsewhere, the next update is the 1,001st.
    /// store.set_tensor_clock("w", TensorClock { steps: 1000, ..TensorClock::default() })?;
    /// assert_eq!(store.tensor_clock("w")?.steps, 1000);
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Unknown`]; [`Error::Invalid`] for a frozen tensor, which has no updates; [`Error::ReadOnly`], [`Error::Mixed`].
    pub fn set_tensor_clock(&mut self, name: &str, clock: TensorClock) -> Result<()> {
        self.check_can_change("set a tensor's clock")?;
        let tensor = self.tensor_index(name)?;
        self.check_trained(tensor, "clock")?;
        let TensorClock { steps, mu_product } = clock;
        let entry = crate::format::page::TensorEntry { steps, mu_product };
        self.pager().lock().store_mut().set_tensor_entry(tensor, entry)
    }

    /// Sets how many optimizer steps have been finished. For a run that goes on from elsewhere.
    ///
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// store.set_step(1000)?;
    /// assert_eq!(store.begin_step()?.finish()?.step, 1001);
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::ReadOnly`], [`Error::Mixed`].
    pub fn set_step(&mut self, step: u64) -> Result<()> {
        self.check_can_change("set the step")?;
        self.step = step;
        self.pager().lock().store_mut().note_progress(step);
        Ok(())
    }

    /// Refuses a range that cuts elements that share a scale.
    pub(super) fn check_multiples(&self, tensor: usize, range: &Range<u64>, what: &str) -> Result<()> {
        let is_cut = |at: u64| !at.is_multiple_of(Q8_BLOCK_ELEMENTS) && at != self.elements(tensor);
        if !is_cut(range.start) && !is_cut(range.end) {
            return Ok(());
        }
        let what = format!("part of tensor {:?}, which has {what}", self.tensor_name(tensor));
        let got = format!("elements {} to {}", range.start, range.end);
        Err(Error::invalid(what, got, "parts that begin at multiples of 256 elements"))
    }

    /// Whether a tensor is never updated.
    pub(crate) fn is_frozen(&self, tensor: usize) -> bool {
        self.extent_of(tensor).is_some_and(|extent| self.directory.is_frozen(extent))
    }

    /// Refuses what frozen tensors do not have.
    pub(crate) fn check_trained(&self, tensor: usize, what: &str) -> Result<()> {
        if !self.is_frozen(tensor) {
            return Ok(());
        }
        let what = format!("{what} of tensor {:?}", self.tensor_name(tensor));
        Err(Error::invalid(what, "a frozen tensor, which no step updates", "a tensor that is trained"))
    }

    /// Refuses values for a frozen tensor that has been committed: there is no second home for them.
    pub(super) fn check_may_write(&self, tensor: usize) -> Result<()> {
        let generation = self.generation();
        if generation == 1 || !self.is_frozen(tensor) {
            return Ok(());
        }
        let what = format!("values of frozen tensor {:?}", self.tensor_name(tensor));
        let got = format!("a write at generation {generation}");
        Err(Error::invalid(what, got, "one before the first commit, which fixes them; or a new store"))
    }

    /// Refuses to show as f32 what is kept as it is.
    pub(crate) fn check_floats(&self, tensor: usize) -> Result<()> {
        let dtype = self.extent_of(tensor).map_or(Dtype::F32, |extent| extent.dtype(0));
        if dtype.is_trainable() {
            return Ok(());
        }
        let what = format!("elements of tensor {:?} as f32", self.tensor_name(tensor));
        Err(Error::invalid(what, dtype.name(), "f32, bf16 or f16; or `read_bytes` and `write_bytes`"))
    }
}
