//! The house as a test: who may import whom, where `unsafe` may live, who owns which outside crate, how long a
//! function may be. `docs/ARCHITECTURE.md` is this in prose. Each rule is shown a sample that breaks it.

mod code;
mod examples;
mod rules;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rules::FLOORS;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Rust files below a folder: path from the root, and text.
fn files(folder: &str) -> Vec<(String, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        let mut entries: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join(folder), &mut found);
    assert!(!found.is_empty(), "no Rust files in {folder}");
    let named = |path: &PathBuf| {
        let name = path.strip_prefix(root()).unwrap().to_str().unwrap().replace('\\', "/");
        let text = std::fs::read_to_string(path).unwrap();
        (name, text)
    };
    found.iter().map(named).collect()
}

/// Runs a rule over folders; everything that is wrong is told at once.
fn check(folders: &[&str], rule: impl Fn(&str, &str) -> Vec<String>) {
    let wrong: Vec<_> =
        folders.iter().flat_map(|folder| files(folder)).flat_map(|(path, text)| rule(&path, &text)).collect();
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn imports_go_down_only() {
    assert_eq!(rules::climbing_permissions(FLOORS), [""; 0]);
    check(&["src"], |path, text| rules::imports(path, text, FLOORS));
}

#[test]
fn every_room_has_its_floor_and_every_floor_its_room() {
    let in_table: BTreeSet<_> = rules::rooms(FLOORS).iter().map(|room| room.name.to_owned()).collect();
    let files = files("src");
    let in_tree: BTreeSet<_> = files.iter().filter_map(|(path, _)| rules::room_of(path)).collect();
    assert_eq!(in_table.iter().map(String::as_str).collect::<BTreeSet<_>>(), in_tree);
}

#[test]
fn the_architecture_shows_the_floors_of_this_test_in_under_200_lines() {
    let text = read("docs/ARCHITECTURE.md");
    assert!(
        text.contains(&format!("```\n{FLOORS}```")),
        "put these lines into docs/ARCHITECTURE.md:\n{FLOORS}"
    );
    assert!(text.lines().count() < 200, "{} lines", text.lines().count());
}

#[test]
fn unsafe_stands_in_its_two_rooms_and_the_ledger_counts_it() {
    check(&["src"], rules::unsafe_rooms);
    let counts: Vec<_> =
        files("src").into_iter().map(|(path, text)| (path, rules::unsafe_count(&text))).collect();
    assert_eq!(rules::ledger(&read("docs/SAFETY.md"), &counts), [""; 0]);
}

#[test]
fn outside_crates_are_named_by_their_owners_only() {
    check(&["src"], rules::owners);
}

#[test]
fn every_dependency_of_the_library_has_an_owner() {
    let manifest = read("Cargo.toml");
    let tables = ["\n[dependencies]\n", "\n[target.'cfg(target_os = \"linux\")'.dependencies]\n"];
    let sections = tables.map(|table| manifest.split(table).nth(1).unwrap().split("\n[").next().unwrap());
    let lines = sections.iter().flat_map(|section| section.lines());
    let names = lines.filter_map(|line| line.split_once(" = ")).map(|(name, _)| name.replace('-', "_"));
    let mut names: Vec<_> = names.collect();
    names.sort_unstable();
    let owned: Vec<_> = rules::OWNERS.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, owned);
}

#[test]
fn files_and_the_environment_belong_to_storage() {
    check(&["src"], rules::operating_system);
}

#[test]
fn the_library_does_not_print() {
    check(&["src"], rules::printing);
}

#[test]
fn files_and_functions_stay_short() {
    check(&["src"], rules::sizes);
    for (file, _, reason) in rules::LONGER {
        assert!(root().join(file).exists() && !reason.is_empty(), "{file}");
    }
}

#[test]
fn every_public_function_has_an_example_or_a_link_to_one_that_calls_it() {
    let missing = examples::missing(&files("src"));
    assert!(missing.is_empty(), "\n{}\n", missing.join("\n"));
}

#[test]
fn nothing_unfinished_is_left() {
    check(&["src", "tests", "benches", "tools", "docs/examples"], rules::marks);
}

#[test]
fn source_is_ascii() {
    check(&["src", "tests", "benches"], rules::ascii);
}

/// What the guide says that errors say is said somewhere.
#[test]
fn the_guide_explains_errors_that_there_are() {
    let guide = read("docs/GUIDE.md");
    let (_, table) = guide.split_once("## What to do after each error message").unwrap();
    let said: Vec<_> = table.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`')).collect();
    assert!(said.len() >= 15, "{said:?}");
    let mut source: String = files("src").into_iter().map(|(_, text)| text).collect();
    // As the compiler reads a string that goes on in the next line.
    while let Some(at) = source.find("\\\n") {
        let rest = source[at + 2..].trim_start().len();
        source.replace_range(at..source.len() - rest, "");
    }
    for (message, _) in said {
        for part in message.split("...") {
            assert!(source.contains(part.trim()), "no error says {message:?}");
        }
    }
}

/// Samples that break a rule, beside some that look like it and do not.
mod samples {
    use crate::{code, examples, rules};

    const TABLE: &str = "3  lib  any room\n2  high  low\n2  other  -\n1  low  -\n";

    #[test]
    fn an_import_that_climbs_is_found_in_every_form() {
        for climbing in [
            "use crate::high::Thing;",
            "use crate::{low::A, high::B};",
            "fn f() { crate::high::f(); }",
            "use super::high::Thing;",
            "pub use crate::Thing;",
        ] {
            let wrong = rules::imports("src/low.rs", climbing, TABLE);
            assert_eq!(wrong.len(), 1, "{climbing}: {wrong:?}");
        }
        assert_eq!(rules::imports("src/low/part.rs", "use super::super::high::X;", TABLE).len(), 1);
        assert_eq!(rules::imports("src/low/mod.rs", "\nuse super::high::X;", TABLE).len(), 1);
        assert!(rules::imports("src/other.rs", "use crate::high::X;", TABLE)[0].contains("other.rs:1"));
    }

    #[test]
    fn an_import_that_goes_down_or_stays_is_none_of_it() {
        for fine in [
            "use crate::low::{Thing, Other};",
            "use crate::high::part::X;",
            "// use crate::other::X;",
            "const A: &str = \"crate::other::X\";",
            "#[cfg(test)]\nmod tests { use crate::other::X; }",
        ] {
            assert_eq!(rules::imports("src/high/mod.rs", fine, TABLE), [""; 0], "{fine}");
        }
        assert_eq!(rules::imports("src/high/part.rs", "use super::other::X;", TABLE), [""; 0]);
        assert_eq!(rules::imports("src/tests/any.rs", "use crate::other::X;", TABLE), [""; 0]);
        assert_eq!(rules::imports("src/lib.rs", "use crate::high::X;", TABLE), [""; 0]);
    }

    #[test]
    fn a_room_without_a_floor_and_a_table_that_climbs_are_found() {
        assert_eq!(rules::imports("src/attic.rs", "", TABLE).len(), 1);
        assert_eq!(rules::climbing_permissions("1  low  high\n2  high  -\n").len(), 1);
        assert_eq!(rules::climbing_permissions("2  a  b\n2  b  -\n").len(), 1);
    }

    #[test]
    fn unsafe_outside_its_rooms_is_found_and_the_word_in_a_comment_is_not() {
        assert_eq!(rules::unsafe_rooms("src/pager/mod.rs", "fn f() { unsafe { g() } }").len(), 1);
        let talk = "// unsafe\n#![expect(unsafe_code, reason = \"unsafe\")]";
        assert_eq!(rules::unsafe_rooms("src/pager/mod.rs", talk), [""; 0]);
        assert_eq!(rules::unsafe_rooms("src/storage/mapped.rs", "unsafe { g() }"), [""; 0]);
    }

    #[test]
    fn a_ledger_that_fell_behind_is_found() {
        let counts = [("src/a.rs".to_owned(), 2), ("src/b.rs".to_owned(), 0)];
        assert_eq!(rules::ledger("| `src/a.rs` | 2 | why |", &counts), [""; 0]);
        assert_eq!(rules::ledger("", &counts).len(), 1);
        assert_eq!(rules::ledger("| `src/a.rs` | 1 |", &counts).len(), 2);
        assert_eq!(rules::ledger("| `src/a.rs` | 2 |\n| `src/gone.rs` | 1 |", &counts).len(), 1);
    }

    #[test]
    fn a_crate_named_outside_its_owner_is_found() {
        assert_eq!(rules::owners("src/pager/mod.rs", "use rayon::prelude::*;").len(), 1);
        assert_eq!(rules::owners("src/format/page.rs", "crc32fast::hash(b)").len(), 1);
        assert_eq!(rules::owners("src/step/update.rs", "use rayon::prelude::*;"), [""; 0]);
        assert_eq!(rules::owners("src/pager/mod.rs", "// as rayon does"), [""; 0]);
    }

    #[test]
    fn files_and_environment_outside_storage_are_found() {
        for bad in ["std::fs::read(p)", "use std::{env, io};", "use std::env;", "std::net::TcpStream"] {
            assert_eq!(rules::operating_system("src/pager/mod.rs", bad).len(), 1, "{bad}");
        }
        for fine in ["use std::path::Path;", "env!(\"CARGO\")", "use std::{io, fmt};"] {
            assert_eq!(rules::operating_system("src/pager/mod.rs", fine), [""; 0], "{fine}");
        }
        assert_eq!(rules::operating_system("src/storage/real.rs", "std::fs::read(p)"), [""; 0]);
    }

    #[test]
    fn printing_is_found_and_words_like_it_are_not() {
        for bad in ["println!(\"x\")", "eprint!(\"x\")", "dbg!(x)"] {
            assert_eq!(rules::printing("src/step/mod.rs", bad).len(), 1, "{bad}");
        }
        assert_eq!(rules::printing("src/step/mod.rs", "/// println!(\"x\")\nfn print() {}"), [""; 0]);
    }

    #[test]
    fn a_long_file_and_a_long_function_are_found() {
        let long = "\n".repeat(601);
        assert_eq!(rules::sizes("src/a.rs", &long).len(), 1);
        let function =
            |lines: usize| format!("impl A {{\n    fn b(&self) {{\n{}    }}\n}}\n", "x;\n".repeat(lines));
        assert_eq!(rules::sizes("src/a.rs", &function(68)), [""; 0]);
        let wrong = rules::sizes("src/a.rs", &function(69));
        assert_eq!(wrong, ["src/a.rs:2: fn b has 71 lines, at most 70"]);
    }

    #[test]
    fn marks_and_foreign_characters_are_found() {
        for mark in [concat!("// FIX", "ME: later"), concat!("// TO", "DO"), concat!("let XX", "X = 1;")] {
            assert_eq!(rules::marks("src/a.rs", mark).len(), 1, "{mark}");
        }
        assert_eq!(rules::marks("src/a.rs", "// all todos are done"), [""; 0]);
        assert_eq!(rules::ascii("src/a.rs", "// 2\u{d7}2\n").len(), 1);
    }

    #[test]
    fn a_function_without_an_example_is_found_and_an_example_elsewhere_counts_if_it_calls_it() {
        const TYPE: &str =
            "/// A.\n///\n/// # Example\n///\n/// ```\n/// assert!(A::new().b());\n/// ```\npub struct A;\n";
        let missing = |of: &str, text: &str| {
            let file = |path: &str, text: &str| (path.to_owned(), text.to_owned());
            examples::missing(&[file("src/a.rs", TYPE), file(of, text)]).len()
        };
        let linked = |name, link| {
            format!(
                "impl<'a> A<'a> {{\n    /// [E]({link}#example).\n    #[x]\n    pub fn {name}(&self) {{}}\n}}\n"
            )
        };
        assert_eq!(missing("src/b.rs", &linked("b", "Self")), 0);
        assert_eq!(missing("src/b.rs", &linked("b", "super::A")), 0);
        assert_eq!(missing("src/b.rs", &linked("c", "Self")), 1);
        assert_eq!(missing("src/b.rs", &linked("b", "B")), 1);
        assert_eq!(missing("src/b.rs", "/// ```\n/// assert!(true);\n/// ```\npub const fn c() {}"), 0);
        for bad in ["/// Words.", "/// ```\n/// c();\n/// ```", "/// ```text\n/// assert\n/// ```"] {
            assert_eq!(missing("src/b.rs", &format!("{bad}\npub fn c() {{}}")), 1, "{bad}");
        }
        for hidden in ["src/tests/b.rs", "src/simulation/b.rs"] {
            assert_eq!(missing(hidden, "pub fn c() {}"), 0);
        }
    }

    #[test]
    fn text_and_comments_are_told_from_code() {
        let source = "a /* b /* c */ d */ \"e \\\" f\" r#\"g \" h\"# 'i' '\\'' b'j' b\"k\" 'l: loop {} // m\nn br\"o\" for_r";
        let code = code::without_text(source);
        let words: Vec<_> = code::words(&code).map(|(_, word)| word).collect();
        assert_eq!(words, ["a", "l", "loop", "n", "for_r"]);
        assert_eq!(code.len(), source.len());
    }

    #[test]
    fn items_for_tests_are_left_out_and_the_others_kept() {
        let source = "#[cfg(test)]\n#[expect(x)]\nmod a { fn b() {} }\n#[cfg(not(test))] mod c;\n#[cfg(all(test, d))] use e;\nf";
        let left = code::without_tests(source);
        let words: Vec<_> = code::words(&left).map(|(_, word)| word).collect();
        assert_eq!(words, ["cfg", "not", "test", "mod", "c", "f"]);
    }
}
