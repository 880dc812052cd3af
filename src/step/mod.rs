//! CONDUCTOR. One optimizer step: gradients in, updates out, the step counter last.

mod coverage;
mod memory;
mod staged;
mod update;

use std::collections::BTreeMap;
use std::ops::{Deref, Range};
use std::time::Instant;

pub use memory::MemoryPass;

use coverage::Coverage;
use update::{Gradient, Job};

use crate::error::{Error, Result};
use crate::format::elements::{as_f32, as_f32_mut};
use crate::format::page::TensorEntry;
use crate::kernel::reduce::Preparation;
use crate::layout::{Piece, pieces};
use crate::optim::{Prepared, TensorClock};
use crate::options::StepOptions;
use crate::pager::{Key, Stats, elapsed_ns, read_ahead};
use crate::param_store::ParamStore;
use crate::units::to_u64;

/// What a finished step did.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct StepReport {
    /// The store's step counter after this step.
    pub step: u64,
    /// Global norm of all gradients, after division by the loss scale and before clipping; where it was needed.
    pub grad_norm: Option<f64>,
    /// Gradient elements that were NaN or infinite.
    pub non_finite: u64,
    /// Bytes, hits and times of this step alone.
    pub stats: Stats,
}

/// One optimizer step under way. It dereferences to the store, so that parameters can be read between updates.
///
/// A step has to be ended with [`finish`](Self::finish). If it is dropped after updates have been made, or fails
/// half way, the store is mixed between two steps and refuses everything but reading and
/// [`rollback`](ParamStore::rollback).
#[derive(Debug)]
pub struct Step<'a> {
    store: &'a mut ParamStore,
    options: StepOptions,
    /// Tensors that this step has begun to update.
    updated: BTreeMap<usize, Update>,
    /// Tensors whose gradients wait in the `grad` plane.
    staged: BTreeMap<usize, Coverage>,
    /// An update or a gradient failed half way: what was done cannot be told from what was not.
    failed: bool,
    non_finite: u64,
    before: Stats,
}

#[derive(Debug)]
struct Update {
    rule: Prepared,
    clock_after: TensorClock,
    done: Coverage,
}

impl Deref for Step<'_> {
    type Target = ParamStore;

    fn deref(&self) -> &ParamStore {
        self.store
    }
}

/// What a step adds to the store.
impl ParamStore {
    /// Begins an optimizer step with the defaults of [`StepOptions`].
    ///
    /// # Errors
    /// [`Error::ReadOnly`], [`Error::Mixed`] after a step that did not finish, [`Error::Poisoned`].
    pub fn begin_step(&mut self) -> Result<Step<'_>> {
        self.begin_step_with(StepOptions::new())
    }

    /// Begins an optimizer step.
    ///
    /// # Errors
    /// As [`begin_step`](Self::begin_step); [`Error::Invalid`] for options that need a `grad` plane the store lacks.
    pub fn begin_step_with(&mut self, options: StepOptions) -> Result<Step<'_>> {
        Step::begin(self, options)
    }
}

impl<'a> Step<'a> {
    fn begin(store: &'a mut ParamStore, options: StepOptions) -> Result<Self> {
        options.check()?;
        store.check_can_change("begin a step")?;
        if options.needs_all_gradients() {
            store.check_gradient_plane("clipping by global norm and refusing non-finite gradients")?;
        }
        let pager = store.pager_mut();
        pager.begin_step()?;
        let before = pager.stats();
        let (updated, staged) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self { store, options, updated, staged, failed: false, non_finite: 0, before })
    }

    /// Updates a tensor with its gradient, at once: parameters and moments are read, changed and on their way back
    /// when this returns. Where the step needs all gradients first (clipping, refusing), the gradient is put aside in
    /// the `grad` plane and applied by [`finish`](Self::finish).
    ///
    /// # Errors
    /// [`Error::Unknown`] for the name, [`Error::Invalid`] if the gradient's length is not the tensor's or the
    /// tensor was updated in this step already; I/O errors and [`Error::Damaged`] from the disk.
    pub fn apply(&mut self, name: &str, gradient: &[f32]) -> Result<()> {
        let tensor = self.store.tensor_index(name)?;
        let elements = self.store.elements(tensor);
        if to_u64(gradient.len()) != elements {
            let what = format!("gradient of tensor {name:?}");
            return Err(Error::invalid(
                what,
                format!("{} elements", gradient.len()),
                format!("{elements} elements"),
            ));
        }
        self.apply_range(name, 0, gradient)
    }

    /// As [`apply`](Self::apply), for a part of a tensor that begins at element `start`; the parts of a tensor may
    /// come in any order and must together be the whole before [`finish`](Self::finish).
    ///
    /// # Errors
    /// As [`apply`](Self::apply); [`Error::Invalid`] for a part that leaves the tensor or overlaps an earlier one.
    pub fn apply_range(&mut self, name: &str, start: u64, gradient: &[f32]) -> Result<()> {
        let (tensor, range) = self.store.checked_range(name, start, gradient.len())?;
        if self.options.needs_all_gradients() {
            return self.stage_once(tensor, range, gradient);
        }
        if self.staged.contains_key(&tensor) {
            return Err(self.twice(tensor));
        }
        self.update(tensor, range, Gradient::Given(gradient), None)
    }

    /// As [`apply`](Self::apply), with a gradient that is made where it is used: `make` fills the gradient of a range
    /// of elements, on several threads at once, a few thousand elements at a time. For tensors whose gradient would
    /// not fit in memory.
    ///
    /// # Errors
    /// As [`apply`](Self::apply); [`Error::Invalid`] in a step that needs all gradients first.
    pub fn apply_with(&mut self, name: &str, make: impl Fn(Range<u64>, &mut [f32]) + Sync) -> Result<()> {
        let tensor = self.store.tensor_index(name)?;
        if self.options.needs_all_gradients() {
            return Err(Error::invalid(
                "apply_with in this step",
                "clipping or refusing of non-finite gradients",
                "a step without them (or `accumulate` gradients by range)",
            ));
        }
        if self.staged.contains_key(&tensor) {
            return Err(self.twice(tensor));
        }
        self.update(tensor, 0..self.store.elements(tensor), Gradient::Made(&make), None)
    }

    /// Adds a gradient to what the `grad` plane holds for the tensor in this step; [`finish`](Self::finish) applies
    /// the sum. `scale` multiplies it first: 1 / number of micro-batches for a mean.
    ///
    /// # Errors
    /// As [`apply`](Self::apply); [`Error::Invalid`] if the store has no `grad` plane.
    pub fn accumulate(&mut self, name: &str, gradient: &[f32], scale: f64) -> Result<()> {
        let tensor = self.store.tensor_index(name)?;
        let elements = self.store.elements(tensor);
        if to_u64(gradient.len()) != elements {
            let (got, expected) = (format!("{} elements", gradient.len()), format!("{elements} elements"));
            return Err(Error::invalid(format!("gradient of tensor {name:?}"), got, expected));
        }
        self.accumulate_range(name, 0, gradient, scale)
    }

    /// As [`accumulate`](Self::accumulate), for a part of a tensor that begins at element `start`.
    ///
    /// # Errors
    /// As [`accumulate`](Self::accumulate).
    pub fn accumulate_range(&mut self, name: &str, start: u64, gradient: &[f32], scale: f64) -> Result<()> {
        self.store.check_gradient_plane("gradient accumulation")?;
        let (tensor, range) = self.store.checked_range(name, start, gradient.len())?;
        if self.updated.contains_key(&tensor) {
            return Err(self.twice(tensor));
        }
        self.stage(tensor, range, gradient, scale)
    }

    /// Ends the step: applies what waits in the `grad` plane, checks that every tensor was updated whole, moves the
    /// step counter. Nothing is durable before [`commit`](ParamStore::commit).
    ///
    /// # Errors
    /// [`Error::NonFinite`] if the policy refuses the step: nothing was changed then. [`Error::Invalid`] if a tensor
    /// was updated in part: the store is mixed then, as after any other error that follows an update.
    pub fn finish(mut self) -> Result<StepReport> {
        self.check_whole()?;
        let grad_norm = self.apply_staged()?;
        for (&tensor, update) in &self.updated {
            if !update.done.is_whole(self.store.elements(tensor)) {
                let what = format!("update of tensor {:?}", self.store.tensor_name(tensor));
                let got = format!("a gap at element {}", update.done.first_gap());
                return Err(Error::invalid(what, got, "every element updated once"));
            }
        }
        let pager = self.store.pager_mut();
        for (&tensor, update) in &self.updated {
            let TensorClock { steps, mu_product } = update.clock_after;
            pager.store_mut().set_tensor_entry(tensor, TensorEntry { steps, mu_product })?;
        }
        pager.forget_scratch()?;
        let step = self.store.advance();
        self.store.clear_mixed();
        let stats = self.store.stats().since(&self.before);
        Ok(StepReport { step, grad_norm, non_finite: self.non_finite, stats })
    }

    fn twice(&self, tensor: usize) -> Error {
        let what = format!("gradient of tensor {:?}", self.store.tensor_name(tensor));
        Error::invalid(what, "a second update in this step", "one update of each element in a step")
    }

    /// Updates a range of a tensor, blocks read ahead and written behind.
    fn update(
        &mut self,
        tensor: usize,
        range: Range<u64>,
        gradient: Gradient<'_>,
        coefficient: Option<f32>,
    ) -> Result<()> {
        self.check_whole()?;
        let rule = self.begin_update(tensor, &range)?;
        // From here on the step has to finish: dropping it, or forgetting it, leaves the store mixed.
        self.store.mark_mixed();
        self.failed = true;
        let prepare = Preparation { divisor: self.divisor(), coefficient, ..Preparation::default() };
        let directory = self.store.directory();
        let planes = self.store.state_planes(tensor) + 1;
        let planes = if matches!(gradient, Gradient::Staged) { planes + 1 } else { planes };
        let mut ahead = read_ahead(&directory, tensor, range.clone(), 0..planes);
        for piece in pieces(&directory, tensor, range.clone()) {
            ahead.advance(self.store.pager_mut(), &piece)?;
            let part = match gradient {
                Gradient::Given(values) => Gradient::Given(slice_of(values, &piece, range.start)),
                other => other,
            };
            self.update_piece(&piece, planes, part, &rule, prepare)?;
        }
        if let Some(update) = self.updated.get_mut(&tensor) {
            update.done.insert(range);
        }
        self.failed = false;
        Ok(())
    }

    /// Refuses a step in which something failed half way.
    fn check_whole(&self) -> Result<()> {
        if self.failed {
            return Err(Error::invalid("step", "a failure half way in it", "a new step, after `rollback`"));
        }
        Ok(())
    }

    /// The loss scale as the kernels use it.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a scalar is computed in f64 and rounded once at use"
    )]
    fn divisor(&self) -> Option<f32> {
        self.options.loss_scale.map(|scale| scale as f32)
    }

    /// The tensor's scalars of this step, computed at its first update.
    fn begin_update(&mut self, tensor: usize, range: &Range<u64>) -> Result<Prepared> {
        if let Some(update) = self.updated.get(&tensor) {
            if update.done.overlaps(range) {
                return Err(self.twice(tensor));
            }
            return Ok(update.rule);
        }
        let entry = self.store.pager_mut().store_mut().tensor_entry(tensor)?;
        let clock = TensorClock { steps: entry.steps, mu_product: entry.mu_product };
        let (rule, clock_after) = self.store.optimizer_of(tensor)?.prepare(clock);
        self.updated.insert(tensor, Update { rule, clock_after, done: Coverage::default() });
        Ok(rule)
    }

    /// Updates one block's part of a tensor. With a staged gradient the last of `planes` is the scratch plane.
    fn update_piece(
        &mut self,
        piece: &Piece,
        planes: usize,
        gradient: Gradient<'_>,
        rule: &Prepared,
        prepare: Preparation,
    ) -> Result<()> {
        let keys: Vec<_> = (0..planes).map(|plane| Key { block: piece.block, plane }).collect();
        let (pager, threads, isa) = self.store.parts();
        let mut leased = pager.lease(&keys)?;
        let start = Instant::now();
        let bytes = 4 * piece.within.start..4 * piece.within.end;
        let staged = if matches!(gradient, Gradient::Staged) { leased.pop() } else { None };
        let gradient = match &staged {
            Some(buffer) => Gradient::Given(as_f32(buffer.get(bytes.clone()).unwrap_or_default())),
            None => gradient,
        };
        let slices = leased.iter_mut().map(|b| as_f32_mut(b.get_mut(bytes.clone()).unwrap_or_default()));
        let job = Job { isa, threads, rule, prepare };
        self.non_finite += update::update(job, slices.collect(), gradient, piece.of_tensor.start);
        pager.stats_mut().compute_ns += elapsed_ns(start);
        let changed = leased.len();
        // Every buffer goes back, whatever becomes of the others.
        let mut result = Ok(());
        for (at, (key, buffer)) in keys.into_iter().zip(leased.into_iter().chain(staged)).enumerate() {
            let released = pager.release(key, buffer, at < changed);
            result = result.and(released);
        }
        result
    }
}

/// The part of `values`, which begin at element `start` of the tensor, that belongs to a piece.
fn slice_of<'v>(values: &'v [f32], piece: &Piece, start: u64) -> &'v [f32] {
    let from = crate::units::to_usize(piece.of_tensor.start - start);
    values.get(from..from + piece.within.len()).unwrap_or_default()
}
