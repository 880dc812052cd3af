//! The stores that are simulated: a few blocks each, chosen so that every part of the format is there.

use std::sync::Arc;

use super::model::{Model, Plain};
use crate::error::Result;
use crate::format::directory::{Dtype, Init};
use crate::optim::{Adagrad, AdamW, NAdam, Optimizer, Sgd, SparseAdam};
use crate::options::Options;
use crate::pager::IoPath;
use crate::param_store::ParamStore;
use crate::precision::{Half, Moments, Precision};
use crate::schema::{ParamGroup, Schema, TensorSpec};
use crate::storage::MemoryVolume;

/// The directory's name in messages.
pub(super) const PATH: &str = "store";

/// One store: how it is made, how it is opened, and what it holds at first.
pub(super) struct Profile {
    pub(super) name: &'static str,
    pub(super) schema: Schema,
    pub(super) options: Options,
    pub(super) initial: Model,
    /// Whether files can share bytes.
    pub(super) can_share: bool,
    /// Tensors that operations touch.
    pub(super) active: Vec<usize>,
    /// Those of them that are kept by rows.
    pub(super) tables: Vec<usize>,
}

/// Blocks of 4 KiB: the smallest there are.
const BLOCK_BYTES: u64 = 4096;

impl Profile {
    /// How many there are.
    pub(super) const COUNT: usize = 9;
    /// The first of them have no tensors of rows.
    pub(super) const WITHOUT_ROWS: usize = 4;
    /// The ones from here on have planes in few bits, and no rows.
    pub(super) const F32: usize = 7;

    /// Makes the one with this number.
    pub(super) fn new(number: usize) -> Result<Self> {
        match number {
            0 => Self::with("roomy", small(), 64, IoPath::Auto, false),
            1 => Self::with("tight", small(), 13, IoPath::Direct, false),
            2 => Self::with("mapped", with_frozen(), 13, IoPath::Mapped, true),
            3 => Self::with("tree", tree(), 40, IoPath::Auto, true),
            4 => Self::with("rows", rows(), ROOMY_BLOCKS, IoPath::Auto, false),
            // So little memory that changed rows have to go before a commit.
            5 => Self::with("tight rows", rows(), TIGHT_BLOCKS, IoPath::Direct, true),
            6 => Self::with("mapped rows", rows(), TIGHT_BLOCKS, IoPath::Mapped, false),
            7 => Self::with("narrow", narrow(), 40, IoPath::Direct, true),
            _ => Self::with("mapped narrow", narrow(), 16, IoPath::Mapped, false),
        }
    }

    fn with(name: &'static str, schema: Schema, blocks: u64, path: IoPath, sparse: bool) -> Result<Self> {
        let options =
            Options::new().in_place().memory_budget(blocks * BLOCK_BYTES).io_path(path).sparse(sparse);
        let volume = Arc::new(MemoryVolume::new(PATH));
        let store = ParamStore::create_in(volume, &schema, &options)?;
        let initial = Model::of(&store)?;
        let is_active = |tensor: &Arc<Plain>| !tensor.name.starts_with('t') || tensor.name.ends_with('9');
        let active: Vec<_> =
            (0..initial.tensors.len()).filter(|&at| is_active(&initial.tensors[at])).collect();
        // One of those that are allocated, and one of those that are not.
        let can_share = matches!(name, "tight" | "mapped" | "tight rows" | "mapped narrow");
        let tables = active.iter().copied().filter(|&at| initial.is_of_rows(at)).collect();
        Ok(Self { name, schema, options, initial, can_share, active, tables })
    }
}

impl Profile {
    pub(super) fn has_rows(&self) -> bool {
        !self.tables.is_empty()
    }

    /// One of the tensors of rows.
    pub(super) fn table(&self, number: u8) -> Option<usize> {
        self.tables.get(usize::from(number) % self.tables.len().max(1)).copied()
    }
}

/// Budgets with which all rows stay in memory, and a few.
const ROOMY_BLOCKS: u64 = 256;
const TIGHT_BLOCKS: u64 = 60;

/// Two tensors of rows, of several blocks each, with the smallest log, so that it goes round; and a dense one.
fn rows() -> Schema {
    let schema = Schema::new().seed(11).block_bytes(BLOCK_BYTES).gradient_plane(true).row_log_bytes(64 << 10);
    let normal = Init::Normal { mean: 0.0, std: 0.5 };
    schema
        .group(ParamGroup::new("sparseadam", Optimizer::SparseAdam(SparseAdam::default())))
        .group(ParamGroup::new("adagrad", Optimizer::Adagrad(Adagrad::default())))
        .group(ParamGroup::new("adamw", Optimizer::AdamW(AdamW::default())))
        .tensor(TensorSpec::new("words", &[150, 24]).init(normal).rows())
        .tensor(TensorSpec::new("dense", &[37]).group("adamw").init(Init::Constant(1.0)))
        .tensor(TensorSpec::new("counts", &[300, 5]).group("adagrad").rows())
}

fn groups() -> Schema {
    let sgd = Sgd { lr: 0.1, momentum: 0.9, dampening: 0.5, ..Sgd::default() };
    Schema::new()
        .seed(11)
        .block_bytes(BLOCK_BYTES)
        .gradient_plane(true)
        .group(ParamGroup::new("adamw", Optimizer::AdamW(AdamW::default())))
        .group(ParamGroup::new("sgd", Optimizer::Sgd(sgd)))
}

/// A tensor of two blocks with three planes each, two small ones that share a block with two.
fn small() -> Schema {
    groups()
        .tensor(TensorSpec::new("wide", &[1300]).init(Init::Normal { mean: 0.0, std: 0.5 }))
        .tensor(TensorSpec::new("bias", &[37]).group("sgd"))
        .tensor(TensorSpec::new("gain", &[]).group("sgd").init(Init::Constant(1.0)))
}

/// The same, and a tensor of two blocks that no step updates.
fn with_frozen() -> Schema {
    small().tensor(TensorSpec::new("base", &[1100]).frozen().init(Init::Constant(0.25)))
}

/// Parameters in 16 bits with moments in 8 and in 16, compensated ones too, f32 with moments in 8, and f32 with a copy in 16
/// bits: of most, one tensor of two blocks or two that share one. The last is in f32 alone.
fn narrow() -> Schema {
    let normal = Init::Normal { mean: 0.0, std: 0.5 };
    let f16 = Precision::new(Dtype::F16, Moments::F16);
    groups()
        .tensor(TensorSpec::new("deep", &[2300]).precision(Precision::COMPACT).init(normal))
        .tensor(TensorSpec::new("copied", &[1300]).compute(Half::Bf16).init(normal))
        .tensor(TensorSpec::new("small", &[300]).precision(Precision::COMPACT).init(normal))
        .tensor(TensorSpec::new("slight", &[37]).precision(Precision::COMPACT).init(Init::Constant(0.1)))
        .tensor(TensorSpec::new("sure", &[40]).group("sgd").compute(Half::F16).init(Init::Constant(0.1)))
        .tensor(TensorSpec::new("half", &[50]).group("sgd").precision(f16).init(normal))
        .tensor(TensorSpec::new("kept", &[2100]).precision(Precision::COMPACT.compensated()).init(normal))
        .tensor(TensorSpec::new("exact", &[60]).group("sgd").precision(f16.compensated()).init(normal))
        .tensor(TensorSpec::new("wide", &[270]).precision(Precision::new(Dtype::F32, Moments::Q8)))
        .tensor(TensorSpec::new("bias", &[37]).group("sgd"))
}

/// So many small tensors that the table has two leaves under a root. NAdam's clock has a part in f32.
fn tree() -> Schema {
    let mut schema = groups().group(ParamGroup::new("nadam", Optimizer::NAdam(NAdam::default())));
    for number in 0..253 {
        let group = if number < 60 { "nadam" } else { "sgd" };
        let spec = TensorSpec::new(format!("t{number:03}"), &[3]).group(group);
        schema = schema.tensor(if number % 50 == 9 { spec } else { spec.init(Init::Constant(0.5)) });
    }
    schema.tensor(TensorSpec::new("wide", &[1100]).init(Init::Uniform { low: -1.0, high: 1.0 }))
}
