//! Lion.

use super::decoupled;
use crate::kernel::{Rule, Sweep};

/// The scalars of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Lion {
    /// `-lr`.
    pub(crate) minus_lr: f32,
    /// `beta1` and `1 - beta1`: what the direction takes of the moment and of the gradient.
    pub(crate) direction: (f32, f32),
    /// `beta2` and `1 - beta2`: what the next moment takes of the moment and of the gradient.
    pub(crate) moment: (f32, f32),
    /// `1 - lr * weight_decay`, if there is a decay.
    pub(crate) shrink: Option<f32>,
}

impl Lion {
    pub(crate) fn run(self, sweep: Sweep<'_, '_>) -> u64 {
        match self.shrink {
            None => sweep.run(Body::<false>(self)),
            Some(_) => sweep.run(Body::<true>(self)),
        }
    }
}

/// Returns 1, -1, or +0 for a zero of either sign; NaN stays NaN (`f32::signum` gives a zero a sign of one).
#[inline(always)]
fn sign(x: f32) -> f32 {
    if x > 0.0 {
        1.0
    } else if x < 0.0 {
        -1.0
    } else if x == 0.0 {
        0.0
    } else {
        x
    }
}

#[derive(Clone, Copy)]
struct Body<const DECAY: bool>(Lion);

impl<const DECAY: bool> Rule<1> for Body<DECAY> {
    #[inline(always)]
    fn element(self, p: f32, g: f32, [m]: [f32; 1]) -> (f32, [f32; 1]) {
        let s = self.0;
        let direction = sign(m * s.direction.0 + g * s.direction.1);
        let p = decoupled::<DECAY>(s.shrink, p);
        (p + s.minus_lr * direction, [m * s.moment.0 + g * s.moment.1])
    }
}
