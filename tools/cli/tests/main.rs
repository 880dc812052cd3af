//! The command line as a user meets it: output, JSON, exit status.

mod bench;
mod checkpoint;
mod convert;
mod create;
mod diff;
mod exchange;
mod export;
mod help;
mod import;
mod inspect;
mod plan;
mod readme;
mod repair;
mod report;
mod shell;
mod show;
mod statistics;
mod top;
mod verify;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// What a run of the program gave.
struct Ran {
    status: i32,
    stdout: String,
    stderr: String,
}

impl Ran {
    #[track_caller]
    fn expect(self, status: i32) -> Self {
        assert_eq!(self.status, status, "{}{}", self.stdout, self.stderr);
        self
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }
}

fn program() -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_paramstore"));
    // Help is wrapped to it.
    program.env_remove("COLUMNS");
    program
}

fn run(arguments: &[&str]) -> Ran {
    let Output { status, stdout, stderr } = program().args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { status: status.code().unwrap_or(-1), stdout: text(stdout), stderr: text(stderr) }
}

/// A directory for stores, removed at the end.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Creates a store with two tensors and trains it for some steps, each of them committed.
    fn trained(&self, name: &str, steps: u64, more: &[&str]) -> String {
        let store = self.text(name);
        let tensors = ["--tensor", "wte:f32:500x64", "--tensor", "bias:f32:64"];
        let first = ["create", &store, "--optimizer", "adamw", "--init", "normal:0.02", "--seed", "7"];
        run(&[&first[..], &tensors, more].concat()).expect(0);
        train(Path::new(&store), steps);
        store
    }
}

fn train(path: &Path, steps: u64) {
    let options = paramstore::Options::new().memory_budget(16 << 20).threads(1);
    let mut store = paramstore::ParamStore::open(path, &options).unwrap();
    for _ in 0..steps {
        take_step(&mut store);
        store.commit(b"record").unwrap();
    }
}

fn take_step(store: &mut paramstore::ParamStore) {
    let mut step = store.begin_step().unwrap();
    step.apply("wte", &vec![0.5; 32_000]).unwrap();
    step.apply("bias", &[-0.25; 64]).unwrap();
    step.finish().unwrap();
}

/// Runs the program with its output closed after some bytes, and returns its status.
fn closed_pipe(arguments: &[&str]) -> i32 {
    let mut child = program().args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(stderr, "", "a closed pipe is nothing to complain about");
    output.status.code().unwrap_or(-1)
}

#[test]
fn wrong_usage_ends_with_status_2_and_says_what_would_be_right() {
    let cases: &[(&[&str], &str)] = &[
        (&[], "Usage: paramstore"),
        (&["crate"], "unrecognized subcommand"),
        (&["inspect"], "<STORE>"),
        (&["create", "s", "--optimizer", "adamw"], "--params"),
        (&["create", "s", "--optimizer", "adam2", "--params", "1M"], "adamw"),
        (&["create", "s", "--optimizer", "adamw", "--params", "1X"], "120M"),
        (&["create", "s", "--optimizer", "adamw", "--params", "1M", "--tensor", "a:f32:3"], "cannot be used"),
        (&["create", "s", "--optimizer", "adamw", "--tensor", "a:f64:3"], "f32"),
        (&["create", "s", "--optimizer", "adamw", "--tensor", "a:f32:3y"], "1000x64"),
        (&["create", "s", "--optimizer", "adamw", "--params", "1M", "--lr", "fast"], "lr of adamw"),
        (&["create", "s", "--optimizer", "adamw", "--params", "1M", "--momentum", "0.9"], "one of lr"),
        (&["create", "s", "--optimizer", "adamw", "--params", "1M", "--set", "lr"], "KEY=VALUE"),
        (&["create", "s", "--optimizer", "sgd", "--params", "1M", "--nesterov"], "momentum above 0"),
        (&["create", "s", "--optimizer", "sgd", "--params", "1M", "--block-bytes", "5000"], "power of two"),
        (&["create", "s", "--optimizer", "sgd", "--params", "0"], "none of them 0"),
        (&["create", "s", "--optimizer", "sgd", "--params", "1M", "--memory", "8k"], "expected at least"),
        (&["create", "s", "--optimizer", "sgd", "--params", "1M", "--init", "ones"], "normal:STD"),
        (&["verify", "s", "--threads", "0"], "1..=64"),
        (&["checkpoint"], "rollback"),
        (&["checkpoint", "keep", "s"], "<NAME>"),
        (&["checkpoint", "prune", "s"], "<NAMES>"),
        (&["checkpoint", "prune", "s", "a", "--keep-last", "1"], "cannot be used"),
        (&["bench"], "sweep"),
        (&["bench", "sweep", "--params", "1M", "--optimizer", "sgd"], "--memory"),
    ];
    for (arguments, expected) in cases {
        let ran = run(arguments).expect(2);
        assert!(ran.stderr.contains(expected), "{arguments:?}: {}", ran.stderr);
        assert_eq!(ran.stdout, "", "{arguments:?}");
        assert!(!Path::new("s").exists(), "{arguments:?}");
    }
}

#[test]
fn what_is_no_store_ends_with_status_3_and_a_next_step() {
    let place = Place::new();
    std::fs::create_dir(place.path("empty")).unwrap();
    std::fs::write(place.path("file"), "text").unwrap();
    for name in ["missing", "empty", "file"] {
        for command in ["inspect", "verify"] {
            for json in [&[][..], &["--json"]] {
                let ran = run(&[&[command, &place.text(name)], json].concat()).expect(3);
                assert!(ran.stderr.starts_with("error: "), "{}", ran.stderr);
                assert!(ran.stderr.contains(&place.text(name)), "{}", ran.stderr);
                assert!(ran.stderr.contains("\nhint: check the path"), "{}", ran.stderr);
                assert_eq!(ran.stdout, "");
            }
        }
    }
}
