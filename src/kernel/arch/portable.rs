//! Shells for what every CPU of the compilation target has: the reference and the fallback.
//!
//! They are never inlined: the arguments of a real function are known not to overlap, and the loops vectorise only
//! with that knowledge.

use crate::kernel::narrow::{self, Conversion, compact, q8};
use crate::kernel::reduce;
use crate::kernel::rule::Rule;
use crate::kernel::sweep;

#[inline(never)]
pub(in crate::kernel) fn sweep<R: Rule<N>, const N: usize>(
    rule: R,
    param: &mut [f32],
    grad: &[f32],
    a: &mut [f32],
    b: &mut [f32],
    c: &mut [f32],
) -> u32 {
    sweep::sweep(rule, param, grad, a, b, c)
}

#[inline(never)]
pub(in crate::kernel) fn sweep_compact<R: Rule<N>, const N: usize>(
    rule: R,
    param: &mut [u16],
    source: compact::Source<'_>,
    a: &mut [f32],
    b: &mut [f32],
    c: &mut [f32],
) -> u32 {
    compact::sweep(rule, param, source, a, b, c)
}

#[inline(never)]
pub(in crate::kernel) fn convert(conversion: Conversion<'_>) {
    narrow::convert(conversion, &q8::encode);
}

#[inline(never)]
pub(in crate::kernel) fn sum_of_squares_leaf(leaf: &[f32]) -> f64 {
    reduce::sum_of_squares_body(leaf)
}

#[inline(never)]
pub(in crate::kernel) fn count_non_finite(values: &[f32]) -> u64 {
    reduce::count_non_finite_body(values)
}
