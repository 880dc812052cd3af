//! Adam and AdamW, which differ by their weight decay.

use super::maximum;
use super::moments::{AfterMoments, Moments};
use crate::kernel::Sweep;

/// The scalars of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Adam {
    /// `-lr / (1 - beta1^t)`.
    pub(crate) minus_rate: f32,
    /// Both moments; weight decay is coupled in Adam, decoupled in AdamW.
    pub(crate) moments: Moments,
    /// `sqrt(1 - beta2^t)`.
    pub(crate) correction: f32,
    /// `eps`, outside the root.
    pub(crate) eps: f32,
    /// Whether the divisor takes the largest second moment so far.
    pub(crate) amsgrad: bool,
}

impl Adam {
    pub(crate) fn run(self, sweep: Sweep<'_, '_>) -> u64 {
        if self.amsgrad {
            self.moments.run(sweep, AmsGrad(self))
        } else {
            self.moments.run(sweep, Plain(self))
        }
    }

    /// Returns the move by a first moment over a second one, uncorrected.
    #[inline(always)]
    fn moved(self, m: f32, v: f32) -> f32 {
        let root = v.sqrt() / self.correction + self.eps;
        (self.minus_rate * m) / root
    }
}

#[derive(Clone, Copy)]
struct Plain(Adam);

impl AfterMoments<2> for Plain {
    #[inline(always)]
    fn element(self, p: f32, _: f32, [m, v]: [f32; 2]) -> (f32, [f32; 2]) {
        (p + self.0.moved(m, v), [m, v])
    }
}

#[derive(Clone, Copy)]
struct AmsGrad(Adam);

impl AfterMoments<3> for AmsGrad {
    #[inline(always)]
    fn element(self, p: f32, _: f32, [m, v, largest]: [f32; 3]) -> (f32, [f32; 3]) {
        let largest = maximum(largest, v);
        (p + self.0.moved(m, largest), [m, v, largest])
    }
}
