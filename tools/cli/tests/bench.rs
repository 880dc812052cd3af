//! `paramstore bench sweep`.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Place, Ran, closed_pipe, program, run};

const KEYS: [&str; 30] = [
    "params",
    "memory_bytes",
    "optimizer",
    "state",
    "path",
    "threads",
    "commit_every",
    "steps",
    "block_bytes",
    "state_bytes",
    "limit",
    "limit_queue_depth",
    "limit_piece_bytes",
    "limit_buffer_bytes",
    "step_s",
    "limit_s",
    "ratio",
    "mparams_per_s",
    "bytes_read_per_param",
    "bytes_written_per_param",
    "hit_rate",
    "min_hit_rate",
    "stall_read_s",
    "stall_write_s",
    "compute_s",
    "commit_s",
    "peak_rss_bytes",
    "machine",
    "date",
    "version",
];

/// Runs the sweep with these options in a directory, which has to be as empty afterwards as it was.
fn sweep(place: &Place, options: &str) -> Ran {
    let dir = place.text("");
    let first = ["bench", "sweep", "--dir", &dir];
    let ran = run(&first.into_iter().chain(options.split_whitespace()).collect::<Vec<_>>());
    assert_eq!(left_in(&dir), [""; 0], "{}{}", ran.stdout, ran.stderr);
    ran
}

fn left_in(dir: impl AsRef<Path>) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    entries.map(|entry| entry.unwrap().file_name().to_str().unwrap().to_owned()).collect()
}

fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("{key} of {value}"))
}

/// What holds for every run, whatever it measured.
#[track_caller]
fn check(seen: &Value, steps: usize) {
    for key in KEYS {
        assert!(seen.get(key).is_some(), "{key}");
    }
    for key in ["step_s", "limit_s"] {
        let times: Vec<_> = seen[key].as_array().unwrap().iter().map(|s| s.as_f64().unwrap()).collect();
        assert!(times.len() == steps && times.iter().all(|&s| s > 0.0 && s.is_finite()), "{key}: {times:?}");
    }
    for key in ["ratio", "mparams_per_s", "compute_s", "peak_rss_bytes"] {
        assert!(number(seen, key) > 0.0, "{key} of {seen}");
    }
    assert!(number(seen, "stall_read_s") >= 0.0 && number(seen, "stall_write_s") >= 0.0);
    assert!((0.0..=1.0).contains(&number(seen, "hit_rate")));
    assert_eq!(seen["steps"], steps);
    assert!(number(&seen["machine"], "cores") >= 1.0 && seen["machine"]["kernel"].is_string());
    assert_eq!(seen["version"], env!("CARGO_PKG_VERSION"));
}

#[track_caller]
fn check_raw_copy(seen: &Value) {
    assert_eq!(seen["limit"], "raw_copy");
    let (depth, piece) = (number(seen, "limit_queue_depth"), number(seen, "limit_piece_bytes"));
    assert!(depth * piece > 0.0 && depth * piece <= number(seen, "limit_buffer_bytes"), "{seen}");
}

#[test]
fn cold_sweep_reads_and_writes_nearly_everything_beside_a_raw_copy() {
    let place = Place::new();
    let options = "--params 1M --memory 2MiB --optimizer adamw --steps 3 --threads 1 --json";
    let seen = sweep(&place, options).expect(0).json();
    check(&seen, 3);
    check_raw_copy(&seen);
    assert_eq!((&seen["params"], &seen["memory_bytes"]), (&1_000_000.into(), &(2 << 20).into()));
    assert_eq!((&seen["state_bytes"], &seen["threads"]), (&12_000_000.into(), &1.into()));
    assert_eq!((&seen["path"], &seen["commit_every"]), (&"auto".into(), &1.into()));
    let (read, written) = (number(&seen, "bytes_read_per_param"), number(&seen, "bytes_written_per_param"));
    assert!(read > 9.0 && read < 12.1 && written > 11.9 && written < 12.2, "{seen}");
    assert!(number(&seen, "hit_rate") < 0.3 && number(&seen, "commit_s") > 0.0, "{seen}");
}

#[test]
fn hot_sweep_moves_no_byte_of_disk_beside_a_pass_over_the_memory() {
    let place = Place::new();
    let options = "--params 1M --memory 64MiB --optimizer lion --steps 2 --commit-every 4 --json";
    let seen = sweep(&place, options).expect(0).json();
    check(&seen, 2);
    assert_eq!(seen["limit"], "memory_pass");
    for key in ["limit_queue_depth", "limit_piece_bytes"] {
        assert_eq!(seen[key], Value::Null);
    }
    assert_eq!(seen["limit_buffer_bytes"], 0);
    for key in ["bytes_read_per_param", "bytes_written_per_param", "commit_s"] {
        assert!(number(&seen, key).abs() < 1e-12, "{key}");
    }
    assert!((number(&seen, "hit_rate") - 1.0).abs() < 1e-12);
}

#[test]
fn compact_sweeps_move_a_third_of_the_bytes_and_their_passes_too() {
    let place = Place::new();
    let options =
        "--params 4M --memory 4MiB --block-bytes 1MiB --optimizer adamw --state compact --steps 2 --json";
    let cold = sweep(&place, options).expect(0).json();
    check(&cold, 2);
    check_raw_copy(&cold);
    let written = number(&cold, "bytes_written_per_param");
    assert!(cold["state"] == "compact" && written > 4.0 && written < 4.2, "{cold}");
    let hot = sweep(&place, &options.replace("--memory 4MiB", "--memory 256MiB")).expect(0).json();
    assert_eq!(hot["limit"], "memory_pass", "{hot}");
}

/// The copy writes into the homes of a store in use: with steps that are not committed, blocks of the working
/// generation stand where it writes. The program verifies the store at the end, and ends with 1 if it is damaged.
#[test]
fn store_stays_sound_under_the_copy_between_commits_on_every_path() {
    let place = Place::new();
    for path in ["auto", "direct", "mapped"] {
        let options =
            "--params 300k --memory 1MiB --optimizer adamw --block-bytes 16k --steps 5 --commit-every 2";
        let seen = sweep(&place, &format!("{options} --path {path} --json")).expect(0).json();
        check(&seen, 5);
        check_raw_copy(&seen);
        assert_eq!((&seen["path"], &seen["block_bytes"]), (&path.into(), &16_384.into()));
    }
}

#[test]
fn text_says_cold_or_hot_and_how_far_the_pairs_scatter() {
    let place = Place::new();
    let text = sweep(&place, "--params 1M --memory 2MiB --optimizer sgd --steps 2").expect(0).stdout;
    assert_eq!(
        text.lines().filter(|line| line.starts_with("step 0.") || line.contains("  raw copy ")).count(),
        2
    );
    for part in ["\ncold: raw copy / step ", " in 2 pairs)", "pieces of ", " was sound after all of it"] {
        assert!(text.contains(part), "{part:?} in {text}");
    }
    let text = sweep(&place, "--params 1M --memory 64MiB --optimizer sgd --steps 1").expect(0).stdout;
    for part in ["hot: memory pass / step ", " in 1 pair)", "--commit-every above --steps"] {
        assert!(text.contains(part), "{part:?} in {text}");
    }
}

#[test]
fn what_cannot_be_measured_is_refused_before_anything_is_made() {
    let place = Place::new();
    let cases = [
        ("--params 1M --memory 8k --optimizer sgd", 2, "expected at least"),
        ("--params 1M --memory 16MiB --optimizer sgd --block-bytes 5000", 2, "power of two"),
        ("--params 0 --memory 16MiB --optimizer sgd", 2, "none of them 0"),
        ("--params 1M --memory 16MiB --optimizer adam2", 2, "adamw"),
        ("--params 1M --memory 16MiB --optimizer sgd --steps 0", 2, "1..=10000"),
        ("--params 1M --memory 16MiB --optimizer sgd --commit-every 0", 2, "--commit-every"),
        ("--params 1M --memory 16MiB --optimizer sgd --path fast", 2, "mapped"),
        ("--params 10T --memory 16MiB --optimizer adamw", 3, "bytes needed, "),
    ];
    for (options, status, expected) in cases {
        let ran = sweep(&place, options).expect(status);
        assert!(ran.stderr.contains(expected), "{options}: {}", ran.stderr);
        assert_eq!(ran.stdout, "", "{options}");
    }
    let missing = place.text("missing");
    let options = ["--params", "1M", "--memory", "16MiB", "--optimizer", "sgd", "--dir", &missing];
    run(&[&["bench", "sweep"], &options[..]].concat()).expect(3);
}

#[test]
fn closed_output_ends_the_run_and_leaves_nothing_behind() {
    let place = Place::new();
    let dir = place.text("");
    let options = ["--params", "1M", "--memory", "2MiB", "--optimizer", "sgd", "--dir", &dir];
    assert_eq!(closed_pipe(&[&["bench", "sweep"], &options[..]].concat()), 0);
    assert_eq!(left_in(&dir), [""; 0]);
}

#[test]
fn interrupted_run_leaves_nothing_behind_and_says_so_by_its_status() {
    let place = Place::new();
    let dir = place.text("");
    let options = "bench sweep --params 1M --memory 2MiB --optimizer sgd --steps 10000 --dir";
    let mut command = program();
    command.args(options.split_whitespace()).arg(&dir).stdout(Stdio::null()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let start = Instant::now();
    while left_in(&dir).is_empty() {
        assert!(start.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(5));
    }
    let killed = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("interrupted"), "{stderr}");
    assert_eq!(left_in(&dir), [""; 0]);
}
