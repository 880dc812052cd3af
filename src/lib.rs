//! A memory-mapped, block-partitioned, out-of-core store for model parameters and optimizer state.
//!
//! Begin at [`ParamStore`] and its [example](ParamStore#example): what it is made of is a [`Schema`], how it is opened are
//! [`Options`], a [`Step`] updates it. Then: [`optim`] has the update rules, [`precision`] fewer bits, [`exchange`] files of
//! other programs, [`checkpoint`] generations by name, [`inspect`] looks inside, [`telemetry`] looks on, [`repair`] mends.
//!
//! Examples begin with a comment that says which store they begin with; the lines that make it are hidden, as those that
//! make a temporary directory are.

#![cfg_attr(
    test,
    expect(
        clippy::duplicate_mod,
        reason = "src/tests/models compiles two files once more, for a model checker"
    )
)]
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)
)]

pub mod checkpoint;
pub mod convert;
mod error;
pub mod exchange;
mod format;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod initial;
pub mod inspect;
mod kernel;
mod layout;
pub mod optim;
mod options;
mod pager;
mod param_store;
pub mod precision;
mod radix;
pub mod repair;
mod rows;
mod schema;
#[cfg(any(test, feature = "simulation"))]
#[doc(hidden)]
pub mod simulation;
mod splitmix;
mod step;
mod storage;
mod store;
pub mod telemetry;
mod units;
mod update;

#[cfg(test)]
mod tests;

/// The snippets of the README, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// The snippets of the guide.
#[cfg(doctest)]
#[doc = include_str!("../docs/GUIDE.md")]
struct Guide;

pub use error::{Damage, Error, Result};
pub use format::directory::{Dtype, Init};
pub use format::records::RowMode;
pub use kernel::InstructionSet;
pub use optim::Optimizer;
pub use options::{NonFinitePolicy, Options, StepOptions};
pub use pager::{HalfView, IoPath, Stats, View};
pub use param_store::{CommitReport, ParamStore, Recovery, TensorInfo};
pub use precision::{Moments, Precision};
pub use rows::RowUse;
pub use schema::{ParamGroup, Schema, TensorSpec};
pub use step::{MemoryPass, Step, StepReport};
pub use store::Generation;
