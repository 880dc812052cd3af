//! The pin protocol of `store/pins.rs` (decision 0007): a writer that commits, and readers that open beside it, on a
//! volume that lets another thread go on before each operation.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use shuttle::thread;

use crate::error::{Error, Result};
use crate::format::checksum::block_crc;
use crate::format::{META_FILE, PROGRESS_FILE};
use crate::fuzzing::image::base;
use crate::layout::{block_of_slot, block_place};
use crate::optim::{Optimizer, Sgd};
use crate::storage::{
    Access, Allocation, Barrier, Caching, Lock, LockKind, Mapped, MemoryVolume, Segment, Volume,
};
use crate::store::{BlockStore, Generation, PinWait, Written};
use crate::units::{SlotIndex, to_u64};
use crate::{ParamGroup, Schema, TensorSpec};

/// A volume whose every operation is a point at which threads change.
struct Yielding(MemoryVolume);

struct YieldingSegment(Arc<dyn Segment>);

struct YieldingLock(Option<Box<dyn Lock>>);

impl Lock for YieldingLock {}

impl Drop for YieldingLock {
    fn drop(&mut self) {
        // Not while a failed test unwinds.
        if !std::thread::panicking() {
            thread::yield_now();
        }
        drop(self.0.take());
    }
}

impl Volume for Yielding {
    fn path(&self) -> &Path {
        self.0.path()
    }
    fn create(&self, name: &str, len_bytes: u64, allocation: Allocation) -> Result<()> {
        self.0.create(name, len_bytes, allocation)
    }
    fn open(&self, name: &str, access: Access, caching: Caching) -> Result<Arc<dyn Segment>> {
        let file = self.0.open(name, access, caching)?;
        // The note is for people; fewer points let more orders of the others be seen.
        let is_watched = name != PROGRESS_FILE;
        Ok(if is_watched { Arc::new(YieldingSegment(file)) } else { file })
    }
    fn list(&self) -> Result<Vec<String>> {
        self.0.list()
    }
    fn remove(&self, name: &str) -> Result<()> {
        self.0.remove(name)
    }
    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.0.rename(from, to)
    }
    fn sync_dir(&self, barrier: Barrier) -> Result<()> {
        self.0.sync_dir(barrier)
    }
    fn sync_parent(&self, barrier: Barrier) -> Result<()> {
        self.0.sync_parent(barrier)
    }
    fn subvolume(&self, name: &str) -> Result<Option<Arc<dyn Volume>>> {
        self.0.subvolume(name)
    }
    fn create_subvolume(&self, name: &str) -> Result<Arc<dyn Volume>> {
        self.0.create_subvolume(name)
    }
    fn remove_subvolume(&self, name: &str) -> Result<()> {
        self.0.remove_subvolume(name)
    }
    fn free_bytes(&self) -> Result<u64> {
        self.0.free_bytes()
    }
    fn try_lock(&self, name: &str, kind: LockKind) -> Result<Option<Box<dyn Lock>>> {
        thread::yield_now();
        let lock = self.0.try_lock(name, kind)?;
        Ok(lock.map(|lock| Box::new(YieldingLock(Some(lock))) as Box<dyn Lock>))
    }
    fn pause(&self, _: Duration) {
        thread::yield_now();
    }
}

impl Segment for YieldingSegment {
    fn path(&self) -> &Path {
        self.0.path()
    }
    fn is_direct(&self) -> bool {
        self.0.is_direct()
    }
    fn len_bytes(&self) -> Result<u64> {
        self.0.len_bytes()
    }
    fn allocated_bytes(&self) -> Result<u64> {
        self.0.allocated_bytes()
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        thread::yield_now();
        self.0.read_at(buffer, offset)
    }
    fn write_at(&self, buffer: &[u8], offset: u64) -> Result<()> {
        thread::yield_now();
        self.0.write_at(buffer, offset)
    }
    fn sync(&self, barrier: Barrier) -> Result<()> {
        self.0.sync(barrier)
    }
    fn share_from(&self, source: &dyn Segment) -> Result<bool> {
        self.0.share_from(source)
    }
    fn punch(&self, offset: u64, len_bytes: u64) -> Result<()> {
        self.0.punch(offset, len_bytes)
    }
    fn map(&self, offset: u64, len_bytes: usize) -> Result<Box<dyn Mapped>> {
        self.0.map(offset, len_bytes)
    }
}

/// One tensor of one block, and its only plane, whose slot is the one behind the tensor's.
const SLOT: SlotIndex = SlotIndex(1);

fn new_store() -> MemoryVolume {
    let group = ParamGroup::new("all", Optimizer::Sgd(Sgd::default()));
    let schema = Schema::new().block_bytes(4096).group(group).tensor(TensorSpec::new("w", &[1024]));
    base(&schema, false, 1, false).volume
}

fn place_of(store: &BlockStore) -> (usize, u64, usize) {
    let directory = Arc::clone(store.directory());
    let (at, block, plane) = block_of_slot(&directory, SLOT).unwrap();
    let place = block_place(&directory.extents[at], block, plane).unwrap();
    (place.segment, place.offset, place.bytes)
}

/// Writes the block with the number of its generation all over, and commits.
fn write_generation(store: &mut BlockStore) -> Result<()> {
    let generation = store.working_generation();
    let (segment, offset, bytes) = place_of(store);
    let home = store.write_home(SLOT)?;
    let block = vec![u8::try_from(generation).unwrap(); bytes];
    store.segment(segment, home, Caching::Cached)?.write_at(&block, offset)?;
    let crc = block_crc(store.uuid(), SLOT, generation, &block);
    store.note_written(SLOT, Written { segment, home, caching: Caching::Cached, crc })?;
    let record = store.record().clone();
    store.commit(record, generation).map(|_| ())
}

/// Reads the block as a reader's generation has it; its bytes must be those of the generation that it names.
fn read_block(store: &mut BlockStore) {
    let (segment, offset, bytes) = place_of(store);
    let entry = store.block_entry(SLOT).unwrap();
    assert!(entry.generation <= store.superblock().generation);
    let mut block = vec![0; bytes];
    let file = store.segment(segment, crate::store::Home(entry.home), Caching::Cached).unwrap();
    file.read_at(&mut block, offset).unwrap();
    let crc = block_crc(store.uuid(), SLOT, entry.generation, &block);
    assert_eq!(crc, entry.crc, "generation {} was overwritten under its reader", entry.generation);
}

fn reader(volume: &MemoryVolume) {
    let volume: Arc<dyn Volume> = Arc::new(Yielding(volume.clone()));
    match BlockStore::open_reader(volume, Generation::Newest) {
        Ok(mut store) => {
            let generation = store.superblock().generation;
            read_block(&mut store);
            read_block(&mut store);
            assert_eq!(store.superblock().generation, generation);
            assert!(!store.found().fell_back);
        }
        // A writer that commits whenever the reader looks: its patience is bounded.
        Err(Error::Locked { .. }) => {}
        Err(error) => panic!("{error}"),
    }
}

fn beside_a_writer(readers: usize, commits: u64) {
    let volume = new_store();
    let others: Vec<_> = (0..readers)
        .map(|_| {
            let volume = volume.clone();
            thread::spawn(move || reader(&volume))
        })
        .collect();
    let shared: Arc<dyn Volume> = Arc::new(Yielding(volume.clone()));
    let mut store = BlockStore::open_writer(shared, PinWait::Unlimited).unwrap();
    let first = store.superblock().generation;
    for _ in 0..commits {
        write_generation(&mut store).unwrap();
    }
    drop(store);
    for other in others {
        other.join().unwrap();
    }
    let mut store = BlockStore::open_writer(Arc::new(volume.clone()), PinWait::Unlimited).unwrap();
    assert_eq!(store.superblock().generation, first + commits);
    read_block(&mut store);
    assert!(
        to_u64(volume.list().unwrap().len()) > 4 && volume.list().unwrap().iter().any(|n| n == META_FILE)
    );
}

#[test]
fn readers_see_one_whole_generation_beside_a_writer_that_commits() {
    super::explore(600, || beside_a_writer(1, 4));
    super::explore(400, || beside_a_writer(2, 3));
}
