//! The conductor of a run, the same for every model: begin or go on, train, commit, judge, report.

pub(crate) mod record;
pub(crate) mod report;
mod tables;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use self::record::{DataId, Record, Setting, Settings};
use self::report::{Progress, Summary, Traffic};
pub(crate) use self::tables::{Init, Rule, Table, Tables};
use training::people::{grouped, note, peak_rss};
use training::store::{Held, peek};

/// Bytes that the store and the trainer need for each id of a batch: ids, sorted places, owners.
const BYTES_PER_ID: u64 = 96;
/// A linear schedule ends at this share of its peak.
const LAST_RATE: f64 = 0.02;

/// The examples of one step, and the rows that they name.
pub(crate) struct Batch<E> {
    /// For each table the distinct rows, ascending.
    pub(crate) ids: Vec<Vec<u64>>,
    /// What the model makes of them.
    pub(crate) examples: E,
}

/// What a batch says about the rows that it names.
pub(crate) struct Outcome {
    /// For each table one gradient for each row of the batch.
    pub(crate) gradients: Vec<Vec<f32>>,
    /// The loss, summed.
    pub(crate) loss: f64,
    /// How many terms the loss has, for its mean.
    pub(crate) terms: u64,
    /// Units of data that the batch covers.
    pub(crate) examples: u64,
}

/// How good a model is.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// Names and values, for programs.
    pub(crate) scores: Vec<(String, f64)>,
    /// Names and values, for people.
    pub(crate) lines: Vec<(String, String)>,
}

/// A model of embeddings.
pub(crate) trait Model: Sync {
    /// The examples of a batch.
    type Examples: Send + Sync;
    /// What examples are counted in.
    const UNIT: &'static str;

    /// The tables that it trains.
    fn tables(&self) -> Vec<Table>;
    /// Steps in which every example is visited once.
    fn steps_per_epoch(&self) -> u64;
    /// How many rows of each table a batch can name.
    fn most_rows(&self) -> Vec<u64>;
    /// Bytes that a batch needs beside its rows and their gradients.
    fn scratch_bytes(&self) -> u64;
    /// The batch of a step: a function of the seed and the step alone.
    fn batch(&self, step: u64) -> Batch<Self::Examples>;
    /// Loss and gradients of a batch, given the rows that it names; the same bits for any number of threads.
    fn gradients(&self, examples: &Self::Examples, rows: &[Vec<f32>]) -> Result<Outcome>;
    /// What there is to train on, for people.
    fn describe(&self) -> Vec<(String, String)>;
    /// Judges what was learned.
    fn judge(&self, tables: &Tables) -> Result<Verdict>;
}

/// What every run is told.
#[derive(Debug, Clone)]
pub(crate) struct Orders<'a> {
    /// Directory of the store.
    pub(crate) store: &'a Path,
    /// Memory for the store's budget and the rows of a batch.
    pub(crate) memory: u64,
    /// Steps at which the run is complete, if the command says so.
    pub(crate) steps: Option<u64>,
    /// The same in passes over the data.
    pub(crate) epochs: Option<f64>,
    /// Passes over the data of a new run about which the command says nothing.
    pub(crate) default_epochs: f64,
    /// Steps from one commit to the next.
    pub(crate) commit_every: u64,
    /// What Adagrad's sums of squares start with.
    pub(crate) initial: f64,
}

/// A run that was looked for: its settings, and its record if it began earlier.
pub(crate) struct Found {
    /// The settings in force.
    pub(crate) settings: Settings,
    held: Held,
    record: Option<Record>,
}

impl Found {
    /// Looks for a run, and checks the options that were given against it.
    pub(crate) fn look(store: &Path, asked: &[Setting]) -> Result<Self> {
        let held = peek(store)?;
        let record = match &held {
            Held::Record(bytes) if !bytes.is_empty() => Some(
                Record::decode(bytes).with_context(|| format!("cannot go on with {}", store.display()))?,
            ),
            _ => None,
        };
        let settings = match &record {
            Some(record) => {
                record.settings.check(asked, &store.display().to_string())?;
                record.settings.clone()
            }
            None => Settings::begin(asked),
        };
        Ok(Self { settings, held, record })
    }
}

/// A run under way.
struct Run<'a, M> {
    model: M,
    tables: Tables,
    record: Record,
    orders: Orders<'a>,
    optimizer: String,
    lr: f64,
    /// Step at which the run is complete.
    total: u64,
    budget: u64,
    continued_from: Option<u64>,
}

/// What a training loop did.
#[derive(Default)]
struct Trained {
    loss: Option<f64>,
    examples: u64,
    seconds: f64,
    commits: u64,
    commit_s: f64,
    traffic: Traffic,
}

/// Begins a run or goes on with it, until it is complete or `stop` is set.
pub(crate) fn run<M: Model>(
    model: M,
    data: DataId,
    found: Found,
    orders: Orders<'_>,
    stop: &AtomicBool,
) -> Result<Summary> {
    let mut run = Run::prepare(model, data, found, orders)?;
    run.announce();
    let trained = run.train(stop)?;
    run.summary(&trained)
}

impl<'a, M: Model> Run<'a, M> {
    fn prepare(model: M, data: DataId, found: Found, orders: Orders<'a>) -> Result<Self> {
        let Found { settings, held, record } = found;
        let store = orders.store;
        let rule = Rule { optimizer: settings.get("optimizer")?, initial: orders.initial };
        let per_epoch = model.steps_per_epoch();
        let steps = |epochs: f64| crate::num::whole((epochs * crate::num::float(per_epoch)).ceil()).max(1);
        let asked = orders.steps.or(orders.epochs.map(steps));
        let mut record = record.unwrap_or_else(|| Record {
            step: 0,
            total: asked.unwrap_or_else(|| steps(orders.default_epochs)),
            data,
            settings,
        });
        record.check_data(data, &store.display().to_string())?;
        let total = asked.unwrap_or(record.total);
        record.total = record.total.max(total);
        let budget = budget(&model, orders.memory)?;
        let seed = record.settings.get("seed")?;
        let tables = match held {
            Held::Nothing => {
                if let Some(parent) = store.parent() {
                    std::fs::create_dir_all(parent)
                        .with_context(|| format!("cannot create {}", parent.display()))?;
                }
                Tables::create(store, model.tables(), &rule, seed, budget)?
            }
            Held::Record(_) => Tables::open(store, model.tables(), budget)?,
        };
        ensure!(
            tables.step() == record.step,
            "{} is at step {} and its user record at step {}: it was changed by another program",
            store.display(),
            tables.step(),
            record.step
        );
        let lr = record.settings.get("lr")?;
        let continued_from = (record.step > 0).then_some(record.step);
        let optimizer = rule.optimizer;
        let mut run = Self { model, tables, record, orders, optimizer, lr, total, budget, continued_from };
        if run.record.step == 0 {
            run.commit()?;
        }
        Ok(run)
    }

    /// Makes everything so far durable.
    fn commit(&mut self) -> Result<()> {
        self.tables.commit(&self.record.encode()?)
    }

    /// Tells what is going to happen.
    fn announce(&self) {
        for (name, value) in self.model.describe() {
            note(&format!("{name:<11}{value}"));
        }
        let tables: Vec<_> = self
            .tables
            .tables()
            .iter()
            .map(|table| format!("{} {} x {}", table.name, grouped(table.rows), table.width))
            .collect();
        let epoch = self.model.steps_per_epoch();
        note(&format!("Tables     {}; {epoch} steps are one pass over the data", tables.join(", ")));
        let (step, lost, store) = (self.record.step, self.tables.lost_steps(), self.orders.store.display());
        note(&match self.continued_from {
            Some(_) if step >= self.total => format!("Store      {store} holds the complete run"),
            Some(_) if lost > 0 => format!(
                "Store      {store} goes on from its last commit at step {step}; {lost} later steps were lost and are \
                 computed again"
            ),
            Some(_) => format!("Store      {store} goes on from step {step}"),
            None => format!("Store      {store} is new"),
        });
        if step < self.total {
            note("           Stop with Ctrl-C or kill at any time: the same command continues the run");
        }
    }

    /// The learning rate of a step: it falls along a line, except for Adagrad, whose own falls already.
    fn rate(&self, step: u64) -> f64 {
        if self.optimizer == "adagrad" {
            return self.lr;
        }
        let left = 1.0 - crate::num::float(step) / crate::num::float(self.record.total);
        self.lr * left.max(LAST_RATE)
    }

    /// Trains until the run is complete or asked to stop, and commits.
    fn train(&mut self, stop: &AtomicBool) -> Result<Trained> {
        if self.record.step >= self.total {
            return Ok(Trained::default());
        }
        let mut done = Trained::default();
        let before = self.tables.traffic();
        let mut progress = Progress::new(self.record.step, self.total, M::UNIT);
        let mut committed = self.record.step;
        let mut batch = self.model.batch(self.record.step);
        while self.record.step < self.total && !stop.load(Ordering::Relaxed) {
            let rows = (0..batch.ids.len())
                .map(|table| self.tables.gather(table, &batch.ids[table]))
                .collect::<Result<Vec<_>>>()?;
            // The next batch is put together beside the gradients: its rows are known before this one is applied.
            let ((outcome, batch_ids), next) = {
                let (model, next) = (&self.model, self.record.step + 1);
                let wanted = next < self.total;
                let (outcome, next) = rayon::join(
                    || model.gradients(&batch.examples, &rows),
                    || wanted.then(|| model.batch(next)),
                );
                ((outcome?, batch.ids), next)
            };
            if let Some(next) = &next {
                self.tables.prefetch(&next.ids);
            }
            let loss = outcome.loss / crate::num::float(outcome.terms.max(1));
            let lr = self.rate(self.record.step);
            self.tables.take_step(lr, &batch_ids, &outcome.gradients)?;
            self.tables.note(loss, lr);
            self.record.step += 1;
            done.examples += outcome.examples;
            if self.record.step.is_multiple_of(self.orders.commit_every) || self.record.step == self.total {
                self.timed_commit(&mut done)?;
                committed = self.record.step;
            }
            progress.step(self.record.step, loss, outcome.examples, self.tables.traffic().since(before));
            let Some(next) = next else { break };
            batch = next;
        }
        if committed < self.record.step {
            self.timed_commit(&mut done)?;
        }
        (done.loss, done.seconds) = progress.end();
        done.traffic = self.tables.traffic().since(before);
        Ok(done)
    }

    fn timed_commit(&mut self, done: &mut Trained) -> Result<()> {
        let start = Instant::now();
        self.commit()?;
        done.commits += 1;
        done.commit_s += start.elapsed().as_secs_f64();
        Ok(())
    }

    /// Reports on the run; a run that was asked to stop leaves at once, without judging the model first.
    fn summary(self, done: &Trained) -> Result<Summary> {
        let (mut verdict, mut digest, mut judge_s) = (Verdict::default(), None, 0.0);
        if self.record.step >= self.total {
            note("Judging and hashing");
            let start = Instant::now();
            verdict = self.model.judge(&self.tables)?;
            judge_s = start.elapsed().as_secs_f64();
            digest = Some(self.tables.digest()?);
        }
        let rule = Rule { optimizer: self.optimizer, initial: self.orders.initial };
        Ok(Summary {
            store: self.orders.store.display().to_string(),
            unit: M::UNIT,
            params: self.tables.tables().iter().map(Table::params).sum(),
            state_bytes: rule.state_bytes(self.tables.tables())?,
            steps: (self.record.step, self.total),
            continued_from: self.continued_from,
            loss: done.loss,
            examples: done.examples,
            train_s: done.seconds,
            judge_s,
            memory: (self.orders.memory, self.budget),
            peak_rss: peak_rss(),
            traffic: done.traffic,
            commits: (done.commits, done.commit_s),
            digest,
            verdict,
        })
    }
}

/// What the store may have of the memory: all but the rows and gradients of a batch, with the ids of the next one.
fn budget(model: &impl Model, memory: u64) -> Result<u64> {
    let tables = model.tables();
    let held = tables
        .iter()
        .zip(model.most_rows())
        .map(|(table, most)| most.min(table.rows) * 2 * 4 * table.width as u64 + 2 * most * BYTES_PER_ID);
    let held = held.sum::<u64>() + model.scratch_bytes();
    let least = tables::LEAST_BUDGET;
    if memory < held + least {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        bail!(
            "--memory {} MiB is too small: the rows and gradients of a batch take {} MiB and the store needs {} MiB to work \
             with: give at least {} MiB, or a smaller --batch",
            memory >> 20,
            mib(held),
            mib(least),
            mib(held + least)
        );
    }
    Ok(memory - held)
}
