//! Leases: the right to touch blocks now.

use std::sync::Arc;

use super::frames::{Frame, Ready};
use super::wait::{Attempt, Stall, Waiter};
use super::{Key, Pager, State};
use crate::error::{Error, Result};
use crate::storage::Buffer;
use crate::units::to_u64;

/// Planes of blocks that nobody else can touch before this is released or dropped.
pub(crate) struct Lease<'p> {
    pager: &'p Pager,
    keys: Vec<Key>,
    buffers: Vec<Buffer>,
}

impl Lease<'_> {
    /// The memory of each key, at least as long as the plane's bytes.
    pub(crate) fn buffers(&mut self) -> &mut [Buffer] {
        &mut self.buffers
    }

    /// Gives everything back; `is_changed` says which of the planes, by their place in the lease, were changed.
    pub(crate) fn release(mut self, is_changed: impl Fn(usize) -> bool) -> Result<()> {
        self.give_back(is_changed)
    }

    /// Every buffer goes back, whatever becomes of the others.
    fn give_back(&mut self, is_changed: impl Fn(usize) -> bool) -> Result<()> {
        let mut state = self.pager.lock();
        let mut result = Ok(());
        for (at, (key, buffer)) in self.keys.drain(..).zip(self.buffers.drain(..)).enumerate() {
            let released = state.release(key, buffer, is_changed(at));
            result = result.and(released);
        }
        result = result.and_then(|()| state.drain());
        state.read_planned();
        self.pager.notify();
        result
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if !self.keys.is_empty() {
            // Only on the way out of an error or a panic, which is what will be told.
            drop(self.give_back(|_| false));
        }
    }
}

/// Keys that a thread waits for: nobody takes their frames away meanwhile.
struct Wanted<'p, 'k> {
    pager: &'p Pager,
    keys: &'k [Key],
}

impl<'p, 'k> Wanted<'p, 'k> {
    fn new(pager: &'p Pager, keys: &'k [Key]) -> Self {
        pager.lock().wanted.extend_from_slice(keys);
        Self { pager, keys }
    }
}

impl Drop for Wanted<'_, '_> {
    fn drop(&mut self) {
        let mut state = self.pager.lock();
        for key in self.keys {
            if let Some(at) = state.wanted.iter().position(|wanted| wanted == key) {
                state.wanted.swap_remove(at);
            }
        }
    }
}

impl Pager {
    /// Leases distinct `keys`, read if they were not near.
    pub(crate) fn lease(&self, keys: &[Key], waiter: Waiter) -> Result<Lease<'_>> {
        self.lease_with_blank(keys, None, waiter)
    }

    /// As [`lease`](Self::lease), where one of the keys, by its place, will be overwritten whole: nothing is read for it.
    pub(crate) fn lease_with_blank(
        &self,
        keys: &[Key],
        blank: Option<usize>,
        waiter: Waiter,
    ) -> Result<Lease<'_>> {
        let wanted = Wanted::new(self, keys);
        let buffers = self.until(waiter, |state, stuck| state.try_lease(keys, blank, stuck))?;
        drop(wanted);
        Ok(Lease { pager: self, keys: keys.to_vec(), buffers })
    }

    /// Leases distinct `keys` if all of them are in memory and nobody has one: at once or not at all.
    pub(crate) fn lease_near(&self, keys: &[Key]) -> Result<Option<Lease<'_>>> {
        let mut state = self.lock();
        if !keys.iter().all(|&key| state.is_near(key)) {
            return Ok(None);
        }
        match state.try_lease(keys, None, false)? {
            Attempt::Done(buffers) => Ok(Some(Lease { pager: self, keys: keys.to_vec(), buffers })),
            Attempt::Wait(_) => Ok(None),
        }
    }

    /// Leases a key that will be overwritten whole: nothing is read.
    pub(crate) fn lease_blank(&self, key: Key) -> Result<Lease<'_>> {
        let keys = [key];
        let wanted = Wanted::new(self, &keys);
        let buffer = self.until(Waiter::Caller, |state, stuck| state.try_lease_blank(key, stuck))?;
        drop(wanted);
        Ok(Lease { pager: self, keys: vec![key], buffers: vec![buffer] })
    }
}

impl State {
    fn try_lease(&mut self, keys: &[Key], blank: Option<usize>, stuck: bool) -> Result<Attempt<Vec<Buffer>>> {
        self.store.check_sound()?;
        for &key in keys {
            if let Some(error) = self.failed.remove(&key) {
                return Err(error);
            }
        }
        let mut wait = None;
        for (at, &key) in keys.iter().enumerate() {
            if blank == Some(at) && self.frames.get(key).is_none() {
                continue;
            }
            if let Attempt::Wait(stall) = self.try_near(key, stuck)? {
                wait.get_or_insert(stall);
            }
        }
        if let Some(stall) = wait {
            return Ok(Attempt::Wait(stall));
        }
        // Last, so that nobody ever finds a frame that holds nothing yet.
        let fresh = blank.and_then(|at| keys.get(at)).filter(|&&key| self.frames.get(key).is_none());
        let mut fresh = match fresh.map(|&key| Ok((key, self.try_frame(key, stuck)?))).transpose()? {
            None => None,
            Some((key, Attempt::Done(buffer))) => Some((key, buffer)),
            Some((_, Attempt::Wait(stall))) => return Ok(Attempt::Wait(stall)),
        };
        let mut leased = Vec::with_capacity(keys.len());
        for &key in keys {
            if let Some((_, buffer)) = fresh.take_if(|(fresh, _)| *fresh == key) {
                self.follower.note(key);
                self.set(key, Frame::Leased { dirty: false });
                leased.push(buffer);
            } else if let Some(buffer) = self.take_ready(key) {
                leased.push(buffer);
            }
        }
        if leased.len() == keys.len() {
            return Ok(Attempt::Done(leased));
        }
        Err(Error::invalid("lease", format!("{keys:?}"), "distinct blocks"))
    }

    /// Makes sure that a frame is near or on its way, whatever has to go for it.
    fn try_near(&mut self, key: Key, stuck: bool) -> Result<Attempt<()>> {
        match self.frames.get(key) {
            Some(Frame::Ready { .. }) => return Ok(Attempt::Done(())),
            Some(Frame::Writing { .. }) => self.frames.keep_after_write(key),
            Some(Frame::Reading { .. } | Frame::Leased { .. }) => {}
            None => match self.try_frame(key, stuck)? {
                Attempt::Done(buffer) => self.start_read(key, buffer)?,
                Attempt::Wait(stall) => return Ok(Attempt::Wait(stall)),
            },
        }
        if stuck && matches!(self.frames.get(key), Some(Frame::Leased { .. })) {
            return Err(Error::invalid("lease", format!("{key:?}"), "a block that nobody has leased"));
        }
        Ok(Attempt::Wait(Stall::Read))
    }

    fn take_ready(&mut self, key: Key) -> Option<Buffer> {
        let Ready { buffer, dirty, used } = self.frames.take_ready(key)?;
        self.stats.blocks_hit += u64::from(used);
        self.follower.note(key);
        self.set(key, Frame::Leased { dirty });
        Some(buffer)
    }

    fn try_lease_blank(&mut self, key: Key, stuck: bool) -> Result<Attempt<Buffer>> {
        self.store.check_sound()?;
        self.failed.remove(&key);
        let buffer = match (self.frames.take_ready(key), self.frames.get(key)) {
            (Some(ready), _) => ready.buffer,
            (None, None) => match self.try_frame(key, stuck)? {
                Attempt::Done(buffer) => buffer,
                Attempt::Wait(stall) => return Ok(Attempt::Wait(stall)),
            },
            (None, Some(_)) if stuck => {
                return Err(Error::invalid("lease", format!("{key:?}"), "a block that nobody has leased"));
            }
            (None, Some(_)) => return Ok(Attempt::Wait(Stall::Write)),
        };
        self.follower.note(key);
        self.set(key, Frame::Leased { dirty: false });
        Ok(Attempt::Done(buffer))
    }

    /// Takes a frame back. A changed frame is written behind when the hot ones take too much memory, or when a commit
    /// will need it and nothing is left to be done to it; others stay hot.
    fn release(&mut self, key: Key, buffer: Buffer, changed: bool) -> Result<()> {
        let was_dirty = matches!(self.frames.get(key), Some(Frame::Leased { dirty: true }));
        let dirty = changed || was_dirty;
        self.set(key, Frame::Ready { buffer, dirty, used: true });
        if !self.follower.is_followed() && self.is_too_hot() {
            self.evict(key)?;
        }
        while self.follower.is_followed()
            && self.is_too_hot()
            && let Some(victim) = self.frames.victim(&self.wanted)
        {
            self.evict(victim)?;
        }
        let is_here = matches!(self.frames.get(key), Some(Frame::Ready { dirty: true, .. }));
        if is_here && self.is_final(key) { self.write_out(key, true) } else { Ok(()) }
    }

    /// Starts to read a block ahead if memory is free for it; true if it is near or on its way.
    pub(super) fn start_ahead(&mut self, key: Key) -> Result<bool> {
        if self.frames.get(key).is_some() {
            return Ok(true);
        }
        let bytes = self.place(key)?.padded;
        // Half of the streaming memory for blocks on their way in, the other half for those on their way out.
        if self.frames.totals().ahead_bytes + to_u64(bytes) > self.wanted_streaming_bytes() / 2 {
            return Ok(false);
        }
        match self.take_frame(bytes)? {
            Some(buffer) => self.start_read(key, buffer).map(|()| true),
            None => Ok(false),
        }
    }

    /// Free memory for a frame. Where all blocks stay in memory each has its own size, or they would not.
    fn take_frame(&mut self, bytes: usize) -> Result<Option<Buffer>> {
        if self.is_whole() { self.pool.take(bytes) } else { self.pool.take_or_larger(bytes) }
    }

    fn try_frame(&mut self, key: Key, stuck: bool) -> Result<Attempt<Buffer>> {
        let bytes = self.place(key)?.padded;
        let directory = Arc::clone(&self.directory);
        let what = || crate::layout::describe_block(&directory, key.block, key.plane);
        self.try_take(bytes, stuck, Self::take_frame, what)
    }

    /// Memory for `what` that is no frame.
    pub(super) fn try_memory(
        &mut self,
        bytes: usize,
        stuck: bool,
        what: impl Fn() -> String,
    ) -> Result<Attempt<Buffer>> {
        self.try_take(bytes, stuck, |state, bytes| state.pool.take(bytes), what)
    }

    /// Memory for `what` by `take`: free memory, or that of writes under way, or that of the frame least needed.
    fn try_take(
        &mut self,
        bytes: usize,
        stuck: bool,
        take: impl Fn(&mut Self, usize) -> Result<Option<Buffer>>,
        what: impl Fn() -> String,
    ) -> Result<Attempt<Buffer>> {
        loop {
            if let Some(buffer) = take(self, bytes)? {
                return Ok(Attempt::Done(buffer));
            }
            match self.try_room(stuck)? {
                Attempt::Done(true) => {}
                Attempt::Wait(stall) => return Ok(Attempt::Wait(stall)),
                Attempt::Done(false) => {
                    return Err(Error::Budget {
                        what: what(),
                        needed: self.pool.used_bytes() + to_u64(bytes),
                        budget: self.pool.budget_bytes(),
                    });
                }
            }
        }
    }
}
