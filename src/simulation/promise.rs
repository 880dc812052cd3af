//! What is promised of a store, and how an operation that does not keep to it is told.

use std::sync::Arc;

use super::kept::Kept;
use super::model::Snapshot;
use super::operation::NAMES;
use crate::error::Error;
use crate::param_store::ParamStore;

/// A promise of the store that was not kept.
#[derive(Debug, Clone)]
pub(crate) struct Violation(pub(crate) String);

/// What has to be found after a power cut: the committed generation, or that of a commit under way. Nothing committed
/// means that a `create` is under way: no store, or a whole one.
#[derive(Clone, Default)]
pub(super) struct Promise {
    pub(super) committed: Option<Arc<Snapshot>>,
    pub(super) in_flight: Option<Arc<Snapshot>>,
    /// What the generation before the committed one holds.
    pub(super) previous: Option<Arc<Snapshot>>,
    /// What may be found too: while a repair goes back to that one, or while going back to a checkpoint takes two commits.
    pub(super) others: Vec<Arc<Snapshot>>,
    /// What may be found of each checkpoint.
    pub(super) kept: [Kept; NAMES.len()],
}

/// What was promised from an event on.
pub(super) struct Mark {
    pub(super) event: usize,
    pub(super) promise: Promise,
}

/// How an operation ended that did not end well.
pub(super) enum Trouble {
    /// The store said so. That is right if something was made to fail.
    Store(Error),
    Violation(Violation),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

pub(super) fn violation(text: impl Into<String>) -> Trouble {
    Trouble::Violation(Violation(text.into()))
}

pub(super) fn compare(store: &ParamStore, snapshot: &Snapshot, tensors: &[usize]) -> Result<(), Trouble> {
    if store.generation() != snapshot.generation {
        let (got, expected) = (store.generation(), snapshot.generation);
        return Err(violation(format!("generation {got}, expected {expected}")));
    }
    if store.user_record() != snapshot.user {
        return Err(violation(format!("another user record in generation {}", snapshot.generation)));
    }
    match snapshot.model.difference(store, tensors)? {
        Some(difference) => Err(violation(format!("generation {}: {difference}", snapshot.generation))),
        None => Ok(()),
    }
}

impl Promise {
    /// Takes one of the generations that were promised as the one that is there.
    pub(super) fn is_found(&mut self, found: Arc<Snapshot>) {
        let before = self.committed.take();
        self.previous = match &before {
            // A repair was cut off, and tore the superblock of the newest.
            Some(before) if found.generation < before.generation => None,
            Some(before) if found.generation == before.generation => self.previous.take(),
            // A commit that changed nothing came between.
            Some(before) if found.generation == before.generation + 2 => Some(Arc::new(before.again())),
            _ => before,
        };
        (self.committed, self.in_flight) = (Some(found), None);
        self.others.clear();
    }

    /// The committed generation, and that under way.
    pub(super) fn generations(&self) -> (Option<u64>, Option<u64>) {
        let generation = |snapshot: &Option<Arc<Snapshot>>| snapshot.as_ref().map(|s| s.generation);
        (generation(&self.committed), generation(&self.in_flight))
    }
}

impl std::fmt::Display for Promise {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.generations() {
            (Some(committed), Some(next)) => write!(f, "generation {committed} or {next}"),
            (Some(committed), None) => write!(f, "generation {committed}"),
            (None, Some(next)) => write!(f, "no store, or generation {next}"),
            (None, None) => write!(f, "no store"),
        }
    }
}
