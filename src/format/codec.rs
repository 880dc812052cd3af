//! Bounded reading and writing of little-endian fields.

use std::fmt;

/// Why bytes are not what the format says; the caller adds the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FormatError {
    /// Which structure and field.
    pub(crate) what: String,
    /// Offset inside the structure.
    pub(crate) offset: u64,
    /// What was found.
    pub(crate) got: String,
    /// What was expected.
    pub(crate) expected: String,
    /// Whether a newer version would understand it.
    pub(crate) unsupported: bool,
}

impl FormatError {
    pub(crate) fn new(
        what: impl Into<String>,
        offset: u64,
        got: impl fmt::Display,
        expected: impl fmt::Display,
    ) -> Self {
        Self {
            what: what.into(),
            offset,
            got: got.to_string(),
            expected: expected.to_string(),
            unsupported: false,
        }
    }

    pub(crate) fn unsupported(what: impl Into<String>, got: impl fmt::Display) -> Self {
        Self { unsupported: true, ..Self::new(what, 0, got, "a version of this program that knows it") }
    }
}

pub(crate) type Decoded<T> = Result<T, FormatError>;

/// Appends fields to a growing byte string.
#[derive(Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub(crate) fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn f32(&mut self, value: f32) {
        self.u32(value.to_bits());
    }

    pub(crate) fn f64(&mut self, value: f64) {
        self.u64(value.to_bits());
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// A count as u32. Counts are limited by validation long before they reach `u32::MAX`.
    pub(crate) fn count(&mut self, value: usize) {
        self.u32(u32::try_from(value).unwrap_or(u32::MAX));
    }

    /// A string as u16 length and bytes. Names are limited by validation to [`MAX_STRING_BYTES`].
    pub(crate) fn string(&mut self, value: &str) {
        self.u16(u16::try_from(value.len()).unwrap_or(u16::MAX));
        self.raw(value.as_bytes());
    }

    pub(crate) fn zeros_to(&mut self, len: usize) {
        self.bytes.resize(len.max(self.bytes.len()), 0);
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// Longest name in a store, in bytes.
pub(crate) const MAX_STRING_BYTES: usize = 1024;

/// Takes fields from the front of a byte string; every error says where.
pub(crate) struct Reader<'a> {
    structure: &'static str,
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(structure: &'static str, bytes: &'a [u8]) -> Self {
        Self { structure, bytes, position: 0 }
    }

    pub(crate) fn error(
        &self,
        field: &str,
        got: impl fmt::Display,
        expected: impl fmt::Display,
    ) -> FormatError {
        FormatError::new(
            format!("{} {field}", self.structure),
            crate::units::to_u64(self.position),
            got,
            expected,
        )
    }

    pub(crate) fn remaining(&self) -> usize {
        self.bytes.len() - self.position
    }

    pub(crate) fn raw(&mut self, field: &str, len: usize) -> Decoded<&'a [u8]> {
        let end = self.position.checked_add(len);
        let Some(slice) = end.and_then(|end| self.bytes.get(self.position..end)) else {
            return Err(self.error(
                field,
                format!("{} bytes left", self.remaining()),
                format!("{len} bytes"),
            ));
        };
        self.position += len;
        Ok(slice)
    }

    fn array<const N: usize>(&mut self, field: &str) -> Decoded<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.raw(field, N)?);
        Ok(array)
    }

    pub(crate) fn u8(&mut self, field: &str) -> Decoded<u8> {
        Ok(u8::from_le_bytes(self.array(field)?))
    }

    pub(crate) fn u16(&mut self, field: &str) -> Decoded<u16> {
        Ok(u16::from_le_bytes(self.array(field)?))
    }

    pub(crate) fn u32(&mut self, field: &str) -> Decoded<u32> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    pub(crate) fn u64(&mut self, field: &str) -> Decoded<u64> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    pub(crate) fn f32(&mut self, field: &str) -> Decoded<f32> {
        Ok(f32::from_bits(self.u32(field)?))
    }

    pub(crate) fn f64(&mut self, field: &str) -> Decoded<f64> {
        Ok(f64::from_bits(self.u64(field)?))
    }

    /// A count of items that take at least `item_bytes` each: refused when the bytes left cannot hold them, so
    /// that nothing is allocated on the word of a damaged count.
    pub(crate) fn count(&mut self, field: &str, item_bytes: usize) -> Decoded<usize> {
        let count = usize::try_from(self.u32(field)?).unwrap_or(usize::MAX);
        let most = self.remaining() / item_bytes.max(1);
        if count > most {
            return Err(self.error(field, count, format!("at most {most} in the bytes left")));
        }
        Ok(count)
    }

    pub(crate) fn string(&mut self, field: &str) -> Decoded<String> {
        let len = usize::from(self.u16(field)?);
        if len == 0 || len > MAX_STRING_BYTES {
            return Err(self.error(
                field,
                format!("a name of {len} bytes"),
                format!("1 to {MAX_STRING_BYTES} bytes"),
            ));
        }
        let raw = self.raw(field, len)?;
        match std::str::from_utf8(raw) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(self.error(field, "bytes that are not UTF-8", "a UTF-8 name")),
        }
    }

    pub(crate) fn end(&self) -> Decoded<()> {
        if self.remaining() == 0 {
            return Ok(());
        }
        Err(self.error("end", format!("{} bytes more", self.remaining()), "nothing"))
    }
}
