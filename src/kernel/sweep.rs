//! The one loop under every update rule.

use super::InstructionSet;
use super::narrow::compact::Compact;
use super::rule::{EXPONENT, MOST_PLANES, Negated, Rule};

/// The planes of one run of elements, and how a rule runs over them.
pub(crate) struct Sweep<'a, 'b> {
    /// The instruction set.
    pub(crate) isa: InstructionSet,
    /// The parameters and the state planes, in the order of the rule.
    pub(crate) planes: Planes<'a, 'b>,
    /// The gradients.
    pub(crate) grad: &'a [f32],
    /// Whether the gradient changes its sign first (`maximize`).
    pub(crate) negate: bool,
}

/// The parameters and their state.
pub(crate) enum Planes<'a, 'b> {
    /// In f32.
    F32(&'a mut [f32], &'a mut [&'b mut [f32]]),
    /// In bf16 and codes of 8 bits.
    Compact(Compact<'a, 'b>),
}

impl Sweep<'_, '_> {
    /// Runs a rule over the planes. Returns how many gradients were NaN or infinite.
    ///
    /// # Panics
    ///
    /// If there are not `N` state planes, or one plane is shorter than the parameters.
    pub(crate) fn run<R: Rule<N>, const N: usize>(self, rule: R) -> u64 {
        if self.negate { self.run_parts(Negated(rule), PART_LEN) } else { self.run_parts(rule, PART_LEN) }
    }

    /// Runs a rule over at most `part_len` elements in f32 at a time.
    fn run_parts<R: Rule<N>, const N: usize>(self, rule: R, part_len: usize) -> u64 {
        let (param, state) = match self.planes {
            Planes::F32(param, state) => (param, state),
            Planes::Compact(planes) => return planes.run(self.isa, rule, self.grad),
        };
        assert_eq!(state.len(), N, "the number of state planes");
        let mut state = state.iter_mut();
        let mut parts: [_; MOST_PLANES] = std::array::from_fn(|_| {
            let plane = state.next().map_or(&mut [][..], |plane| &mut **plane);
            plane.chunks_mut(part_len)
        });
        let mut grad = self.grad.chunks(part_len);
        let mut non_finite = 0;
        for param in param.chunks_mut(part_len) {
            let planes = parts.each_mut().map(|parts| parts.next().unwrap_or_default());
            let grad = grad.next().unwrap_or_default();
            non_finite += u64::from(self.isa.sweep(rule, param, grad, planes));
        }
        non_finite
    }
}

/// The most elements of one loop, which counts in 32 bits.
const PART_LEN: usize = 1 << 24;

/// Updates every element by a rule whose `N` planes are the first of `a`, `b`, `c`; the others are empty. Returns how
/// many gradients were NaN or infinite: counted here, since a pass of its own takes a twentieth of the time of a step
/// in memory.
///
/// The planes are separate arguments because the compiler may then assume that they do not overlap; without that it
/// does not vectorise a loop over so many slices.
///
/// # Panics
///
/// If the lengths differ. At most 2^32 - 1 elements may be NaN or infinite.
#[inline(always)]
pub(super) fn sweep<R: Rule<N>, const N: usize>(
    rule: R,
    param: &mut [f32],
    grad: &[f32],
    a: &mut [f32],
    b: &mut [f32],
    c: &mut [f32],
) -> u32 {
    const { assert!(N <= MOST_PLANES) };
    let len = param.len();
    let len_if = |present: bool| if present { len } else { 0 };
    assert_eq!(grad.len(), len, "the length of the gradient");
    assert_eq!(
        [a.len(), b.len(), c.len()],
        [len_if(N > 0), len_if(N > 1), len_if(N > 2)],
        "the lengths of the state planes"
    );
    // As wide as the elements, which keeps the vectors whole.
    let mut non_finite: u32 = 0;
    for i in 0..len {
        let mut state = [0.0; N];
        if N > 0 {
            state[0] = a[i];
        }
        if N > 1 {
            state[1] = b[i];
        }
        if N > 2 {
            state[2] = c[i];
        }
        non_finite += u32::from(grad[i].to_bits() & EXPONENT == EXPONENT);
        let (p, state) = rule.element(param[i], grad[i], state);
        param[i] = p;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Adds the gradient to the parameter and the parameter to both planes.
    #[derive(Clone, Copy)]
    struct Add;

    impl Rule<2> for Add {
        fn element(self, p: f32, g: f32, [a, b]: [f32; 2]) -> (f32, [f32; 2]) {
            (p + g, [a + p, b - p])
        }
    }

    #[test]
    fn a_sweep_in_parts_is_the_sweep_in_one_piece_and_counts_what_is_not_finite() {
        let grad: Vec<f32> =
            [1.0, f32::NAN, f32::INFINITY, f32::MAX, -0.0, f32::NEG_INFINITY, 1e-45].repeat(9);
        for isa in InstructionSet::available() {
            let run = |part_len, negate| {
                let mut param: Vec<f32> = (0_u8..63).map(f32::from).collect();
                let (mut a, mut b) = (vec![0.5; 63], vec![2.0; 63]);
                let mut state = [&mut a[..], &mut b[..]];
                let planes = Planes::F32(&mut param, &mut state);
                let sweep = Sweep { isa, planes, grad: &grad, negate };
                let count = if negate {
                    sweep.run_parts(Negated(Add), part_len)
                } else {
                    sweep.run_parts(Add, part_len)
                };
                assert_eq!(count, 27, "in parts of {part_len} on {}", isa.name());
                // Which NaN comes out of an operation is not promised, and Miri takes any.
                let bits = |value: &f32| if value.is_nan() { f32::NAN } else { *value }.to_bits();
                [param, a, b].map(|plane| plane.iter().map(bits).collect::<Vec<_>>())
            };
            for negate in [false, true] {
                let whole = run(PART_LEN, negate);
                for part_len in [1, 2, 31, 62, 63] {
                    assert_eq!(run(part_len, negate), whole);
                }
            }
        }
    }
}
