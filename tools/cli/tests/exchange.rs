//! `paramstore import` and `paramstore export`.

use super::{Place, run};

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
