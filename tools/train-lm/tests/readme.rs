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

/// Every run that a document names, of two steps and a small size: each state, text of the reader, weights of another run.
#[test]
fn commands_of_the_documents_do_what_they_say() {
    let dir = tempfile::tempdir().unwrap();
    let text = "the quick brown fox jumps over the lazy dog\n".repeat(400);
    std::fs::write(dir.path().join("your.txt"), text).unwrap();
    let small =
        [("--params", "250k"), ("--vocab", "256"), ("--seq", "16"), ("--batch", "2"), ("--memory", "4MiB")];
    let short = [("--steps", "2"), ("--sample", "0"), ("--store", "")];
    let often = [("--validate-every", "1"), ("--commit-every", "1"), ("--text", "your.txt")];
    let (mut seen, mut digests) = (Vec::new(), std::collections::BTreeSet::new());
    // Weights for those that start from some are there after the first.
    for command in documents::commands("train-lm") {
        let command = command.with(&small).with(&short).replacing(&often);
        let mut words = command.arguments.clone();
        words.retain(|word| word != "--json");
        if seen.contains(&words) {
            continue;
        }
        seen.push(words.clone());
        let store = format!("run{}", seen.len());
        let at = words.iter().position(|word| word == "--store").unwrap();
        words[at + 1].clone_from(&store);
        let ran = run(dir.path(), &words.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(ran["complete"].as_bool().unwrap(), "{}: {ran}", command.place());
        digests.insert(ran["digest"].as_str().unwrap().to_owned());
        if seen.len() == 1 {
            let options = paramstore::Options::new();
            let store = paramstore::ParamStore::open_read_only(dir.path().join(store), &options).unwrap();
            let file = dir.path().join("pre.safetensors");
            paramstore::exchange::Export::new().to_file(&store, file, |_| {}).unwrap();
        }
    }
    assert!(
        seen.len() >= 6 && digests.len() >= 4,
        "{} runs, {} digests: {seen:?}",
        seen.len(),
        digests.len()
    );
}
