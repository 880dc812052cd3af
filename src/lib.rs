//! A memory-mapped, block-partitioned, out-of-core store for model parameters and optimizer state.

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)
)]

mod error;
mod kernel;
pub mod optim;
mod storage;

pub use error::{Damage, Error, Result};
pub use kernel::InstructionSet;
