//! The npy format: a header in Python's notation, and the elements of one array.

use std::sync::Arc;

use super::source::read_bytes;
use super::{ForeignDtype, ForeignTensor, byte_len};
use crate::error::{Error, Result};
use crate::format::directory::Dtype;
use crate::storage::Segment;
use crate::units::to_u64;

/// What every npy file begins with.
pub(super) const MAGIC: &[u8; 6] = b"\x93NUMPY";

/// Headers are filled up to a multiple of this many bytes.
const ALIGNMENT: usize = 64;

/// The header of an array in C order, in version 1 of the format, or 2 if it is long.
pub(super) fn header(dtype: Dtype, shape: &[u64]) -> Result<Vec<u8>> {
    let Some(descr) = descr(dtype) else {
        return Err(Error::invalid("type of an npy file", dtype.name(), "a type that NumPy has"));
    };
    let dims: Vec<_> = shape.iter().map(u64::to_string).collect();
    let shape =
        if dims.len() == 1 { format!("({},)", dims.concat()) } else { format!("({})", dims.join(", ")) };
    let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    // Magic, version and a length of 2 bytes; shapes have at most 16 dimensions, so that this is enough.
    let front = MAGIC.len() + 4;
    let whole = (front + text.len() + 1).next_multiple_of(ALIGNMENT);
    text += &" ".repeat(whole - front - text.len() - 1);
    text.push('\n');
    let len = u16::try_from(to_u64(text.len()));
    let len = len.map_err(|_| Error::invalid("header of an npy file", text.len(), "at most 65,535 bytes"))?;
    let mut bytes = MAGIC.to_vec();
    bytes.extend([1, 0]);
    bytes.extend(len.to_le_bytes());
    bytes.append(&mut text.into_bytes());
    Ok(bytes)
}

/// NumPy's name of a type.
fn descr(dtype: Dtype) -> Option<&'static str> {
    Some(match dtype {
        Dtype::F64 => "<f8",
        Dtype::F32 => "<f4",
        Dtype::F16 => "<f2",
        Dtype::I64 => "<i8",
        Dtype::I32 => "<i4",
        Dtype::I16 => "<i2",
        Dtype::I8 => "|i1",
        Dtype::U64 => "<u8",
        Dtype::U32 => "<u4",
        Dtype::U16 => "<u2",
        Dtype::U8 => "|u1",
        Dtype::Bool => "|b1",
        _ => return None,
    })
}

/// The longest header that is read, with what stands in front of it.
pub(super) const FRONT_BYTES_MAX: u64 = 64 << 10;

/// The array of a file, named as the file is.
pub(super) fn read(file: &dyn Segment) -> Result<Vec<ForeignTensor>> {
    let len = file.len_bytes()?;
    let front = read_bytes(file, 0, len.min(FRONT_BYTES_MAX), "header of npy")?;
    let name = file.path().file_stem().map_or(String::new(), |stem| stem.to_string_lossy().into_owned());
    let Array { dtype, shape, start, bytes } = array(file, 0, &front, len)?;
    let path = Arc::from(file.path());
    Ok(vec![ForeignTensor { name, dtype, shape, path, offset: start, bytes, file: 0, packed: None }])
}

/// What a header says.
pub(super) struct Array {
    pub(super) dtype: ForeignDtype,
    pub(super) shape: Vec<u64>,
    /// Bytes of the header, with what stands in front of it.
    pub(super) start: u64,
    pub(super) bytes: u64,
}

/// Reads a header from the first bytes of an array of `len` bytes that begins at byte `at` of its file.
pub(super) fn array(file: &dyn Segment, at: u64, front: &[u8], len: u64) -> Result<Array> {
    let wrong = |range: (u64, u64), got: String, expected: &str| {
        Error::foreign(file.path(), "header of npy", (at + range.0, range.1), got, expected)
    };
    let version = front.strip_prefix(MAGIC.as_slice()).and_then(|rest| rest.get(..2));
    let width = match version {
        Some([1, _]) => 2,
        Some([2 | 3, _]) => 4,
        _ => return Err(wrong((0, 8), format!("{version:?}"), "npy, version 1, 2 or 3")),
    };
    let length = front.get(8..8 + width).unwrap_or_default();
    let length = length.iter().rev().fold(0_usize, |sum, &byte| sum << 8 | usize::from(byte));
    let start = 8 + width + length;
    let Some(text) = front.get(8 + width..start) else {
        let expected = "a header that is all there, of less than 64 KiB";
        return Err(wrong((8, to_u64(width)), format!("a header of {length} bytes"), expected));
    };
    let text_range = (to_u64(8 + width), to_u64(length));
    let header = std::str::from_utf8(text).ok().and_then(Header::parse);
    let Some(Header { descr, fortran, shape }) = header else {
        let got = String::from_utf8_lossy(text.get(..text.len().min(200)).unwrap_or_default());
        let got = format!("{got:?}");
        return Err(wrong(text_range, got, "a dictionary of descr, fortran_order and shape"));
    };
    let (mut dtype, item) = dtype_of(&descr);
    if fortran && shape.len() > 1 {
        dtype = ForeignDtype::Other(format!("{} in Fortran order", dtype.name()));
    }
    let room = len.saturating_sub(to_u64(start));
    let bytes = match item.map(|item| byte_len(&shape, item * 8)) {
        // Of a type that nobody can read here, the length is not known.
        None => room,
        Some(Some(bytes)) if bytes == room => bytes,
        Some(_) => {
            let expected = "as many bytes behind the header as type and shape ask for";
            return Err(wrong(text_range, format!("{room} bytes for {descr} of {shape:?}"), expected));
        }
    };
    Ok(Array { dtype, shape, start: to_u64(start), bytes })
}

/// A type, and the bytes of its elements.
fn dtype_of(descr: &str) -> (ForeignDtype, Option<u64>) {
    let (order, kind) = descr.split_at_checked(1).unwrap_or_default();
    let known = match kind {
        "f8" => Dtype::F64,
        "f4" => Dtype::F32,
        "f2" => Dtype::F16,
        "i8" => Dtype::I64,
        "i4" => Dtype::I32,
        "i2" => Dtype::I16,
        "i1" => Dtype::I8,
        "u8" => Dtype::U64,
        "u4" => Dtype::U32,
        "u2" => Dtype::U16,
        "u1" => Dtype::U8,
        "b1" => Dtype::Bool,
        _ => return (ForeignDtype::Other(descr.to_owned()), None),
    };
    let bytes = known.element_bytes();
    if order == "<" || (order == "|" && bytes == Some(1)) {
        return (ForeignDtype::Plain(known), bytes);
    }
    (ForeignDtype::Other(format!("{descr}, which is not little-endian,")), bytes)
}

/// The dictionary of a header.
struct Header {
    descr: String,
    fortran: bool,
    shape: Vec<u64>,
}

impl Header {
    /// Reads Python's notation, as far as NumPy writes it.
    fn parse(text: &str) -> Option<Self> {
        let mut rest = Text(text.trim_end());
        let (mut descr, mut fortran, mut shape) = (None, None, None);
        rest.take("{")?;
        while rest.take("}").is_none() {
            let key = rest.quoted()?;
            rest.take(":")?;
            let again = match key {
                "descr" => descr.replace(rest.descr()?).is_some(),
                "fortran_order" => fortran.replace(rest.boolean()?).is_some(),
                "shape" => shape.replace(rest.shape()?).is_some(),
                _ => return None,
            };
            if again || (rest.take(",").is_none() && !rest.0.starts_with('}')) {
                return None;
            }
        }
        rest.0.is_empty().then_some(())?;
        Some(Self { descr: descr?, fortran: fortran?, shape: shape? })
    }
}

/// What is left of a header.
struct Text<'a>(&'a str);

impl<'a> Text<'a> {
    fn take(&mut self, token: &str) -> Option<()> {
        self.0 = self.0.trim_start().strip_prefix(token)?.trim_start();
        Some(())
    }

    fn quoted(&mut self) -> Option<&'a str> {
        let rest = self.0.trim_start();
        let quote = rest.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
        let (inside, rest) = rest.get(1..)?.split_once(quote)?;
        self.0 = rest.trim_start();
        (!inside.contains('\\')).then_some(inside)
    }

    /// A type by its name; of one that has fields, what is written.
    fn descr(&mut self) -> Option<String> {
        if !self.0.starts_with('[') {
            return self.quoted().map(str::to_owned);
        }
        let mut depth = 0;
        let end = self.0.find(|c: char| {
            depth += i32::from(matches!(c, '[' | '(')) - i32::from(matches!(c, ']' | ')'));
            depth == 0
        })?;
        let (fields, rest) = self.0.split_at_checked(end + 1)?;
        self.0 = rest.trim_start();
        Some(fields.to_owned())
    }

    fn boolean(&mut self) -> Option<bool> {
        let value = self.take("True").map(|()| true);
        value.or_else(|| self.take("False").map(|()| false))
    }

    fn shape(&mut self) -> Option<Vec<u64>> {
        let mut dims = Vec::new();
        self.take("(")?;
        while self.take(")").is_none() {
            let digits = self.0.find(|c: char| !c.is_ascii_digit())?;
            dims.push(self.0.get(..digits)?.parse().ok()?);
            self.0 = self.0.get(digits..)?;
            // Python 2 wrote `L` behind long integers.
            let _long = self.take("L");
            if self.take(",").is_none() && !self.0.starts_with(')') {
                return None;
            }
        }
        Some(dims)
    }
}
