//! NAdam.

use super::{COUPLED, DECOUPLED, Decay, Lerp, NONE, Squares, decayed};
use crate::kernel::{Rule, Sweep};

/// The scalars of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct NAdam {
    /// `-lr * (1 - mu) / (1 - mu_product)`.
    pub(crate) minus_rate_of_gradient: f32,
    /// `-lr * mu_next / (1 - mu_product * mu_next)`.
    pub(crate) minus_rate_of_moment: f32,
    /// The first moment, by `1 - beta1`.
    pub(crate) first: Lerp,
    /// The second moment, by `beta2`.
    pub(crate) second: Squares,
    /// `1 - beta2^t`, inside the root.
    pub(crate) correction: f32,
    /// `eps`, outside the root.
    pub(crate) eps: f32,
    /// Weight decay.
    pub(crate) decay: Decay,
}

impl NAdam {
    pub(crate) fn run(self, sweep: Sweep<'_, '_>) {
        match self.decay {
            Decay::None => self.run_decayed::<NONE>(sweep),
            Decay::Coupled(_) => self.run_decayed::<COUPLED>(sweep),
            Decay::Decoupled(_) => self.run_decayed::<DECOUPLED>(sweep),
        }
    }

    fn run_decayed<const DECAY: u8>(self, sweep: Sweep<'_, '_>) {
        if self.first.is_heavy() {
            sweep.run(Body::<DECAY, true>(self));
        } else {
            sweep.run(Body::<DECAY, false>(self));
        }
    }
}

#[derive(Clone, Copy)]
struct Body<const DECAY: u8, const HEAVY: bool>(NAdam);

impl<const DECAY: u8, const HEAVY: bool> Rule<2> for Body<DECAY, HEAVY> {
    #[inline(always)]
    fn element(self, p: f32, g: f32, [m, v]: [f32; 2]) -> (f32, [f32; 2]) {
        let s = self.0;
        let (p, g) = decayed::<DECAY>(s.decay, p, g);
        let (m, v) = (s.first.at::<HEAVY>(m, g), s.second.at(v, g));
        let root = (v / s.correction).sqrt() + s.eps;
        let p = p + (s.minus_rate_of_gradient * g) / root;
        (p + (s.minus_rate_of_moment * m) / root, [m, v])
    }
}
