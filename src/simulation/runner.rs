//! Runs operations on a store on the simulated disk, and keeps account of what is promised.

use std::sync::Arc;

use super::model::{Model, Snapshot, first_difference, gradient};
use super::operation::{Fault, Operation, user_record};
use super::plane::Plane;
use super::profile::{PATH, Profile};
use super::promise::{Mark, Promise, Trouble, Violation, compare, violation};
use crate::error::{Error, Result};
use crate::param_store::ParamStore;
use crate::step::Step;
use crate::storage::fault::{FaultVolume, Lasting};
use crate::storage::sim::{Disk, Event, Image, SimVolume};
use crate::storage::{Barrier, Volume};

/// A program and its store between two losses of power.
pub(super) struct Runner<'p> {
    pub(super) profile: &'p Profile,
    disk: Disk,
    sim: SimVolume,
    volume: FaultVolume,
    store: Option<ParamStore>,
    reader: Option<(ParamStore, Arc<Snapshot>)>,
    pub(super) model: Model,
    pub(super) promise: Promise,
    marks: Vec<Mark>,
    /// Failures on demand before the one that is armed.
    failures: usize,
    /// Where in the events each operation began; the first is the opening.
    starts: Vec<usize>,
    /// What was made to fail.
    armed: Option<Fault>,
    /// Whether every note of a finished step has come to the disk since the store was opened: a failed write of it is
    /// not told.
    is_noted: bool,
    /// Steps that the next opening should say were lost, where the note of them is known to be there.
    noted: Option<u64>,
    /// Whether there was a first opening, and the generation that it found, if a store was there.
    is_begun: bool,
    found: Option<u64>,
    /// Whether what is there of checkpoints is what a loss of power left, and nobody has looked yet.
    is_found: bool,
}

impl<'p> Runner<'p> {
    /// Begins on an empty disk, or on what a power cut left.
    pub(super) fn new(
        profile: &'p Profile,
        image: Option<&Image>,
        promise: Promise,
        left_out: Option<Barrier>,
    ) -> Result<Self> {
        let sim = match image {
            _ if profile.can_share => SimVolume::sharing(PATH, image)?,
            Some(image) => SimVolume::from_image(PATH, image)?,
            None => SimVolume::new(PATH),
        };
        sim.leave_out(left_out);
        Ok(Self {
            profile,
            disk: Disk::new(image),
            volume: FaultVolume::new(sim.clone()),
            sim,
            store: None,
            reader: None,
            model: profile.initial.clone(),
            marks: vec![Mark { event: 0, promise: promise.clone() }],
            promise,
            failures: 0,
            starts: Vec::new(),
            armed: None,
            is_noted: false,
            noted: None,
            is_begun: false,
            found: None,
            is_found: true,
        })
    }

    /// Opens or creates the store, runs a script, and at the end commits and compares everything.
    pub(super) fn run(&mut self, script: &[Operation]) -> Result<(), Violation> {
        self.starts.push(self.sim.event_count());
        if !matches!(script.first(), Some(Operation::Fault { .. })) {
            self.ensure_open()?;
        }
        for &operation in script {
            self.starts.push(self.sim.event_count());
            self.perform(operation)?;
        }
        self.starts.push(self.sim.event_count());
        self.heal();
        self.perform(Operation::Commit { user: 1 })?;
        self.perform(Operation::Reopen)?;
        self.ensure_open()?;
        Ok(())
    }

    /// The disk as it was when nothing had happened yet.
    pub(super) fn disk(&self) -> Disk {
        self.disk.clone()
    }

    pub(super) fn events(&self) -> Vec<Event> {
        self.sim.events()
    }

    pub(super) fn starts(&self) -> &[usize] {
        &self.starts
    }

    /// What is promised after so many events.
    pub(super) fn promise_at(&self, event: usize) -> Promise {
        let after = self.marks.partition_point(|mark| mark.event <= event);
        self.marks.get(after.saturating_sub(1)).map(|mark| mark.promise.clone()).unwrap_or_default()
    }

    /// The generation that was found at first, if a store was.
    pub(super) fn found(&self) -> Option<u64> {
        self.found
    }

    fn begin(&mut self, found: Option<u64>) {
        if !self.is_begun {
            (self.is_begun, self.found) = (true, found);
        }
    }

    pub(super) fn mark(&mut self) {
        self.marks.push(Mark { event: self.sim.event_count(), promise: self.promise.clone() });
    }

    fn perform(&mut self, operation: Operation) -> Result<(), Violation> {
        if let Operation::Fault { fault, after } = operation {
            self.arm(fault, usize::from(after));
            return Ok(());
        }
        self.ensure_open()?;
        match self.attempt(operation) {
            Ok(()) => Ok(()),
            Err(Trouble::Violation(violation)) => Err(violation),
            Err(Trouble::Store(error)) => self.bear(&format!("{operation:?}"), &error),
        }
    }

    fn arm(&mut self, fault: Fault, after: usize) {
        self.heal();
        self.armed = Some(fault);
        self.is_noted = false;
        let at = self.volume.operation_count() + after;
        match fault {
            Fault::Once => self.volume.fail_at(at, std::io::ErrorKind::Other, Lasting::Once),
            Fault::Kill => self.volume.fail_at(at, std::io::ErrorKind::Other, Lasting::FromThenOn),
            Fault::LostSync => self.sim.fail_sync(Some(after)),
        }
    }

    fn heal(&mut self) {
        if self.armed == Some(Fault::Kill) && self.volume.failures() > self.failures {
            // Nothing needed the disk since the program died.
            self.close();
        }
        self.failures = self.volume.failures();
        self.volume.heal();
        self.sim.fail_sync(None);
        self.armed = None;
    }

    /// Takes an error for what was made to fail, or for a broken promise.
    fn bear(&mut self, action: &str, error: &Error) -> Result<(), Violation> {
        if self.armed.is_none() {
            return Err(Violation(format!("{action}: {error}")));
        }
        if matches!(error, Error::Damaged(_) | Error::Unsupported { .. } | Error::AlreadyExists { .. }) {
            return Err(Violation(format!("{action}, after a fault: {error}")));
        }
        self.close();
        self.heal();
        Ok(())
    }

    pub(super) fn close(&mut self) {
        self.reader = None;
        self.store = None;
        self.noted = None;
    }

    pub(super) fn volume(&self) -> Arc<dyn Volume> {
        Arc::new(self.volume.clone())
    }

    fn ensure_open(&mut self) -> Result<(), Violation> {
        while self.store.is_none() {
            match self.open_or_create() {
                Ok(()) => {}
                Err(Trouble::Violation(violation)) => return Err(violation),
                Err(Trouble::Store(error)) => self.bear("open", &error)?,
            }
        }
        Ok(())
    }

    fn open_or_create(&mut self) -> Result<(), Trouble> {
        let store = match ParamStore::open_in(self.volume(), &self.profile.options) {
            Err(Error::NotAStore { .. }) if self.promise.committed.is_none() => return self.create(),
            other => other?,
        };
        let generation = store.generation();
        // What is on the disk is compared whole; later, what the program can have changed.
        let compared = if self.is_begun { self.profile.active.clone() } else { self.all() };
        self.begin(Some(generation));
        let found = self.promised(&store, &compared)?;
        let lost = store.recovery().lost_steps;
        // A note that cannot be read is as good as none.
        if let Some(noted) = self.noted.take()
            && self.armed.is_none()
            && noted != lost
        {
            return Err(violation(format!("{lost} steps are said to be lost, and it was {noted}")));
        }
        if self.is_found {
            self.compare_kept(&store)?;
            self.is_found = false;
        }
        self.model = found.model.clone();
        self.promise.is_found(found);
        self.is_noted = self.armed.is_none();
        self.store = Some(store);
        self.mark();
        Ok(())
    }

    /// Which of the generations that may be there this is, bit for bit.
    fn promised(&self, store: &ParamStore, compared: &[usize]) -> Result<Arc<Snapshot>, Trouble> {
        let generation = store.generation();
        let Promise { committed, in_flight, others, .. } = &self.promise;
        let promised = committed.iter().chain(in_flight).chain(others);
        let mut trouble =
            violation(format!("generation {generation} was opened; promised: {}", self.promise));
        for snapshot in promised.filter(|snapshot| snapshot.generation == generation) {
            match compare(store, snapshot, compared) {
                Ok(()) => return Ok(Arc::clone(snapshot)),
                // A read that fails says nothing about what is there.
                Err(failed @ Trouble::Store(_)) => return Err(failed),
                Err(other) => trouble = other,
            }
        }
        Err(trouble)
    }

    fn create(&mut self) -> Result<(), Trouble> {
        self.begin(None);
        let model = self.profile.initial.clone();
        let first = Arc::new(Snapshot { generation: 1, model, user: Vec::new() });
        self.is_found = false;
        self.promise = Promise { in_flight: Some(Arc::clone(&first)), ..Promise::default() };
        self.mark();
        let store = ParamStore::create_in(self.volume(), &self.profile.schema, &self.profile.options)?;
        compare(&store, &first, &self.all())?;
        self.model = first.model.clone();
        (self.promise.committed, self.promise.in_flight) = (Some(first), None);
        self.is_noted = self.armed.is_none();
        self.store = Some(store);
        self.mark();
        Ok(())
    }

    fn all(&self) -> Vec<usize> {
        (0..self.profile.initial.tensors.len()).collect()
    }

    fn active(&self, number: u8) -> usize {
        let active = &self.profile.active;
        active.get(usize::from(number) % active.len().max(1)).copied().unwrap_or(0)
    }

    fn attempt(&mut self, operation: Operation) -> Result<(), Trouble> {
        let Some(mut store) = self.store.take() else { return Ok(()) };
        if operation == Operation::DropNewest {
            drop(store);
            return self.drop_newest();
        }
        let result = self.attempt_on(&mut store, operation);
        if !matches!(operation, Operation::Reopen) {
            self.store = Some(store);
        }
        result
    }

    fn attempt_on(&mut self, store: &mut ParamStore, operation: Operation) -> Result<(), Trouble> {
        match operation {
            Operation::Step { tensors, staged, salt } => self.step(store, tensors, staged, salt)?,
            Operation::Write { tensor, salt } => {
                let tensor = self.active(tensor);
                self.write(store, tensor, salt)?;
            }
            Operation::Rate { group, rate } => {
                let count = self.model.groups.len().max(1);
                if let Some(group) = self.model.groups.get_mut(usize::from(group) % count) {
                    let rate = f64::from(rate + 1) / 64.0;
                    store.group_mut(group.name())?.set_lr(rate)?;
                    group.set_lr(rate)?;
                }
            }
            Operation::Commit { user } => self.commit(store, user)?,
            Operation::Rollback => {
                store.rollback()?;
                self.back();
            }
            Operation::Abandon => {
                let mut step = store.begin_step()?;
                let trained = self.profile.active.iter().copied().filter(|&at| !self.model.is_frozen(at));
                let tensors: Vec<_> = trained.take(2).collect();
                let mut forgotten = self.model.clone();
                for tensor in tensors {
                    if forgotten.is_of_rows(tensor) {
                        forgotten.apply_rows(&mut step, tensor, (5, 0))?;
                    } else {
                        let gradient = gradient(tensor, forgotten.elements(tensor), 5, 0);
                        step.apply(forgotten.name(tensor), &gradient)?;
                    }
                }
                drop(step);
                store.rollback()?;
                self.back();
            }
            Operation::View { tensor } => {
                let tensor = self.active(tensor);
                if self.model.is_of_rows(tensor) {
                    return self.gather(store, tensor, 0);
                }
                self.view(store, tensor)?;
            }
            Operation::Rows { tensors, salt } => self.step_on_rows(store, tensors, salt)?,
            Operation::Gather { tensor, salt } => {
                if let Some(tensor) = self.profile.table(tensor) {
                    self.gather(store, tensor, salt)?;
                }
            }
            Operation::WriteRows { tensor, salt } => self.write_rows(store, tensor, salt)?,
            Operation::Keep { name } => self.keep(store, name)?,
            Operation::RollbackTo { name } => self.roll_back_to(store, name)?,
            Operation::Prune { name } => self.prune(store, name)?,
            Operation::Read => drop(self.read()?),
            Operation::Hold => self.reader = self.read()?,
            Operation::Reopen => {
                let lost = self.model.step - self.promise.committed.as_ref().map_or(0, |s| s.model.step);
                self.noted = self.is_noted.then_some(lost);
                self.reader = None;
            }
            Operation::DropNewest | Operation::Fault { .. } => {}
        }
        Ok(())
    }

    fn view(&self, store: &ParamStore, tensor: usize) -> Result<(), Trouble> {
        let name = self.model.name(tensor);
        let view = store.view(name)?;
        if let Some(at) = first_difference(&view, &self.model.params(tensor)) {
            return Err(violation(format!("view of {name:?}, element {at}")));
        }
        drop(view);
        let expected = self.model.half(tensor);
        if let Some(expected) = expected.as_ref().and_then(Plane::half_bits)
            && store.view_half(name)?[..] != *expected
        {
            return Err(violation(format!("view of {name:?} in 16 bits")));
        }
        Ok(())
    }

    /// Sets a tensor's parameters; those of a frozen one only before the first commit.
    fn write(&mut self, store: &mut ParamStore, tensor: usize, salt: u8) -> Result<(), Trouble> {
        let values = gradient(tensor, self.model.elements(tensor), 77, salt);
        let name = self.model.name(tensor);
        if self.model.is_frozen(tensor) && store.generation() > 1 {
            return match store.write(name, &values) {
                Err(Error::Invalid { .. }) => Ok(()),
                Err(error) => Err(error.into()),
                Ok(()) => Err(violation(format!("{name:?} is frozen, and was written"))),
            };
        }
        store.write(name, &values)?;
        self.model.write(tensor, &values);
        Ok(())
    }

    fn step(&mut self, store: &mut ParamStore, tensors: u8, staged: u8, salt: u8) -> Result<()> {
        let now = self.model.step;
        let mut model = self.model.clone();
        let mut step = store.begin_step()?;
        for (bit, &tensor) in
            self.profile.active.iter().enumerate().filter(|(bit, _)| tensors >> (bit % 8) & 1 == 1)
        {
            if model.is_frozen(tensor) {
                continue;
            }
            if model.is_of_rows(tensor) {
                model.apply_rows(&mut step, tensor, (now, salt))?;
                continue;
            }
            let elements = model.elements(tensor);
            let mut values = gradient(tensor, elements, now, salt);
            if staged >> (bit % 8) & 1 == 1 {
                let other = gradient(tensor, elements, now, salt + 7);
                accumulate(&mut step, model.name(tensor), [&values, &other])?;
                values.iter_mut().zip(other).for_each(|(a, b)| *a = 0.5 * *a + 0.5 * b);
            } else {
                step.apply(model.name(tensor), &values)?;
            }
            model.update(tensor, &values)?;
        }
        step.finish()?;
        model.step += 1;
        self.model = model;
        Ok(())
    }

    fn commit(&mut self, store: &mut ParamStore, user: u8) -> Result<(), Trouble> {
        let frozen = self.profile.active.iter().copied().filter(|&at| self.model.is_frozen(at));
        for tensor in frozen.filter(|_| store.generation() == 1).collect::<Vec<_>>() {
            self.write(store, tensor, user)?;
        }
        let before = self.promise.committed.clone();
        let generation = before.as_ref().map_or(0, |snapshot| snapshot.generation) + 1;
        let user = match before {
            Some(before) if user == 0 => before.user.clone(),
            _ => user_record(user, generation),
        };
        let next = Arc::new(Snapshot { generation, model: self.model.clone(), user });
        self.promise.in_flight = Some(Arc::clone(&next));
        self.mark();
        let report = store.commit(&next.user)?;
        if report.generation != generation {
            return Err(violation(format!(
                "generation {} committed, expected {generation}",
                report.generation
            )));
        }
        self.committed(next)
    }

    /// A commit has ended well.
    pub(super) fn committed(&mut self, next: Arc<Snapshot>) -> Result<(), Trouble> {
        let before = self.promise.committed.replace(next);
        (self.promise.previous, self.promise.in_flight) = (before, None);
        self.mark();
        if let Some((reader, snapshot)) = self.reader.take() {
            compare(&reader, &snapshot, &self.profile.active)?;
        }
        Ok(())
    }

    fn back(&mut self) {
        if let Some(committed) = &self.promise.committed {
            self.model = committed.model.clone();
        }
    }

    /// Opens a reader and compares what it sees.
    fn read(&self) -> Result<Option<(ParamStore, Arc<Snapshot>)>, Trouble> {
        let Some(committed) = &self.promise.committed else { return Ok(None) };
        let reader = ParamStore::open_read_only_in(self.volume(), &self.profile.options)?;
        compare(&reader, committed, &self.profile.active)?;
        Ok(Some((reader, Arc::clone(committed))))
    }
}

/// Gives a gradient in two halves.
fn accumulate(step: &mut Step<'_>, name: &str, halves: [&[f32]; 2]) -> Result<()> {
    halves.iter().try_for_each(|half| step.accumulate(name, half, 0.5))
}
