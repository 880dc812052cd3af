//! Leases: the right to touch blocks now.

use super::frames::Frame;
use super::transfer::Stall;
use super::{Key, Leased, Pager};
use crate::error::{Error, Result};
use crate::storage::Buffer;
use crate::units::to_u64;

impl Pager {
    /// Takes the frames of `keys`, read if they were not near. Each buffer holds at least the plane's bytes.
    pub(crate) fn lease(&mut self, keys: &[Key]) -> Result<Leased> {
        self.store.check_sound()?;
        self.drain()?;
        for &key in keys {
            self.request(key, keys)?;
        }
        for &key in keys {
            self.wait_ready(key)?;
        }
        let mut leased = Vec::with_capacity(keys.len());
        for &key in keys {
            if let Some(Frame::Ready { buffer, dirty, .. }) = self.frames.remove(key) {
                self.frames.set(key, Frame::Leased { dirty });
                leased.push(buffer);
            }
        }
        if leased.len() == keys.len() {
            return Ok(leased);
        }
        Err(Error::invalid("lease", format!("{keys:?}"), "distinct blocks that nobody has leased"))
    }

    /// Takes a frame that will be overwritten whole: nothing is read.
    pub(crate) fn lease_blank(&mut self, key: Key) -> Result<Buffer> {
        self.store.check_sound()?;
        self.drain()?;
        self.settle(key)?;
        self.failed.remove(&key);
        let buffer = match self.frames.remove(key) {
            Some(Frame::Ready { buffer, .. }) => buffer,
            _ => self.memory(key, &[key])?,
        };
        self.frames.set(key, Frame::Leased { dirty: false });
        Ok(buffer)
    }

    /// Gives a frame back. Changed frames are written behind when the budget is nearly used up, others stay hot.
    pub(crate) fn release(&mut self, key: Key, buffer: Buffer, changed: bool) -> Result<()> {
        let was_dirty = matches!(self.frames.get(key), Some(Frame::Leased { dirty: true }));
        let dirty = changed || was_dirty;
        self.frames.set(key, Frame::Ready { buffer, dirty, used: true });
        if self.frames.hot_bytes() + self.pool.streaming_bytes() > self.pool.budget_bytes() {
            self.evict(key)?;
        }
        self.drain()?;
        Ok(())
    }

    /// Starts to read a block ahead if memory is free for it; true if it is near or on its way.
    pub(crate) fn prefetch(&mut self, key: Key) -> Result<bool> {
        if self.frames.get(key).is_some() {
            return Ok(true);
        }
        self.drain()?;
        let bytes = self.place(key)?.padded;
        // Half of the streaming memory for blocks on their way in, the other half for those on their way out.
        if self.frames.ahead_bytes() + to_u64(bytes) > self.pool.streaming_bytes() / 2 {
            return Ok(false);
        }
        match self.pool.take(bytes)? {
            Some(buffer) => self.start_read(key, buffer).map(|()| true),
            None => Ok(false),
        }
    }

    /// Makes sure that a frame is near or on its way, whatever has to go for it.
    fn request(&mut self, key: Key, protect: &[Key]) -> Result<()> {
        match self.frames.get(key) {
            Some(Frame::Ready { used, .. }) => self.stats.blocks_hit += u64::from(*used),
            Some(Frame::Writing { .. }) => {
                self.stats.blocks_hit += 1;
                self.frames.keep_after_write(key);
            }
            Some(Frame::Reading { .. } | Frame::Leased { .. }) => {}
            None => {
                self.failed.remove(&key);
                let buffer = self.memory(key, protect)?;
                self.start_read(key, buffer)?;
            }
        }
        Ok(())
    }

    fn wait_ready(&mut self, key: Key) -> Result<()> {
        loop {
            if let Some(error) = self.failed.remove(&key) {
                return Err(error);
            }
            let moving = match self.frames.get(key) {
                Some(Frame::Ready { .. }) => return Ok(()),
                Some(Frame::Reading { .. } | Frame::Writing { .. }) => self.wait_one(Stall::Read)?,
                _ => false,
            };
            if !moving {
                return Err(Error::invalid("lease", format!("{key:?}"), "a block that nobody has leased"));
            }
        }
    }

    /// Memory for a frame: free memory, or that of writes under way, or that of the frame least needed.
    fn memory(&mut self, key: Key, protect: &[Key]) -> Result<Buffer> {
        let bytes = self.place(key)?.padded;
        loop {
            if let Some(buffer) = self.pool.take(bytes)? {
                return Ok(buffer);
            }
            if self.frames.has_leaving() {
                self.wait_one(Stall::Write)?;
            } else if let Some(victim) = self.frames.victim(protect) {
                self.evict(victim)?;
            } else if !self.wait_one(Stall::Write)? {
                return Err(Error::Budget {
                    what: crate::layout::describe_block(&self.directory, key.block, key.plane),
                    needed: self.pool.used_bytes() + to_u64(bytes),
                    budget: self.pool.budget_bytes(),
                });
            }
        }
    }
}
