//! SIGKILL in the middle: nothing is left for ever, and what appears is whole. The test binary starts itself again as the
//! process that is killed.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use super::{Raw, TheirDtype, created, import, is_sound, open, raw, read, write};
use crate::convert::Convert;
use crate::exchange::Export;
use crate::{Moments, Precision};

/// What the process is to do, and where.
const WORK: &str = "PARAMSTORE_TEST_EXCHANGE";
const PLACE: &str = "PARAMSTORE_TEST_PLACE";

/// Says that it is in the middle, and waits to be killed.
fn wait(_: u64) {
    println!("in the middle");
    std::io::stdout().flush().unwrap();
    loop {
        std::thread::park();
    }
}

/// As a process of its own: works until the first bytes are done. As a test: nothing, since nobody asked.
#[test]
fn process_that_is_killed_in_the_middle() {
    let (Ok(work), Ok(place)) = (std::env::var(WORK), std::env::var(PLACE)) else { return };
    let path = |name: &str| Path::new(&place).join(name);
    let compact = Convert::to(Precision::new(crate::Dtype::Bf16, Moments::Q8), 32 << 20);
    match work.as_str() {
        "file" => drop(Export::new().to_file(&open(&path("s")), path("out.safetensors"), wait)),
        "force" => drop(Export::new().force(true).to_file(&open(&path("s")), path("old.safetensors"), wait)),
        "npy" => drop(Export::new().to_npy(&open(&path("s")), "w", path("w.npy"), wait)),
        "shards" => {
            // Many shards are whole, and kept from having names, when the last one begins.
            let store = open(&path("s"));
            let last = Export::new().bytes(&store).unwrap();
            let at_last = |done| {
                if done == last {
                    wait(done);
                }
            };
            drop(Export::new().shard_bytes(1).to_directory(&store, path("out"), at_last));
        }
        "import" => drop(import().source(path("in.safetensors")).run(path("new"), wait)),
        "convert" => drop(compact.run(path("s"), path("new"), wait)),
        other => panic!("{other}"),
    }
}

fn kill_in_the_middle(work: &str, place: &Path) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let test = "tests::exchange::kills::process_that_is_killed_in_the_middle";
    command.args([test, "--exact", "--test-threads=1", "--nocapture"]);
    let mut child = command.env(WORK, work).env(PLACE, place).stdout(Stdio::piped()).spawn().unwrap();
    let said = BufReader::new(child.stdout.take().unwrap());
    let is_there = said.lines().any(|line| line.unwrap().contains("in the middle"));
    child.kill().unwrap();
    let status = child.wait().unwrap();
    assert!(is_there && !status.success(), "{work} ended by itself: {status}");
}

fn names(place: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(place).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn killed_export_leaves_nothing_and_what_was_there() {
    let keep = tempfile::tempdir().unwrap();
    let path = |name: &str| keep.path().join(name);
    drop(created(&path("s"), "adamw"));
    std::fs::write(path("old.safetensors"), "old").unwrap();
    for work in ["file", "force", "npy"] {
        kill_in_the_middle(work, keep.path());
        assert_eq!(names(keep.path()), ["old.safetensors", "s"], "{work}");
    }
    assert_eq!(std::fs::read(path("old.safetensors")).unwrap(), b"old");
    kill_in_the_middle("shards", keep.path());
    assert_eq!(names(&path("out")), [""; 0]);
    Export::new().shard_bytes(1).to_directory(&open(&path("s")), path("out"), |_| {}).unwrap();
    assert_eq!(names(&path("out")).len(), 4);
}

#[test]
fn parts_of_a_killed_export_of_many_files_are_removed_by_the_next_one() {
    let keep = tempfile::tempdir().unwrap();
    let path = |name: &str| keep.path().join(name);
    // More than are kept without names.
    let model = (0..70).map(|at| (format!("t{at:02}"), raw(TheirDtype::F32, &[8], at))).collect();
    write(&model, &path("in.safetensors"));
    import().source(path("in.safetensors")).run(path("s"), |_| {}).unwrap();
    kill_in_the_middle("shards", keep.path());
    let left = names(&path("out"));
    let part = std::ffi::OsStr::new("part");
    let is_part = |name: &String| name.starts_with(".model-000") && Path::new(name).extension() == Some(part);
    assert!(!left.is_empty() && left.iter().all(is_part), "{left:?}");
    // Another model, of one file.
    let report = Export::new().to_directory(&open(&path("s")), path("out"), |_| {}).unwrap();
    assert_eq!(report.tensors, 70);
    assert_eq!(names(&path("out")), ["model.safetensors"]);
    assert!(read(&path("out/model.safetensors")) == model);
}

#[test]
fn killed_import_and_conversion_leave_no_store_and_the_next_ones_are_whole() {
    let keep = tempfile::tempdir().unwrap();
    let path = |name: &str| keep.path().join(name);
    drop(created(&path("s"), "adamw"));
    let tensor: Raw = raw(TheirDtype::F32, &[64, 1024], 1);
    write(&[("w".to_owned(), tensor)].into(), &path("in.safetensors"));
    for (work, left) in [("import", "new.importing"), ("convert", "new.converting")] {
        kill_in_the_middle(work, keep.path());
        assert_eq!(names(keep.path()), ["in.safetensors", left, "s"], "{work}");
        if work == "import" {
            import().source(path("in.safetensors")).run(path("new"), |_| {}).unwrap();
        } else {
            let convert = Convert::to(Precision::COMPACT, 32 << 20);
            convert.run(path("s"), path("new"), |_| {}).unwrap();
        }
        assert_eq!(names(keep.path()), ["in.safetensors", "new", "s"], "{work}");
        assert!(is_sound(&path("new")));
        std::fs::remove_dir_all(path("new")).unwrap();
    }
}
