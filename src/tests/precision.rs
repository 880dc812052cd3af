//! Stores whose planes have fewer bits than f32: what they hold, that it depends on nothing but the training, what they refuse.

use super::{create, gradient, memory, open, options};
use crate::initial::rounding_key;
use crate::optim::{AdamW, Optimizer, Sgd, TensorClock};
use crate::precision::{Book, Half, Lane, Rounding, round, widen};
use crate::{
    Dtype, Error, Init, InstructionSet, IoPath, Moments, Options, ParamGroup, ParamStore, Precision, Result,
    Schema, StepOptions, TensorSpec,
};

const SEED: u64 = 5;

fn adamw() -> Optimizer {
    Optimizer::AdamW(AdamW { lr: 0.01, ..AdamW::default() })
}

/// A large matrix, two that share blocks, and three that stay in f32 by the rule.
fn schema(precision: Precision, block_bytes: u64) -> Schema {
    let normal = Init::Normal { mean: 0.0, std: 0.5 };
    Schema::new()
        .seed(SEED)
        .block_bytes(block_bytes)
        .gradient_plane(true)
        .precision(precision)
        .group(ParamGroup::new("all", adamw()))
        .tensor(TensorSpec::new("up", &[130, 301]).init(normal))
        .tensor(TensorSpec::new("a", &[65, 70]).init(normal))
        .tensor(TensorSpec::new("b", &[64, 65]).init(Init::Uniform { low: -1.0, high: 1.0 }))
        .tensor(TensorSpec::new("norm", &[5000]).init(Init::Constant(1.1)))
        .tensor(TensorSpec::new("tiny", &[8, 8]).init(normal))
        .tensor(TensorSpec::new("embedding.weight", &[90, 50]).init(normal))
}

const TENSORS: [&str; 6] = ["up", "a", "b", "norm", "tiny", "embedding.weight"];

fn precisions() -> [Precision; 4] {
    let f16 = Precision::new(Dtype::F16, Moments::F16);
    [Precision::BF16, Precision::COMPACT, f16, Precision::new(Dtype::F32, Moments::Q8)]
}

fn step(store: &mut ParamStore) -> Result<()> {
    let now = store.step();
    let sizes: Vec<_> = store.tensors().map(|t| (t.name().to_owned(), t.elements())).collect();
    let mut step = store.begin_step()?;
    for (name, elements) in sizes {
        step.apply(&name, &gradient(&name, elements, now))?;
    }
    step.finish().map(|_| ())
}

fn values(store: &ParamStore, name: &str, plane: &str) -> Vec<f32> {
    let elements = store.tensor(name).unwrap().elements();
    let mut out = vec![0.0; usize::try_from(elements).unwrap()];
    store.read_plane_into(name, plane, &mut out).unwrap();
    out
}

fn is_bf16(values: &[f32]) -> bool {
    values.iter().all(|x| x.to_bits().trailing_zeros() >= 16)
}

#[test]
fn training_gives_the_same_bits_for_any_blocks_threads_budget_path_instruction_set_and_resume() {
    for precision in precisions() {
        let reference = {
            let options = Options::new().memory_budget(64 << 20).threads(1);
            let mut store = create(
                &memory(),
                &schema(precision, 1 << 20),
                &options.instruction_set(InstructionSet::portable()),
            )
            .unwrap();
            (0..5).for_each(|_| step(&mut store).unwrap());
            store.digest().unwrap()
        };
        let ways: [(u64, Options); 4] = [
            (4096, Options::new().memory_budget(200 << 10).threads(2)),
            (16384, Options::new().memory_budget(500 << 10).threads(3).io_path(IoPath::Mapped)),
            (65536, Options::new().memory_budget(2 << 20).threads(1).io_path(IoPath::Direct)),
            (1 << 18, Options::new().memory_budget(32 << 20).threads(2)),
        ];
        for (block_bytes, options) in ways {
            let volume = memory();
            let mut store = create(&volume, &schema(precision, block_bytes), &options).unwrap();
            step(&mut store).unwrap();
            step(&mut store).unwrap();
            store.commit(b"").unwrap();
            step(&mut store).unwrap();
            store.rollback().unwrap();
            step(&mut store).unwrap();
            store.commit(b"").unwrap();
            drop(store);
            let mut store = open(&volume, &options).unwrap();
            step(&mut store).unwrap();
            step(&mut store).unwrap();
            assert_eq!(store.digest().unwrap(), reference, "{precision:?}, blocks of {block_bytes}");
        }
    }
}

#[test]
fn update_in_a_store_is_that_of_lanes_in_memory() {
    let mut store = create(&memory(), &schema(Precision::COMPACT, 4096), &options()).unwrap();
    let n = 130 * 301;
    let isa = InstructionSet::portable();
    let mut param = vec![0_u16; n];
    round(isa, Half::Bf16, Rounding::Nearest, &values(&store, "up", "param"), &mut param);
    let mut first = (vec![127_u8; n], vec![0.0; n.div_ceil(256)]);
    let mut second = (vec![0_u8; n], vec![0.0; n.div_ceil(256)]);
    let mut clock = TensorClock::default();
    for now in 0..4 {
        let mut lanes = [
            Lane::Half(Half::Bf16, &mut param),
            Lane::Q8(Book::Signed, &mut first.0, &mut first.1),
            Lane::Q8(Book::Unsigned, &mut second.0, &mut second.1),
        ];
        let rounding = Rounding::Stochastic { key: rounding_key(SEED, "up", now + 1), first: 0 };
        let grad = gradient("up", n as u64, now);
        adamw().update_lanes(isa, &mut clock, &mut lanes, &grad, rounding).unwrap();
        step(&mut store).unwrap();
        for (lane, plane) in lanes.iter().zip(["param", "exp_avg", "exp_avg_sq"]) {
            let mut expected = vec![0.0; n];
            lane.read(isa, 0, &mut expected);
            assert!(values(&store, "up", plane) == expected, "{plane} after step {}", now + 1);
        }
    }
}

#[test]
fn small_tensors_vectors_and_embeddings_train_as_in_an_f32_store() {
    let mut narrow = create(&memory(), &schema(Precision::COMPACT, 4096), &options()).unwrap();
    let mut wide = create(&memory(), &schema(Precision::F32, 4096), &options()).unwrap();
    for store in [&mut narrow, &mut wide] {
        (0..3).for_each(|_| step(store).unwrap());
    }
    let of = |store: &ParamStore| {
        store.digest().unwrap().tensors.into_iter().map(|tensor| tensor.bytes).collect::<Vec<_>>()
    };
    let (a, b) = (of(&narrow), of(&wide));
    for (name, (a, b)) in TENSORS.iter().zip(a.iter().zip(&b)) {
        let stays = matches!(*name, "norm" | "tiny" | "embedding.weight");
        assert_eq!(a == b, stays, "{name}");
        let dtype = narrow.tensor(name).unwrap().dtype();
        assert_eq!(dtype, if stays { Dtype::F32 } else { Dtype::Bf16 }, "{name}");
    }
    assert!(is_bf16(&values(&narrow, "up", "param")) && !is_bf16(&values(&narrow, "tiny", "param")));
}

#[test]
fn a_tensor_or_a_group_can_be_told_what_it_is_kept_in() {
    let sgd = Optimizer::Sgd(Sgd { momentum: 0.9, ..Sgd::default() });
    let schema = Schema::new()
        .precision(Precision::BF16)
        .group(ParamGroup::new("one", adamw()))
        .group(ParamGroup::new("two", sgd))
        .group_precision("two", Precision::COMPACT.everywhere())
        .tensor(TensorSpec::new("w", &[64, 64]))
        .tensor(TensorSpec::new("own", &[64, 64]).precision(Precision::F32))
        .tensor(TensorSpec::new("bias", &[64]).group("two"))
        .tensor(TensorSpec::new("small", &[3]).precision(Precision::new(Dtype::F16, Moments::F32)));
    let store = create(&memory(), &schema, &options()).unwrap();
    let dtypes: Vec<_> = store.tensors().map(|tensor| tensor.dtype()).collect();
    assert_eq!(dtypes, [Dtype::Bf16, Dtype::F32, Dtype::Bf16, Dtype::F16]);
    let summary = schema.plan(&options()).unwrap();
    let momentum = summary.planes.iter().find(|plane| plane.name == "momentum_buffer").unwrap();
    assert_eq!((momentum.dtypes.as_slice(), momentum.value_bytes), (&[Dtype::Q8Signed][..], 64 + 4));
}

#[test]
fn planned_bytes_are_those_of_the_files_and_of_what_a_step_moves() {
    for (precision, per_parameter) in
        [(Precision::F32, 12.0), (Precision::BF16, 6.0), (Precision::COMPACT, 4.031_25)]
    {
        let dir = tempfile::tempdir().unwrap();
        let schema = Schema::new()
            .precision(precision)
            .block_bytes(1 << 20)
            .group(ParamGroup::new("all", adamw()))
            .tensor(TensorSpec::new("w", &[1024, 1024]));
        let options = Options::new().memory_budget(64 << 20);
        let plan = schema.plan(&options).unwrap();
        let mut store = ParamStore::create(dir.path().join("s"), &schema, &options).unwrap();
        let files = std::fs::read_dir(dir.path().join("s")).unwrap();
        let bytes: u64 = files.map(|file| file.unwrap().metadata().unwrap().len()).sum();
        assert_eq!(plan.bytes_on_disk, bytes, "{precision:?}");
        assert_eq!(plan.disk.total(), bytes);
        let expected = per_parameter * f64::from(1 << 20);
        assert!(
            (f64::from(u32::try_from(plan.state_bytes).unwrap()) - expected).abs() < 1.0,
            "{precision:?}"
        );
        step(&mut store).unwrap();
        store.commit(b"").unwrap();
        let written = store.stats().bytes_written;
        assert!(
            written >= plan.state_bytes && written < plan.state_bytes + (16 << 10),
            "{precision:?}: {written}"
        );
    }
}

#[test]
fn values_written_are_rounded_to_the_nearest_and_read_views_and_rows_agree() {
    for precision in precisions() {
        let options = options().memory_budget(1 << 20);
        let mut store = create(&memory(), &schema(precision, 4096), &options).unwrap();
        let given: Vec<f32> = gradient("given", 130 * 301, 0).iter().map(|x| x * 3.1).collect();
        store.write("up", &given).unwrap();
        let mut bits = vec![0; given.len()];
        let mut expected = given.clone();
        let kind = match precision.params {
            Dtype::Bf16 => Some(Half::Bf16),
            Dtype::F16 => Some(Half::F16),
            _ => None,
        };
        if let Some(kind) = kind {
            round(InstructionSet::portable(), kind, Rounding::Nearest, &given, &mut bits);
            widen(InstructionSet::portable(), kind, &bits, &mut expected);
        }
        assert!(values(&store, "up", "param") == expected, "{precision:?}");
        for is_committed in [false, true] {
            if is_committed {
                store.commit(b"").unwrap();
            }
            assert!(store.view("up").unwrap()[..] == expected[..], "{precision:?}");
            assert!(store.view_range("up", 1000..9000).unwrap()[..] == expected[1000..9000]);
            match kind {
                Some(kind) => {
                    let view = store.view_half("up").unwrap();
                    assert!(
                        view.kind() == kind && view[..] == bits[..],
                        "{precision:?}, committed: {is_committed}"
                    );
                }
                None => assert!(matches!(store.view_half("up"), Err(Error::Invalid { .. }))),
            }
        }
        let mut part = vec![0.0; 777];
        store.read_range_into("up", 4000, &mut part).unwrap();
        assert_eq!(part, expected[4000..4777]);
        let mut rows = vec![0.0; 3 * 301];
        store.gather_rows("up", &[129, 0, 77], &mut rows).unwrap();
        for (at, row) in [129, 0, 77].into_iter().enumerate() {
            assert_eq!(rows[at * 301..(at + 1) * 301], expected[row * 301..(row + 1) * 301]);
        }
    }
}

#[test]
fn a_half_view_of_committed_parameters_is_in_place() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new().memory_budget(64 << 20).io_path(IoPath::Mapped);
    let mut store =
        ParamStore::create(dir.path().join("s"), &schema(Precision::BF16, 1 << 18), &options).unwrap();
    step(&mut store).unwrap();
    store.commit(b"").unwrap();
    drop(store);
    let store = ParamStore::open(dir.path().join("s"), &options).unwrap();
    let half = store.view_half("up").unwrap();
    assert!(half.is_zero_copy());
    let wide = store.view("up").unwrap();
    assert!(!wide.is_zero_copy());
    assert!(half.iter().zip(&wide[..]).all(|(bits, x)| u32::from(*bits) << 16 == x.to_bits()));
}

#[test]
fn gradients_in_16_bits_are_the_same_gradients() {
    for kind in [Half::Bf16, Half::F16] {
        for options_of_step in
            [StepOptions::new(), StepOptions::new().loss_scale(8.0), StepOptions::new().max_norm(0.5)]
        {
            let mut stores = [Precision::COMPACT, Precision::COMPACT]
                .map(|p| create(&memory(), &schema(p, 4096), &options()).unwrap());
            for name in ["up", "tiny"] {
                let n = stores[0].tensor(name).unwrap().elements();
                let mut bits = vec![0; usize::try_from(n).unwrap()];
                round(InstructionSet::portable(), kind, Rounding::Nearest, &gradient(name, n, 3), &mut bits);
                let mut wide = vec![0.0; bits.len()];
                widen(InstructionSet::portable(), kind, &bits, &mut wide);
                let [a, b] = &mut stores;
                let mut step = a.begin_step_with(options_of_step).unwrap();
                step.apply_half(name, kind, &bits).unwrap();
                assert!(matches!(step.apply_half(name, kind, &bits[1..]), Err(Error::Invalid { .. })));
                let norm = step.finish().unwrap().grad_norm;
                let mut step = b.begin_step_with(options_of_step).unwrap();
                step.apply(name, &wide).unwrap();
                assert_eq!(step.finish().unwrap().grad_norm, norm);
            }
            assert_eq!(stores[0].digest().unwrap(), stores[1].digest().unwrap(), "{kind:?}");
        }
    }
}

#[test]
fn what_few_bits_cannot_hold_or_do_is_refused_before_anything_changes() {
    let invalid = |result: Result<()>| matches!(result, Err(Error::Invalid { .. }));
    let group = || Schema::new().group(ParamGroup::new("all", adamw()));
    let rows = TensorSpec::new("t", &[100, 64]).rows();
    let refused = create(&memory(), &group().tensor(rows.clone().precision(Precision::BF16)), &options());
    assert!(invalid(refused.map(|_| ())), "rows");
    let store = create(
        &memory(),
        &group().precision(Precision::COMPACT).tensor(rows),
        &options().memory_budget(8 << 20),
    )
    .unwrap();
    assert_eq!(store.tensor("t").unwrap().dtype(), Dtype::F32, "rows stay in f32");
    let codes = Precision::new(Dtype::Q8Signed, Moments::F32);
    let refused = create(&memory(), &group().tensor(TensorSpec::new("t", &[1]).precision(codes)), &options());
    assert!(invalid(refused.map(|_| ())), "parameters of 8 bits");
    let unknown = group().group_precision("none", Precision::BF16).tensor(TensorSpec::new("t", &[1]));
    assert!(matches!(create(&memory(), &unknown, &options()), Err(Error::Unknown { .. })));

    let mut store = create(&memory(), &schema(Precision::COMPACT, 4096), &options()).unwrap();
    let before = store.digest().unwrap();
    let mut step = store.begin_step().unwrap();
    assert!(invalid(step.apply_range("up", 100, &[1.0; 256])), "a part that begins in a block of 256");
    assert!(invalid(step.apply_range("up", 0, &[1.0; 100])), "a part that ends in one");
    assert!(invalid(step.apply_rows("up", &[0], &[1.0; 301])), "rows of a tensor in few bits");
    drop(step);
    assert_eq!(store.digest().unwrap(), before);
    let mut step = store.begin_step().unwrap();
    let all = gradient("up", 130 * 301, 0);
    step.apply_range("up", 10 * 256, &all[10 * 256..]).unwrap();
    step.apply_range("up", 0, &all[..10 * 256]).unwrap();
    step.finish().unwrap();
    let mut whole =
        create(&memory(), &schema(Precision::COMPACT, 1 << 20), &options().memory_budget(64 << 20)).unwrap();
    let mut step = whole.begin_step().unwrap();
    step.apply("up", &all).unwrap();
    step.finish().unwrap();
    assert_eq!(store.digest().unwrap(), whole.digest().unwrap());
}

#[test]
fn digest_of_blocks_that_were_never_written_is_that_of_their_values() {
    for precision in precisions() {
        let mut sum = schema(precision, 4096);
        sum = sum.tensor(TensorSpec::new("constant", &[70, 70]).init(Init::Constant(0.123_456_7)));
        let mut store = create(&memory(), &sum, &options()).unwrap();
        let before = store.digest().unwrap();
        for name in TENSORS.into_iter().chain(["constant"]) {
            let now = values(&store, name, "param");
            store.write(name, &now).unwrap();
        }
        assert_eq!(store.digest().unwrap(), before, "{precision:?}");
    }
}

#[test]
fn a_narrow_store_says_so_in_its_features_and_passes_through_memory_and_verification_whole() {
    let dir = tempfile::tempdir().unwrap();
    for (precision, bit) in [(Precision::F32, 0), (Precision::COMPACT, 2)] {
        let path = dir.path().join(format!("{bit}"));
        let options = Options::new().memory_budget(64 << 20);
        let mut store = ParamStore::create(&path, &schema(precision, 1 << 16), &options).unwrap();
        step(&mut store).unwrap();
        store.commit(b"").unwrap();
        let before = store.digest().unwrap();
        let elements: u64 = store.tensors().map(|tensor| tensor.elements()).sum();
        let pass = store.memory_pass(&[1.0; 1000]).unwrap();
        let least = elements * if bit == 0 { 28 } else { 12 };
        assert!(
            pass.bytes >= least && pass.bytes < least * 3 / 2,
            "{precision:?}: {} of {least}",
            pass.bytes
        );
        assert_eq!(store.digest().unwrap(), before);
        let meta = std::fs::read(path.join("meta")).unwrap();
        assert_eq!(meta[32..40], u64::to_le_bytes(bit), "incompat features");
        drop(store);
        let found = crate::inspect::verify(&path, &crate::inspect::VerifyOptions::default(), |_| {}).unwrap();
        assert!(found.findings.is_empty() && found.blocks > 0, "{found:?}");
    }
}
