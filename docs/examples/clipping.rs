//! Accumulates two micro-batches and clips by global norm, with the gradients out of core in the `grad` plane.
//!
//! `cargo run --example clipping`

use paramstore::optim::AdamW;
use paramstore::{
    Init, NonFinitePolicy, Optimizer, Options, ParamGroup, ParamStore, Schema, StepOptions, TensorSpec,
};

fn main() -> paramstore::Result<()> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let decay = Optimizer::AdamW(AdamW { weight_decay: 0.1, ..AdamW::default() });
    let no_decay = Optimizer::AdamW(AdamW { weight_decay: 0.0, ..AdamW::default() });
    let schema = Schema::new()
        .seed(1)
        .gradient_plane(true)
        .group(ParamGroup::new("decay", decay))
        .group(ParamGroup::new("no_decay", no_decay))
        .tensor(TensorSpec::new("weight", &[512, 512]).init(Init::Normal { mean: 0.0, std: 0.02 }))
        .tensor(TensorSpec::new("bias", &[512]).group("no_decay"));
    let options = Options::new().memory_budget(8 << 20);
    let mut store = ParamStore::create(dir.path().join("store"), &schema, &options)?;

    let clip = StepOptions::new().max_norm(1.0).loss_scale(1024.0).non_finite(NonFinitePolicy::Refuse);
    for micro_batches in [[0.5_f32, 0.7], [0.1, f32::NAN], [0.2, 0.4]] {
        let mut step = store.begin_step_with(clip)?;
        for value in micro_batches {
            // Gradients of a loss that was multiplied by 1,024; their mean over two micro-batches counts.
            step.accumulate("weight", &vec![value; 512 * 512], 0.5)?;
            step.accumulate("bias", &[value; 512], 0.5)?;
        }
        match step.finish() {
            Ok(report) => println!("step {}: norm {:.4}", report.step, report.grad_norm.unwrap_or(0.0)),
            Err(error) => println!("refused: {error}\n         {}", error.hint()),
        }
    }
    assert_eq!(store.step(), 2);
    store.group_mut("decay")?.set_lr(5e-4)?;
    let report = store.commit(b"")?;
    println!("generation {} is durable", report.generation);
    Ok(())
}
