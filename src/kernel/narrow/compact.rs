//! Parameters in bf16 with stochastic rounding and state in codes of 8 bits, in one pass: the state `compact`.
//!
//! The planes are widened and the parameters rounded inside the loop of the rule, so that the CPU looks one element up in its
//! tables while it divides for another. The codes wait for the scale of their block and are found behind the loop. The bits
//! are those of [`in_f32`](super::in_f32), which makes a loop of each.

use std::ops::Range;

use super::q8::SIGNED;
use super::{CHUNK_LEN, Half, Lane, Q8_BLOCK, Rounding, half};
use crate::kernel::InstructionSet;
use crate::kernel::rule::{EXPONENT, MOST_PLANES, Rule};

/// The planes of one run of elements.
#[derive(Debug)]
pub(crate) struct Compact<'a, 'b> {
    param: &'a mut [u16],
    /// In codes of 8 bits, all of them, and as long as the parameters.
    state: &'a mut [Lane<'b>],
    key: u64,
    first: u64,
}

impl<'a, 'b> Compact<'a, 'b> {
    /// The planes, the parameters first, if they are of this kind and length and rounded so.
    pub(crate) fn of(lanes: &'a mut [Lane<'b>], rounding: Rounding) -> Option<Self> {
        let Rounding::Stochastic { key, first } = rounding else { return None };
        let [Lane::Half(Half::Bf16, param), state @ ..] = lanes else { return None };
        let is_like = |lane: &Lane<'_>| matches!(lane, Lane::Q8(_, codes, _) if codes.len() == param.len());
        let is_compact = (1..=MOST_PLANES).contains(&state.len()) && state.iter().all(is_like);
        is_compact.then_some(Self { param, state, key, first })
    }

    /// Runs a rule over the planes. Returns how many gradients were NaN or infinite.
    ///
    /// # Panics
    ///
    /// If there are not `N` state planes, or the gradient is not as long.
    pub(in crate::kernel) fn run<R: Rule<N>, const N: usize>(
        self,
        isa: InstructionSet,
        rule: R,
        grad: &[f32],
    ) -> u64 {
        let Self { param, state, key, first } = self;
        assert_eq!(state.len(), N, "the number of state planes");
        assert_eq!(grad.len(), param.len(), "the length of the gradient");
        let mut memory = [[0.0; CHUNK_LEN]; MOST_PLANES];
        let mut non_finite = 0;
        for (number, (param, grad)) in param.chunks_mut(CHUNK_LEN).zip(grad.chunks(CHUNK_LEN)).enumerate() {
            let (start, len) = (number * CHUNK_LEN, param.len());
            let mut scaled = [Scaled::NONE; MOST_PLANES];
            for (scaled, lane) in scaled.iter_mut().zip(&*state) {
                *scaled = Scaled::of(lane, start..start + len);
            }
            let source = Source { grad, state: scaled, key, first: first.wrapping_add(start as u64) };
            let wide = memory.each_mut().map(|memory| &mut memory[..len]);
            non_finite += u64::from(isa.sweep_compact(rule, param, source, wide));
            for (lane, values) in state.iter_mut().zip(&memory) {
                lane.write(isa, start, &values[..len], Rounding::Nearest);
            }
        }
        non_finite
    }
}

/// A plane that is read.
#[derive(Clone, Copy)]
struct Scaled<'a> {
    table: &'static [f32; 256],
    codes: &'a [u8],
    /// One for each 256 codes.
    scales: &'a [f32],
}

impl<'a> Scaled<'a> {
    /// No element.
    const NONE: Self = Self { table: &SIGNED, codes: &[], scales: &[] };

    /// A range of a lane's elements that begins with a block; none of a lane of another kind.
    fn of(lane: &'a Lane<'_>, range: Range<usize>) -> Self {
        let Lane::Q8(book, codes, scales) = lane else {
            return Self::NONE;
        };
        let blocks = range.start / Q8_BLOCK..range.end.div_ceil(Q8_BLOCK);
        Self { table: book.codes(), codes: &codes[range], scales: &scales[blocks] }
    }

    /// The table, the codes and the scale of elements that are of one block; none of a plane that is not `present`.
    #[inline(always)]
    fn of_block(self, part: Range<usize>, present: bool) -> (&'static [f32; 256], &'a [u8], f32) {
        let Self { table, codes, scales } = self;
        if present { (table, &codes[part.clone()], scales[part.start / Q8_BLOCK]) } else { (table, &[], 0.0) }
    }
}

/// What a loop over elements reads beside the parameters. The first element is the first of a block.
#[derive(Clone, Copy)]
pub(in crate::kernel) struct Source<'a> {
    grad: &'a [f32],
    state: [Scaled<'a>; MOST_PLANES],
    key: u64,
    /// The number of the first element in its tensor.
    first: u64,
}

/// Updates parameters by a rule whose `N` planes are the first of `source`, and leaves the new values of these in the first of
/// `a`, `b`, `c`. Returns how many gradients were NaN or infinite. The body of the shells: see
/// [`sweep`](crate::kernel::sweep::sweep) for why the planes are separate arguments.
///
/// # Panics
///
/// If `source`, `a`, `b` or `c` has fewer elements than `param`.
#[inline(always)]
pub(in crate::kernel) fn sweep<R: Rule<N>, const N: usize>(
    rule: R,
    param: &mut [u16],
    source: Source<'_>,
    a: &mut [f32],
    b: &mut [f32],
    c: &mut [f32],
) -> u32 {
    let Source { grad, state, key, first } = source;
    let (mut start, mut non_finite) = (0, 0);
    while start < param.len() {
        // Up to the end of a block, which has one scale, and of a run of 2^16 elements, which has one key.
        let number = first.wrapping_add(start as u64);
        let of_run = 0x1_0000 - (number & 0xffff) as usize;
        let of_block = Q8_BLOCK - start % Q8_BLOCK;
        let end = (start + of_run.min(of_block)).min(param.len());
        let part = start..end;
        let [of_a, of_b, of_c] = state;
        let of = Part {
            grad: &grad[part.clone()],
            state: [
                of_a.of_block(part.clone(), N > 0),
                of_b.of_block(part.clone(), N > 1),
                of_c.of_block(part.clone(), N > 2),
            ],
            key: half::Key::new(key, number >> 16),
            first: (number & 0xffff) as u32,
        };
        let (a, b, c) = (&mut a[part.clone()], &mut b[part.clone()], &mut c[part.clone()]);
        non_finite += sweep_part(rule, &mut param[part], of, a, b, c);
        start = end;
    }
    non_finite
}

/// As [`Source`], of elements that have one scale and one key: `first` is the number of the first in its run of 2^16.
#[derive(Clone, Copy)]
struct Part<'a> {
    grad: &'a [f32],
    state: [(&'static [f32; 256], &'a [u8], f32); MOST_PLANES],
    key: half::Key,
    first: u32,
}

#[inline(always)]
fn sweep_part<R: Rule<N>, const N: usize>(
    rule: R,
    param: &mut [u16],
    part: Part<'_>,
    a: &mut [f32],
    b: &mut [f32],
    c: &mut [f32],
) -> u32 {
    const BF16: u8 = Half::Bf16 as u8;
    let len = param.len();
    // The bounds are known in front of the loop: one that may end in its middle takes its last vectors one element at a time.
    let (grad, a, b, c) = (&part.grad[..len], &mut a[..len], &mut b[..len], &mut c[..len]);
    let [(table_a, codes_a, scale_a), (table_b, codes_b, scale_b), (table_c, codes_c, scale_c)] = part.state;
    let len_if = |present: bool| if present { len } else { 0 };
    let (codes_a, codes_b) = (&codes_a[..len_if(N > 0)], &codes_b[..len_if(N > 1)]);
    let codes_c = &codes_c[..len_if(N > 2)];
    let mut non_finite: u32 = 0;
    for (i, number) in (0..len).zip(part.first..) {
        let mut state = [0.0; N];
        if N > 0 {
            state[0] = table_a[usize::from(codes_a[i])] * scale_a;
        }
        if N > 1 {
            state[1] = table_b[usize::from(codes_b[i])] * scale_b;
        }
        if N > 2 {
            state[2] = table_c[usize::from(codes_c[i])] * scale_c;
        }
        non_finite += u32::from(grad[i].to_bits() & EXPONENT == EXPONENT);
        let (p, state) = rule.element(half::widen::<BF16>(param[i]), grad[i], state);
        param[i] = half::stochastic::<BF16>(p, part.key.bits(number));
        if N > 0 {
            a[i] = state[0];
        }
        if N > 1 {
            b[i] = state[1];
        }
        if N > 2 {
            c[i] = state[2];
        }
    }
    non_finite
}
