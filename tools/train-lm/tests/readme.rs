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
