//! File systems that are full or read-only, made for the test where mounting is allowed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{digest, kind, one_step, options, schema, train};
use paramstore::inspect::VerifyOptions;
use paramstore::{Error, Init, Options, ParamStore, Schema, TensorSpec};

/// A small file system in memory, unmounted when the test ends.
struct Mount(PathBuf);

impl Mount {
    /// `None`, with a word on the terminal, where mounting is not allowed.
    fn new(path: PathBuf, size: &str) -> Option<Self> {
        std::fs::create_dir(&path).unwrap();
        let option = format!("size={size}");
        if mount(&["-t", "tmpfs", "-o", &option, "paramstore-test"], &path) {
            return Some(Self(path));
        }
        eprintln!("skipped: mounting a file system is not allowed here");
        None
    }

    fn remount(&self, option: &str) {
        assert!(mount(&["-o", &format!("remount,{option}")], &self.0));
    }
}

fn mount(arguments: &[&str], path: &Path) -> bool {
    run("mount", arguments, path)
}

fn run(program: &str, arguments: &[&str], path: &Path) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).arg(path).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Ext4 in an image file, which becomes read-only when it finds an error.
struct Ext4 {
    image: PathBuf,
    mount: Option<Mount>,
}

impl Ext4 {
    /// `None`, with a word on the terminal, where there is no such file system or mounting is not allowed.
    fn new(dir: &Path) -> Option<Self> {
        let image = dir.join("image");
        std::fs::File::create(&image).and_then(|file| file.set_len(64 << 20)).unwrap();
        std::fs::create_dir(dir.join("ext4")).unwrap();
        if !run("mkfs.ext4", &["-q", "-F"], &image) {
            eprintln!("skipped: there is no mkfs.ext4 (package e2fsprogs)");
            return None;
        }
        let mut made = Self { image, mount: None };
        made.mount(dir.join("ext4")).then_some(made)
    }

    fn mount(&mut self, path: PathBuf) -> bool {
        let image = self.image.to_str().unwrap();
        if mount(&["-o", "loop,errors=remount-ro", image], &path) {
            self.mount = Some(Mount(path));
            return true;
        }
        eprintln!("skipped: mounting an image file is not allowed here");
        false
    }

    /// Lets the kernel find an error; false, with a word, where this cannot be asked for.
    fn fail(&self) -> bool {
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
        let path = self.mount.as_ref().unwrap().0.to_str().unwrap();
        let line = mounts.lines().find(|line| line.split(' ').nth(1) == Some(path)).unwrap();
        let device = line.split(' ').next().unwrap().trim_start_matches("/dev/");
        let failed = std::fs::write(format!("/sys/fs/ext4/{device}/trigger_fs_error"), "1");
        if let Err(error) = &failed {
            eprintln!("skipped: ext4 cannot be told to find an error: {error}");
        }
        failed.is_ok()
    }

    fn mount_again(&mut self) -> bool {
        let path = self.mount.as_ref().unwrap().0.clone();
        self.mount = None;
        self.mount(path)
    }
}

/// `mount -o remount,ro` is refused while a file is open for writing; what comes to a writer in practice is a file system
/// that the kernel makes read-only because it has found an error in it.
#[test]
fn a_file_system_that_becomes_read_only_under_a_writer_is_an_error_and_leaves_the_last_commit() {
    for is_in_step in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let Some(mut ext4) = Ext4::new(dir.path()) else { return };
        let path = ext4.mount.as_ref().unwrap().0.join("store");
        let mut store = ParamStore::create(&path, &schema(), &options()).unwrap();
        train(&mut store, 2, |_| {}).unwrap();
        let committed = store.digest().unwrap().to_string();
        if is_in_step {
            one_step(&mut store).unwrap();
        }
        if !ext4.fail() {
            return;
        }
        let error = train(&mut store, 1, |_| {}).unwrap_err();
        assert!(kind(&error) == "Io" && error.to_string().contains("Read-only file system"), "{error:?}");
        for result in [one_step(&mut store), store.commit(b"").map(|_| ()), store.keep("a").map(|_| ())] {
            let refused = result.unwrap_err();
            assert!(["Poisoned", "Io", "Mixed"].contains(&kind(&refused).as_str()), "{refused:?}");
        }
        drop(store);
        let reader = ParamStore::open_read_only(&path, &options()).unwrap();
        assert_eq!(
            (reader.digest().unwrap().to_string(), reader.step()),
            (committed.clone(), 2),
            "what is there can be read"
        );
        drop(reader);
        let error = ParamStore::open(&path, &options()).unwrap_err();
        assert!(kind(&error) == "Io" && error.to_string().contains("Read-only file system"), "{error:?}");
        assert!(ext4.mount_again());
        assert!(paramstore::inspect::verify(&path, &VerifyOptions::new(), |_| {}).unwrap().is_sound());
        let mut store = ParamStore::open(&path, &options()).unwrap();
        assert_eq!((store.digest().unwrap().to_string(), store.step()), (committed, 2));
        train(&mut store, 1, |_| {}).unwrap();
        drop(store);
        assert_eq!(digest(&path), crate::digests()[&3]);
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        drop(Command::new("umount").arg(&self.0).status());
    }
}

#[test]
fn a_create_that_does_not_fit_says_what_it_needs_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mount) = Mount::new(dir.path().join("small"), "3m") else { return };
    let path = mount.0.join("store");
    let error = ParamStore::create(&path, &schema(), &options()).map(|_| ()).unwrap_err();
    let Error::NoSpace { needed, free, .. } = &error else { panic!("{error:?}") };
    assert!(*needed > 3 << 20 && *free <= 3 << 20, "{error}");
    let left = std::fs::read_dir(&path).map_or(0, Iterator::count);
    assert_eq!(left, 0);
    mount.remount("size=16m");
    let mut store = ParamStore::create(&path, &schema(), &options()).unwrap();
    train(&mut store, 2, |_| {}).unwrap();
}

/// A sparse store takes its blocks when they are first written: the disk runs full during a step.
#[test]
fn a_sparse_store_on_a_full_disk_stops_with_an_error_and_goes_on_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mount) = Mount::new(dir.path().join("small"), "2m") else { return };
    let (path, twin_path) = (mount.0.join("store"), dir.path().join("twin"));
    let schema: Schema =
        schema().tensor(TensorSpec::new("late", &[400_000]).init(Init::Uniform { low: -1.0, high: 1.0 }));
    let sparse: Options = options().sparse(true);
    let mut store = ParamStore::create(&path, &schema, &sparse).unwrap();
    let mut twin = ParamStore::create(&twin_path, &schema, &sparse).unwrap();
    for store in [&mut store, &mut twin] {
        train(store, 1, |_| {}).unwrap();
    }
    let committed = twin.digest().unwrap();
    let late = |store: &mut ParamStore| {
        let mut step = store.begin_step()?;
        step.apply("late", &vec![0.5; 400_000])?;
        step.finish()?;
        store.commit(b"late").map(|_| ())
    };
    let error = late(&mut store).unwrap_err();
    let full = std::io::ErrorKind::StorageFull;
    let is_full = match &error {
        Error::NoSpace { .. } => true,
        Error::Io { source, .. } => source.kind() == full,
        _ => false,
    };
    assert!(is_full, "{error:?}");
    // The handle refuses to go on, and the disk being full is no reason not to open the store again.
    assert!(one_step(&mut store).is_err());
    drop(store);
    assert_eq!(digest(&path), committed.to_string());
    mount.remount("size=32m");
    let mut store = ParamStore::open(&path, &options()).unwrap();
    late(&mut store).unwrap();
    late(&mut twin).unwrap();
    assert_eq!(store.digest().unwrap(), twin.digest().unwrap());
}

#[test]
fn a_read_only_file_system_is_enough_for_readers_and_refused_by_writers() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mount) = Mount::new(dir.path().join("small"), "16m") else { return };
    let path = mount.0.join("store");
    let mut store = ParamStore::create(&path, &schema(), &options()).unwrap();
    train(&mut store, 2, |_| {}).unwrap();
    let before = store.digest().unwrap();
    drop(store);
    mount.remount("ro");
    let reader = ParamStore::open_read_only(&path, &options()).unwrap();
    assert_eq!((reader.digest().unwrap(), reader.summary().unwrap().step), (before, 2));
    assert!(paramstore::inspect::verify(&path, &VerifyOptions::new(), |_| {}).unwrap().is_sound());
    for result in [
        ParamStore::open(&path, &options()).map(|_| ()),
        ParamStore::create(mount.0.join("other"), &schema(), &options()).map(|_| ()),
    ] {
        let error = result.unwrap_err();
        assert!(kind(&error) == "Io" && error.to_string().contains("Read-only file system"), "{error:?}");
    }
}
