//! Where the bytes of a store's files go.

use crate::error::{Error, Result};
use crate::format::PAGE_BYTES;
use crate::format::directory::{Directory, Dtype, Extent, ExtentPlane, PlaneRole, Tensor};
use crate::format::page::TableShape;
use crate::format::superblock::Superblock;
use crate::units::{round_up, to_u64, to_usize};

/// What a plane is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Role {
    /// The parameters themselves.
    Parameters,
    /// State that the optimizer keeps.
    State,
    /// Work space without a meaning between steps: one home, never committed.
    Scratch,
    /// Records of rows: parameters and state of tensors of rows, together.
    Rows,
    /// The log of rows.
    RowLog,
    /// Parameters that are never updated: one home.
    Frozen,
    /// Copies of f32 parameters in 16 bits.
    Compute,
    /// What rounding lost of parameters in 16 bits.
    Compensation,
}

impl Role {
    /// The word for it in listings and JSON. [Example](super::Summary#example).
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Parameters => "parameters",
            Self::State => "state",
            Self::Scratch => "scratch",
            Self::Rows => "rows",
            Self::RowLog => "row log",
            Self::Frozen => "frozen",
            Self::Compute => "compute",
            Self::Compensation => "compensation",
        }
    }
}

/// What one plane holds and takes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlaneUse {
    /// The name, e.g. `exp_avg`.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// The types of its elements on disk, by tensor: each once, in the order of the tensors.
    pub dtypes: Vec<Dtype>,
    /// Elements of all tensors that have it.
    pub elements: u64,
    /// Bytes of these elements, once.
    pub value_bytes: u64,
    /// Bytes of its files: every home, padding included.
    pub disk_bytes: u64,
    /// How many places each block of it has: 2, or 1 for scratch and what is frozen.
    pub homes: u8,
    /// How many files it consists of, all homes counted.
    pub files: u64,
}

impl PlaneUse {
    /// The names of its types, joined by `+`; f32 where no tensor has it. [Example](super::Summary#example).
    #[must_use]
    pub fn dtype_names(&self) -> String {
        let names: Vec<_> = self.dtypes.iter().map(|dtype| dtype.name()).collect();
        if names.is_empty() { Dtype::F32.name().to_owned() } else { names.join("+") }
    }
}

/// Bytes of one plane's values.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlaneBytes {
    /// The plane.
    pub name: String,
    /// Bytes.
    pub bytes: u64,
}

/// Where every byte goes. The parts are disjoint, and [`total`](Self::total) is the sum of the lengths of all files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct DiskUse {
    /// Parameter values, one home.
    pub parameters: u64,
    /// Values of each state plane, one home; copies in 16 bits and what rounding lost count as such.
    pub state: Vec<PlaneBytes>,
    /// The second homes of all these values: what makes a commit atomic without a copy.
    pub second_homes: u64,
    /// Values of scratch planes (`grad`).
    pub scratch: u64,
    /// Records of tensors of rows, one home: parameters, state, and the step of each row's last update.
    pub rows: u64,
    /// The log of rows.
    pub row_log: u64,
    /// Values of frozen tensors, which have one home.
    pub frozen: u64,
    /// Filling between values, in all homes: up to the next 4 KiB, and between small tensors that share a block.
    pub padding: u64,
    /// The block table, both homes.
    pub table: u64,
    /// Names, shapes and places.
    pub directory: u64,
    /// Settings of groups and the user record, both homes, with room to grow.
    pub records: u64,
    /// The two superblocks.
    pub superblocks: u64,
    /// Lock, pin and progress files, and those for onlookers.
    pub small_files: u64,
    /// Files in the directory that are not the store's.
    pub other_files: u64,
}

impl DiskUse {
    /// The sum of all parts, in bytes. [Example](super::Summary#example).
    #[must_use]
    pub fn total(&self) -> u64 {
        let state = self.state.iter().map(|plane| plane.bytes).sum::<u64>();
        let values = self.parameters
            + state
            + self.second_homes
            + self.scratch
            + self.rows
            + self.row_log
            + self.frozen
            + self.padding;
        let meta = self.table + self.directory + self.records + self.superblocks;
        values + meta + self.small_files + self.other_files
    }

    /// The parts that the directory and the superblock fix; `small_files` and `other_files` are left at 0.
    pub(super) fn of(directory: &Directory, superblock: &Superblock, planes: &[PlaneUse]) -> Result<Self> {
        let mut usage = Self { superblocks: 2 * PAGE_BYTES, ..Self::default() };
        for plane in planes {
            usage.padding += plane.disk_bytes - plane.value_bytes * u64::from(plane.homes);
            usage.second_homes += plane.value_bytes * (u64::from(plane.homes) - 1);
            match plane.role {
                Role::Parameters => usage.parameters += plane.value_bytes,
                Role::Scratch => usage.scratch += plane.value_bytes,
                Role::Rows => usage.rows += plane.value_bytes,
                Role::RowLog => usage.row_log += plane.value_bytes,
                Role::Frozen => usage.frozen += plane.value_bytes,
                Role::State | Role::Compute | Role::Compensation => {
                    usage.state.push(PlaneBytes { name: plane.name.clone(), bytes: plane.value_bytes });
                }
            }
        }
        let too_large = || Error::invalid("store", "sizes beyond 2^64 bytes", "fewer parameters");
        let table = TableShape::new(directory.slots()).and_then(|shape| shape.bytes());
        usage.table = table.ok_or_else(too_large)?;
        usage.directory = round_up(superblock.directory.bytes, PAGE_BYTES).ok_or_else(too_large)?;
        usage.records = superblock.record_capacity.checked_mul(2).ok_or_else(too_large)?;
        Ok(usage)
    }
}

/// The planes of a tensor, scratch last.
fn planes_of<'a>(directory: &'a Directory, tensor: &Tensor) -> impl Iterator<Item = &'a ExtentPlane> {
    let extent = directory.extents.get(to_usize(tensor.extent.into()));
    extent.into_iter().flat_map(|extent: &Extent| extent.planes.iter().chain(&extent.scratch))
}

/// Elements that a plane of a tensor has on disk: for a tensor of rows, those of its records.
fn stored_elements(directory: &Directory, tensor: &Tensor) -> u64 {
    let elements = tensor.elements().unwrap_or(0);
    let extent = directory.extents.get(to_usize(tensor.extent.into()));
    match (extent.and_then(|extent| extent.records.as_ref()), tensor.shape.first()) {
        (Some(records), Some(&rows)) => rows.saturating_mul(to_u64(records.len())),
        _ => elements,
    }
}

/// What every plane holds and takes, in the directory's order.
pub(super) fn plane_uses(directory: &Directory) -> Vec<PlaneUse> {
    let mut uses: Vec<PlaneUse> = directory
        .planes
        .iter()
        .map(|plane| PlaneUse {
            name: plane.name.clone(),
            role: match plane.role {
                PlaneRole::Param => Role::Parameters,
                PlaneRole::State => Role::State,
                PlaneRole::Scratch => Role::Scratch,
                PlaneRole::Record => Role::Rows,
                PlaneRole::Log => Role::RowLog,
                PlaneRole::Frozen => Role::Frozen,
                PlaneRole::Compute => Role::Compute,
                PlaneRole::Compensation => Role::Compensation,
            },
            dtypes: Vec::new(),
            elements: 0,
            value_bytes: 0,
            disk_bytes: 0,
            homes: plane.role.homes(),
            files: 0,
        })
        .collect();
    for tensor in &directory.tensors {
        let elements = stored_elements(directory, tensor);
        for plane in planes_of(directory, tensor) {
            if let Some(usage) = uses.get_mut(usize::from(plane.plane)) {
                if !usage.dtypes.contains(&plane.dtype) {
                    usage.dtypes.push(plane.dtype);
                }
                usage.elements += elements;
                usage.value_bytes += plane.dtype.bytes_of(elements).unwrap_or(0);
            }
        }
    }
    if let Some(log) = directory.log_segment().and_then(|at| directory.segments.get(at))
        && let Some(usage) = uses.get_mut(usize::from(log.plane))
    {
        usage.value_bytes = log.bytes;
    }
    for segment in &directory.segments {
        if let Some(usage) = uses.get_mut(usize::from(segment.plane)) {
            usage.files += u64::from(segment.homes);
            usage.disk_bytes += segment.bytes * u64::from(segment.homes);
        }
    }
    uses
}
