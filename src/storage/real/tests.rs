//! What only real files can do: links, permissions, other openers, files that shrink.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;

use super::*;
use crate::storage::{Buffer, SECTOR_BYTES};

/// Set in the process that runs a test again under a limit.
#[cfg(target_os = "linux")]
const LIMITED: &str = "PARAMSTORE_TEST_LIMITED";

fn volume() -> (tempfile::TempDir, RealVolume) {
    let keep = tempfile::tempdir().unwrap();
    let (volume, existed) = RealVolume::create_dir(&keep.path().join("volume")).unwrap();
    assert!(!existed);
    (keep, volume)
}

fn open(volume: &RealVolume, name: &str) -> Result<Arc<dyn Segment>> {
    volume.open(name, Access::Read, Caching::Cached)
}

#[test]
fn directory_and_files_belong_to_their_owner_alone() {
    let (_keep, volume) = volume();
    volume.create("a", 10, Allocation::Full).unwrap();
    drop(volume.try_lock("lock", LockKind::Exclusive).unwrap());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(volume.path()), 0o700);
    assert_eq!(mode(&volume.path_of("a")), 0o600);
    assert_eq!(mode(&volume.path_of("lock")), 0o600);
}

#[test]
fn existing_directory_is_reported_and_its_content_kept() {
    let (_keep, volume) = volume();
    volume.create("a", 1, Allocation::Full).unwrap();
    let (again, existed) = RealVolume::create_dir(volume.path()).unwrap();
    assert!(existed);
    assert_eq!(again.list().unwrap(), ["a"]);
}

#[test]
fn directory_in_place_of_a_file_or_the_reverse_is_refused() {
    let (keep, volume) = volume();
    fs::write(keep.path().join("file"), "").unwrap();
    let error = RealVolume::create_dir(&keep.path().join("file")).err().unwrap();
    assert!(matches!(error, Error::AlreadyExists { .. }), "{error}");
    let error = RealVolume::open_dir(&keep.path().join("file")).err().unwrap();
    assert!(error.to_string().contains("Not a directory"), "{error}");
    let error = RealVolume::create_dir(&keep.path().join("none/volume")).err().unwrap();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    fs::create_dir(volume.path_of("sub")).unwrap();
    let error = open(&volume, "sub").err().unwrap();
    assert!(error.to_string().contains("expected a regular file"), "{error}");
    assert_eq!(volume.list().unwrap(), ["sub"]);
}

#[test]
fn symbolic_link_is_never_followed() {
    let (keep, volume) = volume();
    let target = keep.path().join("target");
    fs::write(&target, "precious").unwrap();
    symlink(&target, volume.path_of("link")).unwrap();
    symlink(keep.path().join("nothing"), volume.path_of("dangling")).unwrap();
    for access in [Access::Read, Access::Write] {
        for caching in [Caching::Cached, Caching::Direct] {
            let error = volume.open("link", access, caching).err().unwrap();
            assert!(error.to_string().contains("it is a symbolic link, expected a regular file"), "{error}");
        }
    }
    for name in ["link", "dangling"] {
        let error = volume.create(name, 1, Allocation::Full).unwrap_err();
        assert!(matches!(error, Error::AlreadyExists { .. }), "{error}");
        assert!(volume.try_lock(name, LockKind::Exclusive).is_err());
        assert!(volume.try_lock(name, LockKind::Shared).is_err());
    }
    assert_eq!(fs::read(&target).unwrap(), b"precious");
    assert!(!keep.path().join("nothing").exists());
}

#[cfg(target_os = "linux")]
#[test]
fn pipe_or_socket_is_refused_without_waiting() {
    let (_keep, volume) = volume();
    rustix::fs::mknodat(&volume.directory, "pipe", FileType::Fifo, FILE_MODE, 0).unwrap();
    let _listener = UnixListener::bind(volume.path_of("socket")).unwrap();
    for name in ["pipe", "socket"] {
        assert!(open(&volume, name).is_err());
        assert!(volume.open(name, Access::Write, Caching::Direct).is_err());
    }
}

#[test]
fn volume_is_the_directory_that_was_opened_and_not_its_name() {
    let (keep, volume) = volume();
    volume.create("a", 1, Allocation::Full).unwrap();
    fs::rename(volume.path(), keep.path().join("moved")).unwrap();
    fs::create_dir(volume.path()).unwrap();
    assert_eq!(volume.list().unwrap(), ["a"]);
    volume.create("b", 1, Allocation::Full).unwrap();
    volume.sync_dir(Barrier("test")).unwrap();
    assert!(keep.path().join("moved/b").exists());
}

#[test]
fn file_cut_short_by_another_program_is_an_error_and_no_signal() {
    let (_keep, volume) = volume();
    volume.create("a", 4 * SECTOR_BYTES, Allocation::Full).unwrap();
    let cached = volume.open("a", Access::Write, Caching::Cached).unwrap();
    let direct = volume.open("a", Access::Write, Caching::Direct).unwrap();
    fs::OpenOptions::new().write(true).open(volume.path_of("a")).unwrap().set_len(SECTOR_BYTES + 10).unwrap();
    let error = cached.map(0, 4 * 4096).err().unwrap();
    assert!(error.to_string().contains("the file ends at byte 4106"), "{error}");
    let mut buffer = Buffer::new(4 * 4096).unwrap();
    for segment in [&cached, &direct] {
        let error = segment.read_at(&mut buffer, 0).unwrap_err();
        assert!(error.to_string().contains("the file has become shorter, it has no byte 4106"), "{error}");
        assert_eq!(segment.len_bytes().unwrap(), SECTOR_BYTES + 10);
    }
}

#[test]
fn lock_of_a_removed_file_is_not_the_lock_of_its_successor() {
    let (_keep, volume) = volume();
    let _old = volume.try_lock("lock", LockKind::Exclusive).unwrap().unwrap();
    volume.remove("lock").unwrap();
    let new = volume.try_lock("lock", LockKind::Exclusive).unwrap();
    assert!(new.is_some());
    assert!(volume.try_lock("lock", LockKind::Exclusive).unwrap().is_none());
}

#[cfg(target_os = "linux")]
#[test]
fn lock_keeps_out_another_process_and_ends_with_its_holder() {
    let (_keep, volume) = volume();
    let lock = volume.try_lock("lock", LockKind::Exclusive).unwrap().unwrap();
    // The program of that name stands for the other process.
    let flock = || {
        let mut command = std::process::Command::new("flock");
        command.args(["--nonblock", "--shared"]).arg(volume.path_of("lock")).arg("true");
        command.status().expect("`flock` of util-linux")
    };
    assert_eq!(flock().code(), Some(1));
    drop(lock);
    assert!(flock().success());
}

#[cfg(target_os = "linux")]
#[test]
fn file_size_limit_of_the_process_is_an_error_and_no_signal() {
    let Some(directory) = std::env::var_os(LIMITED) else {
        // The limit holds for a whole process, so that this test runs once more in one of its own.
        let (_keep, volume) = volume();
        volume.create("long", 8193, Allocation::Sparse).unwrap();
        let mut command = std::process::Command::new("prlimit");
        command.arg("--fsize=8192").arg(std::env::current_exe().unwrap());
        command.args([
            "--exact",
            "storage::real::tests::file_size_limit_of_the_process_is_an_error_and_no_signal",
        ]);
        let output = command.env(LIMITED, volume.path()).output().expect("`prlimit` of util-linux");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{}: {said}", output.status);
        return;
    };
    let volume = RealVolume::open_dir(Path::new(&directory)).unwrap();
    for allocation in [Allocation::Full, Allocation::Sparse] {
        let error = volume.create("a", 8193, allocation).unwrap_err();
        assert!(error.to_string().contains("may not make files above 8192 bytes"), "{error}");
        volume.create("a", 8192, allocation).unwrap();
        volume.open("a", Access::Write, Caching::Cached).unwrap().write_at(&[1; 8192], 0).unwrap();
        volume.remove("a").unwrap();
    }
    assert_eq!(volume.list().unwrap(), ["long"]);
    assert!(volume.open("long", Access::Write, Caching::Cached).is_err());
    open(&volume, "long").unwrap().read_at(&mut [0; 8193], 0).unwrap();
}
