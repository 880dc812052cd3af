//! Planes in fewer bits than f32: what their numbers are, and how a rule for f32 runs over them.
//!
//! A rule is written for f32 and stays so. A run of elements is taken a chunk at a time: each narrow plane is widened
//! into memory on the stack, the rule runs over f32, and what changed is rounded back. All of it stays in the first-level
//! cache, so that memory sees the narrow bytes alone. The most usual planes go through one loop instead ([`compact`]).

pub(super) mod compact;
mod half;
pub(super) mod q8;
#[cfg(test)]
mod tests;

use std::ops::Range;

use super::{InstructionSet, MOST_PLANES};

pub(crate) use compact::Compact;
use q8::Codes;
pub(crate) use q8::Q8_BLOCK;

/// Elements that are widened at a time: four planes of them take 16 KiB.
const CHUNK_LEN: usize = 1024;
const _: () = assert!(CHUNK_LEN.is_multiple_of(Q8_BLOCK));

/// A float of 16 bits. [Example](Lane#example).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// The upper half of an f32: 8 bits of exponent, 7 of fraction.
    Bf16,
    /// IEEE 754 binary16: 5 bits of exponent, 10 of fraction; 65,504 is the largest, 2^-24 the smallest.
    F16,
}

/// A code book of 8 bits, whose codes stand for shares of a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Book {
    /// From -1 to 1, for values of both signs.
    Signed,
    /// From 0 to 1, for values that are never negative: twice as many codes for each.
    Unsigned,
}

/// How an f32 that a 16-bit float does not have becomes one. [Example](Lane#example).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// To the nearest, ties to the even one.
    Nearest,
    /// To one of its two neighbours, so that the expectation is the value. The random bits are a function of `key` and
    /// the element's number, and of nothing else.
    Stochastic {
        /// Stands for seed, step and tensor.
        key: u64,
        /// The number of the first element in its tensor.
        first: u64,
    },
}

impl Rounding {
    /// The rounding of what stands `elements` behind.
    fn behind(self, elements: usize) -> Self {
        match self {
            Self::Nearest => self,
            Self::Stochastic { key, first } => {
                Self::Stochastic { key, first: first.wrapping_add(elements as u64) }
            }
        }
    }
}

/// A run of elements of one plane, in the form in which it is stored.
///
/// # Example
///
/// ```
/// use paramstore::InstructionSet;
/// use paramstore::optim::{Lion, Optimizer, TensorClock};
/// use paramstore::precision::{Half, Lane, Rounding};
///
/// let (mut param, mut exp_avg) = ([0x3f80_u16, 0xbf80], [0.0_f32; 2]); // 1 and -1 in bf16; f32
/// let lanes = &mut [Lane::Half(Half::Bf16, &mut param), Lane::F32(&mut exp_avg)];
/// assert!(lanes[0].len() == 2 && !lanes[0].is_empty());
/// let rule = Optimizer::Lion(Lion { lr: 0.5, ..Lion::default() });
/// let clock = &mut TensorClock::default();
/// rule.update_lanes(InstructionSet::detect(), clock, lanes, &[3.0, -0.1], Rounding::Nearest)?;
/// assert_eq!(param, [0x3f00, 0xbf00]); // 0.5 and -0.5
/// # Ok::<(), paramstore::Error>(())
/// ```
#[derive(Debug)]
pub enum Lane<'a> {
    /// Plain f32.
    F32(&'a mut [f32]),
    /// Floats of 16 bits.
    Half(Half, &'a mut [u16]),
    /// Codes of 8 bits, and a scale for each 256 of them from the first on.
    Q8(Book, &'a mut [u8], &'a mut [f32]),
    /// Floats of 16 bits, and in as many others what rounding them lost. They are read as the sum of both and written to the
    /// nearest, whatever rounding is asked for: Kahan's compensation.
    Compensated(Half, &'a mut [u16], &'a mut [u16]),
}

impl Default for Lane<'_> {
    fn default() -> Self {
        Self::F32(&mut [])
    }
}

impl<'a> Lane<'a> {
    /// The number of elements. [Example](Self#example).
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::Half(_, bits) => bits.len(),
            Self::Q8(_, codes, _) => codes.len(),
            Self::Compensated(_, bits, lost) => bits.len().min(lost.len()),
        }
    }

    /// Whether there is no element. [Example](Self#example).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements themselves, of an f32 lane; none of another.
    pub(crate) fn into_f32(self) -> &'a mut [f32] {
        if let Self::F32(values) = self { values } else { &mut [] }
    }

    /// The same elements, borrowed once more.
    pub(crate) fn reborrow(&mut self) -> Lane<'_> {
        match self {
            Self::F32(values) => Lane::F32(values),
            Self::Half(kind, bits) => Lane::Half(*kind, bits),
            Self::Q8(book, codes, scales) => Lane::Q8(*book, codes, scales),
            Self::Compensated(kind, bits, lost) => Lane::Compensated(*kind, bits, lost),
        }
    }

    /// Floats of 16 bits together with what rounding them lost, which are as many of the same kind; nothing of others.
    pub(crate) fn compensated_by(self, lost: Self) -> Self {
        match (self, lost) {
            (Self::Half(kind, bits), Self::Half(of_lost, lost)) if kind == of_lost => {
                Self::Compensated(kind, bits, lost)
            }
            _ => Self::default(),
        }
    }

    /// Takes the first `len` elements off, or all if there are no more. With codes of 8 bits `len` is a multiple of 256
    /// unless it is all.
    pub(crate) fn split_off(&mut self, len: usize) -> Self {
        let len = len.min(self.len());
        match self {
            Self::F32(values) => {
                let (head, tail) = std::mem::take(values).split_at_mut(len);
                *values = tail;
                Self::F32(head)
            }
            Self::Half(kind, bits) => {
                let (head, tail) = std::mem::take(bits).split_at_mut(len);
                *bits = tail;
                Self::Half(*kind, head)
            }
            Self::Q8(book, codes, scales) => {
                debug_assert!(len == codes.len() || len.is_multiple_of(Q8_BLOCK), "{len} cuts a block");
                let blocks = len.div_ceil(Q8_BLOCK).min(scales.len());
                let (head, tail) = std::mem::take(codes).split_at_mut(len);
                let (of_head, of_tail) = std::mem::take(scales).split_at_mut(blocks);
                (*codes, *scales) = (tail, of_tail);
                Self::Q8(*book, head, of_head)
            }
            Self::Compensated(kind, bits, lost) => {
                let (head, tail) = std::mem::take(bits).split_at_mut(len);
                let (of_head, of_tail) = std::mem::take(lost).split_at_mut(len);
                (*bits, *lost) = (tail, of_tail);
                Self::Compensated(*kind, head, of_head)
            }
        }
    }

    /// A range of the elements. With codes of 8 bits it begins at a multiple of 256 and takes whole blocks, but for what
    /// of the last one follows its end.
    pub(crate) fn part(self, range: Range<usize>) -> Self {
        match self {
            Self::F32(values) => Self::F32(values.get_mut(range).unwrap_or_default()),
            Self::Half(kind, bits) => Self::Half(kind, bits.get_mut(range).unwrap_or_default()),
            Self::Q8(book, codes, scales) => {
                debug_assert!(range.start.is_multiple_of(Q8_BLOCK), "{range:?} cuts a block");
                let blocks = range.start / Q8_BLOCK..range.end.div_ceil(Q8_BLOCK);
                let scales = scales.get_mut(blocks).unwrap_or_default();
                Self::Q8(book, codes.get_mut(range).unwrap_or_default(), scales)
            }
            Self::Compensated(kind, bits, lost) => {
                let bits = bits.get_mut(range.clone()).unwrap_or_default();
                Self::Compensated(kind, bits, lost.get_mut(range).unwrap_or_default())
            }
        }
    }

    /// Copies elements as f32 into `out`, as many as it has, from element `from` on. Exact for 16-bit floats, compensated or not.
    pub(crate) fn read(&self, isa: InstructionSet, from: usize, out: &mut [f32]) {
        let range = from..from + out.len();
        match self {
            Self::F32(values) => out.copy_from_slice(values.get(range).unwrap_or_default()),
            Self::Half(kind, bits) => {
                isa.convert(Conversion::Widen(*kind, bits.get(range).unwrap_or_default(), out));
            }
            Self::Compensated(kind, bits, lost) => {
                let bits = bits.get(range.clone()).unwrap_or_default();
                isa.convert(Conversion::Join(*kind, bits, lost.get(range).unwrap_or_default(), out));
            }
            Self::Q8(book, codes, scales) => {
                let Range { mut start, end } = range;
                let mut out = out;
                while start < end {
                    // Up to the end of a block: later ones are whole.
                    let len = if start.is_multiple_of(Q8_BLOCK) {
                        end - start
                    } else {
                        Q8_BLOCK - start % Q8_BLOCK
                    };
                    let len = len.min(end - start);
                    let (now, later) = out.split_at_mut(len);
                    let codes = codes.get(start..start + len).unwrap_or_default();
                    let scales = scales.get(start / Q8_BLOCK..).unwrap_or_default();
                    isa.convert(Conversion::Dequantise(*book, codes, scales, now));
                    (out, start) = (later, start + len);
                }
            }
        }
    }

    /// Sets elements from f32, from element `from` on. With codes of 8 bits `from` is a multiple of 256, and whole blocks
    /// are set, or all up to the end.
    pub(crate) fn write(&mut self, isa: InstructionSet, from: usize, values: &[f32], rounding: Rounding) {
        let range = from..from + values.len();
        match self {
            Self::F32(own) => own.get_mut(range).unwrap_or_default().copy_from_slice(values),
            Self::Half(kind, bits) => {
                let bits = bits.get_mut(range).unwrap_or_default();
                isa.convert(Conversion::Round(*kind, rounding, values, bits));
            }
            Self::Q8(book, codes, scales) => {
                let codes = codes.get_mut(range).unwrap_or_default();
                let scales = scales.get_mut(from / Q8_BLOCK..).unwrap_or_default();
                isa.convert(Conversion::Quantise { book: *book, keep: true, values, codes, scales });
            }
            Self::Compensated(kind, bits, lost) => {
                let bits = bits.get_mut(range.clone()).unwrap_or_default();
                let lost = lost.get_mut(range).unwrap_or_default();
                isa.convert(Conversion::Split(*kind, values, bits, lost));
            }
        }
    }
}

/// A conversion of a run of elements; all slices of it are equally long but for the scales.
pub(super) enum Conversion<'a> {
    /// 16 bits to f32.
    Widen(Half, &'a [u16], &'a mut [f32]),
    /// f32 to 16 bits.
    Round(Half, Rounding, &'a [f32], &'a mut [u16]),
    /// 16 bits and what their rounding lost to f32.
    Join(Half, &'a [u16], &'a [u16], &'a mut [f32]),
    /// f32 to 16 bits and what that loses.
    Split(Half, &'a [f32], &'a mut [u16], &'a mut [u16]),
    /// 8 bits to f32. The first code is the first of a block, or all are of one block.
    Dequantise(Book, &'a [u8], &'a [f32], &'a mut [f32]),
    /// f32 to 8 bits, from the beginning of a block on.
    Quantise {
        book: Book,
        /// Whether a value of an unsigned book that is not zero must not become zero.
        keep: bool,
        values: &'a [f32],
        codes: &'a mut [u8],
        scales: &'a mut [f32],
    },
}

/// Makes a conversion; the body of the shells. What finds codes of 8 bits is handed in.
#[inline(always)]
pub(super) fn convert(conversion: Conversion<'_>, encoder: &impl q8::Encoder) {
    const BF16: u8 = Half::Bf16 as u8;
    const F16: u8 = Half::F16 as u8;
    match conversion {
        Conversion::Widen(Half::Bf16, bits, out) => map(bits, out, half::widen::<BF16>),
        Conversion::Widen(Half::F16, bits, out) => map(bits, out, half::widen::<F16>),
        Conversion::Round(kind, Rounding::Nearest, values, bits) => match kind {
            Half::Bf16 => map(values, bits, half::nearest::<BF16>),
            Half::F16 => map(values, bits, half::nearest::<F16>),
        },
        Conversion::Round(kind, Rounding::Stochastic { key, first }, values, bits) => match kind {
            Half::Bf16 => stochastic::<BF16>(key, first, values, bits),
            Half::F16 => stochastic::<F16>(key, first, values, bits),
        },
        Conversion::Join(kind, bits, lost, out) => match kind {
            Half::Bf16 => join::<BF16>(bits, lost, out),
            Half::F16 => join::<F16>(bits, lost, out),
        },
        Conversion::Split(kind, values, bits, lost) => match kind {
            Half::Bf16 => split::<BF16>(values, bits, lost),
            Half::F16 => split::<F16>(values, bits, lost),
        },
        Conversion::Dequantise(book, codes, scales, out) => {
            let blocks = codes.chunks(Q8_BLOCK).zip(out.chunks_mut(Q8_BLOCK)).zip(scales);
            for ((codes, out), &scale) in blocks {
                match book {
                    Book::Signed => q8::decode_block(&q8::SIGNED, codes, scale, out),
                    Book::Unsigned => q8::decode_block(&q8::UNSIGNED, codes, scale, out),
                }
            }
        }
        Conversion::Quantise { book, keep, values, codes, scales } => {
            let of = match (book, keep) {
                (Book::Signed, _) => Codes::Signed,
                (Book::Unsigned, false) => Codes::Unsigned,
                (Book::Unsigned, true) => Codes::Kept,
            };
            q8::quantise(of, values, codes, scales, encoder);
        }
    }
}

#[inline(always)]
fn map<A: Copy, B>(from: &[A], to: &mut [B], one: impl Fn(A) -> B) {
    for (to, &from) in to.iter_mut().zip(from) {
        *to = one(from);
    }
}

#[inline(always)]
fn join<const KIND: u8>(bits: &[u16], lost: &[u16], out: &mut [f32]) {
    for ((out, &bits), &lost) in out.iter_mut().zip(bits).zip(lost) {
        *out = half::join::<KIND>(bits, lost);
    }
}

#[inline(always)]
fn split<const KIND: u8>(values: &[f32], bits: &mut [u16], lost: &mut [u16]) {
    for ((bits, lost), &value) in bits.iter_mut().zip(lost).zip(values) {
        (*bits, *lost) = half::split::<KIND>(value);
    }
}

/// Rounds a run whose first element has the number `first`; the key changes at multiples of 2^16.
#[inline(always)]
fn stochastic<const KIND: u8>(key: u64, first: u64, values: &[f32], bits: &mut [u16]) {
    let (mut values, mut bits, mut first) = (values, bits, first);
    while !values.is_empty() {
        let start = (first & 0xffff) as u32;
        let len = values.len().min(0x1_0000 - start as usize);
        let run = half::Key::new(key, first >> 16);
        let ((now, later), (to, rest)) = (values.split_at(len), bits.split_at_mut(len));
        for ((to, &value), element) in to.iter_mut().zip(now).zip(start..) {
            *to = half::stochastic::<KIND>(value, run.bits(element));
        }
        (values, bits, first) = (later, rest, first.wrapping_add(len as u64));
    }
}

/// One bf16 of the two around a value, by 16 random bits: what stochastic rounding does with each element.
///
/// ```
/// use paramstore::precision::bf16_stochastic;
///
/// let value = f32::from_bits(0x3f80_4000); // a quarter of the way from one bf16 to the next
/// let ups = (0..=u16::MAX).filter(|&random| bf16_stochastic(value, random) == 0x3f81).count();
/// assert_eq!(ups, 65536 / 4);
/// ```
#[must_use]
pub fn bf16_stochastic(value: f32, random: u16) -> u16 {
    half::stochastic::<{ Half::Bf16 as u8 }>(value, u32::from(random))
}

/// Widens 16-bit floats to f32: exact.
///
/// ```
/// use paramstore::InstructionSet;
/// use paramstore::precision::{Half, widen};
///
/// let mut wide = [0.0; 2];
/// widen(InstructionSet::detect(), Half::F16, &[0x3c00, 0xc000], &mut wide);
/// assert_eq!(wide, [1.0, -2.0]);
/// ```
///
/// # Panics
///
/// If the lengths differ.
pub fn widen(isa: InstructionSet, kind: Half, bits: &[u16], out: &mut [f32]) {
    assert_eq!(bits.len(), out.len(), "the lengths");
    isa.convert(Conversion::Widen(kind, bits, out));
}

/// Rounds f32 to 16-bit floats.
///
/// ```
/// use paramstore::InstructionSet;
/// use paramstore::precision::{Half, Rounding, round};
///
/// let mut bits = [0; 2];
/// round(InstructionSet::detect(), Half::Bf16, Rounding::Nearest, &[1.0, 1.001], &mut bits);
/// assert_eq!(bits, [0x3f80, 0x3f80]);
/// ```
///
/// # Panics
///
/// If the lengths differ.
pub fn round(isa: InstructionSet, kind: Half, rounding: Rounding, values: &[f32], bits: &mut [u16]) {
    assert_eq!(bits.len(), values.len(), "the lengths");
    isa.convert(Conversion::Round(kind, rounding, values, bits));
}

/// Rounds f32 to the nearest 16-bit floats, and what that loses to the nearest ones again: `bits` are the values for whoever
/// reads them alone, the sum of both is what [`widen_compensated`] gives back. Of infinity and NaN nothing is lost.
///
/// A value `x` from `2^e` to below `2^(e + 1)` comes back with an error of at most `2^(e - 17)` by bf16 (17 significant bits, one of
/// them the sign of what was lost; or 2^-134, if that is more), and of at most `2^(e - 23)` by f16 (as much as the last place
/// of an f32; or 2^-25, if that is more: what f16 loses of values below 2^-6 has ever fewer bits).
///
/// ```
/// use paramstore::InstructionSet;
/// use paramstore::precision::{Half, round_compensated, widen_compensated};
///
/// let isa = InstructionSet::detect();
/// let (mut bits, mut lost, mut back) = ([0], [0], [0.0]);
/// round_compensated(isa, Half::Bf16, &[1.001], &mut bits, &mut lost);
/// assert_eq!(bits, [0x3f80]); // 1.0 for whoever reads it alone
/// widen_compensated(isa, Half::Bf16, &bits, &lost, &mut back);
/// assert!((back[0] - 1.001).abs() < 1.0 / 131_072.0);
/// ```
///
/// # Panics
///
/// If the lengths differ.
pub fn round_compensated(
    isa: InstructionSet,
    kind: Half,
    values: &[f32],
    bits: &mut [u16],
    lost: &mut [u16],
) {
    assert_eq!((bits.len(), lost.len()), (values.len(), values.len()), "the lengths");
    isa.convert(Conversion::Split(kind, values, bits, lost));
}

/// The sums of 16-bit floats and of what rounding them lost: exact for what [`round_compensated`] gives, which it gives back
/// unchanged in sum, again and again.
///
/// ```
/// use paramstore::InstructionSet;
/// use paramstore::precision::{Half, widen_compensated};
///
/// let mut sum = [0.0];
/// widen_compensated(InstructionSet::detect(), Half::F16, &[0x3c00], &[0x1000], &mut sum);
/// assert_eq!(sum, [1.0 + 1.0 / 2048.0]);
/// ```
///
/// # Panics
///
/// If the lengths differ.
pub fn widen_compensated(isa: InstructionSet, kind: Half, bits: &[u16], lost: &[u16], out: &mut [f32]) {
    assert_eq!((bits.len(), lost.len()), (out.len(), out.len()), "the lengths");
    isa.convert(Conversion::Join(kind, bits, lost, out));
}

/// Adds what rounding lost to values, as [`widen_compensated`] does.
pub(crate) fn add_lost(values: &mut [f32], lost: &[f32]) {
    for (value, &lost) in values.iter_mut().zip(lost) {
        *value = half::plus(*value, lost);
    }
}

/// Quantises f32 to codes of 8 bits in blocks of 256: each block's scale is its largest magnitude, each code the nearest
/// one (what lies within 2^-21 of the middle of two codes may get either). A block with NaN or infinity gets the scale NaN.
///
/// ```
/// use paramstore::InstructionSet;
/// use paramstore::precision::{Book, quantise};
///
/// let (values, mut codes, mut scales) = (vec![0.5; 300], vec![0; 300], [0.0; 2]);
/// quantise(InstructionSet::detect(), Book::Signed, &values, &mut codes, &mut scales);
/// assert_eq!(scales, [0.5, 0.5]); // one for each 256 begun
/// assert_eq!(Book::Signed.codes()[usize::from(codes[0])], 1.0);
/// ```
///
/// # Panics
///
/// If the lengths differ, or there is not one scale for each 256 elements begun.
pub fn quantise(isa: InstructionSet, book: Book, values: &[f32], codes: &mut [u8], scales: &mut [f32]) {
    assert_eq!((codes.len(), scales.len()), (values.len(), values.len().div_ceil(Q8_BLOCK)), "the lengths");
    isa.convert(Conversion::Quantise { book, keep: false, values, codes, scales });
}

/// What codes of 8 bits and their scales stand for.
///
/// ```
/// use paramstore::InstructionSet;
/// use paramstore::precision::{Book, dequantise};
///
/// let mut values = [0.0; 2];
/// dequantise(InstructionSet::detect(), Book::Unsigned, &[0, 255], &[0.5], &mut values);
/// assert_eq!(values, [0.0, 0.5]); // shares of the scale, from 0 to 1
/// ```
///
/// # Panics
///
/// If the lengths differ, or there is not one scale for each 256 elements begun.
pub fn dequantise(isa: InstructionSet, book: Book, codes: &[u8], scales: &[f32], out: &mut [f32]) {
    assert_eq!((out.len(), scales.len()), (codes.len(), codes.len().div_ceil(Q8_BLOCK)), "the lengths");
    isa.convert(Conversion::Dequantise(book, codes, scales, out));
}

/// Runs a rule for f32 over lanes, the parameters first: `rule` gets the parameters, the gradients and the state of a chunk
/// of elements, and returns a count, the sum of which is returned. The parameters are rounded by `rounding`, the state and
/// compensated parameters to the nearest.
pub(crate) fn in_f32(
    isa: InstructionSet,
    lanes: &mut [Lane<'_>],
    grad: &[f32],
    rounding: Rounding,
    mut rule: impl FnMut(&mut [f32], &[f32], &mut [&mut [f32]]) -> u64,
) -> u64 {
    let (len, states) = (lanes.first().map_or(0, Lane::len), lanes.len().saturating_sub(1));
    let mut memory = [[0.0; CHUNK_LEN]; 1 + MOST_PLANES];
    let mut count = 0;
    for (number, grad) in grad.chunks(CHUNK_LEN).enumerate() {
        let start = number * CHUNK_LEN;
        let chunk = start..(start + grad.len()).min(len);
        let mut planes: [&mut [f32]; 1 + MOST_PLANES] = Default::default();
        for ((plane, lane), memory) in planes.iter_mut().zip(lanes.iter_mut()).zip(&mut memory) {
            *plane = match lane {
                Lane::F32(values) => values.get_mut(chunk.clone()).unwrap_or_default(),
                narrow => {
                    let memory = memory.get_mut(..chunk.len()).unwrap_or_default();
                    narrow.read(isa, start, memory);
                    memory
                }
            };
        }
        let [param, state @ ..] = &mut planes;
        let state = state.get_mut(..states).unwrap_or_default();
        count += rule(param, grad, state);
        for (plane, (lane, memory)) in lanes.iter_mut().zip(&memory).enumerate() {
            if !matches!(lane, Lane::F32(_)) {
                let rounding = if plane == 0 { rounding.behind(start) } else { Rounding::Nearest };
                lane.write(isa, start, memory.get(..chunk.len()).unwrap_or_default(), rounding);
            }
        }
    }
    count
}
