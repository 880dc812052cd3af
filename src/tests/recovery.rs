//! What opening finds: torn superblocks, locks, pins, older generations.

use std::sync::Arc;
use std::time::Duration;

use super::{bits, create, memory, one_step, open, options, schema};
use crate::format::{LOCK_FILE, META_FILE, META_NEW_FILE, PAGE_BYTES};
use crate::storage::{Access, Caching, MemoryVolume, Volume};
use crate::{Error, ParamStore};

fn overwrite(volume: &MemoryVolume, name: &str, offset: u64, bytes: &[u8]) {
    volume.open(name, Access::Write, Caching::Cached).unwrap().write_at(bytes, offset).unwrap();
}

fn read(volume: &MemoryVolume, name: &str, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    volume.open(name, Access::Read, Caching::Cached).unwrap().read_at(&mut bytes, offset).unwrap();
    bytes
}

/// A store with generations 1 (step 0), 2 (step 1) and 3 (step 2), and what steps 1 and 2 hold.
fn two_commits() -> (MemoryVolume, Vec<u32>, Vec<u32>) {
    let volume = memory();
    let mut store = create(&volume, &schema(4096), &options()).unwrap();
    one_step(&mut store).unwrap();
    store.commit(b"1").unwrap();
    let first = bits(&store).unwrap();
    one_step(&mut store).unwrap();
    store.commit(b"2").unwrap();
    let second = bits(&store).unwrap();
    (volume, first, second)
}

#[test]
fn a_torn_superblock_falls_back_to_the_older_generation() {
    let (volume, first, second) = two_commits();
    assert_eq!(bits(&open(&volume, &options()).unwrap()).unwrap(), second);
    // Generation 3 stands in slot 1. Tear it at every sector end.
    let slot = PAGE_BYTES;
    for kept in [0_usize, 512, 1024, 3584] {
        let whole = read(&volume, META_FILE, slot, 4096);
        let mut torn = whole.clone();
        torn[kept..].fill(0xa5);
        overwrite(&volume, META_FILE, slot, &torn);
        let store = open(&volume, &options()).unwrap();
        assert_eq!((store.generation(), store.step(), store.user_record()), (2, 1, &b"1"[..]));
        assert!(store.recovery().fell_back);
        assert!(store.recovery().slots[1].starts_with("damaged"), "{:?}", store.recovery());
        assert_eq!(bits(&store).unwrap(), first);
        drop(store);
        overwrite(&volume, META_FILE, slot, &whole);
    }
    assert_eq!(bits(&open(&volume, &options()).unwrap()).unwrap(), second);
}

#[test]
fn a_store_that_fell_back_goes_on_as_if_the_torn_commit_had_never_been() {
    let (volume, _, second) = two_commits();
    let mut torn = read(&volume, META_FILE, PAGE_BYTES, 4096);
    torn[4000] ^= 1;
    overwrite(&volume, META_FILE, PAGE_BYTES, &torn);
    let mut store = open(&volume, &options()).unwrap();
    one_step(&mut store).unwrap();
    assert_eq!(bits(&store).unwrap(), second);
    assert_eq!(store.commit(b"again").unwrap().generation, 3);
    drop(store);
    let store = open(&volume, &options()).unwrap();
    assert_eq!((store.step(), store.recovery().fell_back), (2, false));
    assert_eq!(bits(&store).unwrap(), second);
}

#[test]
fn damage_to_the_older_superblock_is_told_and_is_no_falling_back() {
    let (volume, _, second) = two_commits();
    // Generation 2 stands in slot 0. Its checksum no longer fits, and its generation can still be read.
    let byte = read(&volume, META_FILE, 4000, 1)[0];
    overwrite(&volume, META_FILE, 4000, &[byte ^ 1]);
    for store in [open(&volume, &options()).unwrap(), reader(&volume)] {
        assert!(store.recovery().damaged && !store.recovery().fell_back, "{:?}", store.recovery());
        assert_eq!(store.generation(), 3);
        assert_eq!(bits(&store).unwrap(), second);
    }
    // Where the bytes no longer say which generation they were, the worse is told.
    overwrite(&volume, META_FILE, 0, &[0xa5; 512]);
    assert!(open(&volume, &options()).unwrap().recovery().fell_back);
}

#[test]
fn a_note_of_the_newer_generation_tells_that_it_was_committed_and_lost() {
    let (volume, ..) = two_commits();
    // A superblock of generation 3 that is torn back to what its slot held before, but for its last byte.
    let older = read(&volume, META_FILE, 0, 4096);
    let mut torn = older;
    torn[56] = 1;
    overwrite(&volume, META_FILE, PAGE_BYTES, &torn);
    let store = open(&volume, &options()).unwrap();
    assert_eq!(store.generation(), 2);
    assert!(store.recovery().fell_back, "{:?}", store.recovery());
}

#[test]
fn two_damaged_superblocks_are_refused_with_both_reasons() {
    let (volume, ..) = two_commits();
    overwrite(&volume, META_FILE, 100, &[9]);
    overwrite(&volume, META_FILE, PAGE_BYTES + 100, &[9]);
    let error = open(&volume, &options()).unwrap_err();
    assert!(matches!(error, Error::Damaged(_)), "{error}");
    assert!(error.to_string().contains("checksum"), "{error}");
}

#[test]
fn a_second_writer_is_refused_and_told_who_holds_the_store() {
    let volume = memory();
    let store = create(&volume, &schema(4096), &options()).unwrap();
    let error = open(&volume, &options()).unwrap_err();
    let Error::Locked { holder, .. } = &error else { panic!("{error}") };
    assert_eq!(holder.as_deref(), Some(format!("process {}", std::process::id()).as_str()));
    drop(store);
    open(&volume, &options()).unwrap();
}

fn reader(volume: &MemoryVolume) -> ParamStore {
    ParamStore::open_read_only_in(Arc::new(volume.clone()), &options()).unwrap()
}

#[test]
fn a_reader_keeps_its_generation_while_the_writer_commits_the_next() {
    let (volume, _, second) = two_commits();
    let mut writer = open(&volume, &options().reader_wait(Duration::from_millis(20))).unwrap();
    let old = reader(&volume);
    one_step(&mut writer).unwrap();
    writer.commit(b"3").unwrap();
    // Generation 4 is committed, 3 still pinned: another write would overwrite homes of 3.
    let error = one_step(&mut writer).and_then(|()| writer.commit(b"4").map(|_| ())).unwrap_err();
    assert!(matches!(error, Error::Pinned { generation: 3, .. }), "{error}");
    assert_eq!(bits(&old).unwrap(), second);
    let new = reader(&volume);
    assert_eq!((old.step(), new.step()), (2, 3));
    drop(old);
    if matches!(writer.begin_step().map(|_| ()), Err(Error::Mixed { .. })) {
        writer.rollback().unwrap();
    }
    // If the writer had nothing to write before its commit, step 4 had finished and stays.
    let finished = writer.step();
    one_step(&mut writer).unwrap();
    writer.commit(b"4").unwrap();
    drop(new);
    assert_eq!(reader(&volume).step(), finished + 1);
}

#[test]
fn a_reader_changes_nothing() {
    let (volume, ..) = two_commits();
    let mut reader = reader(&volume);
    let refused = |result: crate::Result<()>| matches!(result, Err(Error::ReadOnly { .. }));
    assert!(refused(reader.begin_step().map(|_| ())));
    assert!(refused(reader.commit(b"").map(|_| ())));
    assert!(refused(reader.write("bias", &[0.0; 37])));
    assert!(refused(reader.rollback().map(|_| ())));
}

#[test]
fn steps_after_the_last_commit_are_counted_as_lost() {
    let (volume, ..) = two_commits();
    let mut store = open(&volume, &options()).unwrap();
    assert_eq!(store.recovery().lost_steps, 0);
    one_step(&mut store).unwrap();
    one_step(&mut store).unwrap();
    drop(store);
    let store = open(&volume, &options()).unwrap();
    assert_eq!((store.step(), store.recovery().lost_steps), (2, 2));
}

#[test]
fn an_interrupted_create_is_no_store_and_can_be_done_again() {
    let volume = memory();
    drop(create(&volume, &schema(4096), &options()).unwrap());
    volume.rename(META_FILE, META_NEW_FILE).unwrap();
    let error = open(&volume, &options()).unwrap_err();
    assert!(matches!(&error, Error::NotAStore { reason, .. } if reason.contains("interrupted")), "{error}");
    create(&volume, &schema(4096), &options()).unwrap();
}

#[test]
fn a_store_that_lost_its_meta_file_is_never_taken_for_an_interrupted_create() {
    let (volume, ..) = two_commits();
    volume.remove(META_FILE).unwrap();
    let before = volume.list().unwrap();
    let error = open(&volume, &options()).unwrap_err();
    assert!(matches!(&error, Error::NotAStore { reason, .. } if reason.contains("is gone")), "{error}");
    assert!(matches!(create(&volume, &schema(4096), &options()), Err(Error::AlreadyExists { .. })));
    assert_eq!(volume.list().unwrap(), before);
}

#[test]
fn create_touches_nothing_where_something_else_stands() {
    let (volume, ..) = two_commits();
    assert!(matches!(create(&volume, &schema(4096), &options()), Err(Error::AlreadyExists { .. })));
    let volume = memory();
    volume.create("notes.txt", 5, crate::storage::Allocation::Full).unwrap();
    assert!(matches!(create(&volume, &schema(4096), &options()), Err(Error::AlreadyExists { .. })));
    assert_eq!(volume.list().unwrap(), ["notes.txt"]);
    volume.rename("notes.txt", LOCK_FILE).unwrap();
    create(&volume, &schema(4096), &options()).unwrap();
}

#[test]
fn a_dropped_step_leaves_the_store_mixed_until_it_is_rolled_back() {
    let volume = memory();
    let mut store = create(&volume, &schema(4096), &options()).unwrap();
    one_step(&mut store).unwrap();
    store.commit(b"kept").unwrap();
    let kept = bits(&store).unwrap();
    one_step(&mut store).unwrap();
    store.group_mut("adamw").unwrap().set_lr(0.5).unwrap();
    let mut step = store.begin_step().unwrap();
    step.apply("scale", &[1.0]).unwrap();
    drop(step);
    for result in [store.begin_step().map(|_| ()), store.commit(b"").map(|_| ())] {
        assert!(matches!(result, Err(Error::Mixed { step: 2, committed_step: 1 })));
    }
    assert_eq!(store.rollback().unwrap(), 1);
    assert_eq!((store.step(), store.user_record()), (1, &b"kept"[..]));
    assert_eq!(bits(&store).unwrap(), kept);
    assert_eq!(store.groups()[0].optimizer().lr().to_bits(), 1e-3_f64.to_bits());
    one_step(&mut store).unwrap();
    store.commit(b"").unwrap();
}

#[test]
fn a_dropped_step_that_changed_nothing_is_no_harm() {
    let mut store = create(&memory(), &schema(4096), &options()).unwrap();
    drop(store.begin_step().unwrap());
    one_step(&mut store).unwrap();
    assert_eq!(store.step(), 1);
}

#[test]
fn a_commit_with_nothing_new_writes_one_page_behind_one_barrier() {
    let mut store = create(&memory(), &schema(4096), &options()).unwrap();
    one_step(&mut store).unwrap();
    assert_eq!(store.commit(b"x").unwrap().barriers, 2);
    let report = store.commit(b"x").unwrap();
    assert_eq!((report.barriers, report.bytes_written), (1, PAGE_BYTES));
}

#[test]
fn settings_of_groups_come_back_with_the_state() {
    let volume = memory();
    let mut store = create(&volume, &schema(4096), &options()).unwrap();
    store.group_mut("sgd").unwrap().set_lr(0.025).unwrap();
    store.group_mut("adamw").unwrap().set("betas", "0.8,0.95").unwrap();
    let refused = store.group_mut("sgd").unwrap().set("momentum", "0");
    assert!(matches!(refused, Err(Error::Invalid { .. })), "planes are fixed at creation: {refused:?}");
    store.commit(b"").unwrap();
    let groups = store.groups().to_vec();
    drop(store);
    assert_eq!(open(&volume, &options()).unwrap().groups(), groups);
}
