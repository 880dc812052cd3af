//! What an export writes: parameters, state planes and counts, each a tensor with a name.

use std::ops::Range;

use super::safetensors::Planned;
use super::state::{MU_PRODUCT, STEP};
use crate::error::{Error, Result};
use crate::format::directory::Dtype;
use crate::format::elements::{as_f32, bytes_of, bytes_of_u16};
use crate::kernel::InstructionSet;
use crate::layout::COMPUTE_PLANE;
use crate::pager::Run;
use crate::param_store::ParamStore;
use crate::precision::{Half, Rounding, round};
use crate::units::{to_u64, to_usize};

/// Elements that are converted at a time.
const PART_LEN: usize = 1 << 16;

/// Where the elements of an item come from.
enum From {
    /// A plane of a tensor, by their numbers.
    Plane(usize, usize),
    /// These bytes.
    Bytes(Vec<u8>),
}

/// A tensor of a file that is written.
pub(super) struct Item {
    pub(super) name: String,
    pub(super) shape: Vec<u64>,
    /// Its type in the file.
    pub(super) dtype: Dtype,
    /// The same by its name there.
    pub(super) foreign: &'static str,
    pub(super) bytes: u64,
    elements: u64,
    from: From,
    /// Its type in the store.
    stored: Dtype,
}

/// What goes to the model's files, and what to the optimizer's.
pub(super) struct Content {
    pub(super) model: Vec<Item>,
    pub(super) state: Vec<Item>,
}

impl Content {
    /// The chosen tensors, those with wide elements first, so that every tensor begins at a multiple of its element.
    pub(super) fn new(
        store: &ParamStore,
        select: &dyn Fn(&str) -> bool,
        dtype: Option<Dtype>,
        with_state: bool,
    ) -> Result<Self> {
        let (mut model, mut state) = (Vec::new(), Vec::new());
        for (tensor, info) in store.tensors().enumerate().filter(|(_, info)| select(info.name())) {
            model.push(Item::param(store, tensor, dtype)?);
            let planes = info.planes().count();
            if !with_state || planes == 1 {
                continue;
            }
            // A copy says nothing that the parameters do not say.
            let own = info.planes().enumerate().skip(1).filter(|(_, name)| *name != COMPUTE_PLANE);
            for (plane, name) in own {
                state.push(Item::plane(store, tensor, plane, format!("{name}.{}", info.name()))?);
            }
            let clock = store.tensor_clock(info.name())?;
            let steps = clock.steps.to_le_bytes().to_vec();
            state.push(Item::scalar(format!("{STEP}.{}", info.name()), Dtype::I64, steps));
            if store.optimizer_of(tensor)?.name() == "nadam" {
                let product = clock.mu_product.to_le_bytes().to_vec();
                state.push(Item::scalar(format!("{MU_PRODUCT}.{}", info.name()), Dtype::F32, product));
            }
        }
        if with_state {
            let step = store.step().to_le_bytes().to_vec();
            state.push(Item::scalar(STEP.to_owned(), Dtype::I64, step));
        }
        for items in [&mut model, &mut state] {
            items.sort_by_key(|item| std::cmp::Reverse(item.dtype.element_bytes()));
        }
        Ok(Self { model, state })
    }
}

impl Item {
    /// A tensor's parameters, floats rounded to `dtype` if that is given.
    pub(super) fn param(store: &ParamStore, tensor: usize, dtype: Option<Dtype>) -> Result<Self> {
        let name = store.tensor_name(tensor).to_owned();
        let mut item = Self::plane(store, tensor, 0, name)?;
        item.stored = store.tensors().nth(tensor).map_or(Dtype::F32, |info| info.dtype());
        let to = match dtype {
            Some(to) if item.stored.is_trainable() => to,
            _ => item.stored,
        };
        if dtype.is_some_and(|to| !matches!(to, Dtype::F32 | Dtype::Bf16 | Dtype::F16)) {
            return Err(Error::invalid("type of an export", to.name(), "f32, bf16 or f16"));
        }
        item.set_dtype(to);
        Ok(item)
    }

    /// A plane as f32.
    fn plane(store: &ParamStore, tensor: usize, plane: usize, name: String) -> Result<Self> {
        let info = store.tensors().nth(tensor);
        let mut shape = info.map_or_else(Vec::new, |info| info.shape().to_vec());
        let elements = store.plane_elements(tensor, plane);
        if elements != store.elements(tensor) {
            // One for each row.
            shape.truncate(1);
        }
        let plane_name = info.and_then(|info| info.planes().nth(plane));
        let stored = info.zip(plane_name).and_then(|(info, name)| info.plane_dtype(name));
        let stored =
            stored.ok_or_else(|| Error::Unknown { kind: "plane of the tensor", name: name.clone() })?;
        let mut item = Self {
            name,
            shape,
            dtype: Dtype::F32,
            foreign: "F32",
            bytes: 0,
            elements,
            from: From::Plane(tensor, plane),
            stored,
        };
        item.set_dtype(Dtype::F32);
        Ok(item)
    }

    fn scalar(name: String, dtype: Dtype, bytes: Vec<u8>) -> Self {
        let len = to_u64(bytes.len());
        let foreign = super::foreign_name(dtype);
        Self {
            name,
            shape: vec![],
            dtype,
            foreign,
            bytes: len,
            elements: 1,
            from: From::Bytes(bytes),
            stored: dtype,
        }
    }

    /// As a header has it.
    pub(super) fn planned(&self) -> Planned<'_> {
        Planned { name: &self.name, dtype: self.foreign, shape: &self.shape, bytes: self.bytes }
    }

    pub(super) fn set_dtype(&mut self, dtype: Dtype) {
        self.dtype = dtype;
        self.foreign = super::foreign_name(dtype);
        self.bytes = dtype.bytes_of(self.elements).unwrap_or(u64::MAX);
    }

    /// Shows all bytes of the item in order.
    pub(super) fn for_each_part(
        &self,
        store: &ParamStore,
        mut visit: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let (tensor, plane) = match &self.from {
            From::Bytes(bytes) => return visit(bytes),
            From::Plane(tensor, plane) => (*tensor, *plane),
        };
        store.background().settle(tensor);
        if store.table_of(tensor).is_some() {
            return self.for_each_of_rows(store, (tensor, plane), visit);
        }
        let range = 0..self.elements;
        if self.stored == self.dtype
            && let Some(size) = self.dtype.element_bytes()
        {
            return store.pager().for_each_bytes((tensor, plane), range, to_usize(size), visit);
        }
        let mut rounder = Rounder::new(self.dtype);
        let mut result = Ok(());
        store.pager().for_each_run(tensor, plane, range, |run| {
            if result.is_ok() {
                result = rounder.show(&run, &mut visit);
            }
        })?;
        result
    }

    fn for_each_of_rows(
        &self,
        store: &ParamStore,
        (tensor, plane): (usize, usize),
        mut visit: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut rounder = Rounder::new(self.dtype);
        let mut values = vec![0.0; PART_LEN];
        for start in (0..self.elements).step_by(PART_LEN) {
            let range: Range<u64> = start..self.elements.min(start + to_u64(PART_LEN));
            let values = values.get_mut(..to_usize(range.end - range.start)).unwrap_or_default();
            store.read_table(tensor, plane, range, values)?;
            rounder.show(&Run::Bytes(bytes_of(values)), &mut visit)?;
        }
        Ok(())
    }
}

/// Turns f32 into the type of a file, a part at a time.
struct Rounder {
    half: Option<Half>,
    values: Vec<f32>,
    bits: Vec<u16>,
}

impl Rounder {
    fn new(dtype: Dtype) -> Self {
        let half = match dtype {
            Dtype::Bf16 => Some(Half::Bf16),
            Dtype::F16 => Some(Half::F16),
            _ => None,
        };
        Self { half, values: vec![0.0; PART_LEN], bits: vec![0; PART_LEN] }
    }

    fn show(&mut self, run: &Run<'_>, visit: &mut impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        match *run {
            Run::Bytes(bytes) => as_f32(bytes)
                .chunks(PART_LEN)
                .try_for_each(|values| rounded(self.half, values, &mut self.bits, visit)),
            Run::Constant { value, elements } => {
                self.values.fill(value);
                let mut left = elements;
                while left > 0 {
                    let len = left.min(to_u64(PART_LEN));
                    let values = self.values.get(..to_usize(len)).unwrap_or_default();
                    rounded(self.half, values, &mut self.bits, visit)?;
                    left -= len;
                }
                Ok(())
            }
        }
    }
}

fn rounded(
    half: Option<Half>,
    values: &[f32],
    bits: &mut [u16],
    visit: &mut impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let Some(half) = half else { return visit(bytes_of(values)) };
    let bits = bits.get_mut(..values.len()).unwrap_or_default();
    round(InstructionSet::detect(), half, Rounding::Nearest, values, bits);
    visit(bytes_of_u16(bits))
}
