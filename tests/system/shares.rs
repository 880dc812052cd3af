//! Checkpoints on file systems whose files can share blocks (XFS, btrfs), made for the test where mounting is allowed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{digest, options, schema, train};
use paramstore::inspect::VerifyOptions;
use paramstore::{Init, ParamStore, TensorSpec};

/// A file system in a file, unmounted when the test ends.
struct Loop(PathBuf);

impl Loop {
    /// `None`, with a word on the terminal, where it cannot be made or mounted.
    fn new(dir: &Path, make: &[&str]) -> Option<Self> {
        let (image, path) = (dir.join("image"), dir.join("mount"));
        std::fs::create_dir(&path).unwrap();
        std::fs::File::create(&image).unwrap().set_len(512 << 20).unwrap();
        if !run(Command::new(make[0]).args(&make[1..]).arg(&image)) {
            eprintln!("skipped: there is no {} here", make[0]);
            return None;
        }
        if !run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&path)) {
            eprintln!("skipped: mounting a file system is not allowed here");
            return None;
        }
        Some(Self(path))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _unmounted = run(Command::new("umount").arg(&self.0));
    }
}

fn run(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

fn free_bytes(path: &Path) -> u64 {
    assert!(run(Command::new("sync").arg("-f").arg(path)));
    paramstore::inspect::free_bytes(path).unwrap()
}

#[test]
fn checkpoints_on_xfs_share_blocks() {
    checkpoints_share_blocks(&["mkfs.xfs", "-q", "-m", "reflink=1"]);
}

#[test]
fn checkpoints_on_btrfs_share_blocks() {
    checkpoints_share_blocks(&["mkfs.btrfs", "-q"]);
}

/// A store of some 60 MB is kept in less than a tenth of that, and the room is taken by the steps that follow.
fn checkpoints_share_blocks(make: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let Some(mount) = Loop::new(dir.path(), make) else { return };
    let path = mount.0.join("store");
    let schema = schema()
        .tensor(TensorSpec::new("wide", &[5, 1_000_000]).init(Init::Uniform { low: -1.0, high: 1.0 }));
    let mut store = ParamStore::create(&path, &schema, &options()).unwrap();
    let wide = |store: &mut ParamStore| {
        let mut step = store.begin_step().unwrap();
        step.apply("wide", &vec![0.25; 5_000_000]).unwrap();
        step.finish().unwrap();
        store.commit(b"wide").unwrap();
    };
    wide(&mut store);
    train(&mut store, 2, |_| {}).unwrap();
    let kept = store.digest().unwrap();
    let estimate = store.keep_estimate().unwrap();
    assert!(estimate.bytes_to_copy == 0 && estimate.bytes_to_share >= 60_000_000, "{estimate:?}");
    let before = free_bytes(&path);
    let report = store.keep("a").unwrap();
    assert_eq!((report.bytes_copied, report.bytes_shared), (0, estimate.bytes_to_share));
    let taken = before.saturating_sub(free_bytes(&path));
    assert!(taken < 6_000_000, "{taken} bytes for a checkpoint that shares its blocks");
    // Twice: the second of them writes over the homes that the checkpoint shares.
    wide(&mut store);
    wide(&mut store);
    let shared_no_more = before.saturating_sub(free_bytes(&path));
    assert!(shared_no_more > 40_000_000, "{shared_no_more}");
    let checkpoint = path.join("checkpoints").join("a");
    assert_eq!(ParamStore::open_read_only(&checkpoint, &options()).unwrap().digest().unwrap(), kept);
    let seen = paramstore::inspect::verify(&checkpoint, &VerifyOptions::new(), |_| {}).unwrap();
    assert!(seen.is_sound() && seen.bytes_read == report.bytes_shared, "{seen:?}");
    store.keep("b").unwrap();
    store.roll_back_to("a").unwrap();
    assert_eq!(store.digest().unwrap(), kept);
    for name in ["a", "b"] {
        store.prune(name).unwrap();
    }
    assert_eq!(store.digest().unwrap(), kept);
    drop(store);
    assert_eq!(digest(&path), kept.to_string());
}
