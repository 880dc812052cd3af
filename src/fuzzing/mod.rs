//! What must hold whatever the bytes are: one function for each kind of hostile input, which panics where a promise is
//! broken. The fuzz targets of `tools/fuzz` and the ordinary tests call the same functions.
//!
//! No part of the public API: compiled for tests and with the feature `fuzzing` only.

mod decoders;
mod foreign;
pub(crate) mod history;
pub(crate) mod image;

pub use decoders::{directory, notes, record, superblock, table_page};
pub use foreign::{archive, gguf, safetensors};

/// A store with changed bytes is looked at, read, verified, opened, trained and committed: typed errors or a store that
/// works, and never other values than committed ones unless every checksum was made to fit.
///
/// The bytes are a list of changes to a store (see `image.rs`), so that inputs stay small and reach deep.
pub fn store(bytes: &[u8]) {
    image::open(bytes);
}

/// A history of steps, writes, commits, rollbacks, readers and reopening gives the bits of a model in plain memory.
pub fn history(bytes: &[u8]) {
    let (setup, operations) = history::parse(bytes);
    history::replay(&setup, &operations);
}

/// Takes numbers from the front of an input; behind its end there are zeros.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn u8(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes([self.u8(), self.u8(), self.u8(), self.u8()])
    }

    fn u64(&mut self) -> u64 {
        u64::from(self.u32()) | u64::from(self.u32()) << 32
    }

    /// A number below `end`, which is not 0.
    fn below(&mut self, end: u64) -> u64 {
        u64::from(self.u32()) % end
    }

    fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (front, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        front
    }
}
