//! Every command of the README and of the guide, as printed but for its directory, in their order.

use super::{Place, run};

const README: &str = include_str!("../../../README.md");
const GUIDE: &str = include_str!("../../../docs/GUIDE.md");

/// The commands in blocks that a shell takes; those that need what the reader has are in other blocks.
fn commands(page: &str) -> Vec<&str> {
    let blocks = page.split("```").skip(1).step_by(2).filter_map(|block| block.strip_prefix("sh\n"));
    blocks.flat_map(str::lines).filter_map(|line| line.strip_prefix("cargo run --release -- ")).collect()
}

#[test]
fn commands_of_the_readme_do_what_it_says() {
    for (page, least) in [(README, 20), (GUIDE, 7)] {
        let place = Place::new();
        let commands = commands(page);
        assert!(commands.len() >= least, "{commands:?}");
        for command in commands {
            let command = command.replace("/tmp", &place.text(""));
            let arguments: Vec<_> = command.split_whitespace().collect();
            run(&arguments).expect(0);
        }
    }
}

#[test]
fn the_command_line_is_what_cargo_run_starts_in_the_root() {
    let manifest = include_str!("../../../Cargo.toml");
    assert!(manifest.contains(r#"default-members = [".", "tools/cli"]"#));
    assert!(README.lines().any(|line| line == "cargo run --release -p train-lm"));
    assert!(README.lines().any(|line| line == "cargo test --workspace --locked"));
}
