//! Steps that repeat themselves are planned; updates go on behind the caller's back; neither changes a bit.

use std::io::ErrorKind;

use super::{bits, create, gradient, memory, open, options, schema};
use crate::storage::fault::{FaultVolume, Lasting};
use crate::{Error, Options, ParamGroup, ParamStore, Result, Schema, TensorSpec};

const BLOCK: u64 = 4096;
const LAYERS: usize = 8;

/// Layers of four blocks with three planes each: 384 KiB of state.
fn layers() -> Schema {
    let group = ParamGroup::new("default", crate::Optimizer::from_name("adamw").unwrap());
    let layer = |i| TensorSpec::new(name(i), &[4, 1024]);
    (0..LAYERS).fold(Schema::new().block_bytes(BLOCK).group(group), |schema, i| schema.tensor(layer(i)))
}

fn name(layer: usize) -> String {
    format!("layer.{layer}")
}

fn small(budget_blocks: u64) -> Options {
    options().memory_budget(budget_blocks * 3 * BLOCK)
}

/// Reads all layers upwards, then reads and updates them downwards, as training does.
fn training_step(store: &mut ParamStore) -> Result<()> {
    let now = store.step();
    let mut step = store.begin_step()?;
    let mut values = vec![0.0; 4096];
    for layer in 0..LAYERS {
        step.read_into(&name(layer), &mut values)?;
    }
    for layer in (0..LAYERS).rev() {
        step.read_into(&name(layer), &mut values)?;
        let mut gradient = gradient(&name(layer), 4096, now);
        gradient.iter_mut().zip(&values).for_each(|(gradient, value)| *gradient += 0.1 * value);
        step.apply(&name(layer), &gradient)?;
        // It was taken over, or used already.
        gradient.fill(f32::NAN);
    }
    step.finish().map(|_| ())
}

#[test]
fn a_planned_training_step_has_the_bits_of_one_in_memory_at_every_budget() {
    let mut resident = create(&memory(), &layers(), &options().memory_budget(64 << 20)).unwrap();
    let mut paged: Vec<_> = [3, 4, 6, 12, 31]
        .map(|blocks| create(&memory(), &layers(), &small(blocks).io_threads(3).threads(2)).unwrap())
        .into();
    for round in 0..5 {
        training_step(&mut resident).unwrap();
        let expected = bits(&resident).unwrap();
        for store in &mut paged {
            training_step(store).unwrap();
            assert_eq!(bits(store).unwrap(), expected, "round {round}, budget {}", store.memory_budget());
            assert!(store.stats().held_bytes <= store.memory_budget());
            if round % 2 == 1 {
                store.commit(b"").unwrap();
            }
        }
    }
}

#[test]
fn a_repeated_step_finds_in_memory_what_the_best_replacement_finds_less_what_streams() {
    for (step, slack) in [(training_step as fn(&mut ParamStore) -> Result<()>, 0.03), (sweep, 0.03)] {
        // Half of the state, of which a quarter is for blocks on their way.
        let mut store = create(&memory(), &layers(), &small(16)).unwrap();
        assert_eq!(store.min_hit_rate(), None);
        for _ in 0..3 {
            step(&mut store).unwrap();
        }
        let before = store.stats();
        step(&mut store).unwrap();
        let bound = store.min_hit_rate().unwrap();
        // 8 of 32 blocks.
        let streaming = 0.25;
        let got = store.stats().since(&before).hit_rate();
        assert!(got > bound - streaming - slack && got <= bound + 0.05, "hits {got}, at best {bound}");
    }
}

fn sweep(store: &mut ParamStore) -> Result<()> {
    let now = store.step();
    let mut step = store.begin_step()?;
    for layer in 0..LAYERS {
        step.apply(&name(layer), &gradient(&name(layer), 4096, now))?;
    }
    step.finish().map(|_| ())
}

#[test]
fn a_read_shows_the_update_that_was_made_before_it() {
    let mut resident = create(&memory(), &layers(), &options().memory_budget(64 << 20)).unwrap();
    let mut paged = create(&memory(), &layers(), &small(6)).unwrap();
    let mut seen = Vec::new();
    for store in [&mut resident, &mut paged] {
        let mut step = store.begin_step().unwrap();
        for layer in 0..LAYERS {
            step.apply(&name(layer), &gradient(&name(layer), 4096, 3)).unwrap();
        }
        let mut values = vec![0.0; 4096];
        let mut all = Vec::new();
        for layer in (0..LAYERS).rev() {
            step.read_into(&name(layer), &mut values).unwrap();
            all.extend(values.iter().map(|value| value.to_bits()));
        }
        step.finish().unwrap();
        seen.push(all);
    }
    assert_eq!(seen[0], seen[1]);
    assert!(seen[0].iter().any(|&bits| bits != 0));
}

#[test]
fn a_step_that_goes_another_way_than_planned_has_the_same_bits() {
    let mut resident = create(&memory(), &layers(), &options().memory_budget(64 << 20)).unwrap();
    let mut paged = create(&memory(), &layers(), &small(8)).unwrap();
    for round in 0..6_usize {
        for store in [&mut resident, &mut paged] {
            let mut step = store.begin_step().unwrap();
            // Another order in every second round, and only some of the layers.
            for i in 0..LAYERS - round % 2 {
                let layer = (i * (1 + 2 * (round % 2)) + round) % LAYERS;
                step.apply(&name(layer), &gradient(&name(layer), 4096, round as u64)).unwrap();
            }
            step.finish().unwrap();
        }
        assert_eq!(bits(&paged).unwrap(), bits(&resident).unwrap(), "round {round}");
    }
}

#[test]
fn a_step_dropped_or_rolled_back_while_updates_are_under_way_leaves_the_last_commit() {
    let mut store = create(&memory(), &layers(), &small(6)).unwrap();
    training_step(&mut store).unwrap();
    store.commit(b"1").unwrap();
    let committed = bits(&store).unwrap();
    for _ in 0..3 {
        let mut step = store.begin_step().unwrap();
        for layer in 0..LAYERS / 2 {
            step.apply(&name(layer), &[1.0; 4096]).unwrap();
        }
        drop(step);
        assert!(matches!(store.commit(b"2"), Err(Error::Mixed { .. })));
        store.rollback().unwrap();
        assert_eq!(bits(&store).unwrap(), committed);
    }
    training_step(&mut store).unwrap();
    store.commit(b"2").unwrap();
}

#[test]
fn an_update_that_fails_in_the_background_fails_the_step_and_the_last_commit_holds() {
    let clean = FaultVolume::new(memory());
    let run = |volume: &FaultVolume| -> Result<()> {
        let mut store = create(volume, &layers(), &small(6))?;
        training_step(&mut store)?;
        store.commit(b"1")?;
        training_step(&mut store)?;
        training_step(&mut store)
    };
    run(&clean).unwrap();
    let operations = clean.operations();
    let committed = operations.iter().rposition(|operation| operation.verb == "sync").unwrap();
    let reference = bits(&open(&clean, &small(6)).unwrap()).unwrap();
    let mut failures = 0;
    for at in (committed + 1..operations.len()).step_by(7) {
        let volume = FaultVolume::new(memory());
        volume.fail_at(at, ErrorKind::Other, Lasting::Once);
        let result = run(&volume);
        failures += usize::from(result.is_err());
        volume.heal();
        let store = open(&volume, &small(6)).unwrap();
        assert_eq!(
            (store.step(), bits(&store).unwrap() == reference),
            (1, true),
            "operation {at}: {result:?}"
        );
    }
    assert!(failures > 3, "{failures} of {} operations", operations.len() - committed);
}

#[test]
fn blocks_that_the_next_commit_needs_are_written_before_it_where_commits_come_evenly() {
    let mut store = create(&memory(), &layers(), &small(24)).unwrap();
    let mut in_commit = Vec::new();
    for _ in 0..5 {
        sweep(&mut store).unwrap();
        in_commit.push(store.commit(b"").unwrap().bytes_written);
    }
    assert!(in_commit[0] > 30 * BLOCK, "{in_commit:?}");
    // Pages of the table, the superblock, and no block.
    assert!(in_commit[2..].iter().all(|&bytes| bytes <= 3 * BLOCK), "{in_commit:?}");
    // A little more than the state: enough for everything and the plan.
    let mut rare = create(&memory(), &layers(), &small(34)).unwrap();
    for _ in 0..7 {
        sweep(&mut rare).unwrap();
    }
    assert_eq!(rare.stats().bytes_written, 0, "no commit, no writes of what fits");
}

#[test]
fn steps_through_the_gradient_plane_are_planned_too() {
    let mut resident = create(&memory(), &schema(BLOCK), &options().memory_budget(64 << 20)).unwrap();
    let mut paged = create(&memory(), &schema(BLOCK), &options().memory_budget(14 * BLOCK)).unwrap();
    for _ in 0..4 {
        for store in [&mut resident, &mut paged] {
            super::one_step(store).unwrap();
        }
        assert_eq!(bits(&paged).unwrap(), bits(&resident).unwrap());
    }
    assert!(paged.min_hit_rate().is_some());
}
