//! Faults that were found by reading the code: each test states a promise that was broken when it was written.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::{bits, create, gradient, memory, one_step, open, options, schema};
use crate::storage::fault::{FaultVolume, Lasting};
use crate::storage::{
    Access, Allocation, Barrier, Caching, Lock, LockKind, Mapped, MemoryVolume, Segment, Volume,
};
use crate::{Error, Options, ParamStore, Result};

/// Twelve blocks of 4 KiB: almost every lease has to read, almost every release to write.
fn tight() -> Options {
    options().memory_budget(12 * 4096)
}

/// A read that fails once in the middle of a tensor leaves its first blocks updated; the caller tries again, and the
/// step must not finish as if nothing had happened.
#[test]
fn an_update_that_is_tried_again_after_a_read_error_never_counts_twice() {
    let prepared = || {
        let volume = FaultVolume::new(memory());
        let mut store = create(&volume, &schema(4096), &tight()).unwrap();
        one_step(&mut store).unwrap();
        store.commit(b"").unwrap();
        drop(store);
        let store = open(&volume, &tight()).unwrap();
        (volume, store)
    };
    let step_with_retry = |store: &mut ParamStore| -> Result<()> {
        let now = store.step();
        let mut step = store.begin_step()?;
        let gradient = gradient("big", 9000, now);
        if step.apply("big", &gradient).is_err() {
            step.apply("big", &gradient)?;
        }
        step.finish().map(|_| ())
    };
    let (volume, mut store) = prepared();
    let first = volume.operations().len();
    step_with_retry(&mut store).unwrap();
    let reference = bits(&store).unwrap();
    let last = volume.operations().len();
    drop(store);
    for at in first..last {
        let (volume, mut store) = prepared();
        volume.fail_at(at, ErrorKind::Other, Lasting::Once);
        // A write behind may still fail after the step; then nothing can be read, which is an error and not silent.
        if step_with_retry(&mut store).is_ok()
            && let Ok(found) = bits(&store)
        {
            assert!(found == reference, "operation {at} of {first}..{last}");
        }
    }
}

/// Leaking a value is safe Rust: a step that is forgotten half way must leave the store mixed all the same.
#[test]
fn a_forgotten_step_leaves_the_store_mixed() {
    let mut store = create(&memory(), &schema(4096), &options()).unwrap();
    let mut step = store.begin_step().unwrap();
    step.apply("scale", &[1.0]).unwrap();
    std::mem::forget(step);
    assert!(matches!(store.commit(b""), Err(Error::Mixed { .. })));
}

/// A read that fails once is no reason to go back to an older generation, whose successor would then be overwritten.
#[test]
fn a_read_error_at_open_is_an_error_and_no_older_generation() {
    let inner = memory();
    let mut store = create(&inner, &schema(4096), &options()).unwrap();
    for _ in 0..2 {
        one_step(&mut store).unwrap();
        store.commit(b"").unwrap();
    }
    drop(store);
    let clean = FaultVolume::new(inner.clone());
    drop(open(&clean, &options()).unwrap());
    for at in 0..clean.operations().len() {
        let volume = FaultVolume::new(inner.clone());
        volume.fail_at(at, ErrorKind::Other, Lasting::Once);
        if let Ok(store) = open(&volume, &options()) {
            assert_eq!(store.generation(), 3, "operation {at}: {:?}", volume.operations()[at]);
        }
    }
}

/// Memory that a failed update had leased must go back with the rollback; an error of one release must not lose the
/// buffers of the others either (a write that waits for a reader in vain fails there).
#[test]
fn a_budget_is_whole_after_updates_that_failed_with_leased_blocks() {
    let mut store = create(&memory(), &schema(4096), &tight()).unwrap();
    for _ in 0..40 {
        let spoiled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut step = store.begin_step().unwrap();
            step.apply_with("big", |_, _| panic!("the gradient cannot be made")).unwrap();
        }));
        assert!(spoiled.is_err());
        store.rollback().unwrap();
    }
    one_step(&mut store).unwrap();
}

/// Errors of the table or of opening a segment come before the read begins: the memory for it must go back.
#[test]
fn a_budget_is_whole_after_reads_that_could_not_begin() {
    let volume = FaultVolume::new(memory());
    let mut store = create(&volume, &schema(4096), &tight()).unwrap();
    one_step(&mut store).unwrap();
    store.commit(b"").unwrap();
    drop(store);
    let mut out = vec![0.0; 9000];
    let store = open(&volume, &tight()).unwrap();
    for _ in 0..40 {
        volume.fail_at(volume.operations().len(), ErrorKind::Other, Lasting::FromThenOn);
        store.read_into("big", &mut out).unwrap_err();
    }
    volume.heal();
    store.read_into("big", &mut out).unwrap();
    assert_eq!(store.stats().held_bytes % 4096, 0);
}

/// The progress function of a digest may ask the store for anything; it used to be called with the pager held.
#[test]
fn progress_of_a_digest_may_use_the_store() {
    let store = create(&memory(), &schema(4096), &options()).unwrap();
    let mut held = 0;
    store.digest_with(|_| held = held.max(store.stats().held_bytes)).unwrap();
    assert!(held <= store.memory_budget());
}

/// A store that could not be opened as asked was made all the same, and stood in the way of the next try.
#[test]
fn a_create_that_fails_for_its_options_leaves_no_store() {
    for options in [options().memory_budget(1000), options().threads(0), options().io_threads(0)] {
        let volume = memory();
        create(&volume, &schema(4096), &options).map(|_| ()).unwrap_err();
        assert!(volume.list().unwrap().is_empty(), "{options:?}");
    }
}

/// A block that is written twice between two commits keeps its generation; its bytes in place must be checked again.
#[test]
fn a_view_checks_a_block_again_after_it_was_written_again() {
    let volume = memory();
    let mut store = create(&volume, &schema(4096), &tight()).unwrap();
    // The last block does not stay hot under this budget: it is written behind, and seen in place.
    for value in [1.0_f32, 2.0] {
        store.write("big", &vec![value; 9000]).unwrap();
        let view = store.view_range("big", 8200..8900).unwrap();
        assert!(view.is_zero_copy() && view.iter().all(|x| x.to_bits() == value.to_bits()));
    }
    store.write("big", &vec![3.0; 9000]).unwrap();
    let file = volume.open("param.0000.0", Access::Write, Caching::Cached).unwrap();
    store.read_into("middle", &mut [0.0; 3000]).unwrap();
    file.write_at(&[0x55; 64], 8 * 4096 + 128).unwrap();
    assert!(matches!(store.view_range("big", 8200..8900).map(|_| ()), Err(Error::Damaged(_))));
}

/// Writes to a file that no sync has covered: offset and bytes.
type Writes = Vec<(u64, Vec<u8>)>;

/// What is in the page cache and what is on the disk, apart. A sync that fails leaves the cache clean: a later sync
/// succeeds and the disk never gets what the cache shows.
#[derive(Clone)]
struct CacheVolume {
    cache: MemoryVolume,
    disk: MemoryVolume,
    dirty: Arc<Mutex<HashMap<String, Writes>>>,
    /// Syncs of the metadata file until one fails; 0 for none.
    fail_in: Arc<AtomicUsize>,
}

impl CacheVolume {
    fn new() -> Self {
        Self { cache: memory(), disk: memory(), dirty: Arc::default(), fail_in: Arc::default() }
    }
}

struct CacheSegment {
    volume: CacheVolume,
    name: String,
    cache: Arc<dyn Segment>,
    disk: Arc<dyn Segment>,
    is_direct: bool,
}

impl Volume for CacheVolume {
    fn path(&self) -> &Path {
        self.cache.path()
    }
    fn create(&self, name: &str, len_bytes: u64, allocation: Allocation) -> Result<()> {
        self.disk.create(name, len_bytes, allocation)?;
        self.cache.create(name, len_bytes, allocation)
    }
    fn open(&self, name: &str, access: Access, caching: Caching) -> Result<Arc<dyn Segment>> {
        Ok(Arc::new(CacheSegment {
            volume: self.clone(),
            name: name.to_owned(),
            cache: self.cache.open(name, access, caching)?,
            disk: self.disk.open(name, access, caching)?,
            is_direct: caching == Caching::Direct,
        }))
    }
    fn list(&self) -> Result<Vec<String>> {
        self.cache.list()
    }
    fn remove(&self, name: &str) -> Result<()> {
        self.disk.remove(name)?;
        self.cache.remove(name)
    }
    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.disk.rename(from, to)?;
        self.cache.rename(from, to)
    }
    fn sync_dir(&self, _barrier: Barrier) -> Result<()> {
        Ok(())
    }
    fn sync_parent(&self, _barrier: Barrier) -> Result<()> {
        Ok(())
    }
    fn subvolume(&self, name: &str) -> Result<Option<Arc<dyn Volume>>> {
        self.cache.subvolume(name)
    }
    fn create_subvolume(&self, name: &str) -> Result<Arc<dyn Volume>> {
        self.cache.create_subvolume(name)
    }
    fn remove_subvolume(&self, name: &str) -> Result<()> {
        self.cache.remove_subvolume(name)
    }
    fn free_bytes(&self) -> Result<u64> {
        self.cache.free_bytes()
    }
    fn try_lock(&self, name: &str, kind: LockKind) -> Result<Option<Box<dyn Lock>>> {
        self.cache.try_lock(name, kind)
    }
}

impl Segment for CacheSegment {
    fn path(&self) -> &Path {
        self.cache.path()
    }
    fn is_direct(&self) -> bool {
        self.is_direct
    }
    fn len_bytes(&self) -> Result<u64> {
        self.cache.len_bytes()
    }
    fn allocated_bytes(&self) -> Result<u64> {
        self.cache.allocated_bytes()
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        if self.is_direct { self.disk.read_at(buffer, offset) } else { self.cache.read_at(buffer, offset) }
    }
    fn write_at(&self, buffer: &[u8], offset: u64) -> Result<()> {
        self.cache.write_at(buffer, offset)?;
        if self.is_direct {
            return self.disk.write_at(buffer, offset);
        }
        let mut dirty = self.volume.dirty.lock().unwrap();
        dirty.entry(self.name.clone()).or_default().push((offset, buffer.to_vec()));
        Ok(())
    }
    fn sync(&self, _barrier: Barrier) -> Result<()> {
        let writes = self.volume.dirty.lock().unwrap().remove(&self.name).unwrap_or_default();
        if self.name == "meta"
            && self.volume.fail_in.load(Ordering::Relaxed) > 0
            && self.volume.fail_in.fetch_sub(1, Ordering::Relaxed) == 1
        {
            let source = std::io::Error::from(ErrorKind::Other);
            return Err(Error::io("make durable", self.path(), source));
        }
        let disk = self.volume.disk.open(&self.name, Access::Write, Caching::Cached)?;
        writes.iter().try_for_each(|(offset, bytes)| disk.write_at(bytes, *offset))
    }
    fn share_from(&self, source: &dyn Segment) -> Result<bool> {
        self.cache.share_from(source)
    }
    fn punch(&self, offset: u64, len_bytes: u64) -> Result<()> {
        self.cache.punch(offset, len_bytes)
    }
    fn map(&self, offset: u64, len_bytes: usize) -> Result<Box<dyn Mapped>> {
        self.cache.map(offset, len_bytes)
    }
}

/// The sync of a superblock fails, the store is opened again in the same boot and trains on, then the power fails.
/// The page cache showed the superblock, the disk never got it: without writing it again, the new writer believes a
/// generation that is not durable and overwrites the homes of the one that is.
#[test]
fn a_superblock_that_only_the_page_cache_has_is_not_believed() {
    let volume = CacheVolume::new();
    let tight = tight().io_path(crate::IoPath::Direct);
    let mut store = create(&volume, &schema(4096), &tight).unwrap();
    one_step(&mut store).unwrap();
    store.commit(b"").unwrap();
    let mut by_step = HashMap::from([(1, bits(&store).unwrap())]);
    one_step(&mut store).unwrap();
    by_step.insert(2, bits(&store).unwrap());
    volume.fail_in.store(2, Ordering::Relaxed);
    assert!(matches!(store.commit(b""), Err(Error::Io { .. })));
    drop(store);
    let mut store = open(&volume, &tight).unwrap();
    let reopened_at = store.step();
    one_step(&mut store).unwrap();
    drop(store);
    // The power fails: what was on the disk is what there is.
    let store = open(&volume.disk, &tight).unwrap();
    assert!(store.step() <= reopened_at);
    let found = bits(&store).unwrap_or_else(|e| panic!("reopened at step {reopened_at}: {e}"));
    assert!(found == by_step[&store.step()]);
}

/// A sparse file may be of any length, so that a length bounded by the file is not bounded.
#[test]
fn a_directory_longer_than_any_is_an_error_within_bounded_memory() {
    use crate::format::superblock::Superblock;
    let (volume, other) = (memory(), memory());
    drop(create(&volume, &schema(4096), &options()).unwrap());
    let meta = volume.open("meta", Access::Read, Caching::Cached).unwrap();
    let mut page = vec![0; 4096];
    meta.read_at(&mut page, 4096).unwrap();
    let mut superblock = Superblock::decode(&page).unwrap();
    let grow = (1_u64 << 56) - superblock.directory.bytes.next_multiple_of(4096);
    superblock.directory.bytes = 1 << 56;
    superblock.record.offset += grow;
    superblock.record_offset += grow;
    superblock.table_offset += grow;
    let len = meta.len_bytes().unwrap() + grow;
    assert!(superblock.validate(len).is_err());
    other.create("lock", 64, Allocation::Full).unwrap();
    other.create("meta", len, Allocation::Sparse).unwrap();
    let file = other.open("meta", Access::Write, Caching::Cached).unwrap();
    file.write_at(&superblock.encode(), 4096).unwrap();
    assert!(matches!(open(&other, &options()), Err(Error::Damaged(_))));
}

/// Gradients that wait were counted by their elements and not by their memory, which is a page at least: those of many
/// small tensors took the whole budget, and nothing was left to update them with.
#[test]
fn gradients_of_many_small_tensors_leave_room_for_their_updates() {
    let group = crate::ParamGroup::new("all", crate::Optimizer::Sgd(crate::optim::Sgd::default()));
    let schema = crate::Schema::new().block_bytes(4096).group(group);
    let tensor = |i: u64| crate::TensorSpec::new(format!("t{i}"), &[1 + i % 3]);
    let schema = (0..260).fold(schema, |schema, i| schema.tensor(tensor(i)));
    for round in 0..40 {
        let mut store = create(&memory(), &schema, &options()).unwrap();
        let mut step = store.begin_step().unwrap();
        for i in 0..260_u64 {
            let gradient = vec![1.0; usize::try_from(1 + i % 3).unwrap()];
            step.apply(&format!("t{i}"), &gradient).unwrap_or_else(|error| panic!("round {round}: {error}"));
        }
        step.finish().unwrap();
    }
}
