//! The tables in a parameter store. The only file that knows the store.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
pub(crate) use paramstore::Init;
use paramstore::telemetry::Metrics;
use paramstore::{Optimizer, Options, ParamGroup, ParamStore, Schema, TensorSpec};

use super::report::Traffic;

/// The group of all tables.
const GROUP: &str = "rows";
/// The least budget of a store: some blocks, a batch of the log, and rows.
pub(crate) const LEAST_BUDGET: u64 = 8 << 20;

/// A table: rows of floats.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Table {
    /// Name of the tensor.
    pub(crate) name: &'static str,
    /// Number of rows.
    pub(crate) rows: u64,
    /// Elements of a row.
    pub(crate) width: usize,
    /// Initial values.
    pub(crate) init: Init,
}

impl Table {
    /// Number of elements.
    pub(crate) fn params(&self) -> u64 {
        self.rows.saturating_mul(self.width as u64)
    }
}

/// How rows are updated.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    /// Name of the optimizer.
    pub(crate) optimizer: String,
    /// What Adagrad's sums of squares start with.
    pub(crate) initial: f64,
}

impl Rule {
    fn optimizer(&self) -> Result<Optimizer> {
        let mut optimizer = Optimizer::from_name(&self.optimizer)?;
        if self.optimizer == "adagrad" {
            optimizer.set("initial_accumulator_value", &self.initial.to_string())?;
        }
        Ok(optimizer)
    }

    /// Planes of parameters and optimizer state.
    fn planes(&self) -> Result<u64> {
        Ok(1 + self.optimizer()?.state_planes().len() as u64)
    }

    /// Bytes of parameters and optimizer state of some tables.
    pub(crate) fn state_bytes(&self, tables: &[Table]) -> Result<u64> {
        let params = tables.iter().map(Table::params).fold(0, u64::saturating_add);
        Ok(params.saturating_mul(self.planes()? * size_of::<f32>() as u64))
    }
}

/// The tables of a run and their optimizer state.
pub(crate) struct Tables {
    store: ParamStore,
    tables: Vec<Table>,
}

impl Tables {
    /// Creates the store of a new run. Where the state does not fit the budget, disk is allocated when it is first written.
    pub(crate) fn create(
        path: &Path,
        tables: Vec<Table>,
        rule: &Rule,
        seed: u64,
        budget: u64,
    ) -> Result<Self> {
        let large = rule.state_bytes(&tables)? > budget;
        let mut schema = Schema::new().seed(seed);
        schema = schema.group(ParamGroup::new(GROUP, rule.optimizer()?));
        for table in &tables {
            schema = schema.tensor(spec(table));
        }
        let options = Options::new().memory_budget(budget).sparse(large);
        Ok(Self { store: ParamStore::create(path, &schema, &options)?, tables })
    }

    /// Opens the store of a run that began earlier, and checks that it holds these tables.
    pub(crate) fn open(path: &Path, tables: Vec<Table>, budget: u64) -> Result<Self> {
        let store = ParamStore::open(path, &Options::new().memory_budget(budget))?;
        let same = |(info, table): (paramstore::TensorInfo<'_>, &Table)| {
            info.name() == table.name && info.shape() == [table.rows, table.width as u64]
        };
        ensure!(
            store.tensors().count() == tables.len() && store.tensors().zip(&tables).all(same),
            "the tensors in {} are not those that its user record describes: choose another --store",
            path.display()
        );
        Ok(Self { store, tables })
    }

    /// The tables.
    pub(crate) fn tables(&self) -> &[Table] {
        &self.tables
    }

    /// Optimizer steps finished.
    pub(crate) fn step(&self) -> u64 {
        self.store.step()
    }

    /// Steps that an earlier process finished and did not commit.
    pub(crate) fn lost_steps(&self) -> u64 {
        self.store.recovery().lost_steps
    }

    /// Rows of a table.
    pub(crate) fn gather(&self, table: usize, ids: &[u64]) -> Result<Vec<f32>> {
        let Table { name, width, .. } = self.tables[table];
        let mut out = vec![0.0; ids.len() * width];
        self.store.gather_rows(name, ids, &mut out)?;
        Ok(out)
    }

    /// Says which rows the batch after this one needs, so that they are read meanwhile.
    pub(crate) fn prefetch(&self, ids: &[Vec<u64>]) {
        for (table, ids) in self.tables.iter().zip(ids) {
            self.store.prefetch_rows(table.name, ids, 1);
        }
    }

    /// Takes one optimizer step: for each table the rows touched and their gradients.
    pub(crate) fn take_step(&mut self, lr: f64, ids: &[Vec<u64>], gradients: &[Vec<f32>]) -> Result<()> {
        self.store.group_mut(GROUP)?.set_lr(lr)?;
        let mut step = self.store.begin_step()?;
        for (table, (ids, gradients)) in self.tables.iter().zip(ids.iter().zip(gradients)) {
            step.apply_rows(table.name, ids, gradients)?;
        }
        let report = step.finish()?;
        if report.non_finite > 0 {
            bail!(
                "step {} met {} gradients that are NaN or infinite; the store goes back to its last commit: \
                 try a smaller --lr",
                report.step,
                report.non_finite
            );
        }
        Ok(())
    }

    /// Tells people who look on what the last step came to.
    pub(crate) fn note(&mut self, loss: f64, lr: f64) {
        self.store.note_metrics(&Metrics::new().loss(loss).lr(lr));
    }

    /// Makes everything so far durable, together with the record.
    pub(crate) fn commit(&mut self, record: &[u8]) -> Result<()> {
        self.store.commit(record).context("the commit failed; the last one before it still holds")?;
        Ok(())
    }

    /// Counters since the store was opened.
    pub(crate) fn traffic(&self) -> Traffic {
        let stats = self.store.stats();
        let stalled = stats.stall_read_ns + stats.stall_write_ns + stats.stall_update_ns;
        Traffic {
            read: stats.bytes_read,
            written: stats.bytes_written,
            stall_s: crate::num::float(stalled) * 1e-9,
        }
    }

    /// A hash of the logical content: names, shapes, step, every value of every plane.
    pub(crate) fn digest(&self) -> Result<String> {
        Ok(self.store.digest()?.to_string())
    }
}

fn spec(table: &Table) -> TensorSpec {
    TensorSpec::new(table.name, &[table.rows, table.width as u64]).group(GROUP).init(table.init).rows()
}
