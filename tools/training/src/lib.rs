//! What the training programs of this repository share: how they begin and end, numbers for people and for machines, and
//! what they read before they train.

pub mod bytes;
pub mod people;
pub mod program;
pub mod random;
pub mod store;
#[cfg(feature = "candle")]
pub mod tensors;
pub mod text;
pub mod units;
