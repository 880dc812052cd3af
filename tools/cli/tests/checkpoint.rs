//! `paramstore checkpoint`.

use std::path::Path;

use serde_json::Value;

use super::{Place, program, run, train};

fn digest(store: &str) -> String {
    run(&["inspect", store, "--digest", "--json"]).expect(0).json()["digest"].as_str().unwrap().to_owned()
}

fn names(store: &str) -> Vec<String> {
    let listed = run(&["checkpoint", "list", store, "--json"]).expect(0).json();
    let checkpoints = listed["checkpoints"].as_array().unwrap();
    checkpoints.iter().map(|checkpoint| checkpoint["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn keep_train_roll_back_and_train_again_is_the_same_as_the_first_time() {
    let place = Place::new();
    let store = place.trained("s", 2, &["--block-bytes", "4k"]);
    let at_two = digest(&store);
    let text = run(&["checkpoint", "keep", &store, "two"]).expect(0).stdout;
    for part in ["generation 3, step 2, to be kept as two", "  blocks ", "  metadata ", "  free ", "kept "] {
        assert!(text.contains(part), "{part}: {text}");
    }
    train(Path::new(&store), 3);
    let at_five = digest(&store);
    let back = run(&["checkpoint", "rollback", &store, "two", "--yes", "--json"]).expect(0);
    assert!(back.stderr.contains("lost      3 steps"), "{}", back.stderr);
    let back = back.json();
    assert_eq!((&back["rolled_back"]["step"], &back["rolled_back"]["steps_lost"]), (&2.into(), &3.into()));
    assert_eq!(back["estimate"]["bytes_to_copy"], back["rolled_back"]["bytes_copied"]);
    assert_eq!(digest(&store), at_two);
    train(Path::new(&store), 3);
    assert_eq!(digest(&store), at_five);
    run(&["verify", &store]).expect(0);
}

#[test]
fn a_checkpoint_is_read_by_every_command_and_refuses_to_be_written() {
    let place = Place::new();
    let store = place.trained("s", 1, &["--block-bytes", "4k"]);
    run(&["checkpoint", "keep", &store, "a.1"]).expect(0);
    let kept = format!("{store}/checkpoints/a.1");
    assert_eq!(digest(&kept), digest(&store));
    let shown = run(&["inspect", &kept, "--json"]).expect(0).json();
    assert_eq!(shown["features"], serde_json::json!(["sparse", "kept"]));
    run(&["verify", &kept]).expect(0);
    let options = paramstore::Options::new().memory_budget(16 << 20);
    let error = paramstore::ParamStore::open(&kept, &options).unwrap_err();
    assert!(matches!(error, paramstore::Error::Kept { .. }), "{error}");
    let text = run(&["inspect", &store]).expect(0).stdout;
    assert!(text.contains("\ncheckpoints\n") && text.contains("  a.1 "), "{text}");
    let shown = run(&["inspect", &store, "--json"]).expect(0).json();
    assert_eq!(
        (&shown["checkpoints"][0]["name"], &shown["checkpoints"][0]["step"]),
        (&"a.1".into(), &1.into())
    );
}

/// Everything below a directory: names and lengths.
fn tree(path: &Path) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        if entry.file_type().unwrap().is_dir() {
            found
                .extend(tree(&entry.path()).into_iter().map(|(below, len)| (format!("{name}/{below}"), len)));
        }
        found.push((name, entry.metadata().unwrap().len()));
    }
    found.sort();
    found
}

#[test]
fn dry_runs_say_what_it_would_take_and_change_nothing() {
    let place = Place::new();
    let store = place.trained("s", 2, &["--block-bytes", "4k"]);
    let before = tree(Path::new(&store));
    let seen = run(&["checkpoint", "keep", &store, "a", "--dry-run", "--json"]).expect(0).json();
    assert_eq!((&seen["kept"], &seen["estimate"]["fits"]), (&Value::Null, &true.into()));
    let bytes = |key: &str| seen["estimate"][key].as_u64().unwrap();
    assert!(bytes("bytes_to_copy") + bytes("bytes_to_share") >= 3 * 4 * 32_064);
    assert_eq!(tree(Path::new(&store)), before);
    run(&["checkpoint", "keep", &store, "a"]).expect(0);
    let before = tree(Path::new(&store));
    let rollback = run(&["checkpoint", "rollback", &store, "a", "--dry-run"]).expect(0).stdout;
    assert!(rollback.contains("from step 2 back to a, step 2"), "{rollback}");
    let prune = run(&["checkpoint", "prune", &store, "--keep-last", "0", "--dry-run"]).expect(0).stdout;
    assert!(
        prune.contains("  a: generation 3, step 2, ") && prune.contains("to remove: 1 checkpoint, "),
        "{prune}"
    );
    let refused = run(&["checkpoint", "rollback", &store, "a"]).expect(2);
    assert!(
        refused.stdout.contains("  lost ") && refused.stderr.contains("--yes is missing"),
        "{}",
        refused.stderr
    );
    assert_eq!(tree(Path::new(&store)), before);
}

#[test]
fn prune_takes_what_is_named_or_all_but_the_newest() {
    let place = Place::new();
    let store = place.trained("s", 1, &["--block-bytes", "4k"]);
    for name in ["d", "c", "b", "a"] {
        run(&["checkpoint", "keep", &store, name]).expect(0);
        train(Path::new(&store), 1);
    }
    assert_eq!(names(&store), ["d", "c", "b", "a"], "the oldest first");
    let seen = run(&["checkpoint", "prune", &store, "c", "c", "--json"]).expect(0).json();
    assert_eq!(seen["pruned"], serde_json::json!(["c"]));
    // An interrupted one, which counts for nothing and goes with them.
    let left = Path::new(&store).join("checkpoints/left");
    std::fs::create_dir(&left).unwrap();
    std::fs::write(left.join("meta.new"), "").unwrap();
    let text = run(&["checkpoint", "list", &store]).expect(0).stdout;
    assert!(text.contains("left ") && text.contains("interrupted; prune removes it"), "{text}");
    run(&["checkpoint", "prune", &store, "--keep-last", "2"]).expect(0);
    assert_eq!(names(&store), ["b", "a"]);
    run(&["checkpoint", "prune", &store, "--keep-last", "0"]).expect(0);
    assert!(run(&["checkpoint", "list", &store]).expect(0).stdout.contains("none"));
    run(&["verify", &store]).expect(0);
}

#[test]
fn keep_works_beside_a_writer_and_rollback_does_not() {
    let place = Place::new();
    let store = place.trained("s", 1, &["--block-bytes", "4k"]);
    let options = paramstore::Options::new().memory_budget(16 << 20).threads(1);
    let writer = paramstore::ParamStore::open(&store, &options).unwrap();
    run(&["checkpoint", "keep", &store, "a"]).expect(0);
    let ran = run(&["checkpoint", "rollback", &store, "a", "--yes"]).expect(3);
    assert!(ran.stderr.contains("locked by another writer"), "{}", ran.stderr);
    drop(writer);
    run(&["checkpoint", "rollback", &store, "a", "--yes"]).expect(0);
}

#[test]
fn wrong_names_and_what_is_not_there_are_told_with_a_next_step() {
    let place = Place::new();
    let store = place.trained("s", 1, &["--block-bytes", "4k"]);
    run(&["checkpoint", "keep", &store, "a"]).expect(0);
    for (arguments, status, expected) in [
        (&["keep", &store, "../a"][..], 2, "1 to 64 of A-Z a-z 0-9"),
        (&["keep", &store, "a"], 3, "hint: choose another name, or prune this one first"),
        (
            &["rollback", &store, "b", "--dry-run"],
            2,
            "no checkpoint is named \"b\"\nhint: `paramstore checkpoint list",
        ),
        (&["prune", &store, "b"], 2, "no checkpoint is named \"b\""),
        (&["list", &place.text("missing")], 3, "hint: check the path"),
    ] {
        let ran = run(&[&["checkpoint"], arguments].concat()).expect(status);
        assert!(ran.stderr.contains(expected), "{arguments:?}: {}", ran.stderr);
    }
    assert_eq!(names(&store), ["a"]);
    assert_eq!(program().args(["checkpoint", "keep", &store, "-x"]).output().unwrap().status.code(), Some(2));
}

/// A link below `checkpoints`, or in its place, leads nowhere.
#[cfg(unix)]
#[test]
fn links_are_not_followed() {
    let place = Place::new();
    let store = place.trained("s", 1, &["--block-bytes", "4k"]);
    let outside = place.path("outside");
    std::fs::create_dir(&outside).unwrap();
    let checkpoints = Path::new(&store).join("checkpoints");
    std::os::unix::fs::symlink(&outside, &checkpoints).unwrap();
    let ran = run(&["checkpoint", "keep", &store, "a"]).expect(3);
    assert!(ran.stderr.contains("symbolic link"), "{}", ran.stderr);
    std::fs::remove_file(&checkpoints).unwrap();
    run(&["checkpoint", "keep", &store, "a"]).expect(0);
    std::fs::write(outside.join("meta.new"), "").unwrap();
    std::os::unix::fs::symlink(&outside, checkpoints.join("b")).unwrap();
    for command in ["keep", "prune"] {
        assert!(run(&["checkpoint", command, &store, "b"]).stderr.contains("error: "));
    }
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1, "nothing was made or removed there");
    assert_eq!(names(&store), ["a"]);
}
