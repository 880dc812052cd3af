//! The commands that the documents of this repository name, for tests of the programs that they start: each one is parsed by its
//! program, and those that a shell takes are run.

use std::path::{Path, PathBuf};

/// A command of a document.
#[derive(Debug, Clone)]
pub struct Command {
    /// Path of the document from the root of the repository.
    pub page: String,
    /// Number of the line.
    pub line: usize,
    /// Whether it stands in a block that a shell takes (```` ```sh ````).
    pub is_shell: bool,
    /// What follows the name of the program.
    pub arguments: Vec<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// All commands that start a program (`paramstore`, or a package in `tools`), in the order of the documents and their lines.
/// What stands in `[--brackets]` is left out in one and there in another, and of `A|B` there is one with each.
///
/// # Panics
/// If a document cannot be read.
#[must_use]
pub fn commands(program: &str) -> Vec<Command> {
    let mut pages = vec!["README.md".to_owned()];
    for folder in ["docs", "tools", "benches/record"] {
        walk(folder, &mut pages);
    }
    pages.iter().flat_map(|page| commands_of(page, program)).collect()
}

/// As [`commands`], of one document.
///
/// # Panics
/// If the document cannot be read.
#[must_use]
pub fn commands_of(page: &str, program: &str) -> Vec<Command> {
    let text = std::fs::read_to_string(root().join(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
    in_text(&text, page, program)
}

/// Holds each command that starts a program against what parses the program's command line; there have to be `least`.
///
/// # Panics
/// If one is not understood, with its place and what the parser says.
pub fn check<E: std::fmt::Display>(
    program: &str,
    least: usize,
    parse: impl Fn(Vec<String>) -> Result<(), E>,
) {
    let commands = commands(program);
    assert!(commands.len() >= least, "{program}: {commands:?}");
    for command in commands {
        let words = [program.to_owned()].into_iter().chain(command.arguments.iter().cloned());
        parse(words.collect()).unwrap_or_else(|error| panic!("{}: {error}", command.place()));
    }
}

impl Command {
    /// Where it stands: the document and the line.
    #[must_use]
    pub fn place(&self) -> String {
        format!("{}:{}", self.page, self.line)
    }

    /// The same with other values of the options that it has.
    #[must_use]
    pub fn replacing(mut self, values: &[(&str, &str)]) -> Self {
        for (option, value) in values {
            self.replace(option, value);
        }
        self
    }

    /// The same with these options, in place of those of their names.
    #[must_use]
    pub fn with(mut self, values: &[(&str, &str)]) -> Self {
        for (option, value) in values {
            if !self.replace(option, value) {
                self.arguments.extend([(*option).to_owned(), (*value).to_owned()]);
            }
        }
        self
    }

    /// Whether it has the option.
    fn replace(&mut self, option: &str, value: &str) -> bool {
        let at = self.arguments.iter().position(|argument| argument == option);
        let old = at.and_then(|at| self.arguments.get_mut(at + 1));
        old.map(|old| value.clone_into(old)).is_some()
    }
}

/// Markdown files below a folder, by name; not of what was built or downloaded.
fn walk(folder: &str, pages: &mut Vec<String>) {
    let entries = std::fs::read_dir(root().join(folder)).unwrap_or_else(|error| panic!("{folder}: {error}"));
    let mut names: Vec<_> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    for name in names {
        let path = format!("{folder}/{name}");
        if Path::new(&name).extension().is_some_and(|extension| extension == "md") {
            pages.push(path);
        } else if name != "target" && root().join(&path).is_dir() {
            walk(&path, pages);
        }
    }
}

fn in_text(text: &str, page: &str, program: &str) -> Vec<Command> {
    let mut found = Vec::new();
    let mut block = None;
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            block = if block.is_some() { None } else { Some(language) };
            continue;
        }
        if block.is_none() && !line.starts_with("    ") {
            continue;
        }
        let mut text = line.to_owned();
        while let Some(head) = text.strip_suffix('\\') {
            let next = lines.next().map_or("", |(_, next)| next.trim().trim_start_matches("$ "));
            text = format!("{head}{next}");
        }
        let Some(arguments) = arguments(&text, program) else { continue };
        let is_shell = block == Some("sh");
        for arguments in choices(arguments) {
            let arguments = split(&arguments);
            found.push(Command { page: page.to_owned(), line: number + 1, is_shell, arguments });
        }
    }
    found
}

/// What follows the name of the program in a line that starts it, up to a comment, a column of its output, or a pipe.
fn arguments<'l>(line: &'l str, program: &str) -> Option<&'l str> {
    let mut line = line.trim().trim_start_matches("$ ");
    for before in ["LC_ALL=C ", "/usr/bin/time -v "] {
        line = line.strip_prefix(before).unwrap_or(line);
    }
    let rest = if let Some(rest) = line.strip_prefix("cargo run --release") {
        match rest.strip_prefix(" -p ") {
            Some(rest) => {
                let rest =
                    rest.strip_prefix(program).filter(|rest| rest.is_empty() || rest.starts_with(' '))?;
                rest.strip_prefix(" --").unwrap_or("")
            }
            None => rest.strip_prefix(" --").filter(|_| program == "paramstore")?,
        }
    } else {
        line.strip_prefix("target/release/").unwrap_or(line).strip_prefix(program)?
    };
    if !rest.is_empty() && !rest.starts_with(' ') {
        return None;
    }
    let ends = [" #", " | ", "    "].into_iter().filter_map(|end| rest.find(end));
    rest.get(..ends.min().unwrap_or(rest.len()))
}

/// All that a line with `[--brackets]` and `A|B` stands for.
fn choices(line: &str) -> Vec<String> {
    if let Some((before, rest)) = line.split_once(" [--") {
        let end = rest.rfind(']').unwrap_or(rest.len());
        let (within, after) = (&rest[..end], rest.get(end + 1..).unwrap_or(""));
        let [without, with] = [format!("{before}{after}"), format!("{before} --{within}{after}")];
        return [without, with].iter().flat_map(|line| choices(line)).collect();
    }
    let quoted = |word: &&str| word.contains('\'') || word.contains('"');
    let word = line.split(' ').filter(|word| !quoted(word)).find(|word| word.contains('|'));
    let Some(word) = word else { return vec![line.to_owned()] };
    word.split('|').flat_map(|one| choices(&line.replacen(word, one, 1))).collect()
}

/// Words as a shell takes them, with quotes of either kind.
fn split(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for letter in line.chars() {
        match (letter, quote) {
            ('\'' | '"', None) => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (_, Some(open)) if open == letter => quote = None,
            (' ', None) => words.extend(word.take()),
            _ => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_found_in_blocks_and_nowhere_else() {
        let text = "\
paramstore in prose
```sh
cargo run --release -- import s 'a b.npy' --map '^a|b=>' \\
    --lr 1e-5
target/release/paramstore top s   # while it trains
cargo run --release -p train-lm -- --steps 2
```
```text
$ paramstore verify A|B [--threads 1 [--json]] | jq .
paramstores
  ok
```
    cargo run --release -p train-lm
    cargo run --release -p paramstore-xtask -- crash
";
        let found = in_text(text, "page", "paramstore");
        let lines: Vec<_> = found.iter().map(|command| command.arguments.join(",")).collect();
        assert_eq!(
            lines,
            [
                "import,s,a b.npy,--map,^a|b=>,--lr,1e-5",
                "top,s",
                "verify,A",
                "verify,B",
                "verify,A,--threads,1",
                "verify,B,--threads,1",
                "verify,A,--threads,1,--json",
                "verify,B,--threads,1,--json"
            ]
        );
        assert_eq!(found.iter().filter(|command| command.is_shell).count(), 2);
        assert_eq!([found[0].place(), found[2].place()], ["page:3", "page:9"]);
        let lines: Vec<_> =
            in_text(text, "page", "train-lm").into_iter().map(|command| command.arguments).collect();
        assert_eq!(lines, [vec!["--steps".to_owned(), "2".to_owned()], vec![]]);
    }

    #[test]
    fn options_get_other_values_and_are_added_only_when_told() {
        let command = Command {
            page: String::new(),
            line: 1,
            is_shell: false,
            arguments: split("bench --params 1B --json"),
        };
        let command = command
            .replacing(&[("--params", "1M"), ("--rows", "9")])
            .with(&[("--steps", "2"), ("--params", "2M")]);
        assert_eq!(command.arguments.join(" "), "bench --params 2M --json --steps 2");
    }

    #[test]
    fn the_documents_have_commands() {
        assert!(commands("paramstore").len() > 40 && commands("train-lm").len() > 5);
    }
}
