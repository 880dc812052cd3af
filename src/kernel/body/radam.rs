//! RAdam.

use super::{COUPLED, DECOUPLED, Decay, Lerp, NONE, Squares, decayed};
use crate::kernel::{Rule, Sweep};

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
    /// The first moment, by `1 - beta1`.
    pub(crate) first: Lerp,
    /// The second moment, by `beta2`.
    pub(crate) second: Squares,
    /// `eps`, outside the root.
    pub(crate) eps: f32,
    /// The adaptive step; without it the step is plain momentum.
    pub(crate) rectified: Option<Rectified>,
    /// Weight decay.
    pub(crate) decay: Decay,
}

impl RAdam {
    pub(crate) fn run(self, sweep: Sweep<'_, '_>) {
        match self.decay {
            Decay::None => self.run_decayed::<NONE>(sweep),
            Decay::Coupled(_) => self.run_decayed::<COUPLED>(sweep),
            Decay::Decoupled(_) => self.run_decayed::<DECOUPLED>(sweep),
        }
    }

    fn run_decayed<const DECAY: u8>(self, sweep: Sweep<'_, '_>) {
        match (self.rectified, self.first.is_heavy()) {
            (None, false) => sweep.run(Plain::<DECAY, false>(self)),
            (None, true) => sweep.run(Plain::<DECAY, true>(self)),
            (Some(rectified), false) => sweep.run(Adaptive::<DECAY, false>(self, rectified)),
            (Some(rectified), true) => sweep.run(Adaptive::<DECAY, true>(self, rectified)),
        }
    }
}

#[derive(Clone, Copy)]
struct Plain<const DECAY: u8, const HEAVY: bool>(RAdam);

impl<const DECAY: u8, const HEAVY: bool> Rule<2> for Plain<DECAY, HEAVY> {
    #[inline(always)]
    fn element(self, p: f32, g: f32, [m, v]: [f32; 2]) -> (f32, [f32; 2]) {
        let s = self.0;
        let (p, g) = decayed::<DECAY>(s.decay, p, g);
        let (m, v) = (s.first.at::<HEAVY>(m, g), s.second.at(v, g));
        (p - (m / s.correction) * s.lr, [m, v])
    }
}

#[derive(Clone, Copy)]
struct Adaptive<const DECAY: u8, const HEAVY: bool>(RAdam, Rectified);

impl<const DECAY: u8, const HEAVY: bool> Rule<2> for Adaptive<DECAY, HEAVY> {
    #[inline(always)]
    fn element(self, p: f32, g: f32, [m, v]: [f32; 2]) -> (f32, [f32; 2]) {
        let Self(s, rectified) = self;
        let (p, g) = decayed::<DECAY>(s.decay, p, g);
        let (m, v) = (s.first.at::<HEAVY>(m, g), s.second.at(v, g));
        let root = v.sqrt() + s.eps;
        let adapted = ((m / s.correction) * s.lr) * (rectified.correction / root);
        (p - adapted * rectified.term, [m, v])
    }
}
