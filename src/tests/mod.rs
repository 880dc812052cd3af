//! The whole store on disks that tests can watch and break.

mod checkpoints;
mod compensation;
mod compute;
mod exchange;
mod faults;
mod findings;
mod flips;
mod frozen;
mod fuzz;
mod hostile;
mod inspect;
mod memory_pass;
mod model;
mod models;
mod paging;
mod planning;
mod power;
mod precision;
mod recovery;
mod repair;
mod rows;
mod rows_ahead;
mod rows_faults;
mod rows_hashed;
mod rows_kept;
mod rows_modes;
mod statistics;

use std::sync::Arc;

use crate::optim::{AdamW, Optimizer, Sgd};
use crate::storage::{MemoryVolume, Volume};
use crate::{Init, Options, ParamGroup, ParamStore, Result, Schema, TensorSpec};

/// Two groups with different planes, a tensor of several blocks, small tensors that share one.
fn schema(block_bytes: u64) -> Schema {
    Schema::new()
        .seed(11)
        .block_bytes(block_bytes)
        .gradient_plane(true)
        .group(ParamGroup::new("adamw", Optimizer::AdamW(AdamW::default())))
        .group(ParamGroup::new(
            "sgd",
            Optimizer::Sgd(Sgd { lr: 0.1, momentum: 0.9, dampening: 0.5, ..Sgd::default() }),
        ))
        .tensor(TensorSpec::new("big", &[90, 100]).init(Init::Normal { mean: 0.0, std: 0.5 }))
        .tensor(TensorSpec::new("bias", &[37]).group("sgd"))
        .tensor(
            TensorSpec::new("middle", &[3, 1000]).group("sgd").init(Init::Uniform { low: -1.0, high: 1.0 }),
        )
        .tensor(TensorSpec::new("scale", &[]).init(Init::Constant(1.0)))
}

fn options() -> Options {
    Options::new().memory_budget(256 << 10).threads(1).io_threads(1)
}

fn memory() -> MemoryVolume {
    MemoryVolume::new("store")
}

/// A gradient that depends on tensor, element and step, with some exact zeros.
fn gradient(name: &str, elements: u64, step: u64) -> Vec<f32> {
    let salt = name.bytes().map(u64::from).sum::<u64>() + 13 * step;
    let value = |i: u64| {
        let x = (i * 7919 + salt * 104_729) % 2003;
        if x.is_multiple_of(17) { 0.0 } else { f32::from(u16::try_from(x).unwrap()) / 1001.0 - 1.0 }
    };
    (0..elements).map(value).collect()
}

/// One step over all tensors: odd tensors through the `grad` plane.
fn one_step(store: &mut ParamStore) -> Result<()> {
    let tensors: Vec<_> = store.tensors().map(|t| (t.name().to_owned(), t.elements())).collect();
    let now = store.step();
    let mut step = store.begin_step()?;
    for (i, (name, elements)) in tensors.iter().enumerate() {
        let gradient = gradient(name, *elements, now);
        if i % 2 == 0 {
            step.apply(name, &gradient)?;
        } else {
            step.accumulate(name, &gradient, 0.5)?;
            step.accumulate(name, &gradient, 0.5)?;
        }
    }
    step.finish().map(|_| ())
}

/// Every plane of every tensor, as bits.
fn bits(store: &ParamStore) -> Result<Vec<u32>> {
    let mut all = Vec::new();
    for tensor in store.tensors() {
        for plane in tensor.planes() {
            let mut out = vec![0.0; usize::try_from(tensor.elements()).unwrap()];
            store.read_plane_into(tensor.name(), plane, &mut out)?;
            all.extend(out.iter().map(|x| x.to_bits()));
        }
    }
    Ok(all)
}

fn create(
    volume: &(impl Volume + Clone + 'static),
    schema: &Schema,
    options: &Options,
) -> Result<ParamStore> {
    ParamStore::create_in(Arc::new(volume.clone()), schema, options)
}

fn open(volume: &(impl Volume + Clone + 'static), options: &Options) -> Result<ParamStore> {
    ParamStore::open_in(Arc::new(volume.clone()), options)
}
