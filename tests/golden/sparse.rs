//! The cases of rows, through a store on disk: as a tensor of rows, and as one of planes whose blocks do not end where
//! rows do.

use paramstore::{InstructionSet, Options, ParamGroup, ParamStore, Schema, TensorSpec};

use super::case::{Case, Outcome, Tensor, canonical};

const BLOCK_BYTES: u64 = 4096;
const TABLE: &str = "table";

/// The gradients of the rows that the steps of a case name.
pub(crate) struct Batches {
    /// Ids and gradients of each step.
    pub(crate) steps: Vec<(Vec<u64>, Vec<f32>)>,
    /// The rows that some step names, ascending: those whose results are known.
    pub(crate) touched: Vec<u64>,
}

fn gather(store: &ParamStore, quantity: &str, ids: &[u64], width: usize) -> Outcome<Vec<f32>> {
    let mut out = vec![f32::NAN; ids.len() * width];
    store.gather_rows_plane(TABLE, quantity, ids, &mut out).map_err(|error| error.to_string())?;
    Ok(out)
}

/// Compares the rows touched with what the file says, and all other rows with what they were.
fn check(case: &Case, table: &Tensor, batches: &Batches, store: &ParamStore, t: u64) -> Outcome<()> {
    let &[rows, width] = table.shape.as_slice() else { return Err(format!("{} is no table", case.file)) };
    let others: Vec<u64> =
        (0..rows as u64).filter(|row| batches.touched.binary_search(row).is_err()).collect();
    for (i, plane) in case.planes().iter().enumerate() {
        let width = if i > 0 && case.is_by_rows() { 1 } else { width };
        case.check("", plane.0, t, &gather(store, plane.0, &batches.touched, width)?)?;
        let got = gather(store, plane.0, &others, width)?;
        for (id, row) in others.iter().zip(got.chunks(width)) {
            let start = usize::try_from(*id).map_err(|error| error.to_string())? * width;
            let initial = |at: usize| if i == 0 { table.param[start + at] } else { plane.1 };
            if row.iter().enumerate().any(|(at, x)| canonical(*x) != canonical(initial(at))) {
                return Err(format!("{}: row {id} of {} is not what it was, step {t}", case.file, plane.0));
            }
        }
    }
    let clock = store.tensor_clock(TABLE).map_err(|error| error.to_string())?;
    if clock.steps == t { Ok(()) } else { Err(format!("{}: {} steps, not {t}", case.file, clock.steps)) }
}

fn step(case: &Case, store: &mut ParamStore, (ids, gradients): &(Vec<u64>, Vec<f32>)) -> Outcome<()> {
    let text = |error: paramstore::Error| format!("{}: {error}", case.file);
    let mut step = store.begin_step().map_err(text)?;
    step.apply_rows(TABLE, ids, gradients).map_err(text)?;
    step.finish().map(|_| ()).map_err(text)
}

/// Runs a case on an instruction set; every checkpoint is read once at once and once after a commit and a new open.
pub(crate) fn run(case: &Case, isa: InstructionSet, by_rows: bool) -> Outcome<()> {
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    let path = dir.path().join("store");
    let text = |error: paramstore::Error| format!("{}: {error}", case.file);
    let ([table], Some(batches)) = (case.tensors.as_slice(), &case.batches) else {
        return Err(format!("{} holds no table with batches of rows", case.file));
    };
    let shape: Vec<u64> = table.shape.iter().map(|&dim| dim as u64).collect();
    let schema = Schema::new()
        .block_bytes(BLOCK_BYTES)
        .group(ParamGroup::new("all", case.optimizer))
        .row_log_bytes(64 << 10)
        .tensor(if by_rows { TensorSpec::new(TABLE, &shape).rows() } else { TensorSpec::new(TABLE, &shape) });
    let budget = if by_rows { 256 } else { 16 } * BLOCK_BYTES;
    let options = Options::new().memory_budget(budget).threads(2).io_threads(2);
    let options = options.instruction_set(isa);
    let mut store = ParamStore::create(&path, &schema, &options).map_err(text)?;
    store.write(TABLE, &table.param).map_err(text)?;
    for (t, batch) in (1..=case.steps).zip(&batches.steps) {
        step(case, &mut store, batch)?;
        if case.checkpoints.contains(&t) {
            check(case, table, batches, &store, t)?;
            store.commit(b"").map_err(text)?;
            drop(store);
            store = ParamStore::open(&path, &options).map_err(text)?;
            check(case, table, batches, &store, t)?;
        }
    }
    Ok(())
}
