//! How a store is opened and how a step is taken: plain settings with defaults.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::kernel::InstructionSet;
use crate::pager::IoPath;
use crate::store::{Generation, PinWait};

/// How a store is created or opened.
///
/// # Example
///
/// ```
/// use std::time::Duration;
///
/// use paramstore::{Generation, InstructionSet, IoPath, Options, ParamStore};
/// # use paramstore::{Optimizer, ParamGroup, Schema, TensorSpec};
///
/// # let dir = tempfile::tempdir().expect("a temporary directory");
/// # let path = dir.path().join("model.store");
/// let writer = Options::new()
///     .memory_budget(64 << 20)                       // a hard limit, in bytes
///     .threads(2)
///     .io_threads(4)
///     .io_path(IoPath::Mapped)
///     .sparse(true)                                  // allocate when blocks are first written
///     .instruction_set(InstructionSet::portable())
///     .reader_wait(Duration::from_secs(10))
///     .telemetry(false);
/// let group = ParamGroup::new("all", Optimizer::from_name("adamw")?);
/// let schema = Schema::new().group(group).tensor(TensorSpec::new("w", &[2, 3]));
/// let mut store = ParamStore::create(&path, &schema, &writer)?;
/// store.commit(b"first")?;
/// store.commit(b"second")?;
///
/// let reader = Options::new().memory_budget(8 << 20).generation(Generation::Previous);
/// assert_eq!(ParamStore::open_read_only(&path, &reader)?.user_record(), b"first");
/// # Ok::<(), paramstore::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Options {
    pub(crate) memory_budget: Option<u64>,
    pub(crate) threads: Option<usize>,
    pub(crate) io_threads: Option<usize>,
    /// Everything happens in the caller's thread, in an order that is the same in every run.
    pub(crate) in_place: bool,
    pub(crate) io_path: IoPath,
    pub(crate) sparse: bool,
    pub(crate) instruction_set: Option<InstructionSet>,
    pub(crate) pin_wait: PinWait,
    pub(crate) generation: Generation,
    pub(crate) is_silent: bool,
}

impl Options {
    /// The defaults: half of the memory that is available (the cgroup's limit counted), all processors.
    /// [Example](Self#example).
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes of memory that the store may hold: hot blocks, blocks on their way, gathered views, gradients that wait for
    /// their update, and the plan of a step. A hard limit. [Example](Self#example).
    #[must_use]
    pub fn memory_budget(mut self, bytes: u64) -> Self {
        self.memory_budget = Some(bytes);
        self
    }

    /// Threads that compute; 1 or more. Without it, rayon's global pool. Results do not depend on it.
    /// [Example](Self#example).
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Threads that read and write blocks, 1 to 64 (default [`IoPath::io_threads`]: 8, or 4 through the page cache). Results do
    /// not depend on it. [Example](Self#example).
    #[must_use]
    pub fn io_threads(mut self, threads: usize) -> Self {
        self.io_threads = Some(threads);
        self
    }

    /// How blocks travel between disk and memory. Results do not depend on it. [Example](Self#example).
    #[must_use]
    pub fn io_path(mut self, path: IoPath) -> Self {
        self.io_path = path;
        self
    }

    /// For `create`: allocate blocks when they are first written. A trillion parameters then cost nothing until used,
    /// and a full disk shows itself during training, as an error of the step that needed the space. [Example](Self#example).
    #[must_use]
    pub fn sparse(mut self, sparse: bool) -> Self {
        self.sparse = sparse;
        self
    }

    /// The instruction set of the kernels; without it, the best one of this CPU. Results do not depend on it.
    /// [Example](Self#example).
    #[must_use]
    pub fn instruction_set(mut self, set: InstructionSet) -> Self {
        self.instruction_set = Some(set);
        self
    }

    /// How long a writer waits for readers that still read the generation before the committed one; without it, as
    /// long as they live. Afterwards the write fails with [`Error::Pinned`]. [Example](Self#example).
    #[must_use]
    pub fn reader_wait(mut self, limit: Duration) -> Self {
        self.pin_wait = PinWait::Limit(limit);
        self
    }

    /// For [`open_read_only`](crate::ParamStore::open_read_only): which committed generation to look at.
    /// [Example](Self#example).
    #[must_use]
    pub fn generation(mut self, generation: Generation) -> Self {
        self.generation = generation;
        self
    }

    /// Whether a writer tells people who look on what it does, by two small files beside the store (about 1 MiB, made with the
    /// first step): what [`telemetry`](crate::telemetry) reads, and `paramstore top` and `paramstore report` show. On by
    /// default. [Example](Self#example).
    #[must_use]
    pub fn telemetry(mut self, tell: bool) -> Self {
        self.is_silent = !tell;
        self
    }

    /// Lets everything happen in the caller's thread.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn in_place(mut self) -> Self {
        self.in_place = true;
        self
    }

    /// The I/O threads in force.
    pub(crate) fn checked_io_threads(&self) -> Result<usize> {
        if self.in_place {
            return Ok(0);
        }
        match self.io_threads.unwrap_or_else(|| self.io_path.io_threads()) {
            threads @ 1..=64 => Ok(threads),
            threads => Err(Error::invalid("I/O threads", threads, "1 to 64")),
        }
    }

    /// The budget in force, in bytes.
    pub(crate) fn budget_bytes(&self) -> u64 {
        self.memory_budget.unwrap_or_else(|| crate::storage::available_memory_bytes() / 2)
    }
}

/// What to do with gradients that are NaN or infinite. [Example](StepOptions#example).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum NonFinitePolicy {
    /// Let them follow IEEE arithmetic through the update, as PyTorch does, and count them.
    #[default]
    Propagate,
    /// Refuse the step before anything is changed. Needs the `grad` plane, where gradients wait until all are known.
    Refuse,
}

/// How one step is taken.
///
/// # Example
///
/// ```
#[doc = include_str!("examples/store.txt")]
/// use paramstore::{Error, NonFinitePolicy, StepOptions};
///
/// let options = StepOptions::new()
///     .loss_scale(1024.0)                    // the loss was multiplied by this
///     .max_norm(1.0)                         // of all gradients, once divided
///     .non_finite(NonFinitePolicy::Refuse);
/// let mut step = store.begin_step_with(options)?;
/// step.apply("w", &[f32::INFINITY; 6])?;
/// let refused = step.finish();
/// assert!(matches!(refused, Err(Error::NonFinite { .. }))); // halve the scale, skip the batch
/// assert_eq!(store.view("w")?[..], [0.0; 6]);
/// # Ok::<(), paramstore::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct StepOptions {
    pub(crate) max_norm: Option<f64>,
    pub(crate) loss_scale: Option<f64>,
    pub(crate) non_finite: NonFinitePolicy,
}

impl StepOptions {
    /// The defaults: no clipping, no scale, non-finite gradients propagate. [Example](Self#example).
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Clips all gradients by their global norm, as `torch.nn.utils.clip_grad_norm_` does, but with the norm summed
    /// in f64 in a fixed order: exact for gradients whose squares overflow f32, the same for any number of threads.
    /// Positive. Needs the `grad` plane. [Example](Self#example).
    #[must_use]
    pub fn max_norm(mut self, max_norm: f64) -> Self {
        self.max_norm = Some(max_norm);
        self
    }

    /// Divides every gradient by this first: the factor by which the loss was multiplied. Positive and finite.
    /// [Example](Self#example).
    #[must_use]
    pub fn loss_scale(mut self, scale: f64) -> Self {
        self.loss_scale = Some(scale);
        self
    }

    /// What to do with gradients that are NaN or infinite. [Example](Self#example).
    #[must_use]
    pub fn non_finite(mut self, policy: NonFinitePolicy) -> Self {
        self.non_finite = policy;
        self
    }

    /// Whether all gradients have to be known before the first update.
    pub(crate) fn needs_all_gradients(&self) -> bool {
        self.max_norm.is_some() || self.non_finite == NonFinitePolicy::Refuse
    }

    pub(crate) fn check(&self) -> Result<()> {
        if let Some(norm) = self.max_norm
            && (norm.is_nan() || norm <= 0.0)
        {
            return Err(Error::invalid("max_norm", norm, "a positive number"));
        }
        if let Some(scale) = self.loss_scale
            && !(scale > 0.0 && scale.is_finite())
        {
            return Err(Error::invalid("loss_scale", scale, "a positive, finite number"));
        }
        Ok(())
    }
}
