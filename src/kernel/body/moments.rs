//! What Adam and its kin begin with: weight decay, then both moments.

use super::{COUPLED, DECOUPLED, Decay, Lerp, NONE, Squares, decayed};
use crate::kernel::{Rule, Sweep};

/// The scalars of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Moments {
    /// The first moment, by `1 - beta1`.
    pub(crate) first: Lerp,
    /// The second moment, by `beta2`.
    pub(crate) second: Squares,
    /// Weight decay, coupled or decoupled.
    pub(crate) decay: Decay,
}

/// What a rule makes of both moments once they have their new values; `STATE` planes begin with them.
pub(super) trait AfterMoments<const STATE: usize>: Copy {
    /// Takes the decayed parameter, the gradient and the state with new moments; returns the new parameter and state.
    fn element(self, p: f32, g: f32, state: [f32; STATE]) -> (f32, [f32; STATE]);
}

impl Moments {
    /// Sweeps with these moments and what follows them.
    pub(super) fn run<const STATE: usize>(
        self,
        sweep: Sweep<'_, '_>,
        after: impl AfterMoments<STATE>,
    ) -> u64 {
        match self.decay {
            Decay::None => self.run_decayed::<STATE, NONE>(sweep, after),
            Decay::Coupled(_) => self.run_decayed::<STATE, COUPLED>(sweep, after),
            Decay::Decoupled(_) => self.run_decayed::<STATE, DECOUPLED>(sweep, after),
        }
    }

    fn run_decayed<const STATE: usize, const DECAY: u8>(
        self,
        sweep: Sweep<'_, '_>,
        after: impl AfterMoments<STATE>,
    ) -> u64 {
        if self.first.is_heavy() {
            sweep.run(Body::<_, DECAY, true> { moments: self, after })
        } else {
            sweep.run(Body::<_, DECAY, false> { moments: self, after })
        }
    }
}

#[derive(Clone, Copy)]
struct Body<A, const DECAY: u8, const HEAVY: bool> {
    moments: Moments,
    after: A,
}

impl<A, const STATE: usize, const DECAY: u8, const HEAVY: bool> Rule<STATE> for Body<A, DECAY, HEAVY>
where
    A: AfterMoments<STATE>,
{
    #[inline(always)]
    fn element(self, p: f32, g: f32, mut state: [f32; STATE]) -> (f32, [f32; STATE]) {
        let (p, g) = decayed::<DECAY>(self.moments.decay, p, g);
        if let [m, v, ..] = &mut state[..] {
            *m = self.moments.first.at::<HEAVY>(*m, g);
            *v = self.moments.second.at(*v, g);
        }
        self.after.element(p, g, state)
    }
}
