//! Which losses of power a campaign tries.

use super::operation::Operation;
use super::profile::Profile;
use super::promise::{Promise, Violation};
use super::rng::Rng;
use super::runner::Runner;
use super::schedule::{Cut, Round, Schedule, disk_after};
use super::{Failure, Summary};
use crate::storage::Barrier;
use crate::storage::sim::{Disk, Item, ItemKey, Picks, torn};

/// Losses of power in one recorded run.
const CUTS: usize = 32;

/// A broken promise, and how it came to that.
pub(super) struct Broken {
    pub(super) schedule: Schedule,
    pub(super) violation: Violation,
}

impl Broken {
    pub(super) fn failure(self, profile: &Profile) -> Failure {
        super::shrink::shrink(profile, self)
    }
}

/// What stays the same while a run is explored.
pub(super) struct Explorer<'p> {
    pub(super) profile: &'p Profile,
    pub(super) left_out: Option<Barrier>,
    pub(super) summary: Summary,
}

impl<'p> Explorer<'p> {
    pub(super) fn new(profile: &'p Profile, left_out: Option<Barrier>) -> Self {
        Self { profile, left_out, summary: Summary::default() }
    }

    fn broken(&self, rounds: Vec<Round>, violation: Violation) -> Broken {
        Broken { schedule: Schedule { left_out: self.left_out, rounds }, violation }
    }

    fn runner(
        &self,
        script: &[Operation],
        before: &[Round],
        from: Option<(&Disk, &[Item], &Picks)>,
        promise: Promise,
    ) -> Result<Runner<'p>, Box<Broken>> {
        let image = from.map(|(disk, items, picks)| disk.image(items, picks));
        let broken = |violation| {
            let mut rounds = before.to_vec();
            rounds.push(Round { script: script.to_vec(), cut: None });
            Box::new(self.broken(rounds, violation))
        };
        let mut runner = Runner::new(self.profile, image.as_ref(), promise, self.left_out)
            .map_err(|error| broken(Violation(error.to_string())))?;
        runner.run(script).map_err(broken)?;
        Ok(runner)
    }

    /// Runs a script on an empty disk.
    pub(super) fn record(&mut self, script: &[Operation]) -> Result<Runner<'p>, Box<Broken>> {
        self.summary.runs += 1;
        self.runner(script, &[], None, Promise::default())
    }

    /// Random operations; stores with tensors of rows have more of these.
    pub(super) fn script(&self, rng: &mut Rng, len: usize) -> Vec<Operation> {
        if self.profile.has_rows() { Operation::rows_script(rng, len) } else { Operation::script(rng, len) }
    }

    /// Cuts the power after `event` events of a run, and goes on with another script on what is found.
    pub(super) fn cut(
        &mut self,
        path: &mut [Round],
        run: &Runner<'p>,
        at: (usize, &Disk),
        picks: &Picks,
        script: &[Operation],
    ) -> Result<Runner<'p>, Box<Broken>> {
        let (event, disk) = at;
        let promise = run.promise_at(event);
        let items = disk.unsynced();
        if let Some(round) = path.last_mut() {
            round.cut = Some(Cut::of(run, event, disk, picks));
        }
        let (old, new) = promise.generations();
        let next = self.runner(script, path, Some((disk, &items, picks)), promise)?;
        let summary = &mut self.summary;
        summary.schedules += 1;
        summary.unsynced_max = summary.unsynced_max.max(items.len() as u64);
        match next.found() {
            None => summary.without_store += 1,
            found if found == new => summary.newer += 1,
            found if found == old && new.is_some() => summary.older += 1,
            Some(_) => summary.settled += 1,
        }
        Ok(next)
    }

    /// A random script, random cuts in it, and cuts in what follows these.
    pub(super) fn random(&mut self, rng: &mut Rng) -> Result<(), Box<Broken>> {
        let len = 2 + rng.below(11);
        let script = self.script(rng, len);
        self.cuts_of(&script, rng)
    }

    /// Random cuts in a script, and cuts in what follows these.
    pub(super) fn cuts_of(&mut self, script: &[Operation], rng: &mut Rng) -> Result<(), Box<Broken>> {
        let run = self.record(script)?;
        let events = run.events();
        let created = run.starts().get(1).copied().unwrap_or(0);
        let mut cuts: Vec<usize> = (0..CUTS)
            .map(|_| {
                if rng.one_in(8) {
                    rng.below(created + 1)
                } else {
                    created + rng.below(events.len() + 1 - created)
                }
            })
            .collect();
        cuts.sort_unstable();
        let mut disk = run.disk();
        let mut done = 0;
        for event in cuts {
            if event > done {
                self.summary.points += 1;
            }
            events.iter().take(event).skip(done).for_each(|event| disk.apply(event));
            done = event;
            let mut path = vec![Round { script: script.to_vec(), cut: None }];
            self.descend(&mut path, &run, (event, &disk), rng)?;
        }
        Ok(())
    }

    /// Cuts the power, and often once or twice again in what follows.
    fn descend(
        &mut self,
        path: &mut Vec<Round>,
        run: &Runner<'p>,
        at: (usize, &Disk),
        rng: &mut Rng,
    ) -> Result<(), Box<Broken>> {
        let len = rng.below(4);
        let picks = random_picks(&at.1.unsynced(), rng);
        let script = self.script(rng, len);
        let mut next = self.cut(path, run, at, &picks, &script)?;
        let mut script = script;
        while path.len() < 4 && rng.one_in(3) {
            path.push(Round { script: script.clone(), cut: None });
            let events = next.events();
            // Half of them while the store is being opened.
            let opened = next.starts().get(1).copied().unwrap_or(0);
            let before = if rng.one_in(2) { opened } else { events.len() };
            let event = rng.below(before + 1);
            let disk = disk_after(&next, &events, event);
            let picks = random_picks(&disk.unsynced(), rng);
            let len = rng.below(4);
            script = self.script(rng, len);
            self.summary.again += 1;
            self.summary.points += 1;
            next = self.cut(path, &next, (event, &disk), &picks, &script)?;
        }
        Ok(())
    }
}

/// One of several ways to choose at random: with the extremes, and with things that belong together alike.
pub(super) fn random_picks(items: &[Item], rng: &mut Rng) -> Picks {
    let kept_of_8 = match rng.below(8) {
        0 => 0,
        1 => 8,
        2 | 3 => 4,
        4 => 1,
        5 => 7,
        6 => return alike(items, rng, true),
        _ => return alike(items, rng, false),
    };
    let tear_one_in = if rng.one_in(2) { 3 } else { usize::MAX };
    items.iter().map(|item| if rng.below(8) < kept_of_8 { pick(item, rng, tear_one_in) } else { 0 }).collect()
}

fn pick(item: &Item, rng: &mut Rng, tear_one_in: usize) -> u32 {
    if item.can_tear && rng.one_in(tear_one_in) {
        return torn(rng.word());
    }
    match item.newest {
        0 => 0,
        newest if rng.one_in(2) => newest,
        newest => 1 + rng.word() % newest,
    }
}

/// Whole files, or whole pages, are old or new; one thing may be the exception.
fn alike(items: &[Item], rng: &mut Rng, by_file: bool) -> Picks {
    let seed = rng.next();
    let group = |key: &ItemKey| -> u64 {
        let (file, page) = match key {
            ItemKey::Sector { file, page, .. } | ItemKey::Neighbours { file, page } => (file.as_str(), *page),
            ItemKey::Length(file) | ItemKey::Name(file) => (file.as_str(), 0),
            ItemKey::Directory => ("", 0),
        };
        let start = if by_file { 7 } else { page + 8 };
        file.bytes().fold(start, |hash, byte| hash.wrapping_mul(31).wrapping_add(u64::from(byte)))
    };
    let is_kept = |key: &ItemKey| Rng::new(seed, group(key)).one_in(2) || matches!(key, ItemKey::Directory);
    let mut picks: Picks =
        items.iter().map(|item| if is_kept(&item.key) { item.newest } else { 0 }).collect();
    if !picks.is_empty() && rng.one_in(2) {
        let at = rng.below(picks.len());
        picks[at] = if picks[at] == 0 { pick(&items[at], rng, 3) } else { 0 };
    }
    picks
}
