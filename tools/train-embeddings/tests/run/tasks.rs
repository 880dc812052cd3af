//! What each task learns from little data.

use crate::bench::{Bench, TASKS};

fn score(report: &serde_json::Value, name: &str) -> f64 {
    report["scores"][name].as_f64().unwrap_or_else(|| panic!("{name} in {report}"))
}

#[test]
fn words_that_stand_together_are_predicted_better_than_by_their_frequency() {
    let bench = Bench::new();
    // Pairs of words that stand together and with no others.
    let line = |i: usize| format!("a{0} b{0} a{0} b{0}\n", i * i % 60);
    std::fs::write(bench.text(), (0..6000).map(line).collect::<String>()).unwrap();
    for (task, more) in
        [(TASKS[0], &["--epochs", "30", "--lr", "0.03"]), (TASKS[1], &["--epochs", "200", "--lr", "0.2"])]
    {
        let report = bench.run(task, &bench.path(task[0]), more);
        let (found, frequency) = (score(&report, "context_mrr"), score(&report, "frequency_mrr"));
        assert!(found > 0.3 && found > 3.0 * frequency, "{}: {found}, by frequency {frequency}", task[0]);
    }
}

#[test]
fn a_graph_that_has_a_rule_is_completed_by_it() {
    let bench = Bench::new();
    // Two relations that hold for the same pairs: one gives away the other.
    let fact = |i: usize| {
        let other = (i * 7 + 11) % 400;
        format!("e{i}\tnear\te{other}\ne{i}\tbeside\te{other}\n")
    };
    let text: String = (0..400).map(fact).collect();
    std::fs::write(bench.triples(), text).unwrap();
    for (model, least) in [("complex", 0.5), ("distmult", 0.5), ("transe", 0.2)] {
        let more = ["--epochs", "60", "--model", model, "--dim", "32"];
        let task = ["knowledge-graph", "--batch", "16", "--negatives", "64", "--min-degree", "1"];
        let report = bench.run(&task, &bench.path(model), &more);
        let found = score(&report, "test_mrr");
        assert!(found > least, "{model}: {found}");
        assert!(score(&report, "test_hits_10") >= score(&report, "test_hits_1"));
    }
}

#[test]
fn wordnet_is_read_from_its_directory() {
    let bench = Bench::new();
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/wordnet");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_train-embeddings"));
    command.args(["knowledge-graph", "--wordnet", sample, "--min-degree", "1", "--dim", "8", "--steps", "3"]);
    let output = command.arg("--json").arg("--store").arg(bench.path("wordnet")).output().unwrap();
    assert!(output.status.success(), "{}", crate::bench::stderr(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(score(&report, "test_mrr") > 0.0);
}

#[test]
fn a_table_far_larger_than_memory_costs_what_is_touched() {
    let bench = Bench::new();
    let task = ["skip-gram", "--dim", "8", "--batch", "128", "--params", "200M", "--min-count", "2"];
    let store = bench.path("large");
    let report = bench.run(&task, &store, &["--steps", "4"]);
    assert!(report["params"].as_u64().unwrap().abs_diff(200_000_000) < 100_000);
    let (state, memory) = (report["state_bytes"].as_u64().unwrap(), report["memory_bytes"].as_u64().unwrap());
    assert!(state > 50 * memory, "{state} of state, {memory} of memory");
    if let Some(peak) = report["peak_rss_bytes"].as_u64() {
        assert!(peak < memory + (128 << 20), "peak {peak}");
    }
}
