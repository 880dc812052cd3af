//! Looking: sizes, counters, parameters and moments.

use std::ops::Range;
use std::path::Path;

use super::{ParamStore, Recovery, TensorInfo};
use crate::error::{Error, Result};
use crate::format::directory::Tensor;
use crate::kernel::InstructionSet;
use crate::layout::{PARAM_PLANE, pieces};
use crate::optim::TensorClock;
use crate::pager::{HalfView, Stats, View, read_ahead};
use crate::schema::ParamGroup;
use crate::units::{to_u64, to_usize};

impl ParamStore {
    /// The store's directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What opening found.
    #[must_use]
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// Optimizer steps finished, committed or not.
    #[must_use]
    pub fn step(&self) -> u64 {
        self.step
    }

    /// The committed generation.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.pager().lock().store().superblock().generation
    }

    /// The committed step.
    #[must_use]
    pub fn committed_step(&self) -> u64 {
        self.pager().lock().store().superblock().step
    }

    /// The bytes that the last commit saved for the caller: schedule, RNG, data cursor.
    #[must_use]
    pub fn user_record(&self) -> &[u8] {
        &self.user_record
    }

    /// The memory budget in force, in bytes.
    #[must_use]
    pub fn memory_budget(&self) -> u64 {
        self.budget_bytes
    }

    /// The instruction set in force.
    #[must_use]
    pub fn instruction_set(&self) -> InstructionSet {
        self.engine.isa
    }

    /// The number of parameters.
    #[must_use]
    pub fn params(&self) -> u64 {
        self.directory.tensors.iter().filter_map(Tensor::elements).sum()
    }

    /// All tensors, in the schema's order.
    pub fn tensors(&self) -> impl Iterator<Item = TensorInfo<'_>> {
        let info = |tensor| TensorInfo::new(tensor, &self.directory, &self.groups);
        self.directory.tensors.iter().map(info)
    }

    /// A tensor by name.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<TensorInfo<'_>> {
        self.names.get(name).and_then(|&i| self.tensors().nth(i))
    }

    /// All parameter groups.
    #[must_use]
    pub fn groups(&self) -> &[ParamGroup] {
        &self.groups
    }

    /// A parameter group, to change its settings: they are read at every step and saved by every commit.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub fn group_mut(&mut self, name: &str) -> Result<&mut ParamGroup> {
        let found = self.groups.iter_mut().find(|group| group.name() == name);
        found.ok_or_else(|| Error::Unknown { kind: "parameter group", name: name.to_owned() })
    }

    /// Counters since the store was opened.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.pager().lock().stats()
    }

    /// The share of block planes that the best possible replacement, Belady's MIN, would find in memory in a step like
    /// the last one that finished, with this budget and nothing read ahead; beside it stands
    /// [`Stats::hit_rate`]. `None` before a step has finished.
    #[must_use]
    pub fn min_hit_rate(&self) -> Option<f64> {
        self.pager().min_hit_rate()
    }

    /// A tensor's parameters as f32, with every update made so far, committed or not. See [`View`] for what it costs.
    ///
    /// # Errors
    /// [`Error::Unknown`]; [`Error::Invalid`] for a tensor of rows, which has no views, and for a type that is kept as it is;
    /// [`Error::Budget`] if a gathered view
    /// does not fit the budget; disk errors.
    pub fn view(&self, name: &str) -> Result<View<'_>> {
        let tensor = self.tensor_index(name)?;
        self.check_dense(tensor, "view")?;
        self.check_floats(tensor)?;
        self.background.settle(tensor);
        self.pager().view(tensor, 0, 0..self.elements(tensor))
    }

    /// A range of a tensor's elements as [`view`](Self::view) gives the whole.
    ///
    /// # Errors
    /// As [`view`](Self::view); [`Error::Invalid`] for a range that leaves the tensor.
    pub fn view_range(&self, name: &str, range: Range<u64>) -> Result<View<'_>> {
        let len = to_usize(range.end.saturating_sub(range.start));
        let (tensor, range) = self.checked_range(name, range.start, len)?;
        self.check_dense(tensor, "view")?;
        self.check_floats(tensor)?;
        self.background.settle(tensor);
        self.pager().view(tensor, 0, range)
    }

    /// A tensor's parameters in bf16 or f16, without widening them: half the bytes of [`view`](Self::view), which shows them
    /// as f32. Of f32 parameters it shows the copy, if they have one ([`TensorSpec::compute`](crate::TensorSpec::compute)).
    ///
    /// # Errors
    /// As [`view`](Self::view); [`Error::Invalid`] for f32 parameters without a copy.
    pub fn view_half(&self, name: &str) -> Result<HalfView<'_>> {
        let tensor = self.tensor_index(name)?;
        self.check_dense(tensor, "view")?;
        self.background.settle(tensor);
        let plane = self.copy_plane(tensor).unwrap_or(0);
        let view = self.pager().view_half(tensor, plane, 0..self.elements(tensor))?;
        view.ok_or_else(|| {
            let expected =
                "parameters in bf16 or f16, a `compute` plane, or `view`, which shows every type as f32";
            Error::invalid(format!("half view of tensor {name:?}"), "f32 parameters", expected)
        })
    }

    /// Copies a tensor's parameters, with every update made so far, into `out`, which has its length. Needs no more
    /// of the budget than a few blocks.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Invalid`] for another length, disk errors.
    pub fn read_into(&self, name: &str, out: &mut [f32]) -> Result<()> {
        self.read_plane_into(name, PARAM_PLANE, out)
    }

    /// As [`read_into`](Self::read_into), for the elements from `start` on.
    ///
    /// # Errors
    /// As [`read_into`](Self::read_into).
    pub fn read_range_into(&self, name: &str, start: u64, out: &mut [f32]) -> Result<()> {
        let (tensor, range) = self.checked_range(name, start, out.len())?;
        self.read_planes_range(tensor, 0, range, out)
    }

    /// As [`read_into`](Self::read_into), for any plane of the tensor, e.g. `exp_avg`; one that an optimizer keeps by rows
    /// (`row_sum`) has one element for each row.
    ///
    /// # Errors
    /// As [`read_into`](Self::read_into); [`Error::Unknown`] for a plane that the tensor does not have.
    pub fn read_plane_into(&self, name: &str, plane: &str, out: &mut [f32]) -> Result<()> {
        let tensor = self.tensor_index(name)?;
        let plane = self.plane_index(tensor, plane)?;
        let elements = self.plane_elements(tensor, plane);
        if to_u64(out.len()) != elements {
            let (got, expected) = (format!("{} elements", out.len()), format!("{elements} elements"));
            return Err(Error::invalid(format!("memory for tensor {name:?}"), got, expected));
        }
        self.read_planes_range(tensor, plane, 0..elements, out)
    }

    pub(super) fn read_planes_range(
        &self,
        tensor: usize,
        plane: usize,
        range: Range<u64>,
        out: &mut [f32],
    ) -> Result<()> {
        if self.table_of(tensor).is_some() {
            return self.read_table(tensor, plane, range, out);
        }
        self.check_floats(tensor)?;
        self.background.settle(tensor);
        self.pager().read_into(tensor, plane, range, out)
    }

    /// What a tensor's rule keeps beside its planes: the updates made to it so far, committed or not.
    ///
    /// # Errors
    /// [`Error::Unknown`], disk errors.
    pub fn tensor_clock(&self, name: &str) -> Result<TensorClock> {
        let tensor = self.tensor_index(name)?;
        let entry = self.pager().lock().store_mut().tensor_entry(tensor)?;
        Ok(TensorClock { steps: entry.steps, mu_product: entry.mu_product })
    }

    /// Says which tensors' parameters will be read soon: reads begin now, as far as memory is free, and nothing
    /// waits. Unknown names and disk errors are left to the read itself.
    pub fn prefetch(&self, names: &[&str]) {
        self.prefetch_planes(names, |_| 0..1);
    }

    /// As [`prefetch`](Self::prefetch), for tensors that will be updated: the moments too.
    pub fn prefetch_update(&self, names: &[&str]) {
        self.prefetch_planes(names, |tensor| 0..self.updated_planes(tensor));
    }

    /// As [`prefetch`](Self::prefetch), for tensors that [`view_half`](Self::view_half) will show.
    pub fn prefetch_half(&self, names: &[&str]) {
        self.prefetch_planes(names, |tensor| {
            let plane = self.copy_plane(tensor).unwrap_or(0);
            plane..plane + 1
        });
    }

    fn prefetch_planes(&self, names: &[&str], planes: impl Fn(usize) -> Range<usize>) {
        let mut pager = self.pager().lock();
        let tensors = names.iter().filter_map(|name| self.names.get(*name).copied());
        for tensor in tensors.filter(|&tensor| self.table_of(tensor).is_none()) {
            let range = 0..self.elements(tensor);
            let mut ahead = read_ahead(&self.directory, tensor, range.clone(), planes(tensor));
            let first = pieces(&self.directory, tensor, range).next();
            if first.is_none_or(|first| ahead.advance(&mut pager, &first).is_err()) {
                return;
            }
        }
    }
}
