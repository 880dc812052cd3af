//! Makes a story of a broken promise as short as it goes.

use super::Failure;
use super::explore::Broken;
use super::profile::Profile;
use super::promise::Violation;
use super::schedule::{Round, Schedule};

/// Replays spent on it.
const TRIES_MAX: usize = 20_000;

/// Tells the shortest story found that still breaks a promise.
pub(super) fn shrink(profile: &Profile, broken: Broken) -> Failure {
    let Broken { mut schedule, violation } = broken;
    let mut tries = 0;
    while let Some(smaller) = step(profile, &schedule, &mut tries) {
        schedule = smaller;
    }
    let mut trace = Vec::new();
    let said = schedule.replay(profile, &mut trace).err();
    let Violation(first) = violation;
    let text = said.as_ref().map_or("(could not be repeated)", |Violation(text)| text);
    trace.push(format!("BROKEN: {text}"));
    if text != first {
        trace.push(format!("before it was made shorter: {first}"));
    }
    Failure { story: trace.join("\n"), what: text.to_owned(), is_repeatable: said.is_some() }
}

/// The first smaller story that still fails.
fn step(profile: &Profile, schedule: &Schedule, tries: &mut usize) -> Option<Schedule> {
    smaller(schedule).find(|candidate| {
        *tries += 1;
        *tries <= TRIES_MAX && candidate.replay(profile, &mut Vec::new()).is_err()
    })
}

fn smaller(schedule: &Schedule) -> impl Iterator<Item = Schedule> + '_ {
    let with = move |at: usize, round: Round| {
        let mut next = schedule.clone();
        if let Some(slot) = next.rounds.get_mut(at) {
            *slot = round;
        }
        next
    };
    let rounds = || schedule.rounds.iter().enumerate();
    let fewer_rounds = (0..schedule.rounds.len()).filter(|_| schedule.rounds.len() > 1).map(move |at| {
        let mut next = schedule.clone();
        next.rounds.remove(at);
        next
    });
    let fewer_operations = rounds().flat_map(move |(at, round)| {
        (0..round.script.len()).rev().filter_map(move |removed| {
            let cut = match &round.cut {
                Some(cut) => Some(cut.without(removed)?),
                None => None,
            };
            let mut script = round.script.clone();
            script.remove(removed);
            Some(with(at, Round { script, cut }))
        })
    });
    let nothing_kept = rounds().filter_map(move |(at, round)| {
        let mut round = round.clone();
        let cut = round.cut.as_mut()?;
        if cut.kept.is_empty() {
            return None;
        }
        cut.kept.clear();
        Some(with(at, round))
    });
    let earlier = rounds().filter_map(move |(at, round)| {
        let cut = Some(round.cut.as_ref()?.earlier()?);
        Some(with(at, Round { cut, ..round.clone() }))
    });
    let less_kept = rounds().flat_map(move |(at, round)| {
        let keys: Vec<_> = round.cut.iter().flat_map(|cut| cut.kept.keys().cloned()).collect();
        keys.into_iter().map(move |key| {
            let mut round = round.clone();
            round.cut.as_mut().and_then(|cut| cut.kept.remove(&key));
            with(at, round)
        })
    });
    fewer_rounds.chain(fewer_operations).chain(nothing_kept).chain(earlier).chain(less_kept)
}
