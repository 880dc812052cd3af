//! The npy format: a header in Python's notation, and the elements of one array.

use crate::error::{Error, Result};
use crate::format::directory::Dtype;
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
        Dtype::F32 => "<f4",
        Dtype::F16 => "<f2",
        _ => return None,
    })
}
