//! `paramstore show`.

use std::path::Path;

use paramstore::{Dtype, Options, ParamGroup, ParamStore, Schema, TensorSpec};

use super::{Place, run, train};

/// A store with a tensor whose values count up, one of integers, and a scalar.
fn counting(place: &Place) -> String {
    let store = place.text("s");
    let adam = paramstore::Optimizer::from_name("adam").unwrap();
    let schema = Schema::new()
        .group(ParamGroup::new("g", adam))
        .tensor(TensorSpec::new("t", &[40, 50]))
        .tensor(TensorSpec::new("ids", &[3]).stored_as(Dtype::I64))
        .tensor(TensorSpec::new("x", &[]));
    let options = Options::new().memory_budget(64 << 20).threads(1);
    let mut made = ParamStore::create(&store, &schema, &options).unwrap();
    let values: Vec<f32> = (0..2000_u16).map(|i| f32::from(i) * 0.5).collect();
    made.write_range("t", 0, &values).unwrap();
    made.write_range("x", 0, &[0.1]).unwrap();
    let ids: Vec<u8> = [7, -1, i64::MAX].into_iter().flat_map(i64::to_le_bytes).collect();
    made.write_bytes("ids", 0, &ids).unwrap();
    made.commit(b"").unwrap();
    store
}

#[test]
fn values_are_printed_as_numpy_prints_them() {
    let place = Place::new();
    let store = counting(&place);
    let shown = |more: &[&str]| run(&[&["show", &store][..], more].concat()).expect(0).stdout;
    let cases: [(&[&str], &str); 8] = [
        (&["t", "[0,:3]"], "[0.0 0.5 1.0]\nt, param: f32 40x50, 3 of it, step 0\n"),
        (&["t", "[-1,-2:]"], "[999.0 999.5]\n"),
        (&["t", "[1:3,::25]"], "[[25.0 37.5]\n [50.0 62.5]]\n"),
        (&["t", "[:,0]", "--plane", "exp_avg"], "[0.0 0.0 0.0"),
        (&["ids"], "[                  7                  -1 9223372036854775807]\n"),
        (&["x"], "0.1\nx, param: f32 scalar, step 0\n"),
        (&["t", "0:0"], "[]\n"),
        (&["t", "[3,4]"], "77.0\n"),
    ];
    for (more, expected) in cases {
        let text = shown(more);
        assert!(text.starts_with(expected), "{more:?}: {text}");
    }
    let whole = shown(&["t"]);
    let expected = "[[  0.0   0.5   1.0 ...  23.5  24.0  24.5]\n [ 25.0  25.5  26.0 ...  48.5  49.0  49.5]\n";
    assert!(whole.starts_with(expected), "{whole}");
    assert_eq!(whole.lines().count(), 8, "{whole}");
    assert_eq!(whole.lines().nth(3), Some(" ..."), "{whole}");
    let all = shown(&["t", "--all"]);
    assert!(!all.contains("...") && all.split_whitespace().count() > 2000, "{all}");
}

#[test]
fn json_has_all_values_of_the_slice() {
    let place = Place::new();
    let store = counting(&place);
    let seen = run(&["show", &store, "t", "[:2,1::20]", "--json"]).expect(0).json();
    assert_eq!(seen["values"], serde_json::json!([[0.5, 10.5, 20.5], [25.5, 35.5, 45.5]]));
    assert_eq!(
        (&seen["shape"], &seen["slice_shape"]),
        (&serde_json::json!([40, 50]), &serde_json::json!([2, 3]))
    );
    let whole = run(&["show", &store, "t", "--json"]).expect(0).json();
    assert_eq!(whole["values"][39].as_array().unwrap().len(), 50);
    let ids = run(&["show", &store, "ids", "[2]", "--json"]).expect(0).json();
    assert_eq!((&ids["values"], &ids["dtype"]), (&i64::MAX.into(), &"i64".into()));
    let scalar = run(&["show", &store, "x", "--json"]).expect(0).json();
    assert_eq!(scalar["values"], 0.1);
}

#[test]
fn what_cannot_be_shown_is_told_with_what_would_be_right() {
    let place = Place::new();
    let store = counting(&place);
    let cases: [(&[&str], &str); 6] = [
        (&["id"], "did you mean ids?"),
        (&["none"], "--tensors` lists all"),
        (&["t", "[40]"], "got index 40 in dimension 0, which has 40"),
        (&["t", "[0,0,0]"], "expected at most 2"),
        (&["t", "[a]"], "START:STOP:STEP"),
        (&["t", "--plane", "grad"], "expected param, exp_avg, exp_avg_sq"),
    ];
    for (more, expected) in cases {
        let ran = run(&[&["show", &store][..], more].concat()).expect(2);
        assert!(ran.stderr.contains(expected), "{more:?}: {}", ran.stderr);
    }
}

#[test]
fn checkpoints_and_the_previous_generation_are_shown() {
    let place = Place::new();
    let store = place.trained("s", 1, &[]);
    run(&["checkpoint", "keep", &store, "first"]).expect(0);
    train(Path::new(&store), 1);
    let bias = |store: &str, more: &[&str]| {
        run(&[&["show", store, "bias", "[0]", "--json"][..], more].concat()).expect(0).json()
    };
    let (now, before) = (bias(&store, &[]), bias(&store, &["--checkpoint", "first"]));
    assert_eq!((&now["step"], &before["step"]), (&2.into(), &1.into()));
    assert_ne!(now["values"], before["values"]);
    for other in ["previous", "first"] {
        assert_eq!(bias(&format!("{store}@{other}"), &[])["values"], before["values"], "{other}");
    }
    let refused = run(&["show", &format!("{store}@second"), "bias"]).expect(2).stderr;
    assert!(refused.contains("no checkpoint is named \"second\""), "{refused}");
}
