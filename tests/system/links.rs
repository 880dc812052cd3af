//! Symbolic links, permissions, and paths that are no store.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;

use crate::{child, digest, kind, one_step, options, said, schema, trained};
use paramstore::{Error, ParamStore};

fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_link_in_place_of_any_file_is_refused_and_never_followed() {
    let dir = tempfile::tempdir().unwrap();
    let (path, digests) = trained(dir.path());
    let names = names(&path);
    assert_eq!(names.len(), 5 + 2 * 4 + 2, "{names:?}");
    for name in &names {
        let (file, target) = (path.join(name), dir.path().join("target"));
        fs::rename(&file, &target).unwrap();
        symlink(&target, &file).unwrap();
        let before = fs::read(&target).unwrap();
        let reader = ParamStore::open_read_only(&path, &options()).map(|_| ());
        let writer = ParamStore::open(&path, &options()).and_then(|mut store| one_step(&mut store));
        let refused = |result: paramstore::Result<()>| match result {
            Ok(()) => false,
            Err(error) => {
                assert!(
                    error.to_string().contains("symbolic link") && error.to_string().contains(name),
                    "{error}"
                );
                true
            }
        };
        // A reader takes one pin and no lock; the notes are for people, and nobody misses them.
        let expected = match name.as_str() {
            "progress" | "live" | "metrics" => (false, false),
            // Generation 2 is read, and 3 written.
            "pin.0" => (true, false),
            "lock" | "pin.1" => (false, true),
            _ => (true, true),
        };
        assert_eq!((refused(reader), refused(writer)), expected, "{name}");
        assert_eq!(fs::read(&target).unwrap(), before, "{name}: written through the link");
        fs::remove_file(&file).unwrap();
        fs::rename(&target, &file).unwrap();
        assert_eq!(digest(&path), digests[&1], "{name}");
    }
}

#[test]
fn a_path_that_is_no_store_is_said_to_be_none_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (path, _) = trained(dir.path());
    let at = |name: &str| dir.path().join(name);
    fs::write(at("file"), "text").unwrap();
    fs::create_dir(at("empty")).unwrap();
    fs::create_dir(at("other")).unwrap();
    fs::write(at("other").join("notes.txt"), "text").unwrap();
    fs::create_dir(at("folder_as_meta")).unwrap();
    fs::create_dir(at("folder_as_meta").join("meta")).unwrap();
    fs::create_dir(at("empty_meta")).unwrap();
    fs::write(at("empty_meta").join("meta"), "").unwrap();
    fs::rename(path.join("meta"), at("kept")).unwrap();
    let cases = [
        ("file", "Io"),
        ("nothing", "Io"),
        ("empty", "NotAStore"),
        ("other", "NotAStore"),
        ("folder_as_meta", "Io"),
        ("empty_meta", "Damaged"),
        ("store", "NotAStore"),
    ];
    for (name, expected) in cases {
        let before = at(name).is_dir().then(|| names(&at(name)));
        for result in
            [ParamStore::open(at(name), &options()), ParamStore::open_read_only(at(name), &options())]
        {
            let error = result.map(|_| ()).unwrap_err();
            assert!(
                kind(&error) == expected || matches!(error, Error::NotAStore { .. }),
                "{name}: {error:?}"
            );
            assert!(error.to_string().contains(name), "{name}: {error}");
        }
        assert_eq!(at(name).is_dir().then(|| names(&at(name))), before, "{name}");
    }
    for name in ["file", "other", "store"] {
        let error = ParamStore::create(at(name), &schema(), &options()).map(|_| ()).unwrap_err();
        assert!(matches!(error, Error::AlreadyExists { .. } | Error::Io { .. }), "{name}: {error}");
    }
    assert_eq!(fs::read(at("other").join("notes.txt")).unwrap(), b"text");
}

/// Root may do everything, so that the other process is somebody else's there. Where the machine does not let somebody
/// else run this test's binary, the test says that it did nothing.
#[test]
fn a_store_that_may_not_be_read_or_written_is_an_error_by_name() {
    const NOBODY: u32 = 65_534;
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let is_root = fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0);
    let path = dir.path().join("store");
    let tell = |job: &str, store: &Path| -> String {
        let mut command = child("", job, store);
        command.current_dir("/");
        if is_root {
            command.uid(NOBODY).gid(NOBODY);
        }
        command.output().ok().and_then(|output| said(&output).pop()).unwrap_or_default()
    };
    let created = tell("create", &path);
    if created.is_empty() {
        return eprintln!("skipped: another user cannot run this test's binary");
    }
    assert_eq!(created, "created");
    let digest = tell("read", &path);
    let chmod = |name: &str, mode: u32| {
        fs::set_permissions(path.join(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    let denied = |said: &str, name: &str| {
        assert!(
            said.starts_with("Io error: ") && said.contains("Permission denied") && said.contains(name),
            "{said}"
        );
    };
    for name in ["meta", "param.0000.0", "exp_avg.0000.1"] {
        chmod(name, 0o000);
        denied(&tell("read", &path), name);
        denied(&tell("write", &path), name);
        chmod(name, 0o400);
        assert_eq!(tell("read", &path), digest, "{name}");
        denied(&tell("write", &path), name);
        chmod(name, 0o600);
    }
    chmod("lock", 0o000);
    assert_eq!(tell("read", &path), digest);
    denied(&tell("write", &path), "lock");
    chmod("lock", 0o600);
    // Nothing appears or vanishes in a store's directory: one that is read-only is enough for both.
    chmod("", 0o500);
    assert_eq!((tell("read", &path), tell("train", &path)), (digest, "trained".to_owned()));
    denied(&tell("create", &path.join("inside")), "inside");
    chmod("", 0o700);
    assert_eq!(tell("write", &path), "opened");
}

/// A process that is being started holds copies of this one's locks until it runs its own program; a store that had just
/// been closed, or was just made, seemed to have another writer.
#[test]
fn starting_other_processes_does_not_lock_a_store_that_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let (path, _) = trained(dir.path());
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                drop(std::process::Command::new("/bin/true").gid(0).status());
            }
        });
        let result = std::panic::catch_unwind(|| {
            for _ in 0..400 {
                ParamStore::open(&path, &options()).unwrap();
            }
        });
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        result.unwrap();
    });
}
