//! Adamax.

use super::{Lerp, coupled, maximum};
use crate::kernel::{Rule, Sweep};

/// The scalars of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Adamax {
    /// `-lr / (1 - beta1^t)`.
    pub(crate) minus_rate: f32,
    /// The first moment, by `1 - beta1`.
    pub(crate) first: Lerp,
    /// `beta2`.
    pub(crate) beta2: f32,
    /// `eps`, inside the maximum.
    pub(crate) eps: f32,
    /// `weight_decay`, if there is one.
    pub(crate) weight_decay: Option<f32>,
}

impl Adamax {
    pub(crate) fn run(self, sweep: Sweep<'_, '_>) -> u64 {
        match self.weight_decay {
            None => self.run_decayed::<false>(sweep),
            Some(_) => self.run_decayed::<true>(sweep),
        }
    }

    fn run_decayed<const DECAY: bool>(self, sweep: Sweep<'_, '_>) -> u64 {
        if self.first.is_heavy() {
            sweep.run(Body::<DECAY, true>(self))
        } else {
            sweep.run(Body::<DECAY, false>(self))
        }
    }
}

#[derive(Clone, Copy)]
struct Body<const DECAY: bool, const HEAVY: bool>(Adamax);

impl<const DECAY: bool, const HEAVY: bool> Rule<2> for Body<DECAY, HEAVY> {
    #[inline(always)]
    fn element(self, p: f32, g: f32, [m, norm]: [f32; 2]) -> (f32, [f32; 2]) {
        let s = self.0;
        let g = coupled::<DECAY>(s.weight_decay, p, g);
        let m = s.first.at::<HEAVY>(m, g);
        let norm = maximum(norm * s.beta2, g.abs() + s.eps);
        (p + (s.minus_rate * m) / norm, [m, norm])
    }
}
