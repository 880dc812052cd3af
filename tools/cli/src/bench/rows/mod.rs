//! `paramstore bench rows`: steps on some rows of a table and their limit, in turns.

mod ids;
mod limit;
mod report;

use std::collections::VecDeque;
use std::io::Write;
use std::time::{Duration, Instant};

use paramstore::{Init, Optimizer, Options, ParamGroup, ParamStore, RowUse, Schema, Stats, TensorSpec};

use super::machine;
use super::scratch::{Scratch, Stop, check_room};
use crate::arguments::RowsArguments;
use crate::failure::Failure;
use crate::{Verdict, terminal};
use ids::{Draw, distinct, min_hit_rate};
use limit::{Memory, Pages};

const TABLE: &str = "table";
/// Steps between two measurements of their limits.
const TURN: usize = 10;
/// Before a limit is measured, the disk has this long to end what was read ahead.
const REST: Duration = Duration::from_millis(300);

/// One timed step and its limit.
pub(super) struct Round {
    pub(super) distinct: u64,
    pub(super) gather_s: f64,
    pub(super) update_s: f64,
    pub(super) commit_s: f64,
    pub(super) read_limit_s: f64,
    pub(super) memory_limit_s: f64,
    pub(super) stats: Stats,
}

impl Round {
    pub(super) fn step_s(&self) -> f64 {
        self.gather_s + self.update_s + self.commit_s
    }

    pub(super) fn limit_s(&self) -> f64 {
        self.read_limit_s.max(self.memory_limit_s)
    }
}

/// Everything that a run found out.
pub(super) struct Measured {
    pub(super) rounds: Vec<Round>,
    pub(super) min_hit_rate: f64,
    pub(super) usage: RowUse,
    pub(super) log_bytes: (u64, u64),
    pub(super) fill_s: f64,
    pub(super) peak_rss_bytes: u64,
}

struct Bench<'a> {
    arguments: &'a RowsArguments,
    rule: Optimizer,
    store: ParamStore,
    draw: Draw,
    gradients: Vec<f32>,
    gathered: Vec<f32>,
    /// Batches that have been drawn and not used, the next one first.
    ahead: VecDeque<Vec<u64>>,
    /// How many of them the store knows of.
    announced: usize,
    /// Distinct rows of each batch that was used.
    trace: Vec<Vec<u64>>,
    stop: Stop,
}

pub(crate) fn run(arguments: &RowsArguments, out: &mut dyn Write) -> Result<Verdict, Failure> {
    let optimizer = arguments.settings.optimizer(&arguments.optimizer)?;
    let table = TensorSpec::new(TABLE, &[arguments.rows, arguments.dim]).rows();
    let table = table.init(Init::Normal { mean: 0.0, std: 0.01 });
    let mut schema = Schema::new().group(ParamGroup::new("default", optimizer)).tensor(table);
    if let Some(bytes) = arguments.log_bytes {
        schema = schema.row_log_bytes(bytes);
    }
    if let Some(bytes) = arguments.block_bytes {
        schema = schema.block_bytes(bytes);
    }
    let mut options = Options::new().memory_budget(arguments.memory);
    if let Some(threads) = arguments.threads {
        options = options.threads(threads.into());
    }
    let draw = Draw::new(arguments.rows, arguments.zipf, arguments.seed)
        .ok_or_else(|| Failure::Usage("--zipf: expected 0, or a positive exponent".to_owned()))?;
    let dir = arguments.dir.clone().unwrap_or_else(std::env::temp_dir);
    check_room(&schema.plan(&options)?, &dir)?;
    let stop = Stop::listen();
    let scratch = Scratch::new(&dir)?;
    let store = ParamStore::create(scratch.path(), &schema, &options)?;
    let elements = usize::try_from(arguments.batch * arguments.dim).unwrap_or(usize::MAX);
    let bench = Bench {
        arguments,
        rule: optimizer,
        store,
        draw,
        gradients: (0_u32..)
            .take(elements)
            .map(|i| f32::from(u8::try_from(i % 251).unwrap_or(0)) * 1e-5)
            .collect(),
        gathered: vec![0.0; elements],
        ahead: VecDeque::new(),
        announced: 0,
        trace: Vec::new(),
        stop: stop.clone(),
    };
    let measured = bench.measure(&scratch)?;
    scratch.verify(&stop)?;
    drop(scratch);
    if arguments.json {
        terminal::json(out, &report::to_json(arguments, &measured))?;
    } else {
        report::to_text(arguments, &measured, out)?;
    }
    Ok(Verdict::Sound)
}

impl Bench<'_> {
    fn measure(mut self, scratch: &Scratch) -> Result<Measured, Failure> {
        let start = Instant::now();
        self.fill()?;
        let fill_s = start.elapsed().as_secs_f64();
        for at in 0..self.arguments.warm_up {
            self.step(at)?;
        }
        let usage = self.usage();
        let mut pages = Pages::new(&self.store, scratch.path(), usage.page_bytes)?;
        let record_len = usize::try_from(usage.record_bytes / 4).unwrap_or(1);
        let dim = usize::try_from(self.arguments.dim).unwrap_or(1);
        let mut memory = None;
        let mut rounds = Vec::new();
        let mut at = self.arguments.warm_up;
        while at < self.arguments.warm_up + self.arguments.steps {
            let mut turn = Vec::new();
            while turn.len() < TURN && at < self.arguments.warm_up + self.arguments.steps {
                turn.push(self.step(at)?);
                at += 1;
            }
            // Rows that are read ahead have come, so that the limit has the disk for itself.
            std::thread::sleep(REST);
            for (ids, round) in &mut turn {
                if round.stats.rows_missed > 0 {
                    round.read_limit_s = pages.read(round.stats.rows_missed)?;
                } else {
                    let memory = memory
                        .get_or_insert_with(|| Memory::new(self.arguments.rows, record_len, dim, self.rule));
                    round.memory_limit_s = memory.pass(ids, &self.gradients, &mut self.gathered)?;
                }
            }
            rounds.extend(turn.into_iter().map(|(_, round)| round));
            // One step begins with what was read ahead during the limits, and does not count.
            self.step(at)?;
        }
        let first = usize::try_from(self.arguments.warm_up).unwrap_or(0);
        let peak_rss_bytes = machine::peak_rss_bytes();
        let (after, log_bytes) = (self.usage(), self.store.row_log_bytes());
        // What the best possible is told from takes memory, which the store need not have beside it.
        drop(self.store);
        Ok(Measured {
            rounds,
            // A table that fits was there before the first batch.
            min_hit_rate: if usage.memory_rows >= usage.rows {
                1.0
            } else {
                min_hit_rate(&self.trace, first, usize::try_from(usage.memory_rows).unwrap_or(0))
            },
            usage: after,
            log_bytes,
            fill_s,
            peak_rss_bytes,
        })
    }

    fn usage(&self) -> RowUse {
        self.store.row_uses().swap_remove(0)
    }

    /// Gives every row values.
    fn fill(&mut self) -> Result<(), Failure> {
        let (rows, batch) = (self.arguments.rows, self.arguments.batch);
        for start in (0..rows).step_by(usize::try_from(batch).unwrap_or(1)) {
            self.stop.check()?;
            let ids: Vec<_> = (start..rows.min(start + batch)).collect();
            let elements = ids.len() * usize::try_from(self.arguments.dim).unwrap_or(1);
            let mut step = self.store.begin_step()?;
            step.apply_rows(TABLE, &ids, &self.gradients[..elements])?;
            step.finish()?;
            self.store.commit(b"")?;
        }
        Ok(())
    }

    /// The next batch; those behind it are said to be needed soon.
    fn next(&mut self) -> Vec<u64> {
        let len = usize::try_from(self.arguments.batch).unwrap_or(1);
        let lookahead = usize::try_from(self.arguments.lookahead).unwrap_or(0);
        while self.ahead.len() <= lookahead {
            let batch = self.draw.batch(len);
            self.ahead.push_back(batch);
        }
        self.ahead.pop_front().unwrap_or_default()
    }

    fn step(&mut self, at: u64) -> Result<(Vec<u64>, Round), Failure> {
        self.stop.check()?;
        let ids = self.next();
        self.trace.push(distinct(&ids));
        let before = self.store.stats();
        let start = Instant::now();
        for (batch, ahead) in self.ahead.iter().zip(1..).skip(self.announced) {
            self.store.prefetch_rows(TABLE, batch, ahead);
        }
        // One of them is at hand in the next step.
        self.announced = self.ahead.len().saturating_sub(1);
        self.store.gather_rows(TABLE, &ids, &mut self.gathered)?;
        let gathered = Instant::now();
        let mut step = self.store.begin_step()?;
        step.apply_rows(TABLE, &ids, &self.gradients)?;
        step.finish()?;
        let updated = Instant::now();
        if (at + 1).is_multiple_of(self.arguments.commit_every) {
            self.store.commit(&at.to_le_bytes())?;
        }
        let committed = Instant::now();
        let round = Round {
            distinct: self.trace.last().map_or(0, |rows| rows.len() as u64),
            gather_s: (gathered - start).as_secs_f64(),
            update_s: (updated - gathered).as_secs_f64(),
            commit_s: (committed - updated).as_secs_f64(),
            read_limit_s: 0.0,
            memory_limit_s: 0.0,
            stats: self.store.stats().since(&before),
        };
        Ok((ids, round))
    }
}
