//! SparseAdam.

use crate::kernel::{Rule, Sweep};

/// The scalars of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct SparseAdam {
    /// `-lr * sqrt(1 - beta2^t) / (1 - beta1^t)`.
    pub(crate) minus_rate: f32,
    /// `1 - beta1`.
    pub(crate) first: f32,
    /// `1 - beta2`.
    pub(crate) second: f32,
    /// `eps`, beside the uncorrected root.
    pub(crate) eps: f32,
}

impl SparseAdam {
    pub(crate) fn run(self, sweep: Sweep<'_, '_>) -> u64 {
        sweep.run(self)
    }
}

impl Rule<2> for SparseAdam {
    #[inline(always)]
    fn element(self, p: f32, g: f32, [m, v]: [f32; 2]) -> (f32, [f32; 2]) {
        let m = m + (g - m) * self.first;
        let v = v + (g * g - v) * self.second;
        let root = v.sqrt() + self.eps;
        (p + self.minus_rate * (m / root), [m, v])
    }
}
