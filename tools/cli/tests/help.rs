//! The help texts, kept as files so that a change of the command line shows in review.

use std::path::Path;

use super::run;

/// With `PARAMSTORE_UPDATE_HELP` set, the files are written instead of compared.
#[test]
fn help_is_what_the_files_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/help");
    for command in [
        "",
        "create",
        "inspect",
        "verify",
        "repair",
        "convert",
        "import",
        "export",
        "plan",
        "bench",
        "bench sweep",
        "bench rows",
        "checkpoint",
        "checkpoint keep",
        "checkpoint list",
        "checkpoint rollback",
        "checkpoint prune",
        "top",
        "report",
        "show",
        "diff",
        "completions",
        "man",
    ] {
        let name = if command.is_empty() { "paramstore".to_owned() } else { command.replace(' ', "-") };
        let arguments: Vec<_> = command.split_whitespace().chain(["--help"]).collect();
        let lines = run(&arguments).expect(0).stdout;
        let help: String = lines.lines().flat_map(|line| [line.trim_end(), "\n"]).collect();
        let file = folder.join(format!("{name}.txt"));
        if std::env::var_os("PARAMSTORE_UPDATE_HELP").is_some() {
            std::fs::write(&file, &help).unwrap();
        }
        let kept = std::fs::read_to_string(&file).unwrap();
        assert_eq!(
            help, kept,
            "help of `{name}`; run the test with PARAMSTORE_UPDATE_HELP=1 if this is meant"
        );
        assert!(help.lines().all(|line| line.chars().count() <= 120), "{name}");
    }
}

#[test]
fn every_command_has_json() {
    for command in [
        "create",
        "inspect",
        "verify",
        "repair",
        "convert",
        "import",
        "export",
        "plan",
        "bench sweep",
        "checkpoint keep",
        "checkpoint list",
        "checkpoint rollback",
        "checkpoint prune",
        "top",
        "report",
        "show",
        "diff",
    ] {
        let arguments: Vec<_> = command.split_whitespace().chain(["-h"]).collect();
        assert!(run(&arguments).expect(0).stdout.contains("--json"), "{command}");
    }
}
