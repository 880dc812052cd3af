//! `paramstore bench sweep`: real steps and their limit, in turns.

use std::io::Write;
use std::time::Instant;

use paramstore::inspect::Plan;
use paramstore::{Error, IoPath, Options, ParamGroup, ParamStore, Schema, Stats, TensorSpec};

use super::machine;
use super::raw_copy::{RawCopy, Setting, Target};
use super::report;
use super::scratch::{Scratch, Stop, check_room};
use crate::arguments::{Path, SweepArguments};
use crate::failure::Failure;
use crate::human::bytes;
use crate::schema::state;
use crate::{Verdict, terminal};

/// As a large model has them.
const TENSOR_ELEMENTS_MAX: u64 = 50_000_000;
/// Gradients, used again and again; more only where a block is larger, so that no block is updated in parts.
const GRADIENT_BYTES: u64 = 16 << 20;

/// One timed step and its limit.
pub(super) struct Round {
    pub(super) step_s: f64,
    pub(super) limit_s: f64,
    /// What the step did, its commit included.
    pub(super) stats: Stats,
}

/// What the steps are compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LimitKind {
    RawCopy(Setting),
    MemoryPass,
}

/// Everything that a run found out.
pub(super) struct Measured {
    pub(super) plan: Plan,
    pub(super) block_bytes: u64,
    pub(super) limit: LimitKind,
    pub(super) rounds: Vec<Round>,
    /// What the best replacement would find in memory.
    pub(super) min_hit_rate: Option<f64>,
    pub(super) peak_rss_bytes: u64,
}

enum Limit {
    RawCopy(Box<RawCopy>),
    MemoryPass,
}

/// A store under measurement.
struct Bench<'a> {
    arguments: &'a SweepArguments,
    store: ParamStore,
    /// Names and elements.
    tensors: Vec<(String, u64)>,
    gradient: Vec<f32>,
    stop: Stop,
}

pub(crate) fn run(arguments: &SweepArguments, out: &mut dyn Write) -> Result<Verdict, Failure> {
    let (schema, options) = (schema(arguments)?, options(arguments));
    let plan = schema.plan(&options)?;
    if plan.budget_bytes < plan.budget_min_bytes {
        let (got, needed) = (bytes(plan.budget_bytes), bytes(plan.budget_min_bytes));
        let what = format!("--memory: {got} hold too few blocks of this size; expected at least {needed}");
        return Err(Failure::Usage(what));
    }
    let dir = arguments.dir.clone().unwrap_or_else(std::env::temp_dir);
    check_room(&plan, &dir)?;
    let stop = Stop::listen();
    let scratch = Scratch::new(&dir)?;
    let store = ParamStore::create(scratch.path(), &schema, &options)?;
    let measured = Bench::new(arguments, store, &plan, &stop).measure(plan, out).map_err(damage_is_ours)?;
    scratch.verify(&stop)?;
    drop(scratch);
    if arguments.json {
        terminal::json(out, &report::to_json(arguments, &measured))?;
    } else {
        report::to_text(arguments, &measured, out)?;
    }
    Ok(Verdict::Sound)
}

fn schema(arguments: &SweepArguments) -> Result<Schema, Failure> {
    let optimizer = arguments.settings.optimizer(&arguments.optimizer)?;
    let mut schema = Schema::new().group(ParamGroup::new("default", optimizer));
    if let Some(bytes) = arguments.block_bytes {
        schema = schema.block_bytes(bytes);
    }
    let tensors = arguments.params.div_ceil(TENSOR_ELEMENTS_MAX).max(1);
    for i in 0..tensors {
        let elements = arguments.params / tensors + u64::from(i < arguments.params % tensors);
        let tensor = TensorSpec::new(format!("w{i}"), &[elements]);
        schema = schema.tensor(tensor.precision(state(&arguments.state)));
    }
    Ok(schema)
}

fn io_path(arguments: &SweepArguments) -> IoPath {
    match arguments.path {
        Path::Auto => IoPath::Auto,
        Path::Direct => IoPath::Direct,
        Path::Mapped => IoPath::Mapped,
    }
}

/// The I/O threads in force.
pub(super) fn io_threads(arguments: &SweepArguments) -> usize {
    arguments.io_threads.map_or_else(|| io_path(arguments).io_threads(), usize::from)
}

fn options(arguments: &SweepArguments) -> Options {
    let options = Options::new()
        .memory_budget(arguments.memory)
        .io_path(io_path(arguments))
        .io_threads(io_threads(arguments));
    match arguments.threads {
        Some(threads) => options.threads(threads.into()),
        None => options,
    }
}

/// A block of the scratch store that no longer is what was written can only be the work of the measurement.
fn damage_is_ours(failure: Failure) -> Failure {
    match failure {
        Failure::Store(Error::Damaged(damage)) => Failure::Unsound { first: damage.to_string(), places: 1 },
        other => other,
    }
}

impl<'a> Bench<'a> {
    fn new(arguments: &'a SweepArguments, store: ParamStore, plan: &Plan, stop: &Stop) -> Self {
        let tensors = store.tensors().map(|t| (t.name().to_owned(), t.elements())).collect();
        let block_elements = plan.blocks.iter().map(|size| size.elements).max().unwrap_or(0);
        let bytes = GRADIENT_BYTES.max(4 * block_elements);
        let value = |i: u64| (f32::from(u16::try_from(i & 1023).unwrap_or(0)) - 511.5) * 1e-4;
        let gradient = (0..bytes / 4).map(value).collect();
        Self { arguments, store, tensors, gradient, stop: stop.clone() }
    }

    fn measure(mut self, plan: Plan, out: &mut dyn Write) -> Result<Measured, Failure> {
        let rounds_wanted = self.arguments.steps;
        let bar = if self.arguments.json {
            terminal::progress(rounds_wanted + 2, "{elapsed} [{bar:30}] step {pos} of {len}")
        } else {
            indicatif::ProgressBar::hidden()
        };
        // Blocks are born in the first step, and written into their second home for the first time in the second.
        self.step(true)?;
        bar.inc(1);
        let (_, stats) = self.step(true)?;
        bar.inc(1);
        let mut limit = self.limit(&stats, plan.state_bytes)?;
        let kind = match &limit {
            Limit::RawCopy(copy) => LimitKind::RawCopy(copy.setting()),
            Limit::MemoryPass => LimitKind::MemoryPass,
        };
        if !self.arguments.json {
            report::begin(self.arguments, &plan, kind, out)?;
        }
        // The warm-up has taught the store to expect a commit after each step.
        let unlearning = u64::from(self.arguments.commit_every > 1);
        if unlearning > 0 {
            self.step(false)?;
        }
        let mut rounds = Vec::new();
        for number in 0..rounds_wanted {
            let since_commit = (number + unlearning) % self.arguments.commit_every;
            let commits = since_commit + 1 == self.arguments.commit_every;
            let limit_s = match &mut limit {
                Limit::MemoryPass => self.store.memory_pass(&self.gradient)?.seconds,
                Limit::RawCopy(copy) => {
                    let target = if since_commit == 0 { Target::OtherHome } else { Target::InPlace };
                    copy.run(target, commits)?
                }
            };
            let (step_s, stats) = self.step(commits)?;
            if let (true, Limit::RawCopy(copy)) = (commits, &mut limit) {
                copy.look(&self.store)?;
            }
            let round = Round { step_s, limit_s, stats };
            if !self.arguments.json {
                report::round(self.arguments, kind, &round, out)?;
            }
            rounds.push(round);
            bar.inc(1);
        }
        bar.finish_and_clear();
        let peak_rss_bytes = machine::peak_rss_bytes();
        // So that what is verified is everything that was written.
        self.store.commit(b"")?;
        let min_hit_rate = self.store.min_hit_rate();
        Ok(Measured {
            block_bytes: block_bytes(&plan),
            plan,
            limit: kind,
            rounds,
            min_hit_rate,
            peak_rss_bytes,
        })
    }

    /// The memory's limit where a step found everything in memory and a pass finds it there too, else the disk's.
    fn limit(&mut self, stats: &Stats, state_bytes: u64) -> Result<Limit, Failure> {
        let elements: u64 = self.tensors.iter().map(|(_, elements)| elements).sum();
        if stats.blocks_missed == 0
            && self.store.memory_pass(&self.gradient)?.bytes == 4 * elements + 2 * state_bytes
        {
            return Ok(Limit::MemoryPass);
        }
        Ok(Limit::RawCopy(Box::new(RawCopy::new(&self.store, &self.stop)?)))
    }

    /// Takes a step and commits it, or waits until the disk has all that it wrote; returns the seconds, and what
    /// happened in them.
    fn step(&mut self, commits: bool) -> Result<(f64, Stats), Failure> {
        let before = self.store.stats();
        let start = Instant::now();
        let mut step = self.store.begin_step()?;
        for (name, elements) in &self.tensors {
            let mut at = 0;
            while at < *elements {
                self.stop.check()?;
                let left = usize::try_from(elements - at).unwrap_or(usize::MAX).min(self.gradient.len());
                let part = self.gradient.get(..left).unwrap_or_default();
                step.apply_range(name, at, part)?;
                at += part.len() as u64;
            }
        }
        step.finish()?;
        if commits {
            self.store.commit(b"")?;
        } else {
            // The copy too is done when its last byte is, and must not meet writes of the store.
            self.store.wait_idle()?;
        }
        Ok((start.elapsed().as_secs_f64(), self.store.stats().since(&before)))
    }
}

/// Bytes of the largest block's parameters.
fn block_bytes(plan: &Plan) -> u64 {
    plan.blocks.iter().map(|size| size.param_bytes).max().unwrap_or(0)
}
