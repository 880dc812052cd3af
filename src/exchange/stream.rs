//! The elements of a foreign tensor from front to end, unpacked where an archive has packed them, and its checksum.

use miniz_oxide::DataFormat;
use miniz_oxide::inflate::stream::InflateState;

use super::npz::unpack;
use super::reader::Reader;
use super::{ForeignTensor, Packed};
use crate::error::{Error, Result};
use crate::format::checksum::crc32_on;
use crate::units::{to_u64, to_usize};

/// A tensor that is being read.
pub(super) struct Stream<'t> {
    tensor: &'t ForeignTensor,
    /// The next byte of the file.
    at: u64,
    state: Option<Box<InflateState>>,
    crc: u32,
}

impl<'t> Stream<'t> {
    /// Begins at the first element.
    pub(super) fn new(tensor: &'t ForeignTensor, reader: &mut Reader) -> Result<Self> {
        let mut stream = Self { tensor, at: tensor.offset, state: None, crc: 0 };
        if let Some(Packed { compressed, header, header_crc, .. }) = tensor.packed {
            if compressed.is_some() {
                stream.state = Some(InflateState::new_boxed(DataFormat::Raw));
                let mut front = vec![0; to_usize(header)];
                stream.read(reader, &mut front)?;
            }
            stream.crc = header_crc;
        }
        Ok(stream)
    }

    /// The next bytes.
    pub(super) fn read(&mut self, reader: &mut Reader, out: &mut [u8]) -> Result<()> {
        if self.state.is_some() {
            self.unpack(reader, out)?;
        } else {
            reader.read(self.tensor.file, self.at, out)?;
            self.at += to_u64(out.len());
        }
        if self.tensor.packed.is_some() {
            self.crc = crc32_on(self.crc, out);
        }
        Ok(())
    }

    fn unpack(&mut self, reader: &mut Reader, out: &mut [u8]) -> Result<()> {
        let end = self.tensor.offset + self.tensor.packed.and_then(|packed| packed.compressed).unwrap_or(0);
        let mut done = 0;
        while done < out.len() {
            let input =
                if self.at < end { reader.chunk(self.tensor.file, self.at, end - self.at)? } else { &[] };
            let rest = out.get_mut(done..).unwrap_or_default();
            let Some((taken, made)) = self.state.as_mut().and_then(|state| unpack(state, input, rest)) else {
                return Err(self.wrong("bytes that do not unpack", "a deflated npy file"));
            };
            if taken + made == 0 {
                return Err(self.wrong("an end before the last element", "all elements"));
            }
            self.at += to_u64(taken);
            done += made;
        }
        Ok(())
    }

    fn wrong(&self, got: impl std::fmt::Display, expected: impl std::fmt::Display) -> Error {
        let what = format!("tensor {:?}", self.tensor.name);
        let range = (self.tensor.offset, self.tensor.bytes_there());
        Error::foreign(&*self.tensor.path, what, range, got, expected)
    }

    /// Compares the checksum, where there is one, when all elements have been read.
    pub(super) fn finish(&self) -> Result<()> {
        match self.tensor.packed {
            Some(Packed { crc, .. }) if crc != self.crc => {
                Err(self
                    .wrong(format!("checksum {:08x}", self.crc), format!("{crc:08x}, as its archive says")))
            }
            _ => Ok(()),
        }
    }
}
