//! What a store would take, before it is created.

use std::path::Path;

use super::summary::{block_sizes, table};
use super::usage::{DiskUse, PlaneUse, Role, plane_uses};
use super::{BlockSize, TableSummary};
use crate::error::Result;
use crate::format::PAGE_BYTES;
use crate::format::directory::{Directory, Tensor};
use crate::format::progress::PROGRESS_BYTES;
use crate::format::record::Record;
use crate::layout::{RowTable, place, row_tables};
use crate::options::Options;
use crate::schema::Schema;
use crate::storage::{LOCK_FILE_BYTES, RealVolume, Volume};
use crate::units::to_u64;

/// What a store of some schema takes of disk, of memory, and of the disk's throughput. See [`Schema::plan`].
///
/// # Example
///
/// ```
/// use paramstore::{Optimizer, Options, ParamGroup, Schema, TensorSpec};
///
/// let group = ParamGroup::new("all", Optimizer::from_name("adamw")?);
/// let schema = Schema::new().group(group).tensor(TensorSpec::new("w", &[1 << 15, 1 << 15]));
/// let plan = schema.plan(&Options::new().memory_budget(1 << 30))?; // makes nothing
/// let billion = 1 << 30;
/// assert_eq!((plan.params, plan.state_bytes), (billion, 12 * billion)); // w, exp_avg, exp_avg_sq
/// assert!(plan.bytes_on_disk >= 24 * billion); // two homes of each
/// assert!(plan.hot_fraction() < 0.1);
/// assert!(plan.update_bytes() + plan.hot_bytes >= plan.state_bytes);
/// assert!(plan.forward_bytes() < 4 * billion);
/// # Ok::<(), paramstore::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Plan {
    /// Number of parameters.
    pub params: u64,
    /// Number of tensors.
    pub tensors: u64,
    /// The planes, the parameters first.
    pub planes: Vec<PlaneUse>,
    /// Where every byte of disk would go.
    pub disk: DiskUse,
    /// The sum of the lengths of all files of the new store, to the byte.
    pub bytes_on_disk: u64,
    /// Block sizes in use.
    pub blocks: Vec<BlockSize>,
    /// The block table.
    pub table: TableSummary,
    /// The memory budget in force, in bytes.
    pub budget_bytes: u64,
    /// The smallest budget with which the store can be opened.
    pub budget_min_bytes: u64,
    /// Memory beside the budget, at most: every page of the block table, changed at once, and the directory.
    pub metadata_memory_bytes: u64,
    /// Bytes of values that a step updates, parameters and state; those of tensors of rows and frozen ones do not count.
    pub state_bytes: u64,
    /// Bytes of parameter values, frozen ones included.
    pub param_bytes: u64,
    /// Bytes of values that stay in memory from step to step under the budget.
    pub hot_bytes: u64,
    /// Tensors of rows, which no step takes whole.
    pub rows: Vec<RowPlan>,
}

/// What a tensor of rows takes of memory and of the disk's transfers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RowPlan {
    /// The tensor.
    pub tensor: String,
    /// Its rows.
    pub rows: u64,
    /// Its parameters.
    pub params: u64,
    /// How many rows there is memory for.
    pub memory_rows: u64,
    /// Bytes of a row's record: a mark, parameters and state. A commit writes as many, and 16, for each row that changed.
    pub record_bytes: u64,
    /// Bytes that are read for a row that is not in memory.
    pub page_bytes: u64,
}

impl Plan {
    /// The share of the values that stays in memory, 0 to 1. [Example](Self#example).
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
    pub fn hot_fraction(&self) -> f64 {
        if self.state_bytes == 0 { 1.0 } else { self.hot_bytes as f64 / self.state_bytes as f64 }
    }

    /// Bytes that the update of one step reads; it writes as many. The rest is hot. [Example](Self#example).
    #[must_use]
    pub fn update_bytes(&self) -> u64 {
        self.state_bytes - self.hot_bytes
    }

    /// Bytes that one forward pass reads in front of it: the parameters that are not hot. A backward pass that goes
    /// layer by layer shares its reads with the update. [Example](Self#example).
    #[must_use]
    pub fn forward_bytes(&self) -> u64 {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an estimate, between 0 and the bytes of the parameters"
        )]
        let cold = (self.param_bytes as f64 * (1.0 - self.hot_fraction())).round() as u64;
        cold
    }
}

impl Schema {
    /// Says what a store of this schema would take, to the byte, without creating anything. [Example](Plan#example).
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) as [`create`](crate::ParamStore::create) would answer.
    pub fn plan(&self, options: &Options) -> Result<Plan> {
        let budget_bytes = options.budget_bytes();
        let directory = place(&self.request(budget_bytes)?)?;
        let planes = plane_uses(&directory);
        let creation = crate::store::Creation {
            record: Record::first(self.group_records(), row_tables(&directory).len()),
            uuid: crate::format::Uuid([0; 16]),
            sparse: false,
            directory,
        };
        let superblock = crate::store::first_superblock(&creation)?;
        let directory = &creation.directory;
        let mut disk = DiskUse::of(directory, &superblock, &planes)?;
        // The lock and the two pins, and the note of progress.
        disk.small_files = 3 * LOCK_FILE_BYTES + PROGRESS_BYTES;
        let lasting =
            |role| matches!(role, Role::Parameters | Role::State | Role::Compute | Role::Compensation);
        let lasting = planes.iter().filter(|plane| lasting(plane.role));
        let state_bytes = lasting.map(|plane| plane.value_bytes).sum::<u64>();
        let table = table(superblock.table_slots);
        let tables = row_tables(directory);
        let memory_rows = crate::rows::rows_in_memory(directory, budget_bytes);
        let rows = tables.iter().zip(memory_rows.into_iter().chain(std::iter::repeat(0)));
        Ok(Plan {
            rows: rows.map(|(table, memory_rows)| row_plan(directory, table, memory_rows)).collect(),
            params: directory.tensors.iter().filter_map(Tensor::elements).sum(),
            tensors: to_u64(directory.tensors.len()),
            bytes_on_disk: disk.total(),
            blocks: block_sizes(&directory.extents),
            budget_bytes,
            budget_min_bytes: crate::rows::smallest_budget(directory),
            metadata_memory_bytes: table.pages * PAGE_BYTES + superblock.directory.bytes,
            table,
            state_bytes,
            param_bytes: disk.parameters + disk.frozen,
            hot_bytes: state_bytes.min(crate::pager::hot_bytes_max(directory, budget_bytes)),
            planes,
            disk,
        })
    }
}

fn row_plan(directory: &Directory, table: &RowTable, memory_rows: u64) -> RowPlan {
    let tensor = directory.tensors.get(table.tensor);
    RowPlan {
        tensor: tensor.map_or(String::new(), |tensor| tensor.name.clone()),
        rows: table.rows,
        params: tensor.and_then(Tensor::elements).unwrap_or(0),
        memory_rows,
        record_bytes: to_u64(table.records.bytes()),
        page_bytes: to_u64(table.page_bytes()),
    }
}

/// Bytes that can still be allocated in a directory's file system; `u64::MAX` where it does not say.
///
/// ```
/// # let dir = tempfile::tempdir().expect("a temporary directory");
/// let free = paramstore::inspect::free_bytes(dir.path())?;
/// assert!(free > 1 << 20, "{free} bytes are too few for the new store");
/// # Ok::<(), paramstore::Error>(())
/// ```
///
/// # Errors
/// [`Error::Io`](crate::Error::Io) if there is no such directory.
pub fn free_bytes(directory: impl AsRef<Path>) -> Result<u64> {
    RealVolume::open_dir(directory.as_ref())?.free_bytes()
}

/// Bytes of memory that this process may still take: what the machine has available, or less under a cgroup.
///
/// ```
/// use paramstore::Options;
///
/// let free = paramstore::inspect::available_memory_bytes();
/// let options = Options::new().memory_budget(free / 4);
/// assert!(free > 1 << 20, "{free} bytes are too few to train with");
/// ```
#[must_use]
pub fn available_memory_bytes() -> u64 {
    crate::storage::available_memory_bytes()
}
