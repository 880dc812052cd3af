//! CRC-32 bound to identity: a right block in the wrong place fails its check.

use crate::units::SlotIndex;

/// A store's identity: 16 random bytes, fixed at creation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Uuid(pub(crate) [u8; 16]);

impl std::fmt::Display for Uuid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl std::fmt::Debug for Uuid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Uuid({self})")
    }
}

/// CRC-32 (IEEE 802.3 polynomial, as in zlib) of plain bytes: for structures that carry their own identity.
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// The checksum of bytes that go on where those of `crc` ended.
pub(crate) fn crc32_on(crc: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(crc);
    hasher.update(bytes);
    hasher.finalize()
}

/// Checksum of bytes that is bound to what stands in front of them.
pub(super) fn bound(prefix: &[u8], bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(prefix);
    hasher.update(bytes);
    hasher.finalize()
}

/// Checksum of one plane of one block: over the store, the slot (which names block and plane), the generation it
/// was written in, and its bytes without padding.
pub(crate) fn block_crc(uuid: Uuid, slot: SlotIndex, generation: u64, bytes: &[u8]) -> u32 {
    let mut prefix = [0; 32];
    prefix[..16].copy_from_slice(&uuid.0);
    prefix[16..24].copy_from_slice(&slot.0.to_le_bytes());
    prefix[24..].copy_from_slice(&generation.to_le_bytes());
    bound(&prefix, bytes)
}

/// Checksum of a table page, kept by its parent: over the store and the page, whose header names its place.
pub(crate) fn page_crc(uuid: Uuid, page: &[u8]) -> u32 {
    bound(&uuid.0, page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_depends_on_every_part_of_the_identity() {
        let uuid = Uuid([7; 16]);
        let mut other = uuid;
        other.0[15] ^= 1;
        let base = block_crc(uuid, SlotIndex(3), 9, b"bytes");
        assert_ne!(base, block_crc(other, SlotIndex(3), 9, b"bytes"));
        assert_ne!(base, block_crc(uuid, SlotIndex(4), 9, b"bytes"));
        assert_ne!(base, block_crc(uuid, SlotIndex(3), 8, b"bytes"));
        assert_ne!(base, block_crc(uuid, SlotIndex(3), 9, b"bytez"));
    }

    #[test]
    fn crc_is_that_of_zlib() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }
}
