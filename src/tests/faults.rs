//! Every operation of a scripted run fails once, or from then on: the error is typed, and what is left is a committed
//! generation, bit for bit.

use std::collections::HashMap;
use std::io::ErrorKind;

use super::{bits, create, memory, one_step, open, options, schema};
use crate::storage::Volume;
use crate::storage::fault::{FaultVolume, Lasting};
use crate::{Error, ParamStore, Result};

const STEPS: u64 = 3;

/// Budgets with which everything stays in memory, and nearly nothing does.
const BUDGETS: [u64; 2] = [256 << 10, 14 * 4096];

/// Creates a store and makes three steps, a commit after each, with the step in the user record.
fn script(volume: &FaultVolume, budget: u64) -> Result<()> {
    let mut store = create(volume, &schema(4096), &options().memory_budget(budget))?;
    for _ in 0..STEPS {
        one_step(&mut store)?;
        let step = store.step().to_le_bytes();
        store.commit(&step)?;
    }
    Ok(())
}

/// What the planes hold after each step.
fn reference() -> HashMap<u64, Vec<u32>> {
    let mut store = create(&memory(), &schema(4096), &options()).unwrap();
    let mut by_step = HashMap::from([(0, bits(&store).unwrap())]);
    for _ in 0..STEPS {
        one_step(&mut store).unwrap();
        by_step.insert(store.step(), bits(&store).unwrap());
    }
    by_step
}

fn check_reopened(volume: &FaultVolume, reference: &HashMap<u64, Vec<u32>>, at: usize) -> Option<u64> {
    let store = match open(volume, &options()) {
        Ok(store) => store,
        Err(Error::NotAStore { .. }) => {
            // `create` had not finished: it can be done again.
            create(volume, &schema(4096), &options()).unwrap_or_else(|e| panic!("operation {at}: {e}"));
            return None;
        }
        Err(error) => panic!("operation {at}: {error}"),
    };
    let step = store.step();
    if step > 0 {
        assert_eq!(store.user_record(), step.to_le_bytes(), "operation {at}");
    }
    assert_eq!(bits(&store).unwrap(), reference[&step], "operation {at}, step {step}");
    Some(step)
}

#[test]
fn a_failed_operation_leaves_a_committed_generation() {
    let reference = reference();
    for (budget, lasting) in BUDGETS.iter().flat_map(|&b| [(b, Lasting::Once), (b, Lasting::FromThenOn)]) {
        let clean = FaultVolume::new(memory());
        script(&clean, budget).unwrap();
        let operations = clean.operations();
        assert!(operations.len() > 100);
        for (at, operation) in operations.iter().enumerate() {
            let volume = FaultVolume::new(memory());
            volume.fail_at(at, ErrorKind::Other, lasting);
            let result = script(&volume, budget);
            volume.heal();
            let step = check_reopened(&volume, &reference, at);
            if result.is_ok() {
                assert_eq!(step, Some(STEPS), "operation {at} {operation:?}");
            }
        }
    }
}

#[test]
fn a_handle_refuses_everything_after_a_failed_sync() {
    let volume = FaultVolume::new(memory());
    let mut store = create(&volume, &schema(4096), &options()).unwrap();
    one_step(&mut store).unwrap();
    let syncs_before = volume.operations().iter().filter(|op| op.verb == "sync").count();
    let mut at = volume.operations().len();
    // The first sync of the commit: try operation numbers until one of them is it.
    let probe = FaultVolume::new(memory());
    let mut twin = create(&probe, &schema(4096), &options()).unwrap();
    one_step(&mut twin).unwrap();
    twin.commit(b"").unwrap();
    let of_probe = probe.operations();
    let first_sync = of_probe.iter().enumerate().filter(|(_, op)| op.verb == "sync").nth(syncs_before);
    at = at.max(first_sync.unwrap().0);
    volume.fail_at(at, ErrorKind::Other, Lasting::Once);
    let error = store.commit(b"").unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    // The fault is gone, and still nothing is believed.
    assert!(matches!(store.commit(b""), Err(Error::Poisoned { .. })));
    assert!(matches!(store.begin_step().map(|_| ()), Err(Error::Poisoned { .. })));
    assert!(matches!(store.view("big").map(|_| ()), Err(Error::Poisoned { .. })));
    drop(store);
    assert_eq!(open(&volume, &options()).unwrap().step(), 0);
}

#[test]
fn a_full_disk_at_create_is_named_with_what_is_needed_and_leaves_nothing() {
    let volume = crate::storage::MemoryVolume::with_capacity("store", 200 << 10);
    let error = create(&volume, &schema(4096), &options()).unwrap_err();
    let Error::NoSpace { needed, free, .. } = error else { panic!("{error}") };
    assert!(needed > free && free <= 200 << 10);
    assert!(volume.list().unwrap().iter().all(|name| name != "meta"));
    assert_eq!(volume.free_bytes().unwrap() / 4096, (200 << 10) / 4096);
}

#[test]
fn a_sparse_store_on_a_full_disk_fails_in_the_step_and_keeps_its_last_commit() {
    let volume = crate::storage::MemoryVolume::with_capacity("store", 260 << 10);
    let mut store = create(&volume, &schema(4096), &options().sparse(true)).unwrap();
    one_step(&mut store).unwrap();
    store.commit(b"one").unwrap();
    let kept = bits(&store).unwrap();
    let mut failed = None;
    for _ in 0..3 {
        let result = one_step(&mut store).and_then(|()| store.commit(b"more").map(|_| ()));
        if let Err(error) = result {
            failed = Some(error);
            break;
        }
    }
    assert!(matches!(failed, Some(Error::NoSpace { .. } | Error::Poisoned { .. })), "{failed:?}");
    drop(store);
    let store: ParamStore = open(&volume, &options()).unwrap();
    assert_eq!((store.step(), store.user_record()), (1, &b"one"[..]));
    assert_eq!(bits(&store).unwrap(), kept);
}
