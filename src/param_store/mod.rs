//! The store as its user sees it: tensors by name, steps, commits.

mod change;
mod elsewhere;
mod look;
mod open;
mod place;
mod rows;
mod tensor;

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use change::CommitReport;
pub use open::Recovery;
#[cfg(any(test, feature = "simulation"))]
pub(crate) use open::build_threads;
pub(crate) use place::Place;
pub use tensor::TensorInfo;

use crate::error::{Error, Result};
use crate::format::directory::{Directory, Dtype, Extent, Tensor};
use crate::format::records::{Records, RowMode};
use crate::initial::rounding_key;
use crate::layout::{GRAD_PLANE, PARAM_PLANE};
use crate::optim::{CatchUp, Optimizer};
use crate::pager::Pager;
use crate::rows::Rows;
use crate::schema::ParamGroup;
use crate::telemetry::Telemetry;
use crate::units::{to_u64, to_usize};
use crate::update::{Background, Engine};

/// A store of parameters and optimizer state, open in this process.
///
/// There is one writer at a time; readers ([`open_read_only`](Self::open_read_only)) see the committed generation
/// and keep it as long as they are open.
///
/// # Example
///
/// ```
/// use paramstore::{Optimizer, Options, ParamGroup, ParamStore, Schema, TensorSpec};
///
/// # let dir = tempfile::tempdir().expect("a temporary directory");
/// # let path = dir.path().join("model.store");
/// let group = ParamGroup::new("all", Optimizer::from_name("sgd")?);
/// let schema = Schema::new().group(group).tensor(TensorSpec::new("w", &[2, 3]));
/// let options = Options::new().memory_budget(4 << 20);
/// let mut store = ParamStore::create(&path, &schema, &options)?;
///
/// store.group_mut("all")?.set_lr(0.5)?;
/// let mut step = store.begin_step()?;
/// step.apply("w", &[1.0; 6])?;  // the gradient that your program computed
/// step.finish()?;
/// store.commit(b"batch 1")?;    // durable, all of it, when this returns
/// drop(store);                  // or `kill -9`
///
/// let store = ParamStore::open(&path, &options)?;
/// assert_eq!((store.step(), store.user_record()), (1, &b"batch 1"[..]));
/// assert_eq!(store.view("w")?[..], [-0.5; 6]);
/// # Ok::<(), paramstore::Error>(())
/// ```
pub struct ParamStore {
    engine: Engine,
    background: Background,
    path: PathBuf,
    directory: Arc<Directory>,
    names: HashMap<String, usize>,
    groups: Vec<ParamGroup>,
    user_record: Vec<u8>,
    recovery: Recovery,
    step: u64,
    budget_bytes: u64,
    /// The batches of rows that were named last.
    batches: Mutex<VecDeque<rows::Batch>>,
    telemetry: Mutex<Telemetry>,
    /// Something failed or was dropped between two steps.
    mixed: bool,
}

impl std::fmt::Debug for ParamStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ParamStore")
            .field("path", &self.path)
            .field("step", &self.step)
            .finish_non_exhaustive()
    }
}

/// For the rooms that conduct.
impl ParamStore {
    pub(crate) fn pager(&self) -> &Pager {
        &self.engine.pager
    }

    /// What an update needs: the pager to lease from, the threads and the instruction set to compute with.
    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(crate) fn background(&self) -> &Background {
        &self.background
    }

    pub(crate) fn background_mut(&mut self) -> &mut Background {
        &mut self.background
    }

    pub(crate) fn directory(&self) -> Arc<Directory> {
        Arc::clone(&self.directory)
    }

    pub(crate) fn check_can_change(&self, action: &'static str) -> Result<()> {
        let state = self.pager().lock();
        state.store().check_writable(action)?;
        if self.mixed {
            return Err(Error::Mixed { step: self.step, committed_step: state.store().superblock().step });
        }
        Ok(())
    }

    pub(crate) fn check_gradient_plane(&self, purpose: &str) -> Result<()> {
        if self.directory.planes.iter().any(|plane| plane.name == GRAD_PLANE) {
            return Ok(());
        }
        let expected = format!("a store created with `gradient_plane(true)`, as {purpose} needs");
        Err(Error::invalid("store", "no `grad` plane", expected))
    }

    pub(crate) fn mark_mixed(&mut self) {
        self.mixed = true;
    }

    /// A step has finished: everything is at the same step again.
    pub(crate) fn clear_mixed(&mut self) {
        self.mixed = false;
    }

    /// Counts a finished step.
    pub(crate) fn advance(&mut self) -> u64 {
        self.step += 1;
        let step = self.step;
        self.pager().lock().store_mut().note_progress(step);
        self.telemetry().finish_step(self.pager(), step);
        step
    }

    /// What is told to onlookers.
    pub(crate) fn telemetry(&self) -> MutexGuard<'_, Telemetry> {
        self.telemetry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells onlookers how far an unfinished step is, now and then.
    pub(crate) fn tick(&self) {
        self.telemetry().tick(self.pager(), self.step);
    }

    pub(crate) fn tensor_index(&self, name: &str) -> Result<usize> {
        let index = self.names.get(name).copied();
        index.ok_or_else(|| Error::Unknown { kind: "tensor", name: name.to_owned() })
    }

    pub(crate) fn tensor_name(&self, tensor: usize) -> &str {
        self.directory.tensors.get(tensor).map_or("", |tensor| tensor.name.as_str())
    }

    pub(crate) fn elements(&self, tensor: usize) -> u64 {
        self.directory.tensors.get(tensor).and_then(Tensor::elements).unwrap_or(0)
    }

    /// State planes of a tensor.
    pub(crate) fn state_planes(&self, tensor: usize) -> usize {
        let beside = self.copy_plane(tensor).or_else(|| self.compensation_plane(tensor));
        let of_extent = || self.extent_of(tensor).map_or(1, |extent| beside.unwrap_or(extent.planes.len()));
        self.records_of(tensor).map_or_else(of_extent, |records| records.planes.len()) - 1
    }

    /// The plane that keeps what rounding a tensor's parameters lost, if it has one: the one behind the state.
    pub(crate) fn compensation_plane(&self, tensor: usize) -> Option<usize> {
        self.directory.compensation_plane(self.extent_of(tensor)?)
    }

    /// Planes that an update of a tensor reads and writes: parameters, state, and what rounding the parameters lost.
    pub(crate) fn updated_planes(&self, tensor: usize) -> usize {
        self.state_planes(tensor) + 1 + usize::from(self.compensation_plane(tensor).is_some())
    }

    /// The plane that is a copy of a tensor's parameters, if it has one.
    pub(crate) fn copy_plane(&self, tensor: usize) -> Option<usize> {
        self.directory.copy_plane(self.extent_of(tensor)?)
    }

    /// The scratch plane of a tensor: the one after all others.
    pub(crate) fn scratch_plane(&self, tensor: usize) -> usize {
        self.updated_planes(tensor) + usize::from(self.copy_plane(tensor).is_some())
    }

    fn extent_of(&self, tensor: usize) -> Option<&Extent> {
        self.directory.extents.get(to_usize(self.directory.tensors.get(tensor)?.extent.into()))
    }

    /// What the records of a tensor of rows are.
    fn records_of(&self, tensor: usize) -> Option<&Records> {
        self.extent_of(tensor)?.records.as_ref()
    }

    /// The tables of rows, if the tensor is one, and what its records are.
    pub(crate) fn table_of(&self, tensor: usize) -> Option<(&Rows, &Records)> {
        Some((self.engine.tables.as_deref()?, self.records_of(tensor)?))
    }

    /// How the rows of a tensor come to where a dense run would have them; `None` if they do not.
    pub(crate) fn catch_up(&self, tensor: usize) -> Result<Option<CatchUp>> {
        if self.records_of(tensor).is_none_or(|records| records.mode != RowMode::CatchUp) {
            return Ok(None);
        }
        let steps = self.pager().lock().store_mut().tensor_entry(tensor)?.steps;
        let what = format!("rows of tensor {:?} that catch up", self.tensor_name(tensor));
        self.optimizer_of(tensor)?.catch_up(steps, what).map(Some)
    }

    /// Elements of a plane: as many as the tensor has, or one for each row.
    pub(crate) fn plane_elements(&self, tensor: usize, plane: usize) -> u64 {
        let elements = self.elements(tensor);
        let records = self.records_of(tensor);
        let width = |plane| records.map_or(1, |records| to_u64(records.within(plane).len()).max(1));
        elements / width(0) * width(plane)
    }

    /// The tables of rows, in a store that has some.
    pub(crate) fn tables(&self) -> Option<&Rows> {
        self.engine.tables.as_deref()
    }

    /// Refuses what tensors of rows do not have.
    pub(crate) fn check_dense(&self, tensor: usize, what: &str) -> Result<()> {
        if self.table_of(tensor).is_none() {
            return Ok(());
        }
        let what = format!("{what} of tensor {:?}", self.tensor_name(tensor));
        Err(Error::invalid(what, "a tensor of rows", "apply_rows, gather_rows, or a copy by ranges"))
    }

    /// Refuses updates of rows where the rule for rows would have to round.
    pub(crate) fn check_wide(&self, tensor: usize) -> Result<()> {
        let narrow = self.extent_of(tensor).and_then(|extent| {
            extent.planes.iter().map(|plane| plane.dtype).find(|&dtype| dtype != Dtype::F32)
        });
        let Some(dtype) = narrow else { return Ok(()) };
        let what = format!("update of rows of tensor {:?}", self.tensor_name(tensor));
        let got = format!("a plane in {}", dtype.name());
        Err(Error::invalid(
            what,
            got,
            "a tensor in f32 (`TensorSpec::precision`), or an update of the whole tensor",
        ))
    }

    /// Refuses an update of a part of a block of elements that share a scale.
    pub(crate) fn check_whole_blocks(&self, tensor: usize, range: &Range<u64>) -> Result<()> {
        let is_q8 = |extent: &Extent| extent.planes.iter().any(|plane| plane.dtype.is_q8());
        if self.extent_of(tensor).is_some_and(is_q8) {
            self.check_multiples(tensor, range, "moments of 8 bits")?;
        }
        Ok(())
    }

    /// The key of the random bits that a tensor's parameters are rounded with in the next step.
    pub(crate) fn rounding_key(&self, tensor: usize) -> u64 {
        rounding_key(self.directory.seed, self.tensor_name(tensor), self.step + 1)
    }

    pub(crate) fn plane_index(&self, tensor: usize, plane: &str) -> Result<usize> {
        let info = self.tensors().nth(tensor);
        let find = |info: TensorInfo<'_>| {
            let is_first = plane == PARAM_PLANE;
            if is_first { Some(0) } else { info.planes().position(|name| name == plane) }
        };
        let found = info.and_then(find);
        found.ok_or_else(|| Error::Unknown { kind: "plane of the tensor", name: plane.to_owned() })
    }

    pub(crate) fn optimizer_of(&self, tensor: usize) -> Result<&Optimizer> {
        let group =
            self.directory.tensors.get(tensor).and_then(|t| self.groups.get(to_usize(t.group.into())));
        let unknown =
            || Error::Unknown { kind: "parameter group", name: self.tensor_name(tensor).to_owned() };
        group.map(ParamGroup::optimizer).ok_or_else(unknown)
    }

    /// The range of `len` elements from `start` on, if it lies in the tensor.
    pub(crate) fn checked_range(&self, name: &str, start: u64, len: usize) -> Result<(usize, Range<u64>)> {
        let tensor = self.tensor_index(name)?;
        Ok((tensor, self.checked_plane_range(tensor, 0, start, len)?))
    }

    /// Refuses a range that does not lie inside a plane of a tensor.
    pub(crate) fn checked_plane_range(
        &self,
        tensor: usize,
        plane: usize,
        start: u64,
        len: usize,
    ) -> Result<Range<u64>> {
        let elements = self.plane_elements(tensor, plane);
        match start.checked_add(to_u64(len)) {
            Some(end) if end <= elements => Ok(start..end),
            _ => {
                let got = format!("{len} elements from {start} on");
                let what = format!("range of tensor {:?}", self.tensor_name(tensor));
                Err(Error::invalid(what, got, format!("a range inside its {elements} elements")))
            }
        }
    }
}
