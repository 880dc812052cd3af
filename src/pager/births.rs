//! Which initial values a never-written block has.

use std::collections::HashMap;
use std::sync::Arc;

use crate::format::directory::{Directory, Dtype, Init};
use crate::format::elements::as_f32_mut;
use crate::initial::{fill, fill_record, tensor_key};
use crate::kernel::InstructionSet;
use crate::layout::RowTable;
use crate::precision::{Rounding, lane};
use crate::units::{BlockIndex, to_u64, to_usize};

/// A tensor's part of an extent.
struct Part {
    /// First element in the extent.
    start: u64,
    elements: u64,
    /// The same element in the tensor.
    of_tensor: u64,
    init: Init,
    key: u64,
}

/// The parts of every extent, in ascending order.
pub(super) struct Births {
    extents: Vec<Vec<Part>>,
    /// Tensors of rows and the keys of their values, by extent.
    tables: HashMap<usize, Arc<(RowTable, u64)>>,
}

/// Elements of a plane in few bits that are made at a time.
const NARROW_LEN: usize = 4096;

/// What to fill one block's plane with.
pub(super) enum Birth {
    /// Ranges of elements, each from one tensor's generator.
    Elements(Vec<(std::ops::Range<usize>, Init, u64, u64)>),
    /// The records of a block of rows.
    Rows(Arc<(RowTable, u64)>, BlockIndex),
}

impl Births {
    pub(super) fn new(directory: &Directory) -> Self {
        let mut extents: Vec<Vec<Part>> = directory.extents.iter().map(|_| Vec::new()).collect();
        let mut tables = HashMap::new();
        for (index, tensor) in directory.tensors.iter().enumerate() {
            let key = tensor_key(directory.seed, &tensor.name);
            if let Some(table) = RowTable::new(directory, index) {
                let table = Arc::new((table, key));
                let first = to_usize(tensor.extent.into());
                let own = first..first + to_usize(tensor.extents.into());
                tables.extend(own.map(|at| (at, Arc::clone(&table))));
                continue;
            }
            let mut left = tensor.elements().unwrap_or(0);
            let mut of_tensor = 0;
            let first = to_usize(tensor.extent.into());
            for at in first..first + to_usize(tensor.extents.into()) {
                let (Some(parts), Some(extent)) = (extents.get_mut(at), directory.extents.get(at)) else {
                    break;
                };
                let elements = left.min(extent.elements);
                let part = Part { start: tensor.offset, elements, of_tensor, init: tensor.init, key };
                parts.push(part);
                (left, of_tensor) = (left - elements, of_tensor + elements);
            }
        }
        for parts in &mut extents {
            parts.sort_by_key(|part| part.start);
        }
        Self { extents, tables }
    }

    /// How the parameter plane of a block begins.
    pub(super) fn of_block(&self, directory: &Directory, extent: usize, block: BlockIndex) -> Birth {
        if let Some(table) = self.tables.get(&extent) {
            return Birth::Rows(Arc::clone(table), block);
        }
        let mut pieces = Vec::new();
        if let (Some(parts), Some(spec)) = (self.extents.get(extent), directory.extents.get(extent)) {
            let start = (block.0 - spec.first_block) * spec.block_elements;
            let end = (start + spec.block_elements).min(spec.elements);
            let first = parts.partition_point(|part| part.start + part.elements <= start);
            for part in parts.iter().skip(first).take_while(|part| part.start < end) {
                let from = part.start.max(start);
                let to = (part.start + part.elements).min(end);
                let range = to_usize(from - start)..to_usize(to - start);
                pieces.push((range, part.init, part.key, part.of_tensor + (from - part.start)));
            }
        }
        Birth::Elements(pieces)
    }
}

impl Birth {
    /// A plane that holds one value everywhere.
    pub(super) fn constant(value: f32, elements: usize) -> Self {
        Self::Elements(vec![(0..elements, Init::Constant(value), 0, 0)])
    }

    /// Writes the values of a plane's `elements`, rounded to the nearest; elements that belong to no tensor become zero.
    /// Pages of records have no checksums yet.
    pub(super) fn fill(&self, dtype: Dtype, elements: usize, bytes: &mut [u8]) {
        bytes.fill(0);
        if !dtype.is_trainable() {
            return;
        }
        if dtype == Dtype::F32 {
            return self.fill_from(0, as_f32_mut(bytes));
        }
        let isa = InstructionSet::detect();
        let mut plane = lane(dtype, bytes, elements);
        let mut values = [0.0; NARROW_LEN];
        for first in (0..elements).step_by(NARROW_LEN) {
            let values = values.get_mut(..NARROW_LEN.min(elements - first)).unwrap_or_default();
            values.fill(0.0);
            self.fill_from(first, values);
            plane.write(isa, first, values, Rounding::Nearest);
        }
    }

    /// Writes the values of the elements from `start` on into zeros.
    fn fill_from(&self, start: usize, out: &mut [f32]) {
        match self {
            Self::Elements(pieces) => {
                let end = start + out.len();
                for (range, init, key, first) in pieces {
                    let (from, to) = (range.start.max(start), range.end.min(end));
                    if from < to
                        && let Some(part) = out.get_mut(from - start..to - start)
                    {
                        fill(*init, *key, first + to_u64(from - range.start), part);
                    }
                }
            }
            Self::Rows(table, block) => {
                let (table, key) = (&table.0, table.1);
                for row in table.rows_of(*block) {
                    let place = table.place(row);
                    let start = (place.page * table.page_bytes() + place.within) / 4;
                    if let Some(record) = out.get_mut(start..start + table.records.len()) {
                        fill_record(&table.records, table.init, key, row, record);
                    }
                }
            }
        }
    }
}
