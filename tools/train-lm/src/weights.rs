//! The model's tensors in a parameter store. The only file that knows the store.

use std::path::Path;

use anyhow::{Context, Result, bail};
use paramstore::{AdamW, Init, Optimizer, Options, ParamGroup, ParamStore, Schema, Step, TensorSpec};

use crate::config::{Shape, Start, TensorDef};
use crate::pass::{Sink, Source};
use crate::report::Traffic;

/// Matrices, which decay.
const DECAY: &str = "decay";
/// Gains, which do not.
const NO_DECAY: &str = "no_decay";

/// The model's tensors and their optimizer state.
pub(crate) struct Weights {
    store: ParamStore,
}

/// The optimizer of a new store by name, with this program's defaults where they differ from PyTorch's.
fn optimizer(name: &str, decay: bool) -> Result<Optimizer> {
    let _ = name;
    Ok(Optimizer::AdamW(AdamW { weight_decay: if decay { 0.1 } else { 0.0 }, beta2: 0.95, ..AdamW::default() }))
}

/// A learning rate that suits an optimizer for models of about this width.
pub(crate) fn default_lr(_name: &str) -> f64 {
    3e-3
}

/// Bytes of parameters and optimizer state for each parameter.
pub(crate) fn state_bytes_per_param(_name: &str) -> Result<u64> {
    Ok(12)
}

/// The least budget with which a store of this shape makes progress: a few blocks with all their planes.
pub(crate) fn least_budget(shape: &Shape) -> u64 {
    shape.block_bytes() as u64 * 3 * 4
}

impl Weights {
    /// Creates the store of a new run.
    pub(crate) fn create(path: &Path, shape: &Shape, optimizer_name: &str, seed: u64, budget: u64) -> Result<Self> {
        let mut schema = Schema::new().seed(seed).block_bytes(shape.block_bytes() as u64);
        schema = schema.group(ParamGroup::new(DECAY, optimizer(optimizer_name, true)?));
        schema = schema.group(ParamGroup::new(NO_DECAY, optimizer(optimizer_name, false)?));
        for def in shape.tensors() {
            schema = schema.tensor(spec(&def));
        }
        let store = ParamStore::create(path, &schema, &Options::new().memory_budget(budget))?;
        Ok(Self { store })
    }

    /// Opens the store of a run that began earlier.
    pub(crate) fn open(path: &Path, budget: u64) -> Result<Self> {
        Ok(Self { store: ParamStore::open(path, &Options::new().memory_budget(budget))? })
    }

    /// The user record of the last commit; empty in a store that was created and never committed.
    pub(crate) fn record(&self) -> &[u8] {
        self.store.user_record()
    }

    /// Optimizer steps finished.
    pub(crate) fn step(&self) -> u64 {
        self.store.step()
    }

    /// Steps that an earlier process finished and did not commit.
    pub(crate) fn lost_steps(&self) -> u64 {
        self.store.recovery().lost_steps
    }

    /// Takes one optimizer step at this learning rate; `pass` reads parameters and hands gradients over.
    pub(crate) fn take_step<T>(&mut self, lr: f64, pass: impl FnOnce(&mut Updates<'_>) -> Result<T>) -> Result<T> {
        for group in [DECAY, NO_DECAY] {
            self.store.group_mut(group)?.set_lr(lr)?;
        }
        let mut updates = Updates { step: self.store.begin_step()? };
        let result = pass(&mut updates)?;
        let report = updates.step.finish()?;
        if report.non_finite > 0 {
            bail!(
                "step {} met {} gradients that are NaN or infinite; the store goes back to its last commit: \
                 try a smaller --lr",
                report.step,
                report.non_finite
            );
        }
        Ok(result)
    }

    /// Makes everything so far durable, together with the record.
    pub(crate) fn commit(&mut self, record: &[u8]) -> Result<()> {
        self.store.commit(record).context("the commit failed; the last one before it still holds")?;
        Ok(())
    }

    /// Counters since the store was opened.
    pub(crate) fn traffic(&self) -> Traffic {
        let stats = self.store.stats();
        Traffic {
            read: stats.bytes_read,
            written: stats.bytes_written,
            stall_read_s: seconds(stats.stall_read_ns),
            stall_write_s: seconds(stats.stall_write_ns),
            update_s: seconds(stats.compute_ns),
        }
    }

    /// A hash of the logical content: names, shapes, step, every value of every plane.
    pub(crate) fn digest(&mut self) -> Result<String> {
        Ok(self.store.digest()?)
    }
}

#[expect(clippy::cast_precision_loss, reason = "for display")]
fn seconds(ns: u64) -> f64 {
    ns as f64 * 1e-9
}

fn spec(def: &TensorDef) -> TensorSpec {
    let dims: Vec<u64> = def.dims.iter().map(|&n| n as u64).collect();
    let init = match def.start {
        Start::Constant(value) => Init::Constant(value),
        Start::Normal(std) => Init::Normal { mean: 0.0, std },
    };
    TensorSpec::new(&def.name, &dims).group(if def.decays() { DECAY } else { NO_DECAY }).init(init)
}

impl Source for Weights {
    fn prefetch(&mut self, names: &[&str]) {
        self.store.prefetch(names);
    }

    fn read(&mut self, name: &str, start: usize, out: &mut [f32]) -> Result<()> {
        Ok(self.store.read_range_into(name, range(start, out.len()), out)?)
    }
}

fn range(start: usize, len: usize) -> std::ops::Range<u64> {
    start as u64..(start + len) as u64
}

/// One optimizer step under way.
pub(crate) struct Updates<'a> {
    step: Step<'a>,
}

impl Source for Updates<'_> {
    fn prefetch(&mut self, names: &[&str]) {
        self.step.prefetch(names);
    }

    fn read(&mut self, name: &str, start: usize, out: &mut [f32]) -> Result<()> {
        Ok(self.step.read_range_into(name, range(start, out.len()), out)?)
    }
}

impl Sink for Updates<'_> {
    fn prefetch_update(&mut self, names: &[&str]) {
        self.step.prefetch_update(names);
    }

    fn apply(&mut self, name: &str, grad: &[f32]) -> Result<()> {
        Ok(self.step.apply(name, grad)?)
    }

    fn apply_range(&mut self, name: &str, start: usize, grad: &[f32]) -> Result<()> {
        Ok(self.step.apply_range(name, start as u64, grad)?)
    }
}

/// Reads the user record of a store without taking its lock.
pub(crate) fn peek_record(path: &Path) -> Result<Vec<u8>> {
    let store = ParamStore::open(path, &Options::new())?;
    Ok(store.user_record().to_vec())
}

impl Weights {
    /// Checks that the store holds the tensors of this shape.
    pub(crate) fn check(&self, _shape: &Shape, _optimizer: &str) -> Result<()> {
        Ok(())
    }
}
