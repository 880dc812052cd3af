//! `paramstore create`.

use super::{Place, run};

#[test]
fn created_store_has_the_tensors_settings_and_bytes_that_were_asked_for() {
    let place = Place::new();
    let store = place.text("s");
    let ran = run(&[
        "create",
        &store,
        "--optimizer",
        "sgd",
        "--lr",
        "1e-2",
        "--momentum",
        "0.9",
        "--nesterov",
        "--set",
        "weight_decay=0.1",
        "--tensor",
        "a:b:f32:[20,30]",
        "--tensor",
        "s:f32:[]",
        "--block-bytes",
        "4k",
        "--gradient-plane",
        "--init",
        "uniform:-1:1",
        "--seed",
        "3",
        "--json",
    ])
    .expect(0);
    let created = ran.json();
    assert_eq!(created["params"], 601);
    assert_eq!(created["block_bytes"], 4096);
    assert_eq!(created["planes"], serde_json::json!(["param", "momentum_buffer", "grad"]));
    let on_disk: u64 =
        std::fs::read_dir(&store).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert_eq!(created["bytes_on_disk"], on_disk);
    let seen = run(&["inspect", &store, "--json"]).expect(0).json();
    assert_eq!(seen["uuid"], created["uuid"]);
    let settings = &seen["groups"][0]["hyperparameters"];
    assert_eq!((&settings["lr"], &settings["momentum"]), (&0.01.into(), &0.9.into()));
    assert_eq!((&settings["nesterov"], &settings["weight_decay"]), (&true.into(), &0.1.into()));
    assert_eq!(seen["tensors"][0]["name"], "a:b");
    assert_eq!(seen["tensors"][0]["shape"], serde_json::json!([20, 30]));
    assert_eq!(seen["tensors"][1]["shape"], serde_json::json!([]));
}

#[test]
fn params_make_one_tensor_named_param() {
    let place = Place::new();
    let store = place.text("s");
    let ran = run(&["create", &store, "--optimizer", "lion", "--params", "0.1M"]).expect(0);
    assert!(ran.stdout.contains("100,000 parameters in 1 tensor, lion"), "{}", ran.stdout);
    let seen = run(&["inspect", &store, "--json"]).expect(0).json();
    assert_eq!(seen["tensors"][0]["name"], "param");
    assert_eq!(seen["tensors"][0]["elements"], 100_000);
    assert_eq!(seen["step"], 0);
}

#[test]
fn store_that_does_not_fit_the_disk_ends_with_what_is_needed_and_leaves_nothing() {
    let place = Place::new();
    let store = place.text("s");
    let ran =
        run(&["create", &store, "--optimizer", "adamw", "--params", "10T", "--memory", "1GiB"]).expect(3);
    assert!(ran.stderr.contains("no space for"), "{}", ran.stderr);
    assert!(ran.stderr.contains("bytes needed") && ran.stderr.contains("bytes free"), "{}", ran.stderr);
    assert!(ran.stderr.contains("--sparse"), "{}", ran.stderr);
    let left = std::fs::read_dir(&store).map_or(0, Iterator::count);
    assert!(left <= 1, "{left} files left");
    run(&["create", &store, "--optimizer", "adamw", "--params", "1k"]).expect(0);
}

#[test]
fn existing_store_is_refused_and_left_alone() {
    let place = Place::new();
    let store = place.trained("s", 1, &[]);
    let before = run(&["inspect", &store, "--json", "--digest"]).expect(0).json();
    let ran = run(&["create", &store, "--optimizer", "adamw", "--params", "1k"]).expect(3);
    assert!(ran.stderr.contains("exists already"), "{}", ran.stderr);
    assert_eq!(run(&["inspect", &store, "--json", "--digest"]).expect(0).json(), before);
}

#[test]
fn tensors_kept_by_rows_are_created_planned_and_shown_with_their_mode() {
    let place = Place::new();
    let store = place.text("s");
    let schema = ["--optimizer", "adamw", "--rows", "words:f32:3000x8", "--tensor", "out:f32:8x8"];
    let rows =
        ["--row-mode", "catch-up", "--row-log", "64KiB", "--hashed-ids", "2", "--memory", "8MiB", "--json"];
    let created = run(&[&["create", &store], &schema[..], &rows].concat()).expect(0).json();
    assert_eq!(created["planes"], serde_json::json!(["param", "exp_avg", "exp_avg_sq", "record", "row_log"]));
    let seen = run(&["inspect", &store, "--json"]).expect(0).json();
    let table = &seen["row_tensors"][0];
    assert_eq!((&table["tensor"], &table["mode"]), (&"words".into(), &"catch-up".into()));
    assert_eq!((&table["rows"], &table["record_bytes"]), (&3000.into(), &128.into()));
    let text = run(&["inspect", &store]).expect(0).stdout;
    assert!(
        text.contains("words: found by hashed ids, updated from sighting 2 on; 0 sightings collided"),
        "{text}"
    );
    let plan = run(&[&["plan", "--no-measure"], &schema[..], &rows].concat()).expect(0).json();
    assert_eq!(plan["bytes_on_disk"], created["bytes_on_disk"]);
    assert_eq!(plan["memory"]["budget_min_bytes"], created["memory_min_bytes"]);
    assert_eq!(plan["row_tensors"][0]["memory_rows"], 3000);
    let text = run(&[&["plan", "--no-measure"], &schema[..]].concat()).expect(0).stdout;
    assert!(text.contains("words: 3,000 of 3,000 rows have room in memory"), "{text}");

    // What is said to be enough memory is enough, and less is not.
    let least = created["memory_min_bytes"].as_u64().unwrap();
    let with = |bytes: u64| {
        let (store, memory) = (place.text(&bytes.to_string()), bytes.to_string());
        run(&[&["create", &store], &schema[..], &rows[..6], &["--memory", &memory]].concat())
    };
    with(least).expect(0);
    with(least - (64 << 10)).expect(2);
    run(&["create", &place.text("l"), "--optimizer", "lion", "--rows", "w:f32:9x2"]).expect(2);
}
