//! Opening at any size, commits, and the small costs around a step: criterion benchmarks on a real file system.
//!
//! `cargo bench --bench store`; the directory is the system's temporary one.

use std::path::Path;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use paramstore::optim::AdamW;
use paramstore::{Optimizer, Options, ParamGroup, ParamStore, Schema, TensorSpec};

fn schema(params: u64) -> Schema {
    Schema::new()
        .block_bytes(4 << 20)
        .group(ParamGroup::new("default", Optimizer::AdamW(AdamW::default())))
        .tensor(TensorSpec::new("param", &[params]))
}

fn options() -> Options {
    Options::new().memory_budget(256 << 20).sparse(true)
}

fn create(path: &Path, params: u64) -> ParamStore {
    ParamStore::create(path, &schema(params), &options()).expect("a sparse store")
}

/// A store of 100 GB (both homes of 4.17G parameters with their moments) and one of 10^12 parameters.
fn open(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let mut group = c.benchmark_group("open");
    group.sample_size(20);
    for (name, params) in
        [("100 GB sparse", 100_000_000_000 / 24), ("10^12 parameters sparse", 1_000_000_000_000)]
    {
        let path = dir.path().join(name);
        let store = create(&path, params);
        assert_eq!(store.params(), params);
        drop(store);
        group.bench_function(format!("{name}, writer"), |b| {
            b.iter(|| ParamStore::open(&path, &options()).expect("open"));
        });
        group.bench_function(format!("{name}, reader"), |b| {
            b.iter(|| ParamStore::open_read_only(&path, &options()).expect("open"));
        });
    }
    group.finish();
}

fn one_block(store: &mut ParamStore) {
    let mut step = store.begin_step().expect("step");
    step.apply("block", &vec![0.5; 1 << 20]).expect("apply");
    step.finish().expect("finish");
}

fn commit(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let schema = schema(1 << 24).tensor(TensorSpec::new("block", &[1 << 20]));
    let mut store = ParamStore::create(dir.path().join("store"), &schema, &options()).expect("create");
    let mut group = c.benchmark_group("commit");
    group.sample_size(20);
    group.bench_function("nothing changed: one barrier", |b| {
        b.iter(|| {
            let report = store.commit(b"").expect("commit");
            assert_eq!(report.barriers, 1);
        });
    });
    group.throughput(Throughput::Bytes(12 << 20));
    group.bench_function("one block of 1 Mi AdamW parameters: two barriers", |b| {
        b.iter(|| {
            let before = store.stats().bytes_written;
            one_block(&mut store);
            let report = store.commit(b"").expect("commit");
            // By the step, which expects the commit, or by the commit.
            let written = store.stats().bytes_written - before;
            assert!(report.barriers == 2 && written >= 12 << 20);
        });
    });
    group.finish();
}

/// A step over a state that is near: what the pager and the threads add to the kernel.
fn hot_step(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let params = 4 << 20;
    let mut store = create(&dir.path().join("store"), params);
    let gradient = vec![0.25; 4 << 20];
    let mut group = c.benchmark_group("hot step");
    group.throughput(Throughput::Elements(params));
    group.bench_function("AdamW, 4 Mi parameters in memory", |b| {
        b.iter(|| {
            let mut step = store.begin_step().expect("step");
            step.apply("param", &gradient).expect("apply");
            step.finish().expect("finish")
        });
    });
    assert_eq!(store.stats().bytes_read, 0);
    group.finish();
}

criterion_group!(benches, open, commit, hot_step);
criterion_main!(benches);
