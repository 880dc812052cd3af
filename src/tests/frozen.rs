//! Frozen tensors: one home, written before the first commit, and the same bytes from then on.

use std::io::ErrorKind;
use std::sync::Arc;

use super::{create, gradient, memory, open, options};
use crate::inspect::{BlockRun, VerifyOptions};
use crate::optim::{AdamW, Optimizer, TensorClock};
use crate::repair::Repair;
use crate::storage::fault::{FaultVolume, Lasting};
use crate::storage::sim::{Disk, SimVolume};
use crate::storage::{Access, Caching, Volume};
use crate::{Dtype, Error, Init, ParamGroup, ParamStore, Precision, Result, Schema, StepOptions, TensorSpec};

const KINDS: [(&str, Dtype, u64); 6] = [
    ("wide", Dtype::F32, 4),
    ("half", Dtype::F16, 2),
    ("brain", Dtype::Bf16, 2),
    ("ids", Dtype::I64, 8),
    ("mask", Dtype::Bool, 1),
    ("double", Dtype::F64, 8),
];

/// Of each kind a tensor of several blocks and a small one, among others that are trained.
fn schema() -> Schema {
    let adamw = Optimizer::AdamW(AdamW { lr: 0.01, ..AdamW::default() });
    let mut schema = Schema::new()
        .seed(3)
        .block_bytes(4096)
        .gradient_plane(true)
        .group(ParamGroup::new("all", adamw))
        .tensor(TensorSpec::new("trained", &[70, 50]).init(Init::Constant(0.5)))
        .tensor(TensorSpec::new("bias", &[33]));
    for (name, dtype, _) in KINDS {
        schema = schema.tensor(TensorSpec::new(name, &[5, 700]).stored_as(dtype));
        schema = schema.tensor(TensorSpec::new(format!("{name}.small"), &[7]).stored_as(dtype));
    }
    schema
}

/// Bytes of all patterns, those of NaNs among them.
fn pattern(name: &str, len: u64) -> Vec<u8> {
    let salt = name.bytes().map(u64::from).sum::<u64>();
    (0..len).map(|i| ((i * i + 31 * i + salt) % 251 * 7 % 256).to_le_bytes()[0]).collect()
}

fn frozen() -> impl Iterator<Item = (String, u64, u64)> {
    KINDS
        .iter()
        .flat_map(|&(name, _, size)| [(name.to_owned(), 3500, size), (format!("{name}.small"), 7, size)])
}

fn fill(store: &mut ParamStore) -> Result<()> {
    for (name, elements, size) in frozen() {
        let bytes = pattern(&name, elements * size);
        // In two parts that cut a block.
        let (first, second) = bytes.split_at(usize::try_from(elements / 3 * size).unwrap());
        store.write_bytes(&name, 0, first)?;
        store.write_bytes(&name, elements / 3, second)?;
    }
    Ok(())
}

fn is_whole(store: &ParamStore) -> bool {
    frozen().all(|(name, elements, size)| {
        let mut out = vec![0; usize::try_from(elements * size).unwrap()];
        store.read_bytes(&name, 0, &mut out).unwrap();
        out == pattern(&name, elements * size)
    })
}

fn train(store: &mut ParamStore) -> Result<()> {
    let now = store.step();
    let mut step = store.begin_step()?;
    for (name, elements) in [("trained", 3500), ("bias", 33)] {
        step.apply(name, &gradient(name, elements, now))?;
    }
    step.finish().map(drop)
}

#[test]
fn every_byte_of_a_frozen_tensor_stays_through_training_commits_and_opening() {
    let volume = memory();
    let mut store = create(&volume, &schema(), &options()).unwrap();
    fill(&mut store).unwrap();
    assert!(is_whole(&store), "before the commit");
    store.commit(b"").unwrap();
    for _ in 0..3 {
        train(&mut store).unwrap();
        store.commit(b"").unwrap();
    }
    drop(store);
    let store = open(&volume, &options()).unwrap();
    assert!(is_whole(&store) && store.step() == 3);
    let names = volume.list().unwrap();
    let has = |name: &str| names.iter().any(|other| other == name);
    assert!(has("frozen.0000.0") && !has("frozen.0000.1") && has("param.0000.1"), "{names:?}");
    let info = store.tensor("ids").unwrap();
    assert!(info.is_frozen() && info.planes().eq(["frozen"]) && info.dtype() == Dtype::I64);
    assert_eq!(store.view("wide").unwrap().len(), 3500);
    let mut words = vec![0.0; 3500];
    store.read_into("wide", &mut words).unwrap();
    let bytes: Vec<u8> = words.iter().flat_map(|x| x.to_le_bytes()).collect();
    assert_eq!(bytes, pattern("wide", 14000));
    assert_eq!(store.view_half("half").unwrap().len(), 3500);
    let usage = store.summary().unwrap().disk;
    assert_eq!(usage.frozen, 3507 * (4 + 2 + 2 + 8 + 1 + 8));
    drop(store);
    let mut repair = Repair::open_in(Arc::new(volume)).unwrap();
    assert!(repair.verify(&VerifyOptions::new(), |_| {}).unwrap().is_sound());
}

#[test]
fn a_digest_of_frozen_tensors_depends_on_their_bytes_and_not_on_blocks() {
    let digest = |block_bytes: u64, change: bool| {
        let mut store = create(&memory(), &schema().block_bytes(block_bytes), &options()).unwrap();
        fill(&mut store).unwrap();
        if change {
            store.write_bytes("ids", 3000, &[1; 8]).unwrap();
        }
        store.digest().unwrap()
    };
    let (small, large, other) = (digest(4096, false), digest(16384, false), digest(4096, true));
    assert_eq!(small, large);
    let differs = |at: &usize| small.tensors[*at] != other.tensors[*at];
    let names: Vec<_> = (0..small.tensors.len()).filter(differs).map(|at| &small.tensors[at].name).collect();
    assert_eq!(names, ["ids"]);
}

#[test]
fn what_frozen_tensors_do_not_have_is_refused_and_nothing_is_lost_by_it() {
    let volume = memory();
    let mut store = create(&volume, &schema(), &options()).unwrap();
    fill(&mut store).unwrap();
    store.commit(b"").unwrap();
    let zeros = [0.0; 3500];
    let refused = |result: Result<()>| {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
    };
    refused(store.write_bytes("ids", 0, &[0; 8]));
    refused(store.write("wide", &zeros));
    refused(store.write("ids", &zeros));
    refused(store.view("ids").map(drop));
    refused(store.read_into("ids", &mut [0.0; 3500]));
    refused(store.read_bytes("ids", 0, &mut [0; 12]));
    refused(store.read_bytes("ids", 3500, &mut [0; 8]));
    refused(store.set_tensor_clock("wide", TensorClock::default()));
    let mut step = store.begin_step().unwrap();
    refused(step.apply("wide", &zeros));
    refused(step.accumulate("wide", &zeros, 1.0));
    refused(step.apply_rows("wide", &[1], &zeros[..700]));
    for (name, elements) in [("trained", 3500), ("bias", 33)] {
        step.apply(name, &gradient(name, elements, 0)).unwrap();
    }
    step.finish().unwrap();
    let mut step = store.begin_step_with(StepOptions::new().max_norm(1.0)).unwrap();
    refused(step.apply("wide", &zeros));
    step.apply("trained", &gradient("trained", 3500, 1)).unwrap();
    step.finish().unwrap();
    store.commit(b"").unwrap();
    assert!(is_whole(&store));

    let of = |spec: TensorSpec| create(&memory(), &schema().tensor(spec), &options()).map(drop);
    refused(of(TensorSpec::new("t", &[9, 9]).rows().frozen()));
    refused(of(TensorSpec::new("t", &[9]).stored_as(Dtype::I32).init(Init::Constant(1.0))));
    refused(of(TensorSpec::new("t", &[9]).stored_as(Dtype::Q8Signed)));
    refused(of(TensorSpec::new("t", &[9]).precision(Precision::new(Dtype::I32, crate::Moments::F32))));
}

#[test]
fn a_damaged_block_gets_its_bytes_back_and_the_way_back_goes_over_the_first_commit_both_ways() {
    let volume = memory();
    let mut store = create(&volume, &schema(), &options()).unwrap();
    train(&mut store).unwrap();
    store.commit(b"").unwrap();
    let error = fill(&mut store).unwrap_err();
    assert!(error.to_string().contains("one before the first commit"), "{error}");
    drop(store);

    let volume = memory();
    let mut store = create(&volume, &schema(), &options()).unwrap();
    store.keep("before").unwrap();
    fill(&mut store).unwrap();
    store.commit(b"").unwrap();
    store.keep("after").unwrap();
    for _ in 0..2 {
        store.roll_back_to("before").unwrap();
        let mut out = [1; 56];
        store.read_bytes("ids.small", 0, &mut out).unwrap();
        assert_eq!(out, [0; 56]);
        store.roll_back_to("after").unwrap();
        assert!(is_whole(&store));
        train(&mut store).unwrap();
        store.commit(b"").unwrap();
    }
    let block = store
        .blocks()
        .map(Result::unwrap)
        .find_map(|run| match run {
            BlockRun::Written(block) if block.tensors == ["ids"] => Some(block),
            _ => None,
        })
        .unwrap();
    drop(store);
    let file = volume.open(&block.file, Access::Write, Caching::Cached).unwrap();
    file.write_at(&[0xff; 3], block.offset + 5).unwrap();
    let mut repair = Repair::open_in(Arc::new(volume.clone())).unwrap();
    let seen = repair.verify(&VerifyOptions::new(), |_| {}).unwrap();
    assert_eq!(seen.findings_total, 1);
    let donor: Arc<dyn Volume> =
        volume.subvolume("checkpoints").unwrap().unwrap().subvolume("after").unwrap().unwrap();
    assert!(repair.plan_rebuild_from(&donor, &seen).unwrap().is_lossless());
    repair.rebuild_from(&donor, &seen).unwrap();
    assert!(repair.verify(&VerifyOptions::new(), |_| {}).unwrap().is_sound());
    drop(repair);
    assert!(is_whole(&open(&volume, &options()).unwrap()));
}

/// Whenever the power goes, the frozen values are all there, or the store has not had its first commit and takes them again.
#[test]
fn a_loss_of_power_at_any_operation_leaves_all_values_or_a_store_that_takes_them() {
    let script = |volume: &FaultVolume| -> Result<()> {
        let mut store = create(volume, &schema(), &options())?;
        fill(&mut store)?;
        store.commit(b"values")?;
        train(&mut store)?;
        store.commit(b"trained").map(drop)
    };
    let clean = FaultVolume::new(SimVolume::new("store"));
    script(&clean).unwrap();
    let (mut whole, mut again) = (0, 0);
    for at in (0..clean.operation_count()).step_by(3) {
        let sim = SimVolume::new("store");
        let volume = FaultVolume::new(sim.clone());
        volume.fail_at(at, ErrorKind::Other, Lasting::FromThenOn);
        drop(script(&volume));
        for newest in [true, false] {
            let mut disk = Disk::new(None);
            sim.events().iter().for_each(|event| disk.apply(event));
            let items = disk.unsynced();
            let picks: Vec<_> = items.iter().map(|item| if newest { item.newest } else { 0 }).collect();
            let found = SimVolume::from_image("store", &disk.image(&items, &picks)).unwrap();
            let Ok(mut store) = open(&found, &options()) else { continue };
            if store.generation() == 1 {
                fill(&mut store).unwrap();
                store.commit(b"values").unwrap();
                again += 1;
            } else {
                whole += 1;
            }
            assert!(is_whole(&store), "operation {at}, newest {newest}");
        }
    }
    assert!(whole > 10 && again > 10, "{whole} whole, {again} again");
}

/// Fine-tuning toward a frozen start is the plain step with the gradients that the formula gives, whatever the blocks, and
/// whether they are clipped together or not.
#[test]
fn a_step_toward_a_start_has_the_bits_of_its_formula() {
    let len = 70_000_u64;
    let of = |block_bytes: u64, budget: u64| {
        let group = ParamGroup::new("all", Optimizer::AdamW(AdamW { lr: 0.01, ..AdamW::default() }));
        let normal = Init::Normal { mean: 0.0, std: 0.5 };
        let schema = Schema::new()
            .seed(9)
            .block_bytes(block_bytes)
            .gradient_plane(true)
            .group(group)
            .tensor(TensorSpec::new("w", &[len]).init(normal))
            .tensor(TensorSpec::new("start", &[len]).stored_as(Dtype::Bf16).init(normal))
            .tensor(TensorSpec::new("short", &[3]));
        create(&memory(), &schema, &options().memory_budget(budget)).unwrap()
    };
    let read = |store: &ParamStore, name: &str| {
        let mut out = vec![0.0; usize::try_from(len).unwrap()];
        store.read_into(name, &mut out).unwrap();
        out
    };
    for options in [StepOptions::new(), StepOptions::new().max_norm(0.5).loss_scale(64.0)] {
        let mut plain = of(4096, 4 << 20);
        let mut small = of(4096, 256 << 10);
        let mut large = of(1 << 18, 4 << 20);
        let scale = if options == StepOptions::new() { 1.0 } else { 64.0 };
        for now in 0..3 {
            let gradient = gradient("w", len, now);
            let (w, start) = (read(&plain, "w"), read(&plain, "start"));
            let summed: Vec<f32> = gradient
                .iter()
                .zip(w.iter().zip(&start))
                .map(|(g, (w, s))| g + scale * 0.25 * (w - s))
                .collect();
            let mut step = plain.begin_step_with(options).unwrap();
            step.apply("w", &summed).unwrap();
            step.finish().unwrap();
            for store in [&mut small, &mut large] {
                let mut step = store.begin_step_with(options).unwrap();
                step.apply_toward("w", &gradient, "start", 0.25).unwrap();
                step.finish().unwrap();
            }
        }
        assert_eq!(small.digest().unwrap(), plain.digest().unwrap());
        assert_eq!(large.digest().unwrap(), plain.digest().unwrap());
    }
    let mut store = of(4096, 4 << 20);
    let zeros = vec![0.0; usize::try_from(len).unwrap()];
    let mut step = store.begin_step().unwrap();
    for (start, strength) in [("short", 1.0), ("start", -1.0), ("start", f64::NAN)] {
        let error = step.apply_toward("w", &zeros, start, strength).unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
    }
    step.apply_toward("w", &zeros, "start", 0.0).unwrap();
    step.finish().unwrap();
}
