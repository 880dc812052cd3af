//! Every command of the README and of the guide that a shell takes, as printed but for `/tmp`, in their order, and those of
//! measurements in all documents at a small size.

use documents::Command;

use super::{Place, program, run};

/// What the reader of the guide has: weights in two formats, and two runs.
fn belongings(place: &Place) {
    let create = |store: &str, tensor: &str| {
        run(&[
            "create",
            &place.text(store),
            "--optimizer",
            "adamw",
            "--init",
            "normal:0.02",
            "--tensor",
            tensor,
        ])
        .expect(0);
    };
    for directory in ["runs", "tmp"] {
        std::fs::create_dir(place.path(directory)).unwrap();
    }
    create("runs/train-lm", "wte:f32:500x8");
    create("runs/pre", "wte:f32:500x8");
    create("pre", "wte:f32:500x8");
    create("STORE", "wte:f32:500x8");
    create("words", "words:f32:500x8");
    run(&["export", &place.text("words"), &place.text("glove.npy"), "--tensor", "words"]).expect(0);
    let tensors =
        ["--tensor", "model.embeddings.word:f32:500x8", "--tensor", "model.layer.0.weight:f32:64x8"];
    run(&[&["create", &place.text("model"), "--optimizer", "sgd"][..], &tensors].concat()).expect(0);
    run(&["export", &place.text("model"), &place.text("model.safetensors")]).expect(0);
}

/// Runs a command of a document where the reader's belongings are.
#[track_caller]
fn take(place: &Place, mut started: std::process::Command, command: &Command) {
    let arguments = command.arguments.iter().map(|argument| argument.replace("/tmp", &place.text("tmp")));
    let output = started.current_dir(place.path("")).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}: {}", command.place(), String::from_utf8_lossy(&output.stderr));
}

#[test]
fn commands_of_the_readme_and_the_guide_do_what_they_say() {
    for (page, least) in [("README.md", 20), ("docs/GUIDE.md", 20)] {
        let place = Place::new();
        belongings(&place);
        let commands = ["paramstore", "cp"].map(|program| {
            documents::commands_of(page, program).into_iter().map(move |command| (program, command))
        });
        let mut commands: Vec<_> =
            commands.into_iter().flatten().filter(|(_, command)| command.is_shell).collect();
        commands.sort_by_key(|(_, command)| command.line);
        assert!(commands.len() >= least, "{}", commands.len());
        for (name, mut command) in commands {
            // It goes on until it is told to end.
            if command.arguments[0] == "top" && !command.arguments.contains(&"--once".to_owned()) {
                command.arguments.push("--once".to_owned());
            }
            let started = if name == "paramstore" { program() } else { std::process::Command::new(name) };
            take(&place, started, &command);
        }
    }
}

/// Those of measurements, whose stores would fill a disk, with other sizes.
#[test]
fn commands_of_measurements_run_at_a_small_size() {
    let place = Place::new();
    belongings(&place);
    let sizes = [("--params", "300k"), ("--rows", "3k"), ("--batch", "256"), ("--memory", "8MiB")];
    let counts = [("--warm-up", "1"), ("--steps", "1"), ("--lookahead", "1")];
    let mut seen = Vec::new();
    for command in documents::commands("paramstore").into_iter().filter(|command| !command.is_shell) {
        let mut command = command.replacing(&[&sizes[..], &counts].concat());
        if command.arguments[0] == "bench" {
            command = command.with(&[("--dir", "/tmp")]);
        }
        // Sizes apart many are the same.
        if !seen.contains(&command.arguments) {
            take(&place, program(), &command);
            seen.push(command.arguments);
        }
    }
    assert!(seen.len() >= 10, "{seen:?}");
}

#[test]
fn the_command_line_is_what_cargo_run_starts_in_the_root() {
    let readme = include_str!("../../../README.md");
    let manifest = include_str!("../../../Cargo.toml");
    assert!(manifest.contains(r#"default-members = [".", "tools/cli"]"#));
    assert!(readme.lines().any(|line| line == "cargo run --release -p train-lm"));
    assert!(readme.lines().any(|line| line == "cargo test --workspace --locked"));
}
