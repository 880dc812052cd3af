//! Short campaigns against real processes and file systems, and that each of them can fail: so that the harness does not
//! rot between its long runs.

use std::path::Path;
use std::process::{Command, Output};

fn xtask(dir: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_paramstore-xtask"));
    command.args(words).arg("--dir").arg(dir.join("campaign")).output().unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The number after this title in a summary.
fn number(said: &str, title: &str) -> u64 {
    let line = said.lines().find_map(|line| line.strip_prefix(title));
    let line = line.unwrap_or_else(|| panic!("no {title:?} in {said}"));
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// Whether something was skipped, with a word on the terminal.
fn is_skipped(said: &str) -> bool {
    let skipped: Vec<_> = said.lines().filter(|line| line.starts_with("skipped")).collect();
    for line in &skipped {
        eprintln!("{line}");
    }
    !skipped.is_empty()
}

#[test]
fn a_training_process_killed_at_times_and_at_system_calls_keeps_every_promise() {
    let dir = tempfile::tempdir().unwrap();
    let output = xtask(dir.path(), &["kills", "--kills", "24", "--seed", "5"]);
    let said = said(&output);
    assert!(output.status.success(), "{said}");
    let at_times = number(&said, "killed at a time ");
    let at_calls = number(&said, "killed at a system call ");
    if is_skipped(&said) {
        assert_eq!((at_times, at_calls), (24, 0), "{said}");
    } else {
        assert!(at_times == 12 && at_calls > 0, "{said}");
    }
    // Each kill was followed by a look.
    let found = said.lines().filter(|line| line.starts_with("found:"));
    let found: u64 =
        found.filter_map(|line| line.split_whitespace().find_map(|word| word.parse::<u64>().ok())).sum();
    assert_eq!(found, 24, "{said}");
    assert!(!dir.path().join("campaign").exists());
}

#[test]
fn a_store_that_lost_its_newest_commit_is_noticed_by_the_campaign_of_kills() {
    let dir = tempfile::tempdir().unwrap();
    let output = xtask(dir.path(), &["kills", "--kills", "60", "--seed", "6", "--no-calls", "--spoil"]);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("A PROMISE WAS BROKEN after kill "), "{said}");
    let again = "kills --seed 6 --kills 60 --no-calls --spoil";
    assert!(said.lines().any(|line| line.starts_with("again") && line.ends_with(again)), "{said}");
}

#[test]
fn losses_of_power_beneath_ext4_keep_every_promise_and_without_syncs_break_one() {
    let dir = tempfile::tempdir().unwrap();
    let output = xtask(dir.path(), &["powercut", "--cuts", "3", "--file-system", "ext4"]);
    let kept = said(&output);
    assert!(output.status.success(), "{kept}");
    if is_skipped(&kept) {
        return;
    }
    let cuts = number(&kept, "disk's cache lost ") + number(&kept, "system stopped, disk kept ");
    assert_eq!(cuts, 3, "{kept}");
    let words = ["powercut", "--cuts", "60", "--file-system", "ext4", "--without-syncs"];
    let output = xtask(dir.path(), &words);
    let broken = said(&output);
    if is_skipped(&broken) {
        return;
    }
    assert_eq!(output.status.code(), Some(1), "{broken}");
    assert!(broken.contains("A PROMISE WAS BROKEN on ext4"), "{broken}");
}
