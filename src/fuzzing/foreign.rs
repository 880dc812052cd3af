//! Foreign files: no panic, nothing taken that the file does not hold, and what is accepted can be read whole.

use std::sync::Arc;

use super::Input;
use crate::error::{Error, Result};
use crate::exchange::hostile::{Opened, open};
use crate::storage::{Access, Allocation, Caching, MemoryVolume, Volume};
use crate::units::to_u64;

/// A directory in memory with one file.
fn volume(bytes: &[u8]) -> Result<Arc<dyn Volume>> {
    let volume = MemoryVolume::new("memory");
    volume.create("file", to_u64(bytes.len()), Allocation::Full)?;
    volume.open("file", Access::Write, Caching::Cached)?.write_at(bytes, 0)?;
    Ok(Arc::new(volume))
}

/// Reads a file's header, and the values of all tensors that a store could hold.
fn accepted(bytes: &[u8]) -> Option<Opened> {
    let volume = volume(bytes).unwrap_or_else(|e| panic!("{e}"));
    let opened = match open(&*volume, "file") {
        Ok(opened) => opened,
        Err(Error::Foreign(damage)) => {
            assert!(!damage.got.is_empty() && !damage.expected.is_empty(), "{damage}");
            return None;
        }
        Err(other) => panic!("{other}"),
    };
    let len = to_u64(bytes.len());
    let mut memory = 0;
    for tensor in opened.tensors() {
        assert!(tensor.offset <= len, "{tensor:?} in {len} bytes");
        assert!(tensor.packed.is_some() || tensor.offset + tensor.bytes <= len, "{tensor:?} in {len} bytes");
        if let Some(size) = tensor.dtype.bytes() {
            assert_eq!(tensor.elements().checked_mul(size), Some(tensor.bytes), "{tensor:?}");
        }
        memory += size_of_val(tensor) + tensor.name.len() + size_of_val(tensor.shape.as_slice());
    }
    assert!(memory <= 64 * bytes.len(), "{memory} bytes in memory for {}", bytes.len());
    Some(opened)
}

/// Reads values; those of an archive may fail their checksum, others are there.
fn read_all(bytes: &[u8]) {
    let Some(opened) = accepted(bytes) else { return };
    // What an entry of a zip archive claims is bounded by a ratio alone.
    for tensor in opened.tensors().iter().filter(|tensor| tensor.bytes <= 1 << 20) {
        match opened.read(tensor) {
            Ok(values) => assert_eq!(to_u64(values.len()), tensor.bytes),
            Err(Error::Foreign(_)) if tensor.packed.is_some() => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// A safetensors file: as given, and with a length made to fit and as many bytes behind it as the last two say.
pub fn safetensors(bytes: &[u8]) {
    read_all(bytes);
    let (json, end) = bytes.split_at(bytes.len().saturating_sub(2));
    let mut file = to_u64(json.len()).to_le_bytes().to_vec();
    file.extend_from_slice(json);
    let len = file.len() + usize::try_from(Input(end).u32() % 4096).unwrap_or(0);
    file.resize(len, 7);
    read_all(&file);
}

/// A GGUF file: as given, and with what it begins with.
pub fn gguf(bytes: &[u8]) {
    read_all(bytes);
    let mut file = b"GGUF\x03\0\0\0".to_vec();
    file.extend_from_slice(bytes);
    read_all(&file);
}

/// An npz file as given, and the same bytes as an npy file.
pub fn archive(bytes: &[u8]) {
    read_all(bytes);
    let mut file = b"\x93NUMPY\x01\0".to_vec();
    file.extend_from_slice(bytes);
    read_all(&file);
}
