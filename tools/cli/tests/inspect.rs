//! `paramstore inspect`.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use serde_json::Value;

use super::{Place, closed_pipe, run, take_step, train};

#[test]
fn json_has_the_keys_that_scripts_rely_on() {
    let place = Place::new();
    let store = place.trained("s", 3, &[]);
    let seen = run(&["inspect", &store, "--json", "--digest"]).expect(0).json();
    let keys: Vec<_> = seen.as_object().unwrap().keys().map(String::as_str).collect();
    for key in [
        "format_version",
        "uuid",
        "generation",
        "step",
        "params",
        "bytes_on_disk",
        "planes",
        "tensors",
        "groups",
        "checkpoints",
        "digest",
    ] {
        assert!(keys.contains(&key), "{key} is not among {keys:?}");
    }
    assert_eq!((&seen["generation"], &seen["step"], &seen["params"]), (&4.into(), &3.into(), &32_064.into()));
    assert_eq!(seen["tensors"][0]["steps"], 3);
    assert_eq!(seen["checkpoints"], serde_json::json!([]));
    assert_eq!(seen["writer"], Value::Null);
    assert_eq!(seen["digest"].as_str().unwrap().len(), 64);
    let without = run(&["inspect", &store, "--json"]).expect(0).json();
    assert_eq!((without.get("digest"), without.get("blocks")), (None, None));
}

#[test]
fn bytes_of_all_uses_add_up_to_the_lengths_of_all_files() {
    let place = Place::new();
    let store = place.trained("s", 1, &["--gradient-plane"]);
    std::fs::write(Path::new(&store).join("notes.txt"), "not the store's").unwrap();
    let seen = run(&["inspect", &store, "--json"]).expect(0).json();
    let on_disk: u64 =
        std::fs::read_dir(&store).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert_eq!(seen["bytes_on_disk"], on_disk);
    assert_eq!(sum(&seen["disk"]), on_disk);
    assert_eq!(seen["disk"]["other_files"], 15);
}

fn sum(value: &Value) -> u64 {
    match value {
        Value::Object(map) => map.values().map(sum).sum(),
        other => other.as_u64().unwrap(),
    }
}

#[test]
fn digest_is_the_same_for_every_block_size_and_another_after_a_step() {
    let place = Place::new();
    let digest = |name: &str, steps: u64, more: &[&str]| {
        let store = place.trained(name, steps, more);
        run(&["inspect", &store, "--json", "--digest"]).expect(0).json()["digest"].clone()
    };
    let first = digest("a", 2, &["--block-bytes", "4k"]);
    assert_eq!(digest("b", 2, &["--block-bytes", "64KiB"]), first);
    assert_eq!(digest("c", 2, &["--gradient-plane"]), first);
    assert_ne!(digest("d", 1, &[]), first);
}

#[test]
fn blocks_are_listed_with_place_home_and_generation() {
    let place = Place::new();
    let store = place.trained("s", 2, &["--block-bytes", "4k"]);
    let seen = run(&["inspect", &store, "--json", "--blocks"]).expect(0).json();
    let blocks = seen["blocks"].as_array().unwrap();
    // 32 blocks of `wte`, one of `bias`, three planes each.
    assert_eq!(blocks.len(), 99);
    assert_eq!(blocks[0]["tensors"], serde_json::json!(["wte"]));
    assert_eq!((&blocks[0]["plane"], &blocks[0]["file"]), (&"param".into(), &"param.0000.1".into()));
    assert_eq!((&blocks[0]["home"], &blocks[0]["generation"]), (&1.into(), &3.into()));
    let text = run(&["inspect", &store, "--blocks"]).expect(0).stdout;
    assert_eq!(text.lines().filter(|line| line.contains("checksum")).count(), 99);
}

#[test]
fn store_that_a_writer_trains_is_shown_at_its_committed_step_and_the_writer_is_named() {
    let place = Place::new();
    let store = place.trained("s", 2, &[]);
    let options = paramstore::Options::new().memory_budget(16 << 20).threads(1);
    let mut writer = paramstore::ParamStore::open(&store, &options).unwrap();
    take_step(&mut writer);
    let seen = run(&["inspect", &store, "--json", "--digest"]).expect(0).json();
    assert_eq!((&seen["step"], &seen["lost_steps"]), (&2.into(), &0.into()));
    // Where the kernel lists no locks, nobody can be named.
    if !seen["writer"].is_null() {
        assert_eq!(seen["writer"]["process"], std::process::id());
        assert_eq!(seen["writer"]["uncommitted_steps"], 1);
        let text = run(&["inspect", &store]).expect(0).stdout;
        assert!(text.contains("1 step not yet committed"), "{text}");
    }
    take_step(&mut writer);
    writer.commit(b"").unwrap();
    take_step(&mut writer);
    drop(writer);
    let later = run(&["inspect", &store, "--json"]).expect(0).json();
    assert_eq!(
        (&later["step"], &later["lost_steps"], &later["writer"]),
        (&4.into(), &1.into(), &Value::Null)
    );
    assert!(run(&["inspect", &store]).expect(0).stdout.contains("1 finished step, not committed"));
}

#[test]
fn inspect_changes_no_file_and_takes_no_lock() {
    let place = Place::new();
    let store = place.trained("s", 1, &[]);
    let state = || -> BTreeMap<_, _> {
        let entries = std::fs::read_dir(&store).unwrap().map(Result::unwrap);
        entries.map(|entry| (entry.file_name(), std::fs::read(entry.path()).unwrap())).collect()
    };
    let before = state();
    // A writer that wants the lock at any moment gets it.
    let lock = std::fs::File::open(Path::new(&store).join("lock")).unwrap();
    lock.try_lock().unwrap();
    run(&["inspect", &store, "--digest", "--blocks", "--tensors"]).expect(0);
    run(&["verify", &store]).expect(0);
    drop(lock);
    assert_eq!(state(), before);
}

#[test]
fn text_is_short_by_default_and_lists_all_tensors_when_asked() {
    let place = Place::new();
    let store = place.text("s");
    let tensors: Vec<_> = (0..30).map(|i| format!("layer.{i}:f32:10x10")).collect();
    let mut arguments = vec!["create", &store, "--optimizer", "adam"];
    for tensor in &tensors {
        arguments.extend(["--tensor", tensor]);
    }
    run(&arguments).expect(0);
    let short = run(&["inspect", &store]).expect(0).stdout;
    assert!(short.contains("layer.7 ") && !short.contains("layer.8 "), "{short}");
    assert!(short.contains("and 22 more (--tensors lists all)"), "{short}");
    let long = run(&["inspect", &store, "--tensors"]).expect(0).stdout;
    assert!(long.contains("layer.29 "), "{long}");
}

#[test]
fn reader_that_closes_the_pipe_early_is_no_failure() {
    let place = Place::new();
    let store = place.trained("s", 1, &["--block-bytes", "4k"]);
    for arguments in
        [&["inspect", &store, "--blocks"][..], &["inspect", &store, "--blocks", "--json"], &["--help"]]
    {
        assert_eq!(closed_pipe(arguments), 0, "{arguments:?}");
    }
}

#[test]
fn damaged_superblock_shows_the_older_generation_and_ends_with_status_1() {
    let place = Place::new();
    let store = place.trained("s", 2, &[]);
    let meta = std::fs::OpenOptions::new().write(true).open(Path::new(&store).join("meta")).unwrap();
    // Generation 3 stands in slot 1.
    meta.write_all_at(b"X", 4096 + 200).unwrap();
    let ran = run(&["inspect", &store, "--json"]).expect(1);
    assert_eq!((&ran.json()["generation"], &ran.json()["step"]), (&2.into(), &1.into()));
    assert!(ran.stderr.contains("the generation before it is shown"), "{}", ran.stderr);
    meta.write_all_at(b"X", 200).unwrap();
    let ran = run(&["inspect", &store]).expect(1);
    assert!(ran.stderr.contains("hint: `paramstore verify`"), "{}", ran.stderr);
}

#[test]
fn damaged_block_ends_a_digest_with_status_1_and_its_name() {
    let place = Place::new();
    let store = place.trained("s", 1, &[]);
    let file =
        std::fs::OpenOptions::new().write(true).open(Path::new(&store).join("exp_avg.0000.0")).unwrap();
    file.write_all_at(&[0x55], 40_000).unwrap();
    run(&["inspect", &store]).expect(0);
    let ran = run(&["inspect", &store, "--digest"]).expect(1);
    assert!(ran.stderr.contains("tensor \"wte\", plane exp_avg"), "{}", ran.stderr);
}

#[test]
fn sparse_store_of_a_trillion_parameters_is_created_inspected_and_verified_at_once() {
    let place = Place::new();
    let store = place.text("s");
    run(&["create", &store, "--optimizer", "adamw", "--params", "1T", "--sparse", "--memory", "1GiB"])
        .expect(0);
    let allocated: u64 = std::fs::read_dir(&store)
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().blocks() * 512)
        .sum();
    assert!(allocated < 1 << 20, "{allocated} bytes allocated");
    let seen = run(&["inspect", &store, "--json", "--blocks"]).expect(0).json();
    assert_eq!(seen["params"], 1_000_000_000_000_u64);
    assert_eq!(seen["blocks"].as_array().unwrap().len(), 1);
    assert_eq!(seen["features"], serde_json::json!(["sparse"]));
    let verified = run(&["verify", &store, "--json"]).expect(0).json();
    assert_eq!((&verified["blocks"], &verified["sound"]), (&0.into(), &true.into()));
    train_one_element(Path::new(&store));
    let verified = run(&["verify", &store, "--json"]).expect(0).json();
    assert_eq!((&verified["blocks"], &verified["sound"]), (&1.into(), &true.into()));
}

fn train_one_element(path: &Path) {
    let options = paramstore::Options::new().memory_budget(1 << 30).threads(1);
    let mut store = paramstore::ParamStore::open(path, &options).unwrap();
    store.write_range("param", 999_999_999_999, &[1.0]).unwrap();
    store.commit(b"").unwrap();
}

#[test]
fn reopened_store_goes_on_with_the_settings_that_inspect_shows() {
    let place = Place::new();
    let store = place.trained("s", 1, &["--lr", "0.5"]);
    let mut writer =
        paramstore::ParamStore::open(&store, &paramstore::Options::new().memory_budget(16 << 20)).unwrap();
    writer.group_mut("default").unwrap().set_lr(0.25).unwrap();
    let lr =
        || run(&["inspect", &store, "--json"]).expect(0).json()["groups"][0]["hyperparameters"]["lr"].clone();
    assert_eq!(lr(), 0.5, "not committed yet");
    writer.commit(b"").unwrap();
    drop(writer);
    assert_eq!(lr(), 0.25);
    train(Path::new(&store), 1);
    assert_eq!(lr(), 0.25);
}
