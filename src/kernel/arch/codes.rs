//! Codes of 8 bits with AVX-512, sixteen elements at a time.
//!
//! The same operations as [`q8::encode`], and so the same codes; but the decade of an element comes from tables by its exponent, by
//! an instruction that the compiler does not find by itself, in place of six comparisons.

use std::arch::x86_64::{
    __m512, __m512i, __mmask16, _CMP_GE_OQ, _CMP_LE_OQ, _CMP_LT_OQ, _mm512_abs_ps, _mm512_add_epi32,
    _mm512_add_ps, _mm512_and_si512, _mm512_castps_si512, _mm512_cmp_ps_mask, _mm512_cvtepi32_epi8,
    _mm512_mask_mov_epi32, _mm512_mask_mov_ps, _mm512_max_ps, _mm512_min_ps, _mm512_mul_ps, _mm512_or_si512,
    _mm512_permutex2var_ps, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512,
    _mm512_srli_epi32, _mm512_srlv_epi32, _mm512_sub_epi32, _mm512_subs_epu16,
};

use crate::kernel::narrow::q8::{self, Binades, Codes, LAST, Lines, Q8_BLOCK};

static SIGNED: Binades = q8::binades(&q8::SIGNED_LINES);
static UNSIGNED: Binades = q8::binades(&q8::UNSIGNED_LINES);

/// See [`q8::encode`]. A function of its own, so that its tables stay in registers.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
#[inline(never)]
pub(super) fn encode(of: Codes, values: &[f32], codes: &mut [u8], scales: &[f32]) {
    let signed = Finder::new(&q8::SIGNED_LINES, &SIGNED);
    let unsigned = Finder::new(&q8::UNSIGNED_LINES, &UNSIGNED);
    match of {
        Codes::Signed => run(of, values, codes, scales, |x, y| signed.signed(x, y)),
        Codes::Unsigned => run(of, values, codes, scales, |_, y| {
            unsigned.unsigned(y, _mm512_cmp_ps_mask::<_CMP_LT_OQ>(y, unsigned.first))
        }),
        Codes::Kept => run(of, values, codes, scales, |x, y| {
            let is_zero = _mm512_cmp_ps_mask::<_CMP_LE_OQ>(x, _mm512_setzero_ps());
            unsigned.unsigned(_mm512_max_ps(y, unsigned.first), is_zero)
        }),
    }
}

/// Finds the number of the nearest code.
#[derive(Clone, Copy)]
struct Finder {
    from: [__m512; 2],
    before: [__m512; 2],
    behind: [__m512; 2],
    first: __m512,
    one: __m512,
    shift: __m512i,
    one_is: __m512i,
}

impl Finder {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    #[inline]
    fn new(lines: &Lines, binades: &Binades) -> Self {
        let [first, .., one] = lines.from;
        let most = 1_u32 << (24 - lines.shift);
        Self {
            from: bytemuck::cast(binades.from),
            before: bytemuck::cast(binades.before),
            behind: bytemuck::cast(binades.behind),
            first: _mm512_set1_ps(first),
            one: _mm512_set1_ps(one),
            shift: _mm512_set1_epi32(lines.shift.cast_signed()),
            one_is: _mm512_set1_epi32(most.cast_signed()),
        }
    }

    /// The codes of elements `x` that are `y` times their scale.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    #[inline]
    fn signed(&self, x: __m512, y: __m512) -> __m512i {
        let zero = _mm512_set1_epi32(127);
        let y = _mm512_abs_ps(y);
        let k = self.nearest(y);
        let is_negative = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(x, _mm512_setzero_ps());
        // There is no code for -1.
        let negative = _mm512_subs_epu16(zero, k);
        let code = _mm512_mask_mov_epi32(_mm512_add_epi32(zero, k), is_negative, negative);
        _mm512_mask_mov_epi32(code, _mm512_cmp_ps_mask::<_CMP_LT_OQ>(y, self.first), zero)
    }

    /// The codes of elements that are `y` times their scale, but for those that become zero.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    #[inline]
    fn unsigned(&self, y: __m512, is_zero: __mmask16) -> __m512i {
        let code = _mm512_sub_epi32(self.nearest(y), _mm512_set1_epi32(1));
        _mm512_mask_mov_epi32(code, is_zero, _mm512_setzero_si512())
    }

    /// See [`Lines::nearest`].
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    #[inline]
    fn nearest(&self, y: __m512) -> __m512i {
        let find = |[low, high]: [__m512; 2], index| _mm512_permutex2var_ps(low, index, high);
        let exponent = _mm512_srli_epi32::<23>(_mm512_castps_si512(y));
        let is_behind = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(y, find(self.from, exponent));
        let slope = _mm512_mask_mov_ps(find(self.before, exponent), is_behind, find(self.behind, exponent));
        let u = _mm512_add_ps(_mm512_mul_ps(y, slope), _mm512_set1_ps(8.0 / 9.0));
        let u = _mm512_castps_si512(_mm512_min_ps(u, _mm512_set1_ps(LAST)));
        let follow = _mm512_and_si512(_mm512_castps_si512(slope), _mm512_set1_epi32(7));
        let shift = _mm512_add_epi32(follow, self.shift);
        let fraction = _mm512_and_si512(u, _mm512_set1_epi32(0x007f_ffff));
        let k = _mm512_srlv_epi32(_mm512_or_si512(fraction, _mm512_set1_epi32(0x0080_0000)), shift);
        _mm512_mask_mov_epi32(k, _mm512_cmp_ps_mask::<_CMP_GE_OQ>(y, self.one), self.one_is)
    }
}

/// Finds the codes of whole groups of sixteen by `find`, which gets elements and these times the inverse of their scale; and
/// those of the rest one by one.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
#[inline]
fn run(
    of: Codes,
    values: &[f32],
    codes: &mut [u8],
    scales: &[f32],
    find: impl Fn(__m512, __m512) -> __m512i,
) {
    for ((values, codes), &scale) in values.chunks(Q8_BLOCK).zip(codes.chunks_mut(Q8_BLOCK)).zip(scales) {
        let Some(inverse) = q8::inverse(scale) else {
            q8::encode_rarely(of, values, codes, scale);
            continue;
        };
        let (groups, rest) = values.as_chunks::<16>();
        let (to, to_rest) = codes.as_chunks_mut::<16>();
        for (values, codes) in groups.iter().zip(to) {
            let x: __m512 = bytemuck::cast(*values);
            let y = _mm512_mul_ps(x, _mm512_set1_ps(inverse));
            *codes = bytemuck::cast(_mm512_cvtepi32_epi8(find(x, y)));
        }
        q8::encode_part(of, rest, to_rest, inverse);
    }
}
