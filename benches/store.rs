//! Opening at any size, commits, and the small costs around a step: criterion benchmarks on a real file system.
//!
//! `cargo bench --bench store`; the directory is the system's temporary one.

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use paramstore::inspect::{self, VerifyOptions};
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

/// One lease of a block that is near, and many: reads of one element, and a step over small tensors.
fn lease(c: &mut Criterion) {
    const TENSORS: usize = 1000;
    let dir = tempfile::tempdir().expect("a scratch directory");
    let names: Vec<_> = (0..TENSORS).map(|i| format!("bias.{i}")).collect();
    let schema =
        names.iter().fold(schema(1 << 20), |schema, name| schema.tensor(TensorSpec::new(name, &[64])));
    let mut store = ParamStore::create(dir.path().join("store"), &schema, &options()).expect("create");
    let gradient = vec![0.25; 1 << 20];
    let small = &gradient[..64];
    let mut group = c.benchmark_group("lease");
    let mut value = [0.0];
    group.bench_function("one element of a block in memory", |b| {
        b.iter(|| store.read_range_into("param", 4711, &mut value).expect("read"));
    });
    group.throughput(Throughput::Elements(TENSORS as u64));
    group.bench_function("AdamW, 1,000 tensors of 64 parameters", |b| {
        b.iter_custom(|rounds| {
            let mut time = Duration::ZERO;
            for _ in 0..rounds {
                let mut step = store.begin_step().expect("step");
                step.apply("param", &gradient).expect("apply");
                let start = Instant::now();
                for name in &names {
                    step.apply(name, small).expect("apply");
                }
                time += start.elapsed();
                step.finish().expect("finish");
            }
            time
        });
    });
    assert_eq!(store.stats().bytes_read, 0);
    group.finish();
}

/// The checksum of a block, as the I/O threads take it of every block that they read or write: in the cache, and in
/// turn over more memory than a cache holds.
fn checksum(c: &mut Criterion) {
    const BLOCK_BYTES: usize = 4 << 20;
    let memory: Vec<u8> = (0..32 * BLOCK_BYTES).map(|i| u8::try_from(i % 251).expect("a byte")).collect();
    let blocks: Vec<_> = memory.chunks_exact(BLOCK_BYTES).collect();
    let mut group = c.benchmark_group("checksum");
    group.throughput(Throughput::Bytes(BLOCK_BYTES as u64));
    group.bench_function("4 MiB, the same block", |b| b.iter(|| crc32fast::hash(black_box(blocks[0]))));
    let mut next = blocks.iter().cycle();
    group.bench_function("4 MiB, 32 blocks in turn", |b| {
        b.iter(|| crc32fast::hash(black_box(next.next().expect("a block"))));
    });
    group.finish();
}

/// Verifying a sparse store of 10^12 parameters of which four blocks were ever stepped: only what was written is read.
fn verify(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let path = dir.path().join("store");
    let schema = schema(1_000_000_000_000).tensor(TensorSpec::new("block", &[4 << 20]));
    let mut store = ParamStore::create(&path, &schema, &options()).expect("create");
    let mut step = store.begin_step().expect("step");
    step.apply("block", &vec![0.5; 4 << 20]).expect("apply");
    step.finish().expect("finish");
    store.commit(b"").expect("commit");
    drop(store);
    let mut group = c.benchmark_group("verify");
    group.sample_size(10);
    group.bench_function("10^12 parameters sparse, four blocks stepped", |b| {
        b.iter(|| {
            let seen = inspect::verify(&path, &VerifyOptions::new(), |_| ()).expect("verify");
            assert!(seen.is_sound());
        });
    });
    group.finish();
}

criterion_group!(benches, open, commit, hot_step, lease, checksum, verify);
criterion_main!(benches);
