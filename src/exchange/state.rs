//! Optimizer state in foreign files: planes, updates so far and the step, by PyTorch's names.

use std::collections::{BTreeMap, HashMap};

use super::ForeignTensor;
use super::import::{ImportPlan, Part};
use super::source::Sources;
use super::values::{scalar_count, scalar_float};
use crate::error::{Error, Result};
use crate::layout::COMPENSATION_PLANE;
use crate::optim::{Optimizer, TensorClock};

/// What PyTorch calls the state that it keeps of a parameter; planes have the same names. And what a store keeps more.
const NAMES: [&str; 13] = [
    "exp_avg",
    "exp_avg_sq",
    "max_exp_avg_sq",
    "exp_inf",
    "momentum_buffer",
    "square_avg",
    "grad_avg",
    "acc_delta",
    "sum",
    "row_sum",
    STEP,
    MU_PRODUCT,
    COMPENSATION_PLANE,
];

/// Updates so far of a parameter, or steps of the store.
pub(super) const STEP: &str = "step";

/// NAdam's product of momenta.
pub(super) const MU_PRODUCT: &str = "mu_product";

/// State as it was found: of each parameter, by the number of its tensor, which of its state is which tensor.
#[derive(Default)]
pub(super) struct State {
    found: BTreeMap<usize, BTreeMap<&'static str, usize>>,
    step: Option<usize>,
}

impl State {
    /// Takes a tensor that is state: of a parameter among `names`, or the step. False for any other.
    pub(super) fn take(&mut self, at: usize, tensor: &ForeignTensor, names: &HashMap<&str, usize>) -> bool {
        if tensor.name == STEP && tensor.elements() == 1 {
            self.step = Some(at);
            return true;
        }
        let Some((kind, of)) = tensor.name.split_once('.') else { return false };
        let kind = NAMES.into_iter().find(|&name| name == kind);
        let (Some(kind), Some(&of)) = (kind, names.get(of)) else { return false };
        self.found.entry(of).or_default().insert(kind, at);
        true
    }

    /// Enters planes and clocks into the plan of an import.
    pub(super) fn attach(
        mut self,
        sources: &Sources,
        plan: &mut ImportPlan,
        parts: &mut Vec<Part>,
    ) -> Result<Vec<(usize, TensorClock)>> {
        let step = self.step.and_then(|at| sources.tensors.get(at));
        let step = step.map(|tensor| scalar_count(sources, tensor)).transpose()?;
        let of_params: Vec<_> = parts.iter().map(|part| (part.source, part.tensor)).collect();
        let mut clocks = Vec::new();
        for (source, tensor) in of_params {
            let Some(found) = self.found.remove(&source) else { continue };
            let Some(planned) = plan.tensors.get_mut(tensor).filter(|planned| !planned.is_frozen) else {
                continue;
            };
            let optimizer = plan.schema.optimizer_for(planned.group.as_deref())?;
            let shape = sources.tensors.get(source).map_or(&[][..], |tensor| &tensor.shape);
            let clock = check(sources, &optimizer, (&planned.name, shape), &found, step)?;
            // What rounding lost belongs to parameters of just this type.
            let stored = sources.tensors.get(source).and_then(|tensor| tensor.dtype.stored());
            let keeps_lost = planned.is_compensated && stored == Some(planned.to);
            let is_taken = |name: &str| is_plane(name) || (name == COMPENSATION_PLANE && keeps_lost);
            for (name, &at) in found.iter().filter(|(name, _)| is_taken(name)) {
                planned.planes.push((*name).to_owned());
                parts.push(Part { source: at, tensor, plane: Some((*name).to_owned()) });
            }
            planned.steps = clock.steps;
            clocks.push((tensor, clock));
        }
        plan.step = step.or_else(|| clocks.iter().map(|(_, clock)| clock.steps).max()).unwrap_or(0);
        Ok(clocks)
    }
}

/// Whether this is the name of an optimizer's plane.
fn is_plane(name: &str) -> bool {
    !matches!(name, STEP | MU_PRODUCT | COMPENSATION_PLANE)
}

/// All planes of the optimizer and no others, each with as many elements as the parameter, or one for each row; and the
/// updates so far.
fn check(
    sources: &Sources,
    optimizer: &Optimizer,
    (name, shape): (&str, &[u64]),
    found: &BTreeMap<&'static str, usize>,
    step: Option<u64>,
) -> Result<TensorClock> {
    let what = || format!("state of tensor {name:?}");
    let planes = optimizer.state_planes();
    let expected: Vec<_> = planes.iter().map(|plane| plane.name).collect();
    let got: Vec<_> = found.keys().copied().filter(|name| is_plane(name)).collect();
    let is_same = got.len() == expected.len() && got.iter().all(|name| expected.contains(name));
    if !is_same {
        let expected =
            format!("{}, as {} keeps, or an import without state", expected.join(", "), optimizer.name());
        return Err(Error::invalid(what(), got.join(", "), expected));
    }
    let tensor = |kind: &str| found.get(kind).and_then(|&at| sources.tensors.get(at));
    let of_state = planes.iter().map(|kept| (kept.name, kept.per_row)).chain([(COMPENSATION_PLANE, false)]);
    for (name, per_row) in of_state {
        let dimensions = if per_row { 1 } else { shape.len() };
        let elements = shape.iter().take(dimensions).fold(1, |n: u64, &d| n.saturating_mul(d));
        let Some(plane) = tensor(name) else { continue };
        if plane.elements() != elements || !plane.dtype.is_float() {
            let got = format!("{:?} of {} {}", plane.name, plane.elements(), plane.dtype.name());
            return Err(Error::invalid(what(), got, format!("{elements} floats, as the parameter has")));
        }
    }
    // Rules that PyTorch keeps no step for take the same one from the first update on.
    let counts = !matches!(optimizer.name(), "sgd" | "lion");
    let steps = tensor(STEP).map(|tensor| scalar_count(sources, tensor)).transpose()?.or(step);
    let steps = match steps {
        Some(steps) => steps,
        None if counts => {
            let expected = format!("step.NAME or step, which {} needs", optimizer.name());
            return Err(Error::invalid(what(), "no step", expected));
        }
        None => 1,
    };
    let mut clock = TensorClock { steps, ..TensorClock::default() };
    if optimizer.name() == "nadam" {
        let product = tensor(MU_PRODUCT).map(|tensor| scalar_float(sources, tensor)).transpose()?;
        let missing = || Error::invalid(what(), "no mu_product", "mu_product.NAME, which nadam needs");
        clock.mu_product = product.ok_or_else(missing)?;
    }
    Ok(clock)
}
