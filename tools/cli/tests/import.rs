//! `paramstore import`: what each option says it does.

use std::path::Path;

use paramstore::{Dtype, Options, ParamStore};
use serde_json::Value;

use super::exchange::{Raw, floats, read, values, write};
use super::{Place, Ran, run};

/// A model of four tensors, with a prefix that nobody wants, and optimizer state for one of them.
fn model(place: &Place) -> String {
    let whole = |bytes: &[u8]| ("I64".to_owned(), vec![], bytes.to_vec());
    let ids = ("I64".to_owned(), vec![3], (0..3_i64).flat_map(i64::to_le_bytes).collect());
    let tensors: [(&str, Raw); 8] = [
        ("model.wte.weight", floats(&[100, 48], |i| f32::from(i) * 1e-3)),
        ("model.h.0.up.weight", floats(&[64, 80], |i| 1.0 + f32::from(i) * 1e-3)),
        ("model.h.0.norm.bias", floats(&[80], f32::from)),
        ("model.h.0.rotary.inv_freq", floats(&[4], |_| 0.5)),
        ("model.ids", ids),
        ("exp_avg.model.h.0.norm.bias", floats(&[80], |_| 0.25)),
        ("exp_avg_sq.model.h.0.norm.bias", floats(&[80], |_| 0.125)),
        ("step", whole(&9_i64.to_le_bytes())),
    ];
    let path = place.path("model.safetensors");
    write(&path, &tensors);
    path.to_str().unwrap().to_owned()
}

/// Imports the model into `s`, and opens that.
fn imported(place: &Place, more: &[&str]) -> (Ran, ParamStore) {
    let file = model(place);
    let store = place.text("s");
    let ran = run(&[&["import", &store, &file, "--json"], more].concat()).expect(0);
    run(&["verify", &store]).expect(0);
    (ran, open(Path::new(&store)))
}

fn open(path: &Path) -> ParamStore {
    ParamStore::open_read_only(path, &Options::new().memory_budget(16 << 20)).unwrap()
}

fn names(store: &ParamStore) -> Vec<&str> {
    store.tensors().map(|tensor| tensor.name()).collect()
}

fn all(store: &ParamStore, name: &str, plane: &str) -> Vec<f32> {
    let elements = store.tensor(name).unwrap().elements();
    let mut out = vec![0.0; usize::try_from(elements).unwrap()];
    store.read_plane_range_into(name, plane, 0, &mut out).unwrap();
    out
}

#[test]
fn names_are_filtered_by_the_file_and_mapped_in_order() {
    let place = Place::new();
    let maps = ["--map", "^model\\.=>", "--map", r"h\.(\d+)=>blocks.$1", "--map", "blocks=>layer"];
    let filter = ["--only", "norm", "--only", "^model.h", "--skip", "rotary"];
    let (ran, store) = imported(&place, &[&maps[..], &filter].concat());
    assert_eq!(names(&store), ["layer.0.up.weight", "layer.0.norm.bias"]);
    let told = ran.json();
    assert_eq!(told["tensors"][1]["source"], "model.h.0.norm.bias", "{told}");
    assert_eq!(told["tensors"][1]["planes"], serde_json::json!(["exp_avg", "exp_avg_sq"]), "state follows");
    assert_eq!((store.step(), store.tensor_clock("layer.0.norm.bias").unwrap().steps), (9, 9));
    assert!(
        all(&store, "layer.0.norm.bias", "exp_avg_sq").iter().all(|x| x.to_bits() == 0.125_f32.to_bits())
    );
    // Two tensors of one name, a pattern that is none, and no tensor at all.
    let file = model(&place);
    let wrong = |more: &[&str], expected: &str| {
        let ran = run(&[&["import", &place.text("x"), &file], more].concat()).expect(2);
        assert!(ran.stderr.contains(expected), "{}", ran.stderr);
        assert!(!place.path("x").exists());
    };
    wrong(&["--map", ".*weight=>w"], "one tensor of the files");
    wrong(&["--map", "x"], "REGEX=>TEXT");
    wrong(&["--only", "("], "regex parse error");
    wrong(&["--only", "nothing"], "no tensor");
}

#[test]
fn groups_take_the_first_pattern_and_their_own_hyperparameters() {
    let place = Place::new();
    let groups = ["--group", "norm|bias=no-decay", "--group", "weight=rest", "--group", "up=never"];
    let set = ["--group-set", "no-decay:weight_decay=0", "--group-set", "rest:lr=0.5"];
    let rule = ["--optimizer", "sgd", "--momentum", "0.9", "--lr", "0.25", "--weight-decay", "0.1"];
    let (ran, store) = imported(&place, &[&groups[..], &set, &rule, &["--no-state"]].concat());
    let group = |name: &str| store.tensor(name).unwrap().group().to_owned();
    assert_eq!(group("model.h.0.norm.bias"), "no-decay");
    assert_eq!(group("model.h.0.up.weight"), "rest");
    assert_eq!(group("model.h.0.rotary.inv_freq"), "default");
    let settings: Vec<_> = store.groups().iter().map(|group| format!("{:?}", group.optimizer())).collect();
    assert!(settings[0].contains("lr: 0.25") && settings[0].contains("weight_decay: 0.1"), "{settings:?}");
    assert!(settings[1].contains("lr: 0.25") && settings[1].contains("weight_decay: 0.0"), "{settings:?}");
    assert!(settings[2].contains("lr: 0.5") && settings[2].contains("momentum: 0.9"), "{settings:?}");
    let planes: Vec<_> = store.tensor("model.wte.weight").unwrap().planes().collect();
    assert_eq!(planes, ["param", "momentum_buffer"]);
    assert!(!ran.stderr.contains("norm|bias"), "{}", ran.stderr);
    assert_eq!(store.step(), 0, "--no-state");
    let file = model(&place);
    let ran = run(&["import", &place.text("x"), &file, "--group-set", "none:lr=1"]).expect(2);
    assert!(ran.stderr.contains("no group is named \"none\", expected one of default"), "{}", ran.stderr);
    // State of another rule is not taken for its own.
    let ran = run(&["import", &place.text("x"), &file, "--optimizer", "lion"]).expect(2);
    assert!(ran.stderr.contains("exp_avg, as lion keeps"), "{}", ran.stderr);
}

#[test]
fn frozen_tensors_have_one_home_and_no_state_and_idle_patterns_are_told() {
    let place = Place::new();
    let (ran, store) = imported(&place, &["--freeze", "wte", "--freeze", "nothing", "--group", "none=g"]);
    let is_frozen = |name: &str| store.tensor(name).unwrap().is_frozen();
    assert!(is_frozen("model.wte.weight") && is_frozen("model.ids") && !is_frozen("model.h.0.up.weight"));
    assert_eq!(store.tensor("model.wte.weight").unwrap().planes().collect::<Vec<_>>(), ["frozen"]);
    let warned: Vec<_> = ran.stderr.lines().collect();
    assert_eq!(
        warned,
        [
            "warning: --freeze \"nothing\" matches no tensor of the store",
            "warning: --group \"none\" matches no tensor of the store",
        ]
    );
    let told = ran.json();
    let frozen = |at: usize| (told["tensors"][at]["name"].clone(), told["tensors"][at]["frozen"].clone());
    assert_eq!(frozen(0), ("model.wte.weight".into(), true.into()));
    assert_eq!(frozen(1), ("model.h.0.up.weight".into(), false.into()));
    // Trained for a step, it has not moved.
    let path = place.path("s");
    let before = all(&store, "model.wte.weight", "param");
    drop(store);
    let mut store = ParamStore::open(&path, &Options::new().memory_budget(16 << 20)).unwrap();
    let mut step = store.begin_step().unwrap();
    step.apply("model.h.0.up.weight", &vec![1.0; 5120]).unwrap();
    step.apply("model.h.0.norm.bias", &[1.0; 80]).unwrap();
    step.apply("model.h.0.rotary.inv_freq", &[1.0; 4]).unwrap();
    step.finish().unwrap();
    store.commit(b"").unwrap();
    assert_eq!(all(&store, "model.wte.weight", "param"), before);
    assert_eq!(store.step(), 10);
}

#[test]
fn types_are_those_of_the_file_unless_an_option_says_otherwise() {
    let place = Place::new();
    let (up, bias, wte) = ("model.h.0.up.weight", "model.h.0.norm.bias", "model.wte.weight");
    for (more, expected) in [
        (&[][..], [Dtype::F32, Dtype::F32, Dtype::F32]),
        (&["--params", "bf16"], [Dtype::Bf16, Dtype::F32, Dtype::F32]),
        (&["--params", "f16", "--everywhere"], [Dtype::F16, Dtype::F16, Dtype::F16]),
        (&["--state", "bf16"], [Dtype::Bf16, Dtype::F32, Dtype::F32]),
        (&["--state", "compact", "--keep-dtype"], [Dtype::F32, Dtype::F32, Dtype::F32]),
    ] {
        let place = Place::new();
        let (ran, store) = imported(&place, more);
        let dtype = |name: &str| store.tensor(name).unwrap().dtype();
        assert_eq!([up, bias, wte].map(dtype), expected, "{more:?}: {}", ran.stdout);
        assert_eq!(dtype("model.ids"), Dtype::I64);
        // 1.0 and every eighth thousandth behind it are rounded as IEEE says: here, one value by hand.
        let third = all(&store, up, "param")[3];
        let right = match expected[0] {
            Dtype::Bf16 => 1.0_f32,
            Dtype::F16 => 1.002_929_7,
            _ => 1.003,
        };
        assert_eq!(third.to_bits(), right.to_bits(), "{more:?}");
        let moments = store.tensor(up).unwrap().plane_dtype("exp_avg").unwrap();
        let narrow = matches!(more.get(1), Some(&"bf16" | &"compact")) && more[0] == "--state";
        assert_eq!(moments != Dtype::F32, narrow, "{more:?}: {moments:?}");
    }
    let (_, store) = imported(&place, &["--moments", "q8", "--params", "f32"]);
    let info = store.tensor(up).unwrap();
    assert!(info.plane_dtype("exp_avg").unwrap().name().starts_with("q8") && info.dtype() == Dtype::F32);
    let file = model(&place);
    run(&["import", &place.text("x"), &file, "--keep-dtype", "--params", "f32"]).expect(2);
}

#[test]
fn tables_of_embeddings_are_kept_by_rows_where_that_is_asked_for() {
    let place = Place::new();
    let rows = ["--rows", "wte", "--row-mode", "catch-up", "--row-log", "128KiB", "--optimizer", "adamw"];
    let (ran, store) = imported(&place, &rows);
    let told = ran.json();
    assert_eq!(
        (&told["tensors"][0]["rows"], &told["tensors"][1]["rows"]),
        (&"catch-up".into(), &Value::Null)
    );
    let info = store.tensor("model.wte.weight").unwrap();
    assert_eq!((info.is_rows(), info.row_mode().map(paramstore::RowMode::name)), (true, Some("catch-up")));
    assert_eq!(store.row_log_bytes().1, 128 << 10);
    let out = place.path("out.safetensors");
    drop(store);
    run(&["export", &place.text("s"), out.to_str().unwrap(), "--tensor", "model.wte.weight"]).expect(0);
    let file = read(&place.path("model.safetensors"));
    assert_eq!(read(&out)["model.wte.weight"], file["model.wte.weight"]);
    let text =
        run(&["import", &place.text("x"), &model(&place), "--rows", "wte", "--dry-run"]).expect(0).stdout;
    assert!(text.contains("new, lazy rows"), "{text}");
    let refused = |more: &[&str], expected: &str| {
        let ran = run(&[&["import", &place.text("x"), &model(&place)], more].concat()).expect(2);
        assert!(ran.stderr.contains(expected), "{}", ran.stderr);
    };
    refused(&["--rows", "bias"], "expected two dimensions");
    refused(&["--rows", "wte", "--freeze", "wte"], "one of both");
    refused(&["--row-mode", "catch-up"], "--rows");
}

#[test]
fn blocks_gradient_plane_and_sparse_files_are_as_asked_for() {
    let place = Place::new();
    let (_, store) = imported(&place, &["--block-bytes", "4KiB", "--gradient-plane", "--sparse"]);
    drop(store);
    let told = run(&["inspect", &place.text("s"), "--json"]).expect(0).json();
    let text = told.to_string();
    assert!(text.contains("\"grad\""), "{text}");
    let (_, store) = {
        std::fs::remove_dir_all(place.path("s")).unwrap();
        imported(&place, &["--optimizer", "adamw"])
    };
    drop(store);
    let full = run(&["inspect", &place.text("s"), "--json"]).expect(0).json();
    assert!(!full.to_string().contains("\"grad\""));
    let block =
        |told: &Value| told["block_sizes"][0]["param_bytes"].as_u64().unwrap_or_else(|| panic!("{told}"));
    assert!(block(&told) == 4096 && block(&full) > 4096, "{told} {full}");
    let allocated = |told: &Value| told["bytes_allocated"].as_u64().unwrap_or_else(|| panic!("{told}"));
    assert!(allocated(&told) < allocated(&full), "{told}");
}

#[test]
fn types_that_no_store_holds_are_refused_or_left_out() {
    let place = Place::new();
    let path = place.path("c.safetensors");
    write(&path, &[("w", floats(&[4], |_| 1.0)), ("z", ("C64".to_owned(), vec![2], vec![0; 16]))]);
    let (file, store) = (path.to_str().unwrap(), place.text("s"));
    let ran = run(&["import", &store, file]).expect(2);
    assert!(ran.stderr.contains("\"z\"") && ran.stderr.contains("C64"), "{}", ran.stderr);
    let told = run(&["import", &store, file, "--skip-unsupported", "--json"]).expect(0).json();
    assert_eq!(told["skipped"], serde_json::json!([{ "name": "z", "type": "C64", "shape": [2] }]));
    assert_eq!(names(&open(Path::new(&store))), ["w"]);
    run(&["import", &place.text("t"), file, "--skip", "^z$"]).expect(0);
    assert_eq!(names(&open(&place.path("t"))), ["w"]);
}

#[test]
fn several_files_of_several_formats_make_one_store() {
    let place = Place::new();
    let (one, two) = (place.path("one.safetensors"), place.path("dir/model.safetensors"));
    std::fs::create_dir(place.path("dir")).unwrap();
    write(&one, &[("a", floats(&[6], f32::from))]);
    write(&two, &[("b", floats(&[2, 3], |i| f32::from(i) + 0.5))]);
    run(&["import", &place.text("first"), two.to_str().unwrap()]).expect(0);
    run(&["export", &place.text("first"), &place.text("c.npy")]).expect(0);
    let store = place.text("s");
    run(&["import", &store, one.to_str().unwrap(), &place.text("dir"), &place.text("c.npy")]).expect(0);
    let store = open(Path::new(&store));
    assert_eq!(names(&store), ["a", "b", "c"]);
    assert_eq!(all(&store, "c", "param"), values(&read(&two)["b"]));
    assert_eq!(store.tensor("c").unwrap().shape(), [2, 3]);
}

/// A model far larger than what the process may allocate at all; and one too small a budget for a block.
#[cfg(target_os = "linux")]
#[test]
fn memory_is_a_limit_whatever_the_size_of_the_model() {
    let place = Place::new();
    let path = place.path("big.safetensors");
    let bytes: Vec<u8> = (0..96_u32 << 18).flat_map(|i| (i >> 3).to_le_bytes()).map(|b| b & 0x3f).collect();
    write(&path, &[("w", ("F32".to_owned(), vec![96 << 18], bytes))]);
    let (store, out) = (place.text("s"), place.path("out.safetensors"));
    // RLIMIT_DATA, in KiB: half of the model.
    let limited = |arguments: &[&str]| {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", "ulimit -d 49152 && exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_paramstore")]);
        let ran = command.args(arguments).output().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    };
    let rule = ["--optimizer", "sgd", "--memory", "8MiB"];
    limited(&[&["import", &store, path.to_str().unwrap()], &rule[..]].concat());
    limited(&["export", &store, out.to_str().unwrap(), "--memory", "8MiB"]);
    assert!(read(&out) == read(&path));
    let little = ["--block-bytes", "4MiB", "--memory", "8MiB"];
    let ran = run(&[&["import", &place.text("x"), path.to_str().unwrap()], &little[..]].concat()).expect(2);
    assert!(ran.stderr.contains("memory") || ran.stderr.contains("budget"), "{}", ran.stderr);
    assert!(!place.path("x").exists() && !place.path("x.importing").exists());
}
