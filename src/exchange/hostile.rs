//! A narrow door for tests and fuzz targets: a file of any volume, read whole.

use super::ForeignTensor;
use super::reader::Reader;
use super::source::Sources;
use super::stream::Stream;
use crate::error::Result;
use crate::storage::{Access, Caching, Volume};
use crate::units::to_usize;

/// A foreign file whose header was accepted.
pub(crate) struct Opened(Sources);

/// Opens a file of a volume.
pub(crate) fn open(volume: &dyn Volume, name: &str) -> Result<Opened> {
    let mut sources = Sources::default();
    let open = |caching| volume.open(name, Access::Read, caching);
    sources.add_opened(open(Caching::Cached)?, open(Caching::Direct)?)?;
    Ok(Opened(sources))
}

impl Opened {
    pub(crate) fn tensors(&self) -> &[ForeignTensor] {
        &self.0.tensors
    }

    /// All bytes of a tensor's elements.
    pub(crate) fn read(&self, tensor: &ForeignTensor) -> Result<Vec<u8>> {
        let mut reader = Reader::new(&self.0, &[(tensor.file, tensor.offset, tensor.bytes_there())], 0)?;
        let mut bytes = vec![0; to_usize(tensor.bytes)];
        let mut stream = Stream::new(tensor, &mut reader)?;
        stream.read(&mut reader, &mut bytes)?;
        stream.finish()?;
        Ok(bytes)
    }
}
