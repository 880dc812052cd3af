//! FEW BITS. How planes of fewer bits than f32 become floats, and back.
//!
//! A store keeps parameters in f32, bf16 or f16 and moments also in 8 bits; see [`Precision`]. What is
//! public here are the conversions themselves, on slices, for programs that read such planes on their own or keep some
//! in memory: [`Lane`] with [`Optimizer::update_lanes`](crate::Optimizer::update_lanes).
//!
//! ```
//! use paramstore::InstructionSet;
//! use paramstore::precision::{Book, Half, Rounding, dequantise, quantise, round, widen};
//!
//! let isa = InstructionSet::detect();
//! let values: Vec<f32> = (0..600u16).map(|i| f32::from(i) / 600.0).collect();
//! let mut bits = vec![0; 600];
//! round(isa, Half::Bf16, Rounding::Nearest, &values, &mut bits);
//! let mut back = vec![0.0; 600];
//! widen(isa, Half::Bf16, &bits, &mut back);
//! assert!(values.iter().zip(&back).all(|(x, y)| (x - y).abs() <= x / 256.0));
//!
//! // A scale for each block of 256.
//! let (mut codes, mut scales) = (vec![0; 600], vec![0.0; 3]);
//! quantise(isa, Book::Unsigned, &values, &mut codes, &mut scales);
//! assert_eq!(scales, [values[255], values[511], values[599]]);
//! dequantise(isa, Book::Unsigned, &codes, &scales, &mut back);
//! assert!(values.iter().zip(&back).all(|(x, y)| (x - y).abs() <= 0.02));
//! ```

mod choice;

use crate::format::directory::{Dtype, Q8_BLOCK_ELEMENTS};
use crate::format::elements::{as_f32_mut, as_u16_mut};
use crate::kernel::InstructionSet;
use crate::kernel::narrow::Q8_BLOCK;
use crate::units::to_u64;

pub use choice::{Moments, Precision};

pub use crate::kernel::narrow::{
    Book, Half, Lane, Rounding, bf16_stochastic, dequantise, quantise, round, round_compensated, widen,
    widen_compensated,
};

pub(crate) use crate::kernel::narrow::add_lost;

const _: () = assert!(Q8_BLOCK as u64 == Q8_BLOCK_ELEMENTS);

/// Sees the bytes of a plane of a block of so many elements as a lane; bytes that are too few give none.
pub(crate) fn lane(dtype: Dtype, bytes: &mut [u8], elements: usize) -> Lane<'_> {
    let len = dtype.bytes_of(to_u64(elements)).map_or(usize::MAX, crate::units::to_usize);
    let bytes = bytes.get_mut(..len).unwrap_or_default();
    if bytes.is_empty() {
        return Lane::default();
    }
    match dtype {
        Dtype::F32 => Lane::F32(as_f32_mut(bytes)),
        Dtype::Bf16 => Lane::Half(Half::Bf16, as_u16_mut(bytes)),
        Dtype::F16 => Lane::Half(Half::F16, as_u16_mut(bytes)),
        Dtype::Q8Signed => codes(Book::Signed, bytes, elements),
        Dtype::Q8Unsigned => codes(Book::Unsigned, bytes, elements),
        // Kept as they are: nobody computes with them.
        _ => Lane::default(),
    }
}

/// Codes, filled up to four bytes, then the scales.
fn codes(book: Book, bytes: &mut [u8], elements: usize) -> Lane<'_> {
    let (codes, scales) = bytes.split_at_mut_checked(elements.next_multiple_of(4)).unwrap_or_default();
    Lane::Q8(book, codes.get_mut(..elements).unwrap_or_default(), as_f32_mut(scales))
}

/// What a plane of floats holds where each element was set to a value.
pub(crate) fn stored(dtype: Dtype, value: f32) -> f32 {
    let isa = InstructionSet::portable();
    let mut memory = [0.0_f32; 4];
    let [words @ .., out] = &mut memory;
    let mut lane = lane(dtype, crate::format::elements::bytes_of_mut(words), 1);
    lane.write(isa, 0, &[value], Rounding::Nearest);
    lane.read(isa, 0, std::slice::from_mut(out));
    *out
}
