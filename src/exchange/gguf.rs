//! The GGUF format, versions 2 and 3: metadata, a list of tensors, and their elements at aligned places.

use std::collections::HashSet;
use std::sync::Arc;

use super::{ForeignDtype, ForeignTensor, byte_len};
use crate::error::{Error, Result};
use crate::storage::Segment;
use crate::units::{to_u64, to_usize};

/// Bytes that are read at once.
const WINDOW_BYTES: u64 = 64 << 10;
/// The longest name that is taken into memory.
const NAME_BYTES_MAX: u64 = 1024;
/// The most dimensions of a tensor.
const RANK_MAX: u64 = 8;
/// How deep arrays stand in arrays, at most.
const DEPTH_MAX: u32 = 4;
/// Bytes of an entry of the list of tensors, at least.
const INFO_BYTES_MIN: u64 = 24;
/// The multiple at which elements begin where the file says nothing.
const ALIGNMENT: u64 = 32;

/// A type of an element, or of a quantised block: code, name, elements of a block and bytes of it.
const TYPES: [(u64, &str, u64, u64); 31] = [
    (0, "F32", 1, 4),
    (1, "F16", 1, 2),
    (2, "Q4_0", 32, 18),
    (3, "Q4_1", 32, 20),
    (6, "Q5_0", 32, 22),
    (7, "Q5_1", 32, 24),
    (8, "Q8_0", 32, 34),
    (9, "Q8_1", 32, 36),
    (10, "Q2_K", 256, 84),
    (11, "Q3_K", 256, 110),
    (12, "Q4_K", 256, 144),
    (13, "Q5_K", 256, 176),
    (14, "Q6_K", 256, 210),
    (15, "Q8_K", 256, 292),
    (16, "IQ2_XXS", 256, 66),
    (17, "IQ2_XS", 256, 74),
    (18, "IQ3_XXS", 256, 98),
    (19, "IQ1_S", 256, 50),
    (20, "IQ4_NL", 32, 18),
    (21, "IQ3_S", 256, 110),
    (22, "IQ2_S", 256, 82),
    (23, "IQ4_XS", 256, 136),
    (24, "I8", 1, 1),
    (25, "I16", 1, 2),
    (26, "I32", 1, 4),
    (27, "I64", 1, 8),
    (28, "F64", 1, 8),
    (29, "IQ1_M", 256, 56),
    (30, "BF16", 1, 2),
    (34, "TQ1_0", 256, 54),
    (35, "TQ2_0", 256, 66),
];

/// A place in a file, and what is in memory around it.
struct Cursor<'f> {
    file: &'f dyn Segment,
    len: u64,
    at: u64,
    window: Vec<u8>,
    window_at: u64,
}

impl Cursor<'_> {
    fn wrong(&self, what: &str, got: impl std::fmt::Display, expected: impl std::fmt::Display) -> Error {
        Error::foreign(self.file.path(), format!("{what} of GGUF"), (self.at, 0), got, expected)
    }

    /// A little-endian number of so many bytes.
    fn number(&mut self, bytes: u64) -> Result<u64> {
        let mut value = 0;
        for (place, byte) in self.bytes(bytes)?.iter().enumerate() {
            value |= u64::from(*byte) << (8 * place);
        }
        Ok(value)
    }

    /// At most a window of bytes.
    fn bytes(&mut self, len: u64) -> Result<&[u8]> {
        let end = self.at.checked_add(len).filter(|&end| end <= self.len);
        let Some(end) = end else {
            return Err(self.wrong("header", format!("a file of {} bytes", self.len), format!("{len} more")));
        };
        if self.at < self.window_at || end > self.window_at + to_u64(self.window.len()) {
            self.window.resize(to_usize(WINDOW_BYTES.max(len).min(self.len - self.at)), 0);
            self.window_at = self.at;
            self.file.read_at(&mut self.window, self.at)?;
        }
        let from = to_usize(self.at - self.window_at);
        self.at = end;
        Ok(self.window.get(from..from + to_usize(len)).unwrap_or_default())
    }

    fn skip(&mut self, len: Option<u64>) -> Result<()> {
        match len.and_then(|len| self.at.checked_add(len)).filter(|&end| end <= self.len) {
            Some(end) => {
                self.at = end;
                Ok(())
            }
            None => Err(self.wrong("value", format!("a file of {} bytes", self.len), "more")),
        }
    }

    fn name(&mut self) -> Result<String> {
        let len = self.number(8)?;
        if len > NAME_BYTES_MAX {
            return Err(self.wrong("name", format!("{len} bytes"), format!("at most {NAME_BYTES_MAX}")));
        }
        let name = String::from_utf8(self.bytes(len)?.to_vec());
        name.map_err(|error| self.wrong("name", format!("{:?}", error.as_bytes()), "UTF-8"))
    }

    /// Passes over a value of metadata; of a number, tells it.
    fn value(&mut self, kind: u64, depth: u32) -> Result<Option<u64>> {
        if let Some(bytes) = value_bytes(kind) {
            return self.number(bytes).map(Some);
        }
        match kind {
            8 => {
                let len = self.number(8)?;
                self.skip(Some(len))?;
            }
            9 if depth < DEPTH_MAX => {
                let (kind, count) = (self.number(4)?, self.number(8)?);
                if let Some(bytes) = value_bytes(kind) {
                    self.skip(count.checked_mul(bytes))?;
                    return Ok(None);
                }
                // A string or an array takes 8 bytes at least, so that this ends with the file.
                for _ in 0..count {
                    self.value(kind, depth + 1)?;
                }
            }
            _ => return Err(self.wrong("metadata", format!("a value of type {kind}"), "types 0 to 12")),
        }
        Ok(None)
    }
}

/// Bytes of a value of metadata; `None` for strings and arrays, and what is unknown.
fn value_bytes(kind: u64) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

/// The tensors of a file.
pub(super) fn read(file: &dyn Segment) -> Result<Vec<ForeignTensor>> {
    let len = file.len_bytes()?;
    let mut cursor = Cursor { file, len, at: 4, window: Vec::new(), window_at: 0 };
    let version = cursor.number(4)?;
    if !(2..=3).contains(&version) {
        let got = if version.trailing_zeros() >= 24 {
            "a big-endian file".to_owned()
        } else {
            format!("version {version}")
        };
        return Err(cursor.wrong("version", got, "version 2 or 3, little-endian"));
    }
    let (tensors, pairs) = (cursor.number(8)?, cursor.number(8)?);
    // A pair has a length, a type and a value.
    if tensors > len / INFO_BYTES_MIN || pairs > len / 13 {
        let got = format!("{tensors} tensors, {pairs} values");
        return Err(cursor.wrong("header", got, format!("what fits into {len} bytes")));
    }
    let mut alignment = ALIGNMENT;
    for _ in 0..pairs {
        let key = cursor.name()?;
        let kind = cursor.number(4)?;
        let value = cursor.value(kind, 0)?;
        if key == "general.alignment" {
            let value = value.filter(|&value| value.is_power_of_two() && (8..=1 << 30).contains(&value));
            let expected = "a power of two from 8 on";
            alignment =
                value.ok_or_else(|| cursor.wrong("general.alignment", format!("{value:?}"), expected))?;
        }
    }
    let mut found = Vec::new();
    let mut names = HashSet::new();
    for _ in 0..tensors {
        let tensor = info(&mut cursor)?;
        if !names.insert(tensor.name.clone()) {
            return Err(cursor.wrong("list", format!("{:?} twice", tensor.name), "distinct names"));
        }
        found.push(tensor);
    }
    let start = cursor.at.checked_next_multiple_of(alignment).unwrap_or(u64::MAX);
    for tensor in &mut found {
        let offset = start.checked_add(tensor.offset);
        let is_inside = offset.and_then(|at| at.checked_add(tensor.bytes)).is_some_and(|end| end <= len);
        match offset {
            Some(offset) if is_inside && tensor.offset % alignment == 0 => tensor.offset = offset,
            _ => {
                let what = format!("tensor {:?} of GGUF", tensor.name);
                let (range, got) =
                    ((start, len.saturating_sub(start)), format!("an offset of {}", tensor.offset));
                let expected = format!("{} bytes inside, at a multiple of {alignment}", tensor.bytes);
                return Err(Error::foreign(file.path(), what, range, got, expected));
            }
        }
    }
    Ok(found)
}

/// An entry of the list of tensors; its offset counts from the first element of all.
fn info(cursor: &mut Cursor<'_>) -> Result<ForeignTensor> {
    let name = cursor.name()?;
    let rank = cursor.number(4)?;
    if rank > RANK_MAX {
        return Err(cursor.wrong(&format!("tensor {name:?}"), format!("{rank} dimensions"), "at most 8"));
    }
    let mut shape = (0..rank).map(|_| cursor.number(8)).collect::<Result<Vec<_>>>()?;
    // Fastest first there.
    shape.reverse();
    let (code, offset) = (cursor.number(4)?, cursor.number(8)?);
    let what = format!("tensor {name:?}");
    let Some(&(_, known, block, block_bytes)) = TYPES.iter().find(|known| known.0 == code) else {
        return Err(cursor.wrong(&what, format!("type {code}"), "a type that is known"));
    };
    let dtype = ForeignDtype::of_name(known);
    let elements = byte_len(&shape, 8).filter(|elements| elements % block == 0);
    let Some(bytes) = elements.and_then(|elements| (elements / block).checked_mul(block_bytes)) else {
        return Err(cursor.wrong(&what, format!("shape {shape:?}"), format!("whole blocks of {known}")));
    };
    let path = Arc::from(cursor.file.path());
    Ok(ForeignTensor { name, dtype, shape, path, offset, bytes, file: 0, packed: None })
}
