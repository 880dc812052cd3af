//! How the kept stores were made.

use std::os::unix::fs::FileExt;
use std::path::Path;

use paramstore::optim::{
    Adadelta, Adagrad, Adam, AdamW, Adamax, Lion, NAdam, RAdam, RmsProp, Sgd, SparseAdam,
};
use paramstore::precision::Half;
use paramstore::{
    Dtype, Init, Moments, Optimizer, Options, ParamGroup, ParamStore, Precision, Result, RowMode, Schema,
    TensorSpec,
};

/// Makes one store.
type Make = fn(&Path) -> Result<()>;

pub(crate) const STORES: [(&str, Make); 16] = [
    ("fresh", |path| create(path, &one(Optimizer::AdamW(AdamW::default())), &options()).map(|_| ())),
    ("adamw", |path| train(&mut create(path, &one(Optimizer::AdamW(AdamW::default())), &options())?, 3)),
    ("ten_optimizers", |path| train(&mut create(path, &ten(), &options())?, 3)),
    ("gradient_plane", gradient_plane),
    ("sparse", |path| {
        train(&mut create(path, &one(Optimizer::AdamW(AdamW::default())), &options().sparse(true))?, 2)
    }),
    ("two_levels", |path| train(&mut create(path, &many(), &options())?, 2)),
    ("lost_step", lost_step),
    ("cut_commit", cut_commit),
    ("torn_superblock", torn_superblock),
    ("kept", kept),
    ("rows", rows),
    ("compact", |path| narrow(path, Precision::COMPACT)),
    ("halves", |path| narrow(path, Precision::new(Dtype::F16, Moments::Bf16))),
    ("frozen", frozen),
    ("compensated", |path| narrow(path, Precision::COMPACT_KAHAN)),
    ("copies", |path| {
        let schema = one(Optimizer::AdamW(AdamW::default()));
        let large = TensorSpec::new("matrix", &[64, 70]).init(Init::Normal { mean: 0.0, std: 0.1 });
        let f16 = TensorSpec::new("small", &[5, 9]).compute(Half::F16).init(Init::Constant(0.3));
        train(&mut create(path, &schema.compute(Half::Bf16).tensor(large).tensor(f16), &options())?, 3)
    }),
];

fn options() -> Options {
    Options::new().memory_budget(1 << 20).threads(1).io_threads(1)
}

fn create(path: &Path, schema: &Schema, options: &Options) -> Result<ParamStore> {
    ParamStore::create(path, schema, options)
}

/// A tensor of two blocks, one that shares a block with a scalar, all four kinds of initial values.
fn one(optimizer: Optimizer) -> Schema {
    Schema::new()
        .seed(17)
        .block_bytes(4096)
        .group(ParamGroup::new("all", optimizer))
        .tensor(TensorSpec::new("weight", &[2, 600]).init(Init::Normal { mean: 0.0, std: 0.02 }))
        .tensor(TensorSpec::new("bias", &[37]).init(Init::Uniform { low: -0.5, high: 0.5 }))
        .tensor(TensorSpec::new("scale", &[]).init(Init::Constant(1.0)))
        .tensor(TensorSpec::new("never touched", &[5, 1]))
}

fn ten() -> Schema {
    let optimizers = [
        Optimizer::Sgd(Sgd { lr: 0.1, momentum: 0.9, dampening: 0.5, weight_decay: 0.01, ..Sgd::default() }),
        Optimizer::Adagrad(Adagrad { initial_accumulator_value: 0.1, ..Adagrad::default() }),
        Optimizer::Adadelta(Adadelta::default()),
        Optimizer::RmsProp(RmsProp { centered: true, momentum: 0.5, ..RmsProp::default() }),
        Optimizer::Adam(Adam { amsgrad: true, ..Adam::default() }),
        Optimizer::AdamW(AdamW::default()),
        Optimizer::Adamax(Adamax::default()),
        Optimizer::NAdam(NAdam::default()),
        Optimizer::RAdam(RAdam::default()),
        Optimizer::Lion(Lion::default()),
    ];
    let mut schema = Schema::new().seed(3).block_bytes(4096);
    for optimizer in optimizers {
        let name = optimizer.name();
        schema = schema
            .group(ParamGroup::new(name, optimizer))
            .tensor(TensorSpec::new(format!("of {name}"), &[40]).group(name).init(Init::Constant(0.25)));
    }
    schema
}

/// Every tensor in few bits, but for one: two that share a block, one of several blocks.
fn narrow(path: &Path, precision: Precision) -> Result<()> {
    let wide = TensorSpec::new("wide", &[30]).precision(Precision::F32).init(Init::Constant(0.1));
    let schema = one(Optimizer::AdamW(AdamW::default())).precision(precision.everywhere()).tensor(wide);
    train(&mut create(path, &schema, &options())?, 3)
}

/// Tensors that no step updates, of several blocks and small, of floats and of integers, beside some that are trained.
fn frozen(path: &Path) -> Result<()> {
    let schema = one(Optimizer::AdamW(AdamW::default()))
        .tensor(TensorSpec::new("base", &[3, 700]).frozen().init(Init::Normal { mean: 0.0, std: 1.0 }))
        .tensor(TensorSpec::new("table", &[1500]).stored_as(Dtype::Bf16))
        .tensor(TensorSpec::new("ids", &[11]).stored_as(Dtype::I64));
    let mut store = create(path, &schema, &options())?;
    store.write_range("base", 1024, &[0.25; 100])?;
    store.write_bytes("table", 0, &[0x3f; 3000])?;
    store.write_bytes("ids", 2, &[7; 16])?;
    store.commit(b"imported")?;
    train(&mut store, 2)
}

/// More slots than one leaf of the table holds.
fn many() -> Schema {
    let schema =
        Schema::new().block_bytes(4096).group(ParamGroup::new("all", Optimizer::Sgd(Sgd::default())));
    (1..=260).fold(schema, |schema, i| schema.tensor(TensorSpec::new(format!("t{i}"), &[1 + i % 4])))
}

/// A tensor of rows of several blocks; one whose rows are found by hashed ids and catch up; and one that is none.
fn with_rows() -> Schema {
    Schema::new()
        .seed(23)
        .block_bytes(4096)
        .row_log_bytes(64 << 10)
        .group(ParamGroup::new("sparse", Optimizer::SparseAdam(SparseAdam::default())))
        .group(ParamGroup::new("all", Optimizer::AdamW(AdamW::default())))
        .tensor(
            TensorSpec::new("words", &[300, 6])
                .group("sparse")
                .init(Init::Normal { mean: 0.0, std: 0.02 })
                .rows(),
        )
        .tensor(
            TensorSpec::new(HASHED, &[50, 4])
                .group("all")
                .init(Init::Constant(0.5))
                .row_mode(RowMode::CatchUp)
                .hashed_ids(2),
        )
        .tensor(TensorSpec::new("bias", &[37]).group("all"))
}

/// The tensor with hashed ids.
const HASHED: &str = "users";

/// One step over every tensor but those that are never touched; of a tensor of rows, over half of them and one twice.
pub(crate) fn one_step(store: &mut ParamStore) -> Result<()> {
    let tensors: Vec<_> = store
        .tensors()
        .filter(|t| !t.is_frozen())
        .map(|t| (t.name().to_owned(), t.elements(), t.is_rows().then(|| t.shape().to_vec())))
        .collect();
    let now = store.step();
    let mut step = store.begin_step()?;
    let value = |i: u64| f32::from(u8::try_from((i * 31 + now * 7) % 251).unwrap()) / 125.0 - 1.0;
    for (name, elements, rows) in tensors.iter().filter(|(name, ..)| name != "never touched") {
        if let Some([rows, width]) = rows.as_deref() {
            let ids: Vec<_> = (0..rows / 2).chain([3]).map(|i| (i * 7 + now * 13) % rows).collect();
            let gradients: Vec<_> = (0..ids.len() as u64 * width).map(value).collect();
            if name == HASHED {
                step.apply_ids(name, &ids.iter().map(|id| id << 40).collect::<Vec<_>>(), &gradients)?;
            } else {
                step.apply_rows(name, &ids, &gradients)?;
            }
        } else {
            step.apply(name, &(0..*elements).map(value).collect::<Vec<_>>())?;
        }
    }
    step.finish().map(|_| ())
}

/// Steps, each with a commit of its own and a record that says so.
fn train(store: &mut ParamStore, steps: u64) -> Result<()> {
    for _ in 0..steps {
        one_step(store)?;
        let record = format!("after step {}", store.step());
        store.commit(record.as_bytes())?;
    }
    Ok(())
}

fn gradient_plane(path: &Path) -> Result<()> {
    let schema = one(Optimizer::AdamW(AdamW { lr: 0.01, ..AdamW::default() })).gradient_plane(true);
    let mut store = create(path, &schema, &options())?;
    store.group_mut("all")?.set_lr(0.005)?;
    train(&mut store, 2)?;
    // An accumulated gradient, and settings that change with a commit.
    let mut step = store.begin_step()?;
    step.accumulate("bias", &[0.5; 37], 0.5)?;
    step.finish()?;
    store.group_mut("all")?.set("betas", "0.8,0.95")?;
    store.commit(b"accumulated").map(|_| ())
}

/// Two commits, then a step that no commit followed.
fn lost_step(path: &Path) -> Result<()> {
    let mut store = create(path, &one(Optimizer::AdamW(AdamW::default())), &options())?;
    train(&mut store, 2)?;
    one_step(&mut store)
}

/// A commit that was cut off before its superblock: blocks, record and table pages of generation 4 are written, and
/// both superblocks are those of before.
fn cut_commit(path: &Path) -> Result<()> {
    let mut store = create(path, &one(Optimizer::AdamW(AdamW::default())), &options())?;
    train(&mut store, 2)?;
    let before = slots(path);
    train(&mut store, 1)?;
    drop(store);
    put_slots(path, &before);
    Ok(())
}

/// The superblock of generation 4 is whole in its first sector only; the others are those of generation 2.
fn torn_superblock(path: &Path) -> Result<()> {
    let mut store = create(path, &one(Optimizer::AdamW(AdamW::default())), &options())?;
    train(&mut store, 2)?;
    let before = slots(path);
    train(&mut store, 1)?;
    drop(store);
    let mut torn = slots(path);
    torn[512..4096].copy_from_slice(&before[512..4096]);
    put_slots(path, &torn);
    Ok(())
}

/// A checkpoint kept after two commits, whose planes stand in both homes, and training beyond it.
fn kept(path: &Path) -> Result<()> {
    let mut store = create(path, &one(Optimizer::AdamW(AdamW::default())), &options())?;
    train(&mut store, 2)?;
    store.keep("best")?;
    train(&mut store, 2)
}

/// Rows in the log, in blocks, and yet unborn; a checkpoint kept before the first went to blocks.
fn rows(path: &Path) -> Result<()> {
    let mut store = create(path, &with_rows(), &options().sparse(true))?;
    train(&mut store, 1)?;
    assert!(store.row_log_bytes().0 > 0 && store.row_uses()[0].born < 300);
    store.keep("best")?;
    while store.stats().row_blocks_folded == 0 || store.row_log_bytes().0 == 0 {
        train(&mut store, 1)?;
    }
    Ok(())
}

fn slots(path: &Path) -> Vec<u8> {
    std::fs::read(path.join("meta")).unwrap()[..8192].to_vec()
}

fn put_slots(path: &Path, slots: &[u8]) {
    let meta = std::fs::OpenOptions::new().write(true).open(path.join("meta")).unwrap();
    meta.write_all_at(slots, 0).unwrap();
}
