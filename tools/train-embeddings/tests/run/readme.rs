//! The README's commands, each cut short and the billion made smaller: defaults, own text, own directory for the run.

use std::process::{Command, Output};

const README: &str = include_str!("../../README.md");

#[test]
fn commands_of_the_readme_run_and_continue() {
    let prefix = "    cargo run --release -p train-embeddings -- ";
    let commands: Vec<_> = README.lines().filter_map(|line| line.strip_prefix(prefix)).collect();
    assert!(commands.len() >= 4, "{commands:?}");
    let dir = tempfile::tempdir().unwrap();
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/wordnet");
    let mut seen = std::collections::BTreeSet::new();
    for command in commands {
        let store = dir.path().join(format!("store-{}", seen.len()));
        let smaller = command.replace("--params 1B", "--params 20M");
        let mut arguments: Vec<&str> = smaller.split_whitespace().collect();
        // The README's directories are the reader's.
        for option in ["--store", "--epochs", "--steps"] {
            if let Some(at) = arguments.iter().position(|argument| *argument == option) {
                arguments.drain(at..at + 2);
            }
        }
        if arguments[0] == "knowledge-graph" {
            arguments.extend(["--wordnet", sample, "--min-degree", "1"]);
        }
        for steps in ["2", "3"] {
            let mut run = Command::new(env!("CARGO_BIN_EXE_train-embeddings"));
            run.current_dir(dir.path()).args(&arguments).args(["--steps", steps, "--json", "--store"]);
            let output: Output = run.arg(&store).output().unwrap();
            assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        }
        seen.insert(command);
    }
}
