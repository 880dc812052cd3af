//! `paramstore repair`.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{Place, run, train};

/// A store of two commits whose newest generation has a damaged block, and a whole copy of it.
fn damaged(place: &Place) -> (String, String) {
    let store = place.trained("s", 2, &["--block-bytes", "4k"]);
    let copy = place.text("copy");
    copy_files(&store, &copy);
    // What was written in the first step and again in the second stands in home 1.
    flip(&store, "exp_avg_sq.0000.1", 20_000);
    (store, copy)
}

fn copy_files(from: &str, to: &str) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), Path::new(to).join(entry.file_name())).unwrap();
    }
}

fn flip(store: &str, file: &str, offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(Path::new(store).join(file)).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
}

fn digest(store: &str) -> String {
    run(&["inspect", store, "--digest", "--json"]).expect(0).json()["digest"].to_string()
}

#[test]
fn a_sound_store_is_left_alone() {
    let place = Place::new();
    let store = place.trained("s", 1, &[]);
    let before = digest(&store);
    let text = run(&["repair", &store]).expect(0).stdout;
    assert!(text.contains("nothing to repair"), "{text}");
    assert!(run(&["repair", &store, "--previous", "--yes", "--json"]).expect(0).json()["done"].is_null());
    assert_eq!(digest(&store), before);
}

#[test]
fn damage_is_shown_with_the_ways_out_and_nothing_is_written_unasked() {
    let place = Place::new();
    let (store, copy) = damaged(&place);
    for arguments in
        [&["repair", &store][..], &["repair", &store, "--previous"], &["repair", &store, "--from", &copy]]
    {
        let text = run(arguments).expect(1).stdout;
        for part in [
            "exp_avg_sq.0000.1 is damaged at bytes 16384..20480",
            "--previous: generation 2, step 1; lost: 1 step (step 2 back to 1)",
            "nothing was changed",
        ] {
            assert!(text.contains(part), "{text}");
        }
        run(&["verify", &store]).expect(1);
    }
}

#[test]
fn damaged_block_is_rebuilt_from_a_copy_and_nothing_is_lost() {
    let place = Place::new();
    let (store, copy) = damaged(&place);
    let text = run(&["repair", &store, "--from", &copy]).expect(1).stdout;
    assert!(text.contains("1 block plane with the very bytes; lost: nothing"), "{text}");
    let done = run(&["repair", &store, "--from", &copy, "--yes", "--json"]).expect(0).json();
    assert_eq!(
        (&done["generation"], &done["step"], &done["lost"]),
        (&4.into(), &2.into(), &"nothing".into())
    );
    run(&["verify", &store]).expect(0);
    assert_eq!(digest(&store), digest(&copy));
}

#[test]
fn newest_generation_is_dropped_and_training_repeats_its_step() {
    let place = Place::new();
    let (store, copy) = damaged(&place);
    let text = run(&["repair", &store, "--previous", "--yes"]).expect(0).stdout;
    assert!(text.contains("step 2 dropped; generation 3, step 1 is in force; lost: 1 step"), "{text}");
    run(&["verify", &store]).expect(0);
    train(Path::new(&store), 1);
    assert_eq!(digest(&store), digest(&copy));
}

#[test]
fn older_content_is_the_last_resort_and_is_told_block_by_block() {
    let place = Place::new();
    let store = place.trained("s", 1, &["--block-bytes", "4k"]);
    let copy = place.text("copy");
    copy_files(&store, &copy);
    train(Path::new(&store), 1);
    flip(&store, "exp_avg_sq.0000.1", 20_000);
    let text = run(&["repair", &store, "--from", &copy]).expect(1).stdout;
    let ways: Vec<_> = text.lines().filter(|line| line.starts_with("  --")).collect();
    assert!(ways[0].contains("--previous") && ways[1].contains("between steps 1 and 2"), "{text}");
    assert!(text.contains("plane exp_avg_sq, block 4: wte"), "{text}");
    run(&["repair", &store, "--from", &copy, "--yes"]).expect(0);
    run(&["verify", &store]).expect(0);
}

#[test]
fn copy_of_another_store_and_a_path_that_is_none_are_refused() {
    let place = Place::new();
    let (store, _) = damaged(&place);
    let other = place.trained("other", 1, &["--block-bytes", "4k"]);
    let refused = run(&["repair", &store, "--from", &other, "--yes"]).expect(2).stderr;
    assert!(refused.contains("copy to rebuild from"), "{refused}");
    run(&["repair", &store, "--from", &place.text("nowhere"), "--yes"]).expect(3);
    run(&["verify", &store]).expect(1);
}

#[test]
fn damaged_block_is_rebuilt_from_a_kept_checkpoint_by_its_name() {
    let place = Place::new();
    let store = place.trained("s", 2, &["--block-bytes", "4k"]);
    let before = digest(&store);
    run(&["checkpoint", "keep", &store, "best"]).expect(0);
    flip(&store, "exp_avg_sq.0000.1", 20_000);
    let text = run(&["repair", &store]).expect(1).stdout;
    assert!(text.contains("--from best: 1 block plane with the very bytes; lost: nothing"), "{text}");
    run(&["repair", &store, "--from", "best", "--yes"]).expect(0);
    run(&["verify", &store]).expect(0);
    assert_eq!(digest(&store), before);
}
