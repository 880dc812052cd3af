//! The same cases through a store on disk, in blocks far smaller than the tensors and a budget of a few blocks:
//! clipping and accumulation need its `grad` plane, the others show that nothing on the way changes a bit.

use std::path::Path;

use paramstore::{Options, ParamGroup, ParamStore, Schema, StepOptions, TensorSpec};

use super::case::{Case, Outcome, Tensor};

const BLOCK_BYTES: u64 = 4096;

fn name(tensor: &Tensor) -> String {
    format!("{}tensor", tensor.prefix)
}

fn create(case: &Case, path: &Path) -> paramstore::Result<ParamStore> {
    let mut schema = Schema::new()
        .block_bytes(BLOCK_BYTES)
        .gradient_plane(case.kind != "optimizer")
        .group(ParamGroup::new("all", case.optimizer));
    for tensor in &case.tensors {
        let shape: Vec<u64> = tensor.shape.iter().map(|&dim| dim as u64).collect();
        schema = schema.tensor(TensorSpec::new(name(tensor), &shape));
    }
    let options = Options::new().memory_budget(24 * BLOCK_BYTES).threads(2).io_threads(2);
    let mut store = ParamStore::create(path, &schema, &options)?;
    for tensor in &case.tensors {
        store.write(&name(tensor), &tensor.param)?;
    }
    Ok(store)
}

fn step(case: &Case, store: &mut ParamStore, t: u64) -> paramstore::Result<Option<f64>> {
    store.group_mut("all")?.set_lr(case.optimizer_at(t).lr())?;
    let mut options = StepOptions::new();
    if let Some(max_norm) = case.max_norm {
        options = options.max_norm(max_norm);
    }
    let mut step = store.begin_step_with(options)?;
    for tensor in &case.tensors {
        match tensor.gradients(t) {
            [whole] => step.apply(&name(tensor), whole)?,
            micro_batches => {
                #[expect(clippy::cast_precision_loss, reason = "a handful of micro-batches")]
                let scale = 1.0 / micro_batches.len() as f64;
                for gradient in micro_batches {
                    step.accumulate(&name(tensor), gradient, scale)?;
                }
            }
        }
    }
    Ok(step.finish()?.grad_norm)
}

fn check(case: &Case, store: &ParamStore, t: u64) -> Outcome<()> {
    for tensor in &case.tensors {
        let quantities = std::iter::once("param").chain(case.states.iter().map(String::as_str));
        for quantity in quantities {
            let mut got = vec![0.0; tensor.param.len()];
            if quantity == "mu_product" {
                let clock = store.tensor_clock(&name(tensor)).map_err(|error| error.to_string())?;
                got = vec![clock.mu_product];
            } else {
                store
                    .read_plane_into(&name(tensor), quantity, &mut got)
                    .map_err(|error| error.to_string())?;
            }
            case.check(&tensor.prefix, quantity, t, &got)?;
        }
    }
    Ok(())
}

/// Runs a case of any kind through a store; every second checkpoint is read after a commit and a new open.
pub(crate) fn run(case: &Case) -> Outcome<()> {
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    let path = dir.path().join("store");
    let text = |error: paramstore::Error| format!("{}: {error}", case.file);
    let mut store = create(case, &path).map_err(text)?;
    for t in 1..=case.steps {
        let norm = step(case, &mut store, t).map_err(text)?;
        if !case.checkpoints.contains(&t) {
            continue;
        }
        if t % 2 == 0 {
            store.commit(b"").map_err(text)?;
            drop(store);
            let options = Options::new().memory_budget(24 * BLOCK_BYTES);
            store = ParamStore::open(&path, &options).map_err(text)?;
        }
        check(case, &store, t)?;
        if case.max_norm.is_some() {
            #[expect(clippy::cast_possible_truncation, reason = "the files hold the norm in f32")]
            let norm = norm.ok_or("no norm was reported")? as f32;
            case.check("", "total_norm", t, &[norm])?;
        }
    }
    Ok(())
}
