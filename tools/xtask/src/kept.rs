//! The checkpoints of a training that is interrupted: when it keeps them, goes back and prunes, and what may be found of
//! them afterwards.

use std::path::Path;

use paramstore::ParamStore;
use paramstore::checkpoint::{CheckpointState, list};

use crate::promise::{check_blocks, check_content};
use crate::training::{Reference, Training, options};
use crate::worker::Said;

/// Their names.
const NAMES: [&str; 2] = ["a", "b"];
/// The steps whose commits are kept under these names.
const KEPT_AT: [u64; 2] = [6, 9];
/// The step at which a training goes back to one of them, which it prunes then, so that it does not come back for ever.
const BACK_AT: u64 = 15;
/// The step at which it prunes what is left.
const PRUNED_AT: u64 = 21;

/// What a training does with its checkpoints behind a commit.
///
/// # Errors
/// Those of the store, as sentences.
pub(crate) fn after_commit(training: &mut Training, mut say: impl FnMut(&Said)) -> Result<(), String> {
    let text = |error: paramstore::Error| error.to_string();
    let step = training.step();
    for (name, _) in (0..).zip(NAMES).filter(|(name, _)| KEPT_AT.get(*name) == Some(&step)) {
        say(&Said::Keeping(name, step));
        match training.store_mut().keep(NAMES[name]) {
            // The training was here before it went back.
            Ok(_) | Err(paramstore::Error::AlreadyExists { .. }) => say(&Said::Kept(name, step)),
            Err(error) => return Err(text(error)),
        }
    }
    if step == BACK_AT {
        let name = usize::from(!training.number().is_multiple_of(2));
        let all = training.store_mut().checkpoints().map_err(text)?;
        let kept = all.iter().find(|checkpoint| checkpoint.name == NAMES[name]);
        if let Some(CheckpointState::Kept { step, .. }) = kept.map(|kept| &kept.state) {
            say(&Said::Returning(*step));
            training.roll_back_to(NAMES[name])?;
            say(&Said::Returned(training.step()));
            prune(training, name, &mut say)?;
        }
    }
    if step == PRUNED_AT {
        let all = training.store_mut().checkpoints().map_err(text)?;
        for name in (0..NAMES.len()).filter(|&name| all.iter().any(|found| found.name == NAMES[name])) {
            prune(training, name, &mut say)?;
        }
    }
    Ok(())
}

fn prune(training: &mut Training, name: usize, say: &mut impl FnMut(&Said)) -> Result<(), String> {
    say(&Said::Pruning(name));
    training.store_mut().prune(NAMES[name]).map_err(|error| error.to_string())?;
    say(&Said::Pruned(name));
    Ok(())
}

/// What there is under a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Gone,
    /// What is no checkpoint and says so.
    Left,
    /// A whole checkpoint of this step.
    Kept(u64),
}

/// What may be found under each name: one thing, or several while a `keep` or `prune` is under way.
#[derive(Debug)]
pub(crate) struct KeptPromise([Vec<State>; NAMES.len()]);

/// How many checkpoints were looked at.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct KeptTally {
    /// Whole ones, with the bits of their step.
    pub(crate) whole: u64,
    /// Of those where a `keep` or `prune` was cut off: whole, left in pieces that say so, not there.
    pub(crate) cut_off: [u64; 3],
}

impl KeptTally {
    pub(crate) fn add(&mut self, other: Self) {
        self.whole += other.whole;
        self.cut_off.iter_mut().zip(other.cut_off).for_each(|(sum, more)| *sum += more);
    }
}

impl KeptPromise {
    pub(crate) fn new() -> Self {
        Self(std::array::from_fn(|_| vec![State::Gone]))
    }

    /// Takes note of what a worker said.
    pub(crate) fn hear(&mut self, said: &Said) {
        let (name, more, is_certain) = match *said {
            Said::Keeping(name, step) => (name, vec![State::Left, State::Gone, State::Kept(step)], false),
            Said::Pruning(name) => (name, vec![State::Left, State::Gone], false),
            Said::Kept(name, step) => (name, vec![State::Kept(step)], true),
            Said::Pruned(name) => (name, vec![State::Gone], true),
            _ => return,
        };
        let Some(may_be) = self.0.get_mut(name) else { return };
        // What is there for certain is refused to be made again, and stays.
        let stays = matches!((said, &may_be[..]), (Said::Keeping(..), [State::Kept(_)]));
        if is_certain {
            *may_be = more;
        } else if !stays {
            may_be.extend(more);
        }
    }

    /// Looks at the checkpoints of a store; what is seen is certain from then on if `settles`.
    ///
    /// # Errors
    /// A sentence, where a promise was broken.
    pub(crate) fn look(
        &mut self,
        path: &Path,
        number: u64,
        reference: &Reference,
        (settles, verifies): (bool, bool),
    ) -> Result<KeptTally, String> {
        let mut tally = KeptTally::default();
        let all = list(path).map_err(|error| format!("checkpoints of store {number}: {error}"))?;
        if let Some(other) = all.iter().find(|found| !NAMES.contains(&found.name.as_str())) {
            return Err(format!("store {number} has a checkpoint {:?}, which nobody made", other.name));
        }
        for (name, may_be) in NAMES.into_iter().zip(&mut self.0) {
            let found = match all.iter().find(|found| found.name == name).map(|found| &found.state) {
                None => State::Gone,
                Some(CheckpointState::Kept { step, .. }) => State::Kept(*step),
                Some(CheckpointState::Interrupted) => State::Left,
                Some(other) => return Err(format!("store {number}, checkpoint {name}: {other:?}")),
            };
            if !may_be.contains(&found) {
                return Err(format!(
                    "store {number}, checkpoint {name}: {found:?}; promised: one of {may_be:?}"
                ));
            }
            if let State::Kept(step) = found {
                let path = path.join("checkpoints").join(name);
                let what = format!("checkpoint {name} of store {number}");
                let kept = ParamStore::open_read_only(&path, &options(number));
                let kept = kept.map_err(|error| format!("{what}: {error}"))?;
                if kept.step() != step {
                    return Err(format!("{what}: step {} is read, and {step} was told", kept.step()));
                }
                check_content(&kept, number, &what, reference)?;
                drop(kept);
                if verifies {
                    check_blocks(&path, &what)?;
                }
                tally.whole += 1;
            }
            if may_be.len() > 1 {
                let at = match found {
                    State::Kept(_) => 0,
                    State::Left => 1,
                    State::Gone => 2,
                };
                tally.cut_off[at] += 1;
            }
            if settles {
                *may_be = vec![found];
            }
        }
        Ok(tally)
    }
}
