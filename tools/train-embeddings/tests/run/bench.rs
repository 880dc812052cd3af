//! A directory with a text, a graph, and room for stores; and small runs of each task.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Small runs of many quick steps, one of each task.
pub(crate) const TASKS: [&[&str]; 3] = [
    &[
        "skip-gram",
        "--dim",
        "8",
        "--batch",
        "128",
        "--buckets",
        "500",
        "--min-count",
        "2",
        "--subsample",
        "0",
    ],
    &["glove", "--dim", "8", "--batch", "64", "--min-count", "2"],
    &["knowledge-graph", "--dim", "8", "--batch", "16", "--negatives", "32", "--min-degree", "1"],
];

/// A directory for runs.
pub(crate) struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let bench = Self { dir: tempfile::tempdir().unwrap() };
        let word =
            |i: usize| ["ark", "bow", "cedar", "dove", "ewe", "fig", "goat", "hin", "isle", "jot"][i % 10];
        let line =
            |i: usize| format!("{} {} {} and {}{}\n", word(i), word(i * i), word(i * 7), word(i / 9), i % 40);
        std::fs::write(bench.text(), (0..3000).map(line).collect::<String>()).unwrap();
        let triple = |i: usize| {
            let (next, far) = ((i + 1) % 300, (i * 7 + 3) % 300);
            format!("e{i}\tnext\te{next}\ne{next}\tbefore\te{i}\ne{i}\tfar\te{far}\n")
        };
        std::fs::write(bench.triples(), (0..300).map(triple).collect::<String>()).unwrap();
        bench
    }

    pub(crate) fn text(&self) -> PathBuf {
        self.path("text.txt")
    }

    pub(crate) fn triples(&self) -> PathBuf {
        self.path("triples.tsv")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A command for a task; the data follow from it.
    pub(crate) fn command(&self, task: &[&str], store: &Path, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_train-embeddings"));
        command.args(task).args(["--memory", "24MiB", "--json"]).arg("--store").arg(store).args(more);
        if task[0] == "knowledge-graph" {
            command.arg("--triples").arg(self.triples());
        } else {
            command.arg("--text").arg(self.text());
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(crate) fn run(&self, task: &[&str], store: &Path, more: &[&str]) -> Value {
        let output = self.command(task, store, more).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Starts a run and kills it a little time after it has committed a step.
    pub(crate) fn run_and_kill(&self, task: &[&str], store: &Path, more: &[&str], step: u64, after: u64) {
        let mut child = self.command(task, store, more).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while committed_step(store).is_none_or(|committed| committed < step) {
            assert!(child.try_wait().unwrap().is_none(), "the run ended before it could be killed");
            assert!(Instant::now() < deadline, "step {step} was not committed within a minute");
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(after));
        // SIGKILL.
        child.kill().unwrap();
        assert!(!child.wait().unwrap().success(), "the run ended before it was killed");
    }
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The committed step of a store that has a record, read beside the writer.
pub(crate) fn committed_step(store: &Path) -> Option<u64> {
    let options = paramstore::Options::new().memory_budget(8 << 20);
    let store = paramstore::ParamStore::open_read_only(store, &options).ok()?;
    (!store.user_record().is_empty()).then(|| store.committed_step())
}
