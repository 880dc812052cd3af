//! What the view shows, out of readings of a store: rates, ages, shares. Reads no clock and no file.

use std::collections::VecDeque;
use std::time::Duration;

use paramstore::Stats;
use paramstore::telemetry::{Live, StepMetrics};

/// Rates are taken over this long, if that holds enough steps.
const WINDOW_MS: u64 = 5_000;
/// Steps that a window holds at least, where readings reach back far enough.
pub(super) const WINDOW_STEPS: u64 = 2;
/// Steps that are summed up where nothing is known of now.
const LAST_STEPS: usize = 16;
/// How far readings reach back, and how many there are at most.
const READINGS_MS: u64 = 300_000;
const READINGS_MAX: usize = 2_000;
/// A page older than this is stale, and older than some steps.
const STALE_MS: u64 = 10_000;
const STALE_STEPS: u64 = 3;

/// Who writes to the store, as the operating system tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Writer {
    /// A process of this machine.
    Process(u32),
    /// A process that this container does not see.
    Outside,
    /// Nobody.
    Nobody,
    /// The store cannot be asked.
    Unknown,
}

impl From<Option<u32>> for Writer {
    fn from(process: Option<u32>) -> Self {
        match process {
            Some(0) => Self::Outside,
            Some(process) => Self::Process(process),
            None => Self::Nobody,
        }
    }
}

/// In one word, what goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Nothing was ever said.
    Waiting,
    Live,
    /// A writer is at work and has said nothing for long.
    Stale,
    /// Nobody writes.
    Ended,
}

impl State {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Live => "live",
            Self::Stale => "stale",
            Self::Ended => "ended",
        }
    }
}

/// Counters at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Point {
    unix_ms: u64,
    /// Which opening of the store it is of: process and time.
    opening: (u32, u64),
    step: u64,
    stats: Stats,
}

impl Point {
    pub(super) fn of(live: &Live) -> Self {
        Self {
            unix_ms: live.now_unix_ms,
            opening: (live.pid, live.opened_unix_ms),
            step: live.step,
            stats: live.stats,
        }
    }
}

/// What went on between two readings. Shares are of the time between them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rates {
    pub(super) seconds: f64,
    pub(super) steps: u64,
    pub(super) read_bytes_per_s: f64,
    pub(super) written_bytes_per_s: f64,
    pub(super) compute: f64,
    pub(super) stall_read: f64,
    pub(super) stall_write: f64,
    pub(super) stall_update: f64,
    pub(super) commit: f64,
    pub(super) disk: f64,
    /// Of block planes and rows that were needed, the share that was in memory; `None` where none was needed.
    pub(super) hit_rate: Option<f64>,
}

impl Rates {
    /// Between two readings; `None` if they are of two openings of the store, or no time lies between them.
    pub(super) fn between(earlier: &Point, later: &Point) -> Option<Self> {
        let ms = later.unix_ms.checked_sub(earlier.unix_ms).filter(|&ms| ms > 0)?;
        if earlier.opening != later.opening {
            return None;
        }
        let seconds = number(ms) / 1e3;
        let since = later.stats.since(&earlier.stats);
        let share = |ns: u64| number(ns) / 1e9 / seconds;
        let hits = number(since.blocks_hit) + number(since.rows_hit);
        let needed = hits + number(since.blocks_missed) + number(since.rows_missed);
        Some(Self {
            seconds,
            // A rollback takes the step back.
            steps: later.step.saturating_sub(earlier.step),
            read_bytes_per_s: number(since.bytes_read) / seconds,
            written_bytes_per_s: number(since.bytes_written) / seconds,
            compute: share(since.compute_ns),
            stall_read: share(since.stall_read_ns),
            stall_write: share(since.stall_write_ns),
            stall_update: share(since.stall_update_ns),
            commit: share(since.commit_ns),
            disk: share(since.disk_ns),
            hit_rate: (needed > 0.0).then(|| hits / needed),
        })
    }

    /// Of some steps, by what was noted of each; `None` where none is.
    pub(super) fn of_steps(steps: &[StepMetrics]) -> Option<Self> {
        let sum =
            |of: fn(&StepMetrics) -> Duration| steps.iter().map(|step| of(step).as_secs_f64()).sum::<f64>();
        let seconds = Some(sum(|of| of.duration)).filter(|&seconds| seconds > 0.0)?;
        let bytes = |of: fn(&StepMetrics) -> u64| steps.iter().map(|step| number(of(step))).sum::<f64>();
        Some(Self {
            seconds,
            steps: u64::try_from(steps.len()).unwrap_or(u64::MAX),
            read_bytes_per_s: bytes(|of| of.bytes_read) / seconds,
            written_bytes_per_s: bytes(|of| of.bytes_written) / seconds,
            compute: sum(|of| of.compute) / seconds,
            stall_read: sum(|of| of.stall_read) / seconds,
            stall_write: sum(|of| of.stall_write) / seconds,
            stall_update: sum(|of| of.stall_update) / seconds,
            commit: sum(|of| of.commit) / seconds,
            disk: sum(|of| of.disk) / seconds,
            hit_rate: None,
        })
    }

    pub(super) fn steps_per_s(&self) -> f64 {
        number(self.steps) / self.seconds
    }
}

#[expect(clippy::cast_precision_loss, reason = "rates for people")]
pub(super) fn number(value: u64) -> f64 {
    value as f64
}

/// What was read at once.
pub(super) struct Reading {
    pub(super) unix_ms: u64,
    pub(super) live: Option<Live>,
    pub(super) writer: Writer,
}

/// All that there is to show.
pub(super) struct Model {
    pub(super) path: String,
    pub(super) live: Option<Live>,
    pub(super) writer: Writer,
    /// When the last reading was made.
    pub(super) unix_ms: u64,
    /// What the last steps took, ascending.
    pub(super) history: Vec<StepMetrics>,
    /// What the disk does each way at most, in bytes per second, if that was measured.
    pub(super) limit: Option<f64>,
    /// The highest rates since the last reset: read, written.
    pub(super) highest: [f64; 2],
    pub(super) is_paused: bool,
    /// What went wrong with the last reading.
    pub(super) trouble: Option<String>,
    points: VecDeque<Point>,
}

impl Model {
    pub(super) fn new(path: String, limit: Option<f64>) -> Self {
        Self {
            path,
            live: None,
            writer: Writer::Unknown,
            unix_ms: 0,
            history: Vec::new(),
            limit,
            highest: [0.0; 2],
            is_paused: false,
            trouble: None,
            points: VecDeque::new(),
        }
    }

    /// Takes a reading in.
    pub(super) fn take(&mut self, reading: Reading) {
        (self.unix_ms, self.writer) = (reading.unix_ms, reading.writer);
        // A page that cannot be read now was there before: it is shown as it was, and ages.
        let Some(live) = reading.live else { return };
        let point = Point::of(&live);
        self.live = Some(live);
        if self.points.back().is_some_and(|last| last.opening != point.opening || point.step < last.step) {
            self.points.clear();
        }
        if self.points.back().is_none_or(|last| last.unix_ms < point.unix_ms) {
            self.points.push_back(point);
        }
        while self.points.len() > READINGS_MAX
            || self.points.front().is_some_and(|first| first.unix_ms + READINGS_MS < point.unix_ms)
        {
            self.points.pop_front();
        }
        if let Some(rates) = self.window() {
            self.highest[0] = self.highest[0].max(rates.read_bytes_per_s);
            self.highest[1] = self.highest[1].max(rates.written_bytes_per_s);
        }
    }

    /// Forgets all readings but the last.
    pub(super) fn reset(&mut self) {
        self.points.drain(..self.points.len().saturating_sub(1));
        self.highest = [0.0; 2];
    }

    /// Over the last seconds, or over as many as the last steps took.
    fn window(&self) -> Option<Rates> {
        let last = self.points.back()?;
        let is_enough = |first: &&Point| {
            first.unix_ms + WINDOW_MS <= last.unix_ms && first.step + WINDOW_STEPS <= last.step
        };
        let first = self.points.iter().rev().find(is_enough).or_else(|| self.points.front())?;
        Rates::between(first, last)
    }

    /// Rates of now; `None` before two readings, and while nothing new is said.
    pub(super) fn rates(&self) -> Option<Rates> {
        if self.state() == State::Live { self.window() } else { None }
    }

    /// Rates of now, or where there are none those of the last steps.
    pub(super) fn shown_rates(&self) -> Option<Rates> {
        self.rates().or_else(|| Rates::of_steps(self.last_steps(LAST_STEPS)))
    }

    fn last_steps(&self, count: usize) -> &[StepMetrics] {
        self.history.get(self.history.len().saturating_sub(count)..).unwrap_or_default()
    }

    /// Milliseconds since the writer said something.
    pub(super) fn age_ms(&self) -> Option<u64> {
        self.live.as_ref().map(|live| self.unix_ms.saturating_sub(live.now_unix_ms))
    }

    /// Seconds that a step takes: by the window's, while it is live what the last one took, later the mean of the last.
    pub(super) fn step_seconds(&self) -> Option<f64> {
        let measured = self.rates().filter(|rates| rates.steps >= WINDOW_STEPS);
        let steps = self.last_steps(if self.state() == State::Live { 1 } else { LAST_STEPS });
        let last = || Rates::of_steps(steps).map(|rates| 1.0 / rates.steps_per_s());
        measured.map(|rates| 1.0 / rates.steps_per_s()).or_else(last)
    }

    pub(super) fn state(&self) -> State {
        let Some(age) = self.age_ms() else { return State::Waiting };
        if self.writer == Writer::Nobody {
            return State::Ended;
        }
        let step_ms =
            self.history.last().map_or(0, |step| u64::try_from(step.duration.as_millis()).unwrap_or(0));
        let is_stale = age > STALE_MS.max(step_ms.saturating_mul(STALE_STEPS));
        if is_stale { State::Stale } else { State::Live }
    }

    /// Losses of the steps in view, in their order.
    pub(super) fn losses(&self) -> Vec<f64> {
        self.history.iter().filter_map(|step| step.loss).filter(|loss| loss.is_finite()).collect()
    }

    /// What a rate is shown against: the measured limit, or the highest seen.
    pub(super) fn full_scale(&self, direction: usize) -> f64 {
        self.limit.unwrap_or_else(|| self.highest.get(direction).copied().unwrap_or(0.0))
    }
}

/// Means of as many stretches of the values as `width`, or the values themselves if they are fewer.
pub(super) fn resampled(values: &[f64], width: usize) -> Vec<f64> {
    if values.len() <= width || width == 0 {
        return values.to_vec();
    }
    let at = |column: usize| column * values.len() / width;
    let mean = |column: usize| {
        let stretch = values.get(at(column)..at(column + 1)).unwrap_or_default();
        stretch.iter().sum::<f64>() / number(stretch.len().try_into().unwrap_or(u64::MAX)).max(1.0)
    };
    (0..width).map(mean).collect()
}
