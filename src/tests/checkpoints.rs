//! Kept checkpoints: what they hold, the way back, and what is left when something fails.

use std::io::ErrorKind;
use std::sync::Arc;

use super::{bits, create, memory, one_step, open, options, schema};
use crate::checkpoint::{Checkpoint, CheckpointState, list_in, prune_in};
use crate::inspect::VerifyOptions;
use crate::inspect::verify::verify_in;
use crate::storage::fault::{FaultVolume, Lasting};
use crate::storage::{Access, Allocation, Caching, MemoryVolume, Volume};
use crate::{Error, IoPath, Options, ParamStore, Result, Schema, TensorSpec};

fn sharing() -> MemoryVolume {
    MemoryVolume::with_sharing("store", u64::MAX)
}

fn below(volume: &dyn Volume, name: &str) -> Arc<dyn Volume> {
    volume.subvolume("checkpoints").unwrap().unwrap().subvolume(name).unwrap().unwrap()
}

fn listed(volume: &(impl Volume + Clone + 'static)) -> Vec<Checkpoint> {
    list_in(&(Arc::new(volume.clone()) as Arc<dyn Volume>)).unwrap()
}

fn names(volume: &(impl Volume + Clone + 'static)) -> Vec<String> {
    listed(volume).into_iter().map(|checkpoint| checkpoint.name).collect()
}

fn read(volume: &dyn Volume, name: &str) -> ParamStore {
    ParamStore::open_read_only_in(below(volume, name), &options()).unwrap()
}

fn step_and_commit(store: &mut ParamStore) {
    one_step(store).unwrap();
    let step = store.step().to_le_bytes();
    store.commit(&step).unwrap();
}

fn trained(volume: &MemoryVolume, options: &Options, steps: u64) -> ParamStore {
    let mut store = create(volume, &schema(4096), options).unwrap();
    (0..steps).for_each(|_| step_and_commit(&mut store));
    store
}

#[test]
fn a_checkpoint_is_a_sound_store_of_its_own_that_holds_the_committed_generation() {
    for volume in [memory(), sharing()] {
        let mut store = trained(&volume, &options(), 2);
        let digest = store.digest().unwrap();
        one_step(&mut store).unwrap();
        let estimate = store.keep_estimate().unwrap();
        let report = store.keep("two").unwrap();
        assert_eq!((report.generation, report.step, report.name.as_str()), (3, 2, "two"));
        let bytes = (report.bytes_copied, report.bytes_shared);
        assert_eq!(bytes, (estimate.bytes_to_copy, estimate.bytes_to_share));
        assert_eq!(bytes.1 > 0, volume.can_share());
        assert!(bytes.0 + bytes.1 > 100_000 && report.bytes_metadata <= estimate.bytes_metadata);
        assert_eq!(store.step(), 3, "the step after it goes on");

        let kept = below(&volume, "two");
        let reader = ParamStore::open_read_only_in(Arc::clone(&kept), &options()).unwrap();
        assert_eq!((reader.digest().unwrap(), reader.generation()), (digest, 3));
        assert_eq!(reader.user_record(), 2_u64.to_le_bytes());
        assert!(!reader.recovery().damaged && reader.recovery().lost_steps == 0);
        let summary = reader.summary().unwrap();
        assert_eq!(summary.features, ["sparse", "kept"]);
        assert_eq!(summary.uuid, store.summary().unwrap().uuid);
        let seen = verify_in(&kept, &VerifyOptions::new(), &mut |_| {}).unwrap();
        assert!(seen.is_sound() && seen.complete, "{seen:?}");
        assert_eq!(seen.bytes_read, bytes.0 + bytes.1);
    }
}

/// The homes that the generation does not use are holes, in a checkpoint that was copied and in one that was shared.
#[test]
fn a_checkpoint_takes_room_for_its_generation_and_no_more() {
    for volume in [memory(), sharing()] {
        let mut store = trained(&volume, &options(), 3);
        // So that the generation is spread over both homes.
        store.write("bias", &[1.0; 37]).unwrap();
        store.commit(b"").unwrap();
        let free = volume.free_bytes().unwrap();
        let estimate = store.keep_estimate().unwrap();
        store.keep("a").unwrap();
        let taken = free - volume.free_bytes().unwrap();
        let blocks = estimate.bytes_to_copy + estimate.bytes_to_share;
        assert!(taken <= blocks + estimate.bytes_metadata, "{taken} of {estimate:?}");
        // Pages of zeros in padding take no room where they are shared.
        assert!(taken > blocks / 2, "{taken} of {estimate:?}");
        assert!(listed(&volume)[0].bytes_allocated <= taken);
        assert_eq!(store.prune("a").unwrap() / 4096, taken / 4096 - volume_lock_pages(&volume, free));
        assert!(names(&volume).is_empty());
    }
}

/// The lock of the directory of checkpoints stays.
fn volume_lock_pages(volume: &MemoryVolume, free: u64) -> u64 {
    (free - volume.free_bytes().unwrap()) / 4096
}

#[test]
fn after_the_way_back_training_goes_on_with_the_same_bits() {
    for (path, budget) in
        [(IoPath::Auto, 256 << 10), (IoPath::Direct, 14 * 4096), (IoPath::Mapped, 14 * 4096)]
    {
        let options = options().memory_budget(budget).io_path(path);
        for volume in [memory(), sharing()] {
            let mut store = trained(&volume, &options, 2);
            let at_two = store.digest().unwrap();
            store.keep("two").unwrap();
            for _ in 0..3 {
                step_and_commit(&mut store);
            }
            store.group_mut("sgd").unwrap().set_lr(7.0).unwrap();
            let at_five = store.digest().unwrap();
            one_step(&mut store).unwrap();
            let estimate = store.roll_back_estimate("two").unwrap();
            assert_eq!((estimate.steps_lost, estimate.step, estimate.step_now), (4, 2, 6));
            let report = store.roll_back_to("two").unwrap();
            assert_eq!((report.generation, report.step, report.steps_lost), (7, 2, 4));
            assert_eq!(
                (report.planes_copied, report.bytes_copied),
                (estimate.planes_to_copy, estimate.bytes_to_copy)
            );
            assert_eq!((store.step(), store.committed_step(), store.generation()), (2, 2, 7));
            assert_eq!(
                (store.digest().unwrap(), store.user_record()),
                (at_two.clone(), &2_u64.to_le_bytes()[..])
            );
            assert!((store.group_mut("sgd").unwrap().optimizer().lr() - 0.1).abs() < 1e-12);
            drop(store);
            let mut store = open(&volume, &options).unwrap();
            assert_eq!(store.digest().unwrap(), at_two);
            for _ in 0..3 {
                step_and_commit(&mut store);
            }
            assert_eq!(store.digest().unwrap(), at_five);
            assert_eq!(read(&volume, "two").digest().unwrap(), at_two, "the checkpoint stays");
            store.roll_back_to("two").unwrap();
            assert_eq!(store.digest().unwrap(), at_two, "as often as one likes");
        }
    }
}

/// Blocks that did not exist at the checkpoint have their initial values again, and are written anew.
#[test]
fn blocks_born_after_a_checkpoint_are_unborn_again() {
    let volume = memory();
    let mut store = create(&volume, &schema(4096), &options()).unwrap();
    let at_zero = store.digest().unwrap();
    let report = store.keep("zero").unwrap();
    assert_eq!((report.bytes_copied, report.bytes_shared), (0, 0));
    store.write("bias", &[2.0; 37]).unwrap();
    store.commit(b"").unwrap();
    let after_bias = store.digest().unwrap();
    store.keep("bias").unwrap();
    for _ in 0..2 {
        step_and_commit(&mut store);
    }
    let at_two = bits(&store).unwrap();
    let report = store.roll_back_to("bias").unwrap();
    assert!(report.planes_unborn > 10 && report.planes_copied == 1, "{report:?}");
    assert_eq!(store.digest().unwrap(), after_bias);
    let report = store.roll_back_to("zero").unwrap();
    assert_eq!((report.planes_copied, report.planes_unborn, report.planes_same), (0, 1, 0));
    assert_eq!(store.digest().unwrap(), at_zero);
    let seen = verify_in(&(Arc::new(volume.clone()) as Arc<dyn Volume>), &VerifyOptions::new(), &mut |_| {});
    let seen = seen.unwrap();
    assert!(seen.is_sound() && seen.blocks == 0, "{seen:?}");
    store.write("bias", &[2.0; 37]).unwrap();
    for _ in 0..2 {
        step_and_commit(&mut store);
    }
    assert!(bits(&store).unwrap() == at_two);
    drop(store);
    assert!(bits(&open(&volume, &options()).unwrap()).unwrap() == at_two);
}

#[test]
fn blocks_that_did_not_change_are_not_copied_on_the_way_back() {
    let volume = memory();
    let mut store = trained(&volume, &options(), 2);
    store.keep("two").unwrap();
    store.write("bias", &[1.5; 37]).unwrap();
    store.commit(b"").unwrap();
    let report = store.roll_back_to("two").unwrap();
    assert_eq!((report.planes_copied, report.bytes_copied), (1, 4096));
    assert!(report.planes_same > 20, "{report:?}");
    let nothing = store.roll_back_to("two").unwrap();
    assert_eq!((nothing.planes_copied, nothing.generation), (1, report.generation + 1));
}

#[test]
fn a_checkpoint_is_never_opened_for_writing_nor_kept_itself() {
    let volume = memory();
    trained(&volume, &options(), 1).keep("a").unwrap();
    let kept = below(&volume, "a");
    let before = kept.list().unwrap();
    let error = ParamStore::open_in(Arc::clone(&kept), &options()).unwrap_err();
    assert!(matches!(&error, Error::Kept { .. }), "{error}");
    assert!(error.hint().contains("checkpoint rollback STORE NAME"), "{}", error.hint());
    assert!(matches!(read(&volume, "a").keep("b"), Err(Error::Kept { .. })));
    assert!(matches!(read(&volume, "a").roll_back_to("a"), Err(Error::ReadOnly { .. })));
    assert_eq!(kept.list().unwrap(), before);
}

#[test]
fn a_reader_keeps_its_generation_beside_a_writer() {
    let volume = memory();
    let mut store = trained(&volume, &options(), 2);
    let digest = store.digest().unwrap();
    let mut reader = ParamStore::open_read_only_in(Arc::new(volume.clone()), &options()).unwrap();
    step_and_commit(&mut store);
    assert_eq!(reader.keep("old").unwrap().generation, 3);
    assert_eq!(store.keep("new").unwrap().generation, 4);
    assert_eq!(read(&volume, "old").digest().unwrap(), digest);
    assert_eq!(names(&volume), ["old", "new"]);
}

#[test]
fn names_that_are_none_and_names_that_are_taken_are_refused() {
    let volume = memory();
    let mut store = trained(&volume, &options(), 1);
    store.keep("taken").unwrap();
    let left = volume.subvolume("checkpoints").unwrap().unwrap().list().unwrap();
    for name in
        ["", ".", "..", "../out", "a/b", "/tmp/a", "-f", ".hidden", "a b", "a\0", "lock", &"x".repeat(65)]
    {
        assert!(matches!(store.keep(name), Err(Error::Invalid { .. })), "{name:?}");
        assert!(matches!(store.roll_back_to(name), Err(Error::Invalid { .. })), "{name:?}");
        assert!(matches!(store.prune(name), Err(Error::Invalid { .. })), "{name:?}");
    }
    let error = store.keep("taken").unwrap_err();
    assert!(matches!(error, Error::AlreadyExists { .. }), "{error}");
    for result in [store.prune("none").map(|_| ()), store.roll_back_to("none").map(|_| ())] {
        assert!(matches!(result, Err(Error::Unknown { kind: "checkpoint", .. })));
    }
    assert_eq!(volume.subvolume("checkpoints").unwrap().unwrap().list().unwrap(), left);
    assert_eq!(store.step(), 1);
}

/// What somebody else put there is not removed, however often one asks.
#[test]
fn a_directory_that_is_no_checkpoint_is_told_and_not_touched() {
    let volume = memory();
    let mut store = trained(&volume, &options(), 1);
    store.keep("a").unwrap();
    let kept = below(&volume, "a");
    kept.remove("meta").unwrap();
    let notes = volume.subvolume("checkpoints").unwrap().unwrap().create_subvolume("notes").unwrap();
    notes.create("notes.txt", 5, Allocation::Sparse).unwrap();
    notes.create("meta.new", 5, Allocation::Sparse).unwrap();
    for name in ["a", "notes"] {
        let before = below(&volume, name).list().unwrap();
        for result in [
            store.keep(name).map(|_| ()),
            store.prune(name).map(|_| ()),
            store.roll_back_to(name).map(|_| ()),
        ] {
            assert!(matches!(result, Err(Error::NotAStore { .. })), "{name}: {result:?}");
        }
        assert_eq!(below(&volume, name).list().unwrap(), before);
    }
    assert!(listed(&volume).iter().all(|found| matches!(found.state, CheckpointState::Damaged(_))));
}

#[test]
fn a_mixed_store_keeps_its_last_commit_and_goes_back() {
    let volume = memory();
    let mut store = trained(&volume, &options(), 2);
    let at_two = store.digest().unwrap();
    let mut step = store.begin_step().unwrap();
    step.apply("big", &vec![1.0; 9000]).unwrap();
    drop(step);
    assert!(matches!(store.commit(b""), Err(Error::Mixed { .. })));
    assert_eq!(store.keep("two").unwrap().step, 2);
    assert_eq!(read(&volume, "two").digest().unwrap(), at_two);
    store.roll_back_to("two").unwrap();
    assert_eq!(store.digest().unwrap(), at_two);
    step_and_commit(&mut store);
}

/// The way back writes over homes that the generation before the committed one uses.
#[test]
fn the_way_back_waits_for_readers_as_a_commit_does() {
    let volume = memory();
    let mut store = trained(&volume, &options().reader_wait(std::time::Duration::ZERO), 2);
    store.keep("two").unwrap();
    let reader = ParamStore::open_read_only_in(Arc::new(volume.clone()), &options()).unwrap();
    let at_two = reader.digest().unwrap();
    step_and_commit(&mut store);
    let at_three = store.digest().unwrap();
    let error = store.roll_back_to("two").unwrap_err();
    assert!(matches!(error, Error::Pinned { generation: 3, .. }), "{error}");
    assert_eq!((store.digest().unwrap(), reader.digest().unwrap()), (at_three, at_two.clone()));
    drop(reader);
    store.roll_back_to("two").unwrap();
    assert_eq!(store.digest().unwrap(), at_two);
}

fn flip(volume: &dyn Volume, file: &str) {
    let file = volume.open(file, Access::Write, Caching::Cached).unwrap();
    let mut byte = [0];
    file.read_at(&mut byte, 5).unwrap();
    file.write_at(&[byte[0] ^ 0x10], 5).unwrap();
}

#[test]
fn damage_is_neither_kept_nor_taken_back() {
    let volume = memory();
    let mut store = trained(&volume, &options(), 1);
    store.keep("whole").unwrap();
    step_and_commit(&mut store);
    let at_two = store.digest().unwrap();
    flip(&*below(&volume, "whole"), "param.0000.0");
    one_step(&mut store).unwrap();
    let error = store.roll_back_to("whole").unwrap_err();
    let Error::Damaged(damage) = &error else { panic!("{error}") };
    assert!(
        damage.path.ends_with("checkpoints/whole/param.0000.0") && damage.what.contains("big"),
        "{error}"
    );
    assert_eq!(
        (store.step(), store.digest().unwrap()),
        (2, at_two),
        "the last commit, and the handle goes on"
    );
    step_and_commit(&mut store);
    // Generation 4 is in home 0 again.
    flip(&volume, "exp_avg.0000.0");
    let error = store.keep("damaged").unwrap_err();
    assert!(matches!(&error, Error::Damaged(damage) if damage.what.contains("exp_avg")), "{error}");
    assert_eq!(names(&volume), ["whole"]);
}

#[test]
fn a_checkpoint_of_another_store_is_refused() {
    let (volume, other) = (memory(), memory());
    let mut store = trained(&volume, &options(), 2);
    store.keep("a").unwrap();
    trained(&other, &options(), 2).keep("a").unwrap();
    let (kept, foreign) = (below(&volume, "a"), below(&other, "a"));
    for name in kept.list().unwrap() {
        let (from, to) = (
            foreign.open(&name, Access::Read, Caching::Cached),
            kept.open(&name, Access::Write, Caching::Cached),
        );
        let from = from.unwrap();
        let mut bytes = vec![0; usize::try_from(from.len_bytes().unwrap()).unwrap()];
        from.read_at(&mut bytes, 0).unwrap();
        to.unwrap().write_at(&bytes, 0).unwrap();
    }
    one_step(&mut store).unwrap();
    let error = store.roll_back_to("a").unwrap_err();
    assert!(matches!(&error, Error::Damaged(damage) if damage.what.contains("uuid")), "{error}");
    assert_eq!(store.step(), 3, "nothing was forgotten for it");
}

#[test]
fn a_full_disk_is_told_before_anything_is_made() {
    let volume = MemoryVolume::with_capacity("store", 3 << 20);
    let mut store = trained(&volume, &options(), 2);
    let left = volume.free_bytes().unwrap();
    let filling = left - 40_000;
    volume.create("filling", filling, Allocation::Full).unwrap();
    let free = volume.free_bytes().unwrap();
    let error = store.keep("a").unwrap_err();
    let Error::NoSpace { needed, free: said, path } = &error else { panic!("{error}") };
    assert!(*said == free && needed > said && path.ends_with("checkpoints/a"), "{error}");
    assert_eq!((volume.free_bytes().unwrap(), listed(&volume).len()), (free, 0));
    volume.remove("filling").unwrap();
    store.keep("a").unwrap();
    assert_eq!(names(&volume), ["a"]);
}

/// A trillion parameters of which a few were written: kept in the time and room of these.
#[test]
fn a_giant_sparse_store_is_kept_by_what_was_written() {
    let volume = memory();
    let group = crate::ParamGroup::new("all", crate::Optimizer::Lion(crate::optim::Lion::default()));
    let schema = Schema::new().group(group).tensor(TensorSpec::new("w", &[1_000_000, 1_000_000]));
    let options = Options::new().memory_budget(64 << 20).sparse(true).threads(1);
    let mut store = create(&volume, &schema, &options).unwrap();
    store.write_range("w", 999_999_000_000, &vec![1.0; 5000]).unwrap();
    store.commit(b"").unwrap();
    let report = store.keep("a").unwrap();
    assert!(report.bytes_copied <= 8 << 20 && report.bytes_metadata < 1 << 20, "{report:?}");
    store.write_range("w", 5, &[1.0; 5]).unwrap();
    store.commit(b"").unwrap();
    let back = store.roll_back_to("a").unwrap();
    assert_eq!((back.planes_copied, back.planes_same, back.planes_unborn), (0, 1, 1), "{back:?}");
}

/// A run with everything in it; says how far it came.
fn script(volume: &FaultVolume, done: &mut Vec<&'static str>) -> Result<()> {
    let mut store = open(volume, &options())?;
    store.keep("a")?;
    done.push("kept a");
    one_step(&mut store)?;
    store.commit(&2_u64.to_le_bytes())?;
    store.keep("b")?;
    done.push("kept b");
    store.roll_back_to("a")?;
    done.push("back");
    store.prune("a")?;
    done.push("pruned a");
    Ok(())
}

#[test]
fn a_failed_operation_leaves_whole_checkpoints_or_none_and_the_store_as_it_was() {
    let base = sharing();
    let at_one = trained(&base, &options(), 1).digest().unwrap();
    let at_two = {
        let twin = base.copy();
        let mut twin = open(&twin, &options()).unwrap();
        step_and_commit(&mut twin);
        twin.digest().unwrap()
    };
    let clean = FaultVolume::new(base.copy());
    script(&clean, &mut Vec::new()).unwrap();
    let count = clean.operation_count();
    assert!(count > 150, "{count}");
    for (at, lasting) in (0..count).flat_map(|at| [(at, Lasting::Once), (at, Lasting::FromThenOn)]) {
        let volume = FaultVolume::new(base.copy());
        volume.fail_at(at, ErrorKind::Other, lasting);
        let mut done = Vec::new();
        let result = script(&volume, &mut done);
        volume.heal();
        let story = format!("operation {at}, {lasting:?}: {done:?}, {result:?}");
        let mut store = open(&volume, &options()).unwrap_or_else(|error| panic!("{story}: {error}"));
        let digest = store.digest().unwrap();
        assert!(digest == at_one || digest == at_two, "{story}");
        for found in listed(&volume) {
            match found.state {
                CheckpointState::Interrupted => {}
                CheckpointState::Damaged(why) => panic!("{story}: {why}"),
                CheckpointState::Kept { .. } => {
                    let expected = if found.name == "a" { &at_one } else { &at_two };
                    assert_eq!(read(&volume, &found.name).digest().unwrap(), *expected, "{story}");
                }
            }
        }
        let is_kept = |name: &str| listed(&volume).iter().any(|c| c.name == name && c.generation().is_some());
        assert!(!done.contains(&"kept b") || is_kept("b"), "{story}");
        assert!(!done.contains(&"pruned a") || !is_kept("a"), "{story}");
        for name in ["a", "b"] {
            // Whatever was left: the name can be used again.
            match store.keep(name) {
                Ok(_) | Err(Error::AlreadyExists { .. }) => {}
                Err(error) => panic!("{story}: keep {name}: {error}"),
            }
            prune_in(&(Arc::new(volume.clone()) as Arc<dyn Volume>), name).unwrap();
        }
        assert!(names(&volume).is_empty(), "{story}");
    }
}
