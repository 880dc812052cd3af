//! Rows that are said to be needed: the same bits, fewer rows that have to be read, whatever is said of them.

use super::rows::Source;
use super::{create, memory};
use crate::optim::{Optimizer, SparseAdam};
use crate::{Options, ParamGroup, ParamStore, Schema, StepOptions, TensorSpec};

const STEPS: usize = 40;

/// Batches of rows, some of them often and most of them seldom, with rows that are named twice.
fn batches() -> Vec<Vec<u64>> {
    let mut source = Source(8);
    let mut row = || {
        let most = source.below(200_000) + 1;
        source.below(most)
    };
    (0..STEPS).map(|_| (0..3000).map(|_| row()).collect()).collect()
}

/// A table of which a sixth fits in memory.
fn store() -> ParamStore {
    let adam = Optimizer::SparseAdam(SparseAdam { lr: 0.01, ..SparseAdam::default() });
    let schema = Schema::new()
        .seed(3)
        .row_log_bytes(16 << 20)
        .group(ParamGroup::new("all", adam))
        .tensor(TensorSpec::new("table", &[200_000, 32]).rows());
    create(&memory(), &schema, &Options::new().memory_budget(24 << 20)).unwrap()
}

/// Trains, and says before each step what `say` makes of the number of the step; returns the digest and the rows missed.
fn train(say: impl Fn(&ParamStore, &[Vec<u64>], usize)) -> (String, u64) {
    let (mut store, batches, mut source) = (store(), batches(), Source(1));
    let mut gathered = vec![0.0; 3000 * 32];
    for (at, ids) in batches.iter().enumerate() {
        say(&store, &batches, at);
        store.gather_rows("table", ids, &mut gathered).unwrap();
        let mut step = store.begin_step_with(StepOptions::new()).unwrap();
        step.apply_rows("table", ids, &source.values(ids.len() * 32)).unwrap();
        step.finish().unwrap();
        if at % 3 == 2 {
            store.commit(b"").unwrap();
        }
    }
    store.commit(b"").unwrap();
    (store.digest().unwrap().to_string(), store.stats().rows_missed)
}

#[test]
fn the_more_batches_are_known_the_fewer_rows_are_missed_and_the_bits_are_the_same() {
    let ahead = |ahead: usize| {
        train(move |store, batches, at| {
            let new = if at == 0 { 1..=ahead } else { ahead..=ahead };
            for ahead in new {
                let Some(ids) = batches.get(at + ahead) else { continue };
                store.prefetch_rows("table", ids, ahead.try_into().unwrap());
            }
        })
    };
    let (plain, none) = train(|_, _, _| {});
    let (same, one) = ahead(1);
    assert_eq!(same, plain);
    let (same, many) = ahead(20);
    assert_eq!(same, plain);
    assert!(none > one && one > many, "{none}, {one}, {many}");
}

#[test]
fn what_is_said_may_be_wrong_twice_or_in_disorder() {
    let (plain, _) = train(|_, _, _| {});
    let wrong = train(|store, batches, at| {
        store.prefetch_rows("table", &[5, 6, 200_001], 1);
        store.prefetch_rows("none", &[5], 1);
        store.prefetch_rows("table", &[], 1);
        for ahead in [3, 1, 1, 7, 0, u32::MAX] {
            let number = (at * 7 + usize::try_from(ahead % 5).unwrap()) % batches.len();
            store.prefetch_rows("table", &batches[number], ahead);
        }
    });
    assert_eq!(wrong.0, plain);
}
