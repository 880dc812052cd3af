//! A volume that fails on demand: operation number N, once or from then on.
//!
//! A test runs its script once without a fault, counts the operations, and runs it again for every N. An operation
//! that fails does nothing: whether a failed write or sync did part of its work is another kind of fault.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Access, Allocation, Barrier, Caching, Lock, LockKind, Mapped, Segment, Volume};
use crate::error::{Error, Result};

/// How long a fault stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lasting {
    /// One operation fails, later ones succeed.
    Once,
    /// All operations fail from then on.
    FromThenOn,
}

/// One counted operation: a verb of the contract and the file it was for (empty for the directory).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Operation {
    /// "create", "open", "list", "remove", "rename", "sync_dir", "sync_parent", "subvolume",
    /// "create_subvolume", "remove_subvolume", "lock", "read", "write", "share", "punch", "sync" or "map".
    pub(crate) verb: &'static str,
    /// The name of the file.
    pub(crate) name: String,
}

/// Wraps any volume; clones share the count and the fault.
#[derive(Clone)]
pub(crate) struct FaultVolume {
    inner: Arc<dyn Volume>,
    plan: Arc<Mutex<Plan>>,
}

#[derive(Default)]
struct Plan {
    fault: Option<Fault>,
    operations: Vec<Operation>,
    failures: usize,
}

#[derive(Clone, Copy)]
struct Fault {
    at: usize,
    kind: io::ErrorKind,
    lasting: Lasting,
}

impl FaultVolume {
    /// Wraps a volume; nothing fails until [`fail_at`](Self::fail_at).
    pub(crate) fn new(inner: impl Volume + 'static) -> Self {
        Self { inner: Arc::new(inner), plan: Arc::default() }
    }

    /// Lets the operation with this number fail, counted from 0 at the making of the wrapper; replaces an earlier
    /// fault. `StorageFull` becomes the error that a full disk gives.
    pub(crate) fn fail_at(&self, operation: usize, kind: io::ErrorKind, lasting: Lasting) {
        guard(&self.plan).fault = Some(Fault { at: operation, kind, lasting });
    }

    /// Takes the fault away.
    pub(crate) fn heal(&self) {
        guard(&self.plan).fault = None;
    }

    /// All operations so far, those that failed among them.
    #[cfg(test)]
    pub(crate) fn operations(&self) -> Vec<Operation> {
        guard(&self.plan).operations.clone()
    }

    /// How many operations there were so far.
    pub(crate) fn operation_count(&self) -> usize {
        guard(&self.plan).operations.len()
    }

    /// How many operations failed on demand.
    pub(crate) fn failures(&self) -> usize {
        guard(&self.plan).failures
    }

    /// The same count and fault for a directory below.
    fn below(&self, inner: Arc<dyn Volume>) -> Arc<dyn Volume> {
        Arc::new(Self { inner, plan: Arc::clone(&self.plan) })
    }

    fn count(&self, verb: &'static str, name: &str) -> Result<()> {
        let path = if name.is_empty() { self.path().to_owned() } else { self.path_of(name) };
        count(&self.plan, verb, name, &path)
    }
}

fn guard(plan: &Mutex<Plan>) -> MutexGuard<'_, Plan> {
    plan.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts an operation, and refuses it if it is its turn.
fn count(plan: &Mutex<Plan>, verb: &'static str, name: &str, path: &Path) -> Result<()> {
    let mut plan = guard(plan);
    let number = plan.operations.len();
    plan.operations.push(Operation { verb, name: name.to_owned() });
    let Some(fault) = plan.fault else { return Ok(()) };
    let is_hit = match fault.lasting {
        Lasting::Once => number == fault.at,
        Lasting::FromThenOn => number >= fault.at,
    };
    if !is_hit {
        return Ok(());
    }
    plan.failures += 1;
    if fault.kind == io::ErrorKind::StorageFull {
        return Err(Error::NoSpace { path: path.to_owned(), needed: 1, free: 0 });
    }
    Err(Error::io(verb, path, io::Error::new(fault.kind, format!("fault at operation {number}"))))
}

impl Volume for FaultVolume {
    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn create(&self, name: &str, len_bytes: u64, allocation: Allocation) -> Result<()> {
        self.count("create", name)?;
        self.inner.create(name, len_bytes, allocation)
    }

    fn open(&self, name: &str, access: Access, caching: Caching) -> Result<Arc<dyn Segment>> {
        self.count("open", name)?;
        let inner = self.inner.open(name, access, caching)?;
        Ok(Arc::new(FaultSegment { inner, name: name.to_owned(), plan: Arc::clone(&self.plan) }))
    }

    fn list(&self) -> Result<Vec<String>> {
        self.count("list", "")?;
        self.inner.list()
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.count("remove", name)?;
        self.inner.remove(name)
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.count("rename", from)?;
        self.inner.rename(from, to)
    }

    fn sync_dir(&self, barrier: Barrier) -> Result<()> {
        self.count("sync_dir", "")?;
        self.inner.sync_dir(barrier)
    }

    fn sync_parent(&self, barrier: Barrier) -> Result<()> {
        self.count("sync_parent", "")?;
        self.inner.sync_parent(barrier)
    }

    fn subvolume(&self, name: &str) -> Result<Option<Arc<dyn Volume>>> {
        self.count("subvolume", name)?;
        Ok(self.inner.subvolume(name)?.map(|inner| self.below(inner)))
    }

    fn create_subvolume(&self, name: &str) -> Result<Arc<dyn Volume>> {
        self.count("create_subvolume", name)?;
        Ok(self.below(self.inner.create_subvolume(name)?))
    }

    fn remove_subvolume(&self, name: &str) -> Result<()> {
        self.count("remove_subvolume", name)?;
        self.inner.remove_subvolume(name)
    }

    fn can_share(&self) -> bool {
        self.inner.can_share()
    }

    fn free_bytes(&self) -> Result<u64> {
        self.inner.free_bytes()
    }

    fn try_lock(&self, name: &str, kind: LockKind) -> Result<Option<Box<dyn Lock>>> {
        self.count("lock", name)?;
        self.inner.try_lock(name, kind)
    }
}

struct FaultSegment {
    inner: Arc<dyn Segment>,
    name: String,
    plan: Arc<Mutex<Plan>>,
}

impl FaultSegment {
    fn count(&self, verb: &'static str) -> Result<()> {
        count(&self.plan, verb, &self.name, self.inner.path())
    }
}

impl Segment for FaultSegment {
    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn is_direct(&self) -> bool {
        self.inner.is_direct()
    }

    fn len_bytes(&self) -> Result<u64> {
        self.inner.len_bytes()
    }

    fn allocated_bytes(&self) -> Result<u64> {
        self.inner.allocated_bytes()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.count("read")?;
        self.inner.read_at(buffer, offset)
    }

    fn write_at(&self, buffer: &[u8], offset: u64) -> Result<()> {
        self.count("write")?;
        self.inner.write_at(buffer, offset)
    }

    fn share_from(&self, source: &dyn Segment) -> Result<bool> {
        self.count("share")?;
        self.inner.share_from(source)
    }

    fn punch(&self, offset: u64, len_bytes: u64) -> Result<()> {
        self.count("punch")?;
        self.inner.punch(offset, len_bytes)
    }

    fn os_file(&self) -> Option<&std::fs::File> {
        self.inner.os_file()
    }

    fn sync(&self, barrier: Barrier) -> Result<()> {
        self.count("sync")?;
        self.inner.sync(barrier)
    }

    fn map(&self, offset: u64, len_bytes: usize) -> Result<Box<dyn Mapped>> {
        self.count("map")?;
        self.inner.map(offset, len_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryVolume;

    const TEST: Barrier = Barrier("test");

    fn script(volume: &dyn Volume) -> Result<()> {
        volume.create("new", 4096, Allocation::Full)?;
        let segment = volume.open("new", Access::Write, Caching::Cached)?;
        segment.write_at(b"bytes", 0)?;
        segment.sync(TEST)?;
        volume.rename("new", "old")?;
        volume.sync_dir(TEST)?;
        volume.sync_parent(TEST)?;
        segment.read_at(&mut [0; 5], 0)?;
        drop(segment.map(0, 4096)?);
        volume.list()?;
        drop(volume.try_lock("lock", LockKind::Exclusive)?);
        let below = volume.create_subvolume("below")?;
        below.create("inner", 4096, Allocation::Sparse)?;
        segment.share_from(&*volume.subvolume("below")?.expect("it was made").open(
            "inner",
            Access::Read,
            Caching::Cached,
        )?)?;
        segment.punch(0, 4096)?;
        below.remove("inner")?;
        volume.remove_subvolume("below")?;
        volume.remove("old")
    }

    fn wrapped() -> FaultVolume {
        FaultVolume::new(MemoryVolume::new("volume"))
    }

    const VERBS: [&str; 20] = [
        "create",
        "open",
        "write",
        "sync",
        "rename",
        "sync_dir",
        "sync_parent",
        "read",
        "map",
        "list",
        "lock",
        "create_subvolume",
        "create",
        "subvolume",
        "open",
        "share",
        "punch",
        "remove",
        "remove_subvolume",
        "remove",
    ];

    #[test]
    fn every_operation_is_counted_once_and_in_order() {
        let volume = wrapped();
        script(&volume).unwrap();
        let verbs: Vec<_> = volume.operations().into_iter().map(|operation| operation.verb).collect();
        assert_eq!(verbs, VERBS);
        assert_eq!(volume.failures(), 0);
    }

    #[test]
    fn each_operation_in_turn_fails_with_the_kind_that_was_asked_for() {
        for (number, verb) in VERBS.into_iter().enumerate() {
            let volume = wrapped();
            volume.fail_at(number, io::ErrorKind::TimedOut, Lasting::Once);
            let Err(Error::Io { action, source, .. }) = script(&volume) else {
                panic!("no failure at {verb}")
            };
            assert_eq!((action, source.kind()), (verb, io::ErrorKind::TimedOut));
            assert_eq!((volume.operations().len(), volume.failures()), (number + 1, 1));
        }
    }

    #[test]
    fn fault_that_lasts_fails_everything_until_it_is_healed() {
        let volume = wrapped();
        volume.fail_at(1, io::ErrorKind::StorageFull, Lasting::FromThenOn);
        volume.create("a", 1, Allocation::Full).unwrap();
        for _ in 0..3 {
            assert!(matches!(volume.sync_dir(TEST), Err(Error::NoSpace { .. })));
        }
        volume.heal();
        volume.sync_dir(TEST).unwrap();
        assert_eq!(volume.failures(), 3);
    }

    #[test]
    fn fault_that_comes_once_lets_the_next_operation_through() {
        let volume = wrapped();
        volume.fail_at(0, io::ErrorKind::Other, Lasting::Once);
        assert!(volume.create("a", 1, Allocation::Full).is_err());
        volume.create("a", 1, Allocation::Full).unwrap();
    }
}
