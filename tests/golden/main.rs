//! Every update rule against PyTorch's results, a f64 recurrence, and exact bits; see `tests/data/golden/README.md`.
//!
//! The cases come from the files, not from a list: `PARAMSTORE_GOLDEN_DIR` names another folder of the same format.

mod case;
mod narrow;
mod sparse;
mod store;

use std::collections::BTreeMap;
use std::path::Path;

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
                    case.check(&tensor.prefix, state, t, &[self.clock.mu_product])?;
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

/// Runs a tensor of a case of the kind `optimizer`, repeated up to a length.
fn run(case: &Case, tensor: &Tensor, isa: InstructionSet, len: usize) -> Outcome<()> {
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
fn cases(dir: &Path) -> (Vec<Case>, BTreeMap<String, usize>) {
    let (mut cases, mut unsupported) = (Vec::new(), BTreeMap::new());
    for path in case::files(dir).unwrap_or_else(|error| panic!("{error}")) {
        match case::load(&path) {
            Ok(Contents::Case(case)) => cases.push(*case),
            Ok(Contents::Numbers) => {}
            Ok(Contents::Unsupported(what)) => *unsupported.entry(what).or_default() += 1,
            Err(error) => panic!("{}: {error}", path.display()),
        }
    }
    (cases, unsupported)
}

#[test]
fn every_rule_gives_the_golden_values_on_every_instruction_set() {
    let (cases, unsupported) = cases(&case::folder());
    let isas = InstructionSet::available();
    let (mut runs, mut strict, mut failures) = (0, 0, Vec::new());
    let here: Vec<_> = cases.iter().filter(|case| case.kind == "optimizer").collect();
    for case in &here {
        strict += usize::from(case.is_strict());
        for &isa in &isas {
            for tensor in &case.tensors {
                let own = tensor.param.len();
                // Only a case of one tensor stands for other lengths.
                let sizes = if case.sizes.is_empty() { &[own][..] } else { &case.sizes[..] };
                for &len in sizes {
                    runs += 1;
                    if let Err(error) = run(case, tensor, isa, len) {
                        failures.push(format!("{} at {len} elements: {error}", isa.name()));
                    }
                }
            }
        }
    }
    let names: Vec<_> = isas.iter().map(|isa| isa.name()).collect();
    let others: Vec<_> = unsupported.iter().map(|(what, count)| format!("{what} {count}")).collect();
    println!(
        "golden: {} files run in memory ({strict} with exact bits), {runs} runs on {}, {} failed; unsupported: {}",
        here.len(),
        names.join(" "),
        failures.len(),
        others.join(", ")
    );
    assert!(failures.is_empty(), "{} runs failed:\n{}", failures.len(), failures.join("\n"));
    assert!(!cases.is_empty(), "no file holds a case");
}

#[test]
fn every_case_gives_the_golden_values_through_a_store_on_disk() {
    let (cases, _) = cases(&case::folder());
    let dense: Vec<_> = cases.iter().filter(|case| case.batches.is_none()).collect();
    let failures: Vec<_> = dense.iter().filter_map(|case| store::run(case).err()).collect();
    let of_kind = |kind: &str| cases.iter().filter(|case| case.kind == kind).count();
    println!(
        "golden: {} files run through a store ({} clip, {} accumulate), {} failed",
        dense.len(),
        of_kind("clip"),
        of_kind("accumulate"),
        failures.len()
    );
    assert!(failures.is_empty(), "{} cases failed:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn every_case_of_rows_gives_the_golden_values_through_a_store_on_every_instruction_set() {
    let (cases, _) = cases(&case::folder());
    let here: Vec<_> = cases.iter().filter(|case| case.batches.is_some()).collect();
    let strict = here.iter().filter(|case| case.is_strict()).count();
    let isas = || InstructionSet::available().into_iter().flat_map(|isa| [(isa, true), (isa, false)]);
    let runs = || here.iter().flat_map(|case| isas().map(|(isa, by_rows)| (*case, isa, by_rows)));
    let runs = || runs().filter(|&(case, _, by_rows)| by_rows || !case.is_by_rows());
    let failures: Vec<_> = runs()
        .filter_map(|(case, isa, by_rows)| {
            let kept = if by_rows { "by rows" } else { "by planes" };
            Some(format!("{}, {kept}: {}", isa.name(), sparse::run(case, isa, by_rows).err()?))
        })
        .collect();
    println!(
        "golden: {} files of rows run through a store ({strict} with exact bits), {} runs, {} failed",
        here.len(),
        runs().count(),
        failures.len()
    );
    assert!(failures.is_empty(), "{} runs failed:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn numbers_in_few_bits_are_the_golden_ones_on_every_instruction_set() {
    let counts = narrow::run(&case::folder()).unwrap_or_else(|error| panic!("{error}"));
    println!("golden: files of 8-bit codes, bf16 rounding, stochastic rounding: {counts:?}");
    assert_eq!(narrow::run(&case::own_folder()).map(|counts| counts.iter().all(|&n| n > 0)), Ok(true));
}

#[test]
fn the_repository_has_cases_for_all_rules_of_rows() {
    let (cases, _) = cases(&case::own_folder());
    let rules: Vec<_> =
        cases.iter().filter(|case| case.batches.is_some()).map(|case| case.optimizer.name()).collect();
    assert_eq!(rules, ["adagrad", "sparseadam", "rowwiseadagrad", "sgd"]);
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
    let (cases, _) = cases(&case::own_folder());
    let case = cases.into_iter().find(|case| case.kind == "optimizer" && case.is_strict());
    let case = case.expect("a case with exact bits");
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
