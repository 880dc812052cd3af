//! Tensors of rows, in and out.

use std::path::Path;

use super::{Model, TheirDtype, adamw, import, is_sound, open, raw, read, write};
use crate::exchange::{Export, Import, Transfer};
use crate::{
    Error, Init, Optimizer, Options, ParamGroup, ParamStore, RowMode, Schema, StepOptions, TensorSpec,
};

const ROWS: usize = 900;
const WIDTH: usize = 24;

fn group(optimizer: &str) -> ParamGroup {
    let mut rule = Optimizer::from_name(optimizer).unwrap();
    if optimizer == "sgd" {
        rule.set("momentum", "0.9").unwrap();
    }
    ParamGroup::new("all", rule)
}

fn writable(path: &Path) -> ParamStore {
    ParamStore::open(path, &Options::new().memory_budget(16 << 20)).unwrap()
}

/// A table of which some rows are updated in each of some steps.
fn trained(path: &Path, optimizer: &str, mode: RowMode) -> ParamStore {
    let table = TensorSpec::new("table", &[ROWS as u64, WIDTH as u64]).row_mode(mode);
    let schema = Schema::new()
        .seed(3)
        .block_bytes(4096)
        .group(group(optimizer))
        .tensor(table.init(Init::Normal { mean: 0.0, std: 1.0 }));
    let mut store = ParamStore::create(path, &schema, &Options::new().memory_budget(16 << 20)).unwrap();
    for at in 0..4 {
        step(&mut store, &[at, 7, 100 * at + 11]);
    }
    store.commit(b"").unwrap();
    store
}

fn step(store: &mut ParamStore, ids: &[u64]) {
    let values = (0..31_u8).map(|i| f32::from(i) * 0.1 - 1.3).cycle();
    let gradients: Vec<f32> = values.take(ids.len() * WIDTH).collect();
    let mut step = store.begin_step_with(StepOptions::default()).unwrap();
    step.apply_rows("table", ids, &gradients).unwrap();
    step.finish().unwrap();
}

fn bits(store: &ParamStore, plane: &str) -> Vec<u32> {
    let per_row = if plane == "row_sum" { 1 } else { WIDTH };
    let mut out = vec![0.0; ROWS * per_row];
    store.read_plane_range_into("table", plane, 0, &mut out).unwrap();
    out.into_iter().map(f32::to_bits).collect()
}

#[test]
fn table_moves_through_a_file_with_unborn_rows_and_state_and_goes_on_with_the_same_bits() {
    for (optimizer, mode) in [
        ("sparseadam", RowMode::Lazy),
        ("adagrad", RowMode::Lazy),
        ("rowwiseadagrad", RowMode::Lazy),
        ("sgd", RowMode::CatchUp),
        ("adamw", RowMode::CatchUp),
    ] {
        let keep = tempfile::tempdir().unwrap();
        let path = |name: &str| keep.path().join(name);
        let mut store = trained(&path("a"), optimizer, mode);
        Export::new().with_state(true).to_file(&store, path("a.safetensors"), |_| {}).unwrap();
        let file = read(&path("a.safetensors"));
        // All rows, those that no step has named too: with their initial values.
        let mut all = vec![0.0; ROWS * WIDTH];
        store.read_into("table", &mut all).unwrap();
        assert_eq!(file["table"].data, all.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>());
        assert!(all[850 * WIDTH..851 * WIDTH].iter().any(|x| *x != 0.0), "an unborn row");

        let schema = Schema::new().block_bytes(4096).group(group(optimizer));
        let import = Import::with_schema(schema).memory_budget(16 << 20).rows(|_| Some(mode));
        let plan = import.source(path("a.safetensors"));
        assert_eq!(plan.plan().unwrap().tensors[0].rows, Some(mode));
        plan.run(path("b"), |_| {}).unwrap();
        let mut copy = writable(&path("b"));
        assert!(copy.tensor("table").unwrap().is_rows());
        assert_eq!(copy.tensor_clock("table").unwrap(), store.tensor_clock("table").unwrap(), "{optimizer}");
        let planes: Vec<_> = store.tensor("table").unwrap().planes().map(str::to_owned).collect();
        for round in 0..3 {
            for plane in &planes {
                assert_eq!(bits(&copy, plane), bits(&store, plane), "{plane} of {optimizer}, round {round}");
            }
            for store in [&mut store, &mut copy] {
                step(store, &[7, 850 + round]);
            }
        }
        copy.commit(b"").unwrap();
        drop(copy);
        assert!(is_sound(&path("b")));
    }
}

#[test]
fn table_larger_than_its_memory_and_its_log_is_imported_in_any_float_type() {
    let keep = tempfile::tempdir().unwrap();
    let path = |name: &str| keep.path().join(name);
    let (rows, width) = (60_000, 64);
    let model: Model = [
        ("f32".to_owned(), raw(TheirDtype::U16, &[rows, 2 * width], 1)),
        ("bf16".to_owned(), raw(TheirDtype::U16, &[rows, width], 2)),
        ("frozen".to_owned(), raw(TheirDtype::U8, &[300], 3)),
    ]
    .map(|(name, mut raw)| {
        // Numbers of moderate size, whatever the bits.
        raw.data.iter_mut().skip(1).step_by(2).for_each(|byte| *byte = 0x3c | *byte & 0x83);
        match name.as_str() {
            "f32" => (raw.dtype, raw.shape) = (TheirDtype::F32, vec![rows, width]),
            "bf16" => raw.dtype = TheirDtype::BF16,
            _ => {}
        }
        (name, raw)
    })
    .into();
    write(&model, &path("a.safetensors"));
    let schema = Schema::new().group(adamw()).row_log_bytes(1 << 20);
    let import = Import::with_schema(schema).memory_budget(12 << 20);
    let rows_of = |name: &str| (name != "frozen").then_some(RowMode::CatchUp);
    import.rows(rows_of).source(path("a.safetensors")).run(path("s"), |_| {}).unwrap();
    let store = open(&path("s"));
    assert!(store.tensor("bf16").unwrap().is_rows() && !store.tensor("frozen").unwrap().is_rows());
    let back = Export::new().select(|name| name != "bf16");
    back.to_file(&store, path("b.safetensors"), |_| {}).unwrap();
    let rounded = Export::new().select(|name| name == "bf16").dtype(crate::Dtype::Bf16);
    rounded.to_file(&store, path("c.safetensors"), |_| {}).unwrap();
    let mut again = read(&path("b.safetensors"));
    again.extend(read(&path("c.safetensors")));
    assert!(again == model);
}

#[test]
fn what_cannot_be_kept_by_rows_is_refused_with_what_could() {
    let keep = tempfile::tempdir().unwrap();
    let file = keep.path().join("a.safetensors");
    let refused = |raw: super::Raw, import: Import<'_>, expected: &str| {
        write(&[("w".to_owned(), raw)].into(), &file);
        let error = import.rows(|_| Some(RowMode::Lazy)).source(&file).plan().unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
        assert!(error.to_string().contains(expected) && error.to_string().contains("\"w\""), "{error}");
    };
    refused(raw(TheirDtype::F32, &[4], 1), import(), "[4], expected two dimensions");
    refused(raw(TheirDtype::F32, &[4, 4, 4], 1), import(), "[4, 4, 4]");
    refused(raw(TheirDtype::I64, &[4, 4], 1), import(), "i64, expected f32, bf16 or f16");
    refused(raw(TheirDtype::F64, &[4, 4], 1), import(), "f64, expected");
    refused(raw(TheirDtype::F32, &[4, 4], 1), import().freeze(|_| true), "one of both");
    // Rounded where that is asked for.
    write(&[("w".to_owned(), raw(TheirDtype::F64, &[4, 4], 1))].into(), &file);
    let plan = import().keep_dtypes(false).rows(|_| Some(RowMode::CatchUp)).source(&file).plan().unwrap();
    assert_eq!((plan.tensors[0].to, plan.tensors[0].rows), (crate::Dtype::F32, Some(RowMode::CatchUp)));
}

#[test]
fn transfer_fills_a_table_of_rows_and_what_a_file_does_not_have_stays_unborn() {
    let keep = tempfile::tempdir().unwrap();
    let path = |name: &str| keep.path().join(name);
    let source = trained(&path("a"), "sparseadam", RowMode::Lazy);
    Export::new().to_file(&source, path("a.safetensors"), |_| {}).unwrap();
    let spec = |name: &str| TensorSpec::new(name, &[ROWS as u64, WIDTH as u64]).rows();
    let schema = Schema::new()
        .group(group("sparseadam"))
        .tensor(spec("table"))
        .tensor(spec("other").init(Init::Constant(0.5)));
    let options = Options::new().memory_budget(16 << 20);
    let mut store = ParamStore::create(path("b"), &schema, &options).unwrap();
    let transfer = Transfer::new().source(path("a.safetensors")).memory_budget(1 << 20);
    let report = transfer.run(&mut store, |_| {}).unwrap();
    assert_eq!((report.matched.len(), report.new.len()), (1, 1));
    store.commit(b"").unwrap();
    drop(store);
    let store = open(&path("b"));
    assert_eq!(bits(&store, "param"), bits(&source, "param"));
    let uses = store.row_uses();
    let born: Vec<_> = uses.iter().map(|of| of.born).collect();
    assert_eq!(born, [ROWS as u64, 0]);
    // Unborn rows go out with their initial values.
    Export::new().select(|name| name == "other").to_file(&store, path("b.safetensors"), |_| {}).unwrap();
    assert_eq!(read(&path("b.safetensors"))["other"].data, 0.5_f32.to_le_bytes().repeat(ROWS * WIDTH));
}
