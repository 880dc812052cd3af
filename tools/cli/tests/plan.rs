//! `paramstore plan`.

use super::{Place, run};

#[test]
fn planned_bytes_are_those_that_create_takes() {
    let place = Place::new();
    let schemas: [&[&str]; 7] = [
        &["--params", "1M"],
        &["--tensor", "a:f32:70x70", "--tensor", "b:f32:5", "--block-bytes", "4k", "--gradient-plane"],
        &["--params", "3k", "--memory", "16MiB"],
        &["--params", "1M", "--state", "compact"],
        &["--tensor", "a:f32:70x70", "--tensor", "b:f16:5", "--state", "bf16", "--block-bytes", "4k"],
        &["--params", "1M", "--state", "compact-kahan"],
        &["--tensor", "a:f32:70x70", "--tensor", "b:f16:5", "--state", "bf16-kahan", "--block-bytes", "4k"],
    ];
    for (i, schema) in schemas.into_iter().enumerate() {
        for optimizer in ["adamw", "sgd", "lion"] {
            let more = [&["--optimizer", optimizer, "--json"], schema].concat();
            let store = place.text(&format!("{optimizer}{i}"));
            let dir = place.text("");
            let plan = run(&[&["plan", "--no-measure", "--dir", &dir], &more[..]].concat()).expect(0).json();
            let created = run(&[&["create", &store], &more[..]].concat()).expect(0).json();
            assert_eq!(plan["bytes_on_disk"], created["bytes_on_disk"], "{schema:?} {optimizer}");
            assert_eq!(plan["memory"]["budget_min_bytes"], created["memory_min_bytes"]);
            let seen = run(&["inspect", &store, "--json"]).expect(0).json();
            assert_eq!((&plan["disk"], &plan["planes"]), (&seen["disk"], &seen["planes"]));
        }
    }
}

#[test]
fn measured_plan_predicts_seconds_and_bytes_per_day_and_leaves_nothing_behind() {
    let place = Place::new();
    let dir = place.text("");
    let arguments = ["plan", "--params", "100M", "--optimizer", "adamw", "--memory", "256MiB", "--dir", &dir];
    let plan = run(&[&arguments[..], &["--json"]].concat()).expect(0).json();
    let number = |key: &str| plan[key].as_f64().unwrap();
    assert!(number("seconds_per_step") > 0.0 && number("bytes_written_per_day") > 0.0);
    // 1.2 GB of values, of which the budget keeps all but four blocks of 12 MiB hot.
    assert_eq!(plan["step"]["bytes_written"], 1_200_000_000_u64 - (208 << 20));
    assert_eq!(plan["step"]["bytes_read"], plan["step"]["bytes_written"]);
    let pace = number("bytes_written_per_day") * number("seconds_per_step") / 86_400.0;
    assert!((pace / (1.2e9 - f64::from(208 << 20)) - 1.0).abs() < 1e-9, "{pace}");
    assert!(plan["measured"]["step_bytes_per_s_each_way"].as_f64().unwrap() > 0.0);
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
}

#[test]
fn plan_that_does_not_fit_says_so_and_is_no_failure() {
    let place = Place::new();
    let dir = place.text("");
    let arguments =
        ["plan", "--params", "1T", "--optimizer", "adamw", "--no-measure", "--dir", &dir, "--memory", "1GiB"];
    let plan = run(&[&arguments[..], &["--json"]].concat()).expect(0).json();
    assert_eq!((&plan["fits"], &plan["fits_disk"]), (&false.into(), &false.into()));
    assert_eq!(plan["seconds_per_step"], serde_json::Value::Null);
    let text = run(&arguments).expect(0).stdout;
    assert!(text.contains("does not fit:"), "{text}");
    run(&["plan", "--params", "1M", "--optimizer", "adamw", "--dir", &place.text("missing")]).expect(3);
}

#[test]
fn state_decides_the_types_of_planes_and_what_a_step_moves() {
    let place = Place::new();
    let dir = place.text("");
    let plan = |more: &[&str]| {
        let first =
            ["plan", "--optimizer", "adamw", "--no-measure", "--dir", &dir, "--json", "--memory", "1MiB"];
        run(&[&first[..], &["--block-bytes", "4k"], more].concat()).expect(0).json()
    };
    let dtypes = |plan: &serde_json::Value| {
        let planes = plan["planes"].as_array().unwrap();
        planes.iter().map(|plane| plane["dtype"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let compact = plan(&["--params", "16M", "--state", "compact"]);
    assert_eq!(dtypes(&compact), ["bf16", "q8-signed", "q8-unsigned"]);
    let moved = |plan: &serde_json::Value| plan["step"]["bytes_written"].as_f64().unwrap();
    let wide = plan(&["--params", "16M"]);
    assert_eq!(dtypes(&wide), ["f32"; 3]);
    let ratio = moved(&wide) / moved(&compact);
    assert!((2.95..3.0).contains(&ratio), "{ratio}");
    let kahan = plan(&["--params", "16M", "--state", "compact-kahan"]);
    assert_eq!(dtypes(&kahan), ["bf16", "q8-signed", "q8-unsigned", "bf16"]);
    let ratio = moved(&wide) / moved(&kahan);
    assert!((1.97..2.0).contains(&ratio), "{ratio}");
    let mixed = plan(&[
        "--tensor",
        "w:f32:64x64",
        "--tensor",
        "wte.weight:f32:900x64",
        "--tensor",
        "b:f16:9",
        "--state",
        "bf16",
    ]);
    assert_eq!(dtypes(&mixed), ["bf16+f32+f16", "bf16+f32", "bf16+f32"]);
    run(&["plan", "--optimizer", "adamw", "--params", "1M", "--state", "q8"]).expect(2);
}
