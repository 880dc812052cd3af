//! Every update rule against PyTorch's results, a f64 recurrence, and exact bits; see `tests/data/golden/README.md`.
//!
//! The cases come from the files, not from a list: `PARAMSTORE_GOLDEN_DIR` names another folder of the same format.

mod case;

use std::collections::BTreeMap;

use case::{Case, Contents, Outcome, Tensor};
use paramstore::InstructionSet;
use paramstore::optim::TensorClock;

/// A parameter with its planes, in plain memory.
struct Plain {
    clock: TensorClock,
    param: Vec<f32>,
    planes: Vec<(&'static str, Vec<f32>)>,
}

impl Plain {
    fn new(case: &Case, tensor: &Tensor, len: usize) -> Self {
        let planes = case.optimizer.state_planes();
        Self {
            clock: TensorClock::default(),
            param: tiled(&tensor.param, len),
            planes: planes.iter().map(|plane| (plane.name, vec![plane.fill; len])).collect(),
        }
    }

    fn step(&mut self, case: &Case, t: u64, isa: InstructionSet, grad: &[f32]) -> Outcome<()> {
        let mut state: Vec<&mut [f32]> = self.planes.iter_mut().map(|(_, plane)| &mut plane[..]).collect();
        case.optimizer_at(t)
            .update(isa, &mut self.clock, &mut self.param, grad, &mut state)
            .map_err(|error| format!("{}: {error}", case.file))
    }

    fn check(&self, case: &Case, tensor: &Tensor, t: u64) -> Outcome<()> {
        case.check(&tensor.prefix, "param", t, &self.param)?;
        for state in &case.states {
            match self.planes.iter().find(|(name, _)| name == state) {
                Some((_, plane)) => case.check(&tensor.prefix, state, t, plane)?,
                None if state == "mu_product" => {
                    case.check(&tensor.prefix, state, t, &[self.clock.mu_product])?
                }
                None => return Err(format!("{}: the rule keeps no {state}", case.file)),
            }
        }
        Ok(())
    }
}

fn tiled(values: &[f32], len: usize) -> Vec<f32> {
    values.iter().copied().cycle().take(len).collect()
}

/// Runs a case of the kind `optimizer` at one length.
fn run(case: &Case, isa: InstructionSet, len: usize) -> Outcome<()> {
    let [tensor] = &case.tensors[..] else { return Err(format!("{} has several tensors", case.file)) };
    let mut grads: BTreeMap<*const Vec<f32>, Vec<f32>> = BTreeMap::new();
    let mut plain = Plain::new(case, tensor, len);
    for t in 1..=case.steps {
        let [grad] = tensor.gradients(t) else { return Err(format!("{} has micro-batches", case.file)) };
        let grad = grads.entry(grad).or_insert_with(|| tiled(grad, len));
        plain.step(case, t, isa, grad)?;
        if case.checkpoints.contains(&t) {
            plain.check(case, tensor, t)?;
        }
    }
    Ok(())
}

/// Reads every file; a file that is neither a case nor unsupported by name fails the test.
fn cases() -> (Vec<Case>, BTreeMap<String, usize>) {
    let (mut cases, mut unsupported) = (Vec::new(), BTreeMap::new());
    for path in case::files().unwrap_or_else(|error| panic!("{error}")) {
        match case::load(&path) {
            Ok(Contents::Case(case)) => cases.push(*case),
            Ok(Contents::Unsupported(what)) => *unsupported.entry(what).or_default() += 1,
            Err(error) => panic!("{}: {error}", path.display()),
        }
    }
    (cases, unsupported)
}

#[test]
fn every_rule_gives_the_golden_values_on_every_instruction_set() {
    let (cases, unsupported) = cases();
    let isas = InstructionSet::available();
    let (mut runs, mut strict, mut failures) = (0, 0, Vec::new());
    let (here, in_store): (Vec<_>, Vec<_>) = cases.iter().partition(|case| case.kind == "optimizer");
    for case in &here {
        strict += usize::from(case.is_strict());
        let own = case.tensors[0].param.len();
        let sizes = if case.sizes.is_empty() { vec![own] } else { case.sizes.clone() };
        assert!(sizes.iter().all(|&len| len >= own), "{} has sizes below its own", case.file);
        for &isa in &isas {
            for &len in &sizes {
                runs += 1;
                if let Err(error) = run(case, isa, len) {
                    failures.push(format!("{} at {len} elements: {error}", isa.name()));
                }
            }
        }
    }
    let names: Vec<_> = isas.iter().map(|isa| isa.name()).collect();
    let others: Vec<_> = unsupported.iter().map(|(what, count)| format!("{what} {count}")).collect();
    println!(
        "golden: {} files run in memory ({strict} with exact bits), {runs} runs on {}, {} failed; {} need a store; \
         unsupported: {}",
        here.len(),
        names.join(" "),
        failures.len(),
        in_store.len(),
        others.join(", ")
    );
    assert!(failures.is_empty(), "{} runs failed:\n{}", failures.len(), failures.join("\n"));
    assert!(!cases.is_empty(), "no file holds a case");
}

#[test]
fn comparator_refuses_a_value_that_is_off_by_its_tolerance() {
    assert!(case::within(1.0, 1.0 + 4.0 * f64::from(f32::EPSILON), -23, 4.0));
    assert!(!case::within(1.0, 1.0 + 5.0 * f64::from(f32::EPSILON), -23, 4.0));
    assert!(case::within(f32::NAN, f64::NAN, -23, 4.0));
    assert!(!case::within(f32::NAN, 1.0, -23, 4.0));
    assert!(!case::within(1.0, f64::NAN, -23, 4.0));
    assert!(!case::within(f32::INFINITY, f64::NEG_INFINITY, -23, 4.0));
    assert!(case::within(0.0, -0.0, -149, 4.0));
    assert!(case::within(f32::NAN, 1.0, i16::MAX, 4.0));
}

#[test]
fn a_perturbed_result_is_refused_by_tolerance_and_one_bit_by_checksum() {
    let case = cases()
        .0
        .into_iter()
        .find(|case| case.kind == "optimizer" && case.is_strict() && case.tensors[0].param.len() > 1);
    let case = case.expect("a case of several elements with exact bits");
    let tensor = &case.tensors[0];
    let mut plain = Plain::new(&case, tensor, tensor.param.len());
    let t = case.checkpoints[0];
    for t in 1..=t {
        plain.step(&case, t, InstructionSet::portable(), &tensor.gradients(t)[0]).unwrap();
    }
    plain.check(&case, tensor, t).unwrap();

    let i = plain.param.iter().position(|x| x.is_normal()).expect("a normal value");
    let right = plain.param[i];
    plain.param[i] = f32::from_bits(right.to_bits() ^ 1);
    let error = plain.check(&case, tensor, t).unwrap_err();
    assert!(error.contains("CRC-32"), "{error}");

    plain.param[i] = right * 1.5;
    let error = plain.check(&case, tensor, t).unwrap_err();
    assert!(error.contains(&format!("param_{t}[{i}]")) && error.contains("PyTorch"), "{error}");

    plain.param[i] = f32::NAN;
    assert!(plain.check(&case, tensor, t).is_err());
}
