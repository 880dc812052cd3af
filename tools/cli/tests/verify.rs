//! `paramstore verify`.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{Place, closed_pipe, run, take_step};

fn flip(store: &str, file: &str, offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(Path::new(store).join(file)).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
}

#[test]
fn sound_store_ends_with_status_0() {
    let place = Place::new();
    let store = place.trained("s", 2, &[]);
    let seen = run(&["verify", &store, "--json"]).expect(0).json();
    assert_eq!(
        (&seen["sound"], &seen["complete"], &seen["damage_count"]),
        (&true.into(), &true.into(), &0.into())
    );
    assert_eq!(seen["generation"], 3);
    assert!(seen["bytes_read"].as_u64().unwrap() >= 3 * 4 * 32_064);
    let text = run(&["verify", &store]).expect(0).stdout;
    assert!(text.contains("is sound: generation 3"), "{text}");
}

#[test]
fn flipped_byte_is_named_with_tensor_plane_block_and_byte_range() {
    let place = Place::new();
    let store = place.trained("s", 1, &["--block-bytes", "4k"]);
    // Blocks of 1,024 elements: byte 20,000 of a plane is in block 4.
    flip(&store, "exp_avg_sq.0000.0", 20_000);
    let ran = run(&["verify", &store, "--json"]).expect(1);
    let seen = ran.json();
    assert_eq!((&seen["sound"], &seen["damage_count"]), (&false.into(), &1.into()));
    let damage = &seen["damage"][0];
    assert_eq!(damage["tensors"], serde_json::json!(["wte"]));
    assert_eq!((&damage["plane"], &damage["block"]), (&"exp_avg_sq".into(), &4.into()));
    assert_eq!((&damage["offset"], &damage["bytes"]), (&16_384.into(), &4096.into()));
    assert!(damage["file"].as_str().unwrap().ends_with("/exp_avg_sq.0000.0"), "{damage}");
    let text = run(&["verify", &store]).expect(1).stdout;
    for part in [
        "exp_avg_sq.0000.0 is damaged at bytes 16384..20480",
        "tensor \"wte\", plane exp_avg_sq, block 4",
        "1 place",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn damage_in_every_file_is_found_in_one_run() {
    let place = Place::new();
    let store = place.trained("s", 1, &["--block-bytes", "4k"]);
    for plane in ["param", "exp_avg", "exp_avg_sq"] {
        flip(&store, &format!("{plane}.0000.0"), 0);
        flip(&store, &format!("{plane}.0000.0"), 100_000);
    }
    // The second superblock slot holds generation 1, the first generation 2.
    flip(&store, "meta", 4096 + 50);
    let seen = run(&["verify", &store, "--json"]).expect(1).json();
    assert_eq!(seen["damage_count"], 7);
    let listed = run(&["verify", &store, "--json", "--limit", "2"]).expect(1).json();
    assert_eq!((listed["damage"].as_array().unwrap().len(), &listed["damage_count"]), (2, &7.into()));
    let text = run(&["verify", &store, "--limit", "2"]).expect(1).stdout;
    assert!(text.contains("and 5 more (--limit lists more)"), "{text}");
}

#[test]
fn missing_segment_is_damage_and_not_a_reason_to_stop() {
    let place = Place::new();
    let store = place.trained("s", 1, &["--block-bytes", "4k"]);
    std::fs::remove_file(Path::new(&store).join("param.0000.0")).unwrap();
    flip(&store, "exp_avg.0000.0", 0);
    let seen = run(&["verify", &store, "--json"]).expect(1).json();
    // The file, its 33 blocks, and the flipped one.
    assert_eq!(seen["damage_count"], 35);
    let ran = run(&["inspect", &store]).expect(1);
    assert!(ran.stderr.contains("param.0000.0") && ran.stderr.contains("no file"), "{}", ran.stderr);
}

#[test]
fn damage_is_reported_by_the_status_even_if_nobody_reads_the_list() {
    let place = Place::new();
    let store = place.trained("s", 1, &[]);
    assert_eq!(closed_pipe(&["verify", &store]), 0);
    flip(&store, "param.0000.0", 0);
    assert_eq!(closed_pipe(&["verify", &store]), 1);
    assert_eq!(closed_pipe(&["verify", &store, "--json"]), 1);
}

#[test]
fn verify_beside_a_writer_at_work_is_sound() {
    let place = Place::new();
    let store = place.trained("s", 1, &["--block-bytes", "4k"]);
    let options = paramstore::Options::new().memory_budget(16 << 20).threads(1);
    let mut writer = paramstore::ParamStore::open(&store, &options).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Acquire) {
                take_step(&mut writer);
                writer.commit(b"").unwrap();
            }
        });
        for _ in 0..10 {
            run(&["verify", &store]).expect(0);
            run(&["inspect", &store, "--digest"]).expect(0);
        }
        stop.store(true, std::sync::atomic::Ordering::Release);
    });
}

/// What a killed look leaves is taken up: here what one that saw the whole store had noted half way.
#[test]
fn look_goes_on_from_the_file_of_an_earlier_one_and_removes_it() {
    let place = Place::new();
    let store = place.trained("s", 1, &["--block-bytes", "4k"]);
    flip(&store, "exp_avg_sq.0000.0", 20_000);
    let whole = run(&["verify", &store, "--json"]).expect(1).json();
    let file = place.text("look");
    let mut mark = serde_json::json!({
        "uuid": whole["uuid"], "first_generation": whole["generation"], "last_generation": whole["generation"],
        "entries_done": 40, "complete": true, "table_pages": 0, "blocks": 17, "blocks_never_written": 0,
        "bytes_read": 0, "seconds": 5.0, "damage_count": 1, "damage": [{
            "tensors": ["wte"], "plane": "param", "block": 2, "file": "p", "offset": 1, "bytes": 2, "what": "w",
            "got": "g", "expected": "e",
        }],
    });
    std::fs::write(&file, mark.to_string()).unwrap();
    let seen = run(&["verify", &store, "--resume", &file, "--json"]).expect(1).json();
    assert!(!Path::new(&file).exists());
    assert!(seen["seconds"].as_f64().unwrap() > 5.0);
    // The damage of the earlier look, and none twice; blocks before entry 40 are not read again.
    assert_eq!(seen["damage"][0]["block"], 2);
    let blocks = whole["blocks"].as_u64().unwrap();
    assert!(seen["blocks"].as_u64().unwrap() < blocks, "{seen}");

    mark["uuid"] = "another".into();
    std::fs::write(&file, mark.to_string()).unwrap();
    let refused = run(&["verify", &store, "--resume", &file]).expect(2).stderr;
    assert!(refused.contains("another") && Path::new(&file).exists(), "{refused}");
    std::fs::write(&file, "{}").unwrap();
    let refused = run(&["verify", &store, "--resume", &file]).expect(2).stderr;
    assert!(refused.contains("no file of `verify --resume`"), "{refused}");
}

#[test]
fn previous_generation_can_be_looked_at() {
    let place = Place::new();
    let store = place.trained("s", 2, &[]);
    let text = run(&["verify", &store, "--generation", "previous"]).expect(0).stdout;
    assert!(text.contains("is sound: generation 2"), "{text}");
    let seen = run(&["inspect", &store, "--generation", "previous", "--json"]).expect(0).json();
    assert_eq!((&seen["generation"], &seen["step"]), (&2.into(), &1.into()));
    let fresh = place.trained("f", 0, &[]);
    let refused = run(&["inspect", &fresh, "--generation", "previous"]).expect(2).stderr;
    assert!(refused.contains("generation 1 and no other"), "{refused}");
}
