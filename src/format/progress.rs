//! The progress file: how far the working generation has come. A hint for people, never trusted for recovery.

use super::checksum::{Uuid, crc32};
use super::codec::{Decoded, Reader, Writer};

const MAGIC: [u8; 8] = *b"PARSTEPS";
/// Length of the file.
pub(crate) const PROGRESS_BYTES: u64 = 64;

/// The last step that finished after a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) uuid: Uuid,
    /// The committed generation it builds on.
    pub(crate) generation: u64,
    /// The last step that finished.
    pub(crate) step: u64,
    /// Process id of the writer.
    pub(crate) pid: u32,
}

impl Progress {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut w = Writer::default();
        w.raw(&MAGIC);
        w.raw(&self.uuid.0);
        w.u64(self.generation);
        w.u64(self.step);
        w.u32(self.pid);
        w.zeros_to(60);
        let crc = crc32(w.bytes());
        w.u32(crc);
        w.into_bytes()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Decoded<Self> {
        let mut r = Reader::new("progress", bytes);
        let body = r.raw("body", 60)?;
        let crc = r.u32("checksum")?;
        r.end()?;
        let mut r = Reader::new("progress", body);
        let magic = r.raw("magic", 8)?;
        if magic != MAGIC || crc != crc32(body) {
            return Err(r.error("checksum", format!("{crc:08x}"), format!("{:08x}", crc32(body))));
        }
        let mut uuid = Uuid([0; 16]);
        uuid.0.copy_from_slice(r.raw("uuid", 16)?);
        Ok(Self { uuid, generation: r.u64("generation")?, step: r.u64("step")?, pid: r.u32("pid")? })
    }
}
