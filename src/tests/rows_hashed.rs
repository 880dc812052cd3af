//! Rows that are found by hashed ids, admitted after some sightings, and expire: against a model of maps.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::rows::Source;
use super::{create, memory, open, options};
use crate::optim::{Optimizer, Sgd};
use crate::{Error, Init, ParamGroup, ParamStore, RowMode, RowUse, Schema, TensorSpec};

const ROWS: u64 = 90;
const ADMISSION: u32 = 3;

fn schema(mode: RowMode) -> Schema {
    let sgd =
        Sgd { lr: 0.5, weight_decay: if mode == RowMode::CatchUp { 0.25 } else { 0.0 }, ..Sgd::default() };
    let spec = TensorSpec::new("table", &[ROWS, 2]).row_mode(mode).hashed_ids(ADMISSION);
    Schema::new()
        .seed(9)
        .block_bytes(4096)
        .row_log_bytes(64 << 10)
        .group(ParamGroup::new("sgd", Optimizer::Sgd(sgd)))
        .tensor(spec.init(Init::Constant(1.0)))
        .tensor(TensorSpec::new("plain", &[5, 2]).row_mode(mode))
}

/// A row, by the book.
#[derive(Debug, Clone, Default)]
struct Row {
    id: u64,
    last: u64,
    count: u32,
    /// The parameters, if it was ever updated.
    values: Option<[f32; 2]>,
}

#[derive(Debug, Clone, Default)]
struct Model {
    rows: BTreeMap<u64, Row>,
    updates: u64,
    collided: u64,
    not_admitted: u64,
    expired: u64,
}

impl Model {
    /// One update by gradients that stand for themselves: no decay.
    fn update(&mut self, rows: &[u64], ids: &[u64], gradients: &[[f32; 2]]) {
        self.updates += 1;
        let mut sums: BTreeMap<u64, (u64, [f32; 2])> = BTreeMap::new();
        for ((&row, &id), gradient) in rows.iter().zip(ids).zip(gradients) {
            let entry = self.rows.entry(row).or_default();
            if entry.count == 0 {
                entry.id = id;
            }
            self.collided += u64::from(entry.id != id);
            entry.count += 1;
            entry.last = self.updates;
            let (times, sum) = sums.entry(row).or_default();
            *times += 1;
            for (sum, g) in sum.iter_mut().zip(gradient) {
                *sum += g;
            }
        }
        for (row, (times, sum)) in sums {
            let entry = self.rows.get_mut(&row).unwrap();
            if entry.count < ADMISSION {
                self.not_admitted += times;
                continue;
            }
            let values = entry.values.get_or_insert([1.0; 2]);
            for (value, g) in values.iter_mut().zip(sum) {
                *value -= 0.5 * g;
            }
        }
    }

    fn expire(&mut self, unseen_for: u64) -> u64 {
        let before = self.rows.len();
        let updates = self.updates;
        self.rows.retain(|_, row| row.last + unseen_for > updates);
        let expired = (before - self.rows.len()) as u64;
        self.expired += expired;
        expired
    }

    fn check(&self, store: &ParamStore) {
        let ids: Vec<u64> = (0..ROWS).collect();
        let mut out = vec![0.0; 2 * ids.len()];
        store.gather_rows("table", &ids, &mut out).unwrap();
        for (row, got) in ids.iter().zip(out.chunks(2)) {
            let want = self.rows.get(row).and_then(|row| row.values).unwrap_or([1.0; 2]);
            assert_eq!(got.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), want.map(f32::to_bits), "{row}");
        }
        let RowUse { born, collided, not_admitted, expired, admission, .. } = store.row_uses()[0].clone();
        let of_model = self.rows.values().filter(|row| row.values.is_some()).count() as u64;
        assert_eq!((born, admission), (of_model, ADMISSION));
        assert_eq!((collided, not_admitted, expired), (self.collided, self.not_admitted, self.expired));
    }
}

fn history(seed: u64) {
    let source = &mut Source(seed);
    let volume = memory();
    let few = options().memory_budget(600 << 10);
    let mut store = create(&volume, &schema(RowMode::Lazy), &few).unwrap();
    let (mut model, mut committed) = (Model::default(), Model::default());
    for _ in 0..60 {
        match source.below(12) {
            0 => {
                store.commit(b"").unwrap();
                committed = model.clone();
            }
            1 => {
                store.rollback().unwrap();
                model = committed.clone();
            }
            2 => {
                drop(store);
                store = open(&volume, &few).unwrap();
                model = committed.clone();
            }
            3 => {
                let unseen_for = source.below(6);
                assert_eq!(store.expire_rows("table", unseen_for).unwrap(), model.expire(unseen_for));
            }
            _ => {
                // Low ids more often; all of them anywhere in 64 bits.
                let id = |source: &mut Source| {
                    let most = 1 + source.below(120);
                    (1 + source.below(most)).wrapping_mul(u64::MAX / 121)
                };
                let ids: Vec<u64> = (0..source.below(30)).map(|_| id(source)).collect();
                let gradients = source.values(2 * ids.len());
                let rows = store.rows_of_ids("table", &ids).unwrap();
                let mut step = store.begin_step().unwrap();
                step.apply_ids("table", &ids, &gradients).unwrap();
                step.finish().unwrap();
                model.update(&rows, &ids, gradients.as_chunks().0);
            }
        }
        model.check(&store);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn ids_find_their_rows_and_every_sighting_is_accounted_for(seed in any::<u64>()) {
        history(seed);
    }
}

#[test]
fn ids_and_rows_are_not_mixed_up() {
    let volume = memory();
    let mut store = create(&volume, &schema(RowMode::Lazy), &options().memory_budget(4 << 20)).unwrap();
    assert!(matches!(store.rows_of_ids("plain", &[1]), Err(Error::Invalid { .. })));
    assert!(matches!(store.expire_rows("nothing", 1), Err(Error::Unknown { .. })));
    let mut step = store.begin_step().unwrap();
    let error = step.apply_rows("table", &[1], &[0.0; 2]).unwrap_err().to_string();
    assert!(error.contains("expected ids that are to be hashed (`apply_ids`)"), "{error}");
    let error = step.apply_ids("plain", &[1], &[0.0; 2]).unwrap_err().to_string();
    assert!(error.contains("it was not created with hashed ids"), "{error}");
    step.finish().unwrap();
}

#[test]
fn an_expired_row_that_catches_up_does_so_from_the_beginning() {
    let volume = memory();
    let mut store = create(&volume, &schema(RowMode::CatchUp), &options().memory_budget(4 << 20)).unwrap();
    let row = store.rows_of_ids("table", &[77]).unwrap();
    let update = |store: &mut ParamStore, ids: &[u64]| {
        let mut step = store.begin_step().unwrap();
        step.apply_ids("table", ids, &vec![1.0; 2 * ids.len()]).unwrap();
        step.finish().unwrap();
    };
    update(&mut store, &[77, 77, 77]);
    update(&mut store, &[]);
    // lr 0.5 and weight decay 0.25: a row shrinks by an eighth with each update.
    let values = |store: &ParamStore| {
        let mut out = [0.0; 2];
        store.gather_rows("table", &row, &mut out).unwrap();
        out.map(f32::to_bits)
    };
    assert_eq!(values(&store), [(0.875_f32 - 1.5) * 0.875; 2].map(f32::to_bits));
    assert_eq!(store.expire_rows("table", 2).unwrap(), 0);
    assert_eq!(store.expire_rows("table", 1).unwrap(), 1);
    assert_eq!(values(&store), [0.875_f32 * 0.875; 2].map(f32::to_bits));
    let unborn = store.digest().unwrap();
    store.commit(b"").unwrap();
    drop(store);
    let store = open(&volume, &options().memory_budget(4 << 20)).unwrap();
    assert_eq!(store.digest().unwrap(), unborn);
    assert_eq!((store.row_uses()[0].born, store.row_uses()[0].expired), (0, 1));
}
