//! What the store has promised to a worker, and whether it was kept.

use std::path::Path;

use paramstore::ParamStore;
use paramstore::inspect::{VerifyOptions, verify};

use crate::kept::{KeptPromise, KeptTally};
use crate::training::{Content, Reference, STRIDE, TOTAL, is_no_store, options, store_path};
use crate::worker::Said;

/// What interrupted the worker, as far as it makes a difference to what was promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The process was killed: the system's memory is still there, and what a look sees cannot be lost by another kill.
    Process,
    /// The power was lost: a generation that a look sees, but no commit or open has returned, may be lost yet.
    Power,
}

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// No store, where one was being made.
    Nothing,
    /// A whole new store, whose `create` had not returned.
    New,
    /// The last commit that had returned, and whether another one had become possible.
    Committed { last_step: bool },
    /// The commit that was under way.
    UnderWay,
    /// A store that was going back to a checkpoint, and whether it had.
    Returning { is_back: bool },
}

/// What a look came to.
pub(crate) struct Looked {
    /// What was found of the newest store.
    pub(crate) found: Found,
    /// Stores before it that were finished.
    pub(crate) finished: u64,
    /// Checkpoints of all of these.
    pub(crate) kept: KeptTally,
}

/// What holds for the store that the worker is at.
#[derive(Debug)]
pub(crate) struct Promise {
    /// Number of the store.
    pub(crate) number: u64,
    /// Stores before it that were finished and not looked at yet.
    finished: Vec<(u64, KeptPromise)>,
    /// Whether a `create` has begun.
    begun: bool,
    /// Whether a `create` or `open` has returned.
    exists: bool,
    /// The step of the last commit that returned.
    committed: u64,
    /// The last step that finished.
    last_step: u64,
    /// The step of the checkpoint that the store goes back to, while it does.
    returning: Option<u64>,
    /// What holds for its checkpoints.
    kept: KeptPromise,
    /// Lost steps that are told while no new writer has opened the store.
    lost: Option<u64>,
}

impl Promise {
    pub(crate) fn new(number: u64) -> Self {
        let (finished, begun, exists) = (Vec::new(), false, false);
        let (committed, last_step, returning, lost) = (0, 0, None, None);
        let kept = KeptPromise::new();
        Self { number, finished, begun, exists, committed, last_step, returning, kept, lost }
    }

    /// Takes note of what a worker said.
    ///
    /// # Errors
    /// A sentence, where what it said is itself against the promise.
    pub(crate) fn hear(&mut self, said: &[Said]) -> Result<(), String> {
        for said in said {
            self.kept.hear(said);
            match *said {
                Said::Creating(number) => {
                    if number == self.number && self.exists {
                        return Err(format!("store {number} was there and the worker found none"));
                    }
                    if number != self.number {
                        self.finish(number)?;
                    }
                    self.begun = true;
                }
                Said::Opened(number, step) => {
                    if number != self.number {
                        self.finish(number)?;
                    }
                    self.check_step(step)?;
                    (self.begun, self.exists, self.lost) = (true, true, None);
                    self.is_at(step);
                }
                Said::Returning(step) => self.returning = Some(step),
                Said::Returned(step) => {
                    if self.returning != Some(step) {
                        return Err(format!(
                            "store {number}: step {step} after a way back",
                            number = self.number
                        ));
                    }
                    self.is_at(step);
                }
                Said::Stepped(step) => self.last_step = step,
                Said::Committed(step) => self.committed = step,
                Said::Keeping(..) | Said::Kept(..) | Said::Pruning(_) | Said::Pruned(_) | Said::Failed(_) => {
                }
            }
        }
        Ok(())
    }

    /// The store is at the commit of this step, and nothing is under way.
    fn is_at(&mut self, step: u64) {
        (self.committed, self.last_step, self.returning) = (step, step, None);
    }

    /// The worker goes on to another store: it has to have finished this one.
    fn finish(&mut self, next: u64) -> Result<(), String> {
        if next != self.number + 1 || self.committed != TOTAL {
            let Self { number, committed, .. } = self;
            return Err(format!("the worker went from step {committed} of store {number} to store {next}"));
        }
        let mut finished = std::mem::take(&mut self.finished);
        finished.push((self.number, std::mem::replace(&mut self.kept, KeptPromise::new())));
        *self = Self { finished, ..Self::new(next) };
        Ok(())
    }

    /// Number of the oldest store that was not looked at to the end.
    pub(crate) fn oldest(&self) -> u64 {
        self.finished.first().map_or(self.number, |(number, _)| *number)
    }

    /// Whether this step's commit has returned, so that an older one may not be found.
    pub(crate) fn is_committed(&self, step: u64) -> bool {
        self.exists && step == self.committed && self.returning.is_none()
    }

    /// The commit that may have been under way.
    fn under_way(&self) -> Option<u64> {
        let next = self.committed + STRIDE;
        (self.exists && next <= TOTAL && self.last_step + 1 >= next).then_some(next)
    }

    fn check_step(&self, step: u64) -> Result<(), String> {
        let under_way = self.returning.or(self.under_way());
        if step == self.committed || Some(step) == under_way {
            return Ok(());
        }
        let or = under_way.map_or(String::new(), |step| format!(" or {step}"));
        Err(format!("store {}: step {step} was found; promised: step {}{or}", self.number, self.committed))
    }

    /// Looks at all stores that the worker was at, and removes those that were finished.
    ///
    /// # Errors
    /// A sentence, where a promise was broken.
    pub(crate) fn look(
        &mut self,
        dir: &Path,
        reference: &Reference,
        cut: Cut,
        verifies: bool,
    ) -> Result<Looked, String> {
        let (mut finished, mut kept) = (0, KeptTally::default());
        for (number, mut promise) in std::mem::take(&mut self.finished) {
            kept.add(look_at_finished(dir, number, &mut promise, reference)?);
            finished += 1;
        }
        let path = store_path(dir, self.number);
        let Some(store) = read(&path, self.number)? else {
            if self.exists {
                return Err(format!("store {} had been created, and is not there", self.number));
            }
            return Ok(Looked { found: Found::Nothing, finished, kept });
        };
        if !self.begun {
            return Err(format!("there is a store {}, which nobody made", self.number));
        }
        self.check_step(store.step())?;
        check_content(&store, self.number, &format!("store {}", self.number), reference)?;
        self.check_lost(&store, cut)?;
        let found = match (store.step(), self.returning) {
            _ if !self.exists => Found::New,
            (step, Some(back)) => Found::Returning { is_back: step == back },
            (step, None) if step == self.committed => {
                Found::Committed { last_step: self.under_way().is_some() }
            }
            _ => Found::UnderWay,
        };
        if cut == Cut::Process {
            self.exists = true;
            self.lost = Some(store.recovery().lost_steps);
            self.committed = store.step();
            let is_back = self.returning.take() == Some(store.step());
            self.last_step = if is_back { store.step() } else { self.last_step.max(store.step()) };
        }
        drop(store);
        if verifies {
            check_blocks(&path, &format!("store {}", self.number))?;
        }
        kept.add(self.kept.look(&path, self.number, reference, (cut == Cut::Process, verifies))?);
        Ok(Looked { found, finished, kept })
    }

    /// Lost steps: exactly those that had finished, but for one whose end nobody saw; after a loss of power, the note of
    /// them may be an older one. Where a store has just gone back, those since the checkpoint, or none.
    fn check_lost(&self, store: &ParamStore, cut: Cut) -> Result<(), String> {
        let lost = store.recovery().lost_steps;
        let last = self.last_step.max(store.step());
        let most = last + 1 - store.step();
        let is_back = self.returning == Some(store.step());
        let least = if cut == Cut::Power || is_back { 0 } else { last - store.step() };
        let is_right = match self.lost {
            None => (least..=most).contains(&lost),
            // The note counts from 0 as soon as a new writer has opened, which it may have done without a word.
            Some(before) => lost == before || lost == 0,
        };
        if is_right {
            return Ok(());
        }
        let (number, step) = (self.number, store.step());
        Err(format!(
            "store {number}, step {step}: {lost} steps are said to be lost; step {} had finished",
            self.last_step
        ))
    }
}

fn look_at_finished(
    dir: &Path,
    number: u64,
    kept: &mut KeptPromise,
    reference: &Reference,
) -> Result<KeptTally, String> {
    let path = store_path(dir, number);
    let store = read(&path, number)?;
    let store = store.ok_or_else(|| format!("store {number} was finished, and is not there"))?;
    if store.step() != TOTAL {
        return Err(format!("store {number} was finished, and is at step {}", store.step()));
    }
    check_content(&store, number, &format!("store {number}"), reference)?;
    drop(store);
    check_blocks(&path, &format!("store {number}"))?;
    let tally = kept.look(&path, number, reference, (true, true))?;
    std::fs::remove_dir_all(&path).map_err(|error| format!("remove {}: {error}", path.display()))?;
    Ok(tally)
}

/// Opens a store for reading; `None` where none is.
fn read(path: &Path, number: u64) -> Result<Option<ParamStore>, String> {
    match ParamStore::open_read_only(path, &options(number)) {
        Ok(store) => Ok(Some(store)),
        Err(error) if is_no_store(&error) => Ok(None),
        Err(error) => Err(format!("store {number} cannot be read: {error}")),
    }
}

/// Whether a store holds what its step holds in a training that nobody interrupted.
pub(crate) fn check_content(
    store: &ParamStore,
    number: u64,
    what: &str,
    reference: &Reference,
) -> Result<(), String> {
    let step = store.step();
    let content = Content::of(store).map_err(|error| format!("{what}, step {step}: {error}"))?;
    if reference.at(number, step) == Some(&content) {
        return Ok(());
    }
    Err(format!("{what}, step {step}: not the bits of a training that nobody interrupted"))
}

/// Whether every checksum of a store is right.
pub(crate) fn check_blocks(path: &Path, what: &str) -> Result<(), String> {
    let options = VerifyOptions::new().io_threads(1);
    let verified = verify(path, &options, |_| {}).map_err(|error| format!("verify {what}: {error}"))?;
    match verified.findings.first() {
        None => Ok(()),
        Some(finding) => Err(format!("verify {what}: {}", finding.damage.what)),
    }
}
