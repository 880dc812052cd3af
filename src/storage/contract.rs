//! What every volume does: one set of tests, run against each of them.

use std::io;
use std::sync::Arc;

use super::fault::FaultVolume;
use super::sim::SimVolume;
use super::{
    Access, Allocation, Barrier, Buffer, Caching, LOCK_FILE_BYTES, LockKind, MemoryVolume, Segment, Volume,
};
use crate::error::Error;

const TEST: Barrier = Barrier("test");

/// An empty volume, and whatever has to live as long as it.
struct Subject {
    volume: Box<dyn Volume>,
    _keep: Option<tempfile::TempDir>,
}

#[cfg(not(miri))]
fn real() -> Subject {
    let keep = tempfile::tempdir().unwrap();
    let (volume, existed) = super::RealVolume::create_dir(&keep.path().join("volume")).unwrap();
    assert!(!existed);
    Subject { volume: Box::new(volume), _keep: Some(keep) }
}

/// Enough for each test, and little enough that a test can ask for more.
const MEMORY_BYTES: u64 = 1 << 30;

fn memory() -> Subject {
    Subject { volume: Box::new(MemoryVolume::with_capacity("volume", MEMORY_BYTES)), _keep: None }
}

fn sharing() -> Subject {
    Subject { volume: Box::new(MemoryVolume::with_sharing("volume", MEMORY_BYTES)), _keep: None }
}

fn healthy_fault() -> Subject {
    let inner = MemoryVolume::with_capacity("volume", MEMORY_BYTES);
    Subject { volume: Box::new(FaultVolume::new(inner)), _keep: None }
}

fn simulated() -> Subject {
    let memory = MemoryVolume::with_capacity("volume", MEMORY_BYTES);
    Subject { volume: Box::new(SimVolume::with_memory(memory)), _keep: None }
}

/// Makes a test of each function for one backend.
macro_rules! contract {
    ($backend:ident) => {
        contract! { $backend:
            created_file_has_its_length_and_zeros
            written_bytes_are_read_back
            direct_transfer_is_read_back_cached
            unaligned_direct_transfer_is_refused
            read_past_the_end_names_the_range
            write_past_the_end_is_refused_and_changes_nothing
            file_opened_for_reading_is_not_written
            create_refuses_an_existing_name
            missing_file_is_not_found
            name_that_leaves_the_directory_is_refused
            list_follows_create_rename_and_remove
            rename_replaces_the_target
            open_file_outlives_its_name
            file_larger_than_the_disk_is_no_space_and_leaves_nothing
            sparse_file_allocates_what_is_written
            map_shows_what_read_reads
            map_outside_the_file_or_between_sectors_is_refused
            exclusive_lock_keeps_everybody_out_until_dropped
            shared_locks_keep_only_the_exclusive_one_out
            shared_lock_does_not_make_the_file
            holder_of_a_lock_can_write_who_it_is
            transfers_run_on_several_threads_at_once
            directories_below_have_files_of_their_own
            directory_that_is_there_is_not_made_again_nor_removed_with_files_in_it
            directory_and_file_do_not_pass_for_each_other
            locks_below_are_their_own
            hole_reads_as_zeros_and_changes_nothing_beside_it
            hole_outside_the_file_or_between_sectors_is_refused
            shared_bytes_are_the_same_until_one_of_the_files_is_written
        }
    };
    ($backend:ident: $($test:ident)+) => {
        mod $backend {
            $(#[test] fn $test() { super::$test(&*super::$backend().volume); })+
        }
    };
}

#[cfg(not(miri))]
contract!(real);
contract!(memory);
contract!(sharing);
contract!(healthy_fault);
contract!(simulated);

fn open(volume: &dyn Volume, name: &str) -> Arc<dyn Segment> {
    volume.open(name, Access::Write, Caching::Cached).unwrap()
}

fn new_file(volume: &dyn Volume, name: &str, len_bytes: u64) -> Arc<dyn Segment> {
    volume.create(name, len_bytes, Allocation::Full).unwrap();
    open(volume, name)
}

/// Bytes without a period that divides a sector.
fn pattern(len_bytes: usize) -> Vec<u8> {
    (0..len_bytes).map(|index| u8::try_from(index % 251).unwrap()).collect()
}

fn io_kind(result: Result<impl Sized, Error>) -> io::ErrorKind {
    match result.err().expect("an error") {
        Error::Io { source, .. } => source.kind(),
        other => panic!("expected an I/O error, got {other}"),
    }
}

fn created_file_has_its_length_and_zeros(volume: &dyn Volume) {
    for (name, allocation) in [("full", Allocation::Full), ("sparse", Allocation::Sparse)] {
        for len_bytes in [0_u16, 1, 4096, 10_001] {
            let name = format!("{name}-{len_bytes}");
            volume.create(&name, u64::from(len_bytes), allocation).unwrap();
            let segment = volume.open(&name, Access::Read, Caching::Cached).unwrap();
            assert_eq!(segment.len_bytes().unwrap(), u64::from(len_bytes));
            let mut bytes = vec![0xff; usize::from(len_bytes)];
            segment.read_at(&mut bytes, 0).unwrap();
            assert!(bytes.iter().all(|&byte| byte == 0));
        }
    }
}

fn written_bytes_are_read_back(volume: &dyn Volume) {
    let segment = new_file(volume, "a", 20_000);
    let bytes = pattern(9000);
    segment.write_at(&bytes, 4001).unwrap();
    segment.write_at(&[], 20_000).unwrap();
    segment.sync(TEST).unwrap();
    volume.sync_dir(TEST).unwrap();
    let mut read = vec![0; 20_000];
    volume.open("a", Access::Read, Caching::Cached).unwrap().read_at(&mut read, 0).unwrap();
    assert!(read[..4001].iter().chain(&read[13_001..]).all(|&byte| byte == 0));
    assert_eq!(read[4001..13_001], bytes);
}

fn direct_transfer_is_read_back_cached(volume: &dyn Volume) {
    let cached = new_file(volume, "a", 5 * 4096);
    let direct = volume.open("a", Access::Write, Caching::Direct).unwrap();
    assert!(!cached.is_direct());
    let mut buffer = Buffer::new(3 * 4096).unwrap();
    buffer.copy_from_slice(&pattern(3 * 4096));
    direct.write_at(&buffer, 4096).unwrap();
    let mut read = vec![0; 3 * 4096];
    cached.read_at(&mut read, 4096).unwrap();
    assert_eq!(read[..], buffer[..]);
    buffer.fill(0);
    direct.read_at(&mut buffer, 4096).unwrap();
    assert_eq!(read[..], buffer[..]);
}

fn unaligned_direct_transfer_is_refused(volume: &dyn Volume) {
    drop(new_file(volume, "a", 4 * 4096));
    let direct = volume.open("a", Access::Write, Caching::Direct).unwrap();
    let mut buffer = Buffer::new(2 * 4096).unwrap();
    for (range, offset) in [(0..4096, 512), (0..4095, 0), (1..4097, 0)] {
        let error = direct.read_at(&mut buffer[range.clone()], offset).unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
        let error = direct.write_at(&buffer[range], offset).unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
    }
}

fn read_past_the_end_names_the_range(volume: &dyn Volume) {
    let segment = new_file(volume, "a", 5000);
    for (offset, len_bytes) in [(4999, 2), (5000, 1), (1 << 40, 1), (u64::MAX, 1)] {
        let error = segment.read_at(&mut vec![0; len_bytes], offset).unwrap_err();
        let Error::Io { action: "read", range: Some(range), ref source, ref path } = error else {
            panic!("{error}")
        };
        assert_eq!(range, (offset, len_bytes as u64));
        assert_eq!(source.kind(), io::ErrorKind::UnexpectedEof);
        assert!(path.ends_with("a"));
        assert!(error.to_string().contains("the file ends at byte 5000"), "{error}");
    }
}

fn write_past_the_end_is_refused_and_changes_nothing(volume: &dyn Volume) {
    let segment = new_file(volume, "a", 5000);
    for (offset, len_bytes) in [(4999, 2), (5000, 1), (u64::MAX, 1)] {
        let kind = io_kind(segment.write_at(&vec![7; len_bytes], offset));
        assert_eq!(kind, io::ErrorKind::UnexpectedEof);
    }
    assert_eq!(segment.len_bytes().unwrap(), 5000);
    let mut last = [9];
    segment.read_at(&mut last, 4999).unwrap();
    assert_eq!(last, [0]);
}

fn file_opened_for_reading_is_not_written(volume: &dyn Volume) {
    drop(new_file(volume, "a", 4096));
    let segment = volume.open("a", Access::Read, Caching::Cached).unwrap();
    assert!(matches!(segment.write_at(&[1], 0), Err(Error::ReadOnly { .. })));
    segment.sync(TEST).unwrap();
}

fn create_refuses_an_existing_name(volume: &dyn Volume) {
    new_file(volume, "a", 4096).write_at(b"kept", 0).unwrap();
    let error = volume.create("a", 10, Allocation::Sparse).unwrap_err();
    assert!(matches!(&error, Error::AlreadyExists { path } if path.ends_with("a")), "{error}");
    let mut bytes = [0; 4];
    open(volume, "a").read_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"kept");
}

fn missing_file_is_not_found(volume: &dyn Volume) {
    assert_eq!(io_kind(volume.open("none", Access::Read, Caching::Cached)), io::ErrorKind::NotFound);
    assert_eq!(io_kind(volume.open("none", Access::Write, Caching::Direct)), io::ErrorKind::NotFound);
    assert_eq!(io_kind(volume.remove("none")), io::ErrorKind::NotFound);
    assert_eq!(io_kind(volume.rename("none", "other")), io::ErrorKind::NotFound);
    assert!(volume.list().unwrap().is_empty());
}

fn name_that_leaves_the_directory_is_refused(volume: &dyn Volume) {
    drop(new_file(volume, "a", 1));
    for name in ["", ".", "..", "../a", "/a", "b/a", "a\0b", &"x".repeat(256)] {
        let refused = [
            volume.create(name, 1, Allocation::Sparse).err(),
            volume.open(name, Access::Read, Caching::Cached).err(),
            volume.remove(name).err(),
            volume.rename(name, "b").err(),
            volume.rename("a", name).err(),
            volume.try_lock(name, LockKind::Exclusive).err(),
        ];
        for error in refused {
            assert!(matches!(error, Some(Error::Invalid { .. })), "{name:?}: {error:?}");
        }
    }
    assert_eq!(volume.list().unwrap(), ["a"]);
}

fn list_follows_create_rename_and_remove(volume: &dyn Volume) {
    assert!(volume.list().unwrap().is_empty());
    for name in ["c", "a", "b"] {
        volume.create(name, 1, Allocation::Sparse).unwrap();
    }
    assert_eq!(volume.list().unwrap(), ["a", "b", "c"]);
    volume.rename("a", "d").unwrap();
    volume.remove("c").unwrap();
    assert_eq!(volume.list().unwrap(), ["b", "d"]);
}

fn rename_replaces_the_target(volume: &dyn Volume) {
    new_file(volume, "new", 4).write_at(b"new!", 0).unwrap();
    new_file(volume, "old", 4).write_at(b"old!", 0).unwrap();
    volume.rename("new", "old").unwrap();
    volume.sync_dir(TEST).unwrap();
    let mut bytes = [0; 4];
    open(volume, "old").read_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"new!");
    assert_eq!(volume.list().unwrap(), ["old"]);
    volume.rename("old", "old").unwrap();
    assert_eq!(volume.list().unwrap(), ["old"]);
}

fn open_file_outlives_its_name(volume: &dyn Volume) {
    let segment = new_file(volume, "a", 4096);
    volume.remove("a").unwrap();
    segment.write_at(b"still", 0).unwrap();
    let mut bytes = [0; 5];
    segment.read_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"still");
}

fn file_larger_than_the_disk_is_no_space_and_leaves_nothing(volume: &dyn Volume) {
    let before = volume.free_bytes().unwrap();
    let wanted = before.saturating_mul(2);
    let error = volume.create("a", wanted, Allocation::Full).unwrap_err();
    let Error::NoSpace { path, needed, free } = &error else { panic!("{error}") };
    assert!(path.ends_with("a"));
    assert_eq!(*needed, wanted);
    assert!(*free < wanted);
    assert!(volume.list().unwrap().is_empty());
}

fn sparse_file_allocates_what_is_written(volume: &dyn Volume) {
    let len_bytes = 1 << 29;
    volume.create("sparse", len_bytes, Allocation::Sparse).unwrap();
    let sparse = open(volume, "sparse");
    sparse.write_at(&[1; 4096], len_bytes / 2).unwrap();
    sparse.sync(TEST).unwrap();
    let allocated = sparse.allocated_bytes().unwrap();
    assert!((4096..len_bytes / 16).contains(&allocated), "{allocated}");
    let full = new_file(volume, "full", 1 << 20);
    assert!(full.allocated_bytes().unwrap() >= 1 << 20 || cfg!(not(target_os = "linux")));
}

fn map_shows_what_read_reads(volume: &dyn Volume) {
    let segment = new_file(volume, "a", 5 * 4096 + 100);
    segment.write_at(&pattern(5 * 4096 + 100), 0).unwrap();
    for (offset, len_bytes) in [(0, 5 * 4096 + 100), (4096, 4096), (8192, 1), (5 * 4096, 100), (4096, 0)] {
        let mut read = vec![0; len_bytes];
        segment.read_at(&mut read, offset).unwrap();
        let map = segment.map(offset, len_bytes).unwrap();
        assert_eq!(map.bytes(), read);
        assert!(len_bytes == 0 || map.bytes().as_ptr().addr().is_multiple_of(4096));
    }
    let map = segment.map(0, 4096).unwrap();
    drop(segment);
    assert_eq!(map.bytes(), pattern(4096), "a map outlives its segment");
}

fn map_outside_the_file_or_between_sectors_is_refused(volume: &dyn Volume) {
    let segment = new_file(volume, "a", 5000);
    assert_eq!(io_kind(segment.map(0, 5001)), io::ErrorKind::UnexpectedEof);
    assert_eq!(io_kind(segment.map(8192, 1)), io::ErrorKind::UnexpectedEof);
    assert_eq!(io_kind(segment.map(4096, usize::MAX)), io::ErrorKind::UnexpectedEof);
    assert!(matches!(segment.map(1, 1), Err(Error::Invalid { .. })));
}

fn exclusive_lock_keeps_everybody_out_until_dropped(volume: &dyn Volume) {
    let lock = volume.try_lock("lock", LockKind::Exclusive).unwrap().expect("the first to come");
    assert!(volume.try_lock("lock", LockKind::Exclusive).unwrap().is_none());
    assert!(volume.try_lock("lock", LockKind::Shared).unwrap().is_none());
    assert!(volume.try_lock("other", LockKind::Exclusive).unwrap().is_some());
    drop(lock);
    assert!(volume.try_lock("lock", LockKind::Exclusive).unwrap().is_some());
    assert!(volume.try_lock("lock", LockKind::Shared).unwrap().is_some());
}

fn shared_locks_keep_only_the_exclusive_one_out(volume: &dyn Volume) {
    volume.create("lock", 0, Allocation::Full).unwrap();
    let first = volume.try_lock("lock", LockKind::Shared).unwrap().expect("the first reader");
    let second = volume.try_lock("lock", LockKind::Shared).unwrap().expect("the second reader");
    drop(first);
    assert!(volume.try_lock("lock", LockKind::Exclusive).unwrap().is_none());
    drop(second);
    assert!(volume.try_lock("lock", LockKind::Exclusive).unwrap().is_some());
}

fn shared_lock_does_not_make_the_file(volume: &dyn Volume) {
    assert_eq!(io_kind(volume.try_lock("lock", LockKind::Shared)), io::ErrorKind::NotFound);
    assert!(volume.list().unwrap().is_empty());
}

fn holder_of_a_lock_can_write_who_it_is(volume: &dyn Volume) {
    volume.create("short", 3, Allocation::Full).unwrap();
    for name in ["short", "new"] {
        let lock = volume.try_lock(name, LockKind::Exclusive).unwrap().unwrap();
        let segment = open(volume, name);
        assert_eq!(segment.len_bytes().unwrap(), LOCK_FILE_BYTES);
        segment.write_at(b"process 4711", 0).unwrap();
        assert!(volume.try_lock(name, LockKind::Shared).unwrap().is_none());
        let mut holder = [0; 12];
        open(volume, name).read_at(&mut holder, 0).unwrap();
        assert_eq!(&holder, b"process 4711");
        drop(lock);
    }
}

fn transfers_run_on_several_threads_at_once(volume: &dyn Volume) {
    let segment = new_file(volume, "a", 16 * 4096);
    std::thread::scope(|scope| {
        for index in 0..16_u8 {
            let segment = &segment;
            scope.spawn(move || segment.write_at(&[index + 1; 4096], u64::from(index) * 4096).unwrap());
        }
    });
    let mut bytes = vec![0; 16 * 4096];
    segment.read_at(&mut bytes, 0).unwrap();
    for (index, part) in bytes.chunks(4096).enumerate() {
        assert!(part.iter().all(|&byte| usize::from(byte) == index + 1), "block {index}");
    }
}

fn directories_below_have_files_of_their_own(volume: &dyn Volume) {
    assert!(volume.subvolume("below").unwrap().is_none());
    let below = volume.create_subvolume("below").unwrap();
    let deep = below.create_subvolume("deep").unwrap();
    for (directory, byte) in [(volume, 1), (&*below, 2), (&*deep, 3)] {
        new_file(directory, "a", 4096).write_at(&[byte; 8], 0).unwrap();
        directory.sync_dir(TEST).unwrap();
        directory.sync_parent(TEST).unwrap();
    }
    deep.rename("a", "b").unwrap();
    assert_eq!(volume.list().unwrap(), ["a", "below"]);
    assert_eq!(below.list().unwrap(), ["a", "deep"]);
    assert_eq!(deep.list().unwrap(), ["b"]);
    assert_eq!(deep.path(), volume.path().join("below").join("deep"));
    let again = volume.subvolume("below").unwrap().unwrap();
    let again = again.subvolume("deep").unwrap().unwrap();
    let mut bytes = [0; 8];
    open(&*again, "b").read_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes, [3; 8]);
    again.remove("b").unwrap();
    drop(again);
    below.remove_subvolume("deep").unwrap();
    assert_eq!(below.list().unwrap(), ["a"]);
    assert!(below.subvolume("deep").unwrap().is_none());
    assert_eq!(io_kind(deep.create("c", 1, Allocation::Sparse)), io::ErrorKind::NotFound);
}

fn directory_that_is_there_is_not_made_again_nor_removed_with_files_in_it(volume: &dyn Volume) {
    let below = volume.create_subvolume("below").unwrap();
    drop(new_file(&*below, "a", 1));
    drop(new_file(volume, "file", 1));
    for name in ["below", "file"] {
        let error = volume.create_subvolume(name).map(|_| ()).unwrap_err();
        assert!(matches!(error, Error::AlreadyExists { .. }), "{error}");
    }
    assert_eq!(io_kind(volume.remove_subvolume("below")), io::ErrorKind::DirectoryNotEmpty);
    assert_eq!(io_kind(volume.remove_subvolume("other")), io::ErrorKind::NotFound);
    for bad in ["", ".", "..", "a/b", "/"] {
        assert!(matches!(volume.subvolume(bad), Err(Error::Invalid { .. })), "{bad:?}");
        assert!(matches!(volume.create_subvolume(bad), Err(Error::Invalid { .. })), "{bad:?}");
        assert!(matches!(volume.remove_subvolume(bad), Err(Error::Invalid { .. })), "{bad:?}");
    }
    assert_eq!(below.list().unwrap(), ["a"]);
}

fn directory_and_file_do_not_pass_for_each_other(volume: &dyn Volume) {
    drop(volume.create_subvolume("below").unwrap());
    drop(new_file(volume, "file", 4096));
    assert_eq!(io_kind(volume.subvolume("file")), io::ErrorKind::NotADirectory);
    assert!(volume.open("below", Access::Read, Caching::Cached).is_err());
    assert!(volume.create("below", 1, Allocation::Sparse).is_err());
}

fn locks_below_are_their_own(volume: &dyn Volume) {
    let below = volume.create_subvolume("below").unwrap();
    let lock = volume.try_lock("lock", LockKind::Exclusive).unwrap();
    assert!(lock.is_some());
    assert!(below.try_lock("lock", LockKind::Exclusive).unwrap().is_some());
    assert!(volume.try_lock("lock", LockKind::Exclusive).unwrap().is_none());
}

fn hole_reads_as_zeros_and_changes_nothing_beside_it(volume: &dyn Volume) {
    let segment = new_file(volume, "a", 5 * 4096);
    segment.write_at(&vec![7; 5 * 4096], 0).unwrap();
    segment.punch(4096, 2 * 4096).unwrap();
    let mut bytes = vec![1; 5 * 4096];
    segment.read_at(&mut bytes, 0).unwrap();
    let is_hole = |at: usize| (4096..3 * 4096).contains(&at);
    assert!(bytes.iter().enumerate().all(|(at, &byte)| byte == if is_hole(at) { 0 } else { 7 }));
    assert_eq!(segment.len_bytes().unwrap(), 5 * 4096);
}

fn hole_outside_the_file_or_between_sectors_is_refused(volume: &dyn Volume) {
    let segment = new_file(volume, "a", 2 * 4096);
    segment.write_at(&[7; 2 * 4096], 0).unwrap();
    for (offset, len_bytes) in [(1, 4096), (0, 4095), (4096, 8192), (0, 0), (u64::MAX - 4095, 4096)] {
        let error = segment.punch(offset, len_bytes).unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
    }
    let reader = volume.open("a", Access::Read, Caching::Cached).unwrap();
    assert!(matches!(reader.punch(0, 4096), Err(Error::ReadOnly { .. })));
    assert!(matches!(reader.share_from(&*segment), Err(Error::ReadOnly { .. })));
    let mut bytes = vec![0; 2 * 4096];
    segment.read_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes, [7; 2 * 4096]);
}

fn shared_bytes_are_the_same_until_one_of_the_files_is_written(volume: &dyn Volume) {
    let source = new_file(volume, "a", 3 * 4096);
    source.write_at(&pattern(3 * 4096), 0).unwrap();
    let below = volume.create_subvolume("below").unwrap();
    below.create("b", 3 * 4096, Allocation::Sparse).unwrap();
    let target = open(&*below, "b");
    let mut bytes = vec![0; 3 * 4096];
    let shared = target.share_from(&*source).unwrap();
    assert_eq!(shared, volume.can_share());
    target.read_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes, if shared { pattern(3 * 4096) } else { vec![0; 3 * 4096] });
    source.write_at(&[9; 4096], 4096).unwrap();
    target.punch(0, 4096).unwrap();
    target.read_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes[4096..], if shared { pattern(3 * 4096) } else { vec![0; 3 * 4096] }[4096..]);
    source.read_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes[..4096], pattern(4096));
    assert_eq!(bytes[4096..8192], [9; 4096]);
    let short = new_file(volume, "short", 4096);
    assert!(matches!(target.share_from(&*short), Err(Error::Invalid { .. })));
}
