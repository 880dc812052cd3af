//! Looking into a store, read-only: what it is, where its bytes go, whether they are whole. Prints nothing.
//!
//! Three principles: nothing here writes to a store; a damaged store is decoded as far as it goes, and the result says
//! where that was; what a summary leaves out, a listing has.
//!
//! ```
#![doc = include_str!("../examples/store.txt")]
//! use paramstore::inspect::{DiffOptions, StatisticsOptions, Summary, VerifyOptions, diff, verify};
//!
//! store.write("w", &[3.0, 4.0, 0.0, 0.0, 0.0, 0.0])?;
//! store.commit(b"")?;
//! assert_eq!(Summary::of(&path, &options)?.params, 6); // beside the writer
//! let w = &store.statistics(&StatisticsOptions::new(), |_bytes| {})?[0].planes[0];
//! assert_eq!((w.norm, w.zeros), (5.0, 4));
//! assert!(verify(&path, &VerifyOptions::new(), |_progress| {})?.is_sound());
//! assert!(diff(&store, &store, &DiffOptions::new(), |_bytes| {})?.is_same());
//! # Ok::<(), paramstore::Error>(())
//! ```

mod blocks;
mod diff;
mod digest;
mod disk;
mod element;
mod parts;
mod plan;
mod statistics;
mod summary;
mod sweep;
mod usage;
pub(crate) mod verify;

pub use blocks::{BlockRun, BlockWritten, Blocks, BlocksAbsent};
pub use diff::{DiffOptions, Difference, OtherShape, PlaneDifference, TensorDifference, diff};
pub use digest::{Digest, TensorDigest};
pub use disk::{DiskSpeed, measure_disk};
pub use element::Element;
pub use plan::{Plan, RowPlan, available_memory_bytes, free_bytes};
pub use statistics::{Bin, Histogram, PlaneStatistics, StatisticsOptions, TensorStatistics};
pub use summary::{BlockSize, GroupSummary, Summary, TableSummary};
pub use usage::{DiskUse, PlaneBytes, PlaneUse, Role};
pub use verify::{Finding, Verification, VerifyOptions, VerifyProgress, verify};
