//! Changing: values from elsewhere, commits, and the way back. Steps are begun in their own room, above this one.

use std::ops::Range;
use std::time::Instant;

use super::ParamStore;
use crate::error::{Error, Result};
use crate::format::record::{MAX_USER_BYTES, Record};
use crate::layout::pieces;
use crate::pager::{Key, Waiter, elapsed_ns};
use crate::precision::{Rounding, lane};
use crate::schema::ParamGroup;
use crate::telemetry::Metrics;
use crate::units::to_u64;

/// What a commit did.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct CommitReport {
    /// The generation that is durable now.
    pub generation: u64,
    /// Bytes of hot blocks and metadata that the commit itself wrote; blocks written behind before are not counted.
    pub bytes_written: u64,
    /// Points at which everything before had to be durable: 2, or 1 if nothing but the step and generation changed.
    pub barriers: u32,
    /// Seconds that it took.
    pub seconds: f64,
}

impl ParamStore {
    /// Sets a tensor's parameters: for weights that come from elsewhere. Its state stays as it is. Parameters in bf16 or f16
    /// get the nearest values, ties to the even one; where they are [compensated](crate::Precision::compensated), what that
    /// lost is kept.
    ///
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// store.write("w", &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])?;
    /// assert_eq!(store.view("w")?[..], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Unknown`]; [`Error::Invalid`] for another length, for a type that is kept as it is, and for a frozen tensor after
    /// the first commit; [`Error::ReadOnly`], [`Error::Mixed`], disk errors.
    pub fn write(&mut self, name: &str, values: &[f32]) -> Result<()> {
        let elements = self.elements(self.tensor_index(name)?);
        if to_u64(values.len()) != elements {
            let (got, expected) = (format!("{} elements", values.len()), format!("{elements} elements"));
            return Err(Error::invalid(format!("values of tensor {name:?}"), got, expected));
        }
        self.write_range(name, 0, values)
    }

    /// As [`write`](Self::write), for the elements from `start` on.
    ///
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// store.write_range("w", 3, &[4.0, 5.0, 6.0])?; // the second row
    /// assert_eq!(store.view("w")?[..], [0.0, 0.0, 0.0, 4.0, 5.0, 6.0]);
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn write_range(&mut self, name: &str, start: u64, values: &[f32]) -> Result<()> {
        self.check_can_change("write a tensor")?;
        let (tensor, range) = self.checked_range(name, start, values.len())?;
        self.check_floats(tensor)?;
        self.check_may_write(tensor)?;
        // A rule that cannot catch up is told before anything changes.
        let catch_up = self.catch_up(tensor)?;
        let result = match self.table_of(tensor) {
            Some(_) => self.write_rows((tensor, 0), range, values, catch_up),
            None => self.write_plane(tensor, 0, range, values),
        };
        if result.is_err() {
            self.mark_mixed();
        }
        result
    }

    /// Sets a range of a plane, rounded to the nearest. Where elements share scales, the range takes whole blocks of them.
    pub(crate) fn write_plane(
        &mut self,
        tensor: usize,
        plane: usize,
        range: Range<u64>,
        mut values: &[f32],
    ) -> Result<()> {
        let directory = self.directory();
        let pager = self.pager();
        let lost = self.compensation_plane(tensor).filter(|_| plane == 0);
        for piece in pieces(&directory, tensor, range.clone()) {
            let elements = pager.block_elements(&piece);
            let whole = piece.within == (0..elements);
            let take = |plane| {
                let key = Key { block: piece.block, plane };
                if whole { pager.lease_blank(key) } else { pager.lease(&[key], Waiter::Caller) }
            };
            let (mut lease, mut of_lost) = (take(plane)?, lost.map(take).transpose()?);
            let (now, later) = values.split_at(piece.within.len().min(values.len()));
            if let Some(buffer) = lease.buffers().first_mut() {
                let dtype = pager.dtype(&piece, plane);
                if whole && dtype.is_q8() {
                    // Between codes and scales are bytes that no element has.
                    buffer.fill(0);
                }
                let mut target = lane(dtype, buffer, elements);
                if let Some(buffer) = of_lost.as_mut().and_then(|lease| lease.buffers().first_mut()) {
                    target = target.compensated_by(lane(dtype, buffer, elements));
                }
                target.write(self.engine.isa, piece.within.start, now, Rounding::Nearest);
            }
            values = later;
            lease.release(|_| true)?;
            of_lost.map_or(Ok(()), |lease| lease.release(|_| true))?;
        }
        if plane == 0 { self.renew_copy(tensor, range) } else { Ok(()) }
    }

    /// Takes over what another store keeps for a tensor beside its planes.
    pub(crate) fn take_clock(&mut self, source: &Self, tensor: usize) -> Result<()> {
        let entry = source.pager().lock().store_mut().tensor_entry(tensor)?;
        self.pager().lock().store_mut().set_tensor_entry(tensor, entry)
    }

    /// Commits at the step and with the user record of another store.
    pub(crate) fn commit_as(&mut self, source: &Self) -> Result<()> {
        self.step = source.step;
        self.commit(&source.user_record).map(|_| ())
    }

    /// Makes everything so far durable, together: parameters, moments, step, settings of the groups, and
    /// `user_record` (at most 1 MiB). When this returns, a crash at any later instant leaves at least this generation,
    /// bit for bit; a crash before leaves the one before.
    ///
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// let mut step = store.begin_step()?;
    /// step.apply("w", &[1.0; 6])?;
    /// step.finish()?;
    /// let report = store.commit(b"batch 1, seed 42")?;
    /// assert_eq!(report.generation, store.generation());
    /// assert_eq!(store.committed_step(), 1);
    /// assert!(report.barriers <= 2 && report.bytes_written > 0);
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Mixed`], [`Error::ReadOnly`], [`Error::Invalid`] for too long a record. After an I/O error the handle
    /// is poisoned: whether the disk holds this generation or the one before is found out by opening again.
    pub fn commit(&mut self, user_record: &[u8]) -> Result<CommitReport> {
        let start = Instant::now();
        self.check_can_change("commit")?;
        if to_u64(user_record.len()) > MAX_USER_BYTES {
            let got = format!("{} bytes", user_record.len());
            return Err(Error::invalid("user record", got, format!("at most {MAX_USER_BYTES} bytes")));
        }
        let record = Record {
            groups: self.groups.iter().map(ParamGroup::to_record).collect(),
            user: user_record.to_vec(),
            rows: self.engine.tables.as_ref().map(|tables| tables.prepare_commit()).transpose()?,
        };
        let step = self.step;
        let pager = &self.engine.pager;
        let written = pager.write_all()?;
        let mut state = pager.lock();
        let committed = state.store_mut().commit(record, step)?;
        state.note_commit();
        let stats = state.stats_mut();
        stats.meta_bytes_written += committed.meta_bytes;
        stats.commits += 1;
        stats.commit_ns += elapsed_ns(start);
        drop(state);
        if let Some(tables) = &self.engine.tables {
            tables.committed();
        }
        user_record.clone_into(&mut self.user_record);
        self.telemetry().publish(self.pager(), self.step);
        Ok(CommitReport {
            generation: committed.generation,
            bytes_written: written + committed.meta_bytes,
            barriers: committed.barriers,
            seconds: start.elapsed().as_secs_f64(),
        })
    }

    /// Says what the last finished step came to, for people who look on: [`telemetry`](crate::telemetry), `paramstore top`,
    /// `paramstore report`. Nothing of it belongs to a generation, and no failure is told.
    ///
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// use paramstore::telemetry::{Metrics, history};
    ///
    /// let mut step = store.begin_step()?;
    /// step.apply("w", &[1.0; 6])?;
    /// step.finish()?;
    /// store.note_metrics(&Metrics::new().loss(2.5).lr(0.5));
    /// store.commit(b"")?;
    /// assert_eq!(history(&path, 1)?[0].loss, Some(2.5));
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    pub fn note_metrics(&mut self, metrics: &Metrics) {
        self.telemetry().say(self.pager(), self.step, metrics);
    }

    /// Goes back to the last commit: everything since is forgotten, settings of groups included. Returns how many
    /// finished steps that were.
    ///
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// let mut step = store.begin_step()?;
    /// step.apply("w", &[1.0; 6])?;
    /// step.finish()?;
    /// assert_eq!(store.rollback()?, 1); // one step is forgotten
    /// assert_eq!((store.step(), store.view("w")?[0]), (0, 0.0));
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::ReadOnly`], [`Error::Poisoned`], disk errors.
    pub fn rollback(&mut self) -> Result<u64> {
        self.background.cancel();
        self.pager().roll_back()?;
        if let Some(tables) = &self.engine.tables {
            tables.roll_back();
        }
        let before = self.step;
        self.take_over_committed()?;
        Ok(before - self.step)
    }

    /// Takes settings, user record and step from the committed generation, which is all there is.
    pub(crate) fn take_over_committed(&mut self) -> Result<()> {
        let state = self.pager().lock();
        let record = state.store().record().clone();
        let committed = state.store().superblock().step;
        drop(state);
        self.groups = record.groups.iter().map(ParamGroup::from_record).collect::<Result<Vec<_>>>()?;
        self.user_record = record.user;
        self.step = committed;
        self.mixed = false;
        Ok(())
    }

    /// Refuses settings of groups with which these planes could not be trained.
    pub(crate) fn check_record(&self, record: &Record, path: &std::path::Path) -> Result<()> {
        let groups = record.groups.iter().map(ParamGroup::from_record).collect::<Result<Vec<_>>>()?;
        super::open::check_planes(&self.directory, &groups, path)
    }
}
