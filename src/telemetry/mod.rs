//! LOOKING ON. What a writer tells others of its training, through two small files beside the store: what it does now, and
//! what each step took. Hints for people: no promise rests on them, and a failure to write them is no failure.
//!
//! A page of 4 KiB, written at once and checked by its checksum, is all there is between writer and onlookers: no lock, no
//! waiting. Files appear with the first step of a writer on a real file system ([`Options::telemetry`](crate::Options::telemetry)).
//!
//! # Example
//!
//! ```
#![doc = include_str!("../examples/store.txt")]
//! use paramstore::telemetry::{Metrics, history, live};
//!
//! assert!(live(&path)?.is_none()); // nothing was said yet
//! let mut step = store.begin_step()?;
//! step.apply("w", &[1.0; 6])?;
//! step.finish()?;
//! store.note_metrics(&Metrics::new().loss(2.5).validation_loss(2.75).lr(0.5));
//! store.commit(b"")?;
//!
//! // Any other process, at any time:
//! let now = live(&path)?.expect("a writer tells");
//! assert_eq!((now.step, now.loss, now.validation_loss), (1, Some(2.5), Some(2.75)));
//! let steps = history(&path, now.step)?;
//! assert_eq!((steps.len(), steps[0].lr), (1, Some(0.5)));
//! # Ok::<(), paramstore::Error>(())
//! ```

mod look;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub use look::{Cell, Live, StepMetrics, history, live};

use crate::format::notes::{
    CELLS_MAX, COUNTERS, LIVE_BYTES, LIVE_FILE, LivePage, METRICS_BYTES, METRICS_FILE, StepNote, places,
};
use crate::pager::{Pager, RunState, Stats};
use crate::storage::{Access, Allocation, Caching, Segment, Volume};

/// Between two pages, while a step is under way.
const INTERVAL: Duration = Duration::from_millis(100);

/// What a trainer says of the last finished step; what it does not say stays as it was. [Example](crate::telemetry#example).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub struct Metrics {
    /// The loss on the step's batch.
    pub loss: Option<f64>,
    /// The loss on data that is not trained on.
    pub validation_loss: Option<f64>,
    /// The learning rate.
    pub lr: Option<f64>,
}

impl Metrics {
    /// Nothing said. [Example](crate::telemetry#example).
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Says the loss on the step's batch. [Example](crate::telemetry#example).
    #[must_use]
    pub fn loss(mut self, loss: f64) -> Self {
        self.loss = Some(loss);
        self
    }

    /// Says the loss on data that is not trained on. [Example](crate::telemetry#example).
    #[must_use]
    pub fn validation_loss(mut self, loss: f64) -> Self {
        self.validation_loss = Some(loss);
        self
    }

    /// Says the learning rate. [Example](crate::telemetry#example).
    #[must_use]
    pub fn lr(mut self, lr: f64) -> Self {
        self.lr = Some(lr);
        self
    }
}

/// The counters that go on the page, in its order.
fn counters(stats: &Stats) -> [u64; COUNTERS] {
    let known = [
        stats.bytes_read,
        stats.bytes_written,
        stats.meta_bytes_written,
        stats.blocks_hit,
        stats.blocks_missed,
        stats.blocks_born,
        stats.rows_hit,
        stats.rows_missed,
        stats.row_log_bytes_written,
        stats.row_blocks_folded,
        stats.reads_direct,
        stats.reads_cached,
        stats.stall_read_ns,
        stats.stall_write_ns,
        stats.stall_update_ns,
        stats.compute_ns,
        stats.disk_ns,
        stats.commit_ns,
        stats.commits,
        stats.held_bytes,
        stats.table_bytes,
    ];
    let mut all = [0; COUNTERS];
    all.iter_mut().zip(known).for_each(|(all, known)| *all = known);
    all
}

/// The way back.
fn stats_of(counters: &[u64; COUNTERS]) -> Stats {
    let mut stats = Stats::default();
    let fields = [
        &mut stats.bytes_read,
        &mut stats.bytes_written,
        &mut stats.meta_bytes_written,
        &mut stats.blocks_hit,
        &mut stats.blocks_missed,
        &mut stats.blocks_born,
        &mut stats.rows_hit,
        &mut stats.rows_missed,
        &mut stats.row_log_bytes_written,
        &mut stats.row_blocks_folded,
        &mut stats.reads_direct,
        &mut stats.reads_cached,
        &mut stats.stall_read_ns,
        &mut stats.stall_write_ns,
        &mut stats.stall_update_ns,
        &mut stats.compute_ns,
        &mut stats.disk_ns,
        &mut stats.commit_ns,
        &mut stats.commits,
        &mut stats.held_bytes,
        &mut stats.table_bytes,
    ];
    fields.into_iter().zip(counters).for_each(|(field, counter)| *field = *counter);
    stats
}

/// A writer's side.
pub(crate) struct Telemetry {
    /// `None` once writing has failed, and where nobody can look on.
    files: Option<Files>,
    opened_unix_ms: u64,
    /// The store's memory budget.
    budget_bytes: u64,
    last_page: Instant,
    /// When the last step ended; `None` before the first.
    last_step: Option<Instant>,
    before: Stats,
    /// The last finished step, to which its trainer may add something.
    note: Option<StepNote>,
    /// Loss, validation loss, learning rate as they were said last.
    values: [f64; 3],
}

enum Files {
    /// Made with the first step.
    Wanted,
    Open {
        live: Arc<dyn Segment>,
        metrics: Arc<dyn Segment>,
    },
}

fn now_unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

impl Telemetry {
    /// Of a store that has just been opened; `is_wanted` where somebody can look on and may.
    pub(crate) fn new(is_wanted: bool, budget_bytes: u64, stats: Stats) -> Self {
        Self {
            files: is_wanted.then_some(Files::Wanted),
            opened_unix_ms: now_unix_ms(),
            budget_bytes,
            last_page: Instant::now(),
            last_step: None,
            before: stats,
            note: None,
            values: [f64::NAN; 3],
        }
    }

    /// A step begins. What a program does before its first is none of that step's time.
    pub(crate) fn begin_step(&mut self) {
        self.last_step.get_or_insert_with(Instant::now);
    }

    /// While a step is under way: now and then.
    pub(crate) fn tick(&mut self, pager: &Pager, step: u64) {
        if self.files.is_some() && self.last_page.elapsed() >= INTERVAL {
            self.publish(pager, step);
        }
    }

    /// A step has finished.
    pub(crate) fn finish_step(&mut self, pager: &Pager, step: u64) {
        if self.files.is_none() {
            return;
        }
        let (state, took) = (pager.lock(), self.last_step.map(|last| last.elapsed()).unwrap_or_default());
        let (stats, generation) = (state.stats(), state.store().superblock().generation);
        drop(state);
        let of_step = stats.since(&self.before);
        let note = StepNote {
            step,
            generation,
            unix_ms: now_unix_ms(),
            numbers: [
                u64::try_from(took.as_nanos()).unwrap_or(u64::MAX),
                of_step.compute_ns,
                of_step.stall_read_ns,
                of_step.stall_write_ns,
                of_step.stall_update_ns,
                of_step.disk_ns,
                of_step.commit_ns,
                of_step.bytes_read,
                of_step.bytes_written,
            ],
            values: [f64::NAN, f64::NAN, self.values[2]],
        };
        (self.before, self.last_step) = (stats, Some(Instant::now()));
        self.note = Some(note);
        self.write_note(pager);
        self.tick(pager, step);
    }

    /// The trainer says something of the last finished step.
    pub(crate) fn say(&mut self, pager: &Pager, step: u64, metrics: &Metrics) {
        let said = [metrics.loss, metrics.validation_loss, metrics.lr];
        let values = self.values.iter_mut().zip(said);
        values.for_each(|(value, said)| *value = said.unwrap_or(*value));
        if let Some(note) = self.note.as_mut().filter(|note| note.step == step) {
            let values = note.values.iter_mut().zip(said);
            values.for_each(|(value, said)| *value = said.unwrap_or(*value));
            self.write_note(pager);
        }
        self.tick(pager, step);
    }

    /// After something that people want to see at once: a commit.
    pub(crate) fn publish(&mut self, pager: &Pager, step: u64) {
        let Some(Files::Open { live, .. }) = self.open(pager) else { return };
        let live = Arc::clone(live);
        let page = self.page(pager, step).encode();
        self.last_page = Instant::now();
        if live.write_at(&page, 0).is_err() {
            self.files = None;
        }
    }

    fn write_note(&mut self, pager: &Pager) {
        let Some(note) = self.note else { return };
        let Some(Files::Open { metrics, .. }) = self.open(pager) else { return };
        let metrics = Arc::clone(metrics);
        let record = note.encode(pager.lock().store().uuid());
        if places(note.step).any(|place| metrics.write_at(&record, place).is_err()) {
            self.files = None;
        }
    }

    fn page(&self, pager: &Pager, step: u64) -> LivePage {
        let state = pager.lock();
        let superblock = state.store().superblock();
        let look = state.look(CELLS_MAX);
        LivePage {
            uuid: state.store().uuid(),
            pid: std::process::id(),
            now_unix_ms: now_unix_ms(),
            opened_unix_ms: self.opened_unix_ms,
            step,
            generation: superblock.generation,
            committed_step: superblock.step,
            budget_bytes: self.budget_bytes,
            hot_bytes: look.hot_bytes,
            dirty_bytes: look.dirty_bytes,
            counters: counters(&state.stats()),
            values: self.values,
            blocks: look.blocks,
            cells: look.runs.iter().map(cell).collect(),
        }
    }

    /// The files, made now if they were wanted.
    fn open(&mut self, pager: &Pager) -> Option<&Files> {
        if matches!(self.files, Some(Files::Wanted)) {
            let volume = Arc::clone(pager.lock().store().volume());
            let open = |name: &str, bytes: u64| file(volume.as_ref(), name, bytes);
            let files = open(LIVE_FILE, LIVE_BYTES).zip(open(METRICS_FILE, METRICS_BYTES));
            self.files = files.map(|(live, metrics)| Files::Open { live, metrics });
        }
        self.files.as_ref()
    }
}

/// A file of a length, made if it is missing; `None` if something else has the name, or it cannot be made.
fn file(volume: &dyn Volume, name: &str, bytes: u64) -> Option<Arc<dyn Segment>> {
    let open = || volume.open(name, Access::Write, Caching::Cached).ok();
    let file = open().or_else(|| {
        volume.create(name, bytes, Allocation::Full).ok()?;
        open()
    })?;
    file.len_bytes().ok().filter(|&len| len == bytes).map(|_| file)
}

/// How a run of blocks looks: for each of three states, how much of it has it, in thirds rounded up.
fn cell(run: &RunState) -> u8 {
    let share = |part: u64| {
        let thirds = (part * 3).div_ceil(run.planes.max(1)).min(3);
        u8::try_from(thirds).unwrap_or(3)
    };
    share(run.near) | share(run.dirty) << 2 | share(run.moving) << 4
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::to_u64;

    #[test]
    fn every_counter_comes_back_from_the_page() {
        let all: [u64; COUNTERS] = std::array::from_fn(|i| if i < 21 { to_u64(i) + 1 } else { 0 });
        assert_eq!(counters(&stats_of(&all)), all);
        // A counter that is added to `Stats` has to be added here.
        assert_eq!(size_of::<Stats>(), 21 * 8);
    }

    #[test]
    fn a_cell_says_how_much_of_each_state_a_run_of_blocks_has() {
        let parts = |near, dirty, moving, planes| {
            let cell = cell(&RunState { near, dirty, moving, planes });
            [cell & 3, cell >> 2 & 3, cell >> 4 & 3]
        };
        assert_eq!(parts(0, 0, 0, 30), [0, 0, 0]);
        assert_eq!(parts(1, 11, 30, 30), [1, 2, 3]);
        assert_eq!(parts(0, 0, 1, 1), [0, 0, 3]);
    }
}
