//! `RLIMIT_FSIZE`: no write behind some byte of any file. A write would raise a signal whose default ends the process, so
//! that the store has to ask before.

use crate::{child, digest, options, said, schema, trained};
use paramstore::ParamStore;

/// Words of a shell that set the limit, in its unit of 512 bytes; the signal ends the process.
fn limit(kib: u64) -> String {
    format!("ulimit -c 0; ulimit -f {};", 2 * kib)
}

const REFUSED: &str = "this process may not make files above";

#[test]
fn a_create_beyond_the_limit_is_an_error_and_leaves_room_for_the_next() {
    let dir = tempfile::tempdir().unwrap();
    for kib in [0, 16, 64, 2000] {
        let path = dir.path().join(kib.to_string());
        let output = child(&limit(kib), "create", &path).output().unwrap();
        let said = said(&output);
        assert!(output.status.success() && said.len() == 1, "{kib} KiB: {output:?}");
        assert!(said[0].starts_with("Io error: ") && said[0].contains(REFUSED), "{kib} KiB: {said:?}");
        ParamStore::create(&path, &schema(), &options()).unwrap();
    }
}

#[test]
fn training_under_any_limit_is_an_error_and_no_signal_and_the_last_commit_stays() {
    let mut reached = Vec::new();
    for kib in [0, 4, 20, 100, 1000, 2000, 3000] {
        let dir = tempfile::tempdir().unwrap();
        let (path, digests) = trained(dir.path());
        let output = child(&limit(kib), "train", &path).output().unwrap();
        assert!(output.status.success(), "{kib} KiB: {output:?}");
        let said = said(&output);
        let committed = said.iter().filter(|line| line.starts_with("committed")).count();
        let last = said.last().unwrap();
        assert_eq!(last == "trained", committed == 3, "{kib} KiB: {said:?}");
        assert!(last == "trained" || last.contains(REFUSED), "{kib} KiB: {said:?}");
        let step = 1 + u64::try_from(committed).unwrap();
        assert_eq!(digest(&path), digests[&step], "{kib} KiB, step {step}");
        reached.push(committed);
    }
    println!("commits under each limit: {reached:?}");
    assert_eq!((reached[0], reached[6]), (0, 3), "{reached:?}");
}
