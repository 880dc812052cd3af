//! Eight bits: blocks of 256 elements, each with a scale, and the dynamic code books of Dettmers, Lewis, Shleifer and
//! Zettlemoyer ("8-bit optimizers via block-wise quantization", arXiv:2110.02861, 2021).
//!
//! A code book has seven decades `p = 10^-6 .. 1` of codes that divide `[p/10, p]` evenly, `n` of them per decade and
//! sign: 1, 2 .. 64 in the signed book, 2, 4 .. 128 in the unsigned one. Code number `k` of `n .. 2n` stands for
//! `p * (0.9 * (k + 1/2) / n - 0.8)`. Zero and one are codes of their own.

use super::Book;

/// Elements that share a scale.
pub(crate) const Q8_BLOCK: usize = 256;

/// Decades of a code book.
const DECADES: usize = 7;

/// What the codes of a book stand for, ascending.
pub(super) static SIGNED: [f32; 256] = table(false);
/// See [`SIGNED`].
pub(super) static UNSIGNED: [f32; 256] = table(true);

/// The values in front of the codes of a decade.
const fn power(decade: usize) -> f64 {
    [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0][decade]
}

/// What code number `k` of a decade of `n` codes stands for, `k` from `n` to below `2n`.
#[expect(clippy::cast_precision_loss, reason = "both are at most 256")]
const fn value(decade: usize, k: usize, n: usize) -> f64 {
    power(decade) * (0.9 * ((k as f64 + 0.5) / n as f64) - 0.8)
}

#[expect(clippy::cast_possible_truncation, reason = "rounded once")]
const fn table(is_unsigned: bool) -> [f32; 256] {
    let mut codes = [0.0; 256];
    let mut decade = 0;
    while decade < DECADES {
        let n = if is_unsigned { 2 << decade } else { 1 << decade };
        let mut k = n;
        while k < 2 * n {
            let value = value(decade, k, n) as f32;
            if is_unsigned {
                codes[k - 1] = value;
            } else {
                codes[127 + k] = value;
                codes[127 - k] = -value;
            }
            k += 1;
        }
        decade += 1;
    }
    codes[255] = 1.0;
    codes
}

/// How the nearest code is found: the decade by comparing, and within it by a straight line.
pub(in crate::kernel) struct Lines {
    /// Where the codes of each decade begin to be the nearest ones; in front of the first, zero is; from the last on, one.
    pub(in crate::kernel) from: [f32; DECADES + 1],
    /// For each decade `1 / (0.9 * p)`, whose three lowest bits say instead how many decades follow: off by 2^-22 at most.
    slope: [f32; DECADES],
    /// Places by which a fraction of 23 bits is shifted to leave a code of the last decade.
    pub(in crate::kernel) shift: u32,
}

#[expect(clippy::cast_possible_truncation, reason = "rounded once")]
const fn lines(is_unsigned: bool) -> Lines {
    let first = if is_unsigned { 2 } else { 1 };
    let shift = if is_unsigned { 16 } else { 17 };
    let mut lines = Lines { from: [0.0; DECADES + 1], slope: [0.0; DECADES], shift };
    let mut below = 0.0;
    let mut decade = 0;
    while decade < DECADES {
        let n = first << decade;
        lines.from[decade] = f64::midpoint(below, value(decade, n, n)) as f32;
        let slope = (1.0 / (0.9 * power(decade))) as f32;
        let follow = (DECADES - 1 - decade) as u32;
        // The nearest pattern that ends in `follow`.
        lines.slope[decade] = f32::from_bits(((slope.to_bits() + 4 - follow) & !7) + follow);
        below = value(decade, 2 * n - 1, n);
        decade += 1;
    }
    lines.from[DECADES] = f64::midpoint(below, 1.0) as f32;
    lines
}

pub(in crate::kernel) const SIGNED_LINES: Lines = lines(false);
pub(in crate::kernel) const UNSIGNED_LINES: Lines = lines(true);

impl Lines {
    /// The number of the code nearest to `y`, which is from the first decade's beginning to about 1: `n .. 2n` for a decade
    /// of `n` codes, twice the last decade's number of codes for one.
    ///
    /// With `u = y / (0.9 * p) + 8/9`, from 1 to below 2, the number is `u * n` without its fraction: the leading bits of
    /// `u`. Every operation is rounded once; what lies within 2^-20 (relative) of the middle of two codes may get either.
    #[inline(always)]
    fn nearest(&self, y: f32) -> u32 {
        let [_, from1, from2, from3, from4, from5, from6, one] = self.from;
        let [slope, slope1, slope2, slope3, slope4, slope5, slope6] = self.slope;
        // Written out: of a loop the compiler makes choices between addresses, and no vectors.
        let slope = if y >= from1 { slope1 } else { slope };
        let slope = if y >= from2 { slope2 } else { slope };
        let slope = if y >= from3 { slope3 } else { slope };
        let slope = if y >= from4 { slope4 } else { slope };
        let slope = if y >= from5 { slope5 } else { slope };
        let slope = if y >= from6 { slope6 } else { slope };
        let u = y * slope + 8.0 / 9.0;
        // A decade's last code reaches into the next decade.
        let u = if u < LAST { u } else { LAST };
        let shift = (slope.to_bits() & 7) + self.shift;
        let k = (u.to_bits() & 0x007f_ffff | 0x0080_0000) >> shift;
        if y >= one { 1 << (24 - self.shift) } else { k }
    }
}

/// The largest f32 below 2.
pub(in crate::kernel) const LAST: f32 = f32::from_bits(0x3fff_ffff);

/// The slopes of [`Lines`] by the exponent of `y`, whose lowest five bits are the index: a binade has the beginning of
/// one decade in it at most.
pub(in crate::kernel) struct Binades {
    /// Where a decade begins in the binade; infinity if none does.
    pub(in crate::kernel) from: [f32; 32],
    /// The slope in front of it.
    pub(in crate::kernel) before: [f32; 32],
    /// The slope from there on.
    pub(in crate::kernel) behind: [f32; 32],
}

pub(in crate::kernel) const fn binades(lines: &Lines) -> Binades {
    let mut binades = Binades { from: [f32::INFINITY; 32], before: [0.0; 32], behind: [0.0; 32] };
    let (mut exponent, mut decade) = (127 - 31, 0);
    while exponent <= 127 {
        let index = (exponent & 31) as usize;
        binades.before[index] = lines.slope[decade];
        if decade + 1 < DECADES && lines.from[decade + 1].to_bits() >> 23 == exponent {
            decade += 1;
            binades.from[index] = lines.from[decade];
        }
        binades.behind[index] = lines.slope[decade];
        exponent += 1;
    }
    binades
}

/// What finds the codes of blocks: [`encode`], or the same in other instructions. Gets the elements, their codes, and the
/// scale of each block.
pub(in crate::kernel) trait Encoder: Fn(Codes, &[f32], &mut [u8], &[f32]) {}
impl<F: Fn(Codes, &[f32], &mut [u8], &[f32])> Encoder for F {}

/// Which codes are asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::kernel) enum Codes {
    Signed,
    Unsigned,
    /// Unsigned, and a value that is not zero does not become zero: a root in a divisor must not vanish.
    Kept,
}

/// Blocks whose scales are found before their codes are, so that one block does not wait for the scale of another.
const SPAN: usize = 4;

/// Quantises elements from the beginning of a block on. The scale of a block is its largest magnitude; of one with a NaN or an
/// infinity it is NaN: one scale cannot say more, and it shows.
#[inline(always)]
pub(super) fn quantise(
    of: Codes,
    values: &[f32],
    codes: &mut [u8],
    scales: &mut [f32],
    encoder: &impl Encoder,
) {
    let spans = values.chunks(SPAN * Q8_BLOCK).zip(codes.chunks_mut(SPAN * Q8_BLOCK));
    for ((values, codes), scales) in spans.zip(scales.chunks_mut(SPAN)) {
        for (values, scale) in values.chunks(Q8_BLOCK).zip(scales.iter_mut()) {
            // Magnitudes are ordered as their bits are.
            let largest = values.iter().fold(0, |largest: u32, x| largest.max(x.to_bits() & 0x7fff_ffff));
            let largest = f32::from_bits(largest);
            *scale = if largest.is_finite() { largest } else { f32::NAN };
        }
        encoder(of, values, codes, scales);
    }
}

/// The codes of blocks by their scales.
#[inline(always)]
pub(in crate::kernel) fn encode(of: Codes, values: &[f32], codes: &mut [u8], scales: &[f32]) {
    for ((values, codes), &scale) in values.chunks(Q8_BLOCK).zip(codes.chunks_mut(Q8_BLOCK)).zip(scales) {
        match inverse(scale) {
            Some(inverse) => encode_by(of, values, codes, |x| x * inverse),
            None => encode_rarely(of, values, codes, scale),
        }
    }
}

/// The inverse of a scale, unless there is none, or it would be infinite or lose bits.
#[inline(always)]
pub(in crate::kernel) fn inverse(scale: f32) -> Option<f32> {
    (1e-30..1e30).contains(&scale).then(|| 1.0 / scale)
}

/// The codes of a block whose scale has no [`inverse`].
#[cold]
#[inline(never)]
pub(in crate::kernel) fn encode_rarely(of: Codes, values: &[f32], codes: &mut [u8], scale: f32) {
    if scale == 0.0 || scale.is_nan() {
        codes.fill(if of == Codes::Signed { 127 } else { 0 });
    } else {
        encode_by(of, values, codes, |x| x / scale);
    }
}

/// The codes of a part of a block by the inverse of its scale.
#[inline(always)]
pub(in crate::kernel) fn encode_part(of: Codes, values: &[f32], codes: &mut [u8], inverse: f32) {
    encode_by(of, values, codes, |x| x * inverse);
}

#[inline(always)]
fn encode_by(of: Codes, values: &[f32], codes: &mut [u8], quotient: impl Fn(f32) -> f32) {
    match of {
        Codes::Signed => encode_with::<false, false>(values, codes, quotient),
        Codes::Unsigned => encode_with::<true, false>(values, codes, quotient),
        Codes::Kept => encode_with::<true, true>(values, codes, quotient),
    }
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "codes are 0 to 255")]
fn encode_with<const UNSIGNED: bool, const KEEP: bool>(
    values: &[f32],
    codes: &mut [u8],
    quotient: impl Fn(f32) -> f32,
) {
    let lines = if UNSIGNED { UNSIGNED_LINES } else { SIGNED_LINES };
    let first = lines.from[0];
    for (code, &x) in codes.iter_mut().zip(values) {
        let y = quotient(x);
        *code = if UNSIGNED {
            // A negative value, which no such plane has, is as near to zero as the book gets.
            let is_zero = if KEEP { x <= 0.0 } else { y < first };
            let k = lines.nearest(if KEEP && y < first { first } else { y });
            (if is_zero { 0 } else { k - 1 }) as u8
        } else {
            let y = y.abs();
            let k = lines.nearest(y);
            // There is no code for -1.
            let negative = 127_u32.saturating_sub(k);
            let code = if x < 0.0 { negative } else { 127 + k };
            (if y < first { 127 } else { code }) as u8
        };
    }
}

/// Decodes a block.
#[inline(always)]
pub(super) fn decode_block(table: &[f32; 256], codes: &[u8], scale: f32, out: &mut [f32]) {
    for (out, &code) in out.iter_mut().zip(codes) {
        *out = table[usize::from(code)] * scale;
    }
}

impl Book {
    /// What the codes stand for, in units of a block's scale, ascending.
    ///
    /// ```
    /// use paramstore::precision::Book;
    ///
    /// let codes = Book::Signed.codes();
    /// assert!(codes.is_sorted() && codes.contains(&0.0) && codes[255] == 1.0);
    /// ```
    #[must_use]
    pub fn codes(self) -> &'static [f32; 256] {
        match self {
            Self::Signed => &SIGNED,
            Self::Unsigned => &UNSIGNED,
        }
    }
}
