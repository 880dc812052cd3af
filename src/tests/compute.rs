//! Copies of f32 parameters in 16 bits, written with every update.

use super::{create, gradient, memory, open, options};
use crate::inspect::{Role, VerifyOptions, verify::verify_in};
use crate::optim::{AdamW, Optimizer};
use crate::precision::{Half, Rounding, round, widen};
use crate::{
    Error, Init, InstructionSet, IoPath, Options, ParamGroup, ParamStore, Precision, Schema, StepOptions,
    TensorSpec,
};

/// Of several blocks, one that shares a block, and some that have none.
fn schema(kind: Option<Half>, block_bytes: u64) -> Schema {
    let normal = Init::Normal { mean: 0.0, std: 0.5 };
    let schema = Schema::new()
        .seed(4)
        .block_bytes(block_bytes)
        .gradient_plane(true)
        .group(ParamGroup::new("all", Optimizer::AdamW(AdamW { lr: 0.01, ..AdamW::default() })))
        .tensor(TensorSpec::new("up", &[130, 301]).init(normal))
        .tensor(TensorSpec::new("a", &[65, 70]).init(normal))
        .tensor(TensorSpec::new("b", &[64, 65]).init(Init::Constant(0.1)))
        .tensor(TensorSpec::new("norm", &[5000]).init(Init::Constant(1.1)))
        .tensor(TensorSpec::new("narrow", &[80, 80]).precision(Precision::BF16));
    kind.map_or(schema.clone(), |kind| schema.compute(kind))
}

const COPIED: [&str; 3] = ["up", "a", "b"];

fn step(store: &mut ParamStore, options: StepOptions) {
    let now = store.step();
    let sizes: Vec<_> = store.tensors().map(|t| (t.name().to_owned(), t.elements())).collect();
    let mut step = store.begin_step_with(options).unwrap();
    for (name, elements) in sizes {
        let gradient = gradient(&name, elements, now);
        // In parts that cut blocks, and at once.
        if now % 2 == 1 && name == "up" {
            step.apply_range(&name, 0, &gradient[..1500]).unwrap();
            step.apply_range(&name, 1500, &gradient[1500..]).unwrap();
        } else {
            step.apply(&name, &gradient).unwrap();
        }
    }
    step.finish().unwrap();
}

fn params(store: &ParamStore, name: &str) -> Vec<f32> {
    let mut out = vec![0.0; usize::try_from(store.tensor(name).unwrap().elements()).unwrap()];
    store.read_into(name, &mut out).unwrap();
    out
}

/// Every copy is what rounding the parameters gives, seen as a view and as a plane.
fn check(store: &ParamStore, kind: Half) {
    let isa = InstructionSet::portable();
    for name in COPIED {
        let params = params(store, name);
        let mut expected = vec![0; params.len()];
        round(isa, kind, Rounding::Nearest, &params, &mut expected);
        let view = store.view_half(name).unwrap();
        assert!(view.kind() == kind && *view == *expected, "{name}");
        let (mut wide, mut plane) = (vec![0.0; params.len()], vec![0.0; params.len()]);
        widen(isa, kind, &expected, &mut wide);
        store.read_plane_into(name, "compute", &mut plane).unwrap();
        assert_eq!(wide, plane, "{name}");
    }
}

#[test]
fn copies_follow_the_parameters_through_steps_writes_commits_and_opening() {
    for (kind, path, budget) in [
        (Half::Bf16, IoPath::Auto, 512 << 10),
        (Half::F16, IoPath::Direct, 208 << 10),
        (Half::Bf16, IoPath::Mapped, 208 << 10),
    ] {
        let volume = memory();
        let options = |threads| options().memory_budget(budget).threads(threads).io_path(path);
        let mut store = create(&volume, &schema(Some(kind), 4096), &options(1)).unwrap();
        let mut plain = create(&memory(), &schema(None, 16384), &options(2)).unwrap();
        check(&store, kind);
        for number in 0..5 {
            let of_step = if number == 3 { StepOptions::new().max_norm(0.1) } else { StepOptions::new() };
            step(&mut store, of_step);
            step(&mut plain, of_step);
            check(&store, kind);
            if number == 1 {
                let values = gradient("a", 2000, 77);
                store.write_range("a", 900, &values).unwrap();
                plain.write_range("a", 900, &values).unwrap();
                let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
                store.write_bytes("up", 1000, &bytes).unwrap();
                plain.write_bytes("up", 1000, &bytes).unwrap();
                check(&store, kind);
            }
            if number == 2 {
                store.commit(b"").unwrap();
                step(&mut store, of_step);
                store.rollback().unwrap();
                check(&store, kind);
                drop(store);
                store = open(&volume, &options(2)).unwrap();
            }
        }
        for name in ["up", "a", "b", "norm", "narrow"] {
            assert_eq!(params(&store, name), params(&plain, name), "the copy changes nothing of {name}");
        }
        store.commit(b"").unwrap();
        check(&store, kind);
        let summary = store.summary().unwrap();
        let compute = summary.planes.iter().find(|plane| plane.role == Role::Compute).unwrap();
        assert_eq!(compute.value_bytes, 2 * (130 * 301 + 65 * 70 + 64 * 65));
        assert!(summary.features.iter().any(|feature| feature == "compute"), "{:?}", summary.features);
        drop(store);
        let verification =
            verify_in(&(std::sync::Arc::new(volume) as _), &VerifyOptions::new(), &mut |_| {}).unwrap();
        assert!(verification.is_sound());
    }
}

/// A step writes the copy and does not read it.
#[test]
fn a_step_out_of_core_reads_nothing_of_the_copy_where_it_takes_whole_blocks() {
    let bytes = |kind| {
        let schema =
            Schema::new().block_bytes(4096).group(ParamGroup::new("all", Optimizer::AdamW(AdamW::default())));
        let spec = TensorSpec::new("w", &[64, 1024]);
        let schema = schema.tensor(match kind {
            Some(kind) => spec.compute(kind),
            None => spec,
        });
        let mut store = create(&memory(), &schema, &options().memory_budget(14 * 4096)).unwrap();
        for _ in 0..4 {
            step(&mut store, StepOptions::new());
        }
        let before = store.stats();
        step(&mut store, StepOptions::new());
        store.wait_idle().unwrap();
        let stats = store.stats().since(&before);
        (stats.bytes_read, stats.bytes_written)
    };
    let (plain, copied) = (bytes(None), bytes(Some(Half::Bf16)));
    // Of 768 KiB of planes some stay; the copy takes a part of their memory.
    assert!(copied.0 < plain.0 + 40 * 1024, "{copied:?} beside {plain:?}");
    assert!(copied.1 > plain.1 + 100 * 1024, "{copied:?} beside {plain:?}");
}

#[test]
fn copies_that_are_prefetched_are_read_once_and_nothing_else_is() {
    let volume = memory();
    let mut store = create(&volume, &schema(Some(Half::Bf16), 8192), &options()).unwrap();
    step(&mut store, StepOptions::new());
    store.commit(b"").unwrap();
    drop(store);
    let mut store = open(&volume, &options()).unwrap();
    let before = store.stats();
    store.prefetch_half(&["up"]);
    store.wait_idle().unwrap();
    let came = store.stats().since(&before).bytes_read;
    assert_eq!(store.view_half("up").unwrap().len(), 130 * 301);
    let read = store.stats().since(&before).bytes_read;
    assert_eq!(read, (130 * 301_u64).div_ceil(2048) * 4096);
    assert!(came > read / 2, "{came} of {read} bytes came before");
}

#[test]
fn a_copy_of_what_has_none_is_refused() {
    let refused = |spec: TensorSpec| {
        let schema = Schema::new()
            .group(ParamGroup::new("all", Optimizer::Sgd(crate::optim::Sgd::default())))
            .tensor(spec.compute(Half::Bf16));
        let error = create(&memory(), &schema, &Options::new().memory_budget(1 << 20)).unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
    };
    refused(TensorSpec::new("t", &[9, 9]).rows());
    refused(TensorSpec::new("t", &[9, 9]).frozen());
    refused(TensorSpec::new("t", &[9, 9]).precision(Precision::BF16));
    let mut store = create(&memory(), &schema(Some(Half::Bf16), 4096), &options()).unwrap();
    assert!(store.view_half("norm").is_err(), "too small a tensor to have one by the rule");
    let mut of_rows = store.begin_step().unwrap();
    let error = of_rows.apply_rows("up", &[1], &[0.5; 301]).unwrap_err();
    assert!(error.to_string().contains("a plane in bf16"), "{error}");
}
