//! What an update rule is to a loop: a function of one element.

/// The most state planes that a rule may have.
pub(crate) const MOST_PLANES: usize = 3;

/// The exponent of an f32: all ones in NaN and infinities.
pub(super) const EXPONENT: u32 = 0x7f80_0000;

/// What an update rule does to one element with `N` state planes; the scalars of the step stand in `self`.
pub(crate) trait Rule<const N: usize>: Copy {
    /// Returns the new parameter and state of an element whose gradient is `g`.
    fn element(self, p: f32, g: f32, state: [f32; N]) -> (f32, [f32; N]);
}

/// A rule with its gradient negated first, for `maximize`.
#[derive(Clone, Copy)]
pub(super) struct Negated<R>(pub(super) R);

impl<R: Rule<N>, const N: usize> Rule<N> for Negated<R> {
    #[inline(always)]
    fn element(self, p: f32, g: f32, state: [f32; N]) -> (f32, [f32; N]) {
        self.0.element(p, -g, state)
    }
}
