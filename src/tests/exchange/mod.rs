//! Files of other programs become stores, and stores become files.

use std::collections::BTreeMap;
use std::path::Path;

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
