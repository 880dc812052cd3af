//! Parameters in 16 bits with a plane of what rounding them lost.

use super::{create, gradient, memory, open, options};
use crate::convert::Convert;
use crate::exchange::{Export, Import};
use crate::format::directory::{Directory, Extent};
use crate::inspect::{Role, VerifyOptions, verify::verify_in};
use crate::layout::place;
use crate::optim::{AdamW, Optimizer, Sgd, TensorClock};
use crate::precision::{Half, Rounding, round, round_compensated, widen, widen_compensated};
use crate::repair::Repair;
use crate::storage::{Access, Caching, MemoryVolume, Volume};
use crate::{
    Dtype, Error, Init, InstructionSet, IoPath, Moments, Options, ParamGroup, ParamStore, Precision, Schema,
    StepOptions, TensorSpec,
};

const LOST: &str = "compensation";

fn adamw() -> Optimizer {
    Optimizer::AdamW(AdamW { lr: 0.01, weight_decay: 0.1, ..AdamW::default() })
}

/// One of several blocks, two that share one, one that stays in f32 by the rule, and one that no step updates.
fn schema(precision: Precision, block_bytes: u64) -> Schema {
    let normal = Init::Normal { mean: 0.0, std: 0.5 };
    Schema::new()
        .seed(6)
        .block_bytes(block_bytes)
        .gradient_plane(true)
        .precision(precision)
        .group(ParamGroup::new("all", adamw()))
        .tensor(TensorSpec::new("up", &[130, 301]).init(normal))
        .tensor(TensorSpec::new("a", &[65, 70]).init(normal))
        .tensor(TensorSpec::new("b", &[64, 65]).init(Init::Constant(0.1)))
        .tensor(TensorSpec::new("norm", &[5000]).init(Init::Constant(1.1)))
        .tensor(TensorSpec::new("base", &[65, 70]).init(normal).frozen())
}

const UP: usize = 130 * 301;

fn precisions() -> [(Precision, Half); 3] {
    let f16 = Precision::new(Dtype::F16, Moments::F32).compensated();
    [(Precision::BF16_KAHAN, Half::Bf16), (Precision::COMPACT_KAHAN, Half::Bf16), (f16, Half::F16)]
}

/// A step over all that is trained: at once, in parts that cut blocks, or through the `grad` plane.
fn step(store: &mut ParamStore) {
    let now = store.step();
    let of_step = if now == 3 { StepOptions::new().max_norm(0.1) } else { StepOptions::new() };
    let trained = store.tensors().filter(|tensor| !tensor.is_frozen());
    let sizes: Vec<_> = trained.map(|t| (t.name().to_owned(), t.elements())).collect();
    let mut step = store.begin_step_with(of_step).unwrap();
    for (name, elements) in sizes {
        let gradient = gradient(&name, elements, now);
        if now == 1 && name == "up" {
            step.apply_range(&name, 0, &gradient[..1536]).unwrap();
            step.apply_range(&name, 1536, &gradient[1536..]).unwrap();
        } else {
            step.apply(&name, &gradient).unwrap();
        }
    }
    step.finish().unwrap();
}

fn values(store: &ParamStore, name: &str, plane: &str) -> Vec<f32> {
    let mut out = vec![0.0; usize::try_from(store.tensor(name).unwrap().elements()).unwrap()];
    store.read_plane_into(name, plane, &mut out).unwrap();
    out
}

/// What an update takes: parameters and what their rounding lost.
fn sums(store: &ParamStore, name: &str) -> Vec<f32> {
    let lost = values(store, name, LOST);
    values(store, name, "param").iter().zip(lost).map(|(param, lost)| param + lost).collect()
}

/// The nearest numbers of 16 bits.
fn nearest(kind: Half, values: &[f32]) -> Vec<f32> {
    let (mut bits, mut out) = (vec![0; values.len()], vec![0.0; values.len()]);
    round(InstructionSet::portable(), kind, Rounding::Nearest, values, &mut bits);
    widen(InstructionSet::portable(), kind, &bits, &mut out);
    out
}

fn differences(a: &[f32], b: &[f32]) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

#[test]
fn training_gives_the_same_bits_for_any_blocks_threads_budget_path_instruction_set_and_resume() {
    for (precision, _) in precisions() {
        let reference = {
            let options = Options::new().memory_budget(64 << 20).threads(1);
            let portable = options.instruction_set(InstructionSet::portable());
            let mut store = create(&memory(), &schema(precision, 1 << 20), &portable).unwrap();
            (0..5).for_each(|_| step(&mut store));
            store.digest().unwrap()
        };
        let ways: [(u64, Options); 3] = [
            (4096, Options::new().memory_budget(200 << 10).threads(2)),
            (16384, Options::new().memory_budget(500 << 10).threads(3).io_path(IoPath::Mapped)),
            (1 << 18, Options::new().memory_budget(32 << 20).threads(2).io_path(IoPath::Direct)),
        ];
        for (block_bytes, options) in ways {
            let volume = memory();
            let mut store = create(&volume, &schema(precision, block_bytes), &options).unwrap();
            (0..2).for_each(|_| step(&mut store));
            store.commit(b"").unwrap();
            step(&mut store);
            store.rollback().unwrap();
            step(&mut store);
            store.commit(b"").unwrap();
            drop(store);
            let mut store = open(&volume, &options).unwrap();
            (0..2).for_each(|_| step(&mut store));
            assert_eq!(store.digest().unwrap(), reference, "{precision:?}, blocks of {block_bytes}");
            store.commit(b"").unwrap();
            drop(store);
            let found = verify_in(&(std::sync::Arc::new(volume) as _), &VerifyOptions::new(), &mut |_| {});
            assert!(found.unwrap().is_sound());
        }
    }
}

/// The rule, decoupled weight decay included, on the sum in f32; then rounding to the nearest, twice: all in plain memory.
#[test]
fn an_update_is_that_of_f32_on_the_sum_split_again() {
    let (isa, kind) = (InstructionSet::portable(), Half::Bf16);
    let precision = Precision::new(Dtype::Bf16, Moments::F32).compensated();
    let mut store = create(&memory(), &schema(precision, 4096), &options()).unwrap();
    let mut param = values(&store, "up", "param");
    let (mut first, mut second) = (vec![0.0; UP], vec![0.0; UP]);
    let mut lost = vec![0.0; UP];
    assert_eq!(values(&store, "up", LOST), lost, "initial values are the rounded ones");
    let mut clock = TensorClock::default();
    for now in 0..3 {
        let mut sum: Vec<f32> = param.iter().zip(&lost).map(|(param, lost)| param + lost).collect();
        let grad = gradient("up", UP as u64, now);
        adamw().update(isa, &mut clock, &mut sum, &grad, &mut [&mut first, &mut second]).unwrap();
        param = nearest(kind, &sum);
        lost = nearest(kind, &differences(&sum, &param));
        step(&mut store);
        assert!(values(&store, "up", "param") == param, "parameters after step {}", now + 1);
        assert!(values(&store, "up", LOST) == lost, "what was lost in step {}", now + 1);
        assert!(lost.iter().any(|&lost| lost != 0.0));
    }
}

/// An update of 1/32 of a last place, each step: to the nearest alone nothing would ever move.
#[test]
fn small_updates_add_up_exactly() {
    let schema = |precision| {
        let sgd = Optimizer::Sgd(Sgd { lr: 2.0_f64.powi(-13), ..Sgd::default() });
        let spec = TensorSpec::new("t", &[64, 64]).init(Init::Constant(1.0));
        Schema::new().precision(precision).group(ParamGroup::new("all", sgd)).tensor(spec)
    };
    let kahan = Precision::new(Dtype::Bf16, Moments::F32).compensated();
    let mut store = create(&memory(), &schema(kahan), &options().memory_budget(1 << 20)).unwrap();
    for _ in 0..1000 {
        let mut step = store.begin_step().unwrap();
        step.apply("t", &[1.0; 4096]).unwrap();
        step.finish().unwrap();
    }
    let exact = 1.0 - 1000.0 * 2.0_f32.powi(-13);
    assert_eq!(sums(&store, "t"), [exact; 4096]);
    assert_eq!(values(&store, "t", "param"), nearest(Half::Bf16, &[exact; 4096]));
    assert_eq!(
        nearest(Half::Bf16, &[1.0 - 2.0_f32.powi(-13)]),
        [1.0],
        "what rounding to the nearest makes of a step"
    );
}

#[test]
fn values_written_keep_what_rounding_lost_and_are_read_without_it() {
    for (precision, kind) in precisions() {
        let mut store =
            create(&memory(), &schema(precision, 4096), &options().memory_budget(1 << 20)).unwrap();
        step(&mut store);
        let given: Vec<f32> = gradient("given", UP as u64, 0).iter().map(|x| x * 3.1).collect();
        store.write("up", &given).unwrap();
        let params = nearest(kind, &given);
        let mut lost = nearest(kind, &differences(&given, &params));
        for is_committed in [false, true] {
            if is_committed {
                store.commit(b"").unwrap();
            }
            assert!(values(&store, "up", "param") == params && values(&store, "up", LOST) == lost);
            assert!(store.view("up").unwrap()[..] == params[..]);
            let mut wide = vec![0.0; UP];
            let half = store.view_half("up").unwrap();
            widen(InstructionSet::portable(), half.kind(), &half, &mut wide);
            assert!(half.kind() == kind && wide == params);
        }
        let before = (values(&store, "a", "param"), values(&store, "a", LOST));
        store.write_range("a", 901, &given[..2000]).unwrap();
        let after = (values(&store, "a", "param"), values(&store, "a", LOST));
        assert!(after.0[901..2901] == params[..2000] && after.1[901..2901] == lost[..2000]);
        for at in [0..901, 2901..65 * 70] {
            assert!(after.0[at.clone()] == before.0[at.clone()] && after.1[at.clone()] == before.1[at]);
        }
        // What is given in the tensor's own type is exact: nothing is lost.
        store.write_bytes("up", 3000, &[0x3c; 2 * 5000]).unwrap();
        lost[3000..8000].fill(0.0);
        assert!(values(&store, "up", LOST) == lost, "{precision:?}");
        // And what was lost can be set by itself.
        store.write_plane_range("up", LOST, 7, &[0.0; 9]).unwrap();
        lost[7..16].fill(0.0);
        assert!(values(&store, "up", LOST) == lost, "{precision:?}");
        assert_eq!(values(&store, "up", "param")[..3000], params[..3000]);
    }
}

/// Only the tensors that are rounded have the plane, and it takes what the plan says.
#[test]
fn planned_bytes_are_those_of_the_files_and_of_what_a_step_moves() {
    for (precision, per_parameter) in [(Precision::BF16_KAHAN, 8.0), (Precision::COMPACT_KAHAN, 6.031_25)] {
        let dir = tempfile::tempdir().unwrap();
        let schema = Schema::new()
            .precision(precision)
            .block_bytes(1 << 20)
            .group(ParamGroup::new("all", adamw()))
            .tensor(TensorSpec::new("w", &[1024, 1024]));
        let options = Options::new().memory_budget(64 << 20);
        let plan = schema.plan(&options).unwrap();
        let path = dir.path().join("s");
        let mut store = ParamStore::create(&path, &schema, &options).unwrap();
        let files = std::fs::read_dir(&path).unwrap().map(|file| file.unwrap().metadata().unwrap().len());
        let bytes: u64 = files.sum();
        assert_eq!((plan.bytes_on_disk, plan.disk.total()), (bytes, bytes), "{precision:?}");
        let state = f64::from(u32::try_from(plan.state_bytes).unwrap()) / f64::from(1 << 20);
        assert!((state - per_parameter).abs() < 1e-6, "{precision:?}: {state}");
        step(&mut store);
        store.commit(b"").unwrap();
        let written = store.stats().bytes_written;
        assert!(written >= plan.state_bytes && written < plan.state_bytes + (16 << 10), "{written}");
        let summary = store.summary().unwrap();
        let plane = summary.planes.iter().find(|plane| plane.role == Role::Compensation).unwrap();
        assert_eq!((plane.name.as_str(), plane.homes, plane.value_bytes), (LOST, 2, 2 << 20));
        assert_eq!(summary.features, ["few bits", "compensation"]);
        assert_eq!(summary.disk.total(), bytes + summary.disk.small_files - plan.disk.small_files);
        // A program that knows the bits up to 8 finds another one, and refuses the store.
        let meta = std::fs::read(path.join("meta")).unwrap();
        assert_eq!(meta[32..40], u64::to_le_bytes(2 + 16), "incompat features");
    }
    let store = create(&memory(), &schema(Precision::BF16_KAHAN, 4096), &options()).unwrap();
    let has_plane = |name: &str| store.tensor(name).unwrap().planes().any(|plane| plane == LOST);
    assert!(["up", "a", "b"].into_iter().all(has_plane) && !has_plane("norm") && !has_plane("base"));
    assert_eq!(store.tensor("up").unwrap().plane_dtype(LOST), Some(Dtype::Bf16));
}

#[test]
fn a_store_converted_keeps_what_rounding_lost_both_ways() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let options = options().memory_budget(4 << 20);
    let mut wide = ParamStore::create(path("f32"), &schema(Precision::F32, 4096), &options).unwrap();
    (0..3).for_each(|_| step(&mut wide));
    wide.commit(b"user").unwrap();
    let before = values(&wide, "up", "param");
    drop(wide);
    let convert = |precision, from: &str, to: &str| {
        Convert::to(precision, 8 << 20).run(path(from), path(to), |_| {}).unwrap()
    };
    let kahan = Precision::new(Dtype::Bf16, Moments::F32).compensated();
    let errors = convert(kahan, "f32", "kahan");
    let names: Vec<_> = errors.iter().map(|error| error.name.as_str()).collect();
    assert_eq!(names, ["param", "exp_avg", "exp_avg_sq"]);
    assert!(errors[0].changed > 0 && errors[0].rms < errors[0].rms_value / f64::from(1 << 17), "{errors:?}");
    let mut store = ParamStore::open(path("kahan"), &options).unwrap();
    let (params, sum) = (values(&store, "up", "param"), sums(&store, "up"));
    assert_eq!(params, nearest(Half::Bf16, &before));
    let is_near = |(x, y): (&f32, &f32)| (x - y).abs() <= x.abs() / 131_072.0;
    assert!(before.iter().zip(&sum).all(is_near));
    let digest = store.digest().unwrap();

    let errors = convert(Precision::F32, "kahan", "back");
    assert!(errors.iter().all(|error| error.changed == 0), "{errors:?}");
    assert!(values(&ParamStore::open(path("back"), &options).unwrap(), "up", "param") == sum);
    let errors = convert(kahan, "kahan", "again");
    assert!(errors.iter().all(|error| error.changed == 0), "{errors:?}");
    assert!(sums(&ParamStore::open(path("again"), &options).unwrap(), "up") == sum);
    let errors = convert(Precision::BF16, "kahan", "plain");
    assert!(errors[0].changed > 30_000 && errors[0].lost == 0, "{errors:?}");
    let plain = ParamStore::open(path("plain"), &options).unwrap();
    assert_eq!(values(&plain, "up", "param"), nearest(Half::Bf16, &sum));

    // Kept and gone back to, with all that the next step takes.
    store.keep("here").unwrap();
    step(&mut store);
    let next = store.digest().unwrap();
    store.commit(b"").unwrap();
    store.roll_back_to("here").unwrap();
    assert_eq!(store.digest().unwrap(), digest);
    step(&mut store);
    assert_eq!(store.digest().unwrap(), next);
}

#[test]
fn a_run_that_moves_through_a_file_takes_what_rounding_lost_along() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let options = options().memory_budget(4 << 20);
    let kahan = Precision::new(Dtype::Bf16, Moments::F32).compensated();
    let mut store = ParamStore::create(path("store"), &schema(kahan, 4096), &options).unwrap();
    (0..3).for_each(|_| step(&mut store));
    store.commit(b"").unwrap();
    let files = Export::new().with_state(true).to_directory(&store, path("out"), |_| {});
    drop(files.unwrap());
    let import = |name: &str, precision: Precision| {
        let group = ParamGroup::new("all", adamw());
        let sources: Vec<_> =
            std::fs::read_dir(path("out")).unwrap().map(|file| file.unwrap().path()).collect();
        let schema = Schema::new().gradient_plane(true).precision(precision).group(group);
        let import = Import::with_schema(schema)
            .keep_dtypes(false)
            .memory_budget(4 << 20)
            .freeze(|name| name == "base");
        let sources = sources.into_iter().filter(|path| path.extension().is_some_and(|e| e == "safetensors"));
        sources.fold(import, Import::source).run(path(name), |_| {}).unwrap();
        ParamStore::open(path(name), &options).unwrap()
    };
    let mut moved = import("moved", kahan);
    for name in ["up", "a", "b"] {
        for plane in ["param", LOST, "exp_avg"] {
            assert!(values(&moved, name, plane) == values(&store, name, plane), "{name} {plane}");
        }
    }
    for _ in 0..2 {
        step(&mut store);
        step(&mut moved);
    }
    for plane in ["param", LOST] {
        assert!(values(&moved, "up", plane) == values(&store, "up", plane), "{plane} after a step");
    }
    // To parameters of another form it does not belong.
    let plain = import("plain", Precision::F32);
    assert!(plain.tensor("up").unwrap().planes().eq(["param", "exp_avg", "exp_avg_sq"]));
    let f16 = import("f16", Precision::new(Dtype::F16, Moments::F32).compensated());
    assert_eq!(f16.tensor("up").unwrap().dtype(), Dtype::F16);
    assert!(
        values(&f16, "up", "param") == values(&plain, "up", "param"),
        "f16 has all that bf16 has of such values"
    );
    let lost = values(&f16, "up", LOST);
    let count = lost.iter().filter(|&&lost| lost != 0.0).count();
    assert_eq!(count, 0, "{:?}", &lost[..8]);
}

/// The pull is part of a gradient, and gradients are those of the parameters that a forward pass reads.
#[test]
fn parameters_pulled_toward_a_start_are_those_that_are_read() {
    let mut stores =
        [(); 2].map(|()| create(&memory(), &schema(Precision::COMPACT_KAHAN, 4096), &options()).unwrap());
    stores.iter_mut().for_each(step);
    let [a, b] = &mut stores;
    let gradients =
        ["up", "a", "b", "norm"].map(|name| gradient(name, a.tensor(name).unwrap().elements(), 9));
    let pull = differences(&values(b, "a", "param"), &values(b, "base", "frozen"));
    let by_hand: Vec<f32> =
        gradients[1].iter().zip(pull).map(|(gradient, pull)| gradient + 0.5 * pull).collect();
    let (mut pulled, mut plain) = (a.begin_step().unwrap(), b.begin_step().unwrap());
    pulled.apply_toward("a", &gradients[1], "base", 0.5).unwrap();
    plain.apply("a", &by_hand).unwrap();
    for (name, gradient) in ["up", "b", "norm"].into_iter().zip([&gradients[0], &gradients[2], &gradients[3]])
    {
        pulled.apply(name, gradient).unwrap();
        plain.apply(name, gradient).unwrap();
    }
    pulled.finish().unwrap();
    plain.finish().unwrap();
    assert_eq!(a.digest().unwrap(), b.digest().unwrap());
}

#[test]
fn what_cannot_be_compensated_is_refused() {
    let refused = |spec: TensorSpec, precision: Precision| {
        let group = ParamGroup::new("all", adamw());
        let schema = Schema::new().group(group).tensor(spec.precision(precision));
        let error = create(&memory(), &schema, &Options::new().memory_budget(1 << 20)).unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
        error.to_string()
    };
    let message = refused(TensorSpec::new("t", &[9, 9]), Precision::F32.compensated());
    assert!(message.contains("compensation") && message.contains("f32"), "{message}");
    refused(TensorSpec::new("t", &[9, 9]).rows(), Precision::BF16_KAHAN);
    refused(TensorSpec::new("t", &[9, 9]).compute(Half::Bf16), Precision::BF16_KAHAN);
    let mut store = create(&memory(), &schema(Precision::BF16_KAHAN, 4096), &options()).unwrap();
    let before = store.digest().unwrap();
    let mut of_rows = store.begin_step().unwrap();
    let error = of_rows.apply_rows("up", &[1], &[0.5; 301]).unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
    drop(of_rows);
    assert_eq!(store.digest().unwrap(), before);
}

fn flip(volume: &MemoryVolume, file: &str) {
    let file = volume.open(file, Access::Write, Caching::Cached).unwrap();
    let mut byte = [0];
    file.read_at(&mut byte, 100).unwrap();
    file.write_at(&[byte[0] ^ 0x10], 100).unwrap();
}

/// What rounding lost is as much a part of a generation as moments are.
#[test]
fn damage_to_what_rounding_lost_is_found_and_the_generation_before_is_whole() {
    let volume = memory();
    let mut store = create(&volume, &schema(Precision::BF16_KAHAN, 4096), &options()).unwrap();
    step(&mut store);
    store.commit(b"").unwrap();
    let digest = store.digest().unwrap();
    step(&mut store);
    store.commit(b"").unwrap();
    drop(store);
    // The second commit of a plane stands in its other home.
    flip(&volume, "compensation.0000.1");
    let shared = std::sync::Arc::new(volume.clone()) as std::sync::Arc<dyn Volume>;
    let mut repair = Repair::open_in(shared).unwrap();
    let found = repair.verify(&VerifyOptions::new(), |_| {}).unwrap();
    assert_eq!((found.findings_total, found.findings[0].plane.as_deref()), (1, Some(LOST)), "{found:?}");
    repair.drop_newest(&VerifyOptions::new()).unwrap();
    let store = open(&volume, &options()).unwrap();
    assert_eq!(store.digest().unwrap(), digest);
}

#[test]
fn the_functions_on_slices_are_what_a_store_does() {
    let isa = InstructionSet::detect();
    for (precision, kind) in precisions() {
        let mut store =
            create(&memory(), &schema(precision, 4096), &options().memory_budget(1 << 20)).unwrap();
        let given: Vec<f32> = gradient("x", UP as u64, 5).iter().map(|x| x / 3.0).collect();
        store.write("up", &given).unwrap();
        let (mut bits, mut lost, mut sum) = (vec![0; UP], vec![0; UP], vec![0.0; UP]);
        round_compensated(isa, kind, &given, &mut bits, &mut lost);
        widen_compensated(isa, kind, &bits, &lost, &mut sum);
        assert!(sums(&store, "up") == sum && store.view_half("up").unwrap()[..] == bits[..], "{precision:?}");
    }
}

#[test]
fn a_directory_whose_plane_of_what_was_lost_does_not_fit_its_parameters_is_refused() {
    let request = schema(Precision::new(Dtype::Bf16, Moments::Bf16).compensated(), 4096).request(1 << 20);
    let directory = place(&request.unwrap()).unwrap();
    let is_read = |directory: &Directory| Directory::decode(&directory.encode()).is_ok();
    assert!(is_read(&directory));
    let at = directory.extents.iter().position(|e| directory.compensation_plane(e).is_some()).unwrap();
    let last = directory.compensation_plane(&directory.extents[at]).unwrap();
    let changes: [fn(&mut Extent, usize); 3] = [
        |extent, last| extent.planes[last].dtype = Dtype::F16,
        |extent, last| extent.planes.swap(last - 1, last),
        |extent, _| extent.planes[0].dtype = Dtype::F16,
    ];
    for change in changes {
        let mut changed = directory.clone();
        change(&mut changed.extents[at], last);
        assert!(!is_read(&changed), "{:?}", changed.extents[at]);
    }
}
