//! One story of a store: scripts, and losses of power between them. It can be told again, exactly.

use std::collections::BTreeMap;

use super::operation::Operation;
use super::profile::Profile;
use super::promise::{Promise, Violation};
use super::runner::Runner;
use crate::storage::Barrier;
use crate::storage::sim::{Disk, Event, Image, ItemKey, Picks};

/// A store and what happens to it.
#[derive(Debug, Clone)]
pub(super) struct Schedule {
    pub(super) left_out: Option<Barrier>,
    pub(super) rounds: Vec<Round>,
}

/// What a program does before the power goes; in the last round it does not.
#[derive(Debug, Clone, Default)]
pub(super) struct Round {
    pub(super) script: Vec<Operation>,
    pub(super) cut: Option<Cut>,
}

/// When the power goes, and what is found afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cut {
    /// The operation of the script (0 is the opening), and how many events into it.
    operation: usize,
    event: usize,
    /// What is found of things that were not durable; those not named are as they were when last durable.
    pub(super) kept: BTreeMap<ItemKey, u32>,
}

impl Cut {
    /// The cut after so many events of a run, with these picks.
    pub(super) fn of(runner: &Runner<'_>, event: usize, disk: &Disk, picks: &Picks) -> Self {
        let operation = runner.starts().partition_point(|&start| start <= event).saturating_sub(1);
        let start = runner.starts().get(operation).copied().unwrap_or(0);
        let items = disk.unsynced();
        let kept = items.iter().zip(picks).filter(|(_, pick)| **pick > 0);
        let kept = kept.map(|(item, &pick)| (item.key.clone(), pick)).collect();
        Self { operation, event: event.saturating_sub(start), kept }
    }

    /// The number of events before it in a run.
    pub(super) fn position(&self, runner: &Runner<'_>) -> usize {
        let start = runner.starts().get(self.operation).copied();
        start.map_or(usize::MAX, |start| start + self.event).min(runner.events().len())
    }

    /// The same cut if the script's operation `removed` were not there; `None` if it is the one that was cut.
    pub(super) fn without(&self, removed: usize) -> Option<Self> {
        // Operation 0 is the opening, and the script comes after it.
        match (removed + 1).cmp(&self.operation) {
            std::cmp::Ordering::Less => Some(Self { operation: self.operation - 1, ..self.clone() }),
            std::cmp::Ordering::Equal => None,
            std::cmp::Ordering::Greater => Some(self.clone()),
        }
    }

    /// The same cut, one event earlier in its operation.
    pub(super) fn earlier(&self) -> Option<Self> {
        Some(Self { event: self.event.checked_sub(1)?, ..self.clone() })
    }
}

/// The disk after the first events of a run.
pub(super) fn disk_after(runner: &Runner<'_>, events: &[Event], count: usize) -> Disk {
    let mut disk = runner.disk();
    events.iter().take(count).for_each(|event| disk.apply(event));
    disk
}

impl Schedule {
    /// Tells the story; the lines of `trace` say what happened.
    pub(super) fn replay(&self, profile: &Profile, trace: &mut Vec<String>) -> Result<(), Violation> {
        let mut image: Option<Image> = None;
        let mut promise = Promise::default();
        for (number, round) in self.rounds.iter().enumerate() {
            let mut runner = Runner::new(profile, image.as_ref(), promise, self.left_out)
                .map_err(|error| Violation(error.to_string()))?;
            let result = runner.run(&round.script);
            trace.push(format!("round {number}: promised: {}; {:?}", runner.promise_at(0), round.script));
            let events = runner.events();
            let cut = round.cut.as_ref().filter(|_| result.is_ok() || number + 1 < self.rounds.len());
            let Some(cut) = cut else {
                describe(&runner, &events, events.len(), trace);
                result?;
                break;
            };
            let position = cut.position(&runner);
            result?;
            let disk = disk_after(&runner, &events, position);
            describe(&runner, &events, position, trace);
            let items = disk.unsynced();
            trace.push(format!(
                "  POWER CUT after event {position}; {} things not durable; found of them:",
                items.len()
            ));
            trace.extend(cut.kept.iter().map(|(key, pick)| format!("    {key}: {}", words(*pick))));
            let picks: Picks =
                items.iter().map(|item| cut.kept.get(&item.key).copied().unwrap_or(0)).collect();
            image = Some(disk.image(&items, &picks));
            promise = runner.promise_at(position);
        }
        Ok(())
    }
}

fn words(pick: u32) -> String {
    if pick < 1 << 16 { format!("state {pick}") } else { format!("mixture {}", pick & 0xffff) }
}

/// Events shown before a cut.
const SHOWN: usize = 40;

fn describe(runner: &Runner<'_>, events: &[Event], count: usize, trace: &mut Vec<String>) {
    let disk = disk_after(runner, events, count);
    let first = count.saturating_sub(SHOWN);
    if first > 0 {
        trace.push(format!("  ... {first} events before"));
    }
    for (number, event) in events.iter().enumerate().take(count).skip(first) {
        trace.push(format!("  {number:4} {}", event.describe(|file| disk.name_of(file))));
    }
}
