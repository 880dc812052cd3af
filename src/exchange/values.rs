//! Elements on their way from a file: as bytes, and as f32.

use super::reader::Reader;
use super::source::{Sources, read_bytes};
use super::stream::Stream;
use super::{ForeignDtype, ForeignTensor};
use crate::error::{Error, Result};
use crate::format::elements::{as_f32, as_f64, as_u16};
use crate::kernel::InstructionSet;
use crate::precision::{Half, widen};
use crate::storage::Buffer;
use crate::units::{to_u64, to_usize};

/// Bytes of the widest element.
const SIZE_MAX: u64 = 8;

/// Memory for some elements of any type.
pub(super) struct Piece {
    memory: Buffer,
    values: Vec<f32>,
    elements: usize,
}

impl Piece {
    /// Memory for so many elements, if it is within the budget.
    pub(super) fn new(elements: u64, budget: u64) -> Result<Self> {
        let needed = elements.saturating_mul(SIZE_MAX + 4);
        if needed > budget {
            let what = format!("an import into blocks of {elements} elements, for pieces of values,");
            return Err(Error::Budget { what, needed: needed.saturating_mul(8), budget: budget * 8 });
        }
        let elements = to_usize(elements);
        Ok(Self { memory: Buffer::new(elements * to_usize(SIZE_MAX))?, values: Vec::new(), elements })
    }

    /// So many bytes of it.
    pub(super) fn bytes(&mut self, len: u64) -> &mut [u8] {
        self.memory.get_mut(..to_usize(len)).unwrap_or_default()
    }

    /// The elements that stand in the bytes, as f32.
    pub(super) fn values(&mut self, dtype: &ForeignDtype, len: u64) -> Result<&[f32]> {
        self.values.resize(self.elements, 0.0);
        let size = dtype.bytes().unwrap_or(0);
        let bytes = self.memory.get(..to_usize(len * size)).unwrap_or_default();
        let out = self.values.get_mut(..to_usize(len)).unwrap_or_default();
        to_f32(dtype, bytes, out)?;
        Ok(out)
    }
}

/// Floats of any type as f32: exact, but for f64, which is rounded to the nearest.
pub(super) fn to_f32(dtype: &ForeignDtype, bytes: &[u8], out: &mut [f32]) -> Result<()> {
    let isa = InstructionSet::detect();
    match dtype {
        ForeignDtype::F32 => out.copy_from_slice(as_f32(bytes)),
        ForeignDtype::Bf16 => widen(isa, Half::Bf16, as_u16(bytes), out),
        ForeignDtype::F16 => widen(isa, Half::F16, as_u16(bytes), out),
        ForeignDtype::F64 => {
            for (out, &value) in out.iter_mut().zip(as_f64(bytes)) {
                #[expect(clippy::cast_possible_truncation, reason = "rounding is what is asked for")]
                let value = value as f32;
                *out = value;
            }
        }
        other => return Err(Error::invalid("elements as floats", other.name(), "f64, f32, bf16 or f16")),
    }
    Ok(())
}

/// The bytes of a tensor of one element.
fn scalar(sources: &Sources, tensor: &ForeignTensor) -> Result<Vec<u8>> {
    if tensor.elements() != 1 || tensor.dtype.bytes().is_none() {
        let got = format!("shape {:?}", tensor.shape);
        return Err(Error::invalid(format!("tensor {:?}", tensor.name), got, "one element"));
    }
    if tensor.packed.is_none()
        && let Some(file) = sources.files.get(tensor.file)
    {
        return read_bytes(&*file.cached, tensor.offset, tensor.bytes, "scalar");
    }
    let mut reader = Reader::new(sources, &[(tensor.file, tensor.offset, tensor.bytes_there())], 0)?;
    let mut bytes = vec![0; to_usize(tensor.bytes)];
    let mut stream = Stream::new(tensor, &mut reader)?;
    stream.read(&mut reader, &mut bytes)?;
    stream.finish()?;
    Ok(bytes)
}

/// A tensor of one element that counts something; PyTorch keeps such counts as f32.
pub(super) fn scalar_count(sources: &Sources, tensor: &ForeignTensor) -> Result<u64> {
    let bytes = scalar(sources, tensor)?;
    let expected = "a whole number of at least 0";
    let wrong =
        |got: String| Err(Error::invalid(format!("tensor {:?}", tensor.name), got, expected.to_owned()));
    let mut wide = [0; 8];
    for (wide, byte) in wide.iter_mut().zip(&bytes) {
        *wide = *byte;
    }
    let unsigned = u64::from_le_bytes(wide);
    let bits = 8 * to_u64(bytes.len());
    match &tensor.dtype {
        ForeignDtype::U64 | ForeignDtype::U32 | ForeignDtype::U16 | ForeignDtype::U8 => Ok(unsigned),
        ForeignDtype::I64 | ForeignDtype::I32 | ForeignDtype::I16 | ForeignDtype::I8 => {
            if unsigned >> (bits - 1) == 0 { Ok(unsigned) } else { wrong("a negative number".to_owned()) }
        }
        ForeignDtype::F64 => whole(f64::from_bits(unsigned)).map_or_else(|x| wrong(x.to_string()), Ok),
        _ => {
            let value = f64::from(scalar_float(sources, tensor)?);
            whole(value).map_or_else(|x| wrong(x.to_string()), Ok)
        }
    }
}

/// A float that is a count, as one.
fn whole(value: f64) -> std::result::Result<u64, f64> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked: below 2^53")]
    let count = value as u64;
    if value.fract() == 0.0 && (0.0..9_007_199_254_740_992.0).contains(&value) {
        Ok(count)
    } else {
        Err(value)
    }
}

/// A tensor of one element that is a float.
pub(super) fn scalar_float(sources: &Sources, tensor: &ForeignTensor) -> Result<f32> {
    let bytes = scalar(sources, tensor)?;
    let mut memory = Buffer::new(to_usize(SIZE_MAX))?;
    let mut value = [0.0];
    if let Some(memory) = memory.get_mut(..bytes.len()) {
        memory.copy_from_slice(&bytes);
        to_f32(&tensor.dtype, memory, &mut value)?;
    }
    Ok(value[0])
}
