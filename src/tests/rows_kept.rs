//! Tensors of rows and what becomes of generations: checkpoints, the way back, repairs, readers beside a writer. What a
//! store holds is a function of its step, so that whatever is gone back to must have that step's digest.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{create, memory, open};
use crate::inspect::verify::verify_in;
use crate::inspect::{BlockRun, BlockWritten, VerifyOptions};
use crate::optim::{Adagrad, AdamW, Optimizer, SparseAdam};
use crate::repair::Repair;
use crate::storage::{Access, Caching, MemoryVolume, Volume};
use crate::store::Generation;
use crate::{Error, Init, Options, ParamGroup, ParamStore, Result, Schema, TensorSpec};

/// Name, rows, width, group.
const TABLES: [(&str, u64, u64, &str); 2] = [("words", 150, 24, "sparseadam"), ("counts", 300, 5, "adagrad")];

/// Two tensors of rows, of several blocks each, with the smallest log; and a dense one.
pub(super) fn schema() -> Schema {
    let mut schema = Schema::new()
        .seed(3)
        .block_bytes(4096)
        .row_log_bytes(64 << 10)
        .group(ParamGroup::new("sparseadam", Optimizer::SparseAdam(SparseAdam::default())))
        .group(ParamGroup::new("adagrad", Optimizer::Adagrad(Adagrad::default())))
        .group(ParamGroup::new("adamw", Optimizer::AdamW(AdamW::default())));
    for (name, rows, width, group) in TABLES {
        let spec = TensorSpec::new(name, &[rows, width]).group(group).rows();
        schema = schema.tensor(spec.init(Init::Normal { mean: 0.0, std: 0.5 }));
    }
    schema.tensor(TensorSpec::new("dense", &[37]).group("adamw"))
}

/// So little memory that rows are given up; enough for all of them.
const TIGHT: u64 = 60 * 4096;
const ROOMY: u64 = 1 << 20;

pub(super) fn options(budget: u64) -> Options {
    Options::new().memory_budget(budget).threads(1).io_threads(1)
}

/// A number from others.
fn mixed(a: u64, b: u64) -> u64 {
    let z = (a.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ b).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^ (z >> 29)
}

/// One step: up to `most` rows of each table, chosen by the step, low ones more often and some twice.
pub(super) fn one_step(store: &mut ParamStore, most: u64) -> Result<()> {
    let now = store.step();
    let mut step = store.begin_step()?;
    for (number, (name, rows, width, _)) in (0..).zip(TABLES) {
        let len = 1 + mixed(now, number) % most;
        let id = |i| mixed(mixed(now, number + 7), i) % (1 + mixed(now + 99, i) % rows);
        let ids: Vec<_> = (0..len).map(id).collect();
        let gradients = super::gradient(name, len * width, now);
        step.apply_rows(name, &ids, &gradients)?;
    }
    if now.is_multiple_of(2) {
        step.apply("dense", &super::gradient("dense", 37, now))?;
    }
    step.finish().map(drop)
}

/// What a store holds after each step.
fn digests(steps: u64) -> Vec<String> {
    let mut store = create(&memory(), &schema(), &options(ROOMY)).unwrap();
    let mut digests = vec![store.digest().unwrap().to_string()];
    for _ in 0..steps {
        one_step(&mut store, 60).unwrap();
        digests.push(store.digest().unwrap().to_string());
    }
    digests
}

fn digest(store: &ParamStore) -> String {
    store.digest().unwrap().to_string()
}

fn step_and_commit(store: &mut ParamStore, steps: u64) {
    for _ in 0..steps {
        one_step(store, 60).unwrap();
        store.commit(&store.step().to_le_bytes()).unwrap();
    }
}

fn volume(can_share: bool) -> MemoryVolume {
    if can_share { MemoryVolume::with_sharing("store", u64::MAX) } else { memory() }
}

fn shared(volume: &MemoryVolume) -> Arc<dyn Volume> {
    Arc::new(volume.clone())
}

fn below(volume: &MemoryVolume, name: &str) -> Arc<dyn Volume> {
    volume.subvolume("checkpoints").unwrap().unwrap().subvolume(name).unwrap().unwrap()
}

fn assert_sound(volume: &Arc<dyn Volume>) {
    let seen = verify_in(volume, &VerifyOptions::new(), &mut |_| {}).unwrap();
    assert!(seen.is_sound() && seen.complete, "{seen:?}");
}

#[test]
fn a_checkpoint_with_rows_in_the_log_is_read_and_gone_back_to_after_the_log_went_round() {
    let digests = digests(30);
    for can_share in [false, true] {
        for budget in [TIGHT, ROOMY] {
            let volume = volume(can_share);
            let mut store = create(&volume, &schema(), &options(budget)).unwrap();
            step_and_commit(&mut store, 2);
            assert!(store.row_log_bytes().0 > 0);
            one_step(&mut store, 60).unwrap();
            let (estimate, report) = (store.keep_estimate().unwrap(), store.keep("two").unwrap());
            let bytes = (report.bytes_copied, report.bytes_shared);
            assert_eq!(bytes, (estimate.bytes_to_copy, estimate.bytes_to_share));
            let kept = below(&volume, "two");
            let read = || {
                let reader = ParamStore::open_read_only_in(Arc::clone(&kept), &options(ROOMY)).unwrap();
                digest(&reader)
            };
            assert_sound(&kept);
            assert_eq!(read(), digests[2]);
            for after in [1, 13, 20] {
                step_and_commit(&mut store, after);
                assert_eq!(digest(&store), digests[usize::try_from(store.step()).unwrap()]);
                one_step(&mut store, 60).unwrap();
                store.roll_back_to("two").unwrap();
                assert_eq!((store.step(), digest(&store)), (2, digests[2].clone()), "after {after}");
                assert_sound(&shared(&volume));
                drop(store);
                store = open(&volume, &options(budget)).unwrap();
                assert_eq!((digest(&store), read()), (digests[2].clone(), digests[2].clone()));
            }
            assert!(store.stats().row_blocks_folded == 0);
            step_and_commit(&mut store, 28);
            assert_eq!(digest(&store), digests[30], "the same bits as the run that did not leave");
            assert!(store.stats().row_blocks_folded > 0);
        }
    }
}

/// Steps, commits, checkpoints and ways back at random. Among the checkpoints are some that were made in the middle of a
/// pass over the log, with rows in it that count no more.
#[test]
fn a_random_history_with_checkpoints_gives_the_bits_of_its_step() {
    let digests = digests(80);
    for seed in 0..60 {
        let volume = volume(seed % 2 == 1);
        let options = options(if seed % 4 < 2 { TIGHT } else { ROOMY });
        let mut store = create(&volume, &schema(), &options).unwrap();
        let mut kept = BTreeMap::new();
        for turn in 0..50 {
            match mixed(seed, turn + 1000) % 12 {
                0 => {
                    let name = format!("c{turn}");
                    store.keep(&name).unwrap();
                    kept.insert(name, store.committed_step());
                }
                1 if !kept.is_empty() => {
                    let at = usize::try_from(mixed(seed, turn) % kept.len() as u64).unwrap();
                    let (name, step) = kept.iter().nth(at).unwrap();
                    store.roll_back_to(name).unwrap();
                    assert_eq!(store.step(), *step);
                    assert_eq!(digest(&store), digests[usize::try_from(*step).unwrap()], "seed {seed}");
                    drop(store);
                    store = open(&volume, &options).unwrap();
                }
                2 => drop(store.rollback().unwrap()),
                3 => {
                    drop(store);
                    store = open(&volume, &options).unwrap();
                }
                4..8 => drop(store.commit(b"").unwrap()),
                _ => one_step(&mut store, 60).unwrap(),
            }
            let step = usize::try_from(store.step()).unwrap();
            assert_eq!(digest(&store), digests[step], "seed {seed}, turn {turn}, step {step}");
        }
        for (name, step) in kept {
            let reader = ParamStore::open_read_only_in(below(&volume, &name), &options).unwrap();
            assert_eq!(digest(&reader), digests[usize::try_from(step).unwrap()], "seed {seed}, {name}");
        }
    }
}

/// The written blocks of the tensors of rows.
fn written(store: &ParamStore) -> Vec<BlockWritten> {
    let runs = store.blocks().map(Result::unwrap);
    let blocks = runs.filter_map(|run| if let BlockRun::Written(block) = run { Some(block) } else { None });
    blocks.filter(|block| block.plane.starts_with("record") || block.plane.contains("row")).collect()
}

fn flip(volume: &MemoryVolume, name: &str, offset: u64) {
    let file = volume.open(name, Access::Write, Caching::Cached).unwrap();
    let mut byte = [0];
    file.read_at(&mut byte, offset).unwrap();
    file.write_at(&[byte[0] ^ 0x10], offset).unwrap();
}

#[test]
fn a_generation_with_rows_is_dropped_or_passed_by_for_the_one_before() {
    let digests = digests(14);
    for steps in 2..14 {
        let volume = memory();
        let mut store = create(&volume, &schema(), &options(ROOMY)).unwrap();
        step_and_commit(&mut store, steps);
        drop(store);
        let last = usize::try_from(steps).unwrap();
        let previous = options(ROOMY).generation(Generation::Previous);
        let reader = ParamStore::open_read_only_in(shared(&volume), &previous).unwrap();
        assert_eq!(digest(&reader), digests[last - 1], "{steps} steps");
        drop(reader);
        Repair::open_in(shared(&volume)).unwrap().drop_newest(&VerifyOptions::new()).unwrap();
        let mut store = open(&volume, &options(TIGHT)).unwrap();
        assert_eq!((store.step(), digest(&store)), (steps - 1, digests[last - 1].clone()));
        step_and_commit(&mut store, 1);
        drop(store);
        let store = open(&volume, &options(ROOMY)).unwrap();
        assert_eq!(digest(&store), digests[last], "the same step again has the same bits");
        assert_sound(&shared(&volume));
    }
}

/// The rows in the log are newer than the block, and have to be so still when it was written anew.
#[test]
fn a_damaged_block_of_rows_gets_its_bytes_back_and_keeps_what_is_newer_in_the_log() {
    let digests = digests(12);
    let volume = memory();
    let mut store = create(&volume, &schema(), &options(ROOMY)).unwrap();
    step_and_commit(&mut store, 12);
    let blocks = written(&store);
    assert!(blocks.len() > 5 && store.row_log_bytes().0 > 0, "{blocks:?}");
    drop(store);
    let copy = volume.copy();
    for block in &blocks {
        flip(&volume, &block.file, block.offset + 100);
    }
    let mut repair = Repair::open_in(shared(&volume)).unwrap();
    let seen = repair.verify(&VerifyOptions::new(), |_| {}).unwrap();
    let plan = repair.plan_rebuild_from(&shared(&copy), &seen).unwrap();
    assert!(plan.is_lossless() && plan.exact == blocks.len() as u64, "{plan:?}");
    repair.rebuild_from(&shared(&copy), &seen).unwrap();
    assert!(repair.verify(&VerifyOptions::new(), |_| {}).unwrap().is_sound());
    drop(repair);
    let mut store = open(&volume, &options(TIGHT)).unwrap();
    assert_eq!(digest(&store), digests[12]);
    let mut out = vec![0.0; 150 * 24];
    store.gather_rows("words", &(0..150).collect::<Vec<_>>(), &mut out).unwrap();
    step_and_commit(&mut store, 1);
    drop(store);
    assert_sound(&shared(&volume));
}

#[test]
fn a_reader_keeps_its_rows_while_the_writer_goes_on_and_holds_it_up_at_the_second_commit() {
    let digests = digests(24);
    let volume = memory();
    let waits = options(ROOMY).reader_wait(Duration::ZERO);
    let mut store = create(&volume, &schema(), &waits).unwrap();
    for start in 0..12 {
        let at = usize::try_from(store.step()).unwrap();
        let reader = ParamStore::open_read_only_in(shared(&volume), &options(TIGHT)).unwrap();
        step_and_commit(&mut store, 1);
        assert_eq!(digest(&reader), digests[at], "the first commit does not touch what it reads");
        one_step(&mut store, 60).unwrap();
        let error = store.commit(b"").unwrap_err();
        assert!(matches!(error, Error::Pinned { .. }), "{error}");
        assert_eq!(digest(&reader), digests[at], "nor does the one that has to wait");
        drop(reader);
        if start % 4 == 3 {
            drop(store);
            store = open(&volume, &waits).unwrap();
        } else {
            // Nothing was lost by waiting.
            store.commit(b"").unwrap();
        }
        assert_eq!(digest(&store), digests[usize::try_from(store.step()).unwrap()]);
    }
}

/// A checkpoint is what one goes back to when something is lost: it must not hold what is lost already.
#[test]
fn a_store_with_a_damaged_batch_in_its_log_is_not_kept_and_nothing_is_made() {
    // A bit of the first batch's magic, of its first id, and of its first record, whose place its number of rows says.
    for (place, is_of_a_row) in [(3, false), (72, false), (100, true)] {
        for (can_share, is_first) in [(false, true), (false, false), (true, true), (true, false)] {
            let volume = volume(can_share);
            let mut store = create(&volume, &schema(), &options(ROOMY)).unwrap();
            step_and_commit(&mut store, 3);
            if !is_first {
                store.keep("whole").unwrap();
            }
            let name = volume.list().unwrap().into_iter().find(|name| name.starts_with("row_log")).unwrap();
            let (start, _) = store.engine().pager.lock().store().log_ranges()[0];
            let names = |volume: &MemoryVolume| -> Vec<_> {
                let all = volume.subvolume("checkpoints").unwrap();
                all.map_or(Vec::new(), |all| all.list().unwrap())
            };
            let before = names(&volume);
            let mut rows = [0; 4];
            let log = volume.open(&name, Access::Read, Caching::Cached).unwrap();
            log.read_at(&mut rows, start + 52).unwrap();
            let ids = if is_of_a_row { 8 * u64::from(u32::from_le_bytes(rows)) } else { 0 };
            flip(&volume, &name, start + ids + place);
            let error = store.keep("damaged").unwrap_err();
            let Error::Damaged(damage) = &error else { panic!("{error}") };
            assert!(damage.path.ends_with(&name), "{error}");
            let names_the_row = damage.what.starts_with("tensor \"") && damage.what.contains(", row ");
            assert_eq!(names_the_row, is_of_a_row, "{error}");
            assert_eq!(volume.subvolume("checkpoints").unwrap().is_none(), is_first);
            assert_eq!(names(&volume), before, "place {place}");
            // The same handle keeps it as soon as it is whole.
            flip(&volume, &name, start + ids + place);
            store.keep("mended").unwrap();
            assert_sound(&below(&volume, "mended"));
        }
    }
}

/// The log is read twice, once before anything is made and once to copy it. What is damaged in between is not kept either.
#[test]
fn a_batch_that_is_damaged_while_the_store_is_being_kept_is_not_kept() {
    let volume = volume(false);
    let mut store = create(&volume, &schema(), &options(60 * 4096)).unwrap();
    step_and_commit(&mut store, 3);
    let name = volume.list().unwrap().into_iter().find(|name| name.starts_with("row_log")).unwrap();
    let (start, _) = store.engine().pager.lock().store().log_ranges()[0];
    let mut calls = 0;
    let kept = store.keep_with("damaged", |_| {
        calls += 1;
        if calls == 1 {
            flip(&volume, &name, start + 72);
        }
    });
    let Err(Error::Damaged(damage)) = kept else { panic!("{kept:?}") };
    assert!(damage.path.ends_with(&name), "{damage:?}");
    let checkpoints = volume.subvolume("checkpoints").unwrap().map_or(Vec::new(), |all| all.list().unwrap());
    assert!(checkpoints.iter().all(|name| name != "damaged"), "{checkpoints:?}");
    flip(&volume, &name, start + 72);
    store.keep("damaged").unwrap();
    assert_sound(&below(&volume, "damaged"));
}
