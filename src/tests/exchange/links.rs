//! Links: those of a directory that the user named are followed, to regular files.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::{Model, TheirDtype, import, open, raw, write};
use crate::exchange::{Export, list};

/// A model in two shards as the cache of Hugging Face keeps it: a snapshot of links to files named by hashes.
fn snapshot(cache: &Path) -> (PathBuf, Model) {
    let (blobs, snapshot) = (cache.join("blobs"), cache.join("snapshots/0123abcd"));
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::create_dir_all(&snapshot).unwrap();
    let link = |name: &str, hash: &str| {
        symlink(Path::new("../../blobs").join(hash), snapshot.join(name)).unwrap();
        blobs.join(hash)
    };
    let shards: [Model; 2] = [
        [("w".to_owned(), raw(TheirDtype::F32, &[40, 300], 1))].into(),
        [("v".to_owned(), raw(TheirDtype::BF16, &[7], 2)), ("ids".to_owned(), raw(TheirDtype::I64, &[9], 3))]
            .into(),
    ];
    write(&shards[0], &link("model-00001-of-00002.safetensors", "9d1e"));
    write(&shards[1], &link("model-00002-of-00002.safetensors", "77aa"));
    let map = r#"{"weight_map":{"w":"model-00001-of-00002.safetensors","v":"model-00002-of-00002.safetensors",
        "ids":"model-00002-of-00002.safetensors"}}"#;
    std::fs::write(link("model.safetensors.index.json", "5c5c"), map).unwrap();
    std::fs::write(link("config.json", "0000"), "{}").unwrap();
    (snapshot, shards.into_iter().flatten().collect())
}

#[test]
fn snapshot_of_links_is_imported_by_its_directory_its_index_and_a_link_to_it() {
    let keep = tempfile::tempdir().unwrap();
    let (snapshot, model) = snapshot(&keep.path().join("models--a--b"));
    let elsewhere = keep.path().join("model");
    symlink(&snapshot, &elsewhere).unwrap();
    let index = snapshot.join("model.safetensors.index.json");
    for (number, source) in [&snapshot, &index, &elsewhere].into_iter().enumerate() {
        let store = keep.path().join(format!("store{number}"));
        import().source(source).run(&store, |_| {}).unwrap();
        let out = keep.path().join(format!("{number}.safetensors"));
        Export::new().to_file(&open(&store), &out, |_| {}).unwrap();
        assert_eq!(super::read(&out), model, "{}", source.display());
    }
    // A file is known by the name that the user sees, not by its hash.
    let paths: Vec<_> = list(&snapshot).unwrap().iter().map(|tensor| tensor.path.to_path_buf()).collect();
    assert!(paths.contains(&snapshot.join("model-00001-of-00002.safetensors")), "{paths:?}");
    // One file, in a directory and by itself; the link has the name, what it leads to has none that tells the format.
    let one = keep.path().join("one");
    std::fs::create_dir(&one).unwrap();
    symlink("../models--a--b/blobs/9d1e", one.join("model.safetensors")).unwrap();
    for source in [one.clone(), one.join("model.safetensors")] {
        assert_eq!(list(source).unwrap()[0].name, "w");
    }
}

#[test]
fn link_to_anything_but_a_regular_file_is_refused_and_nobody_waits_for_it() {
    let keep = tempfile::tempdir().unwrap();
    let path = |name: &str| keep.path().join(name);
    rustix::fs::mkfifoat(rustix::fs::CWD, path("pipe"), rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)
        .unwrap();
    std::fs::create_dir(path("dir")).unwrap();
    symlink("itself", path("itself")).unwrap();
    let index = r#"{"weight_map":{"w":"shard.safetensors"}}"#;
    for (target, expected) in [
        ("pipe", "a Fifo, expected a regular file"),
        ("dir", "expected a regular file"),
        ("/dev/zero", "a CharacterDevice, expected a regular file"),
        ("nothing", "a link to a file that is not there"),
        ("itself", "symbolic link"),
    ] {
        for shard in ["model.safetensors", "shard.safetensors"] {
            let model = path("model");
            std::fs::create_dir(&model).unwrap();
            let target = Path::new("..").join(target);
            symlink(target, model.join(shard)).unwrap();
            if shard == "shard.safetensors" {
                std::fs::write(model.join("model.safetensors.index.json"), index).unwrap();
            }
            let error = import().source(&model).plan().unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains(shard), "{error}");
            std::fs::remove_dir_all(&model).unwrap();
        }
    }
}
