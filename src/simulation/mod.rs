//! The whole store on a disk that loses power. For the tests and tools of this repository: no part of the library, and
//! not there unless the feature `simulation` is asked for.
//!
//! A program's run on the simulated disk is recorded once. Then the power is cut after some event of it, the disk is
//! left in one of the states that the fault model allows, and the store is opened on what is found: it has to be at the
//! generation that was committed last, or at that of the commit under way, bit for bit as a model in plain memory has
//! it. The program goes on, commits, and is compared again; and in all that the power may go again. Everything runs in
//! one thread and repeats exactly from a seed.

mod checkpoints;
#[cfg(test)]
mod exhaustive;
mod explore;
mod kept;
mod model;
mod operation;
mod plane;
mod profile;
mod promise;
mod rng;
mod rows;
mod runner;
mod schedule;
mod shrink;
#[cfg(test)]
mod tests;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::param_store::build_threads;
use crate::storage::Barrier;
use crate::store::barriers;
use crate::update::on_threads;
use explore::Explorer;
use profile::Profile;
use rng::Rng;

/// What a campaign has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// Losses of power after which the store was opened, compared, used, and compared again.
    pub schedules: u64,
    /// Of these, those that came in the recovery from another, or after it.
    pub again: u64,
    /// Recorded runs.
    pub runs: u64,
    /// Places in them at which the power was cut.
    pub points: u64,
    /// The power went in a commit or a `create`, and the generation before was found.
    pub older: u64,
    /// The same, and the new generation was found.
    pub newer: u64,
    /// The power went between commits, and the last one was found.
    pub settled: u64,
    /// The power went in a `create`, and no store was found.
    pub without_store: u64,
    /// The most things of which one loss of power decided: sectors, lengths, names.
    pub unsynced_max: u64,
}

impl Summary {
    fn add(&mut self, other: &Self) {
        self.schedules += other.schedules;
        self.again += other.again;
        self.runs += other.runs;
        self.points += other.points;
        self.older += other.older;
        self.newer += other.newer;
        self.settled += other.settled;
        self.without_store += other.without_store;
        self.unsynced_max = self.unsynced_max.max(other.unsynced_max);
    }
}

/// A promise that was not kept.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Failure {
    /// What was found.
    pub what: String,
    /// How it came to that, as short as could be made.
    pub story: String,
    /// Whether the story ends the same way each time.
    pub is_repeatable: bool,
}

/// The first broken promise of a campaign.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Broken {
    /// The number of the run, which with the campaign's seed repeats it.
    pub run: u64,
    /// The store that it was about.
    pub store: &'static str,
    /// What it was.
    pub failure: Failure,
}

/// Random losses of power.
#[derive(Debug, Clone, Copy)]
pub struct Campaign {
    /// Losses of power to try, at least.
    pub schedules: u64,
    /// What all randomness comes from.
    pub seed: u64,
    /// Runs that are explored at the same time.
    pub threads: usize,
    /// The run to begin with; 0 for a whole campaign.
    pub first_run: u64,
    left_out: Option<Barrier>,
}

/// The names of the places at which the store waits for durability.
pub fn barrier_names() -> impl Iterator<Item = &'static str> {
    barriers::ALL.iter().map(|barrier| barrier.0)
}

impl Campaign {
    /// A campaign on one thread.
    #[must_use]
    pub fn new(schedules: u64, seed: u64) -> Self {
        Self { schedules, seed, threads: 1, first_run: 0, left_out: None }
    }

    /// Leaves out a barrier, so that promises are broken; the name is one of [`barrier_names`].
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub fn without(mut self, name: &str) -> Result<Self> {
        let barrier = barriers::ALL.iter().find(|barrier| barrier.0 == name);
        let unknown = || Error::Unknown { kind: "barrier", name: name.to_owned() };
        self.left_out = Some(*barrier.ok_or_else(unknown)?);
        Ok(self)
    }

    /// Runs it until a promise is broken. `progress` is called now and then, from any thread.
    ///
    /// # Errors
    /// If the simulation itself cannot be set up.
    pub fn run(&self, progress: impl Fn(&Summary, Duration) + Sync) -> Result<(Summary, Option<Broken>)> {
        let profiles = (0..Profile::COUNT).map(Profile::new).collect::<Result<Vec<_>>>()?;
        let shared = Shared {
            next: AtomicU64::new(self.first_run),
            total: Mutex::new((Summary::default(), None)),
            start: Instant::now(),
        };
        std::thread::scope(|scope| {
            let work = || {
                // One thread of rayon each, so that a store's parallel loops run where they are called.
                let pool = build_threads(1)?;
                on_threads(Some(&pool), || self.work(&profiles, &shared, &progress));
                Ok(())
            };
            let threads: Vec<_> = (0..self.threads.max(1)).map(|_| scope.spawn(work)).collect();
            let joined = threads.into_iter().map(|thread| match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            joined.collect::<Result<()>>()
        })?;
        Ok(shared.total.into_inner().unwrap_or_default())
    }

    fn work(&self, profiles: &[Profile], shared: &Shared, progress: &(impl Fn(&Summary, Duration) + Sync)) {
        loop {
            let run = shared.next.fetch_add(1, Ordering::Relaxed);
            let mut rng = Rng::new(self.seed, run);
            let number = match run % 5 {
                // Stores with tensors of rows.
                1 | 3 => Profile::WITHOUT_ROWS + rng.below(Profile::F32 - Profile::WITHOUT_ROWS),
                // Stores with planes in few bits.
                4 => Profile::F32 + rng.below(Profile::COUNT - Profile::F32),
                // The last of the others has the most tensors and costs most.
                _ => rng.below(3 * Profile::WITHOUT_ROWS - 2) / 3,
            };
            let Some(profile) = profiles.get(number) else { return };
            let mut explorer = Explorer::new(profile, self.left_out);
            let result = explorer.random(&mut rng);
            let is_first = result.is_err() && shared.total.lock().is_ok_and(|total| total.1.is_none());
            let broken = result.err().filter(|_| is_first).map(|broken| {
                let failure = broken.failure(profile);
                Broken { run, store: profile.name, failure }
            });
            let Ok(mut total) = shared.total.lock() else { return };
            total.0.add(&explorer.summary);
            if total.1.is_none() {
                total.1 = broken;
            }
            progress(&total.0, shared.start.elapsed());
            if total.1.is_some() || total.0.schedules >= self.schedules {
                return;
            }
        }
    }
}

struct Shared {
    next: AtomicU64,
    total: Mutex<(Summary, Option<Broken>)>,
    start: Instant,
}
