//! Values of files for tensors that a store has already.

use std::path::Path;

use super::{Model, TheirDtype, adamw, raw, write};
use crate::exchange::Transfer;
use crate::{Dtype, Error, Init, Options, ParamStore, Precision, Schema, TensorSpec};

fn store(path: &Path) -> ParamStore {
    let schema = Schema::new()
        .block_bytes(4096)
        .group(adamw())
        .tensor(TensorSpec::new("blocks.0.up", &[50, 40]).init(Init::Constant(1.0)))
        .tensor(TensorSpec::new("blocks.0.base", &[30, 7]).frozen())
        .tensor(TensorSpec::new("blocks.0.narrow", &[64, 70]).precision(Precision::BF16))
        .tensor(TensorSpec::new("rows", &[9, 5]).rows())
        .tensor(TensorSpec::new("ids", &[3]).stored_as(Dtype::I64))
        .tensor(TensorSpec::new("head", &[4, 4]).init(Init::Normal { mean: 0.0, std: 0.5 }));
    ParamStore::create(path, &schema, &Options::new().memory_budget(32 << 20)).unwrap()
}

#[test]
fn what_has_the_name_and_the_shape_gets_its_values_and_the_rest_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pretrained.safetensors");
    let ones = |dtype, shape: &[usize], bytes: &[u8]| {
        let count = shape.iter().product::<usize>();
        super::Raw { dtype, shape: shape.to_vec(), data: bytes.repeat(count) }
    };
    let model: Model = [
        ("model.layers.0.up", ones(TheirDtype::F32, &[50, 40], &0.75_f32.to_le_bytes())),
        ("model.layers.0.base", ones(TheirDtype::F16, &[30, 7], &[0, 0x3c])),
        ("model.layers.0.narrow", ones(TheirDtype::F64, &[64, 70], &0.1_f64.to_le_bytes())),
        ("rows", ones(TheirDtype::BF16, &[9, 5], &[0x80, 0x3f])),
        ("ids", ones(TheirDtype::I64, &[3], &7_i64.to_le_bytes())),
        ("head", raw(TheirDtype::F32, &[4, 5], 1)),
        ("pooler", raw(TheirDtype::F32, &[4], 2)),
        ("skipped", raw(TheirDtype::F32, &[4], 3)),
    ]
    .map(|(name, raw)| (name.to_owned(), raw))
    .into();
    write(&model, &file);
    let mut store = store(&dir.path().join("store"));
    let rename = |name: &str| (name != "skipped").then(|| name.replace("model.layers", "blocks"));
    let transfer = Transfer::new().source(&file).rename(rename).memory_budget(1 << 20);
    let plan = transfer.plan(&store).unwrap();
    assert_eq!(store.view("blocks.0.up").unwrap()[0].to_bits(), 1.0_f32.to_bits(), "a plan changes nothing");
    let mut told = 0;
    let report = transfer.run(&mut store, |bytes| told = bytes).unwrap();
    assert_eq!((&report, told), (&plan, report.bytes));
    let mut matched: Vec<_> = report.matched.iter().map(|m| m.name.as_str()).collect();
    matched.sort_unstable();
    assert_eq!(matched, ["blocks.0.base", "blocks.0.narrow", "blocks.0.up", "ids", "rows"]);
    assert_eq!(report.new, [("head".to_owned(), Init::Normal { mean: 0.0, std: 0.5 })]);
    let mut left: Vec<_> = report.left.iter().map(|l| format!("{}: {}", l.source, l.why)).collect();
    left.sort_unstable();
    assert_eq!(
        left,
        [
            "head: its shape is [4, 5], that of \"head\" is [4, 4]",
            "pooler: the store has no tensor \"pooler\"",
            "skipped: its name is left out",
        ]
    );
    store.commit(b"").unwrap();
    let all = |name: &str, value: f32| {
        let mut out = vec![0.0; usize::try_from(store.tensor(name).unwrap().elements()).unwrap()];
        store.read_into(name, &mut out).unwrap();
        assert!(out.iter().all(|x| x.to_bits() == value.to_bits()), "{name}: {:?}", &out[..3]);
    };
    all("blocks.0.up", 0.75);
    all("blocks.0.base", 1.0);
    all("blocks.0.narrow", f32::from_bits(0x3dcd_0000));
    all("rows", 1.0);
    let mut ids = [0; 24];
    store.read_bytes("ids", 0, &mut ids).unwrap();
    assert_eq!(ids, [7, 0, 0, 0, 0, 0, 0, 0].repeat(3)[..]);
}

#[test]
fn two_tensors_for_one_name_and_a_damaged_file_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pretrained.safetensors");
    let model: Model = [("a", raw(TheirDtype::F32, &[4, 4], 1)), ("b", raw(TheirDtype::F32, &[4, 4], 2))]
        .map(|(name, raw)| (name.to_owned(), raw))
        .into();
    write(&model, &file);
    let mut store = store(&dir.path().join("store"));
    let twice = Transfer::new().source(&file).rename(|_| Some("head".to_owned()));
    let error = twice.run(&mut store, |_| {}).unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }) && error.to_string().contains("\"head\""), "{error}");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
    let error = Transfer::new().source(&file).run(&mut store, |_| {}).unwrap_err();
    assert!(matches!(error, Error::Foreign(..)), "{error}");
}
