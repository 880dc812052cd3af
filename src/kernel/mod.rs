//! ARITHMETIC. Slices in, slices changed: pure, infallible, no allocation, no threads, no clock.
//!
//! - Each update rule is written once, for one element ([`body`]), and one loop ([`sweep`]) runs it over the planes
//!   of a block. LLVM turns that loop into vector code, once for each instruction set ([`arch`]).
//! - Every path rounds the same operations in the same order, and none fuses a multiplication with an addition, so
//!   all instruction sets give the same bits. Division and square root are exact under IEEE 754.
//! - Choices that hold for a whole sweep (weight decay, momentum, amsgrad) are const parameters of a body and cost
//!   nothing per element.

#![expect(
    clippy::inline_always,
    reason = "a body must be compiled inside each shell, with the shell's instruction set"
)]

mod arch;
pub(crate) mod body;
mod isa;
pub(crate) mod narrow;
// The tests call everything in it; the rest of the crate does not yet.
pub(crate) mod reduce;
mod rule;
mod sweep;

pub use isa::InstructionSet;
pub(crate) use rule::{MOST_PLANES, Rule};
pub(crate) use sweep::{Planes, Sweep};
