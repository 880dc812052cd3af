//! Stores of format version 1, kept for ever: whatever later versions write, they open these and find the values, the
//! step, the record and the generation that were there when they were made.
//!
//! Each stands in one file of `tests/data/stores`, made by `write_the_stores` and never edited. See the README there.

mod archive;
mod make;

use std::path::{Path, PathBuf};

use paramstore::inspect::VerifyOptions;
use paramstore::{Error, Options, ParamStore};
use serde_json::Value;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/stores")
}

fn options() -> Options {
    Options::new().memory_budget(1 << 20).threads(1).io_threads(1)
}

fn expectations() -> Vec<Value> {
    let text = std::fs::read_to_string(folder().join("stores.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// What a store says of itself, as `stores.json` has it.
fn describe(store: &ParamStore) -> Value {
    let groups: Vec<_> =
        store.groups().iter().map(|group| format!("{}: {:?}", group.name(), group.optimizer())).collect();
    let clocks: Vec<_> = store.tensors().map(|t| store.tensor_clock(t.name()).unwrap()).collect();
    serde_json::json!({
        "digest": store.digest().unwrap().to_string(),
        "step": store.step(),
        "generation": store.generation(),
        "record": String::from_utf8(store.user_record().to_vec()).unwrap(),
        "groups": groups,
        "clocks": clocks.iter().map(|c| format!("{} {:08x}", c.steps, c.mu_product.to_bits())).collect::<Vec<_>>(),
        "lost_steps": store.recovery().lost_steps,
        "damaged": store.recovery().damaged,
        "fell_back": store.recovery().fell_back,
    })
}

#[test]
fn every_store_of_version_1_opens_with_what_was_in_it() {
    let expectations = expectations();
    assert_eq!(expectations.len(), 9);
    for expected in expectations {
        let name = expected["name"].as_str().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        archive::unpack(&folder().join(format!("{name}.store")), &path);

        let summary = ParamStore::open_read_only(&path, &options()).unwrap().summary().unwrap();
        assert_eq!(summary.format_version, 1, "{name}");
        assert_eq!(summary.features, if name == "sparse" { vec!["sparse"] } else { vec![] }, "{name}");
        let verification = paramstore::inspect::verify(&path, &VerifyOptions::new(), |_| {}).unwrap();
        assert_eq!(verification.is_sound(), name != "torn_superblock", "{name}: {verification:?}");
        let reader = ParamStore::open_read_only(&path, &options()).unwrap();
        assert_eq!(describe(&reader), expected["says"], "a reader of {name}");
        drop(reader);
        let store = ParamStore::open(&path, &options()).unwrap();
        assert_eq!(describe(&store), expected["says"], "{name}");
    }
}

#[test]
fn every_store_of_version_1_can_be_trained_on() {
    for expected in expectations() {
        let name = expected["name"].as_str().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        archive::unpack(&folder().join(format!("{name}.store")), &path);
        let mut store = ParamStore::open(&path, &options()).unwrap();
        let generation = store.generation();
        make::one_step(&mut store).unwrap();
        store.commit(b"trained on").unwrap();
        drop(store);
        let store = ParamStore::open(&path, &options()).unwrap();
        assert_eq!(store.generation(), generation + 1, "{name}");
        // The very bits that the version which made the store gave.
        assert_eq!(store.digest().unwrap().to_string(), expected["next_digest"].as_str().unwrap(), "{name}");
    }
}

/// The expectations are not met by whatever can be opened: a changed bit in both homes of a block is.
#[test]
fn a_kept_store_with_a_changed_bit_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    archive::unpack(&folder().join("adamw.store"), &path);
    for name in ["param.0000.0", "param.0000.1"] {
        let mut bytes = std::fs::read(path.join(name)).unwrap();
        bytes[0] ^= 1;
        std::fs::write(path.join(name), &bytes).unwrap();
    }
    let error = ParamStore::open(&path, &options()).unwrap().digest().unwrap_err();
    assert!(matches!(error, Error::Damaged(_)), "{error}");
}

/// Makes the stores anew; only for a version of the format that has none yet.
#[test]
#[ignore = "writes into tests/data/stores"]
fn write_the_stores() {
    let mut all = Vec::new();
    std::fs::create_dir_all(folder()).unwrap();
    for (name, make) in make::STORES {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        make(&path).unwrap();
        archive::pack(&path, &folder().join(format!("{name}.store")));
        let says = describe(&ParamStore::open_read_only(&path, &options()).unwrap());
        let mut store = ParamStore::open(&path, &options()).unwrap();
        make::one_step(&mut store).unwrap();
        let next_digest = store.digest().unwrap().to_string();
        all.push(serde_json::json!({ "name": name, "says": says, "next_digest": next_digest }));
    }
    let text = serde_json::to_string_pretty(&all).unwrap();
    std::fs::write(folder().join("stores.json"), text + "\n").unwrap();
}
