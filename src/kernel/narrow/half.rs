//! The two floats of 16 bits. All of it is integer arithmetic and exact float operations, so that every instruction set
//! gives the same bits; none of it branches on a value, so that the loops become vector code.

use super::Half;
use crate::splitmix::{GOLDEN, mix};

const SIGN: u32 = 0x8000_0000;
/// The bits of an f32 infinity: what is above, without its sign, is NaN.
const INFINITY: u32 = 0x7f80_0000;
/// The difference of the exponents' biases of f32 and f16, in place.
const F16_BIAS: u32 = 112 << 23;
/// The bits of 2^-14, the smallest normal f16.
const F16_NORMAL: u32 = 113 << 23;
/// Bits of an f32's fraction that an f16 lacks.
const F16_DROPPED: u32 = 13;
/// The exponent of an f16, where that of an f32 ends.
const F16_EXPONENT: u32 = 0x7c00 << F16_DROPPED;

/// The number as f32; every value of both formats is one.
#[inline(always)]
pub(super) fn widen<const KIND: u8>(bits: u16) -> f32 {
    let bits = u32::from(bits);
    if KIND == Half::Bf16 as u8 {
        return f32::from_bits(bits << 16);
    }
    let magnitude = (bits & 0x7fff) << F16_DROPPED;
    let exponent = magnitude & F16_EXPONENT;
    let normal = magnitude + F16_BIAS;
    let special = normal + F16_BIAS;
    let small = (f32::from_bits(magnitude + F16_NORMAL) - f32::from_bits(F16_NORMAL)).to_bits();
    let wide = if exponent == F16_EXPONENT { special } else { normal };
    let wide = if exponent == 0 { small } else { wide };
    f32::from_bits(wide | (bits & 0x8000) << 16)
}

/// The nearest number of the format, ties to the even one. NaN stays NaN; what is too large becomes infinite.
#[inline(always)]
pub(super) fn nearest<const KIND: u8>(value: f32) -> u16 {
    let bits = value.to_bits();
    if KIND == Half::Bf16 as u8 {
        return bf16_of(bits, bits.wrapping_add(0x7fff + (bits >> 16 & 1)));
    }
    let magnitude = bits & !SIGN;
    let normal = magnitude + 0x0fff + (magnitude >> F16_DROPPED & 1);
    // At 1/2 the last place of an f32 is 2^-25 to 2^-24: that of a subnormal f16. The sum is rounded as it should be.
    let small = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5_f32.to_bits());
    f16_of(bits, normal, small)
}

/// One of the two numbers of the format around a value, the one farther from zero with a probability of the value's
/// distance from the other: `random` is 16 uniform bits. The expectation is the value: exactly in bf16, to 2^-13 of the
/// last place in f16. Both neighbours of a number of the format are itself.
#[inline(always)]
pub(super) fn stochastic<const KIND: u8>(value: f32, random: u32) -> u16 {
    let bits = value.to_bits();
    if KIND == Half::Bf16 as u8 {
        // A carry out of the fraction ends in the exponent, where it belongs.
        return bf16_of(bits, bits.wrapping_add(random));
    }
    let magnitude = bits & !SIGN;
    let random = random >> 3;
    #[expect(clippy::cast_precision_loss, reason = "13 bits are exact in an f32")]
    let part = (random as f32 + 0.5) * (1.0 / 8192.0) - 0.5;
    // In units of 2^-24, a subnormal f16 is a whole number up to 2^10; from 2^23 on, the last place of an f32 is that of
    // whole numbers, and 2^11 more have no part in the bits that count.
    let scaled = f32::from_bits(magnitude) * 16_777_216.0 + part;
    let small = (scaled + 8_390_656.0).to_bits() & 0x7ff;
    f16_of(bits, magnitude.wrapping_add(random), small)
}

/// The nearest number of the format, and the nearest one to what that lost: together an error of half the last place of what
/// was lost. Of an infinity and of NaN nothing is lost.
#[inline(always)]
pub(super) fn split<const KIND: u8>(value: f32) -> (u16, u16) {
    let bits = nearest::<KIND>(value);
    // Exact: of two numbers this near to each other.
    let lost = nearest::<KIND>(value - widen::<KIND>(bits));
    let exponent = if KIND == Half::Bf16 as u8 { 0x7f80 } else { 0x7c00 };
    (bits, if bits & exponent == exponent { 0 } else { lost })
}

/// A number and what its rounding lost, of one format: exact for all that [`split`] gives.
#[inline(always)]
pub(super) fn join<const KIND: u8>(bits: u16, lost: u16) -> f32 {
    plus(widen::<KIND>(bits), widen::<KIND>(lost))
}

/// The sum, in which -0 and nothing stay -0.
#[inline(always)]
pub(super) fn plus(value: f32, lost: f32) -> f32 {
    if lost == 0.0 { value } else { value + lost }
}

/// The upper half of a rounded pattern, or of a NaN as it came, made quiet.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "16 bits are left")]
fn bf16_of(bits: u32, rounded: u32) -> u16 {
    let is_nan = bits & !SIGN > INFINITY;
    (if is_nan { bits >> 16 | 0x40 } else { rounded >> 16 }) as u16
}

/// An f16 of the sign of `bits`: `normal` is the rounded magnitude as an f32's bits, `small` that of a subnormal one.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "16 bits are left")]
fn f16_of(bits: u32, normal: u32, small: u32) -> u16 {
    let magnitude = bits & !SIGN;
    let narrow = normal.wrapping_sub(F16_BIAS) >> F16_DROPPED;
    let narrow = if narrow > 0x7c00 { 0x7c00 } else { narrow };
    let narrow = if magnitude < F16_NORMAL { small } else { narrow };
    let narrow = if magnitude > INFINITY { 0x7e00 } else { narrow };
    (narrow | (bits & SIGN) >> 16) as u16
}

/// Two words that stand for (seed, step, tensor), and for the element beyond its lowest 16 bits.
#[derive(Clone, Copy)]
pub(super) struct Key {
    first: u32,
    second: u32,
}

impl Key {
    /// The key of a run of 2^16 elements.
    #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
    pub(super) fn new(key: u64, run: u64) -> Self {
        let z = mix(key.wrapping_add(run.wrapping_add(1).wrapping_mul(GOLDEN)));
        Self { first: z as u32, second: (z >> 32) as u32 }
    }

    /// 16 random bits for an element of the run: a hash of 32 bits whose two multiplications have a word of the key in
    /// front of each, so that two runs do not share a stretch of values.
    #[inline(always)]
    pub(super) fn bits(self, element: u32) -> u32 {
        let mut x = element ^ self.first;
        x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
        x = (x ^ (x >> 15)).wrapping_add(self.second).wrapping_mul(0x846c_a68b);
        x >> 16
    }
}
