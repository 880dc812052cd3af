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
    assert_eq!(expectations.len(), make::STORES.len());
    for expected in expectations {
        let name = expected["name"].as_str().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        archive::unpack(&folder().join(format!("{name}.store")), &path);

        let summary = ParamStore::open_read_only(&path, &options()).unwrap().summary().unwrap();
        assert_eq!(summary.format_version, 1, "{name}");
        let features: &[&str] = match name {
            "sparse" => &["sparse"],
            "rows" => &["sparse", "rows"],
            "compact" | "halves" => &["few bits"],
            "frozen" => &["few bits", "frozen"],
            "copies" => &["few bits", "compute"],
            "compensated" => &["few bits", "compensation"],
            _ => &[],
        };
        assert_eq!(summary.features, features, "{name}");
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

/// A checkpoint is a store that says it is one, and that nobody writes to; the way back to it gives what it holds, and the
/// next step the bits that it gave to the store when that was there.
#[test]
fn the_checkpoints_of_version_1_are_read_and_gone_back_to() {
    let expectations = expectations();
    let with_checkpoints: Vec<_> =
        expectations.iter().filter(|store| store["checkpoint"].is_object()).collect();
    assert_eq!(with_checkpoints.len(), 2);
    for expected in with_checkpoints {
        let name = expected["name"].as_str().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        archive::unpack(&folder().join(format!("{name}.store")), &path);
        let kept = path.join("checkpoints/best");

        let reader = ParamStore::open_read_only(&kept, &options()).unwrap();
        let features = reader.summary().unwrap().features;
        let expected_features = [&["sparse", "kept"][..], &["sparse", "kept", "rows"]];
        assert_eq!(features, expected_features[usize::from(name == "rows")]);
        assert_eq!(describe(&reader), expected["checkpoint"]["says"]);
        drop(reader);
        assert!(paramstore::inspect::verify(&kept, &VerifyOptions::new(), |_| {}).unwrap().is_sound());
        let error = ParamStore::open(&kept, &options()).unwrap_err();
        assert!(error.to_string().contains("checkpoint"), "{error}");

        let mut store = ParamStore::open(&path, &options()).unwrap();
        let says = &expected["checkpoint"]["says"];
        assert_ne!(store.digest().unwrap().to_string(), says["digest"]);
        store.roll_back_to("best").unwrap();
        assert_eq!(store.step(), says["step"].as_u64().unwrap());
        assert_eq!(store.digest().unwrap().to_string(), says["digest"]);
        make::one_step(&mut store).unwrap();
        assert_eq!(store.digest().unwrap().to_string(), expected["checkpoint"]["next_digest"]);
    }
}

/// What is in the log of rows counts: a changed bit there is noticed, by the row that it is in.
#[test]
fn a_kept_store_with_a_changed_bit_in_its_log_of_rows_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    archive::unpack(&folder().join("rows.store"), &path);
    let log = std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path());
    let log = log.into_iter().find(|path| path.to_string_lossy().contains("row_log")).unwrap();
    let bytes = std::fs::read(&log).unwrap();
    for at in (0..bytes.len()).step_by(512) {
        let mut changed = bytes.clone();
        // Within a record, behind head and ids, or in what counts no more.
        changed[at + 100] ^= 1;
        std::fs::write(&log, &changed).unwrap();
        let verification = paramstore::inspect::verify(&path, &VerifyOptions::new(), |_| {}).unwrap();
        if verification.findings.iter().any(|finding| finding.tensors == ["words"]) {
            return;
        }
    }
    panic!("no bit of the log counts");
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

/// Makes the stores that are not there yet; those that are stay as they are.
#[test]
#[ignore = "writes into tests/data/stores"]
fn write_the_stores() {
    std::fs::create_dir_all(folder()).unwrap();
    let mut all = if folder().join("stores.json").exists() { expectations() } else { Vec::new() };
    for (name, make) in make::STORES {
        if all.iter().any(|store| store["name"] == name) {
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        make(&path).unwrap();
        archive::pack(&path, &folder().join(format!("{name}.store")));
        let says = describe(&ParamStore::open_read_only(&path, &options()).unwrap());
        let mut store = ParamStore::open(&path, &options()).unwrap();
        let next_digest = next_digest(&mut store);
        let mut expected = serde_json::json!({ "name": name, "says": says, "next_digest": next_digest });
        if let [checkpoint] = &store.checkpoints().unwrap()[..] {
            let says = describe(&ParamStore::open_read_only(&checkpoint.path, &options()).unwrap());
            store.roll_back_to(&checkpoint.name).unwrap();
            let next_digest = self::next_digest(&mut store);
            expected["checkpoint"] = serde_json::json!({ "says": says, "next_digest": next_digest });
        }
        all.push(expected);
    }
    let text = serde_json::to_string_pretty(&all).unwrap();
    std::fs::write(folder().join("stores.json"), text + "\n").unwrap();
}

/// What the store holds after another step.
fn next_digest(store: &mut ParamStore) -> String {
    make::one_step(store).unwrap();
    store.digest().unwrap().to_string()
}
