//! A run that is killed and started again ends with the same bits as one that was never stopped.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A tiny model of many quick steps.
const TINY: [&str; 14] = [
    "--params",
    "250k",
    "--vocab",
    "300",
    "--seq",
    "16",
    "--batch",
    "4",
    "--commit-every",
    "4",
    "--sample",
    "0",
    "--memory",
    "4MiB",
];

/// A directory with a text and room for stores.
struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { dir: tempfile::tempdir().unwrap() };
        let lines = (0..4000).map(|i| format!("the {} of {} begat the {}\n", i % 7, i * i % 31, i * 7 % 13));
        std::fs::write(bench.text(), lines.collect::<String>()).unwrap();
        bench
    }

    fn text(&self) -> PathBuf {
        self.dir.path().join("text.txt")
    }

    fn store(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, store: &Path, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_train-lm"));
        command.args(TINY).arg("--text").arg(self.text()).arg("--store").arg(store).arg("--json").args(more);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, store: &Path, more: &[&str]) -> Value {
        let output = self.command(store, more).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Starts a run and kills it a little time after it has committed a step.
    fn run_and_kill(&self, store: &Path, more: &[&str], step: u64, after: Duration) {
        let mut child = self.command(store, more).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while committed_step(store).is_none_or(|committed| committed < step) {
            assert!(child.try_wait().unwrap().is_none(), "the run ended before it could be killed");
            assert!(Instant::now() < deadline, "step {step} was not committed within a minute");
            std::thread::sleep(Duration::from_millis(2));
        }
        std::thread::sleep(after);
        // SIGKILL.
        child.kill().unwrap();
        assert!(!child.wait().unwrap().success(), "the run ended before it was killed");
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The committed step of a store that has a record, read beside the writer.
fn committed_step(store: &Path) -> Option<u64> {
    let options = paramstore::Options::new().memory_budget(8 << 20);
    let store = paramstore::ParamStore::open_read_only(store, &options).ok()?;
    (!store.user_record().is_empty()).then(|| store.committed_step())
}

#[test]
fn a_run_killed_at_several_moments_ends_with_the_digest_of_an_undisturbed_run() {
    let bench = Bench::new();
    let steps = ["--steps", "120"];
    let undisturbed = bench.run(&bench.store("undisturbed"), &steps);
    assert_eq!(undisturbed["steps"], 120);
    assert_eq!(undisturbed["continued_from_step"], Value::Null);

    let store = bench.store("killed");
    // Before the first step, and twice somewhere between two commits.
    for (step, after) in [(0, 0), (8, 5), (40, 9)] {
        bench.run_and_kill(&store, &steps, step, Duration::from_millis(after));
    }
    let step = committed_step(&store).unwrap();
    assert!((40..120).contains(&step), "killed at step {step}");
    let resumed = bench.run(&store, &steps);
    assert_eq!(resumed["continued_from_step"], step);
    assert_eq!(resumed["steps"], 120);
    for key in ["digest", "val_bits_per_byte_before", "val_bits_per_byte_after"] {
        assert_eq!(resumed[key], undisturbed[key], "{key}");
    }
}

#[test]
fn compact_run_takes_fewer_bytes_validates_on_its_way_and_is_not_continued_in_another_state() {
    let bench = Bench::new();
    let store = bench.store("compact");
    let compact = bench.run(&store, &["--steps", "8", "--state", "compact", "--validate-every", "4"]);
    let wide = bench.run(&bench.store("wide"), &["--steps", "8"]);
    assert!(compact["state_bytes"].as_u64().unwrap() < wide["state_bytes"].as_u64().unwrap());
    let curve = compact["val_bits_per_byte_at"].as_array().unwrap();
    assert_eq!((curve.len(), curve[1][0].as_u64()), (2, Some(8)));
    assert_eq!(curve[1][1], compact["val_bits_per_byte_after"]);
    assert_ne!(compact["digest"], wide["digest"]);
    let again = bench.run(&store, &["--steps", "8", "--state", "compact"]);
    assert_eq!(again["digest"], compact["digest"]);
    let output = bench.command(&store, &["--steps", "9", "--state", "bf16"]).output().unwrap();
    assert!(
        !output.status.success() && stderr(&output).contains("has --state compact"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn threads_budget_and_commit_distance_change_no_bit() {
    let bench = Bench::new();
    let first = bench.run(&bench.store("first"), &["--steps", "12"]);
    let store = bench.store("second");
    let mut other = Command::new(env!("CARGO_BIN_EXE_train-lm"));
    other.args(TINY.iter().map(|arg| match *arg {
        "4MiB" => "32MiB",
        "4" => "4",
        other => other,
    }));
    let other =
        other.arg("--text").arg(bench.text()).arg("--store").arg(&store).args(["--json", "--steps", "12"]);
    let output = other.env("RAYON_NUM_THREADS", "3").output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let second: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(first["digest"], second["digest"]);
    assert_ne!(first["budget_bytes"], second["budget_bytes"]);
}

#[test]
fn an_interrupted_run_commits_says_so_and_goes_on_from_that_step() {
    let bench = Bench::new();
    let store = bench.store("interrupted");
    let steps = ["--steps", "400", "--commit-every", "7"];
    let child = bench.command(&store, &steps).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while committed_step(&store).is_none_or(|committed| committed == 0) {
        assert!(Instant::now() < deadline, "no commit within a minute");
        std::thread::sleep(Duration::from_millis(2));
    }
    let interrupt = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(interrupt.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert!(stderr(&output).contains("The same command continues the run"), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let step = report["steps"].as_u64().unwrap();
    assert!((7..400).contains(&step), "interrupted at step {step}");
    assert_eq!(committed_step(&store), Some(step));

    let resumed = bench.run(&store, &steps);
    assert_eq!(resumed["continued_from_step"], step);
    let undisturbed = bench.run(&bench.store("undisturbed"), &steps);
    assert_eq!(resumed["digest"], undisturbed["digest"]);
}

#[test]
fn a_complete_run_says_so_and_is_continued_by_a_larger_number_of_steps() {
    let bench = Bench::new();
    let store = bench.store("complete");
    let first = bench.run(&store, &["--steps", "6"]);
    assert_eq!(first["complete"], true);
    let output = bench.command(&store, &["--steps", "6"]).output().unwrap();
    assert!(output.status.success());
    let told = stderr(&output);
    assert!(told.contains("holds the complete run") && told.contains("--steps 12"), "{told}");
    let again: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(again["digest"], first["digest"]);
    let more = bench.run(&store, &["--steps", "9"]);
    assert_eq!((&more["steps"], &more["continued_from_step"]), (&Value::from(9), &Value::from(6)));
}

#[test]
fn options_that_contradict_the_store_are_named() {
    let bench = Bench::new();
    let store = bench.store("contradicted");
    bench.run(&store, &["--steps", "2"]);
    let other = bench.dir.path().join("other.txt");
    std::fs::write(&other, "another text\n".repeat(4000)).unwrap();
    let other = other.to_str().unwrap();
    for (option, value) in [
        ("--optimizer", "sgd"),
        ("--params", "900k"),
        ("--seed", "7"),
        ("--lr", "0.5"),
        ("--batch", "2"),
        ("--seq", "8"),
        ("--text", other),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_train-lm"));
        command.args(TINY).arg("--store").arg(&store).args([option, value]);
        if option != "--text" {
            command.arg("--text").arg(bench.text());
        }
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{option} {value} was accepted");
        let told = stderr(&output);
        let named = if option == "--text" { "another text" } else { option };
        assert!(told.contains(named) && told.contains("--store"), "{option}: {told}");
    }
}

#[test]
fn an_empty_directory_becomes_the_store_and_one_with_other_files_is_refused() {
    let bench = Bench::new();
    let empty = bench.store("empty");
    std::fs::create_dir(&empty).unwrap();
    assert_eq!(bench.run(&empty, &["--steps", "1"])["steps"], 1);
    let other = bench.store("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("notes.txt"), "mine").unwrap();
    let output = bench.command(&other, &["--steps", "1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("exists already"), "{}", stderr(&output));
    assert_eq!(std::fs::read_dir(&other).unwrap().count(), 1);
}

#[test]
fn too_little_memory_is_refused_with_what_is_needed() {
    let bench = Bench::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_train-lm"));
    command.args(["--memory", "1MiB", "--text"]).arg(bench.text()).arg("--store").arg(bench.store("small"));
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("give at least"), "{}", stderr(&output));
    assert!(!bench.store("small").exists());
}

#[test]
fn the_peak_of_memory_stays_below_what_the_report_announces() {
    let bench = Bench::new();
    // A model whose state is larger than everything that is announced together.
    let args = ["--params", "9M", "--memory", "20MiB", "--steps", "2"];
    let report = bench.run(&bench.store("peak"), &args);
    let number = |key: &str| report[key].as_u64().unwrap();
    let announced = number("memory_bytes") + number("activation_bytes") + number("fixed_bytes");
    assert!(number("state_bytes") > announced, "{report}");
    if let Some(peak) = report["peak_rss_bytes"].as_u64() {
        assert!(peak <= announced, "{peak} bytes at the peak, {announced} announced");
    }
}

#[test]
fn every_optimizer_trains_and_names_that_do_not_exist_are_refused() {
    let bench = Bench::new();
    let names =
        ["sgd", "adagrad", "adadelta", "rmsprop", "adam", "adamw", "adamax", "nadam", "radam", "lion"];
    for name in names.into_iter().chain(["sparseadam"]) {
        let report = bench.run(&bench.store(name), &["--steps", "12", "--optimizer", name]);
        let (before, after) = (&report["val_bits_per_byte_before"], &report["val_bits_per_byte_after"]);
        assert!(after.as_f64().unwrap() < before.as_f64().unwrap(), "{name}: {before} to {after}");
    }
    let output = bench.command(&bench.store("none"), &["--optimizer", "adamx"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("adagrad"), "the names that exist are listed: {}", stderr(&output));
}

/// Pretrained on one text, exported, and taken up on another: by names, with a part frozen, the rest held to its start; killed and
/// started again on the way.
#[test]
fn a_run_that_starts_from_a_file_goes_on_with_its_bits_and_keeps_what_is_frozen() {
    let bench = Bench::new();
    let pretrained = bench.store("pretrained");
    // The merges of another text would be other tokens: bytes are the same everywhere.
    let bytes = ["--vocab", "256"];
    let first = bench.run(&pretrained, &["--steps", "60", bytes[0], bytes[1]]);
    let file = bench.store("pretrained.safetensors");
    let options = paramstore::Options::new().memory_budget(8 << 20);
    let store = paramstore::ParamStore::open_read_only(&pretrained, &options).unwrap();
    let export = paramstore::exchange::Export::new().select(|name| !name.starts_with("blocks.1"));
    export.to_file(&store, &file, |_| {}).unwrap();
    drop(store);

    let lines =
        (0..3000).map(|i| format!("and {} begat {} in the days of {}\n", i % 11, i * 5 % 17, i * i % 7));
    std::fs::write(bench.text(), lines.collect::<String>()).unwrap();
    let file = file.to_str().unwrap();
    let of = |more: &[&'static str]| {
        let mut all =
            vec!["--steps", "40", "--init-from", file, "--freeze", "^embed", "--toward-start", "0.01"];
        all.extend(bytes);
        all.extend(more);
        all
    };
    let output = bench.command(&bench.store("undisturbed"), &of(&[])).output().unwrap();
    let said = stderr(&output);
    assert!(said.contains("tensors from files") && said.contains("new: blocks.1"), "{said}");
    let undisturbed: Value = serde_json::from_slice(&output.stdout).unwrap();
    bench.run_and_kill(&bench.store("killed"), &of(&[]), 12, Duration::from_millis(3));
    let resumed = bench.run(&bench.store("killed"), &of(&[]));
    assert_eq!(resumed["digest"], undisturbed["digest"]);
    let scratch = bench.run(&bench.store("scratch"), &["--steps", "40", bytes[0], bytes[1]]);
    let bits = |run: &Value| run["val_bits_per_byte_before"].as_f64().unwrap();
    assert!(bits(&undisturbed) < bits(&scratch), "what was learnt before shows before the first step");
    let planes = |name: &str| {
        let store = paramstore::ParamStore::open_read_only(bench.store("undisturbed"), &options).unwrap();
        store.tensor(name).unwrap().planes().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(planes("embed.weight"), ["frozen"]);
    assert_eq!(planes("blocks.1.mlp.up.weight").len(), 3, "{first}");
    let values = |store: &Path, name: &str| {
        let store = paramstore::ParamStore::open_read_only(store, &options).unwrap();
        let mut out = vec![0.0; usize::try_from(store.tensor(name).unwrap().elements()).unwrap()];
        store.read_into(name, &mut out).unwrap();
        out
    };
    let tuned = bench.store("undisturbed");
    assert_eq!(values(&tuned, "embed.weight"), values(&pretrained, "embed.weight"));
    assert_eq!(values(&tuned, "start.unembed.weight"), values(&pretrained, "unembed.weight"));
    assert_ne!(values(&tuned, "unembed.weight"), values(&pretrained, "unembed.weight"));
    let output = bench.command(&tuned, &of(&["--toward-start", "0.5", "--steps", "50"])).output().unwrap();
    assert!(stderr(&output).contains("--toward-start 0.01"), "{}", stderr(&output));
}
