//! The one loop under every update rule.

use super::InstructionSet;

/// The most state planes that a rule may have.
pub(super) const MOST_PLANES: usize = 3;

/// What an update rule does to one element with `N` state planes; the scalars of the step stand in `self`.
pub(crate) trait Rule<const N: usize>: Copy {
    /// Returns the new parameter and state of an element whose gradient is `g`.
    fn element(self, p: f32, g: f32, state: [f32; N]) -> (f32, [f32; N]);
}

/// A rule with its gradient negated first, for `maximize`.
#[derive(Clone, Copy)]
struct Negated<R>(R);

impl<R: Rule<N>, const N: usize> Rule<N> for Negated<R> {
    #[inline(always)]
    fn element(self, p: f32, g: f32, state: [f32; N]) -> (f32, [f32; N]) {
        self.0.element(p, -g, state)
    }
}

/// The planes of one run of elements, and how a rule runs over them.
pub(crate) struct Sweep<'a, 'b> {
    /// The instruction set.
    pub(crate) isa: InstructionSet,
    /// The parameters.
    pub(crate) param: &'a mut [f32],
    /// The gradients.
    pub(crate) grad: &'a [f32],
    /// The state planes, in the order of the rule.
    pub(crate) state: &'a mut [&'b mut [f32]],
    /// Whether the gradient changes its sign first (`maximize`).
    pub(crate) negate: bool,
}

impl Sweep<'_, '_> {
    /// Runs a rule over the planes.
    ///
    /// # Panics
    ///
    /// If there are not `N` state planes, or one plane's length differs from the parameters'.
    pub(crate) fn run<R: Rule<N>, const N: usize>(self, rule: R) {
        assert_eq!(self.state.len(), N, "the number of state planes");
        let mut state = self.state.iter_mut();
        let planes: [&mut [f32]; MOST_PLANES] =
            std::array::from_fn(|_| state.next().map_or(&mut [][..], |plane| &mut **plane));
        if self.negate {
            self.isa.sweep(Negated(rule), self.param, self.grad, planes);
        } else {
            self.isa.sweep(rule, self.param, self.grad, planes);
        }
    }
}

/// Updates every element by a rule whose `N` planes are the first of `a`, `b`, `c`; the others are empty.
///
/// The planes are separate arguments because the compiler may then assume that they do not overlap; without that it
/// does not vectorise a loop over so many slices.
///
/// # Panics
///
/// If the lengths differ.
#[inline(always)]
pub(super) fn sweep<R: Rule<N>, const N: usize>(
    rule: R,
    param: &mut [f32],
    grad: &[f32],
    a: &mut [f32],
    b: &mut [f32],
    c: &mut [f32],
) {
    const { assert!(N <= MOST_PLANES) };
    let len = param.len();
    let len_if = |present: bool| if present { len } else { 0 };
    assert_eq!(grad.len(), len, "the length of the gradient");
    assert_eq!(
        [a.len(), b.len(), c.len()],
        [len_if(N > 0), len_if(N > 1), len_if(N > 2)],
        "the lengths of the state planes"
    );
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
}
