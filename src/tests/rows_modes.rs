//! What becomes of rows that a step does not name: nothing, or what a dense run would have done to them.

use proptest::prelude::*;

use super::rows::Source;
use super::{create, memory, open, options};
use crate::optim::{Adadelta, Adagrad, Adam, AdamW, Optimizer, RmsProp, RowwiseAdagrad, Sgd};
use crate::{Error, Init, ParamGroup, ParamStore, RowMode, Schema, TensorSpec};

const ROWS: u64 = 230;
const WIDTH: u64 = 12;

/// Every rule for rows that is not tried elsewhere; of SGD with weight decay, where that has a meaning.
fn optimizers(mode: RowMode) -> Vec<Optimizer> {
    let weight_decay = if mode == RowMode::CatchUp { 0.01 } else { 0.0 };
    vec![
        Optimizer::Sgd(Sgd { lr: 0.1, momentum: 0.9, nesterov: true, weight_decay, ..Sgd::default() }),
        Optimizer::Adagrad(Adagrad { initial_accumulator_value: 0.25, ..Adagrad::default() }),
        Optimizer::Adadelta(Adadelta::default()),
        Optimizer::RmsProp(RmsProp { momentum: 0.5, centered: true, ..RmsProp::default() }),
        Optimizer::Adam(Adam { amsgrad: true, ..Adam::default() }),
        Optimizer::AdamW(AdamW { lr: 0.01, weight_decay: 0.1, ..AdamW::default() }),
    ]
}

/// One table for each rule, kept by rows or not.
fn schema(mode: RowMode, by_rows: bool) -> Schema {
    let mut schema = Schema::new().seed(3).block_bytes(4096);
    if by_rows {
        schema = schema.row_log_bytes(64 << 10);
    }
    for optimizer in optimizers(mode) {
        let name = optimizer.name();
        let spec = TensorSpec::new(name, &[ROWS, WIDTH]).group(name);
        let spec = spec.init(Init::Uniform { low: -1.0, high: 1.0 });
        schema = schema.group(ParamGroup::new(name, optimizer));
        schema = schema.tensor(if by_rows { spec.row_mode(mode) } else { spec });
    }
    schema
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

fn assert_same(rows: &ParamStore, dense: &ParamStore, source: &mut Source) {
    let ids: Vec<u64> = (0..7).map(|_| source.below(ROWS)).collect();
    for info in dense.tensors() {
        for plane in info.planes() {
            let gathered = |store: &ParamStore| {
                let mut out = vec![f32::NAN; ids.len() * usize::try_from(WIDTH).unwrap()];
                store.gather_rows_plane(info.name(), plane, &ids, &mut out).unwrap();
                let mut whole = vec![f32::NAN; usize::try_from(info.elements()).unwrap()];
                store.read_plane_into(info.name(), plane, &mut whole).unwrap();
                (bits(&out), bits(&whole))
            };
            let (got, want) = (gathered(rows), gathered(dense));
            let clock = rows.tensor_clock(info.name()).unwrap();
            let differ = |(got, want): (&Vec<u32>, &Vec<u32>)| {
                let at = got.iter().zip(want).position(|(a, b)| a != b)?;
                Some((at, f32::from_bits(got[at]), f32::from_bits(want[at])))
            };
            let found = differ((&got.0, &want.0)).or(differ((&got.1, &want.1)));
            assert!(found.is_none(), "{plane} of {}: {found:?} after {}", info.name(), clock.steps);
        }
    }
}

/// One step on some tables; a dense store gets the zeros of all other rows too, if rows catch up.
fn step(rows: &mut ParamStore, dense: &mut ParamStore, mode: RowMode, source: &mut Source) {
    let names: Vec<String> = dense.tensors().map(|info| info.name().to_owned()).collect();
    let (mut step, mut dense) = (rows.begin_step().unwrap(), dense.begin_step().unwrap());
    for name in &names {
        if source.below(8) == 0 {
            continue;
        }
        let ids: Vec<u64> = (0..source.below(9)).map(|_| source.below(ROWS)).collect();
        let width = usize::try_from(WIDTH).unwrap();
        let gradients = source.values(ids.len() * width);
        step.apply_rows(name, &ids, &gradients).unwrap();
        if mode == RowMode::Lazy {
            dense.apply_rows(name, &ids, &gradients).unwrap();
            continue;
        }
        let mut whole = vec![0.0; usize::try_from(ROWS * WIDTH).unwrap()];
        for (&id, gradient) in ids.iter().zip(gradients.chunks(width)) {
            let start = usize::try_from(id * WIDTH).unwrap();
            whole[start..start + width].iter_mut().zip(gradient).for_each(|(sum, g)| *sum += g);
        }
        dense.apply(name, &whole).unwrap();
    }
    step.finish().unwrap();
    dense.finish().unwrap();
}

fn history(seed: u64, mode: RowMode) {
    let source = &mut Source(seed);
    let (volume, dense_volume) = (memory(), memory());
    let (few, much) = (options().memory_budget(600 << 10), options().memory_budget(4 << 20));
    let mut rows = create(&volume, &schema(mode, true), &few).unwrap();
    let mut dense = create(&dense_volume, &schema(mode, false), &much).unwrap();
    for _ in 0..40 {
        match source.below(10) {
            0 => {
                for store in [&mut rows, &mut dense] {
                    store.commit(b"").unwrap();
                }
            }
            1 => {
                rows.rollback().unwrap();
                dense.rollback().unwrap();
            }
            2 => {
                drop((rows, dense));
                rows = open(&volume, &few).unwrap();
                dense = open(&dense_volume, &much).unwrap();
            }
            3 => {
                let (start, len) = (source.below(2000), usize::try_from(source.below(100)).unwrap());
                let values = source.values(len);
                for store in [&mut rows, &mut dense] {
                    store.write_range("adamw", start, &values).unwrap();
                }
            }
            4 => {
                let lr = if source.below(2) == 0 { "0.02" } else { "0.01" };
                for store in [&mut rows, &mut dense] {
                    // Under a schedule a row that catches up is elsewhere, but for rules that stand still.
                    let group = if mode == RowMode::Lazy { "adamw" } else { "adagrad" };
                    store.group_mut(group).unwrap().set("lr", lr).unwrap();
                }
            }
            _ => step(&mut rows, &mut dense, mode, source),
        }
        assert_same(&rows, &dense, source);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 6, ..ProptestConfig::default() })]

    #[test]
    fn rows_that_catch_up_have_the_bits_of_a_dense_run(seed in any::<u64>()) {
        history(seed, RowMode::CatchUp);
    }

    #[test]
    fn lazy_rows_have_the_bits_of_rows_of_a_dense_tensor(seed in any::<u64>()) {
        history(seed, RowMode::Lazy);
    }
}

#[test]
fn rowwise_adagrad_keeps_one_sum_for_each_row_and_that_can_be_read() {
    let volume = memory();
    let optimizer = Optimizer::RowwiseAdagrad(RowwiseAdagrad {
        lr: 0.5,
        initial_accumulator_value: 2.0,
        ..RowwiseAdagrad::default()
    });
    // Rows longer than what is summed at a time.
    let spec = TensorSpec::new("table", &[40, 2048]).row_mode(RowMode::CatchUp);
    let schema = Schema::new().block_bytes(65536).group(ParamGroup::new("g", optimizer)).tensor(spec);
    let mut store = create(&volume, &schema, &options().memory_budget(4 << 20)).unwrap();
    let mut step = store.begin_step_with(crate::StepOptions::new().loss_scale(2.0)).unwrap();
    let gradients = [2.0_f32, 4.0, 10.0].map(|g| vec![g; 2048]).concat();
    // Row 7 has the gradient (2 + 10) / 2, and row 3 has 4 / 2.
    step.apply_rows("table", &[7, 3, 7], &gradients).unwrap();
    step.finish().unwrap();
    store.commit(b"").unwrap();
    drop(store);
    let store = open(&volume, &options().memory_budget(4 << 20)).unwrap();
    let mut sums = [0.0; 40];
    store.read_plane_into("table", "row_sum", &mut sums).unwrap();
    assert_eq!(bits(&[sums[7], sums[3], sums[4]]), bits(&[38.0, 6.0, 2.0]));
    let mut some = [0.0; 3];
    store.gather_rows_plane("table", "row_sum", &[3, 0, 7], &mut some).unwrap();
    assert_eq!(bits(&some), bits(&[6.0, 2.0, 38.0]));
    let mut row = vec![0.0; 2048];
    store.gather_rows("table", &[7], &mut row).unwrap();
    assert_eq!(bits(&row), bits(&[-0.5 * 6.0 / 38.0_f32.sqrt(); 2048]));
    assert!(matches!(store.read_plane_into("table", "row_sum", &mut row), Err(Error::Invalid { .. })));
    assert!(matches!(
        store.gather_rows_plane("table", "row_sum", &[3], &mut row),
        Err(Error::Invalid { .. })
    ));
    assert_eq!(store.tensor("table").unwrap().row_mode(), Some(RowMode::CatchUp));
}

#[test]
fn a_rule_that_rows_cannot_have_is_refused_before_anything_is_made() {
    let message = |optimizer: Optimizer, mode: Option<RowMode>| {
        let spec = TensorSpec::new("table", &[40, 4]);
        let spec = mode.map_or(spec.clone(), |mode| spec.row_mode(mode));
        let schema = Schema::new().group(ParamGroup::new("g", optimizer)).tensor(spec);
        let volume = memory();
        let error = create(&volume, &schema, &options()).unwrap_err().to_string();
        assert!(open(&volume, &options()).is_err());
        error
    };
    let named = |name: &str| Optimizer::from_name(name).unwrap();
    let lion = message(named("lion"), Some(RowMode::Lazy));
    assert!(
        lion.starts_with(
            "optimizer of tensor \"table\": got lion, expected an optimizer with a rule for rows"
        )
    );
    let sparse = message(named("sparseadam"), Some(RowMode::CatchUp));
    assert!(sparse.starts_with("optimizer of tensor \"table\": got sparseadam, expected sgd"), "{sparse}");
    let rowwise = message(named("rowwiseadagrad"), None);
    assert!(rowwise.contains("expected a tensor of rows"), "{rowwise}");
}

#[test]
fn rows_whose_rule_was_changed_to_one_without_a_short_form_say_so_and_nothing_is_lost() {
    let volume = memory();
    let spec = TensorSpec::new("table", &[40, 4]).row_mode(RowMode::CatchUp);
    let adam = Optimizer::Adam(Adam::default());
    let schema = Schema::new().group(ParamGroup::new("g", adam)).tensor(spec);
    let mut store = create(&volume, &schema, &options().memory_budget(4 << 20)).unwrap();
    store.group_mut("g").unwrap().set("weight_decay", "0.5").unwrap();
    let mut row = [0.0; 4];
    let error = store.gather_rows("table", &[1], &mut row).unwrap_err().to_string();
    assert!(
        error.starts_with("rows of tensor \"table\" that catch up: got adam with weight_decay 0.5"),
        "{error}"
    );
    let mut step = store.begin_step().unwrap();
    assert!(step.apply_rows("table", &[1], &[1.0; 4]).is_err());
    step.finish().unwrap();
    store.group_mut("g").unwrap().set("weight_decay", "0").unwrap();
    store.gather_rows("table", &[1], &mut row).unwrap();
}

#[test]
fn tasks_of_a_pool_that_gather_at_once_do_not_wait_for_each_other() {
    use rayon::prelude::*;

    let volume = memory();
    let spec = TensorSpec::new("table", &[4000, 4]).row_mode(RowMode::CatchUp);
    let sgd = Optimizer::Sgd(Sgd { momentum: 0.9, ..Sgd::default() });
    let schema = Schema::new().group(ParamGroup::new("g", sgd)).tensor(spec);
    let store = create(&volume, &schema, &options().memory_budget(8 << 20).threads(2)).unwrap();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    let ids: Vec<u64> = (0..4000).collect();
    pool.install(|| {
        (0..200).into_par_iter().for_each(|_| {
            let mut out = vec![1.0; 16_000];
            store.gather_rows("table", &ids, &mut out).unwrap();
            assert!(out.iter().all(|x| x.to_bits() == 0));
        });
    });
}
