//! A run that is killed and started again ends with the same bits as one that was never stopped.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::bench::{Bench, TASKS, committed_step, stderr};

#[test]
fn a_run_killed_at_several_moments_ends_with_the_digest_of_an_undisturbed_run() {
    let bench = Bench::new();
    for task in TASKS {
        let steps = ["--steps", "1500", "--commit-every", "10"];
        let undisturbed = bench.run(task, &bench.path(&format!("{}-undisturbed", task[0])), &steps);
        assert_eq!(undisturbed["steps"], 1500);
        assert_eq!(undisturbed["continued_from_step"], Value::Null);

        let store = bench.path(&format!("{}-killed", task[0]));
        // Before the first step, and twice somewhere between two commits.
        for (step, after) in [(0, 0), (20, 2), (60, 3)] {
            bench.run_and_kill(task, &store, &steps, step, after);
        }
        let step = committed_step(&store).unwrap();
        assert!((60..1500).contains(&step), "{}: killed at step {step}", task[0]);
        let resumed = bench.run(task, &store, &steps);
        assert_eq!(resumed["continued_from_step"], step);
        assert_eq!(resumed["steps"], 1500);
        for key in ["digest", "scores"] {
            assert_eq!(resumed[key], undisturbed[key], "{}: {key}", task[0]);
        }
    }
}

#[test]
fn threads_budget_and_commit_distance_change_no_bit() {
    let bench = Bench::new();
    for task in TASKS {
        let first = bench.run(task, &bench.path(&format!("{}-1", task[0])), &["--steps", "40"]);
        for (threads, memory) in [("1", "24MiB"), ("3", "64MiB")] {
            let store = bench.path(&format!("{}-{threads}-threads", task[0]));
            let more = ["--steps", "40", "--commit-every", "7", "--memory", memory];
            let mut command = bench.command(task, &store, &more);
            let output = command.env("RAYON_NUM_THREADS", threads).output().unwrap();
            assert!(output.status.success(), "{}", stderr(&output));
            let second: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(first["digest"], second["digest"], "{} with {threads} threads", task[0]);
        }
    }
}

#[test]
fn an_interrupted_run_commits_says_so_and_goes_on_from_that_step() {
    let bench = Bench::new();
    let (task, store) = (TASKS[0], bench.path("interrupted"));
    let steps = ["--steps", "4000", "--commit-every", "7"];
    let child = bench.command(task, &store, &steps).spawn().unwrap();
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
    assert!((7..4000).contains(&step), "interrupted at step {step}");
    assert_eq!(committed_step(&store), Some(step));
}

#[test]
fn a_complete_run_says_so_and_is_continued_by_more_steps() {
    let bench = Bench::new();
    let (task, store) = (TASKS[1], bench.path("complete"));
    let first = bench.run(task, &store, &["--steps", "6"]);
    assert_eq!(first["complete"], true);
    let output = bench.command(task, &store, &["--steps", "6"]).output().unwrap();
    assert!(output.status.success());
    let told = stderr(&output);
    assert!(told.contains("holds the complete run") && told.contains("--steps 12"), "{told}");
    let again: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(again["digest"], first["digest"]);
    let more = bench.run(task, &store, &["--steps", "9"]);
    assert_eq!((&more["steps"], &more["continued_from_step"]), (&Value::from(9), &Value::from(6)));
}

#[test]
fn options_that_contradict_the_store_are_named() {
    let bench = Bench::new();
    for (task, options) in [
        (TASKS[0], &[("--dim", "16"), ("--buckets", "7"), ("--seed", "7"), ("--window", "2")][..]),
        (TASKS[2], &[("--model", "transe"), ("--lr", "0.5"), ("--held-out", "9"), ("--batch", "5")]),
    ] {
        let store = bench.path(task[0]);
        bench.run(task, &store, &["--steps", "2"]);
        for (option, value) in options {
            // An option that the small run gives already takes the later value.
            let kept: Vec<&str> = match task.iter().position(|given| given == option) {
                Some(at) => [&task[..at], &task[at + 2..]].concat(),
                None => task.to_vec(),
            };
            let output = bench.command(&kept, &store, &[option, value]).output().unwrap();
            assert_eq!(output.status.code(), Some(1), "{option} {value} was accepted");
            let told = stderr(&output);
            assert!(told.contains(option) && told.contains("--store"), "{option}: {told}");
        }
    }
    std::fs::write(bench.text(), "another text\n".repeat(400)).unwrap();
    let output = bench.command(TASKS[0], &bench.path(TASKS[0][0]), &[]).output().unwrap();
    assert!(stderr(&output).contains("other data"), "{}", stderr(&output));
}

#[test]
fn a_directory_with_other_files_is_refused_and_too_little_memory_says_what_would_do() {
    let bench = Bench::new();
    let other = bench.path("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("notes.txt"), "mine").unwrap();
    let output = bench.command(TASKS[1], &other, &["--steps", "1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("exists already"), "{}", stderr(&output));
    let store = bench.path("small");
    let output = bench.command(TASKS[2], &store, &["--memory", "1MiB"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("give at least"), "{}", stderr(&output));
    assert!(!store.exists());
}
