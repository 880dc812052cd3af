//! Looking into a store, read-only: what it is, where its bytes go, whether they are whole. Prints nothing.
//!
//! Three principles: nothing here writes to a store; a damaged store is decoded as far as it goes, and the result says
//! where that was; what a summary leaves out, a listing has.

mod blocks;
mod digest;
mod disk;
mod plan;
mod summary;
mod sweep;
mod usage;
pub(crate) mod verify;

pub use blocks::{BlockRun, BlockWritten, Blocks, BlocksAbsent};
pub use digest::{Digest, TensorDigest};
pub use disk::{DiskSpeed, measure_disk};
pub use plan::{Plan, RowPlan, available_memory_bytes, free_bytes};
pub use summary::{BlockSize, GroupSummary, Summary, TableSummary};
pub use usage::{DiskUse, PlaneBytes, PlaneUse, Role};
pub use verify::{Finding, Verification, VerifyOptions, VerifyProgress, verify};
