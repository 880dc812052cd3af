//! Whether every function that a user can call shows how: by an example of its own, or by a link to one that calls it.

use std::collections::HashMap;

use crate::code::is_name;
use crate::rules::room_of;

/// Rooms that are public for the tools of this repository only.
const HIDDEN: [&str; 2] = ["simulation", "fuzzing"];

/// A public function: where it stands, whose it is (empty: nobody's), and its doc comment.
struct Function {
    place: String,
    owner: String,
    name: String,
    docs: String,
}

/// Public functions, and the doc comments of public types and of modules by name.
#[derive(Default)]
struct Found {
    functions: Vec<Function>,
    docs: HashMap<String, String>,
}

/// Public functions without an example, out of all files (path and text). A link to an example ends in `#example`, and
/// the example under that heading, of a type or a module, names the function.
pub(crate) fn missing(files: &[(String, String)]) -> Vec<String> {
    let mut found = Found::default();
    for (path, text) in files {
        if room_of(path).is_some_and(|room| !HIDDEN.contains(&room)) {
            found.read(path, text);
        }
    }
    let lacks = |function: &&Function| !found.has_example(function);
    let told = |Function { place, name, .. }: &Function| {
        format!("{place}: fn {name} has no example that asserts something, and no link to one that calls it")
    };
    found.functions.iter().filter(lacks).map(told).collect()
}

impl Found {
    fn read(&mut self, path: &str, text: &str) {
        let stem = path.trim_end_matches(".rs").trim_end_matches("/mod");
        let module = stem.rsplit('/').next().unwrap_or_default();
        let inner: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("//!")).map(str::trim).collect();
        self.docs.insert(module.to_owned(), inner.join("\n"));
        let (mut docs, mut owner) = (String::new(), String::new());
        for (number, line) in (1..).zip(text.lines()) {
            if line.starts_with("impl") {
                owner = owner_of(line);
            } else if line == "}" {
                owner.clear();
            }
            let line = line.trim();
            if let Some(doc) = line.strip_prefix("///") {
                docs.push_str(doc.trim());
                docs.push('\n');
            } else if !line.starts_with("#[") {
                let docs = std::mem::take(&mut docs);
                if let Some(name) = named(line, &["pub fn ", "pub const fn "]) {
                    let place = format!("{path}:{number}");
                    self.functions.push(Function { place, owner: owner.clone(), name, docs });
                } else if let Some(name) = named(line, &["pub struct ", "pub enum "]) {
                    self.docs.insert(name, docs);
                }
            }
        }
    }

    fn has_example(&self, function: &Function) -> bool {
        if example(&function.docs).contains("assert") {
            return true;
        }
        let Some((before, _)) = function.docs.split_once("#example)") else { return false };
        let link = before.rsplit('(').next().unwrap_or_default();
        let target = link.rsplit("::").next().unwrap_or_default();
        let target = if target == "Self" { &function.owner } else { target };
        let elsewhere = self.docs.get(target).and_then(|docs| docs.split_once("# Example\n"));
        elsewhere.is_some_and(|(_, docs)| calls(&example(docs), &function.name))
    }
}

/// Whose functions an `impl` holds.
fn owner_of(line: &str) -> String {
    let after = line.trim_start_matches("impl");
    let after = if after.starts_with('<') { after.split_once("> ").map_or("", |cut| cut.1) } else { after };
    after.trim_start().chars().take_while(|&c| is_name(c)).collect()
}

/// The name of an item that begins so.
fn named(line: &str, beginnings: &[&str]) -> Option<String> {
    let after = beginnings.iter().find_map(|beginning| line.strip_prefix(beginning))?;
    Some(after.chars().take_while(|&c| is_name(c)).collect())
}

/// The lines of a doc comment that are compiled and run.
fn example(docs: &str) -> String {
    let (mut code, mut fence) = (String::new(), None);
    for line in docs.lines() {
        match (line.strip_prefix("```"), fence) {
            (Some(kind), None) => fence = Some(kind),
            (Some(_), Some(_)) => fence = None,
            (None, Some("")) => code.extend([line, "\n"]),
            (None, _) => {}
        }
    }
    code
}

/// Whether code calls, or hands on, a function of this name.
fn calls(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + name.len()..].chars().next();
        matches!(before, Some(c) if !is_name(c)) && after == Some('(')
    })
}
