//! Elements of types that are kept as they are, as numbers.

use std::ops::Range;

use super::parts::LEAF;
use crate::error::Result;
use crate::format::directory::Dtype;
use crate::param_store::ParamStore;
use crate::units::{to_u64, to_usize};

/// One element of a tensor, as exact as it stands on disk.
///
/// # Example
///
/// ```
/// use paramstore::Dtype;
/// use paramstore::inspect::Element;
///
/// let element = Element::decode(Dtype::I64, &(-5_i64).to_le_bytes()).expect("8 bytes");
/// assert_eq!((element, element.to_f64()), (Element::Signed(-5), -5.0));
/// assert_eq!(Element::decode(Dtype::I64, &[0; 4]), None);
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Element {
    /// A float of any width.
    Float(f64),
    /// An integer with a sign.
    Signed(i64),
    /// An integer without a sign.
    Unsigned(u64),
    /// Yes or no; a byte that is neither 0 nor 1 is yes.
    Bool(bool),
}

impl Element {
    /// Takes an element of a type out of its [bytes](Dtype::element_bytes), as [`read_bytes`](ParamStore::read_bytes) gives
    /// them; `None` for another number of bytes, and for elements that share scales. [Example](Self#example).
    #[must_use]
    pub fn decode(dtype: Dtype, bytes: &[u8]) -> Option<Self> {
        Some(match dtype {
            Dtype::F64 => Self::Float(f64::from_le_bytes(bytes.try_into().ok()?)),
            Dtype::F32 => Self::Float(f32::from_le_bytes(bytes.try_into().ok()?).into()),
            Dtype::Bf16 => Self::Float(small(u16::from_le_bytes(bytes.try_into().ok()?).into(), 8, 7, true)),
            Dtype::F16 => Self::Float(small(u16::from_le_bytes(bytes.try_into().ok()?).into(), 5, 10, true)),
            Dtype::F8E5M2 => Self::Float(small(u8::from_le_bytes(bytes.try_into().ok()?).into(), 5, 2, true)),
            Dtype::F8E4M3 => {
                Self::Float(small(u8::from_le_bytes(bytes.try_into().ok()?).into(), 4, 3, false))
            }
            Dtype::I64 => Self::Signed(i64::from_le_bytes(bytes.try_into().ok()?)),
            Dtype::I32 => Self::Signed(i32::from_le_bytes(bytes.try_into().ok()?).into()),
            Dtype::I16 => Self::Signed(i16::from_le_bytes(bytes.try_into().ok()?).into()),
            Dtype::I8 => Self::Signed(i8::from_le_bytes(bytes.try_into().ok()?).into()),
            Dtype::U64 => Self::Unsigned(u64::from_le_bytes(bytes.try_into().ok()?)),
            Dtype::U32 => Self::Unsigned(u32::from_le_bytes(bytes.try_into().ok()?).into()),
            Dtype::U16 => Self::Unsigned(u16::from_le_bytes(bytes.try_into().ok()?).into()),
            Dtype::U8 => Self::Unsigned(u8::from_le_bytes(bytes.try_into().ok()?).into()),
            Dtype::Bool => Self::Bool(u8::from_le_bytes(bytes.try_into().ok()?) != 0),
            Dtype::Q8Signed | Dtype::Q8Unsigned => return None,
        })
    }

    /// The nearest f64; yes is 1. [Example](Self#example).
    #[must_use]
    pub fn to_f64(self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "to the nearest is what it is for")]
        match self {
            Self::Float(value) => value,
            Self::Signed(value) => value as f64,
            Self::Unsigned(value) => value as f64,
            Self::Bool(value) => f64::from(u8::from(value)),
        }
    }
}

/// A float of few bits: a sign, an exponent, a mantissa. Without infinities only all bits together are NaN.
fn small(bits: u32, exponent_bits: u32, mantissa_bits: u32, has_infinities: bool) -> f64 {
    let mantissa = bits & ((1 << mantissa_bits) - 1);
    let exponent = bits >> mantissa_bits & ((1 << exponent_bits) - 1);
    let sign = if bits >> (mantissa_bits + exponent_bits) & 1 == 1 { -1.0 } else { 1.0 };
    let is_highest = exponent == (1 << exponent_bits) - 1;
    if is_highest && has_infinities {
        return if mantissa == 0 { sign * f64::INFINITY } else { f64::NAN };
    }
    if is_highest && mantissa == (1 << mantissa_bits) - 1 {
        return f64::NAN;
    }
    let (hidden, exponent) = if exponent == 0 { (0, 1) } else { (1 << mantissa_bits, exponent) };
    let bias = (1 << (exponent_bits - 1)) - 1 + mantissa_bits.cast_signed();
    sign * f64::from(hidden + mantissa) * 2.0_f64.powi(exponent.cast_signed() - bias)
}

/// A stretch of at most [`LEAF`] elements of a tensor that is kept as it is.
pub(super) struct Stretch {
    pub(super) values: [f64; LEAF],
    pub(super) len: usize,
    pub(super) bytes: [u8; 8 * LEAF],
    pub(super) size: usize,
}

impl Stretch {
    pub(super) fn values(&self) -> &[f64] {
        self.values.get(..self.len).unwrap_or_default()
    }

    /// The bytes of each element.
    pub(super) fn elements(&self) -> impl Iterator<Item = &[u8]> {
        self.bytes.chunks_exact(self.size).take(self.len)
    }
}

impl ParamStore {
    /// Shows a range of a tensor that is kept as it is, a leaf at a time.
    pub(super) fn show_elements(
        &self,
        name: &str,
        dtype: Dtype,
        range: Range<u64>,
        mut each: impl FnMut(&Stretch) -> Result<()>,
    ) -> Result<()> {
        let size = to_usize(dtype.element_bytes().unwrap_or(1));
        let mut stretch = Stretch { values: [0.0; LEAF], len: 0, bytes: [0; 8 * LEAF], size };
        for start in range.clone().step_by(LEAF) {
            stretch.len = to_usize((range.end - start).min(to_u64(LEAF)));
            self.read_bytes(name, start, stretch.bytes.get_mut(..size * stretch.len).unwrap_or_default())?;
            let elements = stretch.bytes.chunks_exact(size).take(stretch.len);
            for (value, bytes) in stretch.values.iter_mut().zip(elements) {
                *value = Element::decode(dtype, bytes).map_or(0.0, Element::to_f64);
            }
            each(&stretch)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_of_every_type_are_what_their_bytes_say() {
        let float = |dtype, bytes: &[u8]| Element::decode(dtype, bytes).map(Element::to_f64);
        let minus = (-1.5_f32).to_bits();
        assert_eq!(float(Dtype::Bf16, &minus.to_le_bytes()[2..]), Some(-1.5));
        for (bits, value) in
            [(0x3c00_u16, 1.0), (0xc000, -2.0), (1, 2.0_f64.powi(-24)), (0x7c00, f64::INFINITY)]
        {
            assert_eq!(float(Dtype::F16, &bits.to_le_bytes()), Some(value));
        }
        for (bits, value) in [(0x38_u8, 1.0), (0x7e, 448.0), (0xfe, -448.0), (1, 2.0_f64.powi(-9)), (0, 0.0)]
        {
            assert_eq!(float(Dtype::F8E4M3, &[bits]), Some(value));
        }
        assert!(float(Dtype::F8E4M3, &[0x7f]).is_some_and(f64::is_nan));
        for (bits, value) in
            [(0x3c_u8, 1.0), (0x7b, 57_344.0), (0xfc, f64::NEG_INFINITY), (1, 2.0_f64.powi(-16))]
        {
            assert_eq!(float(Dtype::F8E5M2, &[bits]), Some(value));
        }
        let large = Element::decode(Dtype::I64, &i64::MIN.to_le_bytes());
        assert_eq!(large, Some(Element::Signed(i64::MIN)));
        assert_eq!(Element::decode(Dtype::U64, &u64::MAX.to_le_bytes()), Some(Element::Unsigned(u64::MAX)));
        assert_eq!(Element::decode(Dtype::I16, &[0xff, 0xff]), Some(Element::Signed(-1)));
        assert_eq!(Element::decode(Dtype::Bool, &[1]), Some(Element::Bool(true)));
        assert_eq!((Element::decode(Dtype::U8, &[]), Element::decode(Dtype::Q8Signed, &[1])), (None, None));
    }
}
