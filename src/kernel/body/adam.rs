//! Adam and AdamW, which differ by their weight decay.

use super::{COUPLED, DECOUPLED, Decay, Lerp, NONE, Squares, decayed, maximum};
use crate::kernel::{Rule, Sweep};

/// The scalars of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Adam {
    /// `-lr / (1 - beta1^t)`.
    pub(crate) minus_rate: f32,
    /// The first moment, by `1 - beta1`.
    pub(crate) first: Lerp,
    /// The second moment, by `beta2`.
    pub(crate) second: Squares,
    /// `sqrt(1 - beta2^t)`.
    pub(crate) correction: f32,
    /// `eps`, outside the root.
    pub(crate) eps: f32,
    /// Whether the divisor takes the largest second moment so far.
    pub(crate) amsgrad: bool,
    /// Weight decay, coupled (Adam) or decoupled (AdamW).
    pub(crate) decay: Decay,
}

impl Adam {
    pub(crate) fn run(self, sweep: Sweep<'_, '_>) {
        match self.decay {
            Decay::None => self.run_decayed::<NONE>(sweep),
            Decay::Coupled(_) => self.run_decayed::<COUPLED>(sweep),
            Decay::Decoupled(_) => self.run_decayed::<DECOUPLED>(sweep),
        }
    }

    fn run_decayed<const DECAY: u8>(self, sweep: Sweep<'_, '_>) {
        match (self.amsgrad, self.first.is_heavy()) {
            (false, false) => sweep.run(Plain::<DECAY, false>(self)),
            (false, true) => sweep.run(Plain::<DECAY, true>(self)),
            (true, false) => sweep.run(AmsGrad::<DECAY, false>(self)),
            (true, true) => sweep.run(AmsGrad::<DECAY, true>(self)),
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
struct Plain<const DECAY: u8, const HEAVY: bool>(Adam);

impl<const DECAY: u8, const HEAVY: bool> Rule<2> for Plain<DECAY, HEAVY> {
    #[inline(always)]
    fn element(self, p: f32, g: f32, [m, v]: [f32; 2]) -> (f32, [f32; 2]) {
        let s = self.0;
        let (p, g) = decayed::<DECAY>(s.decay, p, g);
        let (m, v) = (s.first.at::<HEAVY>(m, g), s.second.at(v, g));
        (p + s.moved(m, v), [m, v])
    }
}

#[derive(Clone, Copy)]
struct AmsGrad<const DECAY: u8, const HEAVY: bool>(Adam);

impl<const DECAY: u8, const HEAVY: bool> Rule<3> for AmsGrad<DECAY, HEAVY> {
    #[inline(always)]
    fn element(self, p: f32, g: f32, [m, v, largest]: [f32; 3]) -> (f32, [f32; 3]) {
        let s = self.0;
        let (p, g) = decayed::<DECAY>(s.decay, p, g);
        let (m, v) = (s.first.at::<HEAVY>(m, g), s.second.at(v, g));
        let largest = maximum(largest, v);
        (p + s.moved(m, largest), [m, v, largest])
    }
}
