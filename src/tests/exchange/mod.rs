//! Files of other programs become stores, and stores become files.

mod kills;
mod links;
mod parsers;
mod rows;
mod transfer;

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;
use safetensors::{Dtype as TheirDtype, SafeTensors, View};

use crate::exchange::{Export, Import};
use crate::{Error, Optimizer, Options, ParamGroup, ParamStore};

/// A tensor as the reference crate wants it.
#[derive(Debug, Clone, PartialEq)]
struct Raw {
    dtype: TheirDtype,
    shape: Vec<usize>,
    data: Vec<u8>,
}

impl View for &Raw {
    fn dtype(&self) -> TheirDtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> std::borrow::Cow<'_, [u8]> {
        (&self.data).into()
    }

    fn data_len(&self) -> usize {
        self.data.len()
    }
}

type Model = BTreeMap<String, Raw>;

fn raw(dtype: TheirDtype, shape: &[usize], seed: u64) -> Raw {
    let len = shape.iter().product::<usize>() * dtype.bitsize() / 8;
    let byte = |at: usize| crate::splitmix::mix(seed << 40 | at as u64).to_le_bytes()[0];
    Raw { dtype, shape: shape.to_vec(), data: (0..len).map(byte).collect() }
}

fn write(model: &Model, path: &Path) {
    safetensors::serialize_to_file(model.iter().map(|(name, raw)| (name.clone(), raw)), None, path).unwrap();
}

/// A file as the reference crate reads it.
fn read(path: &Path) -> Model {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let raw = |view: safetensors::tensor::TensorView<'_>| Raw {
        dtype: view.dtype(),
        shape: view.shape().to_vec(),
        data: view.data().to_vec(),
    };
    file.tensors().into_iter().map(|(name, view)| (name, raw(view))).collect()
}

fn adamw() -> ParamGroup {
    ParamGroup::new("all", Optimizer::from_name("adamw").unwrap())
}

fn open(path: &Path) -> ParamStore {
    ParamStore::open_read_only(path, &Options::new().memory_budget(16 << 20)).unwrap()
}

/// Whether all of a store's checksums fit.
fn is_sound(path: &Path) -> bool {
    crate::inspect::verify(path, &crate::inspect::VerifyOptions::new(), |_| {}).unwrap().is_sound()
}

fn import<'a>() -> Import<'a> {
    Import::new(adamw()).memory_budget(32 << 20)
}

#[test]
fn model_that_goes_through_a_store_comes_out_with_every_byte() {
    let keep = tempfile::tempdir().unwrap();
    let path = |name: &str| keep.path().join(name);
    let model: Model = [
        ("wte", raw(TheirDtype::F32, &[300, 1000], 1)),
        ("h.0.w", raw(TheirDtype::BF16, &[1024, 2049], 2)),
        ("h.0.b", raw(TheirDtype::F16, &[3], 3)),
        ("scale", raw(TheirDtype::F32, &[], 4)),
    ]
    .map(|(name, raw)| (name.to_owned(), raw))
    .into();
    write(&model, &path("a.safetensors"));
    let mut seen = Vec::new();
    let report = import().source(path("a.safetensors")).run(path("store"), |done| seen.push(done)).unwrap();
    assert_eq!((report.tensors, report.bytes), (4, 1_200_000 + 2 * 1024 * 2049 + 6 + 4));
    assert_eq!(seen.last(), Some(&report.bytes));
    let store = open(&path("store"));
    let export = Export::new();
    assert_eq!(export.bytes(&store).unwrap(), report.bytes);
    export.to_file(&store, path("b.safetensors"), |_| {}).unwrap();
    assert_eq!(read(&path("b.safetensors")), model);
    assert!(matches!(
        export.to_file(&store, path("b.safetensors"), |_| {}),
        Err(Error::AlreadyExists { .. })
    ));
    export.force(true).to_file(&store, path("b.safetensors"), |_| {}).unwrap();
    let names: Vec<_> = std::fs::read_dir(keep.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
}

#[test]
fn integers_are_kept_as_they_are_and_come_out_so() {
    let keep = tempfile::tempdir().unwrap();
    let path = |name: &str| keep.path().join(name);
    let types = [
        TheirDtype::BOOL,
        TheirDtype::U8,
        TheirDtype::I8,
        TheirDtype::F8_E4M3,
        TheirDtype::F8_E5M2,
        TheirDtype::I16,
        TheirDtype::U16,
        TheirDtype::I32,
        TheirDtype::U32,
        TheirDtype::I64,
        TheirDtype::U64,
        TheirDtype::F64,
        TheirDtype::F32,
    ];
    let model: Model = (0..).zip(types).map(|(i, t)| (format!("{t:?}"), raw(t, &[3, 700], i))).collect();
    write(&model, &path("a.safetensors"));
    import().source(path("a.safetensors")).run(path("store"), |_| {}).unwrap();
    let store = open(&path("store"));
    assert_eq!(store.tensor("I64").unwrap().planes().count(), 1);
    assert_eq!(store.tensor("F32").unwrap().planes().count(), 3);
    Export::new().to_file(&store, path("b.safetensors"), |_| {}).unwrap();
    assert_eq!(read(&path("b.safetensors")), model);
    // Floats are rounded where that is asked for, integers never.
    Export::new().dtype(crate::Dtype::Bf16).to_file(&store, path("c.safetensors"), |_| {}).unwrap();
    let rounded = read(&path("c.safetensors"));
    assert_eq!((rounded["F32"].dtype, rounded["F64"].dtype), (TheirDtype::BF16, TheirDtype::F64));
    assert_eq!(rounded["U16"], model["U16"]);
}

/// A store of a matrix and two biases.
fn created(path: &Path, optimizer: &str) -> ParamStore {
    let mut rule = Optimizer::from_name(optimizer).unwrap();
    if optimizer == "sgd" {
        rule.set("momentum", "0.9").unwrap();
    }
    let schema = crate::Schema::new()
        .group(ParamGroup::new("all", rule))
        .tensor(crate::TensorSpec::new("w", &[70, 100]))
        .tensor(crate::TensorSpec::new("b", &[5]))
        .tensor(crate::TensorSpec::new("idle", &[5]));
    ParamStore::create(path, &schema, &Options::new().memory_budget(16 << 20)).unwrap()
}

/// The same after three steps.
fn trained(path: &Path, optimizer: &str) -> ParamStore {
    let mut store = created(path, optimizer);
    let gradient: Vec<f32> = (0..7000_u16).map(|i| f32::from(i) * 1e-3 - 2.0).collect();
    for _ in 0..3 {
        let mut step = store.begin_step().unwrap();
        step.apply("w", &gradient).unwrap();
        step.apply("b", &gradient[..5]).unwrap();
        step.finish().unwrap();
    }
    store.commit(b"").unwrap();
    store
}

#[test]
fn run_that_moves_through_a_file_goes_on_with_the_same_bits() {
    for optimizer in ["adamw", "nadam", "sgd", "lion", "adagrad", "rmsprop"] {
        let keep = tempfile::tempdir().unwrap();
        let path = |name: &str| keep.path().join(name);
        let mut store = trained(&path("a"), optimizer);
        let export = Export::new().with_state(true).shard_bytes(30_000);
        let report = export.to_directory(&store, path("files"), |_| {}).unwrap();
        assert!(path("files").join("optimizer.safetensors.index.json").exists() || optimizer != "adamw");
        assert_eq!(report.files.last().unwrap().parent(), Some(path("files").as_path()));
        let group = store.groups()[0].clone();
        Import::new(group).source(path("files")).memory_budget(32 << 20).run(path("b"), |_| {}).unwrap();
        let mut copy = ParamStore::open(path("b"), &Options::new().memory_budget(16 << 20)).unwrap();
        assert_eq!(copy.step(), 3, "{optimizer}");
        for store in [&mut store, &mut copy] {
            let mut step = store.begin_step().unwrap();
            step.apply("w", &vec![0.25; 7000]).unwrap();
            step.apply("b", &[0.25; 5]).unwrap();
            step.apply("idle", &[0.25; 5]).unwrap();
            step.finish().unwrap();
        }
        for name in ["w", "b", "idle"] {
            assert_eq!(store.tensor_clock(name).unwrap(), copy.tensor_clock(name).unwrap(), "{optimizer}");
            let bits = |store: &ParamStore| -> Vec<u32> {
                store.view(name).unwrap().iter().map(|x| x.to_bits()).collect()
            };
            assert_eq!(bits(&store), bits(&copy), "{name} of {optimizer}");
        }
    }
}

#[test]
fn state_that_is_not_complete_is_refused_and_can_be_left_out() {
    let keep = tempfile::tempdir().unwrap();
    let path = |name: &str| keep.path().join(name);
    let floats = |name: &str, shape: &[usize]| (name.to_owned(), raw(TheirDtype::F32, shape, 1));
    let full: Model =
        [floats("w", &[4, 4]), floats("exp_avg.w", &[4, 4]), floats("exp_avg_sq.w", &[4, 4])].into();
    let refused = |model: &Model, expected: &str| {
        write(model, &path("a.safetensors"));
        let error = import().source(path("a.safetensors")).plan().unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }) && error.to_string().contains(expected), "{error}");
        let plan = import().source(path("a.safetensors")).with_state(false).plan().unwrap();
        assert_eq!(plan.tensors.len(), 1);
    };
    refused(&full, "step");
    let mut model = full.clone();
    model.extend([("step".to_owned(), raw(TheirDtype::I64, &[], 9))]);
    model.get_mut("step").unwrap().data = (-1_i64).to_le_bytes().to_vec();
    refused(&model, "negative");
    model.get_mut("step").unwrap().data = 7_i64.to_le_bytes().to_vec();
    write(&model, &path("a.safetensors"));
    let plan = import().source(path("a.safetensors")).plan().unwrap();
    assert_eq!((plan.step, plan.tensors[0].steps), (7, 7));
    model.remove("exp_avg_sq.w");
    refused(&model, "exp_avg, exp_avg_sq");
    model.extend([floats("exp_avg_sq.w", &[4, 3])]);
    refused(&model, "16 floats");
}

#[test]
fn import_that_fails_leaves_nothing_and_what_a_killed_one_left_is_removed() {
    let keep = tempfile::tempdir().unwrap();
    let path = |name: &str| keep.path().join(name);
    write(&[("w".to_owned(), raw(TheirDtype::F32, &[64, 1024], 1))].into(), &path("a.safetensors"));
    let names = || {
        let entries = std::fs::read_dir(keep.path()).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    // Values that break off: the file is cut after its header was read.
    let short = || {
        let file = std::fs::File::options().write(true).open(path("a.safetensors")).unwrap();
        file.set_len(100_000).unwrap();
    };
    let whole = std::fs::read(path("a.safetensors")).unwrap();
    let cut = import().assign(|_| {
        short();
        None
    });
    let error = cut.source(path("a.safetensors")).run(path("s"), |_| {}).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    assert_eq!(names(), ["a.safetensors"]);
    // A killed one: a store that is whole by itself, under the other name.
    std::fs::write(path("a.safetensors"), whole).unwrap();
    drop(created(&path("s.importing"), "adamw"));
    assert!(path("s.importing").join("meta").exists());
    import().source(path("a.safetensors")).run(path("s"), |_| {}).unwrap();
    assert_eq!(names(), ["a.safetensors", "s"]);
    assert!(matches!(
        import().source(path("a.safetensors")).run(path("s"), |_| {}),
        Err(Error::AlreadyExists { .. })
    ));
    // Beside one that runs, and where something else stands.
    let running = created(&path("t.importing"), "adamw");
    let error = import().source(path("a.safetensors")).run(path("t"), |_| {}).unwrap_err();
    assert!(matches!(error, Error::Locked { .. }), "{error}");
    drop(running);
    std::fs::write(path("t.importing").join("notes.txt"), "mine").unwrap();
    let error = import().source(path("a.safetensors")).run(path("t"), |_| {}).unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
    assert!(path("t.importing").join("notes.txt").exists() && path("t.importing").join("meta").exists());
}

#[test]
fn index_reaches_its_shards_and_nothing_else() {
    let keep = tempfile::tempdir().unwrap();
    let path = |name: &str| keep.path().join(name);
    let index = |map: &str| {
        std::fs::write(path("model.safetensors.index.json"), format!("{{\"weight_map\":{map}}}")).unwrap();
        import().source(keep.path()).plan()
    };
    write(&[("w".to_owned(), raw(TheirDtype::F32, &[4], 1))].into(), &path("one.safetensors"));
    write(&[("v".to_owned(), raw(TheirDtype::F16, &[4], 1))].into(), &path("two.safetensors"));
    let both = r#"{"w":"one.safetensors","v":"two.safetensors"}"#;
    assert_eq!(index(both).unwrap().tensors.len(), 2);
    std::fs::create_dir(path("sub")).unwrap();
    std::fs::copy(path("one.safetensors"), path("sub/one.safetensors")).unwrap();
    let absolute = format!("{{\"w\":{:?}}}", path("one.safetensors"));
    for (map, expected) in [
        (r#"{"w":"sub/one.safetensors"}"#, "plain names"),
        (r#"{"w":"../one.safetensors"}"#, "plain names"),
        (absolute.as_str(), "plain names"),
        (r#"{"w":".."}"#, "plain names"),
        (r#"{"w":"sub"}"#, "regular file"),
        (r#"{"w":"sub\\one.safetensors"}"#, "plain names"),
        (r#"{"w":"none.safetensors"}"#, "none.safetensors"),
        (r#"{"w":"one.safetensors","x":"one.safetensors"}"#, "every tensor of the index in its shard"),
        ("{}", "no tensor"),
        (r#"{"w":1}"#, "string"),
        (r#"{"w":"one.safetensors","w":"two.safetensors"}"#, "twice"),
    ] {
        match index(map) {
            Err(error) => assert!(error.to_string().contains(expected), "{error}"),
            Ok(plan) => assert!(expected == "no tensor" && plan.tensors.is_empty(), "{map}"),
        }
    }
}

/// Runs Python where it has these modules; says so where it has not.
fn python(modules: &str, script: &str, arguments: &[&Path]) -> bool {
    let python = |script: &str| {
        let mut command = std::process::Command::new("python3");
        command.args(["-c", script]).args(arguments).output()
    };
    if !python(&format!("import {modules}")).is_ok_and(|ran| ran.status.success()) {
        eprintln!("skipped: python3 has no {modules}");
        return false;
    }
    let ran = python(script).unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    true
}

#[test]
fn python_reads_what_is_exported_and_its_files_are_read() {
    let keep = tempfile::tempdir().unwrap();
    let path = |name: &str| keep.path().join(name);
    drop(trained(&path("s"), "adamw"));
    let store = open(&path("s"));
    Export::new().with_state(true).to_file(&store, path("a.safetensors"), |_| {}).unwrap();
    Export::new().to_npy(&store, "w", path("w.npy"), |_| {}).unwrap();
    let script = r#"
import sys, numpy as np
from safetensors.numpy import load_file, save_file
source, npy, target, npz, packed = sys.argv[1:]
tensors = load_file(source)
assert tensors["step"] == 3 and tensors["exp_avg.w"].shape == (70, 100)
assert np.array_equal(np.load(npy), tensors["w"])
save_file(tensors, target)
np.savez(npz, w=tensors["w"], ids=np.arange(5))
np.savez_compressed(packed, w=tensors["w"], ids=np.arange(5))
"#;
    let files = ["a.safetensors", "w.npy", "b.safetensors", "c.npz", "d.npz"].map(path);
    let arguments: Vec<_> = files.iter().map(std::path::PathBuf::as_path).collect();
    if !python("numpy, safetensors", script, &arguments) {
        return;
    }
    for (file, step, name) in [("b.safetensors", 3, "x"), ("c.npz", 0, "y"), ("d.npz", 0, "z")] {
        import().source(path(file)).run(path(name), |_| {}).unwrap();
        let copy = open(&path(name));
        assert_eq!((copy.step(), &copy.view("w").unwrap()[..]), (step, &store.view("w").unwrap()[..]));
    }
}

fn models() -> impl Strategy<Value = (Model, u64)> {
    let dtype = prop::sample::select(vec![
        TheirDtype::F32,
        TheirDtype::BF16,
        TheirDtype::F16,
        TheirDtype::I64,
        TheirDtype::U8,
        TheirDtype::F64,
    ]);
    let tensor = (dtype, prop::collection::vec(1_usize..40, 0..4), any::<u32>())
        .prop_map(|(dtype, shape, seed)| raw(dtype, &shape, seed.into()));
    (prop::collection::btree_map("[a-z.\"\\\\]{1,12}", tensor, 1..8), 12_u32..16)
        .prop_map(|(model, bits)| (model, 1 << bits))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_model_comes_out_with_every_byte_whatever_the_blocks((model, block_bytes) in models()) {
        let keep = tempfile::tempdir().unwrap();
        let path = |name: &str| keep.path().join(name);
        write(&model, &path("a.safetensors"));
        let schema = crate::Schema::new().group(adamw()).block_bytes(block_bytes);
        let import = Import::with_schema(schema).memory_budget(8 << 20);
        import.source(path("a.safetensors")).run(path("s"), |_| {}).unwrap();
        let store = open(&path("s"));
        Export::new().shard_bytes(5000).to_directory(&store, path("out"), |_| {}).unwrap();
        let mut again = Model::new();
        for entry in std::fs::read_dir(path("out")).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.extension().is_some_and(|extension| extension == "safetensors") {
                again.extend(read(&entry));
            }
        }
        prop_assert_eq!(&again, &model);
        let tensors = crate::exchange::list(path("out")).unwrap();
        prop_assert_eq!(tensors.len(), model.len());
    }
}

#[test]
fn checkpoint_of_pytorch_moves_in_and_out_with_its_state() {
    let keep = tempfile::tempdir().unwrap();
    let path = |name: &str| keep.path().join(name);
    let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/torch/checkpoint.py");
    let make = r#"
import subprocess, sys, torch
tool, pt, out = sys.argv[1:]
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(30, 20), torch.nn.BatchNorm1d(20), torch.nn.Linear(20, 1))
optimizer = torch.optim.AdamW(model.named_parameters())
for _ in range(3):
    model(torch.randn(8, 30)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, pt)
subprocess.run([sys.executable, tool, "to", pt, out], check=True)
"#;
    let (pt, file) = (path("a.pt"), path("a.safetensors"));
    if !python("torch, safetensors", make, &[&tool, &pt, &file]) {
        return;
    }
    import().freeze(|name| name.contains("running_")).source(&file).run(path("s"), |_| {}).unwrap();
    let store = open(&path("s"));
    assert_eq!((store.step(), store.tensor_clock("0.weight").unwrap().steps), (3, 3));
    let (out, back) = (path("b.safetensors"), path("b.pt"));
    Export::new().with_state(true).to_file(&store, &out, |_| {}).unwrap();
    let compare = r#"
import subprocess, sys, torch
tool, pt, source, target = sys.argv[1:]
subprocess.run([sys.executable, tool, "from", source, target], check=True)
before, after = (torch.load(path, weights_only=True) for path in (pt, target))
for name, tensor in before["model"].items():
    assert torch.equal(tensor, after["model"][name]), name
model = torch.nn.Sequential(torch.nn.Linear(30, 20), torch.nn.BatchNorm1d(20), torch.nn.Linear(20, 1))
model.load_state_dict(after["model"])
names = after["optimizer"]["param_groups"][0]["param_names"]
state = {names[number]: values for number, values in after["optimizer"]["state"].items()}
group = before["optimizer"]["param_groups"][0]
for number, name in zip(group["params"], group["param_names"]):
    for key, value in before["optimizer"]["state"][number].items():
        assert torch.equal(value, state[name][key]), (name, key)
"#;
    assert!(python("torch, safetensors", compare, &[&tool, &pt, &out, &back]));
}
