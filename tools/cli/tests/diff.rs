//! `paramstore diff`.

use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{Place, closed_pipe, run, train};

#[test]
fn generations_and_checkpoints_differ_as_far_as_they_moved() {
    let place = Place::new();
    let store = place.trained("s", 2, &[]);
    run(&["checkpoint", "keep", &store, "best"]).expect(0);
    let kept = format!("{store}@best");
    let same = run(&["diff", &store, &kept, "--planes", "all"]).expect(0).stdout;
    assert!(same.contains("the same in every value: 2 of 2 tensors the same"), "{same}");
    assert!(same.contains("known to be the same without reading"), "{same}");
    train(Path::new(&store), 1);
    let ran = run(&["diff", &kept, &store]).expect(1);
    let moved: Vec<_> =
        ran.stdout.lines().skip(5).take(2).filter_map(|line| line.split_whitespace().next()).collect();
    assert!(moved.contains(&"bias") && moved.contains(&"wte"), "{}", ran.stdout);
    assert!(ran.stdout.contains("different: 0 of 2"), "{}", ran.stdout);
    let seen = run(&["diff", &store, &store, "--checkpoint-a", "best", "--json", "--planes", "all"])
        .expect(1)
        .json();
    assert_eq!(
        (&seen["same"], &seen["a"]["step"], &seen["b"]["step"]),
        (&false.into(), &2.into(), &3.into())
    );
    let bias = &seen["tensors"][1]["planes"][0];
    let far = bias["max_abs"].as_f64().unwrap();
    assert!((far - 0.001).abs() < 1e-5 && bias["changed"] == 64, "{bias}");
    assert_eq!(seen["tensors"][0]["planes"].as_array().unwrap().len(), 3);
    let previous = run(&["diff", &format!("{store}@previous"), &kept]).expect(0).stdout;
    assert!(previous.contains("the same in all parameters"), "{previous}");
    assert_eq!(closed_pipe(&["diff", &kept, &store]), 1);
}

#[test]
fn damage_is_no_difference() {
    let place = Place::new();
    let (a, b) = (place.trained("a", 1, &[]), place.trained("b", 1, &[]));
    run(&["diff", &a, &b]).expect(0);
    let file = std::fs::OpenOptions::new().write(true).open(Path::new(&b).join("param.0000.0")).unwrap();
    file.write_all_at(&[0x55], 40_000).unwrap();
    let ran = run(&["diff", &a, &b]).expect(3);
    assert!(ran.stderr.contains("tensor \"wte\", plane param"), "{}", ran.stderr);
}
