//! CONDUCTOR. One optimizer step: gradients in, updates out, the step counter last.

mod coverage;
mod memory;
mod rows;
mod staged;
mod toward;

use std::collections::BTreeMap;
use std::ops::{Deref, Range};

pub use memory::MemoryPass;

use coverage::{Coverage, Done};

use crate::error::{Error, Result};
use crate::format::page::TensorEntry;
use crate::kernel::reduce::Preparation;
use crate::optim::{Prepared, TensorClock};
use crate::options::StepOptions;
use crate::pager::{Access, Stats, Waiter};
use crate::param_store::ParamStore;
use crate::precision::{Half, widen};
use crate::units::{to_u64, to_usize};
use crate::update::{Gradient, Update};

/// Elements of a gradient in few bits that are widened at a time on their way to the `grad` plane.
const HALF_LEN: usize = 1 << 16;

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
///
/// # Example
///
/// ```
#[doc = include_str!("../examples/store.txt")]
/// let mut step = store.begin_step()?;
/// let w = step.view("w")?;                    // the forward pass reads through the step
/// let gradient: Vec<f32> = w.iter().map(|x| x - 1.0).collect();
/// drop(w);
/// step.apply("w", &gradient)?;
/// assert_eq!(step.view("w")?[..], [0.5; 6]);  // half way from 0 to 1
/// assert_eq!(step.finish()?.step, 1);
/// # Ok::<(), paramstore::Error>(())
/// ```
#[derive(Debug)]
pub struct Step<'a> {
    store: &'a mut ParamStore,
    options: StepOptions,
    /// Tensors that this step has begun to update.
    updated: BTreeMap<usize, Updated>,
    /// Tensors whose gradients wait in the `grad` plane.
    staged: BTreeMap<usize, Coverage>,
    /// An update or a gradient failed half way: what was done cannot be told from what was not.
    failed: bool,
    finished: bool,
    non_finite: u64,
    before: Stats,
}

#[derive(Debug)]
struct Updated {
    rule: Prepared,
    clock_after: TensorClock,
    done: Done,
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
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// let mut step = store.begin_step()?;
    /// step.apply("w", &[1.0; 6])?;
    /// drop(step); // not finished: the store is mixed between two steps
    /// assert!(matches!(store.begin_step(), Err(paramstore::Error::Mixed { .. })));
    /// store.rollback()?;
    /// store.begin_step()?.finish()?;
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::ReadOnly`], [`Error::Mixed`] after a step that did not finish, [`Error::Poisoned`].
    pub fn begin_step(&mut self) -> Result<Step<'_>> {
        self.begin_step_with(StepOptions::new())
    }

    /// Begins an optimizer step.
    ///
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// use paramstore::{Error, NonFinitePolicy, StepOptions};
    ///
    /// let careful = StepOptions::new().max_norm(1.0).non_finite(NonFinitePolicy::Refuse);
    /// let mut step = store.begin_step_with(careful)?;
    /// step.apply("w", &[f32::NAN; 6])?;
    /// assert!(matches!(step.finish(), Err(Error::NonFinite { count: 6, .. })));
    ///
    /// let mut step = store.begin_step_with(careful)?; // nothing was changed
    /// step.apply("w", &[0.0, 0.0, 3.0, 0.0, 0.0, 4.0])?;
    /// assert_eq!(step.finish()?.grad_norm, Some(5.0)); // clipped to 1
    /// assert!((store.view("w")?[2] + 0.5 * 3.0 / 5.0).abs() < 1e-6);
    /// # Ok::<(), paramstore::Error>(())
    /// ```
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
        store.pager().begin_step()?;
        store.telemetry().begin_step();
        let before = store.stats();
        let (updated, staged) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self { store, options, updated, staged, failed: false, finished: false, non_finite: 0, before })
    }

    /// Updates a tensor with its gradient, which can be used again as soon as this returns. Blocks that are in memory
    /// are updated at once; for others the gradient is taken over, within the memory budget, and the update goes on in
    /// the background while the caller computes the next gradient. Reading the tensor waits for it and shows it. Where the step needs all gradients first (clipping, refusing), the gradient is put aside in
    /// the `grad` plane and applied by [`finish`](Self::finish).
    ///
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// let mut step = store.begin_step()?;
    /// step.apply("w", &[1.0, 1.0, 1.0, 2.0, 2.0, 2.0])?; // as long as the tensor, row-major
    /// step.finish()?;
    /// assert_eq!(store.view("w")?[..], [-0.5, -0.5, -0.5, -1.0, -1.0, -1.0]);
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Unknown`] for the name, [`Error::Invalid`] if the gradient's length is not the tensor's or the
    /// tensor was updated in this step already; I/O errors and [`Error::Damaged`] from the disk, also of an earlier
    /// update that went on in the background.
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
    /// come in any order and must together be the whole before [`finish`](Self::finish). A tensor with moments of 8 bits has its
    /// parts begin at multiples of 256 elements, since as many share a scale.
    ///
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// let mut step = store.begin_step()?;
    /// step.apply_range("w", 3, &[2.0, 2.0, 2.0])?; // the second row comes first
    /// step.apply_range("w", 0, &[1.0, 1.0, 1.0])?;
    /// step.finish()?;
    /// assert_eq!(store.view("w")?[..], [-0.5, -0.5, -0.5, -1.0, -1.0, -1.0]);
    /// # Ok::<(), paramstore::Error>(())
    /// ```
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
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// let mut step = store.begin_step()?;
    /// step.apply_with("w", |range, gradient| {
    ///     for (element, g) in range.zip(gradient) {
    ///         *g = if element < 3 { 1.0 } else { 2.0 };
    ///     }
    /// })?;
    /// step.finish()?;
    /// assert_eq!(store.view("w")?[..], [-0.5, -0.5, -0.5, -1.0, -1.0, -1.0]);
    /// # Ok::<(), paramstore::Error>(())
    /// ```
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

    /// As [`apply`](Self::apply), with a gradient in bf16 or f16, given as patterns in native byte order. It is widened where it
    /// is used, which is exact, and divided by the loss scale in f32. The work is done when this returns.
    ///
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// use paramstore::precision::Half;
    ///
    /// let mut step = store.begin_step()?;
    /// step.apply_half("w", Half::Bf16, &[0x3f80; 6])?; // 1.0 in bf16
    /// step.finish()?;
    /// assert_eq!(store.view("w")?[..], [-0.5; 6]);
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub fn apply_half(&mut self, name: &str, kind: Half, gradient: &[u16]) -> Result<()> {
        let (tensor, range) = self.store.checked_range(name, 0, gradient.len())?;
        let elements = self.store.elements(tensor);
        if range.end != elements {
            let (got, expected) = (format!("{} elements", gradient.len()), format!("{elements} elements"));
            return Err(Error::invalid(format!("gradient of tensor {name:?}"), got, expected));
        }
        let isa = self.store.instruction_set();
        if self.options.needs_all_gradients() {
            let mut wide = vec![0.0; HALF_LEN.min(gradient.len())];
            let mut start = 0;
            for part in gradient.chunks(HALF_LEN) {
                let values = wide.get_mut(..part.len()).unwrap_or_default();
                widen(isa, kind, part, values);
                self.stage_once(tensor, start..start + to_u64(part.len()), values)?;
                start += to_u64(part.len());
            }
            return Ok(());
        }
        self.apply_with(name, |range, out| {
            let part = gradient.get(to_usize(range.start)..to_usize(range.end)).unwrap_or_default();
            widen(isa, kind, part, out);
        })
    }

    /// Adds a gradient to what the `grad` plane holds for the tensor in this step; [`finish`](Self::finish) applies
    /// the sum. `scale` multiplies it first: 1 / number of micro-batches for a mean.
    ///
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// let mut step = store.begin_step()?;
    /// for gradient in [[1.0; 6], [3.0; 6]] {
    ///     step.accumulate("w", &gradient, 0.5)?; // the mean of two micro-batches
    /// }
    /// step.finish()?;
    /// assert_eq!(store.view("w")?[..], [-1.0; 6]);
    /// # Ok::<(), paramstore::Error>(())
    /// ```
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
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// let mut step = store.begin_step()?;
    /// step.accumulate_range("w", 0, &[1.0, 1.0, 1.0], 1.0)?;
    /// step.accumulate_range("w", 3, &[2.0, 2.0, 2.0], 1.0)?;
    /// step.accumulate_range("w", 3, &[2.0, 2.0, 2.0], 1.0)?;
    /// step.finish()?;
    /// assert_eq!(store.view("w")?[..], [-0.5, -0.5, -0.5, -2.0, -2.0, -2.0]);
    /// # Ok::<(), paramstore::Error>(())
    /// ```
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
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// let mut step = store.begin_step()?;
    /// step.apply("w", &[1.0, 1.0, f32::INFINITY, 1.0, 1.0, 1.0])?;
    /// let report = step.finish()?;
    /// assert_eq!((report.step, report.non_finite), (1, 1)); // counted, and let through by default
    /// assert_eq!(store.committed_step(), 0);
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::NonFinite`] if the policy refuses the step: nothing was changed then. [`Error::Invalid`] if a tensor
    /// was updated in part: the store is mixed then, as after any other error that follows an update.
    pub fn finish(mut self) -> Result<StepReport> {
        self.check_whole()?;
        self.failed = true;
        self.store.background().wait_idle()?;
        self.failed = false;
        let grad_norm = self.apply_staged()?;
        for (&tensor, update) in &self.updated {
            // Rows that were not named have had their update, which leaves them as they are.
            let Done::Elements(done) = &update.done else { continue };
            if !done.is_whole(self.store.elements(tensor)) {
                let what = format!("update of tensor {:?}", self.store.tensor_name(tensor));
                let got = format!("a gap at element {}", done.first_gap());
                return Err(Error::invalid(what, got, "every element updated once"));
            }
        }
        let mut state = self.store.pager().lock();
        for (&tensor, update) in &self.updated {
            let TensorClock { steps, mu_product } = update.clock_after;
            state.store_mut().set_tensor_entry(tensor, TensorEntry { steps, mu_product })?;
        }
        drop(state);
        self.store.pager().end_step()?;
        self.non_finite += self.store.background().take_non_finite();
        let step = self.store.advance();
        self.store.clear_mixed();
        self.finished = true;
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
        self.store.check_dense(tensor, "dense update")?;
        self.store.check_trained(tensor, "update")?;
        self.store.check_whole_blocks(tensor, &range)?;
        let rule = self.begin_update(tensor, &range)?;
        // From here on the step has to finish: dropping it, or forgetting it, leaves the store mixed.
        self.store.mark_mixed();
        self.failed = true;
        let prepare = Preparation { divisor: self.divisor(), coefficient, ..Preparation::default() };
        let planes = self.store.updated_planes(tensor);
        let is_compensated = self.store.compensation_plane(tensor).is_some();
        let copy = self.store.copy_plane(tensor);
        let leased = planes + usize::from(copy.is_some()) + usize::from(matches!(gradient, Gradient::Staged));
        let access = Access { tensor, range: range.clone(), planes: 0..leased, blank: false, copy };
        self.store.pager().enter(&access);
        let rounding_key = self.store.rounding_key(tensor);
        let update = Update {
            tensor,
            range: range.clone(),
            planes,
            is_compensated,
            copy,
            rule,
            prepare,
            rounding_key,
        };
        self.non_finite += if let Gradient::Given(values) = gradient {
            self.store.background_mut().give(&update, values)?
        } else {
            self.store.background().wait_idle()?;
            update.run(self.store.engine(), gradient, Waiter::Caller)?
        };
        if let Some(Updated { done: Done::Elements(done), .. }) = self.updated.get_mut(&tensor) {
            done.insert(range);
        }
        self.store.tick();
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
            return match &update.done {
                Done::Elements(done) if !done.overlaps(range) => Ok(update.rule),
                _ => Err(self.twice(tensor)),
            };
        }
        let entry = self.store.pager().lock().store_mut().tensor_entry(tensor)?;
        let clock = TensorClock { steps: entry.steps, mu_product: entry.mu_product };
        let (rule, clock_after) = self.store.optimizer_of(tensor)?.prepare(clock);
        self.updated.insert(tensor, Updated { rule, clock_after, done: Done::Elements(Coverage::default()) });
        Ok(rule)
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        if !self.finished {
            self.store.background().cancel();
        }
    }
}
