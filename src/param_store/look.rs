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
    ///
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// assert_eq!(store.path(), path);
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What opening found.
    ///
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// store.begin_step()?.finish()?; // a step without a commit, and then the process ends
    /// drop(store);
    /// let store = paramstore::ParamStore::open(&path, &options)?;
    /// assert_eq!(store.recovery().lost_steps, 1);
    /// assert!(!store.recovery().damaged);
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    #[must_use]
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// Optimizer steps finished, committed or not.
    ///
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// let mut step = store.begin_step()?;
    /// step.apply("w", &[1.0; 6])?;
    /// step.finish()?;
    /// assert_eq!((store.step(), store.committed_step()), (1, 0));
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    #[must_use]
    pub fn step(&self) -> u64 {
        self.step
    }

    /// The committed generation.
    ///
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// let before = store.generation();
    /// store.commit(b"")?;
    /// assert_eq!(store.generation(), before + 1);
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.pager().lock().store().superblock().generation
    }

    /// The committed step.
    ///
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// store.begin_step()?.finish()?;
    /// assert_eq!(store.committed_step(), 0);
    /// store.commit(b"")?;
    /// assert_eq!(store.committed_step(), 1);
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    #[must_use]
    pub fn committed_step(&self) -> u64 {
        self.pager().lock().store().superblock().step
    }

    /// The bytes that the last commit saved for the caller: schedule, RNG, data cursor.
    ///
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// store.commit(b"epoch 3, batch 1024")?;
    /// drop(store);
    /// let store = paramstore::ParamStore::open(&path, &options)?;
    /// assert_eq!(store.user_record(), b"epoch 3, batch 1024");
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    #[must_use]
    pub fn user_record(&self) -> &[u8] {
        &self.user_record
    }

    /// The memory budget in force, in bytes.
    ///
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// assert_eq!(store.memory_budget(), 4 << 20); // `Options::memory_budget` said so
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    #[must_use]
    pub fn memory_budget(&self) -> u64 {
        self.budget_bytes
    }

    /// The instruction set in force.
    ///
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// assert_eq!(store.instruction_set(), paramstore::InstructionSet::detect());
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    #[must_use]
    pub fn instruction_set(&self) -> InstructionSet {
        self.engine.isa
    }

    /// The number of parameters.
    ///
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// assert_eq!(store.params(), 6); // those of `w`, 2 by 3
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    #[must_use]
    pub fn params(&self) -> u64 {
        self.directory.tensors.iter().filter_map(Tensor::elements).sum()
    }

    /// All tensors, in the schema's order.
    ///
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// let names: Vec<_> = store.tensors().map(|tensor| tensor.name()).collect();
    /// assert_eq!(names, ["w"]);
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    pub fn tensors(&self) -> impl Iterator<Item = TensorInfo<'_>> {
        let info = |tensor| TensorInfo::new(tensor, &self.directory, &self.groups);
        self.directory.tensors.iter().map(info)
    }

    /// A tensor by name.
    ///
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// assert_eq!(store.tensor("w").map(|w| w.elements()), Some(6));
    /// assert!(store.tensor("b").is_none());
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<TensorInfo<'_>> {
        self.names.get(name).and_then(|&i| self.tensors().nth(i))
    }

    /// All parameter groups.
    ///
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// assert_eq!(store.groups()[0].name(), "all");
    /// assert_eq!(store.groups()[0].optimizer().lr(), 0.5);
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    #[must_use]
    pub fn groups(&self) -> &[ParamGroup] {
        &self.groups
    }

    /// A parameter group, to change its settings: they are read at every step and saved by every commit.
    ///
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// store.group_mut("all")?.set_lr(0.25)?; // from a schedule
    /// let mut step = store.begin_step()?;
    /// step.apply("w", &[1.0; 6])?;
    /// step.finish()?;
    /// assert_eq!(store.view("w")?[0], -0.25);
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub fn group_mut(&mut self, name: &str) -> Result<&mut ParamGroup> {
        let found = self.groups.iter_mut().find(|group| group.name() == name);
        found.ok_or_else(|| Error::Unknown { kind: "parameter group", name: name.to_owned() })
    }

    /// Counters since the store was opened.
    ///
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// let before = store.stats();
    /// store.commit(b"")?;
    /// assert_eq!(store.stats().since(&before).commits, 1);
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.pager().lock().stats()
    }

    /// The share of block planes that the best possible replacement, Belady's MIN, would find in memory in a step like
    /// the last one that finished, with this budget and nothing read ahead; beside it stands
    /// [`Stats::hit_rate`]. `None` before a step has finished.
    ///
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// assert_eq!(store.min_hit_rate(), None);
    /// let mut step = store.begin_step()?;
    /// step.apply("w", &[1.0; 6])?;
    /// step.finish()?;
    /// assert_eq!(store.min_hit_rate(), Some(1.0)); // all of it fits the budget
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    #[must_use]
    pub fn min_hit_rate(&self) -> Option<f64> {
        self.pager().min_hit_rate()
    }

    /// A tensor's parameters as f32, with every update made so far, committed or not. See [`View`] for what it costs.
    ///
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// let mut step = store.begin_step()?;
    /// step.apply("w", &[1.0, 1.0, 1.0, 2.0, 2.0, 2.0])?;
    /// step.finish()?;
    /// let w = store.view("w")?;
    /// assert_eq!(w[..], [-0.5, -0.5, -0.5, -1.0, -1.0, -1.0]); // row-major
    /// # Ok::<(), paramstore::Error>(())
    /// ```
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
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// store.write("w", &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0])?;
    /// assert_eq!(store.view_range("w", 3..6)?[..], [3.0, 4.0, 5.0]); // the second row
    /// # Ok::<(), paramstore::Error>(())
    /// ```
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
    /// ```
    /// use paramstore::precision::Half;
    /// use paramstore::{Optimizer, Options, ParamGroup, ParamStore, Schema, TensorSpec};
    ///
    /// # let dir = tempfile::tempdir().expect("a temporary directory");
    /// # let path = dir.path().join("model.store");
    /// let group = ParamGroup::new("all", Optimizer::from_name("adamw")?);
    /// let schema = Schema::new().group(group).tensor(TensorSpec::new("w", &[2, 2]).compute(Half::Bf16));
    /// let mut store = ParamStore::create(&path, &schema, &Options::new().memory_budget(4 << 20))?;
    /// store.write("w", &[1.0, -2.0, 0.5, 0.0])?;
    /// let w = store.view_half("w")?;
    /// assert_eq!(w[..], [0x3f80, 0xc000, 0x3f00, 0]); // patterns of bf16
    /// # Ok::<(), paramstore::Error>(())
    /// ```
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
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// store.write("w", &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0])?;
    /// let mut w = [0.0; 6];
    /// store.read_into("w", &mut w)?;
    /// assert_eq!(w, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Invalid`] for another length, disk errors.
    pub fn read_into(&self, name: &str, out: &mut [f32]) -> Result<()> {
        self.read_plane_into(name, PARAM_PLANE, out)
    }

    /// As [`read_into`](Self::read_into), for the elements from `start` on.
    ///
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// store.write("w", &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0])?;
    /// let mut row = [0.0; 3];
    /// store.read_range_into("w", 3, &mut row)?;
    /// assert_eq!(row, [3.0, 4.0, 5.0]);
    /// # Ok::<(), paramstore::Error>(())
    /// ```
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
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// let mut step = store.begin_step()?;
    /// step.apply("w", &[1.0; 6])?;
    /// step.finish()?;
    /// let mut momentum = [0.0; 6];
    /// store.read_plane_into("w", "momentum_buffer", &mut momentum)?;
    /// assert_eq!(momentum, [1.0; 6]);
    /// # Ok::<(), paramstore::Error>(())
    /// ```
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
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// let mut step = store.begin_step()?;
    /// step.apply("w", &[1.0; 6])?;
    /// step.finish()?;
    /// assert_eq!(store.tensor_clock("w")?.steps, 1);
    /// # Ok::<(), paramstore::Error>(())
    /// ```
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
    ///
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// store.prefetch(&["w"]); // read while the layer before it computes
    /// assert_eq!(store.view("w")?[..], [0.0; 6]);
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    pub fn prefetch(&self, names: &[&str]) {
        self.prefetch_planes(names, |_| 0..1);
    }

    /// As [`prefetch`](Self::prefetch), for tensors that will be updated: the moments too.
    ///
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// store.prefetch_update(&["w"]); // parameters and momentum, while the gradient is computed
    /// let mut step = store.begin_step()?;
    /// step.apply("w", &[1.0; 6])?;
    /// step.finish()?;
    /// assert_eq!(store.view("w")?[0], -0.5);
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    pub fn prefetch_update(&self, names: &[&str]) {
        self.prefetch_planes(names, |tensor| 0..self.updated_planes(tensor));
    }

    /// As [`prefetch`](Self::prefetch), for tensors that [`view_half`](Self::view_half) will show.
    ///
    /// ```
    /// use paramstore::{Optimizer, Options, ParamGroup, ParamStore, Precision, Schema, TensorSpec};
    ///
    /// # let dir = tempfile::tempdir().expect("a temporary directory");
    /// # let path = dir.path().join("model.store");
    /// let group = ParamGroup::new("all", Optimizer::from_name("lion")?);
    /// let tensor = |name| TensorSpec::new(name, &[2]).precision(Precision::BF16);
    /// let schema = Schema::new().group(group).tensor(tensor("first")).tensor(tensor("second"));
    /// let store = ParamStore::create(&path, &schema, &Options::new().memory_budget(4 << 20))?;
    /// let first = store.view_half("first")?;
    /// store.prefetch_half(&["second"]); // read while the first layer computes
    /// assert_eq!((first.len(), store.view_half("second")?.len()), (2, 2));
    /// # Ok::<(), paramstore::Error>(())
    /// ```
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
