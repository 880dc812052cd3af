//! RAdam.

use super::moments::{AfterMoments, Moments};
use crate::kernel::Sweep;

/// The scalars of the adaptive step, taken once the variance of the second moment is tractable.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rectified {
    /// `sqrt(1 - beta2^t)`.
    pub(crate) correction: f32,
    /// The rectification term.
    pub(crate) term: f32,
}

/// The scalars of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct RAdam {
    /// `lr`.
    pub(crate) lr: f32,
    /// `1 - beta1^t`.
    pub(crate) correction: f32,
    /// Both moments, and weight decay.
    pub(crate) moments: Moments,
    /// `eps`, outside the root.
    pub(crate) eps: f32,
    /// The adaptive step; without it the step is plain momentum.
    pub(crate) rectified: Option<Rectified>,
}

impl RAdam {
    pub(crate) fn run(self, sweep: Sweep<'_, '_>) -> u64 {
        match self.rectified {
            None => self.moments.run(sweep, Plain(self)),
            Some(rectified) => self.moments.run(sweep, Adaptive(self, rectified)),
        }
    }
}

#[derive(Clone, Copy)]
struct Plain(RAdam);

impl AfterMoments<2> for Plain {
    #[inline(always)]
    fn element(self, p: f32, _: f32, [m, v]: [f32; 2]) -> (f32, [f32; 2]) {
        (p - (m / self.0.correction) * self.0.lr, [m, v])
    }
}

#[derive(Clone, Copy)]
struct Adaptive(RAdam, Rectified);

impl AfterMoments<2> for Adaptive {
    #[inline(always)]
    fn element(self, p: f32, _: f32, [m, v]: [f32; 2]) -> (f32, [f32; 2]) {
        let Self(s, rectified) = self;
        let root = v.sqrt() + s.eps;
        let adapted = ((m / s.correction) * s.lr) * (rectified.correction / root);
        (p - adapted * rectified.term, [m, v])
    }
}
