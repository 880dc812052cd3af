//! Promises that losses of power and kills broke: found by `simulation`, or by thinking about what it would find.

use std::io::ErrorKind;

use super::{bits, create, one_step, open, options, schema};
use crate::Error;
use crate::storage::fault::{FaultVolume, Lasting};
use crate::storage::sim::{Disk, ItemKey, SimVolume};
use crate::storage::{Access, Caching, Volume};

/// What is found after a loss of power: of what was not durable, the newest of the things kept.
fn after_power_cut(volume: &SimVolume, is_kept: impl Fn(&ItemKey) -> bool) -> SimVolume {
    let mut disk = Disk::new(None);
    volume.events().iter().for_each(|event| disk.apply(event));
    let items = disk.unsynced();
    let picks = items.iter().map(|item| if is_kept(&item.key) { item.newest } else { 0 }).collect::<Vec<_>>();
    SimVolume::from_image("store", &disk.image(&items, &picks)).unwrap()
}

/// `create` made its first files without making the name `meta.new` durable. Where the power went and the disk kept the
/// others, these looked like what is left of a store that lost its `meta`, and no `create` would touch them.
#[test]
fn a_create_whose_first_names_came_to_the_disk_in_any_order_can_be_done_again() {
    let script = |volume: &FaultVolume| create(volume, &schema(4096), &options()).map(drop);
    let clean = FaultVolume::new(SimVolume::new("store"));
    script(&clean).unwrap();
    for at in 0..clean.operation_count() {
        let sim = SimVolume::new("store");
        let volume = FaultVolume::new(sim.clone());
        volume.fail_at(at, ErrorKind::Other, Lasting::FromThenOn);
        drop(script(&volume));
        let found =
            after_power_cut(&sim, |key| !matches!(key, ItemKey::Name(name) if name.contains("meta.new")));
        match open(&found, &options()) {
            Ok(_) => {}
            Err(Error::NotAStore { .. }) => drop(create(&found, &schema(4096), &options()).unwrap()),
            Err(error) => panic!("operation {at}: {error}"),
        }
    }
}

/// A `create` that cleared away what an earlier one had left removed `meta.new` before the last of the others. Killed
/// there, it left files that no `create` would touch; no loss of power was needed.
#[test]
fn a_create_killed_while_it_clears_what_another_left_can_be_done_again() {
    let left_by_a_kill = || {
        let volume = FaultVolume::new(SimVolume::new("store"));
        let clean = FaultVolume::new(SimVolume::new("store"));
        drop(create(&clean, &schema(4096), &options()).unwrap());
        let rename = clean.operations().iter().position(|operation| operation.verb == "rename").unwrap();
        volume.fail_at(rename, ErrorKind::Other, Lasting::FromThenOn);
        assert!(create(&volume, &schema(4096), &options()).is_err());
        volume.heal();
        assert!(volume.list().unwrap().iter().any(|name| name == "param.0000.0"));
        volume
    };
    for later in 0..60 {
        let volume = left_by_a_kill();
        volume.fail_at(volume.operation_count() + later, ErrorKind::Other, Lasting::FromThenOn);
        drop(create(&volume, &schema(4096), &options()));
        volume.heal();
        if let Err(error) = open(&volume, &options()) {
            assert!(matches!(error, Error::NotAStore { .. }), "{later} operations later: {error}");
            drop(create(&volume, &schema(4096), &options()).unwrap());
        }
    }
}

/// A `create` killed behind its rename left a whole store whose name `meta` was not durable. The program that opened it
/// trained and committed, and a loss of power took it all.
#[test]
fn a_store_whose_create_was_killed_at_its_end_is_durable_once_it_is_opened() {
    let clean = FaultVolume::new(SimVolume::new("store"));
    drop(create(&clean, &schema(4096), &options()).unwrap());
    let rename = clean.operations().iter().position(|operation| operation.verb == "rename").unwrap();
    let sim = SimVolume::new("store");
    let volume = FaultVolume::new(sim.clone());
    volume.fail_at(rename + 1, ErrorKind::Other, Lasting::FromThenOn);
    assert!(create(&volume, &schema(4096), &options()).is_err());
    volume.heal();
    let mut store = open(&volume, &options()).unwrap();
    one_step(&mut store).unwrap();
    store.commit(b"one").unwrap();
    let committed = bits(&store).unwrap();
    let store = open(&after_power_cut(&sim, |_| false), &options()).unwrap();
    assert_eq!((store.step(), store.user_record()), (1, &b"one"[..]));
    assert_eq!(bits(&store).unwrap(), committed);
}

/// The progress file's length was never made durable. After a loss of power it could be empty for good, and no lost
/// step was ever told again.
#[test]
fn steps_lost_after_a_loss_of_power_are_told_all_the_same() {
    let sim = SimVolume::new("store");
    drop(create(&sim, &schema(4096), &options()).unwrap());
    let found = after_power_cut(&sim, |_| false);
    let progress = found.open("progress", Access::Read, Caching::Cached).unwrap();
    assert_eq!(progress.len_bytes().unwrap(), 64);
    let mut store = open(&found, &options()).unwrap();
    one_step(&mut store).unwrap();
    one_step(&mut store).unwrap();
    drop(store);
    assert_eq!(open(&found, &options()).unwrap().recovery().lost_steps, 2);
}
