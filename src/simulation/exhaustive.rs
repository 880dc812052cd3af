//! Every loss of power in a short script.

use super::explore::{Broken, Explorer, random_picks};
use super::operation::Operation;
use super::rng::Rng;
use super::schedule::Round;
use crate::storage::sim::{Item, Picks};

impl Explorer<'_> {
    /// A given script, cut after each of its events, or every so many, with a choice of what is found that is all there is where that is
    /// little; `then` is what the program does afterwards.
    pub(super) fn every_point(
        &mut self,
        script: &[Operation],
        then: &[Operation],
        every: usize,
        rng: &mut Rng,
    ) -> Result<(), Box<Broken>> {
        let run = self.record(script)?;
        let events = run.events();
        let mut disk = run.disk();
        for event in 0..=events.len() {
            if let Some(last) = event.checked_sub(1).and_then(|last| events.get(last)) {
                disk.apply(last);
            }
            if !event.is_multiple_of(every) {
                continue;
            }
            self.summary.points += 1;
            for picks in systematic(&disk.unsynced(), rng) {
                let mut path = vec![Round { script: script.to_vec(), cut: None }];
                self.cut(&mut path, &run, (event, &disk), &picks, then)?;
            }
        }
        Ok(())
    }
}

/// Up to so many things, every subset is tried.
const ALL_SUBSETS_OF: usize = 6;

/// Every subset of a few things; of many: none, all, each alone, each missing. And some torn ones.
fn systematic(items: &[Item], rng: &mut Rng) -> Vec<Picks> {
    let decided: Vec<usize> = (0..items.len()).filter(|&at| items[at].newest > 0).collect();
    let with = |is_kept: &dyn Fn(usize) -> bool| -> Picks {
        let mut picks = vec![0; items.len()];
        for (_, &at) in decided.iter().enumerate().filter(|(number, _)| is_kept(*number)) {
            picks[at] = items[at].newest;
        }
        picks
    };
    let mut all = Vec::new();
    if decided.len() <= ALL_SUBSETS_OF {
        all.extend((0..1_usize << decided.len()).map(|subset| with(&|number| subset >> number & 1 == 1)));
    } else {
        all.extend([with(&|_| false), with(&|_| true)]);
        for one in 0..decided.len() {
            all.push(with(&|number| number == one));
            all.push(with(&|number| number != one));
        }
    }
    if !items.is_empty() {
        all.extend((0..4).map(|_| random_picks(items, rng)));
    }
    all
}
