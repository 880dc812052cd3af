//! `paramstore import` and `paramstore export` together, and the files that their tests make and read by hand.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::{Place, run};

/// A tensor of a safetensors file: type, shape, bytes.
pub(super) type Raw = (String, Vec<u64>, Vec<u8>);

/// A tensor of floats.
pub(super) fn floats(shape: &[u64], mut value: impl FnMut(u16) -> f32) -> Raw {
    let len = u16::try_from(shape.iter().product::<u64>()).unwrap();
    ("F32".to_owned(), shape.to_vec(), (0..len).flat_map(|at| value(at).to_le_bytes()).collect())
}

/// Writes a safetensors file, by the words of its format.
pub(super) fn write(path: &Path, tensors: &[(&str, Raw)]) {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, (dtype, shape, bytes)) in tensors {
        let from = data.len();
        data.extend_from_slice(bytes);
        let entry = json!({ "dtype": dtype, "shape": shape, "data_offsets": [from, data.len()] });
        header.insert((*name).to_owned(), entry);
    }
    let header = Value::from(header).to_string().into_bytes();
    let len = u64::try_from(header.len()).unwrap().to_le_bytes();
    std::fs::write(path, [&len[..], &header, &data].concat()).unwrap();
}

/// Reads one.
pub(super) fn read(path: &Path) -> BTreeMap<String, Raw> {
    let file = std::fs::read(path).unwrap();
    let (len, rest) = file.split_first_chunk().unwrap();
    let (header, data) = rest.split_at(usize::try_from(u64::from_le_bytes(*len)).unwrap());
    let header: serde_json::Map<String, Value> = serde_json::from_slice(header).unwrap();
    let tensor = |entry: &Value| {
        let number = |value: &Value| value.as_u64().unwrap();
        let at = |i: usize| usize::try_from(number(&entry["data_offsets"][i])).unwrap();
        let shape = entry["shape"].as_array().unwrap().iter().map(number).collect();
        (entry["dtype"].as_str().unwrap().to_owned(), shape, data[at(0)..at(1)].to_vec())
    };
    let is_tensor = |name: &str| name != "__metadata__";
    header
        .iter()
        .filter(|(name, _)| is_tensor(name))
        .map(|(name, entry)| (name.clone(), tensor(entry)))
        .collect()
}

/// The floats of a tensor.
pub(super) fn values(raw: &Raw) -> Vec<f32> {
    raw.2.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

#[test]
fn store_that_is_exported_and_imported_has_the_same_content() {
    let place = Place::new();
    let store = place.trained("s", 2, &[]);
    let (file, copy) = (place.text("all.safetensors"), place.text("copy"));
    let told = run(&["export", &store, &file, "--with-state", "--json"]).expect(0).json();
    assert_eq!((&told["step"], &told["bytes"]), (&2.into(), &(12 * 32_064 + 3 * 8).into()), "{told}");
    let ran = run(&["import", &copy, &file, "--dry-run"]).expect(0);
    assert!(ran.stdout.contains("exp_avg, exp_avg_sq at 2"), "{}", ran.stdout);
    assert!(!place.path("copy").exists());
    let told = run(&["import", &copy, &file, "--json"]).expect(0).json();
    assert_eq!((&told["step"], &told["tensors"][0]["dtype"]), (&2.into(), &"f32".into()), "{told}");
    let digest =
        |store: &str| run(&["inspect", store, "--digest", "--json"]).expect(0).json()["digest"].clone();
    assert_eq!(digest(&copy), digest(&store));
    assert!(digest(&copy).is_string());
    run(&["verify", &copy]).expect(0);
    // What is there stays.
    let ran = run(&["export", &store, &file]).expect(3);
    assert!(ran.stderr.contains("--force"), "{}", ran.stderr);
    run(&["import", &copy, &file]).expect(3);
    run(&["export", &store, &file, "--force"]).expect(0);
}

#[test]
fn snapshot_of_links_as_hugging_face_keeps_it_comes_in_and_goes_out_in_shards() {
    let place = Place::new();
    let (blobs, snapshot) = (place.path("blobs"), place.path("snapshots/0123"));
    std::fs::create_dir(&blobs).unwrap();
    std::fs::create_dir_all(&snapshot).unwrap();
    let link = |name: &str, hash: &str| {
        std::os::unix::fs::symlink(Path::new("../../blobs").join(hash), snapshot.join(name)).unwrap();
        blobs.join(hash)
    };
    let (one, two) = (floats(&[4, 30], f32::from), floats(&[50], |i| -f32::from(i)));
    write(&link("model-00001-of-00002.safetensors", "aa"), &[("one", one.clone())]);
    write(&link("model-00002-of-00002.safetensors", "bb"), &[("two", two.clone())]);
    let map = json!({ "one": "model-00001-of-00002.safetensors", "two": "model-00002-of-00002.safetensors" });
    let index = json!({ "metadata": {}, "weight_map": map }).to_string();
    std::fs::write(link("model.safetensors.index.json", "cc"), &index).unwrap();
    let (store, out) = (place.text("s"), place.path("out"));
    run(&["import", &store, snapshot.to_str().unwrap()]).expect(0);
    run(&["export", &store, out.to_str().unwrap(), "--shard-size", "300"]).expect(0);
    let text = std::fs::read_to_string(out.join("model.safetensors.index.json")).unwrap();
    let written: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&written["weight_map"], &written["metadata"]["total_size"]), (&map, &680.into()));
    assert_eq!(read(&out.join("model-00001-of-00002.safetensors"))["one"], one);
    assert_eq!(read(&out.join("model-00002-of-00002.safetensors"))["two"], two);
    // An index does not lead out of its directory, by what path ever.
    std::fs::write(place.path("one.safetensors"), "").unwrap();
    for file in ["../one.safetensors", "/etc/passwd", "..", "a/b"] {
        let index = json!({ "weight_map": { "one": file } }).to_string();
        let path = place.path("x.index.json");
        std::fs::write(&path, index).unwrap();
        let ran = run(&["import", &place.text("x"), path.to_str().unwrap()]).expect(3);
        assert!(ran.stderr.contains("plain names of files beside the index"), "{}", ran.stderr);
        assert!(!place.path("x").exists() && !place.path("x.importing").exists());
    }
}
