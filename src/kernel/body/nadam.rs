//! NAdam.

use super::moments::{AfterMoments, Moments};
use crate::kernel::Sweep;

/// The scalars of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct NAdam {
    /// `-lr * (1 - mu) / (1 - mu_product)`.
    pub(crate) minus_rate_of_gradient: f32,
    /// `-lr * mu_next / (1 - mu_product * mu_next)`.
    pub(crate) minus_rate_of_moment: f32,
    /// Both moments, and weight decay.
    pub(crate) moments: Moments,
    /// `1 - beta2^t`, inside the root.
    pub(crate) correction: f32,
    /// `eps`, outside the root.
    pub(crate) eps: f32,
}

impl NAdam {
    pub(crate) fn run(self, sweep: Sweep<'_, '_>) -> u64 {
        self.moments.run(sweep, self)
    }
}

impl AfterMoments<2> for NAdam {
    #[inline(always)]
    fn element(self, p: f32, g: f32, [m, v]: [f32; 2]) -> (f32, [f32; 2]) {
        let root = (v / self.correction).sqrt() + self.eps;
        let p = p + (self.minus_rate_of_gradient * g) / root;
        (p + (self.minus_rate_of_moment * m) / root, [m, v])
    }
}
