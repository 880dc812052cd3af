//! The rules, each a function from a file's text to what is wrong with it.

use crate::code::{functions, is_name, line_of, matching, without_tests, without_text, words};

/// The rooms of `src`, floor by floor, and what each may import. `docs/ARCHITECTURE.md` shows these very lines.
pub(crate) const FLOORS: &str = "\
11 lib            any room
11 simulation     error units checkpoint format initial inspect kernel layout optim options pager param_store precision repair schema step storage store update
11 fuzzing        any room
10 repair         error format inspect layout storage store units
9  checkpoint     error units format pager param_store rows storage store
9  convert        error units format layout options param_store precision schema
9  exchange       error units format kernel layout optim options pager param_store precision schema storage
9  step           error units format kernel layout optim options pager param_store precision update
9  inspect        error units format layout optim options pager param_store rows schema storage store
8  param_store    error units format initial kernel layout optim options pager precision rows schema storage store telemetry update
7  options        error kernel pager storage store
7  telemetry      error units format pager storage store
7  update         error units format kernel layout optim pager precision rows storage
6  rows           error units splitmix radix format initial layout pager storage store
5  pager          error units format initial kernel layout precision storage store
4  store          error units format layout storage
4  schema         error units format layout optim precision
3  initial        units splitmix format
3  layout         error units radix format
3  optim          error kernel
3  precision      units format kernel
2  format         units
2  kernel         splitmix
2  radix          units
2  storage        error
1  error          -
1  splitmix       -
1  units          -
";

/// Outside crates, and the only places that may name them.
pub(crate) const OWNERS: &[(&str, &[&str])] = &[
    ("blake3", &["src/inspect/digest.rs"]),
    ("bytemuck", &["src/format/elements.rs", "src/kernel/arch/codes.rs"]),
    ("crc32fast", &["src/format/checksum.rs"]),
    ("io_uring", &["src/storage/real/ring.rs"]),
    ("libm", &["src/initial.rs", "src/optim/"]),
    ("memmap2", &["src/storage/"]),
    ("miniz_oxide", &["src/exchange/"]),
    ("rayon", &["src/update/", "src/step/", "src/param_store/"]),
    ("rustix", &["src/storage/"]),
    ("serde", &["src/exchange/"]),
    ("serde_json", &["src/exchange/"]),
];

/// Where `unsafe` may stand.
pub(crate) const UNSAFE_ROOMS: &[&str] =
    &["src/kernel/arch/x86_64.rs", "src/storage/mapped.rs", "src/storage/real/ring.rs"];

pub(crate) const FILE_LINES_MAX: usize = 600;
pub(crate) const FUNCTION_LINES_MAX: usize = 70;

/// Files and functions that may be longer: file, function (or empty for the file itself), reason.
pub(crate) const LONGER: &[(&str, &str, &str)] = &[];

/// One room of the table.
pub(crate) struct Room<'a> {
    pub(crate) floor: u32,
    pub(crate) name: &'a str,
    /// `None`: any room.
    pub(crate) imports: Option<Vec<&'a str>>,
}

pub(crate) fn rooms(table: &str) -> Vec<Room<'_>> {
    table
        .lines()
        .map(|line| {
            let mut fields = line.split_whitespace();
            let floor = fields.next().and_then(|floor| floor.parse().ok()).expect("a floor");
            let name = fields.next().expect("a room");
            let rest: Vec<_> = fields.filter(|&field| field != "-").collect();
            Room { floor, name, imports: (rest != ["any", "room"]).then_some(rest) }
        })
        .collect()
}

/// Whether the table itself keeps to the floors.
pub(crate) fn climbing_permissions(table: &str) -> Vec<String> {
    let rooms = rooms(table);
    let floor_of = |name: &str| rooms.iter().find(|room| room.name == name).map(|room| room.floor);
    let mut wrong = Vec::new();
    for room in &rooms {
        for import in room.imports.iter().flatten() {
            if floor_of(import).is_none_or(|floor| floor >= room.floor) {
                wrong.push(format!("{} may not be allowed to import {import}", room.name));
            }
        }
    }
    wrong
}

/// The room of a file, or `None` for files that are tests.
pub(crate) fn room_of(path: &str) -> Option<&str> {
    let inside = path.strip_prefix("src/")?;
    if inside.split('/').any(|part| part == "tests" || part == "tests.rs") {
        return None;
    }
    inside.split('/').next().map(|first| first.strip_suffix(".rs").unwrap_or(first))
}

/// Code that ships: no comments, no text, no tests.
fn shipped(source: &str) -> String {
    without_tests(&without_text(source))
}

/// Imports that the table of floors does not allow.
pub(crate) fn imports(path: &str, source: &str, table: &str) -> Vec<String> {
    let Some(name) = room_of(path) else { return Vec::new() };
    let rooms = rooms(table);
    let Some(room) = rooms.iter().find(|room| room.name == name) else {
        return vec![format!("{path}: room {name} has no floor")];
    };
    let Some(allowed) = &room.imports else { return Vec::new() };
    let code = shipped(source);
    let mut wrong = Vec::new();
    for (at, import) in from_root(path, &code) {
        if import == name || allowed.contains(&import.as_str()) {
            continue;
        }
        let line = line_of(&code, at);
        wrong.push(format!("{path}:{line}: {name} imports {import}, which is not below it"));
    }
    wrong
}

/// First segments of paths that begin at the crate's root, by `crate::` or by enough `super::`.
fn from_root(path: &str, code: &str) -> Vec<(usize, String)> {
    let inside = path.strip_prefix("src/").unwrap_or(path);
    let parts = inside.split('/').count();
    let is_mod = inside.ends_with("/mod.rs");
    // How many modules deep the file's own module is.
    let depth = parts - usize::from(is_mod);
    let mut found = Vec::new();
    let mut supers = 0;
    let mut after_super = 0;
    for (at, word) in words(code) {
        let behind = at + word.len();
        let is_path = code[behind..].trim_start().starts_with("::");
        if word == "super" && is_path {
            supers = if supers > 0 && code[after_super..at].trim() == "::" { supers + 1 } else { 1 };
            after_super = behind;
            if supers < depth {
                continue;
            }
        } else if word != "crate" || !is_path {
            continue;
        }
        let rest = code[behind..].trim_start()[2..].trim_start();
        let start = code.len() - code[behind..].len();
        if let Some(group) = rest.strip_prefix('{') {
            let group = &group[..matching(rest) - 2];
            found.extend(first_names(group).into_iter().map(|name| (start, name)));
        } else {
            found.push((start, rest.chars().take_while(|&c| is_name(c)).collect()));
        }
    }
    // A longer chain of `super` ends in the word itself.
    found.retain(|(_, name)| name != "super");
    found
}

/// The first name of each member of a group of imports.
fn first_names(group: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut depth = 0;
    let mut start = true;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => start = true,
            c if is_name(c) && start => {
                names.push(group[at..].chars().take_while(|&c| is_name(c)).collect());
                start = false;
            }
            _ => {}
        }
    }
    names
}

/// Outside crates named by others than their owners.
pub(crate) fn owners(path: &str, source: &str) -> Vec<String> {
    if room_of(path).is_none() {
        return Vec::new();
    }
    let code = shipped(source);
    let mut wrong = Vec::new();
    for (at, word) in words(&code) {
        let Some((name, places)) = OWNERS.iter().find(|(name, _)| *name == word) else { continue };
        if !places.iter().any(|place| path.starts_with(place)) {
            let line = line_of(&code, at);
            wrong.push(format!("{path}:{line}: {name} belongs to {}", places.join(" and ")));
        }
    }
    wrong
}

/// Files and the environment outside `storage`.
pub(crate) fn operating_system(path: &str, source: &str) -> Vec<String> {
    if room_of(path).is_none_or(|room| room == "storage") {
        return Vec::new();
    }
    let code = shipped(source);
    let mut wrong = Vec::new();
    for (at, word) in words(&code) {
        let rest = code[at + word.len()..].trim_start();
        let Some(rest) = rest.strip_prefix("::").filter(|_| word == "std") else { continue };
        let rest = rest.trim_start();
        let names = match rest.strip_prefix('{') {
            Some(group) => first_names(&group[..matching(rest) - 2]),
            None => vec![rest.chars().take_while(|&c| is_name(c)).collect()],
        };
        for name in names.iter().filter(|name| matches!(name.as_str(), "env" | "fs" | "net")) {
            wrong.push(format!("{path}:{}: std::{name} belongs to storage", line_of(&code, at)));
        }
    }
    wrong
}

/// Output to a terminal from the library.
pub(crate) fn printing(path: &str, source: &str) -> Vec<String> {
    if room_of(path).is_none() {
        return Vec::new();
    }
    let code = shipped(source);
    let is_macro = |at: usize, word: &str| code[at + word.len()..].starts_with('!');
    words(&code)
        .filter(|&(at, word)| {
            matches!(word, "print" | "println" | "eprint" | "eprintln" | "dbg") && is_macro(at, word)
        })
        .map(|(at, word)| format!("{path}:{}: the library does not speak ({word}!)", line_of(&code, at)))
        .collect()
}

/// How many times `unsafe` stands in a file's code, tests included.
pub(crate) fn unsafe_count(source: &str) -> usize {
    words(&without_text(source)).filter(|(_, word)| *word == "unsafe").count()
}

/// `unsafe` outside its rooms.
pub(crate) fn unsafe_rooms(path: &str, source: &str) -> Vec<String> {
    let count = unsafe_count(source);
    if count == 0 || UNSAFE_ROOMS.contains(&path) {
        return Vec::new();
    }
    vec![format!("{path}: unsafe ({count}) outside {}", UNSAFE_ROOMS.join(" and "))]
}

/// Differences between the ledger's table (`| file | count |`) and what the files hold.
pub(crate) fn ledger(text: &str, counts: &[(String, usize)]) -> Vec<String> {
    let cells = |line: &str| -> Option<(String, usize)> {
        let mut cells = line.trim().strip_prefix('|')?.split('|').map(str::trim);
        let file = cells.next()?.trim_matches('`').to_owned();
        file.starts_with("src/").then_some((file, cells.next()?.parse().ok()?))
    };
    let listed: Vec<_> = text.lines().filter_map(cells).collect();
    let mut wrong = Vec::new();
    for (file, count) in counts.iter().filter(|(_, count)| *count > 0) {
        if !listed.contains(&(file.clone(), *count)) {
            wrong.push(format!("docs/SAFETY.md does not list {file} with {count}"));
        }
    }
    for (file, count) in listed {
        if !counts.contains(&(file.clone(), count)) {
            wrong.push(format!("docs/SAFETY.md lists {file} with {count}, which is not so"));
        }
    }
    wrong
}

/// Files and functions that are too long.
pub(crate) fn sizes(path: &str, source: &str) -> Vec<String> {
    let excused = |function: &str| LONGER.iter().any(|(file, name, _)| *file == path && *name == function);
    let mut wrong = Vec::new();
    let lines = source.lines().count();
    if lines > FILE_LINES_MAX && !excused("") {
        wrong.push(format!("{path}: {lines} lines, at most {FILE_LINES_MAX}"));
    }
    for (name, line, lines) in functions(&without_text(source)) {
        if lines > FUNCTION_LINES_MAX && !excused(&name) {
            wrong.push(format!("{path}:{line}: fn {name} has {lines} lines, at most {FUNCTION_LINES_MAX}"));
        }
    }
    wrong
}

/// Marks of unfinished work.
pub(crate) fn marks(path: &str, source: &str) -> Vec<String> {
    // Put together here, so that this file does not find itself.
    let marks = [concat!("FIX", "ME"), concat!("TO", "DO"), concat!("XX", "X"), concat!("HA", "CK")];
    words(source)
        .filter(|(_, word)| marks.contains(word))
        .map(|(at, word)| format!("{path}:{}: {word} is left", line_of(source, at)))
        .collect()
}

/// Characters beyond ASCII: they hide in review, and look different on another terminal.
pub(crate) fn ascii(path: &str, source: &str) -> Vec<String> {
    source
        .char_indices()
        .filter(|(_, c)| !c.is_ascii())
        .map(|(at, c)| format!("{path}:{}: {c:?} is not ASCII", line_of(source, at)))
        .collect()
}
