//! Rows of matrices: the bits of a model in plain memory, whatever the blocks, the budget and the threads; and nothing
//! read, written or changed but what was named.

use proptest::prelude::*;

use super::{bits, create, memory, open, options};
use crate::optim::{Adagrad, AdamW, Optimizer, Sgd, SparseAdam, TensorClock};
use crate::storage::MemoryVolume;
use crate::{Error, Init, InstructionSet, Options, ParamGroup, ParamStore, Schema, StepOptions, TensorSpec};

/// Name, rows, width, group: rows that end in the middle of blocks, rows longer than a block, tables that share one.
const TABLES: [(&str, u64, u64, &str); 5] = [
    ("words", 400, 24, "sparseadam"),
    ("long", 7, 2500, "sparseadam"),
    ("counts", 900, 3, "adagrad"),
    ("scalars", 50, 1, "sgd"),
    ("few", 9, 5, "sgd"),
];

fn optimizers() -> [Optimizer; 3] {
    [
        Optimizer::Sgd(Sgd { lr: 0.3, ..Sgd::default() }),
        Optimizer::Adagrad(Adagrad { lr_decay: 0.01, initial_accumulator_value: 0.1, ..Adagrad::default() }),
        Optimizer::SparseAdam(SparseAdam { lr: 0.01, maximize: true, ..SparseAdam::default() }),
    ]
}

fn schema(block_bytes: u64) -> Schema {
    let mut schema = Schema::new().seed(5).block_bytes(block_bytes);
    for optimizer in optimizers().into_iter().chain([Optimizer::AdamW(AdamW::default())]) {
        schema = schema.group(ParamGroup::new(optimizer.name(), optimizer));
    }
    for (name, rows, width, group) in TABLES {
        let spec = TensorSpec::new(name, &[rows, width]).group(group);
        schema = schema.tensor(spec.init(Init::Normal { mean: 0.0, std: 0.5 }));
    }
    schema.tensor(TensorSpec::new("dense", &[3000]).group("adamw").init(Init::Constant(0.5)))
}

/// The same tensors, all tables kept by rows.
pub(super) fn schema_of_records(block_bytes: u64, log_bytes: u64) -> Schema {
    let mut records = Schema::new().seed(5).block_bytes(block_bytes).row_log_bytes(log_bytes);
    for optimizer in optimizers().into_iter().chain([Optimizer::AdamW(AdamW::default())]) {
        records = records.group(ParamGroup::new(optimizer.name(), optimizer));
    }
    for (name, rows, width, group) in TABLES {
        let spec = TensorSpec::new(name, &[rows, width]).group(group).rows();
        records = records.tensor(spec.init(Init::Normal { mean: 0.0, std: 0.5 }));
    }
    records.tensor(TensorSpec::new("dense", &[3000]).group("adamw").init(Init::Constant(0.5)))
}

/// Numbers from a seed.
pub(super) struct Source(pub(super) u64);

impl Source {
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 29)) % end
    }

    pub(super) fn values(&mut self, len: usize) -> Vec<f32> {
        let mut value = || f32::from(u16::try_from(self.below(1 << 16)).unwrap()) / 7001.0 - 4.0;
        (0..len).map(|_| value()).collect()
    }
}

/// A tensor in plain memory.
#[derive(Clone)]
struct Plain {
    clock: TensorClock,
    planes: Vec<Vec<f32>>,
}

impl Plain {
    fn of(store: &ParamStore, name: &str) -> Self {
        let info = store.tensor(name).unwrap();
        let read = |plane| {
            let mut out = vec![0.0; usize::try_from(info.elements()).unwrap()];
            store.read_plane_into(name, plane, &mut out).unwrap();
            out
        };
        Self { clock: store.tensor_clock(name).unwrap(), planes: info.planes().map(read).collect() }
    }

    /// One step on rows, by the book: every sum in the order of positions, every row on its own.
    fn step(
        &mut self,
        optimizer: &Optimizer,
        width: usize,
        ids: &[u64],
        gradients: &[f32],
        scale: Option<f32>,
    ) {
        let (rule, _) = optimizer.prepare_rows(self.clock, "rows").unwrap();
        let mut rows = ids.to_vec();
        rows.sort_unstable();
        rows.dedup();
        for row in rows {
            let mut sum: Option<Vec<f32>> = None;
            for (id, gradient) in ids.iter().zip(gradients.chunks(width)) {
                match &mut sum {
                    _ if *id != row => {}
                    None => sum = Some(gradient.to_vec()),
                    Some(sum) => sum.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += g),
                }
            }
            let mut sum = sum.unwrap();
            if let Some(scale) = scale {
                for sum in &mut sum {
                    *sum /= scale;
                }
            }
            let start = usize::try_from(row).unwrap() * width;
            let mut planes: Vec<_> =
                self.planes.iter_mut().map(|plane| &mut plane[start..start + width]).collect();
            let (param, state) = planes.split_first_mut().unwrap();
            rule.run(InstructionSet::portable(), param, &sum, state);
        }
    }

    fn end_step(&mut self) {
        self.clock.steps += 1;
    }

    fn rows(&self, plane: usize, width: usize, ids: &[u64]) -> Vec<u32> {
        let row = |&id: &u64| &self.planes[plane][usize::try_from(id).unwrap() * width..][..width];
        ids.iter().flat_map(row).map(|x| x.to_bits()).collect()
    }
}

fn gathered(store: &ParamStore, name: &str, plane: &str, width: usize, ids: &[u64]) -> Vec<u32> {
    let mut out = vec![f32::NAN; ids.len() * width];
    store.gather_rows_plane(name, plane, ids, &mut out).unwrap();
    out.iter().map(|x| x.to_bits()).collect()
}

fn assert_same(store: &ParamStore, model: &[Plain]) {
    for ((name, ..), plain) in TABLES.iter().zip(model) {
        let got = Plain::of(store, name);
        assert_eq!(got.clock, plain.clock, "{name}");
        for (got, want) in got.planes.iter().zip(&plain.planes) {
            assert!(got.iter().zip(want).all(|(a, b)| a.to_bits() == b.to_bits()), "{name}");
        }
    }
}

/// One step: some tables, each by one call or two, and sometimes a dense tensor beside them.
fn one_step(store: &mut ParamStore, model: &mut [Plain], source: &mut Source) {
    let scale = (source.below(3) == 0).then_some(3.0_f32);
    let step_options = StepOptions::new();
    let step_options = scale.map_or(step_options, |scale| step_options.loss_scale(scale.into()));
    let mut step = store.begin_step_with(step_options).unwrap();
    if source.below(2) == 0 {
        step.apply("dense", &source.values(3000)).unwrap();
    }
    for ((name, rows, width, group), plain) in TABLES.iter().zip(model) {
        if source.below(3) == 0 {
            continue;
        }
        let optimizer = optimizers().into_iter().find(|optimizer| optimizer.name() == *group).unwrap();
        let width = usize::try_from(*width).unwrap();
        // Two calls name even and odd rows.
        let calls = 1 + source.below(2);
        for call in 0..calls {
            let id = |source: &mut Source| {
                let skewed = 1 + source.below(*rows);
                source.below(skewed) / calls * calls + call
            };
            let len = source.below(30);
            let ids: Vec<_> = (0..len).map(|_| id(source)).filter(|id| id < rows).collect();
            let gradients = source.values(ids.len() * width);
            step.apply_rows(name, &ids, &gradients).unwrap();
            plain.step(&optimizer, width, &ids, &gradients, scale);
            let mut asked = ids;
            asked.extend([source.below(*rows), source.below(*rows)]);
            assert_eq!(gathered(&step, name, "param", width, &asked), plain.rows(0, width, &asked), "{name}");
        }
        plain.end_step();
    }
    step.finish().unwrap();
}

fn history(seed: u64, by_records: bool) {
    let mut source = Source(seed);
    let block_bytes = [4096, 8192, 32 << 10][usize::try_from(source.below(3)).unwrap()];
    let budgets =
        if by_records { [4 << 20, 6 << 20, 16 << 20] } else { [9 * block_bytes, 20 * block_bytes, 16 << 20] };
    let budget = budgets[usize::try_from(source.below(3)).unwrap()];
    let log_bytes = [64 << 10, 256 << 10, 4 << 20][usize::try_from(source.below(3)).unwrap()];
    let schema = if by_records { schema_of_records(block_bytes, log_bytes) } else { schema(block_bytes) };
    let threads = [1, 2, 4][usize::try_from(source.below(3)).unwrap()];
    let isas = InstructionSet::available();
    let isa = isas[usize::try_from(source.below(isas.len() as u64)).unwrap()];
    let options = Options::new().memory_budget(budget).threads(threads).io_threads(2).instruction_set(isa);
    let volume = memory();
    let mut store = create(&volume, &schema, &options).unwrap();
    let mut model: Vec<_> = TABLES.iter().map(|(name, ..)| Plain::of(&store, name)).collect();
    let mut committed = model.clone();
    for _ in 0..if by_records { 25 } else { 10 } {
        match source.below(6) {
            0 => {
                store.commit(b"").unwrap();
                committed.clone_from(&model);
            }
            1 => {
                store.rollback().unwrap();
                model.clone_from(&committed);
            }
            2 => {
                // What was not committed is gone, as after a kill.
                drop(store);
                store = open(&volume, &options).unwrap();
                model.clone_from(&committed);
            }
            _ => one_step(&mut store, &mut model, &mut source),
        }
        assert!(store.stats().held_bytes <= budget);
    }
    assert_same(&store, &model);
    store.commit(b"").unwrap();
    drop(store);
    assert_same(&open(&volume, &options).unwrap(), &model);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn a_random_history_of_rows_gives_the_bits_of_the_model(seed in any::<u64>()) {
        history(seed, false);
    }

    #[test]
    fn a_random_history_of_records_gives_the_bits_of_the_model(seed in any::<u64>()) {
        history(seed, true);
    }
}

/// A table of 400 rows of 24 in blocks of 1024 elements, with three planes, committed.
fn table(volume: &MemoryVolume) -> ParamStore {
    let mut store = create(volume, &schema(4096), &Options::new().memory_budget(16 << 20)).unwrap();
    let ids: Vec<_> = (0..400).collect();
    let mut step = store.begin_step().unwrap();
    step.apply_rows("words", &ids, &Source(1).values(9600)).unwrap();
    step.finish().unwrap();
    store.commit(b"").unwrap();
    store
}

#[test]
fn a_commit_after_a_few_rows_writes_their_blocks_alone_and_gathering_reads_its_blocks_alone() {
    let volume = memory();
    drop(table(&volume));
    let mut store = open(&volume, &options()).unwrap();
    // Row 42 lies in the blocks 0 and 1, since it begins at element 1008; row 300 in block 7.
    let mut step = store.begin_step().unwrap();
    step.apply_rows("words", &[300, 42, 300], &[0.5; 72]).unwrap();
    let mut out = [0.0; 24];
    step.gather_rows("words", &[399], &mut out).unwrap();
    step.finish().unwrap();
    let stats = store.stats();
    assert_eq!(stats.bytes_read, 3 * 3 * 4096 + 4096, "three blocks of three planes, and one of one plane");
    store.commit(b"").unwrap();
    assert_eq!(store.stats().bytes_written, 3 * 3 * 4096);
}

#[test]
fn a_step_on_all_rows_is_the_step_on_the_whole_tensor() {
    let gradients = |name: &str, len: u64| super::gradient(name, len, 1);
    let run = |by_rows: bool| {
        let mut store = create(&memory(), &schema(4096), &options()).unwrap();
        for _ in 0..3 {
            let mut step = store.begin_step().unwrap();
            for (name, rows, width, _) in TABLES {
                let gradient = gradients(name, rows * width);
                if by_rows {
                    // Backwards, which must not matter.
                    let ids: Vec<_> = (0..rows).rev().collect();
                    let backwards: Vec<_> =
                        gradient.rchunks(usize::try_from(width).unwrap()).flatten().copied().collect();
                    step.apply_rows(name, &ids, &backwards).unwrap();
                } else {
                    step.apply(name, &gradient).unwrap();
                }
            }
            step.finish().unwrap();
        }
        store
    };
    let (rows, whole) = (run(true), run(false));
    for (name, .., group) in TABLES {
        let (rows, whole) = (Plain::of(&rows, name), Plain::of(&whole, name));
        assert_eq!(rows.clock, whole.clock);
        // Adagrad's move is rounded in another order there.
        let first = usize::from(group == "adagrad");
        assert_eq!(rows.planes[first..], whole.planes[first..], "{name}");
    }
}

#[test]
fn what_cannot_be_is_refused_with_its_reason_and_changes_nothing() {
    let volume = memory();
    let mut store = table(&volume);
    let before = bits(&store).unwrap();
    let mut out = [7.0; 48];
    let mut message = |name: &str, ids: &[u64], len: usize| {
        let error = store.gather_rows(name, ids, &mut out[..len]).unwrap_err();
        assert!(out.iter().all(|x| x.to_bits() == 7.0_f32.to_bits()));
        error.to_string()
    };
    assert!(message("verbs", &[1], 24).contains("verbs"));
    let expected = "rows of tensor \"dense\": got the shape [3000], expected a tensor of two dimensions";
    assert_eq!(message("dense", &[1], 1), expected);
    let expected = "row id of tensor \"words\": got 400 at position 1, expected ids below 400";
    assert_eq!(message("words", &[399, 400], 48), expected);
    let expected = "memory for rows of tensor \"words\": got 47 elements, expected 48 elements, 2 rows of 24";
    assert_eq!(message("words", &[1, 2], 47), expected);
    let mut one = [0.0; 24];
    assert!(store.gather_rows_plane("words", "momentum_buffer", &[1], &mut one).is_err());

    store.group_mut("sgd").unwrap().set("weight_decay", "0.5").unwrap();
    let mut step = store.begin_step().unwrap();
    let mut refused = |name: &str, ids: &[u64], len: usize| {
        step.apply_rows(name, ids, &vec![1.0; len]).unwrap_err().to_string()
    };
    assert!(refused("verbs", &[1], 24).contains("verbs"));
    assert!(refused("dense", &[1], 1).contains("a tensor of two dimensions"));
    assert!(refused("words", &[u64::MAX, 3], 48).contains("18446744073709551615 at position 0"));
    let expected = "gradients of tensor \"words\": got 49 elements, expected 48 elements, 2 rows of 24";
    assert_eq!(refused("words", &[1, 2], 49), expected);
    assert!(
        refused("few", &[1], 5).contains("got sgd with weight_decay 0.5, expected an optimizer with a rule")
    );

    // A row comes in one call, and a tensor by rows or as a whole.
    step.apply_rows("words", &[3, 5, 3], &[1.0; 72]).unwrap();
    step.apply_rows("words", &[4], &[1.0; 24]).unwrap();
    let error = step.apply_rows("words", &[1, 5, 9], &[1.0; 72]).unwrap_err().to_string();
    assert!(error.contains("row 5 for a second time in this step"), "{error}");
    assert!(step.apply("words", &vec![1.0; 9600]).unwrap_err().to_string().contains("a second update"));
    step.apply("counts", &[1.0; 2700]).unwrap();
    assert!(step.apply_rows("counts", &[1], &[1.0; 3]).unwrap_err().to_string().contains("a second update"));
    step.finish().unwrap();
    assert_eq!((store.step(), store.tensor_clock("few").unwrap().steps), (2, 0));
    assert_eq!(store.tensor_clock("words").unwrap().steps, 2);
    store.rollback().unwrap();
    assert_eq!(bits(&store).unwrap(), before);

    drop(store);
    let reader = ParamStore::open_read_only_in(std::sync::Arc::new(volume), &options());
    let mut reader = reader.unwrap();
    assert!(matches!(reader.begin_step(), Err(Error::ReadOnly { .. })));
    reader.gather_rows("words", &[2, 2], &mut out).unwrap();
    assert_eq!(out[..24], out[24..]);
}

#[test]
fn a_step_that_needs_all_gradients_first_takes_no_rows() {
    let schema = schema(4096).gradient_plane(true);
    let mut store = create(&memory(), &schema, &options()).unwrap();
    let mut step = store.begin_step_with(StepOptions::new().max_norm(1.0)).unwrap();
    let error = step.apply_rows("few", &[1], &[1.0; 5]).unwrap_err().to_string();
    assert!(error.contains("clipping"), "{error}");
    drop(step);
    let mut step = store.begin_step().unwrap();
    step.accumulate("few", &[1.0; 45], 1.0).unwrap();
    assert!(step.apply_rows("few", &[1], &[1.0; 5]).unwrap_err().to_string().contains("a second update"));
    step.apply_rows("scalars", &[1], &[1.0]).unwrap();
    assert!(step.accumulate("scalars", &[1.0; 50], 1.0).is_err());
    step.finish().unwrap();
}

#[test]
fn a_step_on_rows_that_is_dropped_leaves_the_store_mixed_and_the_commit_before_it_in_force() {
    let volume = memory();
    let mut store = table(&volume);
    let before = bits(&store).unwrap();
    let mut step = store.begin_step().unwrap();
    step.apply_rows("words", &[1, 399], &[1.0; 48]).unwrap();
    drop(step);
    assert!(matches!(store.commit(b""), Err(Error::Mixed { .. })));
    assert!(matches!(store.begin_step(), Err(Error::Mixed { .. })));
    let mut out = [0.0; 24];
    store.gather_rows("words", &[1], &mut out).unwrap();
    drop(store);
    let store = open(&volume, &options()).unwrap();
    assert_eq!(bits(&store).unwrap(), before);
}

#[test]
fn an_empty_call_counts_a_step_of_the_tensor_and_sums_are_what_non_finite_counts() {
    let mut store = create(&memory(), &schema(4096), &options()).unwrap();
    let before = bits(&store).unwrap();
    let mut step = store.begin_step().unwrap();
    step.apply_rows("words", &[], &[]).unwrap();
    step.finish().unwrap();
    assert_eq!(store.tensor_clock("words").unwrap().steps, 1);
    assert_eq!(bits(&store).unwrap(), before);
    let mut step = store.begin_step_with(StepOptions::new().loss_scale(0.5)).unwrap();
    let inf = f32::INFINITY;
    step.apply_rows(
        "few",
        &[1, 2, 1],
        &[inf, 1., 1., 1., 1., f32::MAX, 1., 1., 1., 1., -inf, 1., 1., 1., 1.],
    )
    .unwrap();
    assert_eq!(step.finish().unwrap().non_finite, 1);
}
