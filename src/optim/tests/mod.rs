//! Tests of what every optimizer has in common, and of Lion, for which there are no golden files.

mod catch_up;
mod compact;
mod every_isa;
mod settings;

use super::*;

fn optimizer(name: &str, settings: &[(&str, &str)]) -> Optimizer {
    let mut optimizer = Optimizer::from_name(name).unwrap();
    for (key, value) in settings {
        optimizer.set(key, value).unwrap();
    }
    optimizer
}

/// The optimizer with a weight decay, where it has one.
fn decayed(name: &str, weight_decay: &str) -> Optimizer {
    if ["sparseadam", "rowwiseadagrad"].contains(&name) {
        optimizer(name, &[])
    } else {
        optimizer(name, &[("weight_decay", weight_decay)])
    }
}

/// A tensor in plain memory.
#[derive(Clone)]
struct Tensor {
    clock: TensorClock,
    param: Vec<f32>,
    planes: Vec<Vec<f32>>,
}

impl Tensor {
    fn new(optimizer: &Optimizer, param: &[f32]) -> Self {
        let len = |plane: &StatePlane| if plane.per_row { 1 } else { param.len() };
        let planes = optimizer.state_planes().iter().map(|plane| vec![plane.fill; len(plane)]).collect();
        Self { clock: TensorClock::default(), param: param.to_vec(), planes }
    }

    fn try_step(&mut self, optimizer: &Optimizer, isa: InstructionSet, grad: &[f32]) -> Result<()> {
        let mut state: Vec<&mut [f32]> = self.planes.iter_mut().map(Vec::as_mut_slice).collect();
        optimizer.update(isa, &mut self.clock, &mut self.param, grad, &mut state)
    }

    fn step(&mut self, optimizer: &Optimizer, grad: &[f32]) {
        self.try_step(optimizer, InstructionSet::detect(), grad).unwrap();
    }

    /// Every bit of the tensor, one pattern for all NaN.
    fn bits(&self) -> Vec<u32> {
        let values = self.param.iter().chain(self.planes.iter().flatten());
        values.map(|x| if x.is_nan() { 0x7fc0_0000 } else { x.to_bits() }).collect()
    }
}

const PARAM: [f32; 9] = [1.0, -2.0, 0.0, -0.0, 1e-42, 1e20, -3.5, 0.25, 7.0];
const GRAD: [f32; 9] = [0.5, 0.0, -0.0, 0.0, 1e-45, 1e20, -1e-3, 40.0, -2.0];

#[test]
fn state_planes_have_the_names_of_pytorch_in_a_fixed_order() {
    let names = |name, settings: &[(&str, &str)]| {
        optimizer(name, settings).state_planes().iter().map(|plane| plane.name).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names("sgd", &[]), "");
    assert_eq!(names("sgd", &[("momentum", "0.9")]), "momentum_buffer");
    assert_eq!(names("adagrad", &[]), "sum");
    assert_eq!(names("adadelta", &[]), "square_avg acc_delta");
    assert_eq!(names("rmsprop", &[]), "square_avg");
    assert_eq!(
        names("rmsprop", &[("centered", "on"), ("momentum", "0.5")]),
        "square_avg momentum_buffer grad_avg"
    );
    for name in ["adam", "adamw", "nadam", "radam", "sparseadam"] {
        assert_eq!(names(name, &[]), "exp_avg exp_avg_sq");
    }
    for name in ["adam", "adamw"] {
        assert_eq!(names(name, &[("amsgrad", "on")]), "exp_avg exp_avg_sq max_exp_avg_sq");
    }
    assert_eq!(names("adamax", &[]), "exp_avg exp_inf");
    assert_eq!(names("lion", &[]), "exp_avg");
}

#[test]
fn only_the_sum_of_adagrad_starts_with_something_else_than_zero() {
    let adagrad = optimizer("adagrad", &[("initial_accumulator_value", "0.1")]);
    assert_eq!(adagrad.state_planes(), [StatePlane { name: "sum", fill: 0.1, per_row: false }]);
    for name in Optimizer::NAMES {
        let planes = optimizer(name, &[]).state_planes();
        assert!(planes.iter().all(|plane| plane.fill.to_bits() == 0), "{name}");
    }
}

#[test]
fn update_with_lengths_or_planes_that_do_not_fit_says_what_does_and_changes_nothing() {
    let adam = optimizer("adam", &[]);
    let fresh = Tensor::new(&adam, &PARAM);
    let isa = InstructionSet::detect();

    let mut tensor = fresh.clone();
    let error = tensor.try_step(&adam, isa, &GRAD[1..]).unwrap_err().to_string();
    assert_eq!(error, "length of the gradient: got 8, expected 9, as the parameters");
    assert_eq!((tensor.bits(), tensor.clock), (fresh.bits(), fresh.clock));

    tensor.planes.pop();
    let error = tensor.try_step(&adam, isa, &GRAD).unwrap_err().to_string();
    assert_eq!(error, "number of state planes: got 1, expected 2 for adam (exp_avg, exp_avg_sq)");

    tensor.planes.push(vec![0.0; 8]);
    let error = tensor.try_step(&adam, isa, &GRAD).unwrap_err().to_string();
    assert_eq!(error, "length of the state plane exp_avg_sq: got 8, expected 9, as the parameters");
    assert_eq!(tensor.param, fresh.param);
    assert_eq!(tensor.clock, fresh.clock);
}

#[test]
fn the_clock_counts_steps_and_only_nadam_moves_its_product() {
    for name in Optimizer::NAMES {
        let rule = optimizer(name, &[]);
        let mut tensor = Tensor::new(&rule, &PARAM);
        tensor.step(&rule, &GRAD);
        tensor.step(&rule, &GRAD);
        assert_eq!(tensor.clock.steps, 2);
        assert_eq!(tensor.clock.mu_product < 1.0, name == "nadam", "{name}");
    }
}

#[test]
fn a_step_beyond_any_count_keeps_finite_scalars() {
    for name in Optimizer::NAMES {
        let rule = optimizer(name, &[("lr", "0.01")]);
        for steps in [1 << 32, 1 << 53, u64::MAX - 1, u64::MAX] {
            let mut tensor = Tensor::new(&rule, &[1.0; 5]);
            tensor.clock.steps = steps;
            tensor.step(&rule, &[0.5; 5]);
            assert!(tensor.param.iter().all(|p| p.is_finite()), "{name} at step {steps}: {:?}", tensor.param);
            assert_eq!(tensor.clock.steps, steps.saturating_add(1));
        }
    }
}

#[test]
fn a_tensor_cut_into_blocks_gets_the_bits_of_the_whole() {
    let (param, grad) = (PARAM.repeat(40), GRAD.repeat(40));
    // A row is not cut.
    for name in Optimizer::NAMES.into_iter().filter(|&name| name != "rowwiseadagrad") {
        let rule = decayed(name, "0.01");
        let (mut whole, mut cut) = (Tensor::new(&rule, &param), Tensor::new(&rule, &param));
        for _ in 0..3 {
            whole.step(&rule, &grad);
            let (prepared, next) = rule.prepare(cut.clock);
            for (start, end) in [(0, 1), (1, 18), (18, 18), (18, 340), (340, 360)] {
                let mut state: Vec<&mut [f32]> =
                    cut.planes.iter_mut().map(|plane| &mut plane[start..end]).collect();
                prepared.run(
                    InstructionSet::detect(),
                    &mut cut.param[start..end],
                    &grad[start..end],
                    &mut state,
                );
            }
            cut.clock = next;
        }
        assert_eq!(whole.bits(), cut.bits(), "{name}");
        assert_eq!(whole.clock, cut.clock, "{name}");
    }
}

#[test]
fn a_prepared_step_can_be_shared_by_threads() {
    fn shared<T: Copy + Send + Sync>() {}
    shared::<Prepared>();
}

#[test]
fn maximize_is_the_step_with_the_gradient_negated() {
    let negated = GRAD.map(|g| -g);
    for name in Optimizer::NAMES {
        let down = decayed(name, "0.01");
        let mut up = down;
        if up.set("maximize", "on").is_err() {
            assert_eq!(name, "lion");
            continue;
        }
        let (mut a, mut b) = (Tensor::new(&down, &PARAM), Tensor::new(&up, &PARAM));
        for _ in 0..2 {
            a.step(&down, &negated);
            b.step(&up, &GRAD);
        }
        assert_eq!(a.bits(), b.bits(), "{name}");
    }
}

#[test]
fn no_weight_decay_leaves_infinite_parameters_out_of_the_state() {
    // 0 * infinity would be NaN: the term must be left out, not multiplied by zero.
    for name in Optimizer::NAMES {
        let rule = decayed(name, "0");
        let mut tensor = Tensor::new(&rule, &[f32::INFINITY, f32::NEG_INFINITY]);
        tensor.step(&rule, &[0.5, -0.25]);
        assert_eq!(tensor.param, [f32::INFINITY, f32::NEG_INFINITY], "{name}");
        assert!(tensor.planes.iter().flatten().all(|x| x.is_finite()), "{name}: {:?}", tensor.planes);
    }
}

#[test]
fn dampening_is_not_applied_when_the_buffer_is_first_used() {
    let sgd = optimizer("sgd", &[("lr", "1"), ("momentum", "0.5"), ("dampening", "0.75")]);
    let mut tensor = Tensor::new(&sgd, &[0.0]);
    tensor.planes[0][0] = f32::NAN; // is overwritten, not read
    tensor.step(&sgd, &[4.0]);
    assert_eq!((tensor.param[0], tensor.planes[0][0]), (-4.0, 4.0));
    tensor.step(&sgd, &[4.0]);
    assert_eq!((tensor.param[0], tensor.planes[0][0]), (-7.0, 3.0));
}

#[test]
fn lion_moves_by_the_sign_of_the_mixed_moment() {
    let lion = optimizer("lion", &[("lr", "0.25"), ("betas", "0.5,0.75"), ("weight_decay", "0.5")]);
    let grad = [4.0, -4.0, 0.0, -0.0, f32::INFINITY, 1e-45, f32::NAN];
    let mut tensor = Tensor::new(&lion, &[1.0; 7]);
    tensor.step(&lion, &grad);
    // p * (1 - 0.25 * 0.5) - 0.25 * sign; half of the smallest subnormal rounds to zero.
    assert_eq!(tensor.param[..6], [0.625, 1.125, 0.875, 0.875, 0.625, 0.875]);
    assert!(tensor.param[6].is_nan());
    assert_eq!(tensor.planes[0][..5], [1.0, -1.0, 0.0, 0.0, f32::INFINITY]);

    // The moment of the past outweighs a small gradient of the other sign.
    tensor.step(&lion, &[-0.5; 7]);
    assert_eq!(tensor.param[..1], [0.625 * 0.875 - 0.25]);
    assert_eq!(tensor.planes[0][..1], [1.0 * 0.75 - 0.5 * 0.25]);
}

#[test]
fn lion_leaves_a_zero_of_either_sign_where_nothing_moves_it() {
    let lion = optimizer("lion", &[]);
    let mut tensor = Tensor::new(&lion, &[0.0, -0.0]);
    tensor.step(&lion, &[0.0, -0.0]);
    assert_eq!(tensor.param[0].to_bits(), 0.0_f32.to_bits());
    assert_eq!(tensor.param[1].to_bits(), (-0.0_f32).to_bits());
}

#[test]
fn rows_have_a_rule_in_eight_optimizers_and_the_others_say_so() {
    let refused = |rule: &Optimizer| rule.prepare_rows(TensorClock::default(), "row update").map(|_| ());
    for name in Optimizer::NAMES {
        let has_none = ["adamax", "nadam", "radam", "lion"].contains(&name);
        assert_eq!(refused(&decayed(name, "0")).is_err(), has_none, "{name}");
        // Of the kinds of weight decay, only one is not a gradient of its own.
        let decays = ["adamw", "sparseadam", "rowwiseadagrad"].contains(&name);
        assert_eq!(refused(&decayed(name, "0.5")).is_ok(), decays, "{name}");
    }
    let expected = "an optimizer with a rule for rows: sgd, adagrad, rowwiseadagrad, adadelta, rmsprop, adam, adamw or \
                    sparseadam, and no weight decay but that of adamw";
    let message = |rule: &Optimizer| refused(rule).unwrap_err().to_string();
    assert_eq!(message(&optimizer("lion", &[])), format!("row update: got lion, expected {expected}"));
    let sgd = optimizer("sgd", &[("momentum", "0.9"), ("weight_decay", "0.5")]);
    assert_eq!(message(&sgd), format!("row update: got sgd with weight_decay 0.5, expected {expected}"));
}

#[test]
fn a_rule_for_rows_is_that_for_all_elements_but_for_the_roundings_of_adagrads_move() {
    let grad = [0.5, 0.25, -3.0, 1.7, 1e-5, 123.0, -1e-3, 40.0, -2.0];
    for name in ["sgd", "adagrad", "rowwiseadagrad", "adadelta", "rmsprop", "adam", "adamw", "sparseadam"] {
        for maximize in ["off", "on"] {
            let rule = optimizer(name, &[("maximize", maximize), ("lr", "0.3")]);
            let param = [1.0, -2.0, 0.5, -0.0, 3.0, 7.0, -3.5, 0.25, 7.0];
            let (mut whole, mut rows) = (Tensor::new(&rule, &param), Tensor::new(&rule, &param));
            for _ in 0..4 {
                whole.step(&rule, &grad);
                let (prepared, next) = rule.prepare_rows(rows.clock, "rows").unwrap();
                let mut state: Vec<&mut [f32]> = rows.planes.iter_mut().map(Vec::as_mut_slice).collect();
                prepared.run(InstructionSet::detect(), &mut rows.param, &grad, &mut state);
                rows.clock = next;
            }
            assert_eq!((&rows.planes, rows.clock), (&whole.planes, whole.clock), "{name}");
            if name == "adagrad" {
                for (a, b) in rows.param.iter().zip(&whole.param) {
                    assert!((a - b).abs() <= 16.0 * f32::EPSILON * b.abs().max(1.0), "{a} and {b}");
                }
            } else {
                assert_eq!(rows.bits(), whole.bits(), "{name}");
            }
        }
    }
}
