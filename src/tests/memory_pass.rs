//! The pass over hot blocks moves what it says and changes nothing.

use super::{bits, create, gradient, memory, one_step, open, options, schema};
use crate::{Error, Options};

/// Bytes of a pass over the whole state of the usual schema: padding elements of shared blocks are in it.
fn whole_pass_bytes() -> u64 {
    let elements = |adamw: u64, sgd: u64| 28 * adamw + 20 * sgd;
    // "big" with its block to itself, "scale" alone in a shared one; "middle" and "bias" by the momentum of SGD.
    elements(9000 + 1, 3000 + 37)
}

#[test]
fn pass_over_a_hot_store_moves_28_bytes_for_adamw_and_changes_no_bit_and_no_frame() {
    let volume = memory();
    let options = Options::new().memory_budget(64 << 20).threads(2);
    let mut store = create(&volume, &schema(4096), &options).unwrap();
    one_step(&mut store).unwrap();
    let before = bits(&store).unwrap();
    store.commit(b"").unwrap();
    let stats = store.stats();
    for len in [1, 1000, 5000, 100_000] {
        let mut values = gradient("any", len, 0);
        values[0] = f32::NAN;
        assert_eq!(store.memory_pass(&values).unwrap().bytes, whole_pass_bytes(), "{len}");
    }
    assert_eq!(bits(&store).unwrap(), before);
    store.commit(b"").unwrap();
    let stats = store.stats().since(&stats);
    assert_eq!((stats.bytes_written, stats.bytes_read), (0, 0), "no frame became dirty, none was lost");
}

#[test]
fn changes_that_wait_for_a_commit_go_through_passes_whole() {
    let (volume, other) = (memory(), memory());
    let options = Options::new().memory_budget(64 << 20).threads(1);
    let mut store = create(&volume, &schema(4096), &options).unwrap();
    let mut undisturbed = create(&other, &schema(4096), &options).unwrap();
    for _ in 0..3 {
        one_step(&mut store).unwrap();
        store.memory_pass(&[0.1; 777]).unwrap();
        one_step(&mut undisturbed).unwrap();
    }
    store.commit(b"").unwrap();
    drop(store);
    assert_eq!(bits(&open(&volume, &options).unwrap()).unwrap(), bits(&undisturbed).unwrap());
}

#[test]
fn pass_over_a_store_larger_than_its_memory_moves_only_what_is_near() {
    let mut store = create(&memory(), &schema(4096), &options()).unwrap();
    assert_eq!(store.memory_pass(&[1.0]).unwrap().bytes, 0, "nothing was touched yet");
    let mut store = create(&memory(), &schema(4096), &Options::new().memory_budget(48 << 10)).unwrap();
    one_step(&mut store).unwrap();
    store.wait_idle().unwrap();
    let held = store.stats().held_bytes;
    let pass = store.memory_pass(&gradient("any", 4096, 0)).unwrap();
    assert!(pass.bytes > 0 && pass.bytes <= 3 * held, "{pass:?} of {held}");
}

#[test]
fn gradient_without_elements_is_refused() {
    let mut store = create(&memory(), &schema(4096), &options()).unwrap();
    assert!(matches!(store.memory_pass(&[]), Err(Error::Invalid { .. })));
}
