//! Every command of the README and of the guide that a shell takes, as printed but for `/tmp`, in their order. All others of all
//! documents are parsed, each by its program (`documents`).

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
    create("words", "words:f32:500x8");
    run(&["export", &place.text("words"), &place.text("glove.npy"), "--tensor", "words"]).expect(0);
    let tensors =
        ["--tensor", "model.embeddings.word:f32:500x8", "--tensor", "model.layer.0.weight:f32:64x8"];
    run(&[&["create", &place.text("model"), "--optimizer", "sgd"][..], &tensors].concat()).expect(0);
    run(&["export", &place.text("model"), &place.text("model.safetensors")]).expect(0);
}

#[test]
fn commands_of_the_readme_and_the_guide_do_what_they_say() {
    for (page, least) in [("README.md", 20), ("docs/GUIDE.md", 18)] {
        let place = Place::new();
        belongings(&place);
        let commands = documents::commands_of(page, "paramstore");
        let commands: Vec<_> = commands.into_iter().filter(|command| command.is_shell).collect();
        assert!(commands.len() >= least, "{}", commands.len());
        for mut command in commands {
            // It goes on until it is told to end.
            if command.arguments[0] == "top" && !command.arguments.contains(&"--once".to_owned()) {
                command.arguments.push("--once".to_owned());
            }
            let arguments =
                command.arguments.iter().map(|argument| argument.replace("/tmp", &place.text("tmp")));
            let output = program().current_dir(place.path("")).args(arguments).output().unwrap();
            assert!(
                output.status.success(),
                "{}: {}",
                command.place,
                String::from_utf8_lossy(&output.stderr)
            );
        }
    }
}

#[test]
fn the_command_line_is_what_cargo_run_starts_in_the_root() {
    let readme = include_str!("../../../README.md");
    let manifest = include_str!("../../../Cargo.toml");
    assert!(manifest.contains(r#"default-members = [".", "tools/cli"]"#));
    assert!(readme.lines().any(|line| line == "cargo run --release -p train-lm"));
    assert!(readme.lines().any(|line| line == "cargo test --workspace --locked"));
}
