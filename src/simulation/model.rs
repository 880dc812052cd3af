//! What a store should hold, in plain memory: no blocks, no files, no threads, the portable kernels.

use std::borrow::Cow;
use std::sync::Arc;

use super::plane::Plane;
use crate::error::Result;
use crate::format::directory::Dtype;
use crate::initial::rounding_key;
use crate::kernel::InstructionSet;
use crate::layout::{COMPENSATION_PLANE, COMPUTE_PLANE};
use crate::optim::TensorClock;
use crate::param_store::ParamStore;
use crate::precision::{Half, Rounding};
use crate::schema::ParamGroup;
use crate::units::to_usize;

/// A tensor: its parameters, then its state planes.
#[derive(Clone)]
pub(super) struct Plain {
    pub(super) name: String,
    group: usize,
    /// Elements of a row, of a tensor of rows.
    width: Option<usize>,
    is_frozen: bool,
    clock: TensorClock,
    planes: Vec<(String, Plane)>,
    /// The type of its copy in 16 bits. The copy itself is not kept here: it is what rounding the parameters gives.
    copy: Option<Half>,
}

/// All tensors, the settings in force and the step. Copies share the tensors that did not change.
#[derive(Clone)]
pub(super) struct Model {
    pub(super) tensors: Vec<Arc<Plain>>,
    pub(super) groups: Vec<ParamGroup>,
    pub(super) step: u64,
    seed: u64,
}

/// What a commit promises: that this will be found.
pub(super) struct Snapshot {
    pub(super) generation: u64,
    pub(super) model: Model,
    pub(super) user: Vec<u8>,
}

impl Snapshot {
    /// The same once more, as the next generation.
    pub(super) fn again(&self) -> Self {
        Self { generation: self.generation + 1, model: self.model.clone(), user: self.user.clone() }
    }
}

/// A gradient that depends on tensor, element, step and salt, with some exact zeros.
pub(super) fn gradient(tensor: usize, elements: usize, step: u64, salt: u8) -> Vec<f32> {
    let start = step * 131 + u64::from(salt) * 977 + (tensor as u64) * 31;
    let value = |element: u64| {
        let x = (element * 7919 + start * 104_729) % 2003;
        let x = u16::try_from(x).unwrap_or(0);
        if x.is_multiple_of(17) { 0.0 } else { f32::from(x) / 1001.0 - 1.0 }
    };
    (0..elements as u64).map(value).collect()
}

impl Model {
    /// What a store holds now.
    pub(super) fn of(store: &ParamStore) -> Result<Self> {
        let mut tensors = Vec::new();
        let tables: Vec<_> = store.row_uses().into_iter().map(|table| table.tensor).collect();
        for info in store.tensors() {
            let copy = store.copy_plane(store.tensor_index(info.name())?);
            let mut planes = Vec::new();
            for (_, plane) in info.planes().enumerate().filter(|(at, _)| Some(*at) != copy) {
                planes.push((plane.to_owned(), Plane::of(store, info.name(), plane)?));
            }
            let copy = copy.and_then(|_| match info.plane_dtype(COMPUTE_PLANE)? {
                Dtype::F16 => Some(Half::F16),
                _ => Some(Half::Bf16),
            });
            let group = store.groups().iter().position(|group| group.name() == info.group()).unwrap_or(0);
            let clock = store.tensor_clock(info.name())?;
            let is_table = tables.iter().any(|table| table == info.name());
            let width = info.shape().last().filter(|_| is_table).map(|&width| to_usize(width));
            let (name, is_frozen) = (info.name().to_owned(), info.is_frozen());
            tensors.push(Arc::new(Plain { name, group, width, is_frozen, clock, planes, copy }));
        }
        let (step, seed) = (store.step(), store.directory().seed);
        Ok(Self { tensors, groups: store.groups().to_vec(), step, seed })
    }

    pub(super) fn elements(&self, tensor: usize) -> usize {
        self.tensors.get(tensor).and_then(|plain| plain.planes.first()).map_or(0, |(_, plane)| plane.len())
    }

    pub(super) fn name(&self, tensor: usize) -> &str {
        self.tensors.get(tensor).map_or("", |plain| plain.name.as_str())
    }

    /// Updates one tensor.
    pub(super) fn update(&mut self, tensor: usize, gradient: &[f32]) -> Result<()> {
        let Some(plain) = self.tensors.get_mut(tensor).map(Arc::make_mut) else { return Ok(()) };
        let Plain { name, group, clock, planes, .. } = plain;
        let Some(group) = self.groups.get(*group) else { return Ok(()) };
        // The step has the number that the store has when it is finished.
        let rounding = Rounding::Stochastic { key: rounding_key(self.seed, name, self.step + 1), first: 0 };
        let is_compensated = planes.last().is_some_and(|(name, _)| name == COMPENSATION_PLANE);
        let mut lanes: Vec<_> = planes.iter_mut().map(|(_, plane)| plane.lane()).collect();
        if is_compensated
            && let Some(lost) = lanes.pop()
            && let Some(param) = lanes.first_mut()
        {
            *param = std::mem::take(param).compensated_by(lost);
        }
        group.optimizer().update_lanes(InstructionSet::portable(), clock, &mut lanes, gradient, rounding)
    }

    pub(super) fn is_frozen(&self, tensor: usize) -> bool {
        self.tensors.get(tensor).is_some_and(|plain| plain.is_frozen)
    }

    pub(super) fn is_of_rows(&self, tensor: usize) -> bool {
        self.width(tensor).is_some()
    }

    /// Elements of a row, of a tensor of rows.
    pub(super) fn width(&self, tensor: usize) -> Option<usize> {
        self.tensors.get(tensor)?.width
    }

    /// Updates some rows of a tensor, by the book: every sum in the order of positions, every row on its own.
    pub(super) fn update_rows(&mut self, tensor: usize, ids: &[u64], gradients: &[f32]) -> Result<()> {
        let Some(plain) = self.tensors.get_mut(tensor).map(Arc::make_mut) else { return Ok(()) };
        let Plain { group, width: Some(width), clock, planes, .. } = plain else { return Ok(()) };
        let Some(group) = self.groups.get(*group) else { return Ok(()) };
        let (rule, after) = group.optimizer().prepare_rows(*clock, "rows")?;
        let mut sums = std::collections::BTreeMap::<u64, Vec<f32>>::new();
        for (&id, gradient) in ids.iter().zip(gradients.chunks(*width)) {
            match sums.get_mut(&id) {
                None => drop(sums.insert(id, gradient.to_vec())),
                Some(sum) => sum.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += g),
            }
        }
        for (id, sum) in sums {
            let start = to_usize(id) * *width;
            let mut row = planes.iter_mut().filter_map(|(_, plane)| plane.part(start, *width));
            let Some(param) = row.next() else { continue };
            let mut state: Vec<_> = row.collect();
            rule.run(InstructionSet::portable(), param, &sum, &mut state);
        }
        *clock = after;
        Ok(())
    }

    /// Sets some of a tensor's parameters.
    pub(super) fn write_range(&mut self, tensor: usize, start: usize, values: &[f32]) {
        let Some(plain) = self.tensors.get_mut(tensor).map(Arc::make_mut) else { return };
        let target = plain.planes.first_mut().and_then(|(_, param)| param.part(start, values.len()));
        if let Some(target) = target {
            target.copy_from_slice(values);
        }
    }

    /// Sets a tensor's parameters.
    pub(super) fn write(&mut self, tensor: usize, values: &[f32]) {
        let Some(plain) = self.tensors.get_mut(tensor).map(Arc::make_mut) else { return };
        match plain.planes.as_mut_slice() {
            [(_, param), .., (name, lost)] if name == COMPENSATION_PLANE => {
                param.write_compensated(lost, values);
            }
            [(_, param), ..] => param.write(values),
            [] => {}
        }
    }

    /// The parameters of a tensor.
    pub(super) fn params(&self, tensor: usize) -> Cow<'_, [f32]> {
        let param = self.tensors.get(tensor).and_then(|plain| plain.planes.first());
        param.map(|(_, plane)| plane.values()).unwrap_or_default()
    }

    /// What a forward pass in 16 bits sees of a tensor: narrow parameters as they are, or the copy.
    pub(super) fn half(&self, tensor: usize) -> Option<Plane> {
        let plain = self.tensors.get(tensor)?;
        let (_, param) = plain.planes.first()?;
        match plain.copy {
            Some(kind) => Some(param.rounded(kind)),
            None => param.half_bits().map(|_| param.clone()),
        }
    }

    /// How a store differs, in words; `tensors` are looked at.
    pub(super) fn difference(&self, store: &ParamStore, tensors: &[usize]) -> Result<Option<String>> {
        if store.step() != self.step {
            return Ok(Some(format!("step {}, expected {}", store.step(), self.step)));
        }
        if store.groups() != self.groups {
            return Ok(Some(format!("groups {:?}, expected {:?}", store.groups(), self.groups)));
        }
        for plain in tensors.iter().filter_map(|&tensor| self.tensors.get(tensor)) {
            let clock = store.tensor_clock(&plain.name)?;
            if clock != plain.clock {
                let difference = format!("{clock:?} of {:?}, expected {:?}", plain.name, plain.clock);
                return Ok(Some(difference));
            }
            let copy = plain.planes.first().zip(plain.copy).map(|((_, param), kind)| param.rounded(kind));
            let copy = copy.map(|copy| (COMPUTE_PLANE.to_owned(), copy));
            for (name, plane) in plain.planes.iter().chain(&copy) {
                if let Some(difference) = plane.difference(store, &plain.name, name)? {
                    return Ok(Some(format!("{name} of {:?}, {difference}", plain.name)));
                }
            }
        }
        Ok(None)
    }
}

/// The first element whose bits differ.
pub(super) fn first_difference(found: &[f32], expected: &[f32]) -> Option<usize> {
    if found.len() != expected.len() {
        return Some(found.len().min(expected.len()));
    }
    found.iter().zip(expected).position(|(a, b)| a.to_bits() != b.to_bits())
}
