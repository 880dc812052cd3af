//! What a writer tells people who look on, while it trains.

use std::sync::atomic::{AtomicBool, Ordering};

use paramstore::optim::{AdamW, Optimizer};
use paramstore::telemetry::{self, Metrics};
use paramstore::{Options, ParamGroup, ParamStore, Schema, TensorSpec};

fn options() -> Options {
    Options::new().memory_budget(1 << 20).threads(1)
}

fn schema() -> Schema {
    Schema::new()
        .block_bytes(4096)
        .group(ParamGroup::new("all", Optimizer::AdamW(AdamW::default())))
        .tensor(TensorSpec::new("w", &[200, 100]))
}

fn step(store: &mut ParamStore) {
    let mut step = store.begin_step().unwrap();
    step.apply("w", &vec![0.5; 20_000]).unwrap();
    step.finish().unwrap();
}

#[test]
fn an_onlooker_sees_steps_times_blocks_and_what_the_trainer_says() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let mut store = ParamStore::create(&path, &schema(), &options()).unwrap();
    assert!(telemetry::live(&path).unwrap().is_none() && telemetry::history(&path, 9).unwrap().is_empty());
    store.note_metrics(&Metrics::new().lr(0.25));
    step(&mut store);
    store.note_metrics(&Metrics::new().loss(3.5));
    step(&mut store);
    store.note_metrics(&Metrics::new().loss(2.5).validation_loss(2.75));
    store.commit(b"").unwrap();
    let live = telemetry::live(&path).unwrap().unwrap();
    assert_eq!((live.step, live.committed_step, live.generation, live.pid), (2, 2, 2, std::process::id()));
    assert_eq!((live.loss, live.validation_loss, live.lr), (Some(2.5), Some(2.75), Some(0.25)));
    assert_eq!(live.stats.commits, 1);
    assert_eq!((live.blocks, live.cells.len()), (20, 20));
    assert!(live.hot_bytes > 0 && live.hot_bytes <= live.budget_bytes && live.dirty_bytes == 0);
    assert!(live.cells.iter().all(|cell| cell.near == 3 && cell.dirty == 0), "{:?}", live.cells);
    let history = telemetry::history(&path, 2).unwrap();
    let told: Vec<_> = history.iter().map(|of| (of.step, of.loss, of.validation_loss, of.lr)).collect();
    assert_eq!(told, [(1, Some(3.5), None, Some(0.25)), (2, Some(2.5), Some(2.75), Some(0.25))]);
    assert!(history.iter().all(|of| !of.duration.is_zero() && !of.compute.is_zero()));
    // A reader's summary counts the files as the store's; a reader tells nothing.
    let summary = ParamStore::open_read_only(&path, &options()).unwrap().summary().unwrap();
    assert_eq!(summary.disk.other_files, 0);
    assert_eq!(summary.disk.total(), summary.bytes_on_disk);
    // Steps that are lost leave no trace once others take their place.
    step(&mut store);
    store.rollback().unwrap();
    step(&mut store);
    store.note_metrics(&Metrics::new().loss(9.0));
    let history = telemetry::history(&path, 3).unwrap();
    assert_eq!((history.len(), history[2].loss), (3, Some(9.0)));
}

#[test]
fn a_page_that_is_read_again_and_again_is_always_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let mut store = ParamStore::create(&path, &schema(), &options()).unwrap();
    step(&mut store);
    store.commit(b"").unwrap();
    let done = AtomicBool::new(false);
    let looks = std::thread::scope(|scope| {
        let onlooker = scope.spawn(|| {
            let (mut looks, mut last) = (0, 0);
            while !done.load(Ordering::Relaxed) {
                let live = telemetry::live(&path).unwrap().expect("a whole page");
                assert!(live.step >= last, "{} after {last}", live.step);
                (looks, last) = (looks + 1, live.step);
            }
            looks
        });
        for _ in 0..200 {
            step(&mut store);
            store.commit(b"").unwrap();
        }
        done.store(true, Ordering::Relaxed);
        onlooker.join().unwrap()
    });
    assert!(looks > 0 && telemetry::live(&path).unwrap().unwrap().step == 201);
}

#[test]
fn files_in_the_way_damage_and_silence_do_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let mut store = ParamStore::create(&path, &schema(), &options()).unwrap();
    std::fs::create_dir(path.join("live")).unwrap();
    step(&mut store);
    store.commit(b"").unwrap();
    assert!(telemetry::live(&path).unwrap().is_none());
    drop(store);
    std::fs::remove_dir(path.join("live")).unwrap();
    // Another store's page, and notes of nobody.
    std::fs::write(path.join("live"), [0xa5; 4096]).unwrap();
    std::fs::write(path.join("metrics"), vec![0xa5; 1 << 20]).unwrap();
    assert!(telemetry::live(&path).unwrap().is_none() && telemetry::history(&path, 9).unwrap().is_empty());
    let mut store = ParamStore::open(&path, &options()).unwrap();
    step(&mut store);
    store.commit(b"").unwrap();
    assert_eq!(telemetry::live(&path).unwrap().unwrap().step, 2);
    assert_eq!(telemetry::history(&path, 9).unwrap().len(), 1);

    let path = dir.path().join("silent");
    let mut store = ParamStore::create(&path, &schema(), &options().telemetry(false)).unwrap();
    step(&mut store);
    store.commit(b"").unwrap();
    assert!(!path.join("live").exists() && !path.join("metrics").exists());
    assert!(telemetry::live(dir.path().join("nothing")).is_err());
    assert!(telemetry::history(dir.path(), 1).is_err(), "no store");
}
