//! Fits a line by gradient descent in a store, stops half way, opens the store again and goes on.
//!
//! `cargo run --example resume`

use paramstore::optim::Adam;
use paramstore::{Optimizer, Options, ParamGroup, ParamStore, Schema, TensorSpec};

/// Slope and intercept that the data has.
const TRUTH: [f32; 2] = [3.0, -1.0];

fn train(store: &mut ParamStore, steps: u64) -> paramstore::Result<f32> {
    let mut loss = 0.0;
    for _ in 0..steps {
        // The data cursor is the step itself: point number `step` of a fixed sequence.
        let x = f32::from(u8::try_from(store.step() % 64).unwrap_or(0)) / 32.0 - 1.0;
        let line = store.view("line")?;
        let error = line[0] * x + line[1] - (TRUTH[0] * x + TRUTH[1]);
        drop(line);
        loss = error * error;
        let mut step = store.begin_step()?;
        step.apply("line", &[2.0 * error * x, 2.0 * error])?;
        step.finish()?;
    }
    Ok(loss)
}

fn main() -> paramstore::Result<()> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("line.store");
    let options = Options::new().memory_budget(1 << 20);

    let optimizer = Optimizer::Adam(Adam { lr: 0.05, ..Adam::default() });
    let schema =
        Schema::new().group(ParamGroup::new("default", optimizer)).tensor(TensorSpec::new("line", &[2]));
    let mut store = ParamStore::create(&path, &schema, &options)?;
    let loss = train(&mut store, 300)?;
    store.commit(b"whatever the training program wants to find again")?;
    println!("step {}: loss {loss:.6}", store.step());
    // These steps are not committed, and gone when the store is opened again.
    train(&mut store, 7)?;
    drop(store);

    let mut store = ParamStore::open(&path, &options)?;
    println!("opened at step {}; {} steps were lost", store.step(), store.recovery().lost_steps);
    let loss = train(&mut store, 300)?;
    store.commit(b"")?;
    let line = store.view("line")?;
    println!("step {}: loss {loss:.6}, slope {:.3}, intercept {:.3}", store.step(), line[0], line[1]);
    assert!((line[0] - TRUTH[0]).abs() < 0.01 && (line[1] - TRUTH[1]).abs() < 0.01);
    Ok(())
}
