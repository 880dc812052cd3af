//! Memory of gradients that wait for their update.
//!
//! While gradients come one after the other, their memory stays theirs: given back to the pool in between it would become
//! that of blocks, and new memory be taken from the system for the next gradient, and then for the next block.

use crate::storage::Buffer;
use crate::units::to_u64;

#[derive(Default)]
pub(super) struct WaitingMemory {
    used_bytes: u64,
    spare: Vec<Buffer>,
}

impl WaitingMemory {
    /// Bytes of gradients that wait or are being used.
    pub(super) fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    /// The smallest memory to spare that holds so many bytes.
    pub(super) fn take_spare(&mut self, bytes: u64) -> Option<Buffer> {
        let large_enough = self.spare.iter().enumerate().filter(|(_, buffer)| to_u64(buffer.len()) >= bytes);
        let (at, _) = large_enough.min_by_key(|(_, buffer)| buffer.len())?;
        Some(self.spare.swap_remove(at))
    }

    /// Takes out what has to go so that `bytes` more stay below `most`.
    pub(super) fn make_room(&mut self, bytes: u64, most: u64) -> Vec<Buffer> {
        let mut all = self.used_bytes + bytes;
        let fits = |buffer: &&Buffer| {
            all += to_u64(buffer.len());
            all <= most
        };
        let stay = self.spare.iter().take_while(fits).count();
        self.spare.split_off(stay)
    }

    /// A gradient waits in `buffer` from now on.
    pub(super) fn begin(&mut self, buffer: &Buffer) {
        self.used_bytes += to_u64(buffer.len());
    }

    /// The gradient in `buffer` is needed no more.
    pub(super) fn end(&mut self, buffer: Buffer) {
        self.used_bytes -= to_u64(buffer.len());
        self.spare.push(buffer);
    }

    /// All that is not used.
    pub(super) fn take_all_spare(&mut self) -> Vec<Buffer> {
        std::mem::take(&mut self.spare)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again_where_it_is_large_enough_and_makes_room_where_it_is_not() {
        let mut memory = WaitingMemory::default();
        let buffers = [8, 4, 12].map(|pages| Buffer::new(4096 * pages).unwrap());
        for buffer in &buffers {
            memory.begin(buffer);
        }
        assert_eq!(memory.used_bytes(), 24 * 4096);
        for buffer in buffers {
            memory.end(buffer);
        }
        assert_eq!(memory.used_bytes(), 0);
        let taken = memory.take_spare(4 * 4096 + 1).unwrap();
        assert_eq!(taken.len(), 8 * 4096);
        memory.begin(&taken);
        assert!(memory.take_spare(13 * 4096).is_none());
        assert!(memory.make_room(4096, 25 * 4096).is_empty(), "all of it together is enough");
        let gone: Vec<_> = memory.make_room(13 * 4096, 25 * 4096).iter().map(|buffer| buffer.len()).collect();
        assert_eq!(gone, [12 * 4096, 4 * 4096], "what is used stays");
        memory.end(taken);
        assert_eq!((memory.take_all_spare().len(), memory.take_all_spare().len()), (1, 0));
        assert!(memory.make_room(1, 0).is_empty());
    }
}
