//! Keeping, going back, pruning, and the repair that goes back by one generation.

use std::sync::Arc;

use super::kept::{Kept, State};
use super::model::Snapshot;
use super::operation::name_of;
use super::promise::{Promise, Trouble, compare};
use super::runner::Runner;
use crate::error::Error;
use crate::inspect::VerifyOptions;
use crate::param_store::ParamStore;
use crate::repair::Repair;

impl Runner<'_> {
    /// What may be found of a checkpoint.
    fn kept(&mut self, number: u8) -> &mut Kept {
        &mut self.promise.kept[usize::from(number & 1)]
    }

    pub(super) fn keep(&mut self, store: &mut ParamStore, number: u8) -> Result<(), Trouble> {
        let Some(committed) = self.promise.committed.clone() else { return Ok(()) };
        // What is there for certain is refused, and stays there for certain.
        if !self.kept(number).is_kept() {
            self.kept(number).may_be([State::Left, State::Kept(committed.clone())]);
            self.mark();
        }
        let now = match store.keep(name_of(number)) {
            Ok(_) => State::Kept(committed),
            // Then it is there, and stays.
            Err(Error::AlreadyExists { .. }) => self.seen(store, number)?,
            Err(error) => return Err(error.into()),
        };
        self.kept(number).is(now);
        self.mark();
        Ok(())
    }

    pub(super) fn prune(&mut self, store: &mut ParamStore, number: u8) -> Result<(), Trouble> {
        self.kept(number).may_be([State::Left, State::Gone]);
        self.mark();
        match store.prune(name_of(number)) {
            Ok(_) => self.kept(number).is(State::Gone),
            // What is not there was never promised to stay away.
            Err(Error::Unknown { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        self.mark();
        Ok(())
    }

    pub(super) fn roll_back_to(&mut self, store: &mut ParamStore, number: u8) -> Result<(), Trouble> {
        let State::Kept(kept) = self.seen(store, number)? else { return Ok(()) };
        let Some(before) = self.promise.committed.clone() else { return Ok(()) };
        let back = |generation| {
            Arc::new(Snapshot { generation, model: kept.model.clone(), user: kept.user.clone() })
        };
        let mut next = back(before.generation + 1);
        self.promise.in_flight = Some(Arc::clone(&next));
        if self.profile.has_rows() {
            // The log of rows may have to be emptied first, by a commit that changes nothing.
            let again = Arc::new(before.again());
            self.promise.others = vec![Arc::clone(&again), back(before.generation + 2)];
        }
        self.mark();
        store.roll_back_to(name_of(number))?;
        if self.profile.has_rows() && store.generation() == before.generation + 2 {
            self.promise.committed = Some(Arc::new(before.again()));
            next = back(before.generation + 2);
        }
        self.promise.others.clear();
        self.model = next.model.clone();
        compare(store, &next, &self.profile.active)?;
        self.committed(next)
    }

    /// What a program sees of a checkpoint; it has to be one of the things that may be.
    fn seen(&self, store: &ParamStore, number: u8) -> Result<State, Trouble> {
        let kept = &self.promise.kept[usize::from(number & 1)];
        kept.seen(&self.volume(), &store.checkpoints()?, name_of(number), &self.profile.options)
    }

    /// What is found of the checkpoints after a loss of power is durable, whatever it is.
    pub(super) fn compare_kept(&mut self, store: &ParamStore) -> Result<(), Trouble> {
        for number in [0, 1] {
            let state = self.seen(store, number)?;
            self.kept(number).is(state);
        }
        Ok(())
    }

    /// Back by one generation, whether the newest is damaged or not.
    pub(super) fn drop_newest(&mut self) -> Result<(), Trouble> {
        self.close();
        let Promise { committed: Some(newest), previous: Some(previous), .. } = self.promise.clone() else {
            return Ok(());
        };
        let repair = Repair::open_in(self.volume())?;
        let next = Snapshot {
            generation: newest.generation,
            model: previous.model.clone(),
            user: previous.user.clone(),
        };
        let next = Arc::new(next);
        self.promise.others = vec![Arc::clone(&next), previous];
        self.mark();
        match repair.drop_newest(&VerifyOptions::new().in_place()) {
            Ok(_) => self.promise.committed = Some(next),
            // Steps after the last commit have taken the place of its blocks.
            Err(Error::Invalid { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        self.promise.others.clear();
        self.mark();
        Ok(())
    }
}
