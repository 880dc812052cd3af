//! Rows that catch up come to where a dense run has them.

use proptest::prelude::*;

use super::super::*;
use super::{Tensor, optimizer};

/// Every rule that has a short form of steps without a gradient, with the choices that change it.
fn variants() -> Vec<Optimizer> {
    let choices: [(&str, &[(&str, &str)]); 17] = [
        ("sgd", &[]),
        ("sgd", &[("weight_decay", "0.01")]),
        ("sgd", &[("momentum", "0.9")]),
        ("sgd", &[("momentum", "0.95"), ("dampening", "0.5"), ("weight_decay", "0.02"), ("maximize", "on")]),
        ("sgd", &[("momentum", "0.8"), ("nesterov", "on"), ("weight_decay", "0.01")]),
        ("sgd", &[("lr", "0.1"), ("momentum", "0.99"), ("weight_decay", "0.001")]),
        ("adagrad", &[("lr_decay", "0.01")]),
        ("rowwiseadagrad", &[]),
        ("adadelta", &[]),
        ("rmsprop", &[]),
        ("rmsprop", &[("momentum", "0.9"), ("centered", "on"), ("maximize", "on")]),
        ("rmsprop", &[("alpha", "0.4"), ("centered", "on")]),
        ("adam", &[]),
        ("adam", &[("amsgrad", "on"), ("beta1", "0.4")]),
        ("adamw", &[("lr", "0.05"), ("weight_decay", "0.1")]),
        ("adamw", &[("lr", "0.05"), ("beta1", "0.3"), ("maximize", "on")]),
        ("adamw", &[("lr", "0.02"), ("weight_decay", "0.2"), ("amsgrad", "on")]),
    ];
    choices.iter().map(|(name, settings)| optimizer(name, settings)).collect()
}

/// A row that is updated in some steps only, as a dense run has it and as one that catches up.
struct Twins {
    rule: Optimizer,
    dense: Tensor,
    row: Tensor,
    /// Updates of the tensor that the row has seen.
    done: u64,
    /// The largest values of the dense run in steps without a gradient, parameters and planes; and its largest move there.
    largest: f32,
    largest_state: Vec<f32>,
    furthest: f32,
}

impl Twins {
    fn new(rule: Optimizer, param: &[f32]) -> Self {
        let row = Tensor::new(&rule, param);
        let largest_state = vec![0.0; row.planes.len()];
        Self { rule, dense: row.clone(), row, done: 0, largest: 0.0, largest_state, furthest: 0.0 }
    }

    /// Steps that do not name the row.
    fn miss(&mut self, steps: u64) {
        let zeros = vec![0.0; self.row.param.len()];
        for _ in 0..steps {
            let before = self.dense.param.clone();
            for (largest, plane) in self.largest_state.iter_mut().zip(&self.dense.planes) {
                *largest = plane.iter().fold(*largest, |largest, x| largest.max(x.abs()));
            }
            self.dense.step(&self.rule, &zeros);
            for (after, before) in self.dense.param.iter().zip(before) {
                self.largest = self.largest.max(before.abs());
                self.furthest = self.furthest.max((after - before).abs());
            }
        }
    }

    fn caught_up(&self) -> Tensor {
        let mut row = self.row.clone();
        let mut catch_up = self.rule.catch_up(self.dense.clock.steps, "row").unwrap();
        if self.done.is_multiple_of(2) {
            catch_up.prepare_from(self.done);
        }
        let mut state: Vec<&mut [f32]> = row.planes.iter_mut().map(Vec::as_mut_slice).collect();
        catch_up.run(InstructionSet::detect(), self.done, &mut row.param, &mut state);
        row.clock = self.dense.clock;
        row
    }

    /// A step that names it.
    fn update(&mut self, grad: &[f32]) {
        self.row = self.caught_up();
        self.dense.step(&self.rule, grad);
        self.row.step(&self.rule, grad);
        self.done = self.dense.clock.steps;
    }

    /// What `TensorSpec::row_mode` promises after `k` missed steps.
    fn check(&self, k: u16) -> std::result::Result<(), String> {
        let (row, k) = (self.caught_up(), f32::from(k));
        let param_bound = k * 2_f32.powi(-23) * self.largest + 2_f32.powi(-24) * self.furthest;
        for (a, b) in row.param.iter().zip(&self.dense.param) {
            if (a - b).abs() > param_bound {
                return Err(format!("{:?}: {a} and {b}, bound {param_bound}", self.rule));
            }
        }
        for ((a, b), largest) in row.planes.iter().zip(&self.dense.planes).zip(&self.largest_state) {
            for (a, b) in a.iter().zip(b) {
                if (a - b).abs() > k * 2_f32.powi(-22) * largest + 2_f32.powi(-136) {
                    return Err(format!("{:?}: {a} and {b} of up to {largest}", self.rule));
                }
            }
        }
        Ok(())
    }
}

fn grad(source: &mut u64, len: usize) -> Vec<f32> {
    let mut next = || {
        *source = source.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        f32::from(u16::try_from(*source >> 48).unwrap()) / 8192.0 - 4.0
    };
    (0..len).map(|_| next()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn gaps_that_are_taken_one_by_one_give_the_bits_of_a_dense_run(
        gaps in proptest::collection::vec(0_u64..=64, 1..6),
        seed in any::<u64>(),
        len in 1_usize..40,
    ) {
        for rule in variants() {
            let mut source = seed;
            let mut twins = Twins::new(rule, &grad(&mut source, len));
            for &gap in &gaps {
                twins.miss(gap);
                prop_assert_eq!(twins.caught_up().bits(), twins.dense.bits(), "{:?} after {}", rule, gap);
                twins.update(&grad(&mut source, len));
            }
            prop_assert_eq!(twins.row.bits(), twins.dense.bits(), "{:?}", rule);
        }
    }

    #[test]
    fn long_gaps_stay_within_the_bound(seed in any::<u64>(), before in 1_u64..20, gap in 65_u16..3000) {
        for rule in variants() {
            let mut source = seed;
            let mut twins = Twins::new(rule, &grad(&mut source, 5));
            for _ in 0..before {
                twins.update(&grad(&mut source, 5));
            }
            twins.miss(gap.into());
            if let Err(error) = twins.check(gap) {
                return Err(TestCaseError::fail(error));
            }
        }
    }
}

#[test]
fn a_row_of_any_width_catches_up_in_parts() {
    let mut source = 7;
    let rule = optimizer("adamw", &[("lr", "0.1")]);
    let mut twins = Twins::new(rule, &grad(&mut source, 2500));
    twins.update(&grad(&mut source, 2500));
    twins.miss(3);
    assert_eq!(twins.caught_up().bits(), twins.dense.bits());
}

#[test]
fn steps_without_number_come_to_an_end_at_once() {
    let rule = optimizer("adamw", &[("lr", "0.1"), ("weight_decay", "0.5")]);
    let mut catch_up = rule.catch_up(u64::MAX, "row").unwrap();
    catch_up.prepare_from(0);
    let (mut param, mut m, mut v) = ([1.0, -2.0], [0.5, 0.5], [1.0, 1.0]);
    catch_up.run(InstructionSet::detect(), 1, &mut param, &mut [&mut m, &mut v]);
    assert_eq!((param.map(f32::abs), m, v), ([0.0; 2], [0.0; 2], [0.0; 2]));
}

#[test]
fn rules_without_a_short_form_are_refused_by_name() {
    let refused = |name: &str, settings: &[(&str, &str)]| {
        optimizer(name, settings).catch_up(3, "rows").map(|_| ()).unwrap_err().to_string()
    };
    for name in ["adamax", "nadam", "radam", "lion", "sparseadam"] {
        assert!(refused(name, &[]).starts_with(&format!("rows: got {name}, expected sgd, adagrad")));
    }
    for name in ["adagrad", "adadelta", "rmsprop", "adam"] {
        let message = refused(name, &[("weight_decay", "0.5")]);
        assert!(
            message.starts_with(&format!("rows: got {name} with weight_decay 0.5, expected")),
            "{message}"
        );
    }
}
