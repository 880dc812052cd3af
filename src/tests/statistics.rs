//! Statistics and differences: exact values, and the same bits however a store is cut and looked at.

use std::sync::Arc;

use super::{create, memory, one_step, options, schema};
use crate::inspect::{Bin, DiffOptions, PlaneStatistics, StatisticsOptions, TensorStatistics, diff};
use crate::optim::{Adam, AdamW, Optimizer, Sgd};
use crate::precision::{Moments, Precision};
use crate::storage::MemoryVolume;
use crate::{Dtype, Generation, Init, Options, ParamGroup, ParamStore, Schema, TensorSpec};

fn reader(volume: &MemoryVolume, options: &Options) -> ParamStore {
    ParamStore::open_read_only_in(Arc::new(volume.clone()), options).unwrap()
}

fn all(store: &ParamStore, threads: usize) -> Vec<TensorStatistics> {
    store.statistics(&StatisticsOptions::new().threads(threads), |_| {}).unwrap()
}

fn plane<'a>(seen: &'a [TensorStatistics], tensor: &str, plane: &str) -> &'a PlaneStatistics {
    let tensor = seen.iter().find(|seen| seen.name == tensor).unwrap();
    tensor.planes.iter().find(|seen| seen.plane == plane).unwrap()
}

fn one_tensor(values: &[f32]) -> ParamStore {
    let schema = Schema::new()
        .block_bytes(4096)
        .group(ParamGroup::new("g", Optimizer::Adam(Adam { lr: 0.5, eps: 0.0, ..Adam::default() })))
        .tensor(TensorSpec::new("t", &[values.len() as u64]));
    let mut store = create(&memory(), &schema, &options()).unwrap();
    store.write_range("t", 0, values).unwrap();
    store
}

#[test]
fn statistics_of_known_values_are_exact() {
    let store = one_tensor(&[3.0, -4.0, 0.0, -0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1.5, 1e-40]);
    let seen = all(&store, 1);
    let seen = plane(&seen, "t", "param");
    assert_eq!((seen.elements, seen.finite(), seen.zeros, seen.nan, seen.infinite), (9, 6, 2, 1, 2));
    assert_eq!((seen.min, seen.max), (Some(-4.0), Some(3.0)));
    let tiny = f64::from(1e-40_f32);
    assert_eq!(Some(seen.norm), Some((9.0_f64 + 16.0 + 2.25 + tiny * tiny).sqrt()));
    let mean = (3.0 - 4.0 + 1.5 + tiny) / 6.0;
    assert_eq!(seen.mean, Some(mean));
    let variance =
        [3.0, -4.0, 0.0, 0.0, 1.5, tiny].iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / 6.0;
    assert!((seen.std.unwrap() - variance.sqrt()).abs() < 1e-15);
    let bin = |is_negative, exponent, count| Bin { is_negative, exponent, count };
    let expected = [bin(true, 2, 1), bin(false, -127, 1), bin(false, 0, 1), bin(false, 1, 1)];
    assert_eq!(seen.histogram.bins().collect::<Vec<_>>(), expected);
}

/// The sum of squares would lose all of it: 1e4 squared times 2,000, beside deviations of 2^-11.
#[test]
fn deviation_survives_a_mean_that_is_far_from_zero() {
    let values: Vec<f32> =
        (0..2000).map(|i| if i % 2 == 0 { 10_000.0 } else { 10_000.0 + 1.0 / 1024.0 }).collect();
    let store = one_tensor(&values);
    let seen = all(&store, 1);
    let seen = plane(&seen, "t", "param");
    let expected = 1.0 / 2048.0;
    assert!((seen.std.unwrap() / expected - 1.0).abs() < 1e-9, "{:?}", seen.std);
}

#[test]
fn tensor_without_a_finite_value_has_no_mean() {
    let store = one_tensor(&[f32::NAN; 3000]);
    let seen = all(&store, 1);
    let seen = plane(&seen, "t", "param");
    assert_eq!((seen.mean, seen.std, seen.min, seen.max, seen.rms()), (None, None, None, None, None));
    assert_eq!((seen.norm, seen.nan, seen.histogram.bins().count()), (0.0, 3000, 0));
}

/// After the first step of Adam without eps, each element has moved by lr, but for those without a gradient.
#[test]
fn first_update_of_adam_is_its_rate_and_that_of_momentum_its_buffer() {
    let mut store = one_tensor(&[2.0; 4096]);
    assert_eq!(all(&store, 1)[0].update_rms, None, "no update yet");
    let mut step = store.begin_step().unwrap();
    step.apply("t", &[0.25; 4096]).unwrap();
    step.finish().unwrap();
    let seen = &all(&store, 1)[0];
    assert!((seen.update_rms.unwrap() - 0.5).abs() < 1e-6, "{seen:?}");
    // 2 - 0.5.
    assert!((seen.update_ratio().unwrap() - 0.5 / 1.5).abs() < 1e-6, "{seen:?}");

    let sgd = Optimizer::Sgd(Sgd { lr: 0.5, momentum: 0.9, ..Sgd::default() });
    let schema = Schema::new()
        .group(ParamGroup::new("g", sgd))
        .tensor(TensorSpec::new("t", &[5]).init(Init::Constant(2.0)));
    let mut store = create(&memory(), &schema, &Options::new().memory_budget(64 << 20).threads(1)).unwrap();
    let mut step = store.begin_step().unwrap();
    step.apply("t", &[0.25; 5]).unwrap();
    step.finish().unwrap();
    assert_eq!(all(&store, 1)[0].update_rms, Some(0.125));
}

/// A small property test: blocks, budgets, threads and I/O change no bit, and neither does whether a block was read or
/// never written.
#[test]
fn statistics_depend_on_neither_blocks_nor_budgets_nor_threads() {
    let mut expected = None;
    for (block_bytes, budget) in [(4096, 48 << 10), (4096, 1 << 20), (16_384, 512 << 10), (1 << 18, 16 << 20)]
    {
        let volume = memory();
        let with = options().memory_budget(budget.max(20 * block_bytes));
        let mut store = create(&volume, &schema(block_bytes), &with).unwrap();
        let born = all(&store, 2);
        for _ in 0..2 {
            one_step(&mut store).unwrap();
        }
        store.commit(b"").unwrap();
        drop(store);
        for threads in [1, 2, 5] {
            for io_threads in [1, 3] {
                let store = reader(&volume, &with.clone().io_threads(io_threads));
                let seen = (born.clone(), all(&store, threads));
                assert_eq!(&seen, expected.get_or_insert_with(|| seen.clone()), "{block_bytes} {threads}");
            }
        }
    }
}

#[test]
fn stretches_that_were_never_written_count_as_if_they_were_read() {
    const N: u64 = 5_000_003;
    let schema = |init| {
        let adamw = Optimizer::AdamW(AdamW::default());
        Schema::new()
            .block_bytes(4096)
            .group(ParamGroup::new("g", adamw))
            .tensor(TensorSpec::new("first", &[100]))
            .tensor(TensorSpec::new("t", &[N]).init(init))
    };
    let with = options().memory_budget(4 << 20);
    let store = create(&memory(), &schema(Init::Constant(0.1)), &with).unwrap();
    let by_init = all(&store, 3);
    assert_eq!(store.stats().bytes_read, 0);
    let mut store = create(&memory(), &schema(Init::Zeros), &with).unwrap();
    store.write_range("t", 0, &vec![0.1; usize::try_from(N).unwrap()]).unwrap();
    let by_reading = all(&store, 3);
    assert_eq!(by_init, by_reading);
    let seen = plane(&by_init, "t", "param");
    assert_eq!((seen.elements, seen.std, seen.zeros), (N, Some(0.0), 0));
}

#[test]
fn planes_in_few_bits_and_rows_count_what_they_stand_for() {
    let adamw = Optimizer::AdamW(AdamW::default());
    let mut precision = Precision::new(Dtype::Bf16, Moments::Q8);
    precision.everywhere = true;
    let narrow = Schema::new()
        .precision(precision)
        .group(ParamGroup::new("g", adamw))
        .tensor(TensorSpec::new("t", &[700, 10]).init(Init::Normal { mean: 0.0, std: 1.0 }));
    let rows = Schema::new()
        .block_bytes(8192)
        .group(ParamGroup::new("g", Optimizer::Adam(Adam::default())))
        .tensor(TensorSpec::new("t", &[700, 10]).init(Init::Normal { mean: 0.0, std: 1.0 }).rows());
    for (schema, by_rows) in [(narrow, false), (rows, true)] {
        let mut store =
            create(&memory(), &schema, &Options::new().memory_budget(64 << 20).threads(1)).unwrap();
        let mut step = store.begin_step().unwrap();
        if by_rows {
            step.apply_rows("t", &[3, 650], &[0.5; 20]).unwrap();
        } else {
            step.apply("t", &super::gradient("t", 7000, 0)).unwrap();
        }
        step.finish().unwrap();
        let seen = all(&store, 2);
        for name in ["param", "exp_avg", "exp_avg_sq"] {
            let mut values = vec![0.0; 7000];
            store.read_plane_into("t", name, &mut values).unwrap();
            let mut like = plane(&all(&one_tensor(&values), 1), "t", "param").clone();
            like.plane = name.to_owned();
            assert_eq!(plane(&seen, "t", name), &like, "{name}, rows: {by_rows}");
        }
    }
}

#[test]
fn differences_of_known_values_are_exact() {
    let mut values = vec![1.0_f32; 3000];
    let a = one_tensor(&values);
    values[7] = 4.0;
    values[2999] = -3.0;
    values[5] = f32::NAN;
    let b = one_tensor(&values);
    let seen = diff(&a, &b, &DiffOptions::new(), |_| {}).unwrap();
    assert!(!seen.is_same());
    let seen = &seen.tensors[0].planes[0];
    assert_eq!((seen.elements, seen.changed, seen.non_finite, seen.max_abs), (3000, 3, 1, 4.0));
    assert_eq!((seen.rms, seen.rms_a), ((25.0_f64 / 2999.0).sqrt(), Some(1.0)));
    assert_eq!(seen.relative(), Some(seen.rms));
    let (both, of_b) = (2997.0 + 4.0 - 3.0, 2997.0_f64 + 16.0 + 9.0);
    assert!((seen.cosine.unwrap() - both / (2999.0_f64.sqrt() * of_b.sqrt())).abs() < 1e-15);
    let same = diff(&a, &a, &DiffOptions::new().all_planes(true), |_| {}).unwrap();
    assert!(same.is_same() && same.tensors[0].planes.len() == 3);
    assert_eq!(same.tensors[0].planes[0].cosine, Some(1.0));
}

#[test]
fn tensors_that_only_one_has_and_other_shapes_are_named() {
    let store = |tensors: &[(&str, u64)], optimizer: Optimizer| {
        let group = Schema::new().group(ParamGroup::new("g", optimizer));
        let schema = tensors.iter().fold(group, |s, (name, n)| s.tensor(TensorSpec::new(*name, &[*n])));
        create(&memory(), &schema, &Options::new().memory_budget(64 << 20)).unwrap()
    };
    let a = store(&[("x", 3), ("y", 4), ("z", 5)], Optimizer::Adam(Adam::default()));
    let b = store(&[("z", 5), ("w", 1), ("y", 2)], Optimizer::Sgd(Sgd::default()));
    let seen = diff(&a, &b, &DiffOptions::new(), |_| {}).unwrap();
    assert_eq!((seen.only_in_a, seen.only_in_b), (vec!["x".to_owned()], vec!["w".to_owned()]));
    assert_eq!((seen.other_shape[0].a[0], seen.other_shape[0].b[0]), (4, 2));
    assert!(seen.tensors.len() == 1 && seen.tensors[0].is_same());
    let seen = diff(&a, &b, &DiffOptions::new().all_planes(true), |_| {}).unwrap();
    assert_eq!(seen.tensors[0].one_sided, ["exp_avg", "exp_avg_sq"]);
    assert!(!seen.tensors[0].is_same());
}

/// Generations of one store: blocks with equal entries are not read, and what is found is what reading all would find.
#[test]
fn generations_are_compared_by_the_blocks_that_differ() {
    let volume = memory();
    let mut store = create(&volume, &schema(4096), &options()).unwrap();
    one_step(&mut store).unwrap();
    store.commit(b"").unwrap();
    let mut step = store.begin_step().unwrap();
    step.apply("middle", &super::gradient("middle", 3000, 9)).unwrap();
    step.finish().unwrap();
    store.commit(b"").unwrap();
    let (older, newer) =
        (reader(&volume, &options().generation(Generation::Previous)), reader(&volume, &options()));
    let all_planes = DiffOptions::new().all_planes(true);
    let quick = diff(&older, &newer, &all_planes, |_| {}).unwrap();
    assert_eq!(quick.bytes_known_same, 4 * (3 * 9000 + 2 * 37 + 3));
    let moved: Vec<_> = quick.tensors.iter().filter(|t| !t.is_same()).map(|t| t.name.as_str()).collect();
    assert_eq!(moved, ["middle"]);
    // A writer's table does not tell what it has in memory: everything is read.
    let slow = diff(&older, &store, &all_planes, |_| {}).unwrap();
    assert_eq!(slow.bytes_known_same, 0);
    for (quick, slow) in quick.tensors.iter().zip(&slow.tensors) {
        for (quick, slow) in quick.planes.iter().zip(&slow.planes) {
            assert_eq!((quick.changed, quick.max_abs, quick.rms), (slow.changed, slow.max_abs, slow.rms));
            assert!(quick.rms_a.is_none_or(|rms| Some(rms) == slow.rms_a));
        }
    }
    let known = quick.tensors.iter().filter(|t| t.planes[0].rms_a.is_none()).count();
    assert_eq!(known, 3);
}

#[test]
fn damage_ends_statistics_with_its_place() {
    let volume = memory();
    let mut store = create(&volume, &schema(4096), &options()).unwrap();
    one_step(&mut store).unwrap();
    store.commit(b"").unwrap();
    drop(store);
    super::inspect::flip(&volume, "exp_avg.0000.0", 20_000);
    let store = reader(&volume, &options());
    for threads in [1, 4] {
        let options = StatisticsOptions::new().threads(threads);
        let error = store.statistics(&options, |_| {}).unwrap_err().to_string();
        assert!(error.contains("tensor \"big\", plane exp_avg"), "{error}");
    }
    let only = StatisticsOptions::new().tensors(["bias"]);
    assert_eq!(store.statistics(&only, |_| {}).unwrap().len(), 1);
    let unknown = StatisticsOptions::new().tensors(["bios"]);
    assert!(store.statistics(&unknown, |_| {}).is_err());
}

#[test]
fn elements_that_are_kept_as_they_are_count_as_numbers_and_differ_by_bytes() {
    let schema = Schema::new()
        .block_bytes(4096)
        .group(ParamGroup::new("g", Optimizer::Adam(Adam::default())))
        .tensor(TensorSpec::new("ids", &[2000]).stored_as(Dtype::I64))
        .tensor(TensorSpec::new("mask", &[3]).stored_as(Dtype::Bool));
    let with = Options::new().memory_budget(64 << 20).threads(1);
    let make = |last: i64| {
        let mut store = create(&memory(), &schema, &with).unwrap();
        let ids: Vec<u8> =
            (0..2000_i64).map(|i| if i == 1999 { last } else { i }).flat_map(i64::to_le_bytes).collect();
        store.write_bytes("ids", 0, &ids).unwrap();
        store.write_bytes("mask", 0, &[1, 0, 1]).unwrap();
        store
    };
    let (a, b) = (make(1 << 60), make((1 << 60) + 1));
    let seen = all(&a, 2);
    let ids = &seen[0].planes[0];
    assert_eq!((ids.zeros, ids.min, ids.max), (1, Some(0.0), Some(2.0_f64.powi(60))));
    let mask = &seen[1].planes[0];
    assert_eq!((mask.zeros, mask.mean, seen[1].update_rms), (1, Some(2.0 / 3.0), None));
    // As f64 they would be the same.
    let seen = diff(&a, &b, &DiffOptions::new(), |_| {}).unwrap();
    assert_eq!((seen.tensors[0].planes[0].changed, seen.tensors[0].planes[0].max_abs), (1, 0.0));
    assert!(!seen.is_same() && seen.tensors[1].is_same());
}
