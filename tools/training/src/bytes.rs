//! Reading user records: little-endian fields, one after the other.

use anyhow::{Result, bail};

/// What is left to read.
#[derive(Debug)]
pub struct Bytes<'a>(pub &'a [u8]);

impl<'a> Bytes<'a> {
    /// The next `len` bytes.
    ///
    /// # Errors
    /// If there are fewer.
    pub fn run(&mut self, len: usize) -> Result<&'a [u8]> {
        let Some((head, tail)) = self.0.split_at_checked(len) else {
            bail!("the user record ends early: {len} more bytes expected, {} left", self.0.len());
        };
        self.0 = tail;
        Ok(head)
    }

    /// The next bytes, as an array.
    ///
    /// # Errors
    /// If there are fewer.
    pub fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.run(N)?.try_into()?)
    }

    /// The next four bytes as a number.
    ///
    /// # Errors
    /// If there are fewer.
    pub fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.take()?))
    }

    /// The next eight bytes as a number.
    ///
    /// # Errors
    /// If there are fewer.
    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    /// The next four bytes as a length.
    ///
    /// # Errors
    /// If there are fewer.
    pub fn usize(&mut self) -> Result<usize> {
        Ok(usize::try_from(self.u32()?)?)
    }
}
