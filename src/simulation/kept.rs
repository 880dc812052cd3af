//! What is promised of checkpoints.

use std::sync::Arc;

use super::model::Snapshot;
use super::promise::{Trouble, compare, violation};
use crate::checkpoint::{Checkpoint, CheckpointState};
use crate::options::Options;
use crate::param_store::ParamStore;
use crate::storage::Volume;

/// What stands under the name of a checkpoint.
#[derive(Clone)]
pub(super) enum State {
    /// Nothing.
    Gone,
    /// What an interrupted `keep` or `prune` leaves.
    Left,
    /// A checkpoint that holds this.
    Kept(Arc<Snapshot>),
}

/// All that may be found under a name. More than one while something is under way, or after it was cut off.
#[derive(Clone)]
pub(super) struct Kept(Vec<State>);

impl Default for Kept {
    fn default() -> Self {
        Self(vec![State::Gone])
    }
}

impl Kept {
    /// From here on these may be found too.
    pub(super) fn may_be(&mut self, states: [State; 2]) {
        self.0.extend(states);
        self.0.push(State::Gone);
    }

    /// From here on this is what there is.
    pub(super) fn is(&mut self, state: State) {
        self.0 = vec![state];
    }

    /// Whether nothing but one checkpoint may be found.
    pub(super) fn is_kept(&self) -> bool {
        matches!(self.0[..], [State::Kept(_)])
    }

    /// What a program finds under a name: one of the things that may be, bit for bit.
    pub(super) fn seen(
        &self,
        volume: &Arc<dyn Volume>,
        listed: &[Checkpoint],
        name: &str,
        options: &Options,
    ) -> Result<State, Trouble> {
        let found = listed.iter().find(|checkpoint| checkpoint.name == name);
        let may = |is: &dyn Fn(&State) -> bool| self.0.iter().any(is);
        match found.map(|found| &found.state) {
            None if may(&|state| matches!(state, State::Gone)) => Ok(State::Gone),
            None => Err(violation(format!("checkpoint {name:?} is gone"))),
            Some(CheckpointState::Interrupted) if may(&|state| matches!(state, State::Left)) => {
                Ok(State::Left)
            }
            Some(CheckpointState::Interrupted) => Err(violation(format!("checkpoint {name:?} is in pieces"))),
            Some(CheckpointState::Damaged(why)) => Err(violation(format!("checkpoint {name:?}: {why}"))),
            Some(CheckpointState::Kept { generation, .. }) => {
                let promised = self.0.iter().find_map(|state| match state {
                    State::Kept(snapshot) if snapshot.generation == *generation => Some(snapshot),
                    _ => None,
                });
                let Some(snapshot) = promised else {
                    return Err(violation(format!(
                        "checkpoint {name:?} of generation {generation}, never promised"
                    )));
                };
                let below = volume.subvolume("checkpoints")?.map(|all| all.subvolume(name)).transpose()?;
                let below = below.flatten().ok_or_else(|| violation("a checkpoint without a directory"))?;
                let reader = ParamStore::open_read_only_in(below, options)?;
                compare(&reader, snapshot, &(0..snapshot.model.tensors.len()).collect::<Vec<_>>())?;
                Ok(State::Kept(Arc::clone(snapshot)))
            }
        }
    }
}
