//! Every command of the README, as printed but for its directory, in the order of the README.

use super::{Place, run};

const README: &str = include_str!("../../../README.md");

#[test]
fn commands_of_the_readme_do_what_it_says() {
    let place = Place::new();
    let commands: Vec<_> = README.lines().filter_map(|l| l.strip_prefix("cargo run --release -- ")).collect();
    assert!(commands.len() >= 4, "{commands:?}");
    for command in commands {
        let command = command.replace("/tmp", &place.text(""));
        let arguments: Vec<_> = command.split_whitespace().collect();
        run(&arguments).expect(0);
    }
}

#[test]
fn the_command_line_is_what_cargo_run_starts_in_the_root() {
    let manifest = include_str!("../../../Cargo.toml");
    assert!(manifest.contains(r#"default-members = [".", "tools/cli"]"#));
    assert!(README.lines().any(|line| line == "cargo run --release -p train-lm"));
    assert!(README.lines().any(|line| line == "cargo test --workspace --locked"));
}
