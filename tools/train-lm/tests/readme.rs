//! The README's first command, stopped after a few steps: defaults, own text, own directory for the run.

use std::process::{Command, Output};

fn run(dir: &std::path::Path, arguments: &[&str]) -> serde_json::Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_train-lm"));
    let output: Output = command.current_dir(dir).args(arguments).arg("--json").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_default_run_has_a_state_of_eight_budgets_and_continues_with_the_same_command() {
    let dir = tempfile::tempdir().unwrap();
    let first = run(dir.path(), &["--steps", "2", "--sample", "0"]);
    assert!(dir.path().join("runs/train-lm/meta").is_file() || dir.path().join("runs/train-lm").is_dir());
    let number =
        |value: &serde_json::Value, key: &str| value[key].as_f64().unwrap_or_else(|| panic!("{key}"));
    assert!(number(&first, "state_bytes") >= 8.0 * number(&first, "memory_bytes"));
    assert!(number(&first, "bytes_read") > 0.0 && number(&first, "bytes_written") > 0.0);
    let second = run(dir.path(), &["--steps", "3", "--sample", "0"]);
    assert!((number(&second, "continued_from_step") - 2.0).abs() < 0.5);
    assert_ne!(first["digest"], second["digest"]);
}

/// The guide's runs, of a few steps and another size: one from nothing, and one that starts from its weights.
#[test]
fn commands_of_the_guide_do_what_it_says() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("your.txt"), "the quick brown fox jumps over the lazy dog\n".repeat(400))
        .unwrap();
    let small = [
        "--params", "250k", "--seq", "16", "--batch", "2", "--memory", "4MiB", "--sample", "0", "--steps",
        "2",
    ];
    let commands = documents::commands_of("docs/GUIDE.md", "train-lm");
    let mut seen = Vec::new();
    for command in commands.iter().filter(|command| command.is_shell) {
        let mut words: Vec<_> = command.arguments.iter().map(String::as_str).collect();
        if let Some(at) = words.iter().position(|word| *word == "--steps") {
            words.drain(at..at + 2);
        }
        seen.push(run(dir.path(), &[&words[..], &small].concat()));
        let store = dir.path().join("runs/pre");
        let store = paramstore::ParamStore::open_read_only(store, &paramstore::Options::new()).unwrap();
        let export = paramstore::exchange::Export::new().force(true);
        export.to_file(&store, dir.path().join("pre.safetensors"), |_| {}).unwrap();
    }
    let [from_nothing, tuned] = &seen[..] else { panic!("{seen:?}") };
    assert_ne!(from_nothing["digest"], tuned["digest"]);
    assert!(dir.path().join("runs/tuned/meta").is_file());
}
