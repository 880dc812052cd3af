//! `paramstore inspect` with `--stats`, `--histograms`, `--why`: what is in the values, and where every byte goes.

use std::fs::{Metadata, symlink_metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{Place, run};

#[test]
fn statistics_are_listed_filtered_and_sorted() {
    let place = Place::new();
    let store = place.trained("s", 2, &[]);
    let text = run(&["inspect", &store, "--stats", "--sort", "norm"]).expect(0).stdout;
    let list = text.split("\ntensors\n").nth(1).unwrap();
    let names: Vec<_> = list.lines().take(3).map(|line| line.split_whitespace().next().unwrap()).collect();
    assert_eq!(names, ["name", "wte", "bias"]);
    assert!(list.contains("update/weight") && !list.contains("exp_avg"), "{list}");
    assert!(!text.contains('\u{1b}'), "colours in a pipe");

    let seen = run(&["inspect", &store, "--stats", "--filter", "b?as", "--json"]).expect(0).json();
    assert_eq!(seen["tensors"].as_array().unwrap().len(), 1);
    let bias = &seen["tensors"][0]["statistics"];
    // Two steps of AdamW with gradients of one value: each moves by lr, 0.001.
    let ratio = bias["update_rms"].as_f64().unwrap();
    assert!((ratio - 0.001).abs() < 1e-6, "{bias}");
    let moment = &bias["planes"]["exp_avg"];
    assert_eq!((&moment["elements"], &moment["std"], &moment["nan"]), (&64.into(), &0.0.into(), &0.into()));
    let histogram = serde_json::json!([{ "negative": true, "exponent": -5, "count": 64 }]);
    assert_eq!(moment["histogram"], histogram);

    let text = run(&["inspect", &store, "--planes", "--histograms", "--top", "1"]).expect(0).stdout;
    assert!(text.contains("exp_avg_sq") && text.contains("and 1 more"), "{text}");
    assert!(text.contains('\u{2588}') && text.contains("2^"), "{text}");
    let plain = run(&["inspect", &store, "--tensors", "--sort", "name"]).expect(0).stdout;
    assert!(plain.find("bias").unwrap() < plain.find("wte").unwrap() && !plain.contains("norm"), "{plain}");
}

fn blocks(path: &Path) -> u64 {
    let metadata: Metadata = symlink_metadata(path).unwrap();
    let below = if metadata.is_dir() { std::fs::read_dir(path).unwrap().collect() } else { Vec::new() };
    metadata.blocks() * 512 + below.iter().map(|entry| blocks(&entry.as_ref().unwrap().path())).sum::<u64>()
}

#[test]
fn why_adds_up_to_what_the_file_system_counts() {
    let place = Place::new();
    for (name, more) in [
        ("whole", &["--gradient-plane"][..]),
        ("sparse", &["--sparse", "--rows", "r:f32:100x8", "--row-log", "64KiB"]),
    ] {
        let store = place.trained(name, 2, more);
        run(&["checkpoint", "keep", &store, "best"]).expect(0);
        std::fs::create_dir(Path::new(&store).join("mine")).unwrap();
        std::fs::write(Path::new(&store).join("mine/notes.txt"), [7; 5000]).unwrap();
        let seen = run(&["inspect", &store, "--why", "--json"]).expect(0).json();
        let why = &seen["why"];
        assert_eq!(why["bytes_allocated"], blocks(Path::new(&store)), "{why}");
        let parts = why["parts"].as_array().unwrap();
        let sum = |key: &str| parts.iter().map(|part| part[key].as_u64().unwrap()).sum::<u64>();
        assert_eq!(
            (&why["bytes"], &why["bytes_allocated"]),
            (&sum("bytes").into(), &sum("bytes_allocated").into())
        );
        let meta = parts.iter().find(|part| part["what"] == "metadata (meta)").unwrap();
        let of_meta: u64 = why["metadata"].as_object().unwrap().values().map(|v| v.as_u64().unwrap()).sum();
        assert_eq!(meta["bytes"], of_meta);
        let param = |home| parts.iter().find(|part| part["what"] == "param" && part["home"] == home).unwrap();
        // Generation 3 stands in home 1 whole: the second step wrote it.
        assert_eq!((&param(1)["current"], &param(0)["current"]), (&(4 * 32_064).into(), &0.into()));
        assert!(parts.iter().any(|part| part["what"] == "checkpoint best"));
        let text = run(&["inspect", &store, "--why"]).expect(0).stdout;
        assert!(text.contains("where every byte on disk goes") && text.contains("block table"), "{text}");
    }
}
