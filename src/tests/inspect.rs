//! Looking into stores: sums that add up, digests that depend on content alone, damage that is found where it is.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::{create, memory, one_step, open, options, schema};
use crate::format::directory::{Dtype, is_plane_name};
use crate::inspect::verify::verify_in;
use crate::inspect::{BlockRun, BlockWritten, Finding, Verification, VerifyOptions};
use crate::optim::{AdamW, NAdam, Optimizer};
use crate::storage::{Access, Caching, MemoryVolume, Volume};
use crate::{Error, Generation, Init, Options, ParamGroup, ParamStore, Schema, TensorSpec};

fn trained(block_bytes: u64, steps: u64) -> (MemoryVolume, ParamStore) {
    let volume = memory();
    let options = options().memory_budget((64 * block_bytes).max(256 << 10));
    let mut store = create(&volume, &schema(block_bytes), &options).unwrap();
    for _ in 0..steps {
        one_step(&mut store).unwrap();
        store.commit(b"cursor").unwrap();
    }
    (volume, store)
}

fn look(volume: &MemoryVolume, options: &VerifyOptions) -> Verification {
    verify_in(&(Arc::new(volume.clone()) as Arc<dyn Volume>), options, &mut |_| {}).unwrap()
}

fn written(store: &ParamStore) -> Vec<BlockWritten> {
    let runs = store.blocks().map(Result::unwrap);
    runs.filter_map(|run| if let BlockRun::Written(block) = run { Some(block) } else { None }).collect()
}

pub(super) fn flip(volume: &MemoryVolume, file: &str, offset: u64) {
    let file = volume.open(file, Access::Write, Caching::Cached).unwrap();
    let mut byte = [0];
    file.read_at(&mut byte, offset).unwrap();
    file.write_at(&[byte[0] ^ 0x10], offset).unwrap();
}

fn total_len(volume: &MemoryVolume) -> u64 {
    let len = |name: String| volume.open(&name, Access::Read, Caching::Cached).unwrap().len_bytes().unwrap();
    volume.list().unwrap().into_iter().map(len).sum()
}

#[test]
fn parts_of_a_summary_add_up_to_the_lengths_of_all_files() {
    for block_bytes in [4096, 1 << 16] {
        let (volume, mut store) = trained(block_bytes, 2);
        one_step(&mut store).unwrap();
        let summary = store.summary().unwrap();
        assert_eq!(summary.disk.total(), total_len(&volume));
        assert_eq!(summary.bytes_on_disk, total_len(&volume));
        assert_eq!((summary.generation, summary.step, summary.uncommitted_steps), (3, 2, 1));
        assert_eq!((summary.params, summary.tensors), (12_038, 4));
        let planes: Vec<_> = summary.planes.iter().map(|p| (p.name.as_str(), p.elements, p.homes)).collect();
        let expected = [
            ("param", 12_038, 2),
            ("exp_avg", 9001, 2),
            ("exp_avg_sq", 9001, 2),
            ("momentum_buffer", 3037, 2),
            ("grad", 12_038, 1),
        ];
        assert_eq!(planes, expected);
        assert!(summary.planes.iter().all(|p| p.dtypes == [Dtype::F32] && is_plane_name(&p.name)));
        assert_eq!(summary.user_record_bytes, 6);
    }
}

#[test]
fn summary_beside_a_writer_tells_the_steps_that_are_not_committed() {
    let (volume, mut writer) = trained(4096, 1);
    one_step(&mut writer).unwrap();
    one_step(&mut writer).unwrap();
    let reader = ParamStore::open_read_only_in(Arc::new(volume.clone()), &options()).unwrap();
    let summary = reader.summary().unwrap();
    assert_eq!((summary.step, summary.uncommitted_steps), (1, 2));
    drop((reader, writer));
    // The next writer begins behind the note, and passes it.
    let mut writer = open(&volume, &options()).unwrap();
    assert_eq!(writer.summary().unwrap().uncommitted_steps, 0);
    for _ in 0..3 {
        one_step(&mut writer).unwrap();
        writer.commit(b"").unwrap();
    }
    assert_eq!(writer.summary().unwrap().uncommitted_steps, 0);
}

#[test]
fn a_plan_says_to_the_byte_what_create_takes() {
    for block_bytes in [4096, 1 << 14] {
        let schema = schema(block_bytes);
        let plan = schema.plan(&options()).unwrap();
        let volume = memory();
        let mut store = create(&volume, &schema, &options()).unwrap();
        let summary = store.summary().unwrap();
        assert_eq!(plan.bytes_on_disk, total_len(&volume));
        assert_eq!(plan.disk, summary.disk);
        assert_eq!((plan.planes, plan.blocks, plan.table), (summary.planes, summary.blocks, summary.table));
        one_step(&mut store).unwrap();
        store.commit(b"record").unwrap();
        assert_eq!(total_len(&volume), plan.bytes_on_disk, "no file grows");
        drop(store);
        let with = |bytes| open(&volume, &options().memory_budget(bytes));
        assert!(with(plan.budget_min_bytes).is_ok());
        assert!(matches!(with(plan.budget_min_bytes - 1), Err(Error::Budget { .. })));
    }
}

#[test]
fn digest_depends_on_neither_block_size_nor_budget_nor_generation() {
    let mut digests = HashSet::new();
    for (block_bytes, budget) in [(4096, 256 << 10), (8192, 1 << 20), (1 << 16, 8 << 20)] {
        let volume = memory();
        let options = options().memory_budget(budget);
        let mut store = create(&volume, &schema(block_bytes), &options).unwrap();
        for step in 0..4 {
            one_step(&mut store).unwrap();
            if step % 3 == 0 || block_bytes == 8192 {
                store.commit(&[step]).unwrap();
            }
        }
        let before = store.digest().unwrap();
        store.commit(b"").unwrap();
        drop(store);
        let store = ParamStore::open_read_only_in(Arc::new(volume), &options).unwrap();
        assert_eq!(store.digest().unwrap(), before);
        digests.insert(before.to_string());
    }
    assert_eq!(digests.len(), 1);
}

#[test]
fn digest_of_values_written_out_is_that_of_the_same_values_at_birth() {
    let tensors = |reverse: bool| {
        let mut tensors = vec![
            TensorSpec::new("zeros", &[300_000]),
            TensorSpec::new("ones", &[7]).init(Init::Constant(1.0)),
            TensorSpec::new("noise", &[70, 70]).init(Init::Normal { mean: 0.0, std: 1.0 }),
        ];
        if reverse {
            tensors.reverse();
        }
        let group = ParamGroup::new("all", Optimizer::AdamW(AdamW::default()));
        let schema = Schema::new().seed(5).block_bytes(4096).group(group);
        tensors.into_iter().fold(schema, Schema::tensor)
    };
    let mut store = create(&memory(), &tensors(false), &options()).unwrap();
    let at_birth = store.digest().unwrap();
    assert_eq!(store.stats().bytes_read, 0);
    for (name, elements) in [("zeros", 300_000), ("ones", 7), ("noise", 4900)] {
        let mut values = vec![0.0; elements];
        store.read_into(name, &mut values).unwrap();
        store.write(name, &values).unwrap();
    }
    assert_eq!(store.digest().unwrap(), at_birth);
    store.commit(b"").unwrap();
    assert_eq!(store.digest().unwrap(), at_birth);
    let reversed = create(&memory(), &tensors(true), &options()).unwrap().digest().unwrap();
    assert_eq!(reversed.to_string(), at_birth.to_string());
    store.write_range("zeros", 299_999, &[-0.0]).unwrap();
    let changed = store.digest().unwrap();
    assert_ne!(changed.to_string(), at_birth.to_string());
    let same = changed.tensors.iter().zip(&at_birth.tensors).map(|(a, b)| a == b).collect::<Vec<_>>();
    assert_eq!(same, [false, true, true]);
}

#[test]
fn digest_tells_apart_names_shapes_clocks_and_steps() {
    let digest = |name: &str, shape: &[u64], optimizer: Optimizer, steps: u64| {
        let schema = Schema::new()
            .block_bytes(4096)
            .group(ParamGroup::new("all", optimizer))
            .tensor(TensorSpec::new(name, shape));
        let mut store = create(&memory(), &schema, &options()).unwrap();
        for _ in 0..steps {
            let zeros = vec![0.0; usize::try_from(shape.iter().product::<u64>()).unwrap()];
            let mut step = store.begin_step().unwrap();
            step.apply(name, &zeros).unwrap();
            step.finish().unwrap();
        }
        store.digest().unwrap().to_string()
    };
    let adamw = Optimizer::AdamW(AdamW::default());
    let nadam = |momentum_decay| Optimizer::NAdam(NAdam { momentum_decay, ..NAdam::default() });
    let digests = [
        digest("a", &[20, 30], adamw, 0),
        digest("b", &[20, 30], adamw, 0),
        digest("a", &[30, 20], adamw, 0),
        digest("a", &[600], adamw, 0),
        // Zero gradients leave zeros as they are: the clock and the step differ alone.
        digest("a", &[20, 30], adamw, 1),
        digest("a", &[20, 30], adamw, 2),
        // The product of momenta differs alone.
        digest("a", &[20, 30], nadam(0.004), 2),
        digest("a", &[20, 30], nadam(0.4), 2),
    ];
    assert_eq!(digests.iter().collect::<HashSet<_>>().len(), digests.len());
    assert_eq!(
        digest("a", &[20, 30], nadam(0.4), 0),
        digests[0],
        "the same planes, and nothing happened yet"
    );
}

#[test]
fn listing_of_blocks_names_every_plane_of_every_block_once() {
    let (_, store) = trained(4096, 1);
    let summary = store.summary().unwrap();
    let blocks = written(&store);
    let distinct: HashSet<_> = blocks.iter().map(|b| (b.block, &b.plane)).collect();
    assert_eq!(distinct.len(), blocks.len());
    let absent = store.blocks().map(Result::unwrap).map(|run| match run {
        BlockRun::Absent(absent) => absent.planes,
        BlockRun::Written(_) => 0,
    });
    assert_eq!(absent.sum::<u64>(), 0, "every block was written by the step");
    assert_eq!(blocks.len() as u64 + summary.tensors, summary.table.entries);
    let shared = blocks.iter().find(|b| b.tensors.len() > 1);
    assert_eq!(shared, None, "tensors of different groups do not share a block");
    assert!(blocks.iter().all(|b| b.generation == 2 && b.home == 0 && b.file.ends_with(".0000.0")));
    let bytes: u64 = blocks.iter().map(|b| b.bytes).sum();
    let values = summary.disk.parameters + summary.disk.state.iter().map(|p| p.bytes).sum::<u64>();
    assert!(bytes >= values && bytes < values + 4096, "{bytes} bytes of blocks for {values} bytes of values");
}

/// A byte of a home that no committed block uses changes nothing; every other one is found, and named.
#[test]
fn a_flipped_byte_is_found_exactly_where_a_committed_block_uses_it() {
    let (volume, store) = trained(4096, 3);
    let blocks = written(&store);
    drop(store);
    let options = VerifyOptions::new().pin_time(Duration::from_secs(60));
    let clean = look(&volume, &options);
    assert!(clean.is_sound() && clean.complete, "{:?}", clean.findings);
    assert_eq!(clean.blocks, blocks.len() as u64);
    let mut found = 0;
    let segments = volume.list().unwrap().into_iter().filter(|name| name.contains(".0000."));
    for name in segments {
        let len = volume.open(&name, Access::Read, Caching::Cached).unwrap().len_bytes().unwrap();
        for offset in (0..len).step_by(1021) {
            let used = |b: &&BlockWritten| b.file == name && (b.offset..b.offset + b.bytes).contains(&offset);
            let block = blocks.iter().find(used);
            flip(&volume, &name, offset);
            let seen = look(&volume, &options);
            flip(&volume, &name, offset);
            let findings: Vec<_> = seen.findings.iter().map(place).collect();
            let expected: Vec<_> = block
                .iter()
                .map(|b| {
                    (
                        b.tensors.clone(),
                        Some(b.plane.clone()),
                        Some(b.block),
                        b.file.clone(),
                        (b.offset, b.bytes),
                    )
                })
                .collect();
            assert_eq!(findings, expected, "byte {offset} of {name}");
            assert_eq!((seen.findings_total, seen.complete), (findings.len() as u64, true));
            found += findings.len();
        }
    }
    assert!(found > 20, "{found}");
}

type Place = (Vec<String>, Option<String>, Option<u64>, String, (u64, u64));

fn place(finding: &Finding) -> Place {
    let Finding { damage, tensors, plane, block } = finding;
    let file = damage.path.file_name().unwrap().to_string_lossy().into_owned();
    assert!(damage.got.starts_with("checksum "), "{damage}");
    (tensors.clone(), plane.clone(), *block, file, damage.range)
}

#[test]
fn all_damage_is_counted_and_as_much_listed_as_asked_for() {
    let (volume, store) = trained(4096, 2);
    let blocks = written(&store);
    drop(store);
    for block in &blocks {
        flip(&volume, &block.file, block.offset + block.bytes - 1);
    }
    let seen = look(&volume, &VerifyOptions::new().findings_max(5));
    assert_eq!((seen.findings.len(), seen.findings_total), (5, blocks.len() as u64));
    assert!(!seen.is_sound() && seen.complete);
}

#[test]
fn a_look_that_is_renewed_at_every_entry_sees_the_same_as_one_in_one_go() {
    let (volume, store) = trained(4096, 2);
    let blocks = written(&store);
    drop(store);
    flip(&volume, &blocks[3].file, blocks[3].offset);
    let whole = look(&volume, &VerifyOptions::new().pin_time(Duration::from_secs(60)).io_threads(1));
    let renewed = look(&volume, &VerifyOptions::new().pin_time(Duration::ZERO).memory(0));
    assert_eq!(whole.findings, renewed.findings);
    assert_eq!(Verification { seconds: 0.0, ..whole }, Verification { seconds: 0.0, ..renewed });
}

/// What a look that is cut off after any renewal of its pin leaves is enough to go on, and comes to the same.
#[test]
fn a_look_that_was_cut_off_anywhere_goes_on_and_comes_to_the_same() {
    let (volume, store) = trained(4096, 2);
    let blocks = written(&store);
    drop(store);
    flip(&volume, &blocks[3].file, blocks[3].offset);
    flip(&volume, &blocks[9].file, blocks[9].offset);
    flip(&volume, "meta", 0);
    let shared: Arc<dyn Volume> = Arc::new(volume.clone());
    // With one thread findings come in one order.
    let options = || VerifyOptions::new().io_threads(1);
    let whole = look(&volume, &options());
    assert_eq!(whole.findings.len(), 3);
    let mut marks = Vec::new();
    let often = options().pin_time(Duration::ZERO);
    verify_in(&shared, &often, &mut |progress| marks.extend(progress.so_far.cloned())).unwrap();
    assert!(marks.len() > blocks.len(), "{}", marks.len());
    for mark in marks {
        let at = mark.entries_done;
        let resumed = look(&volume, &options().resume(mark));
        assert!(resumed.findings_total == 3, "from entry {at}: {:?}", resumed.findings);
        assert_eq!(Verification { seconds: 0.0, ..whole.clone() }, Verification { seconds: 0.0, ..resumed });
    }
    let mut foreign = whole.clone();
    foreign.uuid = Some("another".to_owned());
    let error = verify_in(&shared, &options().resume(foreign), &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("earlier verification"), "{error}");
}

/// The generation before the newest is read whole as long as nobody has written after the last commit; afterwards its
/// overwritten blocks are found to be damaged, and a writer at work keeps readers out.
#[test]
fn the_previous_generation_is_whole_until_a_step_takes_its_homes() {
    let (volume, store) = trained(4096, 3);
    drop(store);
    // So little memory that a step writes behind before it is committed.
    let mut store = open(&volume, &options().memory_budget(96 << 10)).unwrap();
    let previous = || VerifyOptions::new().generation(Generation::Previous);
    let shared: Arc<dyn Volume> = Arc::new(volume.clone());
    let newest = look(&volume, &VerifyOptions::new()).last_generation;
    let seen = look(&volume, &previous());
    assert!(seen.is_sound() && seen.complete, "{seen:?}");
    assert_eq!((seen.last_generation, seen.first_generation), (newest - 1, newest - 1));
    let reader = |volume: &Arc<dyn Volume>| {
        let options = Options::new().memory_budget(1 << 20).generation(Generation::Previous);
        ParamStore::open_read_only_in(Arc::clone(volume), &options)
    };
    let step = store.step();
    assert_eq!(reader(&shared).unwrap().step(), step - 1);

    one_step(&mut store).unwrap();
    let error = verify_in(&shared, &previous(), &mut |_| {}).unwrap_err();
    assert!(matches!(error, Error::Locked { .. }), "{error}");
    drop(store);
    let seen = look(&volume, &previous());
    assert!(!seen.is_sound() && seen.complete, "blocks of the previous generation were overwritten");
    assert!(look(&volume, &VerifyOptions::new()).is_sound());
}

#[test]
fn a_store_that_was_never_committed_has_no_previous_generation() {
    let (volume, store) = trained(4096, 0);
    drop(store);
    let shared: Arc<dyn Volume> = Arc::new(volume);
    let options = VerifyOptions::new().generation(Generation::Previous);
    let error = verify_in(&shared, &options, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("generation 1 and no other"), "{error}");
    let options = Options::new().memory_budget(1 << 20).generation(Generation::Previous);
    let error = ParamStore::open_in(shared, &options).unwrap_err();
    assert!(error.to_string().contains("repair"), "{error}");
}

#[test]
fn missing_and_short_segments_are_found_and_the_others_still_checked() {
    let (volume, store) = trained(4096, 1);
    let blocks = written(&store);
    drop(store);
    let in_plane = |plane: &str| blocks.iter().filter(|b| b.plane == plane).count() as u64;
    volume.remove("exp_avg.0000.0").unwrap();
    let kept = 4096;
    let param = volume.open("param.0000.0", Access::Read, Caching::Cached).unwrap();
    let mut bytes = vec![0; 4096];
    param.read_at(&mut bytes, 0).unwrap();
    volume.remove("param.0000.0").unwrap();
    volume.create("param.0000.0", kept, crate::storage::Allocation::Full).unwrap();
    volume.open("param.0000.0", Access::Write, Caching::Cached).unwrap().write_at(&bytes, 0).unwrap();
    let seen = look(&volume, &VerifyOptions::new());
    // Each file by itself, and every block that it should hold; the first block of `param` is still there.
    let expected = 1 + in_plane("exp_avg") + 1 + in_plane("param") - 1;
    assert_eq!(seen.findings_total, expected, "{:#?}", seen.findings);
    assert!(
        seen.findings
            .iter()
            .all(|f| f.damage.path.ends_with("exp_avg.0000.0") || f.damage.path.ends_with("param.0000.0"))
    );
    assert!(seen.complete);
}

#[test]
fn damaged_superblock_is_found_and_the_older_generation_checked() {
    let (volume, store) = trained(4096, 2);
    drop(store);
    flip(&volume, "meta", 4096 + 100);
    let seen = look(&volume, &VerifyOptions::new());
    assert_eq!((seen.findings_total, seen.last_generation), (1, 2));
    assert_eq!(seen.findings[0].damage.range, (4096, 4096));
    flip(&volume, "meta", 100);
    let seen = look(&volume, &VerifyOptions::new());
    assert_eq!((seen.findings_total, seen.complete, seen.uuid), (1, false, None));
}

#[test]
fn verify_beside_a_writer_is_sound_and_keeps_up_with_its_commits() {
    let (volume, mut store) = trained(4096, 1);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..40 {
                one_step(&mut store).unwrap();
                store.commit(b"cursor").unwrap();
            }
            done.store(true, std::sync::atomic::Ordering::Release);
        });
        let options = VerifyOptions::new().pin_time(Duration::ZERO);
        let mut renewed = 0;
        while !done.load(std::sync::atomic::Ordering::Acquire) {
            let seen = look(&volume, &options);
            assert!(seen.is_sound() && seen.complete, "{:#?}", seen.findings);
            renewed += u64::from(seen.first_generation != seen.last_generation);
        }
        assert!(renewed > 0, "no look saw two generations");
    });
}

/// A billion parameters in blocks of 4 KiB: a table of three levels, nearly all of it absent.
#[cfg(not(miri))]
#[test]
fn a_nearly_empty_table_of_three_levels_is_walked_without_visiting_its_entries() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let schema = Schema::new()
        .block_bytes(4096)
        .group(ParamGroup::new("all", Optimizer::AdamW(AdamW::default())))
        .tensor(TensorSpec::new("w", &[1_000_000_000]));
    let options = Options::new().memory_budget(1 << 20).sparse(true);
    let mut store = ParamStore::create(&path, &schema, &options).unwrap();
    let blocks = 1_000_000_000_u64.div_ceil(1024);
    assert_eq!(store.summary().unwrap().table.levels, 3);
    let runs: Vec<_> = store.blocks().map(Result::unwrap).collect();
    assert!(matches!(&runs[..], [BlockRun::Absent(all)] if all.planes == 3 * blocks), "{runs:?}");
    let at_birth = store.digest().unwrap();

    store.write_range("w", 600_000_000, &[1.0]).unwrap();
    store.write_range("w", 600_001_024, &[1.0]).unwrap();
    store.commit(b"").unwrap();
    let runs: Vec<_> = store.blocks().map(Result::unwrap).collect();
    let [
        BlockRun::Absent(before),
        BlockRun::Written(one),
        BlockRun::Absent(between),
        BlockRun::Written(two),
        BlockRun::Absent(after),
    ] = &runs[..]
    else {
        panic!("{runs:?}")
    };
    assert_eq!((one.block, two.block), (585_937, 585_938));
    assert_eq!(before.planes + between.planes + after.planes + 2, 3 * blocks);
    assert_eq!((between.first_block, between.last_block, between.planes), (585_937, 585_937, 2));
    assert_ne!(store.digest().unwrap(), at_birth);
    drop(store);

    let seen = crate::inspect::verify(&path, &VerifyOptions::new(), |_| {}).unwrap();
    assert!(seen.is_sound() && seen.complete, "{:?}", seen.findings);
    // Root, two inner pages (entries of the tensor and of the block), their leaves.
    assert_eq!((seen.blocks, seen.blocks_absent), (2, 3 * blocks - 2));
    assert!(seen.table_pages <= 5, "{}", seen.table_pages);

    // The inner page above the blocks: everything below it is lost, nothing else is.
    let store = ParamStore::open_read_only(&path, &options).unwrap();
    let superblock = store.pager().lock().store().superblock().clone();
    let shape = crate::format::page::TableShape::new(superblock.table_slots).unwrap();
    let leaf = crate::format::page::PageIndex((1 + 3 * 585_937) / 254);
    let (inner, _) = shape.parent_of(leaf).unwrap();
    assert_ne!(shape.parent_of(crate::format::page::PageIndex(0)).unwrap().0, inner);
    drop(store);
    let offset = crate::format::page::TableShape::offset(superblock.table_offset, inner, 0);
    let meta = std::fs::OpenOptions::new().write(true).open(path.join("meta")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&meta, &[0xff], offset + 1000).unwrap();
    let seen = crate::inspect::verify(&path, &VerifyOptions::new(), |_| {}).unwrap();
    assert_eq!((seen.findings_total, seen.complete, seen.blocks), (1, false, 0));
    assert_eq!(seen.findings[0].damage.range.0, offset);
    let store = ParamStore::open_read_only(&path, &options).unwrap();
    let runs: Vec<_> = store.blocks().collect();
    assert!(
        matches!(&runs[..], [Ok(BlockRun::Absent(_)), Err(Error::Damaged(_)), Ok(BlockRun::Absent(_))]),
        "{runs:?}"
    );
}
