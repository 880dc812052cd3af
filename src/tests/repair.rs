//! Repairs: back by one generation, and damaged blocks from another copy.

use std::sync::Arc;

use super::{bits, create, memory, one_step, open, options, schema};
use crate::inspect::{BlockRun, BlockWritten, VerifyOptions};
use crate::repair::Repair;
use crate::storage::sim::{Disk, SimVolume};
use crate::storage::{Access, Caching, MemoryVolume, Volume};
use crate::store::{BlockStore, PinWait};
use crate::{Error, ParamStore};

fn shared(volume: &(impl Volume + Clone + 'static)) -> Arc<dyn Volume> {
    Arc::new(volume.clone())
}

fn written(store: &ParamStore) -> Vec<BlockWritten> {
    let runs = store.blocks().map(Result::unwrap);
    runs.filter_map(|run| if let BlockRun::Written(block) = run { Some(block) } else { None }).collect()
}

fn flip(volume: &MemoryVolume, block: &BlockWritten) {
    let file = volume.open(&block.file, Access::Write, Caching::Cached).unwrap();
    let mut byte = [0];
    file.read_at(&mut byte, block.offset).unwrap();
    file.write_at(&[byte[0] ^ 0x10], block.offset).unwrap();
}

/// Trains and commits; returns the bits of every commit.
fn trained(volume: &MemoryVolume, commits: usize) -> Vec<Vec<u32>> {
    let mut store = create(volume, &schema(4096), &options()).unwrap();
    let mut after = Vec::new();
    for _ in 0..commits {
        one_step(&mut store).unwrap();
        store.commit(b"cursor").unwrap();
        after.push(bits(&store).unwrap());
    }
    after
}

#[test]
fn a_damaged_generation_is_dropped_and_training_goes_on_from_the_one_before() {
    let volume = memory();
    let after = trained(&volume, 3);
    let store = open(&volume, &options()).unwrap();
    let block = written(&store).swap_remove(2);
    drop(store);
    flip(&volume, &block);

    let mut repair = Repair::open_in(shared(&volume)).unwrap();
    assert_eq!((repair.generation(), repair.step(), repair.previous_step().unwrap()), (4, 3, Some(2)));
    assert_eq!(repair.verify(&VerifyOptions::new(), |_| {}).unwrap().findings_total, 1);
    let beside = open(&volume, &options()).unwrap_err();
    assert!(matches!(beside, Error::Locked { .. }), "{beside}");
    let dropped = repair.drop_newest(&VerifyOptions::new()).unwrap();
    assert_eq!((dropped.generation, dropped.dropped_step), (4, 3));
    assert_eq!((dropped.previous_generation, dropped.step), (3, 2));

    let mut store = open(&volume, &options()).unwrap();
    assert_eq!((store.generation(), store.step()), (4, 2));
    assert!(!store.recovery().damaged && !store.recovery().fell_back, "{:?}", store.recovery());
    assert_eq!(store.recovery().lost_steps, 0);
    assert_eq!(bits(&store).unwrap(), after[1]);
    one_step(&mut store).unwrap();
    store.commit(b"cursor").unwrap();
    assert_eq!(bits(&store).unwrap(), after[2], "the same step again has the same bits");
    drop(store);
    let mut repair = Repair::open_in(shared(&volume)).unwrap();
    assert!(repair.verify(&VerifyOptions::new(), |_| {}).unwrap().is_sound());
}

#[test]
fn nothing_is_dropped_where_the_generation_before_is_not_whole_or_not_there() {
    let volume = memory();
    drop(create(&volume, &schema(4096), &options()).unwrap());
    let error = Repair::open_in(shared(&volume)).unwrap().drop_newest(&VerifyOptions::new()).unwrap_err();
    assert!(error.to_string().contains("generation 1 and no other"), "{error}");

    let volume = memory();
    trained(&volume, 3);
    // So little memory that a step overwrites homes of the generation before, and no commit.
    let mut store = open(&volume, &options().memory_budget(96 << 10)).unwrap();
    one_step(&mut store).unwrap();
    drop(store);
    let error = Repair::open_in(shared(&volume)).unwrap().drop_newest(&VerifyOptions::new()).unwrap_err();
    assert!(error.to_string().contains("damaged places"), "{error}");
    assert_eq!(open(&volume, &options()).unwrap().generation(), 4);
}

/// When `drop_newest` returns, no loss of power brings the dropped generation back.
#[test]
fn a_drop_is_durable_when_it_returns() {
    let volume = SimVolume::new("store");
    let mut store = create(&volume, &schema(4096), &options()).unwrap();
    for _ in 0..2 {
        one_step(&mut store).unwrap();
        store.commit(b"").unwrap();
    }
    drop(store);
    let before = volume.event_count();
    BlockStore::open_writer(shared(&volume), PinWait::Unlimited).unwrap().drop_newest().unwrap();
    let events = volume.events();
    assert!(events.len() > before);
    let mut disk = Disk::new(None);
    for event in &events {
        disk.apply(event);
    }
    // As little as can be of what was not made durable.
    let items = disk.unsynced();
    let image = disk.image(&items, &vec![0; items.len()]);
    let found = SimVolume::from_image("store", &image).unwrap();
    let store = open(&found, &options()).unwrap();
    assert_eq!((store.generation(), store.step()), (3, 1));
}

#[test]
fn damaged_blocks_get_their_very_bytes_back_from_a_copy() {
    let volume = memory();
    let after = trained(&volume, 3);
    let copy = volume.copy();
    let blocks = written(&open(&volume, &options()).unwrap());
    for block in blocks.iter().step_by(5) {
        flip(&volume, block);
    }
    let mut repair = Repair::open_in(shared(&volume)).unwrap();
    let seen = repair.verify(&VerifyOptions::new(), |_| {}).unwrap();
    let plan = repair.plan_rebuild_from(&shared(&copy), &seen).unwrap();
    let count = blocks.iter().step_by(5).count() as u64;
    assert!(plan.is_lossless() && plan.is_complete() && plan.exact == count, "{plan:?}");
    assert_eq!(repair.verify(&VerifyOptions::new(), |_| {}).unwrap().findings_total, count, "a plan writes");
    let rebuilt = repair.rebuild_from(&shared(&copy), &seen).unwrap();
    assert_eq!((rebuilt.blocks, rebuilt.generation), (count, 5));
    assert!(repair.verify(&VerifyOptions::new(), |_| {}).unwrap().is_sound());
    drop(repair);
    let store = open(&volume, &options()).unwrap();
    assert_eq!((bits(&store).unwrap(), store.step()), (after[2].clone(), 3));
    assert_eq!(store.user_record(), b"cursor");
}

#[test]
fn older_copies_are_told_apart_from_the_very_bytes_and_damaged_or_foreign_ones_refused() {
    let volume = memory();
    trained(&volume, 1);
    let copy = volume.copy();
    let mut store = open(&volume, &options()).unwrap();
    one_step(&mut store).unwrap();
    store.commit(b"").unwrap();
    let blocks = written(&store);
    drop(store);
    flip(&volume, &blocks[0]);
    let mut repair = Repair::open_in(shared(&volume)).unwrap();
    let seen = repair.verify(&VerifyOptions::new(), |_| {}).unwrap();
    let plan = repair.plan_rebuild_from(&shared(&copy), &seen).unwrap();
    assert!(!plan.is_lossless() && plan.is_complete(), "{plan:?}");
    assert_eq!((plan.losses[0].back_to_step, plan.exact), (Some(1), 0));

    let older = written(&open(&copy, &options()).unwrap());
    let same_place =
        |block: &&BlockWritten| (block.block, &block.plane) == (blocks[0].block, &blocks[0].plane);
    flip(&copy, older.iter().find(same_place).unwrap());
    let plan = repair.plan_rebuild_from(&shared(&copy), &seen).unwrap();
    assert!(!plan.is_complete() && plan.losses[0].back_to_step.is_none(), "{plan:?}");
    assert!(repair.rebuild_from(&shared(&copy), &seen).is_err());
    assert_eq!(repair.generation(), 3, "a refusal writes nothing");

    let foreign = memory();
    trained(&foreign, 1);
    let error = repair.plan_rebuild_from(&shared(&foreign), &seen).unwrap_err();
    assert!(error.to_string().contains("copy to rebuild from"), "{error}");
}
