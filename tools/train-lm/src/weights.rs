//! The model's tensors in a parameter store. The only file that knows the store.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use paramstore::telemetry::Metrics;
use paramstore::{
    Init, Moments, Optimizer, Options, ParamGroup, ParamStore, Precision, Schema, Stats, Step, TensorSpec,
};

use crate::config::{Shape, Start, TensorDef};
use crate::pass::{Sink, Source};
use crate::report::Traffic;
use crate::start::{self, Pretrained};

/// Matrices, which decay.
const DECAY: &str = "decay";
/// Gains, which do not.
const NO_DECAY: &str = "no_decay";

/// The model's tensors and their optimizer state.
pub(crate) struct Weights {
    store: ParamStore,
    stalls: Stalls,
    /// How strongly tensors with a start are held to it.
    toward_start: f64,
}

/// Times that the trainer waited to hand over gradients, and for updates to end. Reads are not counted here: they run beside the computation, and what
/// the trainer waits for them is known to the trainer.
#[derive(Debug, Clone, Copy, Default)]
struct Stalls {
    read: Duration,
    write: Duration,
    update: Duration,
}

impl Stalls {
    fn add(&mut self, done: &Stats) {
        self.read += Duration::from_nanos(done.stall_read_ns);
        self.write += Duration::from_nanos(done.stall_write_ns);
        self.update += Duration::from_nanos(done.stall_update_ns);
    }
}

/// Settings that differ from PyTorch's defaults: a momentum for SGD, and for the others what is usual for
/// transformers. Decoupled weight decay goes to matrices only; coupled decay stays off, as in PyTorch.
const SETTINGS: [(&str, &[(&str, &str)]); 4] = [
    ("sgd", &[("momentum", "0.9")]),
    ("adam", &[("beta2", "0.95")]),
    ("adamw", &[("beta2", "0.95"), ("weight_decay", "0.1")]),
    ("lion", &[("beta2", "0.98"), ("weight_decay", "1")]),
];

/// Learning rates that suit models of a few hundred dimensions at the default batch.
const RATES: [(&str, f64); 11] = [
    ("sgd", 0.3),
    ("adagrad", 0.02),
    ("adadelta", 1.0),
    ("rmsprop", 1e-3),
    ("adam", 3e-3),
    ("adamw", 3e-3),
    ("adamax", 4e-3),
    ("nadam", 3e-3),
    ("radam", 3e-3),
    ("lion", 4e-4),
    ("sparseadam", 3e-3),
];

/// The optimizer of a new store.
fn optimizer(name: &str, decay: bool) -> Result<Optimizer> {
    let mut optimizer = Optimizer::from_name(name)?;
    for (key, value) in SETTINGS.iter().find(|(of, _)| *of == name).map_or(&[][..], |(_, settings)| settings)
    {
        optimizer.set(key, if *key == "weight_decay" && !decay { "0" } else { value })?;
    }
    Ok(optimizer)
}

/// The highest learning rate of a new run, unless one is asked for.
pub(crate) fn default_lr(name: &str) -> Result<f64> {
    // Says which names there are.
    Optimizer::from_name(name)?;
    RATES
        .iter()
        .find_map(|(of, rate)| (*of == name).then_some(*rate))
        .with_context(|| format!("--optimizer {name} needs --lr"))
}

/// Planes of parameters and optimizer state.
fn planes(name: &str) -> Result<u64> {
    Ok(1 + optimizer(name, true)?.state_planes().len() as u64)
}

/// Bytes of parameters and optimizer state for each parameter in f32.
pub(crate) fn state_bytes_per_param(name: &str) -> Result<u64> {
    Ok(planes(name)? * size_of::<f32>() as u64)
}

/// The least budget with which the store reads, updates and writes at the same time: four blocks with all planes.
pub(crate) fn least_budget(shape: &Shape, optimizer: &str) -> Result<u64> {
    Ok(shape.block_bytes() as u64 * planes(optimizer)? * 4)
}

impl Weights {
    /// Creates the store of a new run.
    pub(crate) fn create(
        path: &Path,
        shape: &Shape,
        optimizer_name: &str,
        seed: u64,
        budget: u64,
        (state, start): (Option<&str>, &Pretrained),
    ) -> Result<Self> {
        let mut schema = Schema::new().seed(seed).block_bytes(shape.block_bytes() as u64);
        schema = schema.precision(state.and_then(Precision::from_name).unwrap_or_default());
        schema = schema.group(ParamGroup::new(DECAY, optimizer(optimizer_name, true)?));
        schema = schema.group(ParamGroup::new(NO_DECAY, optimizer(optimizer_name, false)?));
        let tensors = shape.tensors();
        for def in &tensors {
            let spec = spec(def);
            schema = schema.tensor(if start.is_frozen(&def.name) { spec.frozen() } else { spec });
        }
        schema = start.anchors(&tensors)?.into_iter().fold(schema, Schema::tensor);
        let store = ParamStore::create(path, &schema, &Options::new().memory_budget(budget))?;
        let mut weights = Self { store, stalls: Stalls::default(), toward_start: 0.0 };
        weights.load(start)?;
        Ok(weights)
    }

    /// Takes the values that a new run starts from.
    pub(crate) fn load(&mut self, start: &Pretrained) -> Result<()> {
        start.load(&mut self.store)
    }

    /// Holds tensors that have a start to it, this strongly.
    pub(crate) fn hold(&mut self, strength: f64) {
        self.toward_start = strength;
    }

    /// Opens the store of a run that began earlier, and checks that it holds the tensors of this shape.
    pub(crate) fn open(path: &Path, shape: &Shape, budget: u64) -> Result<Self> {
        let store = ParamStore::open(path, &Options::new().memory_budget(budget))?;
        let expected = shape.tensors();
        let same = |(info, def): (paramstore::TensorInfo<'_>, &TensorDef)| {
            info.name() == def.name && info.shape().iter().eq(&dims(def))
        };
        let tensors = || store.tensors().filter(|info| !info.name().starts_with(start::PREFIX));
        ensure!(
            tensors().count() == expected.len() && tensors().zip(&expected).all(same),
            "the tensors in {} are not those of the model that its user record describes ({} layers of width {}): \
             choose another --store",
            path.display(),
            shape.layers,
            shape.d_model
        );
        Ok(Self { store, stalls: Stalls::default(), toward_start: 0.0 })
    }

    /// The value of `--state` that the store was created with; none if its matrices are of another kind.
    pub(crate) fn state(&self) -> Option<&'static str> {
        let holds = |wanted: Precision| {
            let mut matrices = self.store.tensors().filter(|info| info.name() == Shape::FIRST_MATRIX);
            matrices.all(|info| {
                let keeps_lost = info.planes().any(|plane| plane == "compensation");
                let moment = info.planes().nth(1).filter(|&plane| plane != "compensation");
                let moment = moment.and_then(|plane| info.plane_dtype(plane));
                let name = moment.map_or("f32", |dtype| dtype.name());
                let moments = if wanted.moments == Moments::Q8 { "q8" } else { wanted.params.name() };
                info.dtype() == wanted.params
                    && keeps_lost == wanted.compensated
                    && (moment.is_none() || name.starts_with(moments))
            })
        };
        Precision::NAMES.into_iter().find(|name| Precision::from_name(name).is_some_and(holds))
    }

    /// Refuses another precision than that of the store, which its creation fixed.
    pub(crate) fn check_state(&self, wanted: &str, path: &Path) -> Result<()> {
        let held = self.state();
        ensure!(
            held == Some(wanted),
            "the run in {} has --state {}, and this command asks for {wanted}: leave the option out to go on with the \
             run, or start another one with --store",
            path.display(),
            held.unwrap_or("of another kind")
        );
        Ok(())
    }

    /// Bytes of parameters and optimizer state.
    pub(crate) fn state_bytes(&self) -> u64 {
        let of_plane = |info: &paramstore::TensorInfo<'_>, plane| {
            info.plane_dtype(plane).and_then(|dtype| dtype.bytes_of(info.elements())).unwrap_or(0)
        };
        let tensors = self.store.tensors();
        tensors.map(|info| info.planes().map(|plane| of_plane(&info, plane)).sum::<u64>()).sum()
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
    pub(crate) fn take_step<T>(
        &mut self,
        lr: f64,
        pass: impl FnOnce(&mut Updates<'_>) -> Result<T>,
    ) -> Result<T> {
        for group in [DECAY, NO_DECAY] {
            self.store.group_mut(group)?.set_lr(lr)?;
        }
        let (result, report, before) = {
            let (stalls, toward_start) = (self.stalls, self.toward_start);
            let mut updates = Updates { step: self.store.begin_step()?, stalls, toward_start };
            let result = pass(&mut updates)?;
            let Updates { step, stalls, .. } = updates;
            self.stalls = stalls;
            let before = step.stats();
            (result, step.finish()?, before)
        };
        self.stalls.add(&self.store.stats().since(&before));
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

    /// Tells people who look on what the last step came to.
    pub(crate) fn note(&mut self, metrics: &Metrics) {
        self.store.note_metrics(metrics);
    }

    /// Makes everything so far durable, together with the record.
    pub(crate) fn commit(&mut self, record: &[u8]) -> Result<()> {
        self.store.commit(record).context("the commit failed; the last one before it still holds")?;
        Ok(())
    }

    /// Counters since the store was opened; stalls are those of updates alone.
    pub(crate) fn traffic(&self) -> Traffic {
        let stats = self.store.stats();
        Traffic {
            read: stats.bytes_read,
            written: stats.bytes_written,
            stall_read_s: self.stalls.read.as_secs_f64(),
            stall_write_s: self.stalls.write.as_secs_f64(),
            stall_update_s: self.stalls.update.as_secs_f64(),
            disk_s: seconds(stats.disk_ns),
            update_s: seconds(stats.compute_ns),
        }
    }

    /// A hash of the logical content: names, shapes, step, every value of every plane.
    pub(crate) fn digest(&self) -> Result<String> {
        Ok(self.store.digest()?.to_string())
    }
}

#[expect(clippy::cast_precision_loss, reason = "for display")]
fn seconds(ns: u64) -> f64 {
    ns as f64 * 1e-9
}

fn dims(def: &TensorDef) -> Vec<u64> {
    def.dims.iter().map(|&n| n as u64).collect()
}

fn spec(def: &TensorDef) -> TensorSpec {
    let init = match def.start {
        Start::Constant(value) => Init::Constant(value),
        Start::Normal(std) => Init::Normal { mean: 0.0, std },
    };
    TensorSpec::new(&def.name, &dims(def)).group(if def.decays() { DECAY } else { NO_DECAY }).init(init)
}

impl Source for Weights {
    fn prefetch(&self, names: &[&str]) {
        self.store.prefetch(names);
    }

    fn read(&self, name: &str, start: usize, out: &mut [f32]) -> Result<()> {
        Ok(self.store.read_range_into(name, start as u64, out)?)
    }
}

/// One optimizer step under way.
pub(crate) struct Updates<'a> {
    step: Step<'a>,
    stalls: Stalls,
    toward_start: f64,
}

impl Updates<'_> {
    /// Whether a tensor is left as it is.
    fn is_frozen(&self, name: &str) -> bool {
        self.step.tensor(name).is_some_and(|info| info.is_frozen())
    }

    /// The name of the start to which a tensor is held, if it is.
    fn start_of(&self, name: &str) -> Option<String> {
        let start = format!("{}{name}", start::PREFIX);
        (self.toward_start > 0.0 && self.step.tensor(&start).is_some()).then_some(start)
    }

    fn timed(&mut self, update: impl FnOnce(&mut Step<'_>) -> paramstore::Result<()>) -> Result<()> {
        let before = self.step.stats();
        update(&mut self.step)?;
        self.stalls.add(&self.step.stats().since(&before));
        Ok(())
    }
}

impl Source for Updates<'_> {
    fn prefetch(&self, names: &[&str]) {
        self.step.prefetch(names);
    }

    fn read(&self, name: &str, start: usize, out: &mut [f32]) -> Result<()> {
        Ok(self.step.read_range_into(name, start as u64, out)?)
    }
}

impl Sink for Updates<'_> {
    fn prefetch_update(&self, names: &[&str]) {
        self.step.prefetch_update(names);
    }

    fn apply(&mut self, name: &str, grad: &[f32]) -> Result<()> {
        if self.is_frozen(name) {
            return Ok(());
        }
        let (start, strength) = (self.start_of(name), self.toward_start);
        self.timed(|step| match &start {
            Some(start) => step.apply_toward(name, grad, start, strength),
            None => step.apply(name, grad),
        })
    }

    fn apply_range(&mut self, name: &str, first: usize, grad: &[f32]) -> Result<()> {
        if self.is_frozen(name) {
            return Ok(());
        }
        let (start, strength) = (self.start_of(name), self.toward_start);
        self.timed(|step| match &start {
            Some(start) => step.apply_range_toward(name, first as u64, grad, start, strength),
            None => step.apply_range(name, first as u64, grad),
        })
    }
}
